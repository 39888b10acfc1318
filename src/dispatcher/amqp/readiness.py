"""When a socket can be read or written, told on the event loop.

Usually the loop itself knows. A loop that only does I/O its own way (Windows' Proactor) has a thread with a selector
beside it. Nothing here reads or writes the socket.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Protocol

__all__ = ["LoopReadiness", "Readiness", "ThreadReadiness", "make_readiness", "wait_for"]

Callback = Callable[[], None]

LOOK_SECONDS = 1.0
"""How often the thread looks whether its loop was closed without a word."""


class Readiness(Protocol):
    """Calls back for as long as the socket is ready. To be used on the loop's thread only."""

    def on_readable(self, callback: Callback | None) -> None:
        """From now on call `callback` when there is something to read, or the end; None: no more."""
        ...

    def on_writable(self, callback: Callback | None) -> None:
        """From now on call `callback` when the socket takes bytes; None: no more."""
        ...

    def close(self) -> None:
        """Forget the socket, before it is closed."""
        ...


def make_readiness(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Readiness:
    """What fits `loop`."""
    try:
        loop.remove_reader(sock.fileno())
    except NotImplementedError:
        return ThreadReadiness(loop, sock)
    return LoopReadiness(loop, sock)


async def wait_for(on_ready: Callable[[Callback | None], None]) -> None:
    """Wait once for what `on_ready`, a method of a `Readiness`, tells. The deadline is the caller's."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    on_ready(lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        on_ready(None)


class LoopReadiness:
    """The loop's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._fd = sock.fileno()

    def on_readable(self, callback: Callback | None) -> None:
        if callback is None:
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, callback)

    def on_writable(self, callback: Callback | None) -> None:
        if callback is None:
            self._loop.remove_writer(self._fd)
        else:
            self._loop.add_writer(self._fd, callback)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)


class ThreadReadiness:
    """A thread in `select`. It tells once, and asks again when the loop has called back: else it would spin meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._socket = sock
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callback] = {}
        self._told = 0  # the events that the loop knows of and has not called back for
        self._closed = False
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._thread = threading.Thread(target=self._watch, name="dispatcher-amqp-readiness", daemon=True)
        self._thread.start()

    def on_readable(self, callback: Callback | None) -> None:
        self._set(selectors.EVENT_READ, callback)

    def on_writable(self, callback: Callback | None) -> None:
        self._set(selectors.EVENT_WRITE, callback)

    def close(self) -> None:
        """Waits for the thread, which does nothing that lasts: the socket must not be closed while it is in `select`."""
        with self._lock:
            self._closed = True
            self._callbacks.clear()
        self._wake()
        self._thread.join()
        self._near.close()
        self._far.close()

    def _set(self, event: int, callback: Callback | None) -> None:
        with self._lock:
            if callback is None:
                self._callbacks.pop(event, None)
            else:
                self._callbacks[event] = callback
        self._wake()

    def _wake(self) -> None:
        try:
            self._near.send(b"\0")
        except OSError:  # full of wake-ups, so it will wake; or closed, and there is no thread any more
            pass

    def _wanted(self) -> int:
        with self._lock:
            return sum(event for event in self._callbacks if not event & self._told)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._far, selectors.EVENT_READ)
            watched = 0
            while not self._closed and not self._loop.is_closed():
                wanted = self._wanted()
                if watched:
                    selector.unregister(self._socket)
                if wanted:
                    selector.register(self._socket, wanted)
                watched = wanted
                for key, ready in selector.select(LOOK_SECONDS):
                    if key.fileobj is self._far:
                        self._far.recv(4096)
                    else:
                        self._tell(ready)

    def _tell(self, ready: int) -> None:
        with self._lock:
            self._told |= ready
        try:
            self._loop.call_soon_threadsafe(self._call_back, ready)
        except RuntimeError:
            pass  # the loop was closed at this moment, which ends the thread

    def _call_back(self, ready: int) -> None:
        try:
            for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                callback = self._callbacks.get(event)
                if event & ready and callback is not None:
                    callback()
        finally:
            with self._lock:
                self._told &= ~ready
            self._wake()
