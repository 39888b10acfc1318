"""Delays and etas through a real server and worker: how far, what a worker holds meanwhile, what a restart leaves."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from server_bench import DEADLINE_SECONDS, Bench, Recorder

from dispatcher import ConfigError, Dispatcher, RetryPolicy, Server, Task, TaskConfig
from dispatcher.model.retry import MAX_DELAY_SECONDS

YEAR_SECONDS = 365 * 86_400


async def counted(server: Server, remaining_seconds: float) -> int:
    """How many delayed tasks the broker shows that may be due in that time."""
    bands = await server.inspector.delayed()
    return sum(
        band.messages
        for band in bands
        if band.from_seconds <= remaining_seconds <= (inf if band.to_seconds is None else band.to_seconds)
    )


async def test_delays_and_etas_of_years_wait_in_the_broker(bench: Bench) -> None:
    """Up to ten years, seen where they wait; the worker that will run them holds none."""

    async def task() -> None: ...

    await bench.worker(task=TaskConfig(task))
    server = bench.server
    await server.publish(Task("task", delay_seconds=3 * YEAR_SECONDS))
    await server.publish(Task("task", eta=datetime.now(UTC) + timedelta(days=5 * 365)))
    await server.publish(Task("task", delay_seconds=MAX_DELAY_SECONDS))
    assert sum(band.messages for band in await server.inspector.delayed()) == 3
    for remaining_seconds in (3 * YEAR_SECONDS - 60, 5 * YEAR_SECONDS - 60, MAX_DELAY_SECONDS - 60):
        assert await counted(server, remaining_seconds) >= 1
    assert (await bench.depth())[:2] == (0, 0)


def test_more_than_ten_years_are_refused() -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigError, match="ten years"):
        Task("task", delay_seconds=MAX_DELAY_SECONDS + 1)
    with pytest.raises(ConfigError, match="ten years"):
        Task("task", eta=datetime.now(UTC) + timedelta(seconds=MAX_DELAY_SECONDS + 60))


async def test_an_eta_that_has_passed_runs_at_once(bench: Bench, recorder: Recorder) -> None:
    """By a second, by a century, and by no more than now."""

    async def task() -> None: ...

    await bench.worker(task=TaskConfig(task))
    now = datetime.now(UTC)
    for eta in (now, now - timedelta(seconds=1), datetime(1926, 1, 1, tzinfo=UTC)):
        await bench.server.publish(Task("task", eta=eta))
    await bench.server.publish(Task("task", delay_seconds=0))
    await recorder.wait_for("task.succeeded", 4)


async def test_a_worker_never_holds_more_than_its_window(bench: Bench, recorder: Recorder) -> None:
    """Of 200 tasks that come due at the same moment, or fail and are retried together, four run and four are held."""
    running, most_running, most_held = 0, 0, 0

    async def task() -> None:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        await asyncio.sleep(0)
        running -= 1
        if len(recorder.named("task.failed")) < 100:
            raise TimeoutError

    async def watch() -> None:
        nonlocal most_held
        while True:
            most_held = max(most_held, (await bench.depth())[1])
            await asyncio.sleep(0)

    together = RetryPolicy(max_attempts=200, backoff="constant", base_seconds=0.3, jitter=False)
    worker = await bench.worker(limit=4, task=TaskConfig(task, retry=together))
    assert worker.prefetch == 4
    watching = asyncio.create_task(watch())
    due = datetime.now(UTC) + timedelta(seconds=1)
    await asyncio.gather(*[bench.server.publish(Task("task", eta=due)) for _ in range(200)])
    await recorder.wait_for("task.succeeded", 200)
    watching.cancel()
    await asyncio.wait([watching])
    assert most_running <= 4 and most_held <= 4
    await worker.close()
    await bench.becomes(0, 0, 0, 0)


async def test_what_comes_due_while_nobody_is_there_runs_later(shared_url: str) -> None:
    """The sender is gone, no worker was there, the moment has passed: whoever comes then runs it."""
    came: asyncio.Queue[str] = asyncio.Queue()

    def note(text: str) -> None:
        loop.call_soon_threadsafe(came.put_nowait, text)

    loop = asyncio.get_running_loop()
    sender, runner = Dispatcher(shared_url), Dispatcher(shared_url)
    sent, _ = sender.task(note), runner.task(note)
    async with sender:
        await sent.options(delay_seconds=0.3).send("later")
    due = time.time() + 0.3
    while time.time() <= due:
        await asyncio.sleep(0.01)
    async with runner:
        running = asyncio.create_task(runner.run_worker())
        assert await asyncio.wait_for(came.get(), DEADLINE_SECONDS) == "later"
        running.cancel()
        await asyncio.wait([running])
