"""A task that kills its worker, in real processes: it is parked with the proof, and nobody who was beside it is."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_run import Cli

pytestmark = pytest.mark.timeout(180)

NEIGHBOURS = 50

TASKS = """
import asyncio, os, signal, time
from dispatcher import Dispatcher, Queue, RetryPolicy

queue = Queue("default", type={type!r}, max_priority={max_priority!r})
app = Dispatcher(init_queues=[queue], retry=RetryPolicy(max_attempts=5, base_seconds=0))

def say(*words):
    os.write(2, (" ".join(map(str, words)) + "\\n").encode())

@app.task
async def killer() -> None:
    say("killing", os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)

@app.task
async def coroutine(number: int) -> None:
    await asyncio.sleep(0.02)
    say("neighbour", number)

@app.task
def plain(number: int) -> None:
    time.sleep(0.02)
    say("neighbour", number)

async def send_all(name):
    task = app.tasks[name]
    async with app:
        await app.publish_many(task.bind(number) for number in range(20))
        await killer.options(uuid="the-killer").send()
        await app.publish_many(task.bind(number) for number in range(20, {neighbours}))

if __name__ == "__main__":
    import sys
    asyncio.run(send_all(sys.argv[1]))
"""


@pytest.fixture(params=["sqlite", "rabbitmq", "rabbitmq-classic"])
def cli(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    if request.param != "sqlite":
        cli.env["DISPATCHER_URL"] = request.getfixturevalue("vhost_url")
    is_classic = request.param == "rabbitmq-classic"
    type_, max_priority = ("classic", 9) if is_classic else ("quorum", None)
    cli.write("tasks.py", TASKS.format(type=type_, max_priority=max_priority, neighbours=NEIGHBOURS))
    yield cli
    cli.close()


@pytest.mark.parametrize("neighbour", ["coroutine", "plain"])
def test_who_killed_its_worker_twice_dies_alone_and_is_parked(cli: Cli, neighbour: str) -> None:
    """Two workers die by it, then its own process; every neighbour runs, none is parked, and the workers live on."""
    cli.python("tasks.py", neighbour)
    worker = cli.start("worker", "tasks:app", "-p", "2", "-c", "8")
    worker.wait_for("task.dead_lettered .*uuid=the-killer")
    pids = worker.matches(r"killing (\d+)")
    assert len(pids) == len(set(pids)) == 3
    for number in range(NEIGHBOURS):
        worker.wait_for(rf"neighbour {number}\b")
    ended = worker.matches(r"worker_process\.ended number=\d pid=(\d+) ended=SIGKILL")
    assert ended == pids[:2]
    (quarantined,) = worker.matches(r"task\.quarantined uuid=the-killer .*holders_lost=(\d)")
    assert quarantined == "2"
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    worker.wait_until_all_gone()
    letters = [json.loads(line) for line in cli.ok("dead", "list", "tasks:app", "--json").splitlines()]
    assert [(letter["uuid"], letter["reason"]) for letter in letters] == [("the-killer", "delivery_limit")]
    assert "it killed its worker 2 times, then died alone: killed by SIGKILL" in letters[0]["text"]


def test_a_burst_waits_for_its_suspects(cli: Cli) -> None:
    """Unsupervised, started anew after each death: the third burst runs what is left, alone or not, and ends well."""
    cli.python("tasks.py", "plain")
    for _ in range(2):
        assert cli.start("worker", "tasks:app", "--burst", "-c", "8").exit_code() == -signal.SIGKILL
    last = cli.start("worker", "tasks:app", "--burst", "-c", "8")
    assert last.exit_code() == 0
    last.wait_until_all_gone()
    assert len(last.matches("killing")) == len(last.matches("task.dead_lettered .*uuid=the-killer")) == 1
    assert len(last.matches("task.quarantined")) >= 2
    (depth,) = [
        json.loads(line)
        for line in cli.ok("queues", "tasks:app", "--json").splitlines()
        if json.loads(line)["name"] == "default"
    ]
    assert (depth["ready"], depth["dead"]) == (0, 1)
