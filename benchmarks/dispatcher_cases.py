"""Dispatcher's own cases. Each function is one measurement, run alone in a process with an empty folder or queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from .dispatcher_app import HEADERS, QUEUE, app, coroutine, function, timed
from .processes import DISPATCHER_WORKER, started, wall_seconds
from .samples import Sample, Stopwatch, cpu_seconds, resident_mb

__all__ = ["drain", "idle", "latency", "publish", "publish_many", "start", "without_worker"]

IDLE_SECONDS = 10.0
SETTLE_SECONDS = 2.0
"""Long enough for every worker to have started and to have nothing left to do."""

SENDERS: dict[str, Any] = {
    "coroutine": coroutine.options(headers=HEADERS),
    "function": function.options(headers=HEADERS),
    "timed": timed.options(headers=HEADERS),
}


def publish(count: int, publishers: int) -> Sample:
    """`send`, awaited, from each of `publishers` coroutines at once."""

    async def send_all(numbers: Iterable[int]) -> None:
        for number in numbers:
            await SENDERS["coroutine"].send(number)

    async def run() -> Sample:
        async with app:
            await send_all(range(20))
            numbers = iter(range(count))
            watch = Stopwatch()
            await asyncio.gather(*(send_all(numbers) for _ in range(publishers)))
            return watch.sample(count)

    return asyncio.run(run())


def publish_many(count: int) -> Sample:
    """One `publish_many` of all."""

    async def run() -> Sample:
        async with app:
            await _fill("coroutine", 20)
            watch = Stopwatch()
            await _fill("coroutine", count)
            return watch.sample(count)

    return asyncio.run(run())


def drain(kind: str, count: int, limit: int) -> Sample:
    """One worker process takes, runs and acks `count` no-op tasks that wait. None may be left over."""
    asyncio.run(_filled(kind, count))
    with started([*DISPATCHER_WORKER, "-c", str(limit)], count) as worker:
        sample = worker.sample()
        worker.drain()
    left = asyncio.run(_depth())
    if left:
        raise RuntimeError(f"expected an empty queue after the drain, got {left} messages")
    return sample


def start() -> Sample:
    """From starting a worker process to the first line of the first task, which waits."""
    asyncio.run(_filled("coroutine", 1))
    with started(DISPATCHER_WORKER, 1) as worker:
        sample = worker.sample()
        worker.drain()
    return Sample(figures={"start_ms": (sample.figures["first_at"] - worker.started_at) * 1e3})


def without_worker() -> Sample:
    """What importing the app's class and asking for `--help` take, and what Python takes for nothing at all."""
    return Sample(
        figures={
            "python_ms": wall_seconds(["-c", "pass"]) * 1e3,
            "import_ms": wall_seconds(["-c", "from dispatcher import Dispatcher"]) * 1e3,
            "help_ms": wall_seconds(["-m", "dispatcher", "--help"]) * 1e3,
        }
    )


def idle(processes: int) -> Sample:
    """What workers cost that have nothing to do: percent of one core and memory, each the worst of `processes`."""
    asyncio.run(_filled("coroutine", 0))
    with ExitStack() as stack:
        pids = [stack.enter_context(started(DISPATCHER_WORKER, 1)).pid for _ in range(processes)]
        time.sleep(SETTLE_SECONDS)
        before = [cpu_seconds(pid) for pid in pids]
        time.sleep(IDLE_SECONDS)
        used = [cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
        memory = [resident_mb(pid) for pid in pids]
    return Sample(figures={"idle_cpu_percent": max(used) / IDLE_SECONDS * 100, "idle_mb": max(memory)})


def latency(count: int, per_second: float) -> Sample:
    """From the call of `send` to the function's first line in another process, at a steady rate."""

    async def send_steadily() -> None:
        async with app:
            begun = time.perf_counter()
            for number in range(count):
                await asyncio.sleep(max(0.0, begun + number / per_second - time.perf_counter()))
                await SENDERS["timed"].send(time.monotonic_ns())

    asyncio.run(_filled("timed", 0))
    with started(DISPATCHER_WORKER, count) as worker:
        time.sleep(SETTLE_SECONDS)
        asyncio.run(send_steadily())
        sample = worker.sample()
    return Sample(figures={key: sample.figures[key] for key in ("p50_ms", "p99_ms")})


async def _fill(kind: str, count: int) -> None:
    await app.publish_many(SENDERS[kind].bind(number) for number in range(count))


async def _filled(kind: str, count: int) -> None:
    async with app:
        await _fill(kind, count)


async def _depth() -> int:
    async with app:
        depth = await app.server.inspector.depth(QUEUE)
        return depth.ready + (depth.unacked or 0)
