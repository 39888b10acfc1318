"""What the tasks do, the same in every peer: nothing, wait 50 ms, or count for about 5 ms. Standard library only."""

from __future__ import annotations

import asyncio
import os
import time

from .meter import Meter

__all__ = ["IO_SECONDS", "LOOPS", "blocking_io", "count", "cpu", "io", "meter", "noop", "timed"]

IO_SECONDS = 0.05
LOOPS = 70_000
"""About 5 ms of a current core."""

meter = Meter()
os.register_at_fork(after_in_child=meter.renew)


def noop(number: int) -> None:
    meter.begin()


def timed(sent_ns: int) -> None:
    meter.begin(sent_ns)


async def io(number: int) -> None:
    slot = meter.begin()
    await asyncio.sleep(IO_SECONDS)
    meter.end(slot)


def blocking_io(number: int) -> None:
    slot = meter.begin()
    time.sleep(IO_SECONDS)
    meter.end(slot)


def cpu(number: int) -> None:
    slot = meter.begin()
    count()
    meter.end(slot)


def count() -> int:
    total = 0
    for number in range(LOOPS):
        total += number * number & 0xFF
    return total
