"""What explains a duplicate where the broker does not tell who held what: the notes of every process. Pure.

Each delivery that a process takes is noted with its session, and each session's end. A second taking of a message is
explained by the end of the session that took it before, if what ended that session (a cut, a kill) came before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ledger_check import Event, Kill

__all__ = ["Fault", "Note", "Sent", "handed_out_again", "losses", "recoveries", "sent_again"]


class Note(NamedTuple):
    """What a process noted of its sessions: `taken` (uuid, attempt, whether redelivered), `consuming` (queue), `lost`
    (why)."""

    what: str
    pid: int
    session: int
    at: float
    which: str
    attempt: int
    text: str


class Fault(NamedTuple):
    """What was done to all processes at once, and when it was over."""

    what: str
    began: float
    healed: float


class Sent(NamedTuple):
    """A publish: by which process, and when it began and returned; infinity where it never did."""

    uuid: str
    pid: int
    began: float
    returned: float


def losses(notes: Iterable[Note]) -> list[Note]:
    return [note for note in notes if note.what == "lost"]


def handed_out_again(notes: Sequence[Note], faults: Sequence[Fault], kills: Sequence[Kill]) -> tuple[Kill, ...]:
    """`kills` and every loss of a session, each with the messages that were handed out again because of it."""
    began: dict[tuple[int, int], float] = {}
    for lost in losses(notes):
        causes = [fault.began for fault in faults if fault.began <= lost.at]
        if causes:
            began[lost.pid, lost.session] = max(causes)
    last = {note.pid: max(note.session, 0) for note in sorted(notes, key=lambda note: note.at)}
    killed = {(kill.pid, last.get(kill.pid, 0)): kill for kill in kills}
    for session, kill in killed.items():
        began.setdefault(session, kill.at)
    again: dict[tuple[int, int], list[str]] = {session: [] for session in began}
    takings: dict[tuple[str, int], list[Note]] = defaultdict(list)
    for note in notes:
        if note.what == "taken":
            takings[note.which, note.attempt].append(note)
    for (uuid, _), taken in takings.items():
        for session in _given_up(sorted(taken, key=lambda note: note.at), began):
            again[session].append(uuid)
    return tuple(
        Kill(killed[session].role if session in killed else "session", session[0], began[session], tuple(uuids))
        for session, uuids in again.items()
    )


def _given_up(taken: Sequence[Note], began: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """The sessions whose ends explain why messages among these takings of a uuid were redelivered; each explains one."""
    held: list[tuple[int, int]] = []
    explained: list[tuple[int, int]] = []
    for note in taken:
        again = note.text == "redelivered"  # else it is another message: its publish was sent again
        ended = [session for session in held if again and began.get(session, float("inf")) <= note.at]
        if ended:
            held.remove(ended[0])
            explained.append(ended[0])
        held.append((note.pid, note.session))
    return explained


def sent_again(
    sent: Iterable[Sent], notes: Sequence[Note], faults: Iterable[Fault], events: Iterable[Event]
) -> tuple[str, ...]:
    """Uuids that may be in the broker once more than they were published, one entry for each time.

    A publish is sent again when its session was lost before the answer. A broker that is killed while a message goes
    from one of its queues to the next, at-least-once, has it in both.
    """
    lost: dict[int, list[float]] = defaultdict(list)
    for note in losses(notes):
        lost[note.pid].append(note.at)
    again = [each.uuid for each in sent for at in lost[each.pid] if each.began <= at <= each.returned]
    raised: list[tuple[str, int, float]] = []
    last_began: dict[tuple[str, int], float] = {}  # of several of one uuid, each of which made its copy
    for event in events:
        if event.what == "raised":
            raised.append((event.uuid, event.attempt, event.at))
        elif event.what == "start":
            of_all = event.uuid, event.attempt
            last_began[of_all] = max(event.at, last_began.get(of_all, event.at))
    for fault in faults:
        if fault.what == "broker_kill":
            again += [
                uuid
                for uuid, attempt, at in raised
                if at <= fault.healed and last_began.get((uuid, attempt + 1), float("-inf")) >= fault.began
            ]
    return tuple(again)


def recoveries(notes: Sequence[Note], faults: Sequence[Fault], working: Mapping[int, int]) -> list[float | None]:
    """For each fault: how many seconds after its end all consumers were back; None if the next fault was faster.

    `working`: the workers' pids, each with the number of queues that it consumes.
    """
    back: dict[int, list[Note]] = defaultdict(list)
    for note in notes:
        if note.what == "consuming":
            back[note.pid].append(note)
    lost = [note for note in losses(notes) if note.pid in working]
    ends = [*(fault.began for fault in faults), float("inf")][1:]
    found: list[float | None] = []
    for fault, until in zip(faults, ends, strict=True):
        worst: float | None = 0.0
        for loss in lost:
            if worst is None or not fault.began <= loss.at < until:
                continue
            queues = {note.which: note.at for note in back[loss.pid] if loss.at < note.at < until}
            seconds = max(queues.values(), default=0.0) - max(fault.healed, loss.at)
            worst = None if len(queues) < working[loss.pid] else max(worst, seconds)
        found.append(worst)
    return found
