"""Several worker processes at one load: they begin together, and what they did and took is known while they work.

A worker process says that it is there when its first task begins, waits at the gate, and then marks every so many tasks that it
has run. Whoever measures opens the gate once all are there, and takes the clocks while all of them work: from a tenth of the
tasks to nine tenths.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .samples import Sample, cpu_seconds

__all__ = ["MARK_EVERY", "Crowd", "Marks"]

MARK_EVERY = 50
DEADLINE_SECONDS = 120.0

ARRIVED = b"+"
RAN = b"."


class Marks:
    """A worker process's side, in the folder `$BENCH_MARKS`. Its first tick waits until the gate is open."""

    def __init__(self, folder: Path) -> None:
        self._numbers = itertools.count(1)  # its next() is atomic, unlike += 1
        self._folder = folder
        self._pipe = os.open(_pipe(folder), os.O_WRONLY)

    def tick(self) -> None:
        number = next(self._numbers)
        if number == 1:
            os.write(self._pipe, ARRIVED)
            with _gate(self._folder).open() as gate:
                fcntl.flock(gate, fcntl.LOCK_SH)
        if number % MARK_EVERY == 0:
            os.write(self._pipe, RAN)

    def close(self) -> None:
        """Nothing is marked any more."""
        os.close(self._pipe)


class Crowd:
    """The side of whoever measures; made by `gathering`, before the processes start."""

    def __init__(self, folder: Path, pipe: int) -> None:
        self.environment = {"BENCH_MARKS": str(folder)}
        self._gate = _gate(folder).open("w")
        self._pipe = pipe
        self._seen: Counter[int] = Counter()
        fcntl.flock(self._gate, fcntl.LOCK_EX)

    @classmethod
    @contextmanager
    def gathering(cls, folder: Path) -> Iterator[Crowd]:
        os.mkfifo(_pipe(folder))
        pipe = os.open(_pipe(folder), os.O_RDWR)  # a writer of our own, so that it never ends
        crowd = cls(folder, pipe)
        try:
            yield crowd
        finally:
            crowd._gate.close()
            os.close(pipe)

    def open_gate(self, *, after: int = 0) -> None:
        """Wait for that many processes, and let them begin."""
        self._read_until(ARRIVED, after)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def sample(self, count: int, pids: Callable[[], Sequence[int]]) -> Sample:
        """What the middle eighty percent of `count` tasks cost all processes together."""
        before = self.wait_for(count // 10)
        members = pids()
        begun, begun_cpu = time.perf_counter(), sum(map(cpu_seconds, members))
        ran = self.wait_for(count * 9 // 10) - before
        seconds, cpu = time.perf_counter() - begun, sum(map(cpu_seconds, members)) - begun_cpu
        return Sample(ran, seconds, cpu)

    def wait_for(self, count: int, *, deadline_seconds: float = DEADLINE_SECONDS) -> int:
        """Wait until at least `count` tasks have run, in whole marks; how many it are. RuntimeError if it takes too long."""
        return self._read_until(RAN, count // MARK_EVERY, deadline_seconds) * MARK_EVERY

    def ran(self) -> int:
        """How many tasks have run by now."""
        while select.select([self._pipe], [], [], 0)[0]:
            self._read()
        return self._seen[RAN[0]] * MARK_EVERY

    def _read_until(self, kind: bytes, number: int, deadline_seconds: float = DEADLINE_SECONDS) -> int:
        deadline = time.monotonic() + deadline_seconds
        while self._seen[kind[0]] < number:
            if not select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise RuntimeError(
                    f"expected {number} of {kind!r} within {deadline_seconds:g} s, got {dict(self._seen)}"
                )
            self._read()
        return self._seen[kind[0]]

    def _read(self) -> None:
        self._seen.update(os.read(self._pipe, 65536))


def _pipe(folder: Path) -> Path:
    return folder / "marks"


def _gate(folder: Path) -> Path:
    return folder / "gate"
