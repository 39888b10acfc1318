"""What a task costs as something grows. Each function is one measurement, run alone with an empty file or queues.

Figures end in their unit; `publish_…` is the sender's side, `drain_…` the workers', `…_cpu_us` user and system time of all
their threads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dispatcher.runtime.app_task import AppTask

from ..footprint import footprint
from ..marks import Crowd
from ..processes import started
from ..samples import Sample, Stopwatch
from .tasks import HEADERS, QUEUES, app, coroutine, marked, sized, timed

__all__ = ["bodies", "delayed", "memory", "processes", "queues", "waiting", "workers"]

WORKER = ("-m", "dispatcher", "worker", "benchmarks.growth.tasks:app")
CHUNK = 20_000
"""Tasks in one `publish_many` of what only has to be there: its receipts would weigh on what is measured."""

LEAST_SECONDS_DELAYED = 60.0
DELAYED_PER_SECOND = 5000.0
"""How long what is in the way waits: its publishing and the measurement must be over before it is due."""
LATE_PER_SECOND = 100.0
DELAY_SECONDS = 1.0
SETTLE_SECONDS = 2.0
LOOK_EVERY_SECONDS = 0.5
EMPTY_DEADLINE_SECONDS = 60.0
RUN_DEADLINE_SECONDS = 1200.0

NumberedTask = AppTask[[int], [int], Coroutine[Any, Any, None]]


def waiting(waiting: int, count: int) -> Sample:
    """Publish and drain `count` tasks while `waiting` others are in the queue."""

    async def publish() -> Sample:
        async with app:
            await _fill(waiting)
            watch = Stopwatch()
            await _fill(count)
            return watch.sample(count)

    published = asyncio.run(publish())
    with started(WORKER, count) as worker:
        drained = worker.sample()
    return Sample(figures=_cost("publish", published) | _cost("drain", drained))


def queues(count: int) -> Sample:
    """Tasks for all queues in turn, and one worker process that works on all of them."""
    published = asyncio.run(_published(count))
    with started(WORKER, count) as worker:
        drained = worker.sample()
        worker.drain()
    asyncio.run(_expect_empty())
    return Sample(figures=_cost("publish", published) | _cost("drain", drained))


def workers(workers: int, count: int) -> Sample:
    """One process with `workers` workers on one connection, spread over the queues."""
    asyncio.run(_published(count))
    with started(("-m", "benchmarks.growth.workers", str(workers)), count) as worker:
        drained = worker.sample()
        worker.drain()
    asyncio.run(_expect_empty())
    return Sample(figures=_cost("drain", drained))


def processes(processes: int, count: int) -> Sample:
    """`dispatcher worker -p`: what a task costs all processes together while all of them work."""
    asyncio.run(_published(count, marked))
    with _marking() as crowd, started([*WORKER, "-p", str(processes)], 0, crowd.environment) as worker:
        crowd.open_gate(after=processes)
        drained = crowd.sample(count, worker.family)
        asyncio.run(_expect_empty())
        worker.drain()
    return Sample(figures=_cost("drain", drained))


def bodies(size: int, count: int) -> Sample:
    """Tasks with one text of `size` bytes."""
    text = "The quick brown fox jumps over the lazy dog, and again. "
    text = (text * (size // len(text) + 1))[:size]

    async def publish() -> Sample:
        task = sized.options(headers=HEADERS)
        async with app:
            watch = Stopwatch()
            await app.publish_many(task.bind(text) for _ in range(count))
            return watch.sample(count)

    published = asyncio.run(publish())
    with started(WORKER, count) as worker:
        drained = worker.sample()
        worker.drain()
    figures: dict[str, float] = {}
    for what, sample in (("publish", published), ("drain", drained)):
        figures |= _cost(what, sample)
        figures[f"{what}_mb_per_s"] = sample.count * size / 1e6 / sample.seconds
        figures[f"{what}_cpu_us_per_kb"] = sample.cpu_seconds * 1e6 / (sample.count * size / 1e3)
    return Sample(figures=figures)


def memory(count: int) -> Sample:
    """The memory of one worker process that drains `count` tasks: after a tenth of them, at the end, and on the way."""
    asyncio.run(_published(count, marked))
    series = []
    with _marking() as crowd, started(WORKER, 0, crowd.environment) as worker:
        crowd.open_gate()
        deadline = time.monotonic() + RUN_DEADLINE_SECONDS
        while (ran := crowd.ran()) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected {count:,} tasks to run within {RUN_DEADLINE_SECONDS:g} s, got {ran:,}")
            if ran:
                series.append((float(ran), footprint(worker.pid).pss_mb))
            time.sleep(LOOK_EVERY_SECONDS)
        asyncio.run(_expect_empty())
        series.append((float(count), footprint(worker.pid).pss_mb))
        worker.drain()
    early = next(value for ran, value in series if ran >= count / 10)
    return Sample(figures={"early_mb": early, "late_mb": series[-1][1]}, series=series)


def delayed(delayed: int, count: int) -> Sample:
    """Tasks with a delay of one second behind `delayed` others with longer ones: how late they start, and what it costs.

    On RabbitMQ what was in the way is waited for and run, because all apps share its ladder of delays.
    """
    longest_seconds = LEAST_SECONDS_DELAYED + delayed / DELAYED_PER_SECOND
    first_due_at = time.monotonic() + longest_seconds
    figures: dict[str, float] = {}
    if delayed:
        figures |= _cost("publish", asyncio.run(_published(delayed, marked, longest_seconds)))
    with _marking() as crowd, started(WORKER, count, crowd.environment) as worker:
        crowd.open_gate()
        time.sleep(SETTLE_SECONDS)
        asyncio.run(_send_late(count))
        late = worker.sample().figures
        if time.monotonic() > first_due_at:
            raise RuntimeError(f"expected to be done in {longest_seconds:g} s, before what is in the way is due")
        figures |= {f"late_{percent}_ms": late[f"{percent}_ms"] - DELAY_SECONDS * 1e3 for percent in ("p50", "p99")}
        figures["worker_mb"] = footprint(worker.pid).pss_mb
        if not app.config.url.startswith("sqlite:"):
            crowd.wait_for(delayed, deadline_seconds=RUN_DEADLINE_SECONDS)
            asyncio.run(_expect_empty())
    return Sample(figures=figures)


def _marking() -> AbstractContextManager[Crowd]:
    return Crowd.gathering(Path(os.environ["BENCH_FILE"]).parent)


async def _published(count: int, task: NumberedTask = coroutine, delay_seconds: float | None = None) -> Sample:
    """Connect and publish `count` tasks; what the publishing took."""
    async with app:
        watch = Stopwatch()
        await _fill(count, task, delay_seconds)
        return watch.sample(count)


async def _fill(count: int, task: NumberedTask = coroutine, delay_seconds: float | None = None) -> None:
    """Publish `count` tasks, for all queues in turn."""
    options = [task.options(queue=name, headers=HEADERS, delay_seconds=delay_seconds) for name in QUEUES]
    for first in range(0, count, CHUNK):
        numbers = range(first, min(first + CHUNK, count))
        await app.publish_many(options[number % len(options)].bind(number) for number in numbers)


async def _send_late(count: int) -> None:
    task = timed.options(headers=HEADERS, delay_seconds=DELAY_SECONDS)
    async with app:
        begun = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / LATE_PER_SECOND - time.perf_counter()))
            await task.send(time.monotonic_ns())


async def _depth() -> int:
    async with app:
        depths = [await app.server.inspector.depth(name) for name in QUEUES]
        return sum(depth.ready + (depth.unacked or 0) for depth in depths)


async def _expect_empty() -> None:
    """Wait until nothing is in the queues. RuntimeError if something stays."""
    deadline = time.monotonic() + EMPTY_DEADLINE_SECONDS
    while left := await _depth():
        if time.monotonic() > deadline:
            raise RuntimeError(f"expected empty queues after the drain, got {left} messages")
        await asyncio.sleep(LOOK_EVERY_SECONDS)


def _cost(what: str, sample: Sample) -> dict[str, float]:
    figures = {
        f"{what}_us": sample.seconds / sample.count * 1e6,
        f"{what}_cpu_us": sample.cpu_seconds / sample.count * 1e6,
    }
    if sample.broker_cpu_seconds is not None:
        figures[f"{what}_broker_us"] = sample.broker_cpu_seconds / sample.count * 1e6
    return figures
