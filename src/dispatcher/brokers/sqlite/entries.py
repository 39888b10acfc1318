"""What passes between a session's event loop and its writer thread: operations one way, rows the other.

Data only. A `Window` belongs to the writer thread from the moment its consumer starts; nobody else reads its count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from ..base import BrokerEvent, Cancel, Message

__all__ = [
    "MESSAGE_COLUMNS",
    "Batch",
    "Call",
    "Publish",
    "Results",
    "Row",
    "Settled",
    "Window",
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

    def __bool__(self) -> bool:
        return bool(self.publishes or self.acks or self.rejects or self.calls)

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

    __slots__ = ("answers", "cancels", "deliveries", "ended", "events")

    def __init__(self) -> None:
        self.answers: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        self.deliveries: list[tuple[Window, list[Row]]] = []
        self.events: list[BrokerEvent] = []
        self.cancels: list[Cancel] = []
        self.ended: BaseException | None = None

    def __bool__(self) -> bool:
        return bool(self.answers or self.deliveries or self.events or self.cancels or self.ended)
