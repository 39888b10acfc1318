"""The cancels of the embedded broker: rows of one table, and a look at it every quarter of a second by who runs tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..base import Cancel, oldest_cancel_ms
from .store import Work

__all__ = ["CancelTable", "SqliteCancels"]


class CancelTable:
    """The statements of one session on it, for its writer thread."""

    def __init__(self, connection: Any, now_ms: Callable[[], int]) -> None:
        self._execute = connection.execute
        self._now_ms = now_ms
        self._seen: int | None = None

    def add(self, cancel: Cancel, work: Work) -> None:
        self._execute(
            "INSERT INTO cancels (exchange, uuid, cancelled_at_ms) VALUES (?, ?, ?)",
            (cancel.exchange, cancel.uuid, cancel.cancelled_at_ms),
        )
        # By id, which is nearly the order of time: the oldest are its first rows, and no other is looked at.
        oldest_ms = oldest_cancel_ms(self._now_ms())
        self._execute(
            "DELETE FROM cancels WHERE id < coalesce("
            "(SELECT id FROM cancels WHERE cancelled_at_ms >= ? ORDER BY id LIMIT 1), 0)",
            (oldest_ms,),
        )
        work.pages += 2

    def begin(self, work: Work) -> list[Cancel]:
        """All there are; from now on `news` has what came since."""
        self._seen = 0
        return self.news()

    def news(self) -> list[Cancel]:
        """What came since it was last asked; nothing before `begin`."""
        if self._seen is None:
            return []
        rows = self._execute(
            "SELECT id, exchange, uuid, cancelled_at_ms FROM cancels WHERE id > ? ORDER BY id", (self._seen,)
        ).fetchall()
        if rows:
            self._seen = rows[-1][0]
        return [Cancel(*row[1:]) for row in rows]


class SqliteCancels:
    """See `brokers.base.Cancels`. `call` runs something in a transaction of the session's thread."""

    def __init__(
        self,
        table: CancelTable,
        call: Callable[[Callable[[Work], Any]], Awaitable[Any]],
        watchers: list[Callable[[Cancel], None]],
    ) -> None:
        self._table = table
        self._call = call
        self._watchers = watchers

    async def add(self, cancel: Cancel) -> None:
        await self._call(lambda work: self._table.add(cancel, work))

    async def watch(self, on_cancel: Callable[[Cancel], None]) -> asyncio.Future[None]:
        self._watchers.append(on_cancel)
        try:
            recorded = await self._call(self._table.begin)
        except BaseException:
            self._watchers.remove(on_cancel)
            raise
        for cancel in recorded:
            on_cancel(cancel)
        return asyncio.get_running_loop().create_future()  # it is told for as long as the session lives
