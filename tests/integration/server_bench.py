"""What the integration tests share: an observer that can be waited for, a server with its worker, and hands in the broker."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import pytest
from rabbitmq_admin import Admin

from dispatcher import ConnectionLost, Server, TaskConfig, Worker, WorkerConfig
from dispatcher.brokers import open_broker
from dispatcher.brokers.base import BrowsedMessage, Message, Session
from dispatcher.brokers.memory import MemorySession
from dispatcher.brokers.sqlite import SqliteBroker
from dispatcher.model.topology import DELAY_EXCHANGE, dead_queue
from dispatcher.observe.hooks import AnyEvent

__all__ = ["DEADLINE_SECONDS", "Bench", "Depth", "EmbeddedHands", "Hands", "RabbitHands", "Recorder", "eventually"]

DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.01

T = TypeVar("T")

Depth: TypeAlias = tuple[int, int, int, int]
"""Ready, unacked, delayed and dead."""


class Recorder:
    """An observer that keeps every event, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self._changed = asyncio.Event()

    def on_event(self, event: AnyEvent) -> None:
        self.events.append(event)
        self._changed.set()

    def named(self, name: str) -> list[Any]:
        return [event for event in self.events if event.name == name]

    async def wait_for(self, name: str, count: int = 1) -> list[Any]:
        """The first `count` events of that name, once they are there."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.named(name)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.named(name)[:count]


async def eventually(look: Callable[[], Awaitable[T]], expected: T) -> None:
    """Wait until `look` returns `expected`."""
    found: T | None = None
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (found := await look()) != expected:
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        pytest.fail(f"expected it to become {expected!r}, it stayed {found!r}")


class Hands(Protocol):
    """What a test does in the broker, and sees of it, without the session under test."""

    async def cut(self, server: Server, session: Session) -> None:
        """End `session` as a broken link would; what it held is ready again on return, or a moment later."""

    async def depth(self, server: Server, queue: str) -> Depth: ...

    async def browse(self, server: Server, queue: str) -> list[BrowsedMessage]: ...


class EmbeddedHands:
    """In memory and in the file. `delayed` is what is delayed for this queue."""

    async def cut(self, server: Server, session: Session) -> None:
        if isinstance(session, MemorySession):
            session.lose()
            return
        # As if the process were of an earlier boot of this machine: another session releases what it held.
        path = server.config.url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=DEADLINE_SECONDS)) as connection, connection:
            connection.execute("UPDATE sessions SET boot_id = 'an earlier one'")
        other = await SqliteBroker(path).connect(name="reaper", on_event=lambda event: None)
        await other.close()
        with pytest.raises(ConnectionLost):
            await session.publish(Message("ex", "rk", b""))

    async def depth(self, server: Server, queue: str) -> Depth:
        depth = await (await server.live_session()).inspector.depth(queue)
        assert depth.unacked is not None and depth.delayed is not None and depth.dead is not None
        return depth.ready, depth.unacked, depth.delayed, depth.dead

    async def browse(self, server: Server, queue: str) -> list[BrowsedMessage]:
        return [seen async for seen in server.inspector.browse(queue)]


@dataclass(frozen=True)
class RabbitHands:
    """In the node that has the vhost. `delayed` is what is delayed in the whole vhost, whatever it is for.

    `url`: the vhost for a user who may look into every queue, which the server's need not.
    """

    admin: Admin
    vhost: str
    url: str

    async def cut(self, server: Server, session: Session) -> None:
        assert await asyncio.to_thread(self.admin.close_all_connections, self.vhost) > 0

    async def depth(self, server: Server, queue: str) -> Depth:
        counts = await asyncio.to_thread(self.admin.counts, self.vhost)
        delayed = sum(sum(count) for name, count in counts.items() if name.startswith(DELAY_EXCHANGE + "."))
        return *counts[queue], delayed, sum(counts[dead_queue(queue)])

    async def browse(self, server: Server, queue: str) -> list[BrowsedMessage]:
        session = await open_broker(self.url).connect(name="browse", on_event=lambda event: None)
        try:
            return [seen async for seen in session.inspector.browse(queue)]
        finally:
            await session.close()


class Bench:
    """A server with one worker on queue `q`, bound to the default routing key."""

    def __init__(self, server: Server, hands: Hands) -> None:
        self.server = server
        self._hands = hands

    async def worker(self, *, name: str = "w", limit: int = 8, start: bool = True, **tasks: TaskConfig) -> Worker:
        worker = await self.server.new_worker(WorkerConfig(name, "q", ("rk",), limit), tasks)
        if start:
            await worker.start()
        return worker

    async def lose(self, session: Session) -> None:
        """End the server's session as a broken link would, and wait until the session knows."""
        await self._hands.cut(self.server, session)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait([session.closed])

    async def depth(self) -> Depth:
        """Ready, unacked, delayed and dead of queue `q`."""
        return await self._hands.depth(self.server, "q")

    async def becomes(self, *expected: int) -> None:
        """Wait until the depth of `q` begins with `expected`: nobody waits for an ack or a hand-back to arrive."""

        async def look() -> tuple[int, ...]:
            return (await self.depth())[: len(expected)]

        await eventually(look, expected)

    async def dead_letters(self) -> list[Message]:
        return [letter.message for letter in await self._hands.browse(self.server, "q.dead")]

    async def dead_letter(self) -> dict[str, Any]:
        """The headers of the only dead letter."""
        [letter] = await self.dead_letters()
        return dict(letter.headers or {})
