"""A message in a queue, the queue, and a consumer's window, as the memory broker holds them.

Data without behaviour: only `store` changes it, under its lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..base import DEFAULT_PRIORITY, Message

__all__ = ["DELAYED", "GONE", "HELD", "READY", "Entry", "QueueState", "Window"]

READY, DELAYED, HELD, GONE = range(4)


class Entry:
    """One message in one queue. The heaps are never searched: what is removed is marked `GONE` and skipped there."""

    __slots__ = (
        "deaths",
        "headers",
        "key",
        "message",
        "published_at_ms",
        "queue",
        "rank",
        "redelivered",
        "state",
        "window",
    )

    def __init__(self, key: int, queue: QueueState, message: Message, headers: bytes | None, now_ms: int) -> None:
        self.key = key
        self.queue = queue
        self.message = message
        self.headers = headers
        self.published_at_ms = now_ms
        self.rank = -(DEFAULT_PRIORITY if message.priority is None else message.priority)
        self.state = READY
        self.redelivered = False
        self.deaths = 0
        self.window: Window | None = None


class Window:
    """The store's side of one consumer: what has arrived for it, and how many more it has room for.

    `held` is shared by all windows of a session and maps keys to entries that it has not settled.
    `wake` is called with the caller's event loop, in any thread, after something may have arrived.
    """

    __slots__ = ("arrived", "held", "prefetch", "queue", "unsettled", "wake")

    def __init__(
        self,
        queue: QueueState,
        prefetch: int,
        held: dict[int, Entry],
        wake: Callable[[asyncio.AbstractEventLoop], None],
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.held = held
        self.wake = wake
        self.unsettled = 0
        self.arrived: deque[Entry] = deque()


class QueueState:
    """One queue. `entries` is in order of arrival; heaps order what is ready (by priority) and delayed (by due time).

    `held` counts the entries that consumers hold; None for a limit means that there is none.
    """

    __slots__ = ("delayed", "delivery_limit", "entries", "held", "max_length", "name", "ready", "windows")

    def __init__(self, name: str, *, delivery_limit: int | None, max_length: int | None) -> None:
        self.name = name
        self.delivery_limit = delivery_limit
        self.max_length = max_length
        self.entries: dict[int, Entry] = {}
        self.ready: list[tuple[int, int, Entry]] = []
        self.delayed: list[tuple[int, int, Entry]] = []
        self.windows: deque[Window] = deque()
        self.held = 0

    @property
    def waiting(self) -> int:
        """How many messages no consumer holds: the ready and the delayed."""
        return len(self.entries) - self.held
