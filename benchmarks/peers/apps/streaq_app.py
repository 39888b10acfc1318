"""streaQ on Redis."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streaq import Worker

from .. import work

__all__ = ["depth", "opened", "send", "worker"]

LIMIT = int(os.environ["BENCH_LIMIT"])

worker: Worker[None] = Worker(
    redis_url=os.environ["BENCH_URL"], queue_name=os.environ["BENCH_QUEUE"], concurrency=LIMIT, prefetch=LIMIT
)


@worker.task(ttl=0, silent=True)
async def noop(number: int) -> None:
    work.noop(number)


@worker.task(ttl=0, silent=True)
async def timed(sent_ns: int) -> None:
    work.timed(sent_ns)


@worker.task(ttl=0, silent=True)
async def io(number: int) -> None:
    await work.io(number)


@worker.task(ttl=0, silent=True)
async def cpu(number: int) -> None:
    work.cpu(number)


TASKS = {"noop": noop, "timed": timed, "io": io, "cpu": cpu}


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    async with worker:
        yield


async def send(kind: str, value: int) -> None:
    await TASKS[kind].enqueue(value)


async def depth() -> int:
    async with worker:
        return await worker.queue_size()
