"""The guard of `make guard`: what it says of costs, and that it finds what makes a task dearer."""

from __future__ import annotations

import json
import uuid

import pytest
from benchmarks.guard.__main__ import FILE, Least
from benchmarks.guard.paths import Path
from benchmarks.guard.verdict import WORSE, Baselines, judge

BASELINES: Baselines = {"3.11": {"memory, coroutine, drain": 2.0, "rabbitmq, coroutine, drain": 3.0}}


def test_what_is_within_the_bound_passes() -> None:
    """A path may cost up to a quarter more; how much more is said."""
    costs = {"memory, coroutine, drain": 2.0 * WORSE, "rabbitmq, coroutine, drain": 1.5}
    verdict = judge(costs, BASELINES, "3.11")
    assert not verdict.failed
    assert verdict.lines == [
        "memory, coroutine, drain: 2.50, baseline 2.00, +25%",
        "rabbitmq, coroutine, drain: 1.50, baseline 3.00, -50%",
    ]


def test_what_is_beyond_it_fails_and_says_which_by_how_much_and_what_to_do() -> None:
    """One path is enough, and only it is blamed."""
    costs = {"memory, coroutine, drain": 2.6, "rabbitmq, coroutine, drain": 3.0}
    verdict = judge(costs, BASELINES, "3.11")
    assert verdict.failed
    assert "memory, coroutine, drain by 30%." in verdict.lines[-1]
    assert "rabbitmq" not in verdict.lines[-1]
    assert "python -m benchmarks.guard --write" in verdict.lines[-1]


def test_another_interpreter_has_no_baseline_and_does_not_fail() -> None:
    """It is said which there are, and how to record one."""
    verdict = judge({"memory, coroutine, drain": 99.0}, BASELINES, "3.14")
    assert not verdict.failed
    assert verdict.lines[0] == "memory, coroutine, drain: 99.00"
    assert "no baseline for Python 3.14 (there are: 3.11)" in verdict.lines[-1]
    assert "--write" in verdict.lines[-1]
    assert "there are: none" in judge({}, {}, "3.14").lines[-1]


def test_paths_that_are_new_or_cannot_be_measured_are_named() -> None:
    """Neither fails: a broker that is not here is the machine's, a new path is recorded with the change that brings it."""
    verdict = judge({"memory, coroutine, drain": 2.0, "new": 1.0}, BASELINES, "3.11")
    assert not verdict.failed
    assert verdict.lines[1] == "new: 1.00, no baseline; record it: python -m benchmarks.guard --write"
    assert verdict.lines[2] == "rabbitmq, coroutine, drain: not measured, its broker is not here"


def test_the_recorded_baseline_can_be_read() -> None:
    """Every path of it was measured both ways, and costs something."""
    baselines = json.loads(FILE.read_bytes())
    assert baselines
    for costs in baselines.values():
        assert len(costs) >= 8
        assert all(cost > 0 for cost in costs.values())


def test_a_planted_slowdown_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that makes a few uuids and reads its body once more, in a loop, fails the guard against the same task without."""
    paths = {"memory, coroutine": Path("memory://", "coroutine", "guard")}
    before = Least()
    before.measure(paths, 3)
    plain = Path._tick

    def slower(self: Path) -> None:
        for _ in range(20):
            json.loads(json.dumps({"uuid": str(uuid.uuid4()), "args": [{"type": "int", "value": 1}]}))
        plain(self)

    monkeypatch.setattr(Path, "_tick", slower)
    after = Least()
    after.measure(paths, 3)
    verdict = judge(after.costs, {"3.11": before.costs}, "3.11")
    assert verdict.failed
    assert "memory, coroutine, drain by" in verdict.lines[-1]
