"""SAQ on Redis."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue

from .. import work

__all__ = ["depth", "opened", "send", "settings"]

SWEEP_SECONDS = 3600
"""How long it counts as swept."""

queue = Queue.from_url(os.environ["BENCH_URL"], name=os.environ["BENCH_QUEUE"])


async def noop(context: dict[str, Any], *, value: int) -> None:
    work.noop(value)


async def timed(context: dict[str, Any], *, value: int) -> None:
    work.timed(value)


async def io(context: dict[str, Any], *, value: int) -> None:
    await work.io(value)


async def cpu(context: dict[str, Any], *, value: int) -> None:
    work.cpu(value)


settings = {
    "queue": queue,
    "functions": [noop, timed, io, cpu],
    "concurrency": int(os.environ["BENCH_LIMIT"]),
}


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await queue.connect()
    # A worker sweeps when it starts, unless another has done so of late, and takes for stuck what it is just dequeuing: it would
    # run the first task twice.
    await queue.sweep(lock=SWEEP_SECONDS)
    try:
        yield
    finally:
        await queue.disconnect()


async def send(kind: str, value: int) -> None:
    await queue.enqueue(kind, value=value, ttl=-1)


async def depth() -> int:
    async with opened():
        return int(await queue.count("incomplete"))
