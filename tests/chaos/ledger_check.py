"""Holding the ledgers of a chaos run to the promise. Pure: no files, no processes, no clock.

The words are those of Jepsen's `total-queue` checker:

    lost          accepted, and neither executed nor parked nor waiting: must be none
    unexpected    executed or parked, though nobody published it, or though its publish was refused: must be none
    recovered     its publish never returned (the publisher was killed), and it was executed or parked all the same
    duplicated    came to an end (executed, parked or waiting) more than once; how often beyond the first

A duplicate is explained by a kill that met a holder of the task. Each kill hands a held message out once more, so
with `c` such kills a task may start at most `1 + c` times in each attempt, and come to at most `1 + c` ends. A publish
that was in flight when its connection was lost is sent once more, and may be there twice: that counts like a kill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Event", "History", "Kill", "Parked", "Verdict", "judge"]

SHOWN = 5


class Event(NamedTuple):
    """What a task's function noted: that it starts, that it ends so or so, or that its arguments are another's."""

    what: Literal["start", "ok", "raised", "mixed_up"]
    uuid: str
    attempt: int
    redelivered: bool
    pid: int
    at: float


class Kill(NamedTuple):
    """A process that was killed at `at`; `in_flight` are the uuids that it held then, one entry for each message."""

    role: str
    pid: int
    at: float
    in_flight: tuple[str, ...]


class Parked(NamedTuple):
    """A dead letter."""

    uuid: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class History:
    """All that is known of a run.

    `attempted`, `accepted`, `refused`: uuids whose publish began, returned, and raised that it was not accepted.
    `waiting`: what is left in the queues. `doomed`: uuids of tasks that are to end as dead letters. `resent`: uuids of
    which there may be one message more than was published, one entry for each.
    """

    attempted: frozenset[str]
    accepted: frozenset[str]
    refused: frozenset[str] = frozenset()
    events: tuple[Event, ...] = ()
    parked: tuple[Parked, ...] = ()
    waiting: tuple[str, ...] = ()
    kills: tuple[Kill, ...] = ()
    doomed: frozenset[str] = frozenset()
    resent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the ledgers say. `duplicated` and `in_flight` are totals, the rest are uuids.

    `in_flight`: what the killed held, and what may have been sent twice.

    `unexplained`: started or ended more often than the kills allow. `unmarked`: delivered again without the
    redelivered flag. `misjudged`: parked, and should not be, or the other way round. `mixed_up`: ran with another's
    arguments.
    """

    lost: frozenset[str]
    unexpected: frozenset[str]
    recovered: frozenset[str]
    unexplained: frozenset[str]
    unmarked: frozenset[str]
    misjudged: frozenset[str]
    mixed_up: frozenset[str]
    duplicated: int
    in_flight: int

    def complaints(self) -> list[str]:
        """One sentence for each way in which the promise was broken; empty if it was kept."""
        found = [
            _complaint("lost", "accepted, and neither executed nor parked nor waiting", self.lost),
            _complaint("unexpected", "executed or parked, and never published", self.unexpected),
            _complaint("unexplained", "twice, though no holder of it was killed", self.unexplained),
            _complaint("unmarked", "delivered again, and not marked as redelivered", self.unmarked),
            _complaint("misjudged", "parked instead of executed, or executed instead of parked", self.misjudged),
            _complaint("mixed_up", "ran with the arguments of another task", self.mixed_up),
        ]
        if self.duplicated > self.in_flight:
            found.append(f"duplicated: {self.duplicated}, more than the {self.in_flight} in flight at the kills")
        return [complaint for complaint in found if complaint]


def _complaint(word: str, meaning: str, uuids: frozenset[str]) -> str:
    if not uuids:
        return ""
    shown = ", ".join(sorted(uuids)[:SHOWN])
    return f"{word}: {len(uuids)} tasks ({meaning}): {shown}{', …' if len(uuids) > SHOWN else ''}"


def judge(history: History) -> Verdict:
    """Compare what was promised with what became of it."""
    executed = Counter(event.uuid for event in history.events if event.what == "ok")
    parked = Counter(letter.uuid for letter in history.parked)
    ends = executed + parked + Counter(history.waiting)
    resent = Counter(history.resent)
    held = Counter(uuid for kill in history.kills for uuid in kill.in_flight) + resent
    starts = Counter((event.uuid, event.attempt) for event in history.events if event.what == "start")
    seen = {event.uuid for event in history.events} | set(parked) | set(history.waiting)
    unknown = history.attempted - history.accepted - history.refused
    return Verdict(
        lost=history.accepted - set(ends),
        unexpected=frozenset(seen - (history.attempted - history.refused)),
        recovered=unknown & (set(executed) | set(parked)),
        unexplained=frozenset(uuid for uuid, times in ends.items() if times > 1 + held[uuid])
        | frozenset(uuid for (uuid, _), times in starts.items() if times > 1 + held[uuid]),
        unmarked=_unmarked(history.events, starts, resent),
        misjudged=frozenset((set(parked) - history.doomed) | (set(executed) & history.doomed)),
        mixed_up=frozenset(event.uuid for event in history.events if event.what == "mixed_up"),
        duplicated=sum(ends.values()) - len(ends),
        in_flight=held.total(),
    )


def _unmarked(events: Iterable[Event], starts: Counter[tuple[str, int]], resent: Counter[str]) -> frozenset[str]:
    """Uuids with more runs that claim to be a message's first than there can have been messages.

    One message was published, or sent once more; each start of an attempt makes at most one copy with the next.
    """
    first = Counter((event.uuid, event.attempt) for event in events if event.what == "start" and not event.redelivered)
    return frozenset(
        uuid
        for (uuid, attempt), times in first.items()
        if times > (1 if attempt == 1 else starts[uuid, attempt - 1]) + resent[uuid]
    )
