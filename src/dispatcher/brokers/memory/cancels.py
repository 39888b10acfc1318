"""The cancels of a memory broker: a list, and who is to be told of what is added to it. Nobody is called under its lock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from ..base import Cancel, oldest_cancel_ms

__all__ = ["CancelLog", "MemoryCancels"]

Tell = Callable[[Cancel], None]


class CancelLog:
    """All cancels of one memory broker, of the last `CANCEL_DAYS` days. `now_ms` is its clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._cancels: list[Cancel] = []
        self._watchers: list[tuple[asyncio.AbstractEventLoop, Tell]] = []

    def add(self, cancel: Cancel) -> None:
        oldest_ms = oldest_cancel_ms(self._now_ms())
        with self._lock:
            self._cancels = [one for one in self._cancels if one.cancelled_at_ms >= oldest_ms]
            self._cancels.append(cancel)
            watchers = list(self._watchers)
        for loop, tell in watchers:
            try:
                loop.call_soon_threadsafe(tell, cancel)
            except RuntimeError:
                pass  # that loop was closed before its session: nobody runs anything there any more

    def watch(self, loop: asyncio.AbstractEventLoop, tell: Tell) -> list[Cancel]:
        """Have `tell` called on `loop` for every cancel to come; returns those that were."""
        with self._lock:
            self._watchers.append((loop, tell))
            return list(self._cancels)

    def forget(self, tell: Tell) -> None:
        with self._lock:
            self._watchers = [watcher for watcher in self._watchers if watcher[1] is not tell]


class MemoryCancels:
    """See `brokers.base.Cancels`. `closed` is that of the session."""

    def __init__(self, log: CancelLog, closed: asyncio.Future[None]) -> None:
        self._log = log
        self._closed = closed

    async def add(self, cancel: Cancel) -> None:
        self._log.add(cancel)

    async def watch(self, on_cancel: Tell) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        for cancel in self._log.watch(loop, on_cancel):
            on_cancel(cancel)
        self._closed.add_done_callback(lambda _: self._log.forget(on_cancel))
        return loop.create_future()  # it is told for as long as the session lives
