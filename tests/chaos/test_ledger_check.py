"""The ledgers' checker, tried on small histories: it is silent about what is right and finds every kind of fault."""

from __future__ import annotations

from typing import Any

import pytest
from ledger_check import Event, History, Kill, Parked, judge


def history(runs: str = "", *, kills: tuple[str, ...] = (), **fields: Any) -> History:
    """A history in which `a` and `b` were published and `b`'s publisher was killed before it knew.

    `runs`: words such as `a1` (uuid, attempt) for a start, with `!` where it was flagged as redelivered, then `+` for a
    return or `-` for a failure; nothing where the run never ended. `kills`: for each the uuids that were held.
    """
    events = []
    for word in runs.split():
        redelivered = "!" in word
        key = (word[0], int(word[1]), redelivered, 1, 0.0)
        events.append(Event("start", *key))
        if word[-1] in "+-":
            events.append(Event("ok" if word[-1] == "+" else "raised", *key))
    given: dict[str, Any] = {
        "attempted": frozenset("ab"),
        "accepted": frozenset("a"),
        "events": tuple(events),
        "kills": tuple(Kill("worker", 1, 0.0, tuple(uuids)) for uuids in kills),
    }
    return History(**(given | fields))


@pytest.mark.parametrize(
    ("given", "recovered", "duplicated"),
    [
        (history("a1+"), "", 0),
        (history("a1+ b1+"), "b", 0),
        (history("a1- a2+"), "", 0),
        (history("a1 a1!+", kills=("a",)), "", 0),
        (history("a1+ a1!+", kills=("a",)), "", 1),
        (history("a1+ a1!+ a1!+", kills=("ab", "a")), "", 2),
        # Killed between the copy and the ack: the first attempt comes again, and so does every later one.
        (history("a1- a2+ a1!- a2+", kills=("a",)), "", 1),
        # Claimed by the one that was killed and not yet started: flagged, and no duplicate.
        (history("a1!+", kills=("a",)), "", 0),
        (history("a1-", parked=(Parked("a", "failed"),), doomed=frozenset("a")), "", 0),
        (history("a1-", parked=(Parked("a", "failed"),) * 2, doomed=frozenset("a"), kills=("a",)), "", 1),
        (history(waiting=("a", "b")), "", 0),
        (history("a1+", accepted=frozenset("a"), refused=frozenset("b")), "", 0),
    ],
)
def test_what_the_promise_allows_is_no_complaint(given: History, recovered: str, duplicated: int) -> None:
    """At least once, twice only what was held at a kill: that much is promised, and no more is asked for."""
    verdict = judge(given)
    assert verdict.complaints() == []
    assert verdict.recovered == frozenset(recovered)
    assert verdict.duplicated == duplicated


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (history(), "lost"),
        (history("b1+"), "lost"),
        (history("a1"), "lost"),
        (history("a1-"), "lost"),
        (history("a1 ", kills=("a",)), "lost"),
        (history("a1+ c1+"), "unexpected"),
        (history("a1+", parked=(Parked("c", "failed"),), doomed=frozenset("c")), "unexpected"),
        (history("a1+ b1+", refused=frozenset("b")), "unexpected"),
        (history("a1+ a1!+"), "unexplained"),
        (history("a1 a1!+"), "unexplained"),
        (history("a1+ a1!+", kills=("b",)), "unexplained"),
        (history("a1+ a1!+ a1!+", kills=("a",)), "unexplained"),
        (history("a1- a2+ a2!+", kills=("b",)), "unexplained"),
        (history("a1+", waiting=("a",)), "unexplained"),
        (history(parked=(Parked("a", "failed"),) * 2, doomed=frozenset("a")), "unexplained"),
        (history("a1+ a1+", kills=("a",)), "unmarked"),
        (history("a1- a2+ a2+", kills=("a",)), "unmarked"),
        (history("a2+"), "unmarked"),
        (history("a1-", parked=(Parked("a", "failed"),)), "misjudged"),
        (history("a1+", doomed=frozenset("a")), "misjudged"),
        (history(events=(Event("mixed_up", "a", 1, False, 1, 0.0),), waiting=("a",)), "mixed_up"),
        (history("a1+ a1!+ b1+ b1!+", kills=("a",)), "duplicated"),
    ],
)
def test_every_kind_of_fault_is_found(given: History, complaint: str) -> None:
    """A check that cannot fail proves nothing: each way to break the promise has its complaint."""
    assert complaint in [sentence.partition(":")[0] for sentence in judge(given).complaints()]


def test_a_complaint_names_some_of_the_tasks_and_counts_all() -> None:
    """Of thousands of lost tasks a few are named, so that the message can be read."""
    uuids = frozenset(f"task-{number:02d}" for number in range(20))
    (complaint,) = judge(History(attempted=uuids, accepted=uuids)).complaints()
    assert "20 tasks" in complaint and "task-04, …" in complaint and "task-05" not in complaint
