"""Looking around in a memory broker: depths, browsing, removing. Wakes nobody and takes nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ..base import BrowsedMessage, DelayBand, QueueDepth
from .store import Store

__all__ = ["MemoryInspector"]

BROWSE_AT_ONCE = 100


class MemoryInspector:
    """See `brokers.base.Inspector`. What waits is what no consumer holds: the ready and the delayed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def queues(self) -> list[QueueDepth]:
        return self._store.depths()

    async def depth(self, queue: str) -> QueueDepth:
        return self._store.depth(queue)

    async def delayed(self) -> list[DelayBand]:
        return self._store.delayed()

    async def browse(self, queue: str) -> AsyncGenerator[BrowsedMessage, None]:
        after_key = 0
        while found := self._store.browse(queue, after_key, BROWSE_AT_ONCE):
            for message in found:
                yield message
            after_key = found[-1].key

    async def remove(self, queue: str, key: int) -> bool:
        return self._store.remove(queue, key)

    async def purge(self, queue: str) -> int:
        return self._store.purge(queue)
