"""A worker and all processes that it started: their CPU time, their memory, and stopping them. Needs /proc: Linux."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

__all__ = ["cpu_seconds", "memory_mb", "process_cpu_seconds", "send_signal", "tree"]

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and its descendants that run now."""
    found = [pid]
    for each in found:
        for path in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except OSError:
                continue  # it ended meanwhile
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time so far of a process, all its threads, those that ended too, and of the same of all its children."""
    return sum(_own_cpu(each) + _ended_children_cpu(each) for each in tree(pid))


def process_cpu_seconds(pid: int) -> float:
    """The same of one process alone, to the nanosecond; zero for no process."""
    return _own_cpu(pid) if pid else 0.0


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory, and the same with shared pages divided among those that share them: RSS and PSS, megabytes."""
    rss = pss = 0
    for each in tree(pid):
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue  # it ended meanwhile
        rss += int(text.partition("Rss:")[2].split()[0])
        pss += int(text.partition("Pss:")[2].split()[0])
    return rss * 1024 / 1e6, pss * 1024 / 1e6


def send_signal(pid: int, number: signal.Signals) -> None:
    """To the process and all its descendants."""
    for each in tree(pid):
        try:
            os.kill(each, number)
        except ProcessLookupError:
            continue  # it ended meanwhile


def _own_cpu(pid: int) -> float:
    try:
        # The CPU clock of another process, as clock_getcpuclockid(3) numbers it.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _ended_children_cpu(pid: int) -> float:
    """Of the children that it has waited for, to the hundredth of a second: a worker that forks for each task has many."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[13]) + int(words[14])) / TICKS
