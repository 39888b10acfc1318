"""How `dispatcher worker` ends in spite of what its tasks left behind: coroutines, background tasks and threads."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_run import Cli

pytestmark = pytest.mark.timeout(120)

STUCK = """
import asyncio, os, sys, time
from dispatcher import Dispatcher

app = Dispatcher()

def say(*words):
    os.write(2, (" ".join(map(str, words)) + "\\n").encode())

@app.task(timeout_seconds=0.1, on_timeout="cancel")
async def swallow() -> None:
    say("swallowing")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@app.task(timeout_seconds=0.1, on_timeout="cancel")
async def leave_thread() -> None:
    await asyncio.to_thread(time.sleep, 3600)

left = []

@app.task
async def leave_behind() -> None:
    left.append(asyncio.create_task(put_away()))
    await asyncio.sleep(0)
    say("left behind")

async def put_away() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.to_thread(say, "put away")

@app.task
async def leave_exit() -> None:
    left.append(asyncio.create_task(exit_later()))

async def exit_later() -> None:
    sys.exit(0)
"""


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.write("stuck.py", STUCK)
    yield cli
    cli.close()


def ready(cli: Cli) -> int:
    (line,) = [json.loads(line) for line in cli.ok("queues", "--json").splitlines()]
    return int(line["ready"])


def test_a_process_full_of_swallowed_cancellations_starts_itself_anew(stuck: Cli) -> None:
    """A coroutine cannot be killed either: the same pid begins again, without waiting for it."""
    worker = stuck.start("worker", "stuck:app", "-c", "1")
    stuck.ok("send", "stuck:app", "swallow")
    worker.wait_for(r"app\.started .*pid=" + str(worker.pid), count=2)
    worker.wait_for("swallowing", count=2)


def test_a_child_full_of_swallowed_cancellations_is_replaced(stuck: Cli) -> None:
    """It ends with the code that asks its supervisor for a new one."""
    worker = stuck.start("worker", "stuck:app", "-c", "1", "-p", "2")
    stuck.ok("send", "stuck:app", "swallow")
    worker.wait_for('worker_process.ended .*ended="exit code 75"')
    worker.wait_for(r"worker_process\.started", count=3)
    worker.wait_for("swallowing", count=2)


@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 143)])
def test_a_swallowed_cancellation_does_not_keep_the_process(stuck: Cli, signals: int, code: int) -> None:
    """Once the grace is over, or a second signal came, it is handed back and the process ends."""
    worker = stuck.start("worker", "stuck:app", *(("--grace", "0.1") if signals == 1 else ()))
    stuck.ok("send", "stuck:app", "swallow")
    worker.wait_for("swallowing")
    for _ in range(signals):
        worker.signal(signal.SIGTERM)
        worker.wait_for(r"worker\.draining")
    assert worker.exit_code() == code
    assert ready(stuck) == 1


def test_a_thread_that_a_task_left_does_not_keep_the_process(stuck: Cli) -> None:
    """The coroutine was cancelled and is over; its `to_thread` cannot be stopped."""
    worker = stuck.start("worker", "stuck:app")
    stuck.ok("send", "stuck:app", "leave_thread")
    worker.wait_for("TaskTimeout")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert worker.matches("left behind never ended")


def test_what_a_task_left_in_the_loop_may_clean_up(stuck: Cli) -> None:
    """It is cancelled at the end, and its clean-up has the loop and the threads."""
    worker = stuck.start("worker", "stuck:app")
    stuck.ok("send", "stuck:app", "leave_behind")
    worker.wait_for("left behind")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    worker.wait_until_all_gone()
    assert worker.matches("put away") and not worker.matches("never ended")


def test_an_exit_in_what_a_task_left_is_no_clean_end(stuck: Cli) -> None:
    """The worker did not end as it was told to: code 70, whatever code it asked for."""
    worker = stuck.start("worker", "stuck:app")
    stuck.ok("send", "stuck:app", "leave_exit")
    assert worker.exit_code() == 70
    worker.wait_for("internal: SystemExit")
