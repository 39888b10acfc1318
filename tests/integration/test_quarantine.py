"""A task that kills its workers is run alone, and parked when that kills its process too; its neighbours are not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_run import Cli
from server_bench import Bench, Recorder

from dispatcher import Dispatcher, RetryPolicy, Task, TaskArgument, TaskConfig, current_task
from dispatcher.brokers.base import Message
from dispatcher.model.outcome import DeadLetter, KilledAlone, decide
from dispatcher.model.retry import Failure

pytestmark = pytest.mark.timeout(120)

TASKS = """
import asyncio, os, signal, time
from dispatcher import Dispatcher, RetryPolicy

app = Dispatcher()

def say(*words):
    os.write(2, (" ".join(map(str, words)) + "\\n").encode())

@app.task(retry=RetryPolicy(max_attempts=9, base_seconds=0))
async def killer(how: str) -> None:
    say("killer begins", os.getpid())
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL) if how == "kill" else os._exit(3)

@app.task(retry=RetryPolicy(max_attempts=9, base_seconds=0))
def plain_killer(how: str) -> None:
    say("killer begins", os.getpid())
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGSEGV)

@app.task
async def neighbour(number: int) -> None:
    await asyncio.sleep(0.05)
    say("neighbour", number, "done")

@app.task
def plain_neighbour(number: int) -> None:
    time.sleep(0.05)
    say("neighbour", number, "done")
"""


@pytest.fixture
def cli(tmp_path: Path, shared_url: str) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.env["DISPATCHER_URL"] = shared_url
    cli.write("tasks.py", TASKS)
    yield cli
    cli.close()


async def send_neighbours(url: str, numbers: range) -> None:
    async with Dispatcher(url) as app:
        await app.publish_many(
            Task("plain_neighbour" if number % 2 else "neighbour", [TaskArgument("int", number)]) for number in numbers
        )


@pytest.mark.parametrize(("killer", "how"), [("killer", "kill"), ("killer", "exit"), ("plain_killer", "")])
def test_it_is_parked_and_its_neighbours_are_not(cli: Cli, killer: str, how: str) -> None:
    """Two workers die with it, then its own process; no policy tries it again, and all others run."""
    uuid = cli.ok("send", "tasks:app", killer, how).strip()
    numbers = range(50)
    asyncio.run(send_neighbours(cli.env["DISPATCHER_URL"], numbers))
    worker = cli.start("worker", "tasks:app", "-p", "2", "-c", "8")
    worker.wait_for("task.dead_lettered")
    for number in numbers:
        worker.wait_for(f"neighbour {number} done")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    begun = worker.matches(r"killer begins (\d+)")
    assert len(begun) == len(set(begun)) == 3
    [letter] = [json.loads(line) for line in cli.ok("dead", "list", "tasks:app", "--json").splitlines()]
    assert (letter["uuid"], letter["reason"], letter["attempt"]) == (uuid, "delivery_limit", 1)
    cause = {"kill": "killed by SIGKILL", "exit": "exit code 3", "": "killed by SIGSEGV"}[how]
    assert letter["text"].startswith("2 workers died with it, then ") and cause in letter["text"]
    quarantined = worker.matches(rf"task\.quarantined uuid={uuid}.*deaths=(\d) alone=true")
    assert quarantined == ["2"]


async def innocent(path: str) -> None:
    now = current_task()
    Path(path).write_text(f"{os.getpid()} {now.uuid} {now.attempt}")


async def dies(path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def fails(path: str) -> None:
    raise ValueError("as ever")


async def suspect(bench: Bench, path: Path, name: str = "task") -> str:
    """A message that says that two holders died with it, as a worker counts for brokers that do not."""
    session = await bench.server.live_session()
    task = Task(name)
    body = json.dumps({"uuid": task.id, "name": name, "args": [{"type": "string", "value": str(path)}]}).encode()
    await session.publish(Message("ex", "rk", body, task.id, {"x-dispatcher-redeliveries": 2}))
    return task.id


async def test_an_innocent_suspect_only_runs_elsewhere(bench: Bench, recorder: Recorder, tmp_path: Path) -> None:
    """In another process, as the same task; its slot is free meanwhile."""
    path = tmp_path / "ran"
    worker = await bench.worker(limit=1, task=TaskConfig(innocent))
    uuid = await suspect(bench, path)
    await recorder.wait_for("task.succeeded")
    pid, *rest = path.read_text().split()
    assert int(pid) != os.getpid() and rest == [uuid, "1"]
    await bench.becomes(0, 0, 0, 0)
    assert worker.runs.running == 0 and worker._slots.taken == 0


async def test_its_failure_is_a_failure(bench: Bench, recorder: Recorder, tmp_path: Path) -> None:
    """With its policy, as anywhere."""
    await bench.worker(task=TaskConfig(fails, retry=RetryPolicy(max_attempts=2, base_seconds=0)))
    await suspect(bench, tmp_path)
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.attempt) == ("failed", 2)
    assert len(recorder.named("task.retried")) == 1


async def test_it_does_not_keep_others_waiting(bench: Bench, recorder: Recorder, tmp_path: Path) -> None:
    """Suspects wait for the one process; who waits for it takes no slot."""
    ran = asyncio.Event()

    async def other() -> None:
        ran.set()

    await bench.worker(limit=1, start=False, task=TaskConfig(innocent), other=TaskConfig(other))
    for number in range(3):
        await suspect(bench, tmp_path / str(number))
    await bench.server.publish(Task("other"))
    worker = bench.server.get_worker_by_name("w")
    worker.prefetch = 10
    await worker.start()
    async with asyncio.timeout(30):
        await ran.wait()
    await recorder.wait_for("task.succeeded", 4)


async def test_what_no_process_finds_runs_here(bench: Bench, recorder: Recorder, tmp_path: Path) -> None:
    """A function inside another one: it is run in place, and the event says so."""
    ran: list[int] = []

    async def local(path: str) -> None:
        ran.append(os.getpid())

    await bench.worker(task=TaskConfig(local))
    await suspect(bench, tmp_path)
    await recorder.wait_for("task.succeeded")
    assert ran == [os.getpid()]
    [event] = recorder.named("task.quarantined")
    assert (event.deaths, event.alone) == (2, False)


async def test_a_process_that_cannot_begin_proves_nothing(
    bench: Bench, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it runs in place too."""
    path = tmp_path / "ran"
    await bench.worker(task=TaskConfig(innocent))
    monkeypatch.setattr("dispatcher.runtime.executors.child.main", dies)  # the child does not get that far
    uuid = await suspect(bench, path)
    await recorder.wait_for("task.succeeded")
    assert path.read_text().split()[1] == uuid


async def test_stopped_alone_it_is_handed_back(bench: Bench, recorder: Recorder, tmp_path: Path) -> None:
    """A worker that is closed without grace kills the process: that is no death by the task's doing."""
    path = tmp_path / "held"
    os.mkfifo(path)
    worker = await bench.worker(task=TaskConfig(innocent))
    await suspect(bench, path)  # opening the pipe to write blocks until someone reads
    await recorder.wait_for("task.quarantined")
    await worker.close(grace_seconds=0)
    await bench.becomes(1, 0, 0, 0)
    assert recorder.named("task.dead_lettered") == []


def test_the_fate_is_a_dead_letter_whatever_the_policy() -> None:
    """The reason is of the closed list."""
    failure = Failure("dispatcher.errors.TaskProcessDied", "the process that ran it (pid 1) died: killed by SIGKILL")
    outcome = decide(KilledAlone(2, failure), RetryPolicy(max_attempts=9), 1)
    assert outcome == DeadLetter("delivery_limit", f"2 workers died with it, then {failure.message}", failure)
