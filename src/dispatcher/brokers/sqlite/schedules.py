"""Who leads which schedule, in the file: a row for each, with the session that leads it and the last firing.

A session whose row is gone leads nothing any more, so that whoever finds a session dead frees what it led without knowing
of it. A firing is one transaction: its messages and the row, fenced by the session.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from ...errors import BrokerBlocked, ConnectionLost, DispatcherError
from ..base import Message
from ..headers import encode_headers
from .entries import Publish
from .store import Store, Work

__all__ = ["SqliteLead", "SqliteSchedules"]

LOOK_SECONDS = 0.25
"""How often a session that waits looks whether anything has changed; that costs it no statement."""


class _Engine(Protocol):
    """What is needed of the engine."""

    @property
    def store(self) -> Store: ...
    @property
    def is_blocked(self) -> bool: ...


_Call = Callable[[Callable[[Work], Any]], Awaitable[Any]]
"""Runs something in a transaction of the session's writer thread."""


class SqliteLead:
    """See `brokers.base.Lead`."""

    is_doubtful = False

    def __init__(
        self, call: _Call, engine: _Engine, exchange: str, name: str, since_ms: int, fired_ms: int | None
    ) -> None:
        self._call = call
        self._engine = engine
        self._key = (exchange, name)
        self.since_ms = since_ms
        self.fired_ms = fired_ms
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lose(self, *_: object) -> None:
        """This session leads no more."""
        if not self.lost.done():
            self.lost.set_result(None)

    async def fire(self, message: Message, fired_ms: int) -> None:
        if self.lost.done():
            raise ConnectionLost(f"schedule {self._key[1]!r} is led by this session no more")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        publish = (message, encode_headers(message.headers, message.uuid), future)
        await self._call(partial(_fire, self._engine, self._key, publish, fired_ms))
        self.fired_ms = fired_ms

    async def resign(self) -> None:
        if self.lost.done():
            return
        try:
            await self._call(partial(_resign, self._engine.store, self._key))
        except DispatcherError:
            pass  # the session has ended, and with it the lead
        finally:
            self.lose()


class SqliteSchedules:
    """See `brokers.base.Schedules`. One for each session; `closed` is the session's."""

    def __init__(self, call: _Call, engine: _Engine, closed: asyncio.Future[None]) -> None:
        self._call = call
        self._engine = engine
        self._closed = closed
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}

    async def lead(self, exchange: str, name: str) -> SqliteLead:
        # The file knows sessions only: of two who ask in one, the second waits here.
        turn = self._turns.setdefault((exchange, name), asyncio.Lock())
        await turn.acquire()
        try:
            lead = await self._lead(exchange, name)
        except BaseException:
            turn.release()
            raise
        lead.lost.add_done_callback(lambda _: turn.release())
        return lead

    async def _lead(self, exchange: str, name: str) -> SqliteLead:
        store = self._engine.store
        while True:
            epoch, row = await self._take(exchange, name)
            if row is not None:
                lead = SqliteLead(self._call, self._engine, exchange, name, *row)
                self._closed.add_done_callback(lead.lose)
                lead.lost.add_done_callback(partial(self._forget, lead))
                return lead
            # The end of any session, and a leader that resigns, raise the epoch; each tick of the writer thread reads it.
            while store.catalog.epoch == epoch and not self._closed.done():
                await asyncio.wait([self._closed], timeout=LOOK_SECONDS)

    def _forget(self, lead: SqliteLead, _: object) -> None:
        self._closed.remove_done_callback(lead.lose)

    async def _take(self, exchange: str, name: str) -> tuple[int, tuple[int, int | None] | None]:
        taking = asyncio.ensure_future(self._call(partial(_take, self._engine.store, (exchange, name))))
        try:
            taken: tuple[int, tuple[int, int | None] | None] = await asyncio.shield(taking)
            return taken
        except asyncio.CancelledError:
            # It may have been taken by now, and nobody would lead it.
            with contextlib.suppress(DispatcherError):  # then the session has ended, and leads nothing
                await taking
                await self._call(partial(_resign, self._engine.store, (exchange, name)))
            raise

    async def fired_ms(self, exchange: str, name: str) -> int | None:
        fired: int | None = await self._call(partial(_fired, self._engine.store, (exchange, name)))
        return fired


# --- inside a transaction of the writer thread ------------------------------------------------------------------------


def _take(store: Store, key: tuple[str, str], work: Work) -> tuple[int, tuple[int, int | None] | None]:
    """Take the lead if nobody alive has it: the epoch at which that was seen, and since when, and the last firing."""
    execute, epoch = store.connection.execute, store.catalog.epoch
    row = execute("SELECT session, since_ms, fired_ms FROM schedules WHERE exchange = ? AND name = ?", key).fetchone()
    if row is None:
        row = (None, store.now_ms(), None)
        execute("INSERT INTO schedules (exchange, name, since_ms) VALUES (?, ?, ?)", (*key, row[1]))
    session, *times = row
    if session in store.catalog.sessions and session != store.session:
        return epoch, None
    execute("UPDATE schedules SET session = ? WHERE exchange = ? AND name = ?", (store.session, *key))
    return epoch, (times[0], times[1])


def _resign(store: Store, key: tuple[str, str], work: Work) -> None:
    let_go = store.connection.execute(
        "UPDATE schedules SET session = NULL WHERE exchange = ? AND name = ? AND session = ?", (*key, store.session)
    )
    if let_go.rowcount:
        store.changed_catalog(work)  # so that those who wait look again


def _fire(engine: _Engine, key: tuple[str, str], publish: Publish, fired_ms: int, work: Work) -> None:
    store = engine.store
    if engine.is_blocked:
        raise BrokerBlocked("the disk is full, or nearly; make room on it", uuid=publish[0].uuid)
    moved = store.connection.execute(
        "UPDATE schedules SET fired_ms = ? WHERE exchange = ? AND name = ? AND session = ?",
        (fired_ms, *key, store.session),
    )
    if not moved.rowcount:
        raise ConnectionLost(f"schedule {key[1]!r} is led by another session")
    [error] = store.insert([publish], work)
    if error is not None:
        raise error


def _fired(store: Store, key: tuple[str, str], work: Work) -> int | None:
    query = "SELECT fired_ms FROM schedules WHERE exchange = ? AND name = ?"
    row = store.connection.execute(query, key).fetchone()
    return None if row is None else row[0]
