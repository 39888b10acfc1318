"""arq on Redis."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings

from .. import work

__all__ = ["WorkerSettings", "depth", "opened", "send"]

QUEUE = os.environ["BENCH_QUEUE"]
REDIS = RedisSettings.from_dsn(os.environ["BENCH_URL"])

logging.getLogger("arq").setLevel(logging.WARNING)


async def noop(context: dict[Any, Any], number: int) -> None:
    work.noop(number)


async def timed(context: dict[Any, Any], sent_ns: int) -> None:
    work.timed(sent_ns)


async def io(context: dict[Any, Any], number: int) -> None:
    await work.io(number)


async def cpu(context: dict[Any, Any], number: int) -> None:
    work.cpu(number)


class WorkerSettings:
    functions = [noop, timed, io, cpu]
    redis_settings = REDIS
    queue_name = QUEUE
    max_jobs = int(os.environ["BENCH_LIMIT"])
    queue_read_limit = int(os.environ["BENCH_LIMIT"])
    poll_delay = 0.005
    keep_result = 0
    log_results = False


pools: list[ArqRedis] = []


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    pools.append(await create_pool(REDIS))
    try:
        yield
    finally:
        await pools.pop().aclose()


async def send(kind: str, value: int) -> None:
    await pools[0].enqueue_job(kind, value, _queue_name=QUEUE)


async def depth() -> int:
    async with opened():
        return int(await pools[0].zcard(QUEUE))
