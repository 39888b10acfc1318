"""FastStream on RabbitMQ: it has messages rather than tasks, so the body says which kind it is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from .. import work

__all__ = ["app", "opened", "send"]

queue = RabbitQueue(os.environ["BENCH_QUEUE"], durable=True)
broker = RabbitBroker(
    os.environ["BENCH_URL"],
    default_channel=Channel(prefetch_count=int(os.environ["BENCH_PREFETCH"])),
    logger=None,
    apply_types=False,
)
app = FastStream(broker, logger=None)


@broker.subscriber(queue)
async def work_on(message: dict[str, Any]) -> None:
    kind, value = message["kind"], message["value"]
    if kind == "noop":
        work.noop(value)
    elif kind == "timed":
        work.timed(value)
    elif kind == "io":
        await work.io(value)
    else:
        work.cpu(value)


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await broker.connect()
    await broker.declare_queue(queue)
    try:
        yield
    finally:
        await broker.stop()


async def send(kind: str, value: int) -> None:
    await broker.publish({"kind": kind, "value": value}, queue, persist=True)
