"""One timer for many waits of the same length: what a publish costs must not grow by a timer of its own.

Waits begin in order and all last equally long, so the oldest is always the first to end: a queue and one timer do.
Used on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Deadlines"]


class Deadlines:
    """Fails futures with `TimeoutError` that are not done `seconds` after they were watched."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[None]) -> float:
        """Fail `future` if it is not done in time; returns when that will be, by the loop's clock."""
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        deadline = self._loop.time() + self._seconds
        waiting.append((deadline, future))
        if self._timer is None:
            self._timer = self._loop.call_at(waiting[0][0], self._look)
        return deadline

    def _look(self) -> None:
        """Fail what is due, and come back when the oldest that is left is."""
        self._timer = None
        waiting, now = self._waiting, self._loop.time()
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            future = waiting.popleft()[1]
            if not future.done():
                future.set_exception(TimeoutError())
        if waiting:
            self._timer = self._loop.call_at(waiting[0][0], self._look)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
