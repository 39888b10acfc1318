"""Processes killed at every named place of the embedded broker, and the uuids counted afterwards.

Four processes work on one file, one after the other: `fill` publishes and ends; `hold` takes messages and is killed
holding them; `work` publishes, takes and acks until the failpoint kills it in the middle of it; `drain` takes all that
is left. What must be true of their ledgers is the promise: at least once, nothing vanished, and twice only what was
in flight at a kill.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from dispatcher.brokers.sqlite.failpoints import FAILPOINTS

CHILD = Path(__file__).with_name("failpoint_child.py")
PREFETCH = 10  # that of failpoint_child.py
DEADLINE_SECONDS = 30.0


class Line(NamedTuple):
    event: str
    uuid: str
    redelivered: bool


class Place:
    """The folder of one test: the broker's file and the ledgers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "broker.db"

    def command(self, role: str) -> list[str]:
        return [sys.executable, str(CHILD), role, f"sqlite:///{self.file}", str(self.folder / f"{role}.ledger")]

    def run(self, role: str, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "DISPATCHER_FAILPOINT"}
        if failpoint is not None:
            environment["DISPATCHER_FAILPOINT"] = f"{failpoint}:kill"
        return subprocess.run(
            self.command(role),
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def run_and_kill_holding(self) -> None:
        with subprocess.Popen(self.command("hold"), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            process.kill()
        assert said == "holding\n"

    def ledger(self, role: str) -> list[Line]:
        lines = (
            (self.folder / f"{role}.ledger").read_text().split("\n")[:-1]
        )  # a line cut short by the kill was not done
        return [Line(event, uuid, redelivered == "1") for event, uuid, redelivered in map(str.split, lines)]


def uuids(lines: list[Line], event: str) -> list[str]:
    return [line.uuid for line in lines if line.event == event]


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_kill_at_a_failpoint_loses_nothing(failpoint: str, tmp_path: Path) -> None:
    """Whatever place a process dies at: every accepted message is executed, twice only what was in flight."""
    place = Place(tmp_path)
    filled = place.run("fill")
    assert filled.returncode == 0, filled.stderr
    place.run_and_kill_holding()
    worked = place.run("work", failpoint)
    assert worked.returncode == -signal.SIGKILL, f"{failpoint} was never reached: {worked.returncode} {worked.stderr}"
    drained = place.run("drain")
    assert drained.returncode == 0, drained.stderr

    check([place.ledger(role) for role in ("fill", "hold", "work", "drain")])
    with_library = sqlite3.connect(place.file)
    try:
        assert with_library.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        with_library.close()


def check(ledgers: list[list[Line]]) -> None:
    """Hold the ledgers, in the order of their processes, to the promise."""
    everything = [line for ledger in ledgers for line in ledger]
    attempted, accepted = set(uuids(everything, "publishing")), set(uuids(everything, "published"))
    deliveries, acked = Counter(uuids(everything, "delivered")), set(uuids(everything, "acked"))

    assert not accepted - acked, "accepted, and vanished"
    assert not set(deliveries) - attempted, "delivered, and never published"
    for ledger in ledgers:
        assert max(Counter(uuids(ledger, "delivered")).values(), default=0) <= 1, "delivered twice to one session"

    twice = {uuid for uuid, times in deliveries.items() if times > 1}
    held_by_killed = [set(uuids(ledger, "delivered")) for ledger in ledgers[1:3]]
    assert twice <= held_by_killed[0] | held_by_killed[1], "delivered twice, and no holder of it was killed"
    # What a process acked may not have been committed when it died; it counts against the prefetch until it is.
    assert len(twice) <= 2 * PREFETCH, "more was delivered twice than can have been in flight"

    seen: set[str] = set()
    for line in everything:
        if line.event == "delivered":
            assert line.redelivered or line.uuid not in seen, "delivered again, and not marked as redelivered"
            seen.add(line.uuid)


def _ledgers(*texts: str) -> list[list[Line]]:
    """Ledgers from text such as `publishing:a published:a delivered:a! acked:a`, where `!` is the redelivered flag."""
    return [
        [
            Line(event, uuid.rstrip("!"), uuid.endswith("!"))
            for event, uuid in (word.split(":") for word in text.split())
        ]
        for text in texts
    ]


SENT = "publishing:a publishing:b published:a"


@pytest.mark.parametrize(
    ("hold", "drain", "complaint"),
    [
        ("", "delivered:a acked:a", None),
        ("delivered:a", "delivered:a! acked:a", None),
        ("", "delivered:a acked:a delivered:b acked:b", None),
        ("", "delivered:b acked:b", "vanished"),
        ("delivered:a", "", "vanished"),
        ("", "delivered:a acked:a delivered:c acked:c", "never published"),
        ("", "delivered:a delivered:a! acked:a", "twice to one session"),
        ("delivered:a", "delivered:a acked:a", "not marked"),
    ],
)
def test_the_checker_finds_what_is_wrong(hold: str, drain: str, complaint: str | None) -> None:
    """A check that cannot fail proves nothing: each kind of fault is found in a ledger that has it."""
    ledgers = _ledgers(SENT, hold, "", drain)
    if complaint is None:
        check(ledgers)
    else:
        with pytest.raises(AssertionError, match=complaint):
            check(ledgers)
