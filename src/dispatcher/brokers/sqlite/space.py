"""Room on the disk: a brake on publishes before it is full, and a ballast to let go of when it is.

A full disk must stop what comes in, never what goes out: SQLite needs log space even to delete, so without a reserve
tasks would run, could not be acked, and would run again. RabbitMQ's disk alarm has the same rule.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Protocol

from ..base import Blocked, BrokerEvent, Unblocked

__all__ = ["DiskSpace", "Space", "disk_space"]

BALLAST_BYTES = 16 * 1024 * 1024
CHECK_SECONDS = 0.25
RETRY_SECONDS = 1.0
"""How long publishes are refused after SQLite found no space, whatever the file system says: a quota shows only so."""


class DiskSpace(Protocol):
    """Asks how large the file system of a folder is and how much of it is free, both in bytes."""

    def __call__(self, folder: str) -> tuple[int, int]: ...


def disk_space(folder: str) -> tuple[int, int]:
    """The size of the file system that holds `folder`, and what an ordinary user may still write to it, in bytes."""
    found = shutil.disk_usage(folder)
    return found.total, found.free


class Space:
    """One session's brake. The ballast file is shared by all; its size counts as used even while it is gone."""

    def __init__(self, folder: str, ballast: str, measure: DiskSpace = disk_space) -> None:
        self._folder = folder
        self._ballast = ballast
        self._measure = measure
        total, _ = measure(folder)
        self._reserve_bytes = min(BALLAST_BYTES, total // 8)
        self._next_check = 0.0
        self.blocked = False

    @property
    def checkpoint_pages(self) -> int:
        """How far the log may grow on a file system of this size, in pages of 4 KiB."""
        return max(16, min(1024, self._reserve_bytes // 4 // 4096))

    def check(self, now: float) -> list[BrokerEvent]:
        """Look at most every quarter of a second (`now`: monotonic seconds); says what changed."""
        if now < self._next_check:
            return []
        self._next_check = now + CHECK_SECONDS
        roomy = self._free_bytes() >= self._reserve_bytes
        if self.blocked and roomy and self.restore():
            self.blocked = False
            return [Unblocked()]
        if not self.blocked and not roomy:
            return self._block("the disk is nearly full")
        return []

    def ran_full(self, now: float) -> list[BrokerEvent]:
        """SQLite found no space: refuse publishes and let the ballast go; says what changed."""
        self.give_way()
        self._next_check = now + RETRY_SECONDS
        return [] if self.blocked else self._block("the disk is full")

    def give_way(self) -> None:
        """Delete the ballast."""
        with contextlib.suppress(FileNotFoundError):  # another session was faster
            os.unlink(self._ballast)

    def restore(self) -> bool:
        """Make sure that the ballast lies there; False where there is no room for it."""
        if self._ballast_bytes() >= self._reserve_bytes:
            return True
        try:
            with open(self._ballast, "wb", opener=_private) as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, max(1, self._reserve_bytes))
                else:
                    file.write(bytes(self._reserve_bytes))
        except OSError:
            # No room after all: half a ballast is worse than none, it would pass for a whole one's beginning.
            with contextlib.suppress(OSError):
                os.unlink(self._ballast)
            return False
        return True

    def _free_bytes(self) -> int:
        _, free = self._measure(self._folder)
        return free - max(0, self._reserve_bytes - self._ballast_bytes())

    def _ballast_bytes(self) -> int:
        try:
            return os.stat(self._ballast).st_size
        except FileNotFoundError:
            return 0

    def _block(self, what: str) -> list[BrokerEvent]:
        self.blocked = True
        return [Blocked(f"{what}: {self._folder} has less than {self._reserve_bytes} bytes in reserve")]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
