"""What passes between a session's event loop and its writer thread: operations one way, rows the other.

Data only. A `Window` belongs to the writer thread from the moment its consumer starts; nobody else reads its count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from ...errors import ArgumentError
from ..base import BrokerEvent, Headers, Message

__all__ = [
    "MESSAGE_COLUMNS",
    "Batch",
    "Call",
    "Publish",
    "Results",
    "Row",
    "Settled",
    "Window",
    "decode_headers",
    "encode_headers",
]

Row: TypeAlias = tuple[int, int, int, int, int | None, str, str, str, str | None, bytes | None, bytes]
"""A claimed message: rank, again, then the columns below."""

MESSAGE_COLUMNS = "m.id, m.deliveries, m.priority, m.exchange, m.routing_key, m.uuid, m.content_type, m.headers, m.body"


class Window:
    """The writer thread's side of one consumer. `held`: how many of its deliveries are unsettled, of `prefetch`."""

    __slots__ = ("consumer", "held", "key", "prefetch", "queue", "queue_id")

    def __init__(self, consumer: Any, queue: str, prefetch: int) -> None:
        self.consumer = consumer
        self.queue = queue
        self.queue_id = 0
        self.key = 0
        self.prefetch = prefetch
        self.held = 0


Publish: TypeAlias = tuple[Message, bytes | None, asyncio.Future[None]]
"""A message, its encoded headers, and what to tell."""

Settled: TypeAlias = tuple[int, Window]
"""The id of a message and the window that held it."""

Call: TypeAlias = tuple[Callable[..., Any], asyncio.Future[Any]]
"""Something rare to do inside the transaction, and where its result goes."""


class Batch:
    """What an event loop asks of its writer thread in one of its turns, in order within each list."""

    __slots__ = ("acks", "calls", "publishes", "rejects")

    def __init__(self) -> None:
        self.publishes: list[Publish] = []
        self.acks: list[Settled] = []
        self.rejects: list[Settled] = []
        self.calls: list[Call] = []

    def __len__(self) -> int:
        return len(self.publishes) + len(self.acks) + len(self.rejects) + len(self.calls)

    def take(self, other: Batch) -> None:
        """Append what `other` holds."""
        self.publishes += other.publishes
        self.acks += other.acks
        self.rejects += other.rejects
        self.calls += other.calls

    def singles(self) -> list[Batch]:
        """The same, one operation a batch; settlements cannot fail by what they hold and stay together."""
        parts: list[Batch] = []
        settlements = Batch()
        settlements.acks, settlements.rejects = self.acks, self.rejects
        if settlements:
            parts.append(settlements)
        for publish in self.publishes:
            parts.append(Batch())
            parts[-1].publishes.append(publish)
        for call in self.calls:
            parts.append(Batch())
            parts[-1].calls.append(call)
        return parts


class Results:
    """What a writer thread has to tell its event loop after one transaction."""

    __slots__ = ("answers", "deliveries", "ended", "events")

    def __init__(self) -> None:
        self.answers: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        self.deliveries: list[tuple[Window, list[Row]]] = []
        self.events: list[BrokerEvent] = []
        self.ended: BaseException | None = None

    def __bool__(self) -> bool:
        return bool(self.answers or self.deliveries or self.events or self.ended)


def encode_headers(headers: Headers | None, uuid: str) -> bytes | None:
    """`headers` as stored, None for none. `ArgumentError` for a type that would not come back as it went."""
    if not headers:
        return None
    try:
        return msgspec.msgpack.encode(_table(headers))
    except (TypeError, OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise ArgumentError(
            "headers: expected strings, booleans, 64-bit integers, floats, bytes, datetimes with a time zone, None,"
            f" and lists and tables of those; message {uuid!r} has another: {error}"
        ) from error


def decode_headers(raw: bytes | None) -> dict[str, Any]:
    """The headers of a message, as a new mapping each time."""
    return {} if raw is None else msgspec.msgpack.decode(raw, type=dict[str, Any])


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    for name in table:
        if type(name) is not str:
            raise TypeError(f"the name {name!r}")
    return {name: _plain(value) for name, value in table.items()}


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (str, int, float, bool, bytes):
        return value
    if kind is datetime and value.tzinfo is not None:
        return value
    if kind in (list, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return _table(value)
    raise TypeError(f"{kind.__name__} {value!r}")
