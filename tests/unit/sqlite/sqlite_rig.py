"""What the tests of the embedded broker share: a file with its sessions, and messages."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from dispatcher.brokers.base import BrokerEvent, Delivery, Message
from dispatcher.brokers.sqlite import SqliteBroker, SqliteSession
from dispatcher.brokers.sqlite.engine import Engine
from dispatcher.brokers.sqlite.entries import Batch, Results, Window
from dispatcher.brokers.sqlite.place import Place
from dispatcher.brokers.sqlite.session import SqliteConsumer
from dispatcher.model.topology import Queue, Topology

SpawnChild = Callable[..., subprocess.Popen[str]]

QUEUE = Queue("q", ("q",))
DEADLINE_SECONDS = 20.0
"""For waits that take milliseconds: reached only when something is broken."""


async def soon(what: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(what, DEADLINE_SECONDS)


def message(body: bytes = b"", key: str = "q", **fields: Any) -> Message:
    return Message(fields.pop("exchange", "ex"), key, body, uuid=fields.pop("uuid", body.decode("latin-1")), **fields)


async def publish(session: SqliteSession, *bodies: bytes, **fields: Any) -> None:
    await soon(asyncio.gather(*[session.publish(message(body, **fields)) for body in bodies]))


async def take(consumer: SqliteConsumer, count: int) -> list[Delivery]:
    return [await soon(anext(consumer)) for _ in range(count)]


class Rig:
    """One file and the sessions that a test opened on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broker = SqliteBroker(path)
        self.events: list[BrokerEvent] = []
        self.sessions: list[SqliteSession] = []

    async def connect(self, *queues: Queue) -> SqliteSession:
        session = await soon(self.broker.connect(name="test", on_event=self.events.append))
        self.sessions.append(session)
        if queues:
            await soon(session.declare(Topology("ex", queues)))
        return session

    def events_of(self, kind: type[BrokerEvent]) -> list[BrokerEvent]:
        return [event for event in self.events if isinstance(event, kind)]


class Driver:
    """One session without its thread: a consumer of `q` with room for `prefetch`, and what it was handed."""

    def __init__(self, path: Path, prefetch: int, queues: tuple[Queue, ...] = (QUEUE,)) -> None:
        """One consumer of each of `queues`; `window` is that of the first."""
        self.now_ms = 1_000_000
        self.engine = Engine(Place(path), "driver", now_ms=lambda: self.now_ms)
        self.engine.begin(Results())
        self.connection = self.engine.store.connection
        windows = [Window(None, queue.name, prefetch) for queue in queues]
        self.window = windows[0]
        self.held: list[int] = []
        batch = Batch()
        batch.calls.append((partial(self.engine.declare, Topology("ex", queues)), None))  # type: ignore[arg-type]
        for window in windows:
            batch.calls.append((partial(self.engine.start_consumer, window), None))  # type: ignore[arg-type]
        self.turn(batch)

    def turn(self, batch: Batch) -> None:
        results = Results()
        self.engine.turn(batch, results)
        self.held += [row[2] for _, rows in results.deliveries for row in rows]

    def publish(self, count: int, **fields: Any) -> None:
        batch = Batch()
        batch.publishes += [(message(b"x" * 100, uuid=f"{n}", **fields), None, None) for n in range(count)]  # type: ignore[misc]
        self.turn(batch)

    def settle(self, count: int, what: str) -> None:
        batch = Batch()
        for id in self.held[:count]:
            getattr(batch, what).append((id, self.window))
        del self.held[:count]
        self.turn(batch)


async def line_of(child: subprocess.Popen[str]) -> str:
    """The child's next line; empty at its end."""
    assert child.stdout is not None
    return (await soon(asyncio.to_thread(child.stdout.readline))).strip()


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
