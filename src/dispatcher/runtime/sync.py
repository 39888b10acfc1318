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
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from ..errors import BrokerUnavailable, ConfigError
from ..model.task import Receipt, Task
from .server import Server

__all__ = ["SyncPublisher"]

CLOSE_SECONDS = 10.0
"""Longer than the server's own close takes where the broker does not answer."""

SLACK_SECONDS = 5.0
"""Beyond the server's own deadlines, which say what went wrong: the last net under a wait on the thread."""

T = TypeVar("T")


class SyncPublisher:
    """`connect` opens the server on the thread's loop. `wait_seconds`: how long a publish waits for that, and may then take."""

    def __init__(self, connect: Callable[[], Awaitable[Server]], *, wait_seconds: float) -> None:
        self._connect = connect
        self._wait_seconds = wait_seconds
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
        return self._open().call(lambda server: server.publish(task), self._wait_seconds + SLACK_SECONDS)

    def cancel(self, uuid: str) -> None:
        """Cancel the task of that uuid, blocking. Raises as `Server.cancel` does."""
        self._open().call(lambda server: server.cancel(uuid), self._wait_seconds + SLACK_SECONDS)

    def _open(self) -> _Link:
        """The link, open. Whoever asks while it is being opened waits for that one attempt, and shares its failure.

        The attempt goes on when a caller's time is over: a later publish may find the link open.
        """
        stale: _Link | None = None
        with self._lock:
            if self._link is not None and self._link.ended:
                stale, self._link = self._link, None
            if self._link is None:
                self._link = _Link(self._connect)
            link = self._link
        link.check_caller()
        if stale is not None:
            stale.close()
        try:
            link.wait_opened(self._wait_seconds)
        except Exception:
            if link.ended:
                with self._lock:
                    if self._link is link:
                        self._link = None
                link.close()
            raise
        return link

    def close(self) -> None:
        """Close the connection and end the thread. A later publish opens them again."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()


class _Link:
    """The thread, its loop, and the server on it."""

    def __init__(self, connect: Callable[[], Awaitable[Server]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="dispatcher send_sync", daemon=True)
        self._thread.start()
        self._closing = threading.Lock()
        self._closed = False
        self._opening = asyncio.run_coroutine_threadsafe(_opened(connect), self._loop)

    @property
    def ended(self) -> bool:
        """Whether its server has given up or closed, or could not be opened."""
        if not self._opening.done():
            return False
        return self._opening.cancelled() or self._opening.exception() is not None or self._opening.result().closed

    def check_caller(self) -> None:
        """`ConfigError` on the thread that would have to do what its caller waits for."""
        if threading.current_thread() is self._thread:
            raise ConfigError(
                "send_sync was called by an observer of the connection it would send on; use another thread"
            )

    def wait_opened(self, wait_seconds: float) -> None:
        """Wait until it is open. Raises what `connect` raised."""
        try:
            self._opening.result(wait_seconds)
        except CancelledError:
            raise BrokerUnavailable("the connection of send_sync was closed while it was opened") from None
        except TimeoutError:
            if self._opening.done():
                raise
            raise BrokerUnavailable(f"no connection to the broker within {wait_seconds:g} s; is it running?") from None

    def call(self, make: Callable[[Server], Coroutine[Any, Any, T]], wait_seconds: float) -> T:
        """Run what `make` makes of the server, on its loop, and return what it returns."""
        return self._call(make(self._opening.result()), wait_seconds)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, T], wait_seconds: float) -> T:
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # its loop is closed
            coroutine.close()
            raise BrokerUnavailable("the connection of send_sync was closed by another thread at this moment") from None
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
        """Twice is fine, from several threads too: all but the first return at once."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            if self._opening.done() and not self._opening.cancelled() and self._opening.exception() is None:
                self._call(self._opening.result().close(), CLOSE_SECONDS)
            self._call(_cancel_all(), CLOSE_SECONDS)
        except BrokerUnavailable:
            pass  # it does not answer: the daemon thread ends with the process, and what it held was never promised
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


async def _opened(connect: Callable[[], Awaitable[Server]]) -> Server:
    return await connect()


async def _cancel_all() -> None:
    """End what is left on this loop: a server that is being opened, and who waits for it."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


def _weakly(publisher: SyncPublisher, method: Callable[[SyncPublisher], None]) -> Callable[[], None]:
    """`method` of `publisher` for a registry that can't forget, without keeping the publisher alive."""
    reference = weakref.ref(publisher)

    def call() -> None:
        alive = reference()
        if alive is not None:
            method(alive)

    return call
