"""The ledger on RabbitMQ: links cut every second, a broker killed with `kill -9`, workers killed: every uuid accounted for.

The promise: a publish that returned is executed or parked; twice at most what a lost session held or was publishing. The
full size is `LEDGER_TASKS=100000`. The harness is tried on faults planted on purpose: a run of them that stays silent
proves nothing.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from ledger_app import MAX_BACKOFF_SECONDS
from ledger_app import app as ledger_app
from ledger_check import History, Verdict, judge
from ledger_explain import Note, handed_out_again, losses, recoveries, sent_again
from ledger_rabbitmq import RabbitGround, read_notes, read_sent
from ledger_rig import Plan, Stage
from rabbitmq_node import PrivateNode
from tcp_proxy import TcpProxy

TASKS = int(os.environ.get("LEDGER_TASKS", "10000"))
QUEUES = len(ledger_app.queues)
"""A worker holds up to its limit from each."""

A_CUT = re.compile(r"reset the connection|closed the connection|no second connection|connection refused")
"""How a session may end in these runs. An error of the protocol, as a stale ack brings it, is no such end."""

PROTOCOL_ERROR = re.compile(r"operation basic\.\w+ caused (?!.* is down or inaccessible).*")
"""What RabbitMQ logs of a client that acked what it may not, or published what cannot be; not of its own being down."""


class Played(NamedTuple):
    """A run and what it says."""

    stage: Stage
    ground: RabbitGround
    history: History
    verdict: Verdict
    lost: list[Note]
    recovered_after: list[float | None]

    @property
    def unprovoked(self) -> list[str]:
        """Why sessions ended that nobody had cut. A node that comes up after its kill may fail inside, and say so (541)."""
        was_killed = any(fault.what == "broker_kill" for fault in self.ground.faults)
        ours = [A_CUT, re.compile("INTERNAL_ERROR")] if was_killed else [A_CUT]
        return [note.text for note in self.lost if not any(one.search(note.text) for one in ours)]


async def play(ground: RabbitGround, folder: Path, plan: Plan) -> Played:
    """Run `plan` in `folder` and say how it went, on one line."""
    seed = int(os.environ.get("LEDGER_SEED") or random.SystemRandom().randrange(2**32))
    stage = Stage(ground, folder, plan, seed)
    print(f"ledger: LEDGER_SEED={seed} {plan}")
    began = time.monotonic()
    history = await stage.run()
    seconds = time.monotonic() - began
    notes = read_notes(folder)
    kills = handed_out_again(notes, ground.faults, history.kills)
    resent = sent_again(read_sent(folder), notes, ground.faults, history.events)
    history = replace(history, kills=kills, resent=resent)
    verdict = judge(history)
    working: Counter[int] = Counter()
    for pid, _ in {(note.pid, note.which) for note in notes if note.what == "consuming"}:
        working[pid] += 1
    played = Played(stage, ground, history, verdict, losses(notes), recoveries(notes, ground.faults, working))
    print(_line(played, seconds))
    return played


def _line(played: Played, seconds: float) -> str:
    history, verdict = played.history, played.verdict
    done = Counter(fault.what for fault in played.ground.faults)
    kills = sum(1 for kill in history.kills if kill.role != "session")
    again = sum(len(kill.in_flight) for kill in history.kills)
    back = [after for after in played.recovered_after if after is not None]
    after_kills = [
        f"{after:.1f}"
        for fault, after in zip(played.ground.faults, played.recovered_after, strict=True)
        if fault.what == "broker_kill" and after is not None
    ]
    return (
        f"ledger: {len(history.attempted)} tasks, {len(history.accepted)} accepted, {len(history.parked)} parked,"
        f" {done['cut']} cuts, {done['broker_kill']} broker kills, {kills} process kills, {len(played.lost)} sessions"
        f" lost, lost {len(verdict.lost)}, recovered {len(verdict.recovered)}, handed out again {again}, perhaps sent"
        f" again {len(history.resent)}, duplicated {verdict.duplicated}, unexplained {len(verdict.unexplained)},"
        f" all consumers back within {max(back, default=0.0):.1f} s of {len(back)} faults (broker kills:"
        f" {', '.join(after_kills) or 'none'}; allowed {MAX_BACKOFF_SECONDS + 5:g}), {seconds:.1f} s"
    )


def check_kept(played: Played) -> None:
    """The promise was kept, nothing is left over, nobody complained, and no session ended but by our hand."""
    stage, history, verdict = played.stage, played.history, played.verdict
    assert verdict.complaints() == []
    assert history.waiting == ()
    assert len(history.attempted) == stage.plan.tasks
    assert history.refused == frozenset()
    reasons = {(letter.uuid.partition(".")[0], letter.reason) for letter in history.parked}
    assert reasons <= {("doomed", "failed"), ("rejected", "rejected")}
    assert max((len(kill.in_flight) for kill in history.kills), default=0) <= QUEUES * stage.plan.limit
    assert played.unprovoked == []
    assert played.ground.unsettled() == 0
    said = {actor.role: actor.said() for actor in stage.workers + stage.publishers}
    assert not any(said.values()), said


@pytest.fixture
def ground(tmp_path: Path, node: PrivateNode, own_vhost: str, proxy: TcpProxy) -> RabbitGround:
    """An empty vhost behind a proxy, on a node that may be killed."""
    return RabbitGround(tmp_path, node, own_vhost, proxy)


@pytest.mark.timeout(300 + TASKS / 20)
async def test_links_cut_every_second_and_a_broker_killed_twice_lose_nothing(
    tmp_path: Path, node: PrivateNode, ground: RabbitGround
) -> None:
    """Publishers and workers behind a proxy that resets every link each second, and `kill -9` of the broker, twice."""
    logged = len(node.log)
    ground.kill_at(0.3, 0.6)
    played = await play(ground, tmp_path, Plan(tasks=TASKS, how="cut", torment_seconds=200 + TASKS / 25))
    check_kept(played)
    assert [fault.what for fault in ground.faults].count("broker_kill") == 2
    assert any(kill.in_flight for kill in played.history.kills), "no cut met a task in flight: nothing is shown"
    assert not (complaints := PROTOCOL_ERROR.findall(node.log[logged:])), complaints


@pytest.mark.timeout(300)
async def test_rabbitmq_workers_and_publishers_under_kill_9_lose_nothing(tmp_path: Path, ground: RabbitGround) -> None:
    """One of six processes is killed every second, some are stopped for seconds: what they held is delivered again."""
    played = await play(ground, tmp_path, Plan(tasks=min(TASKS, 10_000), pause_one_in=5))
    check_kept(played)
    assert {kill.role.partition("-")[0] for kill in played.history.kills} >= {"worker", "publisher"}
    assert any(kill.in_flight for kill in played.history.kills), "no kill met a task in flight: nothing is shown"


@pytest.mark.timeout(300)
async def test_rabbitmq_process_tasks_under_kill_9_lose_nothing(tmp_path: Path, ground: RabbitGround) -> None:
    """Tasks that run in children of a killed worker are run again by another, and nothing else happens to them."""
    plan = Plan(tasks=600, kind="process", workers=2, publishers=1, limit=2, period_seconds=2.0)
    played = await play(ground, tmp_path, plan)
    check_kept(played)
    assert any(kill.in_flight for kill in played.history.kills), "no kill met a task in flight: nothing is shown"


@pytest.mark.timeout(300)
async def test_graceful_restarts_of_rabbitmq_workers_repeat_nothing(tmp_path: Path, ground: RabbitGround) -> None:
    """A worker that is told to end finishes what runs and hands back the rest: no task runs twice for it."""
    played = await play(ground, tmp_path, Plan(tasks=5_000, how="term"))
    check_kept(played)
    assert played.history.kills, "nobody was told to end: this run has shown nothing"
    assert played.verdict.duplicated == 0 and played.verdict.in_flight == 0
    assert played.lost == []


@pytest.mark.timeout(300)
async def test_what_no_queue_takes_is_told_and_never_run(tmp_path: Path, ground: RabbitGround) -> None:
    """A binding comes and goes: what was published while it was away is `Unroutable`, and nothing else is missing."""
    plan = Plan(tasks=3_000, how="unbind", period_seconds=0.5, pace_seconds=0.1)
    played = await play(ground, tmp_path, plan)
    assert played.verdict.complaints() == []
    assert played.history.refused, "nothing was published while the binding was away: nothing is shown"
    assert {"Unroutable"} == {line.split()[2] for line in played.stage.lines("publisher-*.ledger") if "refused" in line}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("ack_before_run", "kill"),
        ("ack_before_copy", "kill"),
        ("confirm_unheard", "swallow"),
        ("not_mandatory", "unbind"),
    ],
)
async def test_a_fault_planted_on_rabbitmq_is_found(
    fault: str, how: Literal["kill", "swallow", "unbind"], tmp_path: Path, ground: RabbitGround
) -> None:
    """The same run with a client that breaks the promise: the checker must say so."""
    plan = Plan(tasks=2_000, how=how, period_seconds=0.7, pace_seconds=0.2, fault=fault)
    played = await play(ground, tmp_path, plan)
    assert "lost" in [sentence.partition(":")[0] for sentence in played.verdict.complaints()]


@pytest.mark.timeout(120)
async def test_death_notes_kept_on_copies_are_found(tmp_path: Path, ground: RabbitGround, node: PrivateNode) -> None:
    """RabbitMQ before 4.0 drops, after a confirm, what claims to have died where it is going; later ones look away."""
    ground.waits_for_what_moves = False  # there it stays for ever
    played = await play(ground, tmp_path, Plan(tasks=500, how="calm", period_seconds=0.5, fault="keep_deaths"))
    lost = {uuid.partition(".")[0] for uuid in played.verdict.lost}
    assert lost == ({"flaky_twice"} if int(node.version.partition(".")[0]) < 4 else set())


@pytest.mark.timeout(120)
async def test_a_stale_ack_on_a_new_channel_is_found(tmp_path: Path, ground: RabbitGround) -> None:
    """The broker closes the channel for it: a session ends that nobody cut."""
    played = await play(ground, tmp_path, Plan(tasks=1_000, how="cut", pace_seconds=0.2, fault="stale_ack"))
    assert any("PRECONDITION_FAILED" in reason or "unknown delivery tag" in reason for reason in played.unprovoked)
