"""Publishing from synchronous code: one daemon thread per process with an event loop and a server of its own.

Opened at first use, from any thread; opened anew in a process that was forked; closed by `close` and at exit. It only
ever publishes. The loop of an async program is never touched, so a thread inside one may use it too.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..errors import BrokerUnavailable
from ..model.task import Receipt, Task
from .server import Server

__all__ = ["SyncPublisher"]

CLOSE_SECONDS = 5.0
SLACK_SECONDS = 5.0
"""Beyond the server's own deadlines, which say what went wrong: the last net under a wait on the thread."""

T = TypeVar("T")


class SyncPublisher:
    """`connect` opens the server on the thread's loop. `wait_seconds` is the longest that one publish may take there."""

    def __init__(self, connect: Callable[[], Awaitable[Server]], *, wait_seconds: float) -> None:
        self._connect = connect
        self._wait_seconds = wait_seconds + SLACK_SECONDS
        self._reset()
        # In a forked child neither the thread nor a lock held by another thread survives: start from nothing.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_weakly(self, SyncPublisher._reset))
        atexit.register(_weakly(self, SyncPublisher.close))

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._link: _Link | None = None

    def publish(self, task: Task) -> Receipt:
        """Publish `task`, blocking. Raises as `Server.publish` does; `BrokerUnavailable` when there is no connection."""
        return self._open().publish(task, self._wait_seconds)

    def _open(self) -> _Link:
        with self._lock:
            if self._link is not None and self._link.ended:
                self._link.close()
                self._link = None
            if self._link is None:
                self._link = _Link(self._connect, self._wait_seconds)
            return self._link

    def close(self) -> None:
        """Close the connection and end the thread. A later publish opens them again."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()


class _Link:
    """The thread, its loop, and the server on it."""

    def __init__(self, connect: Callable[[], Awaitable[Server]], wait_seconds: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="dispatcher send_sync", daemon=True)
        self._thread.start()
        try:
            self._server = self._call(_opened(connect), wait_seconds)
        except BaseException:
            self._end()
            raise

    @property
    def ended(self) -> bool:
        """Whether its server has given up or closed."""
        return self._server.closed

    def publish(self, task: Task, wait_seconds: float) -> Receipt:
        return self._call(self._server.publish(task), wait_seconds)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, T], wait_seconds: float) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(wait_seconds)
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise BrokerUnavailable(f"the connection of send_sync did not answer within {wait_seconds:g} s") from None
        except BaseException:  # KeyboardInterrupt in the caller: do not leave the publish running behind its back
            future.cancel()
            raise

    def close(self) -> None:
        try:
            self._call(self._server.close(), CLOSE_SECONDS)
        except BrokerUnavailable:
            pass  # it does not answer: the daemon thread ends with the process, and what it held was never promised
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


async def _opened(connect: Callable[[], Awaitable[Server]]) -> Server:
    return await connect()


def _weakly(publisher: SyncPublisher, method: Callable[[SyncPublisher], None]) -> Callable[[], None]:
    """`method` of `publisher` for a registry that can't forget, without keeping the publisher alive."""
    reference = weakref.ref(publisher)

    def call() -> None:
        alive = reference()
        if alive is not None:
            method(alive)

    return call
