"""A connected socket on the event loop, plain or TLS: bytes out, bytes in, and a heartbeat that needs no loop.

It knows nothing of AMQP. It never blocks, never writes into the middle of what was given to it before, and raises nothing
at a socket that breaks: that is told once, as its end. In a forked child it touches neither the socket nor the loop.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError
from .keeper import Keeper
from .readiness import Readiness
from .tls import tls_failure

__all__ = ["Stream", "reason_of"]

READ_BYTES = 256 * 1024
RECORD_BYTES = 16 * 1024
"""A TLS record carries no more (RFC 8446, section 5.1): read with this much, nothing stays behind in the TLS layer."""

LOOK_BYTES = 64 * 1024
"""After so many it looks whether the link keeps up."""

READS = 4
TLS_READS = 32
"""How often it reads before the loop has its turn again."""

WRITES = 64
"""And how many pieces it writes."""

LAST_READS = 10_000
"""How often it reads when it cannot write any more: more than is ever there."""

LOOK_SECONDS = 10.0
"""How often the keeper looks at the socket at least, even if heartbeats are rarer."""

MAX_INBOX_BYTES = 128 * 1024 * 1024
"""How much the keeper reads for a loop that does not: as much as the largest message of any RabbitMQ."""

_LATER = (BlockingIOError, InterruptedError)


class Stream:
    """Made by `open_stream`. Everything here belongs to the loop's thread, but for the beat of the keeper.

    `peer`: `host:port`, `[::1]:5672` for IPv6. `unsent`: how many of the bytes given to `send` the kernel has not taken;
    `is_behind`: it has taken them, and more than the link takes from it soon. `on_sent` is called, on the loop, whenever
    one of both may have become better.
    `failure`: what is wrong with the TLS settings if that became known only after the handshake, as the refusal of our
    certificate does with TLS 1.3; else None. It is set before `on_end` is called.
    """

    def __init__(self, sock: socket.socket, readiness: Readiness, peer: str) -> None:
        self.peer = peer
        self.unsent = 0
        self.failure: ConfigError | None = None
        self._socket = sock
        self._readiness = readiness
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._piece = RECORD_BYTES if self._tls else READ_BYTES
        # Whoever touches the socket has it: the keeper is another thread. Re-entrant, because a finalizer
        # that closes this stream may run in the midst of anything.
        self._lock = threading.RLock()
        self._queue: deque[memoryview] = deque()
        self._inbox: deque[bytes | OSError] = deque()  # what the keeper has read, and how that ended
        self._last_sent = time.monotonic()
        self._watches_write = False
        self._write_wants_read = False  # the TLS layer must read before it can write, or the other way round
        self._read_wants_write = False
        self._broken: str | None = None  # why nothing can be sent any more; what was received may still be read
        self._ended = False
        self._on_data: Callable[[bytes], None] = _ignore
        self._on_end: Callable[[str], None] = _ignore
        self.on_sent: Callable[[], None] = _do_nothing
        self.is_behind = False
        self._since_look = 0
        self._poll: Any = None
        if hasattr(select, "poll"):  # not on Windows, where nobody looks then
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLOUT)
        self._keeper: Keeper | None = None
        self._frame = b""
        self._seconds = 0.0

    def __repr__(self) -> str:
        return f"<Stream to {self.peer}{', TLS' if self._tls else ''}{', ended' if self._ended else ''}>"

    @property
    def tls(self) -> tuple[str, dict[str, Any]] | None:
        """The protocol's version and the peer's certificate, as `SSLSocket.getpeercert` gives it; None for plain TCP."""
        if not isinstance(self._socket, ssl.SSLSocket) or self._ended:
            return None
        return self._socket.version() or "TLS", self._socket.getpeercert() or {}

    def start(self, on_data: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        """Begin to read. `on_end` is called at most once, with a reason for people to read, and never after `close`."""
        self._on_data = on_data
        self._on_end = on_end
        if not self._ended:
            self._readiness.on_readable(self._readable)

    # --- out -------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write what the kernel takes now, and the rest when it is ready for it, in order. After the end: ignored."""
        if not data or self._ended or self._broken is not None or self._is_foreign():
            return
        with self._lock:
            self._queue.append(memoryview(data))
            self.unsent += len(data)
            if len(self._queue) == 1:  # else it waits its turn
                self._write()
        self._since_look += len(data)
        if self._since_look >= LOOK_BYTES and self._poll is not None:
            self._since_look = 0
            # Not writable is what has TCP_NOTSENT_LOWAT unsent in the kernel (tcp(7)), long before its buffer is full.
            self.is_behind = not self._poll.poll(0)
        if self.unsent or self.is_behind or self._broken is not None:
            self._look_after_writes()

    def keep_alive(self, frame: bytes, seconds: float) -> None:
        """From now on have `frame` sent whenever nothing was for `seconds`, even while the loop is blocked.

        Then it also reads, at most 128 MiB: a broker that cannot send for 30 s ends the connection (RabbitMQ does).
        Not while a C function holds the interpreter's lock: nothing runs then.
        """
        with self._lock:
            self._frame = frame
            self._seconds = seconds
        if self._keeper is None and not self._ended:
            self._keeper = Keeper(self._beat, min(seconds, LOOK_SECONDS), name="dispatcher-amqp-heartbeat")

    def _beat(self) -> float | None:
        """The keeper's thread: how many seconds until it is to look again, or None for never."""
        with self._lock:
            if self._ended or self._broken is not None or self._loop.is_closed():
                return None
            due = self._last_sent + self._seconds - time.monotonic()
            if due <= 0:
                if not self._queue:
                    self._queue.append(memoryview(self._frame))
                    self.unsent += len(self._frame)
                self._write()
                # Where the kernel's buffer is full, every byte that it takes is a sign of life.
                due = self._seconds / 4 if self._queue else self._seconds
            self._fill_inbox()
            wait = min(due, LOOK_SECONDS)
            if not self._queue and not self._inbox and not self._read_wants_write:
                return wait
        try:
            self._loop.call_soon_threadsafe(self._after_beat)
        except RuntimeError:
            return None  # the loop was closed at this moment
        return wait

    def _after_beat(self) -> None:
        self._look_after_writes()
        self.on_sent()
        if self._inbox:
            self.read_now()

    def _fill_inbox(self) -> None:
        """Read what the loop has not, in the keeper's thread. To be called with the lock held."""
        room = MAX_INBOX_BYTES - sum(len(data) for data in self._inbox if isinstance(data, bytes))
        if self._inbox and not (isinstance(self._inbox[-1], bytes) and self._inbox[-1]):
            return  # it has ended
        try:
            while room > 0:
                data = self._receive()
                self._inbox.append(data)
                room -= len(data)
                if not data:
                    break
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
        except (*_LATER, ssl.SSLWantReadError):
            pass  # there is no more
        except OSError as error:
            self._inbox.append(error)

    def _write(self) -> None:
        """Hand the kernel what it takes. To be called with the lock held.

        After a refusal the TLS layer must be given the same bytes again: a piece of the first buffer is always that.
        """
        self._write_wants_read = False
        try:
            for _ in range(WRITES):
                if not self._queue:
                    break
                first = self._queue[0]
                sent = self._socket.send(first[: self._piece])
                self.unsent -= sent
                if sent == len(first):
                    self._queue.popleft()
                else:
                    self._queue[0] = first[sent:]
                self._last_sent = time.monotonic()
        except ssl.SSLWantReadError:
            self._write_wants_read = True
        except (*_LATER, ssl.SSLWantWriteError):
            pass  # it is full: there is a watch for that
        except OSError as error:
            self._broken = self._reason(error)

    def _look_after_writes(self) -> None:
        """On the loop: watch for what the last write left to be done."""
        if self._ended:
            return
        if self._broken is not None:
            # First what the peer had said before it broke: it may be the reason. Not at once: `send` calls nobody back.
            self._loop.call_soon(self._last_read)
            return
        wanted = self._read_wants_write or self.is_behind or (bool(self._queue) and not self._write_wants_read)
        if wanted is not self._watches_write:
            self._watches_write = wanted
            self._readiness.on_writable(self._writable if wanted else None)

    def _writable(self) -> None:
        self.is_behind = False
        with self._lock:
            self._write()
        if self._read_wants_write:
            self._readable()
        self._look_after_writes()
        self.on_sent()

    # --- in --------------------------------------------------------------------------------------------------------

    def read_now(self) -> None:
        """Read what has arrived by now: before the peer is judged to be silent by someone who was late."""
        if not self._ended and not self._is_foreign():
            self._readable()

    def _readable(self) -> None:
        for _ in range(TLS_READS if self._tls else READS):
            data = self._read()
            if not data:
                break
            self._on_data(data)
            if self._ended or (not self._tls and len(data) < READ_BYTES and not self._inbox):
                break
        if self._inbox:
            self._loop.call_soon(self.read_now)  # of this nobody else tells
        if self._write_wants_read and not self._ended:
            with self._lock:
                self._write()
            self._look_after_writes()

    def _read(self) -> bytes:
        """The next bytes; none if there are none now, or if it has ended."""
        try:
            with self._lock:
                received = self._inbox.popleft() if self._inbox else self._receive()
                if isinstance(received, OSError):
                    raise received
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            self._look_after_writes()
            return b""
        except (*_LATER, ssl.SSLWantReadError):
            return b""
        except OSError as error:
            reason = self._reason(error)
            self._end(self._broken or reason)
            return b""
        if not received:
            self._end(self._broken or f"{self.peer}: the other side closed the connection")
        return received

    def _receive(self) -> bytes:
        """What the kernel has. To be called with the lock held: bytes must be taken in their order."""
        self._read_wants_write = False
        return self._socket.recv(self._piece)

    def _last_read(self) -> None:
        try:
            for _ in range(LAST_READS):
                data = b"" if self._ended else self._read()
                if not data:
                    break
                self._on_data(data)
        finally:
            self._end(self._broken or "")

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End it; twice is fine. What is unsent is dropped."""
        if not self._ended:
            self._shut()

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._shut()
            self._on_end(reason if self.failure is None else str(self.failure))

    def _shut(self) -> None:
        if self._is_foreign():
            self._ended = True
            self._socket.close()  # this copy only: the connection and the loop's selector are the parent's
            return
        self._readiness.close()
        with self._lock:
            self._ended = True
            if self._keeper is not None:
                self._keeper.stop()
            whole = not self._queue and self._broken is None
            self._queue.clear()
            self._inbox.clear()
            self.unsent = 0
            try:
                self._say_goodbye(whole)
            except OSError:
                pass  # broken already, or the peer does not take a goodbye now: it is closed all the same
            self._socket.close()

    def _say_goodbye(self, whole: bool) -> None:
        sock = self._socket
        if isinstance(sock, ssl.SSLSocket) and whole:
            try:
                sock.unwrap()  # sends the close_notify (RFC 8446, section 6.1), and would wait for theirs
            except ssl.SSLError:
                pass
        # A child that was forked meanwhile has a copy of the socket: without this the peer would see no end.
        sock.shutdown(socket.SHUT_RDWR)

    def _is_foreign(self) -> bool:
        """Whether this is a forked child, and the socket its parent's."""
        return os.getpid() != self._pid

    def _reason(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLError) and self.failure is None:
            self.failure = tls_failure(error, self.peer)
        return f"{self.peer}: {reason_of(error)}"


def reason_of(error: OSError) -> str:
    """What happened to a connection, in words."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "the other side reset the connection"
    if isinstance(error, ssl.SSLEOFError):
        return "the other side closed the connection"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'unknown reason').replace('_', ' ').lower()}"
    return (os.strerror(error.errno) if error.errno else type(error).__name__).lower()


def _ignore(_: bytes | str) -> None:
    """Nobody listens yet."""


def _do_nothing() -> None:
    """Nobody waits."""
