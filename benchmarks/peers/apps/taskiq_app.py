"""taskiq on RabbitMQ, with taskiq-aio-pika."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskiq_aio_pika import AioPikaBroker, Exchange, Queue

from .. import work

__all__ = ["broker", "opened", "send"]

QUEUE = os.environ["BENCH_QUEUE"]

broker = AioPikaBroker(
    os.environ["BENCH_URL"],
    qos=int(os.environ["BENCH_PREFETCH"]),
    exchange=Exchange(name=QUEUE),
    task_queues=[Queue(name=QUEUE)],
    dead_letter_queue=Queue(name=f"{QUEUE}.dead_letter"),
)


@broker.task
async def noop(number: int) -> None:
    work.noop(number)


@broker.task
async def timed(sent_ns: int) -> None:
    work.timed(sent_ns)


@broker.task
async def io(number: int) -> None:
    await work.io(number)


@broker.task
async def cpu(number: int) -> None:
    work.cpu(number)


TASKS = {"noop": noop, "timed": timed, "io": io, "cpu": cpu}


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await broker.startup()
    try:
        yield
    finally:
        await broker.shutdown()


async def send(kind: str, value: int) -> None:
    await TASKS[kind].kiq(value)
