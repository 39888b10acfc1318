"""Who leads which schedule, in memory: one entry for each, under a lock of its own, and those who wait for it.

Sessions may be on different event loops, in different threads; each is woken on its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ...errors import ConnectionLost
from ..base import Message

__all__ = ["Book", "MemoryLead", "MemorySchedules"]


class _Entry:
    """One schedule. `leader` is None where nobody leads; `waiting` are to be told when that changes."""

    def __init__(self, since_ms: int) -> None:
        self.since_ms = since_ms
        self.fired_ms: int | None = None
        self.leader: MemoryLead | None = None
        self.waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []


class Book:
    """The schedules of one memory broker, by exchange and name."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.lock = threading.Lock()
        self.entries: dict[tuple[str, str], _Entry] = {}
        self.now_ms = now_ms

    def take(self, key: tuple[str, str], lead: MemoryLead, changed: asyncio.Event) -> bool:
        """Enter `lead` if nobody leads; else have `changed` set when that may have changed."""
        with self.lock:
            entry = self.entries.setdefault(key, _Entry(self.now_ms()))
            lead.since_ms, lead.fired_ms = entry.since_ms, entry.fired_ms
            if entry.leader is None or entry.leader.loop.is_closed():
                entry.leader = lead
                return True
            entry.waiting.append((asyncio.get_running_loop(), changed))
            return False

    def leave(self, key: tuple[str, str], lead: MemoryLead) -> None:
        """Let another lead, if `lead` does."""
        with self.lock:
            entry = self.entries[key]
            if entry.leader is not lead:
                return
            entry.leader = None
            waiting, entry.waiting = entry.waiting, []
        for loop, changed in waiting:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                pass  # that event loop was closed, and nobody waits there any more

    def fire(self, key: tuple[str, str], lead: MemoryLead, fired_ms: int) -> None:
        """Note a firing; `ConnectionLost` if `lead` does not lead."""
        with self.lock:
            entry = self.entries[key]
            if entry.leader is not lead:
                raise ConnectionLost(f"schedule {key[1]!r} is led by this session no more")
            entry.fired_ms = fired_ms


class _Session(Protocol):
    """What is needed of a session."""

    @property
    def closed(self) -> asyncio.Future[None]: ...
    def publish(self, message: Message) -> asyncio.Future[None]: ...


class MemoryLead:
    """See `brokers.base.Lead`."""

    is_doubtful = False

    def __init__(self, book: Book, session: _Session, key: tuple[str, str]) -> None:
        self._book = book
        self._session = session
        self._key = key
        self.loop = asyncio.get_running_loop()
        self.since_ms = 0
        self.fired_ms: int | None = None
        self.lost: asyncio.Future[None] = self.loop.create_future()

    def lose(self, *_: object) -> None:
        """This session leads no more."""
        self._book.leave(self._key, self)
        if not self.lost.done():
            self.lost.set_result(None)

    async def fire(self, message: Message, fired_ms: int) -> None:
        if self.lost.done():
            raise ConnectionLost(f"schedule {self._key[1]!r} is led by this session no more")
        await self._session.publish(message)  # done when it returns: nobody comes between this and the next line
        self._book.fire(self._key, self, fired_ms)
        self.fired_ms = fired_ms

    async def resign(self) -> None:
        self._session.closed.remove_done_callback(self.lose)
        self.lose()


class MemorySchedules:
    """See `brokers.base.Schedules`."""

    def __init__(self, book: Book, session: _Session) -> None:
        self._book = book
        self._session = session

    async def lead(self, exchange: str, name: str) -> MemoryLead:
        closed, key, changed = self._session.closed, (exchange, name), asyncio.Event()
        lead = MemoryLead(self._book, self._session, key)
        wake = partial(_set, changed)
        closed.add_done_callback(wake)
        try:
            while not closed.done():
                changed.clear()
                if self._book.take(key, lead, changed):
                    closed.add_done_callback(lead.lose)
                    return lead
                await changed.wait()
        finally:
            closed.remove_done_callback(wake)
        raise ConnectionLost("this session has ended; connect again")

    async def fired_ms(self, exchange: str, name: str) -> int | None:
        entry = self._book.entries.get((exchange, name))
        return None if entry is None else entry.fired_ms


def _set(changed: asyncio.Event, _: object) -> None:
    changed.set()
