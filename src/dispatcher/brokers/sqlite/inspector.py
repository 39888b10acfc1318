"""Looking around in the file for tools: depths, browsing, removing. Reads on connections of its own.

A read here lasts one page of results at most: a long one would keep the log from starting anew and let it grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing
from functools import partial
from typing import Any

from ...errors import TopologyMismatch
from ..base import BrowsedMessage, DelayBand, Message, QueueDepth
from ..delays import BANDS
from ..headers import decode_headers
from .faults import sqlite, storage_error
from .file import connect
from .place import Place
from .schema import PRIORITIES
from .store import PLAIN_CONTENT, Store, Work, wall_clock_ms

__all__ = ["SqliteInspector"]

PAGE_MESSAGES = 100
PURGE_MESSAGES = 2000

DEPTH = (
    "SELECT q.name, (SELECT count(*) FROM ready r WHERE r.queue_id = q.id)"
    " + (SELECT count(*) FROM delayed d WHERE d.queue_id = q.id AND d.ready_at_ms <= :now),"
    " (SELECT count(*) FROM held h JOIN messages m ON m.id = h.id WHERE m.queue_id = q.id),"
    " (SELECT count(*) FROM delayed d WHERE d.queue_id = q.id AND d.ready_at_ms > :now),"
    " (SELECT count(*) FROM consumers c WHERE c.queue_id = q.id),"
    " CASE WHEN q.dead IS NOT NULL THEN (SELECT count(*) FROM ready r WHERE r.queue_id = q.dead)"
    " + (SELECT count(*) FROM delayed d WHERE d.queue_id = q.dead)"
    " + (SELECT count(*) FROM held h JOIN messages m ON m.id = h.id WHERE m.queue_id = q.dead) END"
    " FROM queues q WHERE "
)

_BOUNDS = ", ".join(f"({start}, {'NULL' if end is None else end})" for start, end in BANDS)
DELAYED = (
    "SELECT * FROM (SELECT b.column1, b.column2, (SELECT count(*) FROM delayed d WHERE d.queue_id = q.id"
    " AND d.ready_at_ms > :now + b.column1 * 1000 AND d.ready_at_ms <= ifnull(:now + b.column2 * 1000, :never)) AS waiting,"
    f" q.name FROM queues q, (VALUES {_BOUNDS}) b) WHERE waiting > 0 ORDER BY name, column1"
)

_NEXT_READY = " UNION ALL ".join(
    f"SELECT * FROM (SELECT id, 0 AS due FROM ready WHERE queue_id = :queue AND rank = {rank} AND id > :after"
    " ORDER BY id LIMIT :limit)"
    for rank in range(PRIORITIES)
)
BROWSE = (
    "SELECT m.id, m.deliveries, m.published_at_ms, m.priority, m.exchange, m.routing_key, m.uuid, m.content_type, m.headers,"
    f" m.body, w.due FROM (SELECT * FROM ({_NEXT_READY} UNION ALL"
    " SELECT * FROM (SELECT id, ready_at_ms AS due FROM delayed WHERE queue_id = :queue AND id > :after"
    " ORDER BY id LIMIT :limit)) ORDER BY id LIMIT :limit) w JOIN messages m ON m.id = w.id ORDER BY m.id"
)


class SqliteInspector:
    """See `brokers.base.Inspector`. `call` runs something in a transaction of the session's writer thread."""

    def __init__(self, place: Place, store: Store, call: Callable[[Callable[[Work], Any]], Awaitable[Any]]) -> None:
        self._place = place
        self._store = store
        self._call = call

    async def queues(self) -> list[QueueDepth]:
        rows = await self._read(DEPTH + "q.dead IS NOT NULL ORDER BY q.name", {"now": wall_clock_ms()})
        return [QueueDepth(*row) for row in rows]

    async def depth(self, queue: str) -> QueueDepth:
        rows = await self._read(DEPTH + "q.name = :name", {"now": wall_clock_ms(), "name": queue})
        if not rows:
            raise _no_such_queue(queue)
        return QueueDepth(*rows[0])

    async def delayed(self) -> list[DelayBand]:
        rows = await self._read(DELAYED, {"now": wall_clock_ms(), "never": 2**63 - 1})
        return [DelayBand(*row) for row in rows]

    async def browse(self, queue: str) -> AsyncGenerator[BrowsedMessage, None]:
        found = await self._read("SELECT id FROM queues WHERE name = ?", (queue,))
        if not found:
            raise _no_such_queue(queue)
        after = 0
        while True:
            rows = await self._read(BROWSE, {"queue": found[0][0], "after": after, "limit": PAGE_MESSAGES})
            for row in rows:
                yield _browsed(row)
            if len(rows) < PAGE_MESSAGES:
                return
            after = rows[-1][0]

    async def remove(self, queue: str, key: int) -> bool:
        return bool(await self._call(partial(_remove, self._store, queue, key)))

    async def purge(self, queue: str) -> int:
        total = 0
        while True:
            gone = int(await self._call(partial(_purge, self._store, queue)))
            total += gone
            if gone < PURGE_MESSAGES:
                return total

    async def _read(self, query: str, values: Any) -> list[Any]:
        return await asyncio.to_thread(self._read_now, query, values)

    def _read_now(self, query: str, values: Any) -> list[Any]:
        self._place.check()  # connecting to a file that is gone would create an empty one
        try:
            with closing(connect(self._place.path)) as connection:
                rows: list[Any] = connection.execute(query, values).fetchall()
                return rows
        except sqlite().Error as error:
            raise storage_error(error, self._place.path) from error


def _remove(store: Store, queue: str, key: int, work: Work) -> bool:
    return _drop(store, store.catalog.queue(queue).id, [key], work) == 1


def _purge(store: Store, queue: str, work: Work) -> int:
    queue_id = store.catalog.queue(queue).id
    rows = store.connection.execute(
        "SELECT id FROM (SELECT id FROM ready WHERE queue_id = ? UNION ALL SELECT id FROM delayed WHERE queue_id = ?) LIMIT ?",
        (queue_id, queue_id, PURGE_MESSAGES),
    ).fetchall()
    return _drop(store, queue_id, [row[0] for row in rows], work)


def _drop(store: Store, queue_id: int, ids: list[int], work: Work) -> int:
    """Delete those of `ids` that wait in a queue; says how many."""
    execute = store.connection.execute
    dropped = 0
    for id in ids:
        found = execute("SELECT rank FROM messages WHERE id = ? AND queue_id = ?", (id, queue_id)).fetchone()
        if found is None or execute("SELECT 1 FROM held WHERE id = ?", (id,)).fetchone():
            continue
        execute("DELETE FROM ready WHERE queue_id = ? AND rank = ? AND id = ?", (queue_id, found[0], id))
        execute("DELETE FROM messages WHERE id = ?", (id,))
        dropped += 1
    # No index leads from an id to its delay; a pass over what is delayed in this queue finds them all at once.
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        execute(f"DELETE FROM delayed WHERE queue_id = ? AND id IN ({','.join('?' * len(part))})", (queue_id, *part))
    store.count(queue_id, -dropped, work)
    work.pages += dropped // 4
    return dropped


def _no_such_queue(queue: str) -> TopologyMismatch:
    return TopologyMismatch(f"expected a queue that exists, got {queue!r}; declare it first")


def _browsed(row: Any) -> BrowsedMessage:
    key, deliveries, published_at_ms, priority, exchange, routing_key, uuid, content_type, headers, body, due_ms = row
    message = Message(
        exchange=exchange,
        routing_key=routing_key,
        body=body,
        uuid=uuid,
        headers=decode_headers(headers),
        priority=priority,
        ready_at_ms=due_ms or None,
        content_type=content_type or PLAIN_CONTENT,
    )
    return BrowsedMessage(key, message, deliveries, published_at_ms)
