"""What one measurement says, and the clocks it is taken with. Imported by the measured processes, so it stays light."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import msgspec

__all__ = ["Meter", "Sample", "Stopwatch", "cpu_seconds", "percentile", "resident_mb"]


class Sample(msgspec.Struct):
    """One measurement of one case.

    `count` tasks took `seconds` of wall time and `cpu_seconds` of user and system time, all threads included; both are
    zero where the case is not a rate. `broker_cpu_seconds` is what the broker's process took meanwhile; None where it is
    not known. `figures`: everything else, by name with its unit (`p50_ms`, `resident_mb`). `series`: what was read over
    time, as pairs of tasks done and a figure.
    """

    count: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    broker_cpu_seconds: float | None = None
    figures: dict[str, float] = {}
    series: list[tuple[float, float]] = []


class Stopwatch:
    """Wall and CPU time of this process, and CPU time of the broker's (`$BENCH_BROKER_PID`), since it was made."""

    def __init__(self) -> None:
        self._broker_pid = int(os.environ["BENCH_BROKER_PID"])
        self._broker = cpu_seconds(self._broker_pid) if self._broker_pid else 0.0
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def sample(self, count: int) -> Sample:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        broker = cpu_seconds(self._broker_pid) - self._broker if self._broker_pid else None
        return Sample(count, wall, cpu, broker)


class Meter:
    """Counts the tasks that run in a worker process and says when they are done: one `Sample` as a line on a pipe.

    The clock starts at the first task and ends at task `$BENCH_COUNT`. Of a task that was told when it was published
    (`arrived`), the time from there to the function's start is kept. May be called from many threads.
    """

    def __init__(self) -> None:
        self._count = int(os.environ["BENCH_COUNT"])
        self._pipe = int(os.environ["BENCH_PIPE"])
        self._numbers = itertools.count(1)  # its next() is atomic, unlike += 1
        self._watch = Stopwatch()
        self._first_at = 0.0
        self._late_ns: list[int] = []

    def tick(self) -> None:
        number = next(self._numbers)
        if number == 1:
            self._first_at = time.monotonic()
            self._watch = Stopwatch()
        if number == self._count:
            self._report()

    def arrived(self, sent_ns: int) -> None:
        self._late_ns.append(time.monotonic_ns() - sent_ns)
        self.tick()

    def _report(self) -> None:
        # The clock ran over the gaps between the first task and the last: one less than there are tasks.
        sample = self._watch.sample(self._count - 1)
        sample.figures = {"first_at": self._first_at, "resident_mb": resident_mb(os.getpid())}
        if self._late_ns:
            late_ms = [late / 1e6 for late in self._late_ns]
            sample.figures |= {"p50_ms": percentile(late_ms, 50), "p99_ms": percentile(late_ms, 99)}
        os.write(self._pipe, msgspec.json.encode(sample) + b"\n")


def percentile(values: list[float], percent: int) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads, to the nanosecond. Needs /proc: Linux."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def resident_mb(pid: int) -> float:
    """The resident memory of a process in megabytes; zero where the system has no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6
