"""What the integration tests share: an observer that can be waited for, and a server with its worker."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

import pytest

from dispatcher import ConnectionLost, Server, TaskConfig, Worker, WorkerConfig
from dispatcher.brokers.base import Message, Session
from dispatcher.brokers.memory import MemorySession
from dispatcher.brokers.sqlite import SqliteBroker
from dispatcher.observe.hooks import AnyEvent

__all__ = ["DEADLINE_SECONDS", "Bench", "Recorder"]

DEADLINE_SECONDS = 30.0


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


class Bench:
    """A server with one worker on queue `q`, bound to the default routing key."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def worker(self, *, name: str = "w", limit: int = 8, start: bool = True, **tasks: TaskConfig) -> Worker:
        worker = await self.server.new_worker(WorkerConfig(name, "q", ("rk",), limit), tasks)
        if start:
            await worker.start()
        return worker

    async def lose(self, session: Session) -> None:
        """End the server's session as a broken link would, and wait until the session knows."""
        if isinstance(session, MemorySession):
            session.lose()
        else:
            await self._declare_dead(session)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait([session.closed])

    async def _declare_dead(self, session: Session) -> None:
        """As if the process were of an earlier boot of this machine: another session releases what it held."""
        path = self.server.config.url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=DEADLINE_SECONDS)) as connection, connection:
            connection.execute("UPDATE sessions SET boot_id = 'an earlier one'")
        other = await SqliteBroker(path).connect(name="reaper", on_event=lambda event: None)
        await other.close()
        with pytest.raises(ConnectionLost):
            await session.publish(Message("ex", "rk", b""))

    async def depth(self) -> tuple[int, int | None, int | None, int | None]:
        """Ready, unacked, delayed and dead of queue `q`."""
        depth = await (await self.server.live_session()).inspector.depth("q")
        return depth.ready, depth.unacked, depth.delayed, depth.dead

    async def dead_letter(self) -> dict[str, Any]:
        """The headers of the only dead letter."""
        letters = [letter async for letter in self.server.inspector.browse("q.dead")]
        assert len(letters) == 1
        return dict(letters[0].message.headers or {})
