"""Dispatcher, on RabbitMQ or on its embedded broker: the app of `make bench` with its features on, and the peers' tasks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ...dispatcher_app import HEADERS, QUEUE, app
from .. import work

__all__ = ["app", "depth", "opened", "send"]

PLAIN = os.environ["BENCH_PLAIN"] == "1"
EXECUTOR: Any = os.environ.get("BENCH_EXECUTOR")


async def noop(number: int) -> None:
    work.noop(number)


async def timed(sent_ns: int) -> None:
    work.timed(sent_ns)


TASKS: dict[str, Any] = {
    "noop": app.task(name="peers_noop")(work.noop if PLAIN else noop),
    "timed": app.task(name="peers_timed")(work.timed if PLAIN else timed),
    "io": app.task(name="peers_io")(work.blocking_io if PLAIN else work.io),
    "cpu": app.task(name="peers_cpu", executor=EXECUTOR)(work.cpu),
}
SENDERS = {kind: task.options(headers=HEADERS) for kind, task in TASKS.items()}


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    async with app:
        yield


async def send(kind: str, value: int) -> None:
    await SENDERS[kind].send(value)


async def depth() -> int:
    async with app:
        found = await app.server.inspector.depth(QUEUE)
        return found.ready + (found.unacked or 0)
