"""Waking: one byte into a session's FIFO, from its own event loop or from another process after a commit.

A wake-up carries no truth, the rows do: one that is lost costs a wait until the next tick, and one too many costs a
look. So nothing here ever blocks on writing, and no error of a foreign FIFO reaches its caller.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Iterable

__all__ = ["POLL_SECONDS", "EventWaker", "FifoWaker", "Kicker", "Waker", "make_waker"]

POLL_SECONDS = 0.015
"""How often a session without a FIFO looks whether another process has committed."""


class FifoWaker:
    """The reading end: a thread sleeps on it. `path` is where others write."""

    polls = False

    def __init__(self, path: str) -> None:
        os.mkfifo(path, 0o600)
        # For reading and writing, so that it never reports an end of file when the last writer goes.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Sleep until woken or for `seconds`; whether it was woken."""
        if not self._poll.poll(max(0.0, seconds) * 1000.0):
            return False
        try:
            os.read(self._fd, 65_536)
        except BlockingIOError:  # another reader cannot exist; a signal between poll and read can
            return False
        return True

    def kick(self) -> None:
        try:
            os.write(self._fd, b"\0")
        except BlockingIOError:
            pass  # full of wake-ups: it will wake

    def close(self) -> None:
        os.close(self._fd)


class EventWaker:
    """The same where there are no FIFOs: wakes for its own process only, and tells its thread to poll."""

    polls = True

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Sleep until woken or for `seconds`, at most until the next poll; whether it was woken."""
        woken = self._event.wait(max(0.0, min(seconds, POLL_SECONDS)))
        self._event.clear()
        return woken

    def kick(self) -> None:
        self._event.set()

    def close(self) -> None:
        """Nothing to close."""


Waker = FifoWaker | EventWaker


def make_waker(path: str) -> Waker:
    """A FIFO at `path` where the system and the file system have them, else the polling form."""
    if not hasattr(os, "mkfifo"):
        return EventWaker()
    try:
        return FifoWaker(path)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return EventWaker()
        raise


class Kicker:
    """The writing ends of other sessions' FIFOs, kept open."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def kick(self, paths: Iterable[str]) -> None:
        """Wake the session behind each of `paths`; one that is gone is passed over."""
        for path in paths:
            try:
                fd = self._fds.get(path)
                if fd is None:
                    fd = self._fds[path] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
                os.write(fd, b"\0")
            except BlockingIOError:
                pass  # full of wake-ups: it will wake
            except OSError:
                self._drop(path)  # no FIFO there, or nobody reads it any more: its row will go too

    def keep(self, paths: set[str]) -> None:
        """Close the ends of sessions that are not among `paths`."""
        for path in [path for path in self._fds if path not in paths]:
            self._drop(path)

    def close(self) -> None:
        self.keep(set())

    def _drop(self, path: str) -> None:
        fd = self._fds.pop(path, None)
        if fd is not None:
            os.close(fd)
