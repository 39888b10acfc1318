"""The broker that keeps its messages in this process: for tests and trials, gone when the process ends.

`store` holds the messages and decides, `session` is its asyncio face, `inspector` looks around, and
`schedules` says who fires what. Nothing here touches
a file or a socket, and nothing here may be weaker than the durable brokers: the conformance suite runs over all.
"""

from __future__ import annotations

from ..base import OnEvent, TopologyDiffers
from .schedules import Book
from .session import MemorySession
from .store import Store, wall_clock_ms

__all__ = ["MemoryBroker", "MemorySession"]


class MemoryBroker:
    """Messages in memory. Each broker object is a world of its own; its sessions may live on several event loops."""

    def __init__(self) -> None:
        self._store = Store(wall_clock_ms)
        self._told: set[TopologyDiffers] = set()
        self._book = Book(wall_clock_ms)

    def __repr__(self) -> str:
        return "MemoryBroker()"

    async def connect(self, *, name: str, on_event: OnEvent) -> MemorySession:
        """Open a session on the running event loop. `name` is shown in its errors. Cannot fail."""
        return MemorySession(self._store, name, on_event, self._told, self._book)
