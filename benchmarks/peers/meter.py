"""When tasks ran, told by the workers themselves through files in memory. Used inside every peer, so it stays light.

Each worker process has one file of slots, made at its first task; a task fills one slot with three numbers, in nanoseconds
since the epoch: when its function started, when it ended (zero if nobody asks), when it was sent (zero if not told). The
same clock for all, on one machine. `Readings` is the other side: what the harness sees in those files.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import time
from collections import Counter
from pathlib import Path

__all__ = ["Meter", "Readings", "Slot"]

SLOT = struct.Struct("=QQQ")
SLOTS = 200_000
END = 8
"""Where the second number of a slot is."""

Slot = tuple[int, int, int]


class Meter:
    """The worker's side. May be called from many threads; a child of a fork renews it first."""

    def __init__(self) -> None:
        self._file: mmap.mmap | None = None
        self._offsets = itertools.count(0, SLOT.size)  # its next() is atomic, unlike +=

    def begin(self, sent_ns: int = 0) -> int:
        """The function has started; returns where its slot is."""
        now = time.time_ns()
        file = self._file or self._open()
        offset = next(self._offsets)
        SLOT.pack_into(file, offset, now, 0, sent_ns)
        return offset

    def end(self, offset: int) -> None:
        """The function of the slot at `offset` has ended."""
        assert self._file is not None
        struct.pack_into("=Q", self._file, offset + END, time.time_ns())

    def renew(self) -> None:
        """Begin with a file of its own: for the child of a fork."""
        self._file = None
        self._offsets = itertools.count(0, SLOT.size)

    def _open(self) -> mmap.mmap:
        # Two first tasks in two threads open the same file: the kernel maps the same pages twice.
        descriptor = os.open(f"{os.environ['BENCH_METER']}/{os.getpid()}", os.O_RDWR | os.O_CREAT)
        os.ftruncate(descriptor, SLOTS * SLOT.size)
        self._file = mmap.mmap(descriptor, SLOTS * SLOT.size)
        os.close(descriptor)
        return self._file


class Readings:
    """What the workers that write into `folder` have told so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, mmap.mmap] = {}
        self._known = {False: Counter[str](), True: Counter[str]()}

    def count(self, ended: bool = False) -> int:
        """How many tasks have started; `ended`: how many have ended, without those behind one that has not."""
        return sum(self._counts(ended).values())

    def since(self, begun_ns: int) -> list[Slot]:
        """The slots of all tasks that started from then on, in the order of their start."""
        counts = self._counts(ended=False)
        found = [
            SLOT.unpack_from(file, number * SLOT.size)
            for name, file in self._files.items()
            for number in range(counts[name])
        ]
        return sorted(slot for slot in found if slot[0] >= begun_ns)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _counts(self, ended: bool) -> Counter[str]:
        """By process: a slot is filled after the one before it, so what was counted once is not looked at again."""
        for entry in os.scandir(self._folder):
            if entry.name not in self._files and entry.stat().st_size == SLOTS * SLOT.size:
                with open(entry.path, "rb") as file:
                    self._files[entry.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        known = self._known[ended]
        for name, mapped in self._files.items():
            number = known[name]
            while (slot := SLOT.unpack_from(mapped, number * SLOT.size))[0] and (slot[1] or not ended):
                number += 1
            known[name] = number
        return known
