"""One timer for many waits of the same length: what a publish costs must not grow by a timer of its own.

Waits begin in order and all last equally long, so the oldest is always the first to end: a queue and one timer do. Those
that begin within a few milliseconds are one group in it, and end together.
Used on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Deadlines"]

GROUP_SECONDS = 0.005
"""How much later than asked for a wait may end."""


class Deadlines:
    """Fails futures with `TimeoutError` that are not done `seconds` after they were watched."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._groups: deque[tuple[float, list[asyncio.Future[None]]]] = deque()
        self._newest: list[asyncio.Future[None]] = []
        self._newest_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[None]) -> float:
        """Fail `future` if it is not done in time; returns when that will be, by the loop's clock."""
        now = self._loop.time()
        if now >= self._newest_until:
            self._begin(now)
        self._newest.append(future)
        return now + self._seconds

    def _begin(self, now: float) -> None:
        """Begin a new group, and forget the oldest that are done."""
        groups = self._groups
        while groups and _all_done(groups[0][1]):
            groups.popleft()
        self._newest = []
        self._newest_until = now + min(GROUP_SECONDS, self._seconds)
        groups.append((self._newest_until + self._seconds, self._newest))
        if self._timer is None:
            self._timer = self._loop.call_at(groups[0][0], self._look)

    def _look(self) -> None:
        """Fail what is due, and come back when the oldest group that is left is."""
        self._timer = None
        groups, now = self._groups, self._loop.time()
        while groups and (groups[0][0] <= now or _all_done(groups[0][1])):
            for future in groups.popleft()[1]:
                if not future.done():
                    future.set_exception(TimeoutError())
        if groups:
            self._timer = self._loop.call_at(groups[0][0], self._look)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._groups.clear()


def _all_done(group: list[asyncio.Future[None]]) -> bool:
    return all(future.done() for future in group)
