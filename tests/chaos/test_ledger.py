"""Thousands of tasks, workers and publishers that are killed all the while, and afterwards every uuid accounted for.

The promise: a publish that returned is executed or parked; twice at most what was in flight at a kill. The checker and
the rig are tried on faults planted on purpose: a run of them that stays silent proves nothing.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from ledger_check import History, Verdict, judge
from ledger_rig import Plan, Stage
from ledger_sqlite import SqliteGround

QUEUES = 3  # those of ledger_app.py: a worker holds up to its limit from each


async def play(folder: Path, plan: Plan) -> tuple[Stage, SqliteGround, History, Verdict]:
    """Run `plan` in `folder` and say how it went, on one line."""
    seed = int(os.environ.get("LEDGER_SEED") or random.SystemRandom().randrange(2**32))
    ground = SqliteGround(folder)
    stage = Stage(ground, folder, plan, seed)
    print(f"ledger: LEDGER_SEED={seed} {plan}")
    began = time.monotonic()
    history = await stage.run()
    seconds = time.monotonic() - began
    verdict = judge(history)
    print(
        f"ledger: {len(history.attempted)} tasks, {len(history.accepted)} accepted, {len(history.parked)} parked,"
        f" {len(history.kills)} {plan.how}s, {stage.pauses} pauses, lost {len(verdict.lost)},"
        f" recovered {len(verdict.recovered)}, duplicated {verdict.duplicated},"
        f" in flight at kills {verdict.in_flight}, {seconds:.1f} s"
    )
    return stage, ground, history, verdict


def check_kept(stage: Stage, ground: SqliteGround, history: History, verdict: Verdict) -> None:
    """The promise was kept, nothing is left over, nobody complained, and the file is sound."""
    assert verdict.complaints() == []
    assert history.waiting == ()
    assert len(history.attempted) == stage.plan.tasks
    assert history.refused == frozenset()
    reasons = {(letter.uuid.partition(".")[0], letter.reason) for letter in history.parked}
    assert reasons <= {("doomed", "failed"), ("rejected", "rejected")}
    assert max((len(kill.in_flight) for kill in history.kills), default=0) <= QUEUES * stage.plan.limit
    for table in ("held", "sessions", "consumers"):
        assert ground.read(f"SELECT count(*) FROM {table}") == [(0,)], f"left over in {table}"
    assert ground.read("PRAGMA integrity_check") == [("ok",)]
    left = {path.name for path in ground.companion.iterdir()}
    assert not {name for name in left if name.endswith((".lock", ".fifo"))} - {"write.lock"}
    said = {actor.role: actor.said() for actor in stage.workers + stage.publishers}
    assert not any(said.values()), said


@pytest.mark.timeout(300)
async def test_twenty_thousand_tasks_under_kill_9_lose_nothing(tmp_path: Path) -> None:
    """One of six processes is killed every second, some are stopped for seconds: all that was accepted is accounted for."""
    stage, ground, history, verdict = await play(tmp_path, Plan(tasks=20_000, pause_one_in=5))
    check_kept(stage, ground, history, verdict)
    assert {kill.role.partition("-")[0] for kill in history.kills} == {"worker", "publisher"}
    assert verdict.in_flight > 0, "no kill met a task in flight: this run has shown nothing"


@pytest.mark.timeout(300)
async def test_process_tasks_under_kill_9_lose_nothing(tmp_path: Path) -> None:
    """Tasks that run in children of a killed worker are run again by another, and nothing else happens to them."""
    plan = Plan(tasks=1_000, kind="process", workers=2, publishers=1, limit=2, period_seconds=2.0)
    stage, ground, history, verdict = await play(tmp_path, plan)
    check_kept(stage, ground, history, verdict)
    assert verdict.in_flight > 0, "no kill met a task in flight: this run has shown nothing"


@pytest.mark.timeout(300)
async def test_graceful_restarts_every_second_repeat_nothing(tmp_path: Path) -> None:
    """A worker that is told to end finishes what runs and hands back the rest: no task runs twice for it."""
    stage, ground, history, verdict = await play(tmp_path, Plan(tasks=10_000, how="term"))
    check_kept(stage, ground, history, verdict)
    assert history.kills, "nobody was told to end: this run has shown nothing"
    assert verdict.duplicated == 0 and verdict.in_flight == 0
    assert verdict.recovered == frozenset()


@pytest.mark.timeout(300)
async def test_processes_taken_for_dead_lose_nothing_when_they_go_on(tmp_path: Path) -> None:
    """A process that was stopped until others had its messages settles none of them, and works on in a new session."""
    plan = Plan(tasks=10_000, how="suspend", period_seconds=1.0, pause_seconds=5.0, fault="short_lease")
    stage, ground, history, verdict = await play(tmp_path, plan)
    check_kept(stage, ground, history, verdict)
    assert verdict.in_flight > 0, "nobody was stopped with a task in flight: this run has shown nothing"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("ack_before_run", "lost"),
        ("ack_before_copy", "lost"),
        ("confirm_before_commit", "lost"),
        ("publish_twice", "unexplained"),
        ("forget_redelivered", "unmarked"),
    ],
)
async def test_a_planted_fault_is_found(fault: str, complaint: str, tmp_path: Path) -> None:
    """The same run with a worker or broker that breaks the promise: the checker must say so."""
    _, _, _, verdict = await play(tmp_path, Plan(tasks=3_000, period_seconds=0.3, fault=fault))
    assert complaint in [sentence.partition(":")[0] for sentence in verdict.complaints()]
