"""When a task expires: before it starts, wherever it waits by then. Once it runs, its expiry is over."""

from __future__ import annotations

import asyncio
import time

from server_bench import Bench, Recorder

from dispatcher import RetryPolicy, Snooze, Task, TaskConfig, WorkerConfig, current_task


async def clock_reaches(moment: float) -> None:
    """Wait until the clock, which an expiry is a moment of, says so."""
    while time.time() < moment:
        await asyncio.sleep(0.005)


async def test_it_expires_while_it_waits_for_a_slot(bench: Bench, recorder: Recorder) -> None:
    """A worker that has taken it and not started it looks again when it would start."""
    ran: list[str] = []
    go_on = asyncio.Event()

    async def hold() -> None:
        await go_on.wait()

    async def task() -> None:
        ran.append(current_task().uuid)

    worker = await bench.server.new_worker(_config(prefetch=8), {"hold": TaskConfig(hold), "task": TaskConfig(task)})
    await worker.start()
    await bench.server.publish(Task("hold"))
    await recorder.wait_for("task.started")
    expired_at = time.time() + 0.2
    await bench.server.publish(Task("task", uuid="stale", expires_seconds=0.2))
    await bench.server.publish(Task("task", uuid="fresh", expires_seconds=600))
    await bench.becomes(0, 3)
    await clock_reaches(expired_at + 0.05)
    go_on.set()
    (dead,) = await recorder.wait_for("task.dead_lettered")
    await recorder.wait_for("task.succeeded", 2)
    assert (dead.uuid, dead.reason) == ("stale", "expired")
    assert "it expired" in dead.text
    assert ran == ["fresh"]


async def test_it_expires_during_its_delay(bench: Bench, recorder: Recorder) -> None:
    """Both count from the send: a delay beyond the expiry never runs; an expiry beyond the delay does."""
    ran: list[str] = []

    async def task() -> None:
        ran.append(current_task().uuid)

    await bench.worker(task=TaskConfig(task))
    await bench.server.publish(Task("task", uuid="stale", delay_seconds=0.4, expires_seconds=0.1))
    await bench.server.publish(Task("task", uuid="fresh", delay_seconds=0.2, expires_seconds=600))
    (dead,) = await recorder.wait_for("task.dead_lettered")
    await recorder.wait_for("task.succeeded")
    assert (dead.uuid, dead.reason) == ("stale", "expired")
    assert ran == ["fresh"]
    assert (await bench.dead_letter())["x-dispatcher-reason"] == "expired"


async def test_a_retry_after_the_expiry_is_not_started(bench: Bench, recorder: Recorder) -> None:
    """The first attempt was in time; the second would be stale. Its dead letter tells the attempt, and what failed."""

    async def task() -> None:
        raise ValueError("no luck")

    retry = RetryPolicy(max_attempts=5, base_seconds=0.5, jitter=False)
    await bench.worker(task=TaskConfig(task, retry=retry))
    await bench.server.publish(Task("task", uuid="u", expires_seconds=0.4))
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert (dead.uuid, dead.reason, dead.attempt) == ("u", "expired", 2)
    assert len(recorder.named("task.failed")) == 1
    headers = await bench.dead_letter()
    assert (headers["x-dispatcher-reason"], headers["x-dispatcher-error"]) == ("expired", "no luck")


async def test_so_is_what_was_put_off(bench: Bench, recorder: Recorder) -> None:
    """`Snooze` beyond the expiry is its end."""

    async def task() -> None:
        raise Snooze(0.5)

    await bench.worker(task=TaskConfig(task))
    await bench.server.publish(Task("task", expires_seconds=0.4))
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.attempt) == ("expired", 1)


async def test_what_runs_does_not_expire(bench: Bench, recorder: Recorder) -> None:
    """An expiry bounds the wait, a timeout the run."""

    async def task() -> None:
        await clock_reaches(time.time() + 0.3)

    await bench.worker(task=TaskConfig(task))
    await bench.server.publish(Task("task", expires_seconds=0.2))
    done_or_dead = [asyncio.ensure_future(recorder.wait_for(name)) for name in ("task.succeeded", "task.dead_lettered")]
    await asyncio.wait(done_or_dead, return_when=asyncio.FIRST_COMPLETED)
    for waiting in done_or_dead:
        waiting.cancel()
    await asyncio.wait(done_or_dead)
    assert len(recorder.named("task.succeeded")) == 1


async def test_zero_is_stale_at_once(bench: Bench, recorder: Recorder) -> None:
    """No worker can be in time for it."""

    async def task() -> None: ...

    await bench.worker(task=TaskConfig(task))
    await bench.server.publish(Task("task", expires_seconds=0))
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert dead.reason == "expired"


def _config(*, prefetch: int) -> WorkerConfig:
    return WorkerConfig("w", "q", ("rk",), 1, prefetch)
