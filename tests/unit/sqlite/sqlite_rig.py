"""What the tests of the embedded broker share: a file with its sessions, and messages."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from dispatcher.brokers.base import BrokerEvent, Delivery, Message
from dispatcher.brokers.sqlite import SqliteBroker, SqliteSession
from dispatcher.brokers.sqlite.session import SqliteConsumer
from dispatcher.model.topology import Queue, Topology

QUEUE = Queue("q", ("q",))
DEADLINE_SECONDS = 20.0
"""For waits that take milliseconds: reached only when something is broken."""


async def soon(what: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(what, DEADLINE_SECONDS)


def message(body: bytes = b"", key: str = "q", **fields: Any) -> Message:
    return Message("ex", key, body, uuid=fields.pop("uuid", body.decode("latin-1")), **fields)


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


async def line_of(child: subprocess.Popen[str]) -> str:
    """The child's next line; empty at its end."""
    assert child.stdout is not None
    return (await soon(asyncio.to_thread(child.stdout.readline))).strip()


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
