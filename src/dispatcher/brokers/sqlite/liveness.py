"""Who is alive: a clock all processes of one boot share, the boot's identity, locks that die with their holder, forks.

The one module of the embedded broker that knows operating systems apart. It must never hold what a forked child could
go on holding: every lock is let go in the child.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["FileLock", "Inheritance", "boot_id", "monotonic_ms"]


def monotonic_ms() -> int:
    """Milliseconds since some point of this boot, the same for every process.

    `CLOCK_MONOTONIC` on Linux: it stands still while the machine sleeps, so a suspended laptop expires no lease.
    """
    return time.monotonic_ns() // 1_000_000


def boot_id() -> str:
    """What this boot is called; empty where the system has no name for it."""
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    if sys.platform == "darwin":
        size = ctypes.c_size_t(64)
        text = ctypes.create_string_buffer(size.value)
        if ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0) == 0:
            return text.value.decode("ascii")
    return ""


class FileLock:
    """An exclusive lock on a file: `flock`, which belongs to the open file and ends with the process, however it ends."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str, *, create: bool = True) -> None:
        """Open `path`. `FileNotFoundError` where it does not exist and may not be created."""
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | (os.O_CREAT if create else 0)
        self.path = path
        self._fd = os.open(path, flags, 0o600)

    def acquire(self) -> None:
        """Wait for the lock, in the kernel's order of arrival; for ever, if its holder is stopped while it holds it."""
        if sys.platform == "win32":
            while not self.try_acquire():
                time.sleep(0.002)
        else:
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        try:
            if sys.platform == "win32":
                os.lseek(self._fd, 0, os.SEEK_SET)
                msvcrt.locking(self._fd, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self) -> None:
        """Let the lock go."""
        if sys.platform == "win32":
            os.lseek(self._fd, 0, os.SEEK_SET)
            msvcrt.locking(self._fd, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which lets the lock go unless a forked child still has it. Twice is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Inheritance:
    """What one open session must not pass on to a forked child: its locks, and the closing of its SQLite connections."""

    __slots__ = ("_connections", "_locks")

    def __init__(self) -> None:
        self._locks: list[FileLock] = []
        self._connections: list[Any] = []
        _OPEN.add(self)

    def lock(self, lock: FileLock) -> FileLock:
        self._locks.append(lock)
        return lock

    def connection(self, connection: Any) -> None:
        """A connection, or a cursor of one."""
        self._connections.append(connection)

    def end(self) -> None:
        """The session is closed: nothing is left to watch over."""
        _OPEN.discard(self)

    def disown(self) -> None:
        for lock in self._locks:
            lock.close()
        for connection in self._connections:
            # An inherited connection must not be closed in the child, not even by the interpreter's own clean-up:
            # it could checkpoint from the parent's memory. One reference too many keeps it for the child's life.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self._connections.clear()


_OPEN: set[Inheritance] = set()


def _after_fork_in_child() -> None:
    for inheritance in tuple(_OPEN):
        inheritance.disown()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
