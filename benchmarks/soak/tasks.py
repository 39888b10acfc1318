"""The tasks of `soak`, and who sends them: coroutines and plain functions in turn, some with a delay, some that fail once.

Every way that a task can go is taken again and again, so that what is kept too long anywhere adds up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from dispatcher import RetryPolicy, current_task

from ..dispatcher_app import HEADERS, app, coroutine, function, meter
from ..samples import Sample, Stopwatch

__all__ = ["app", "send", "stumbles"]

SENDERS = 8
"""Sends at once at most: a slow confirm delays its own sender only, and the rate holds."""
ONE_IN = 100

DELAYED = coroutine.options(headers=HEADERS, delay_seconds=1)
PLAIN = function.options(headers=HEADERS)
COROUTINE = coroutine.options(headers=HEADERS)


@app.task(retry=RetryPolicy(max_attempts=3, base_seconds=0.5))
async def stumbles(number: int) -> None:
    """Fails at its first attempt."""
    if current_task().attempt == 1:
        raise RuntimeError("the first attempt fails, as it should")
    meter.tick()


def send(burst: int, count: int, per_second: float) -> Sample:
    """Send `burst` tasks at once, then `count` at a steady rate."""

    async def send_from(numbers: Iterator[int], begun: float) -> None:
        for number in numbers:
            await asyncio.sleep(begun + number / per_second - time.perf_counter())
            await _send(number)

    async def run() -> Sample:
        async with app:
            await asyncio.gather(*(_send(number) for number in range(burst)))
            watch = Stopwatch()
            begun = time.perf_counter()
            numbers = iter(range(count))
            await asyncio.gather(*(send_from(numbers, begun) for _ in range(SENDERS)))
            return watch.sample(count)

    return asyncio.run(run())


async def _send(number: int) -> None:
    match number % ONE_IN:
        case 0:
            await DELAYED.send(number)
        case 1:
            await stumbles.send(number)
        case rest if rest % 2:
            await PLAIN.send(number)
        case _:
            await COROUTINE.send(number)
