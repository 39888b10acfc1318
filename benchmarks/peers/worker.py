"""A peer's worker under measurement: started as its documentation says, watched through its meter, ended with its signal."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import trees
from .meter import Readings, Slot

__all__ = ["PeerFailed", "Phase", "Worker", "running"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0
TASKS_SECONDS = 90.0
FIRST_POLL_SECONDS = 0.001
POLL_SECONDS = 0.01


class PeerFailed(Exception):
    """A peer did not do what its setup says; the text says what was expected, and what its programs said."""


class Phase:
    """A number of tasks run by a worker: their slots, and what it and the broker used from the first task to the last."""

    def __init__(self, slots: list[Slot], cpu_seconds: float, broker_cpu_seconds: float | None) -> None:
        self.slots = slots
        self.cpu_seconds = cpu_seconds
        self.broker_cpu_seconds = broker_cpu_seconds

    @property
    def start_seconds(self) -> float:
        """From the first task's start to the last one's: one gap less than there are tasks."""
        return (self.slots[-1][0] - self.slots[0][0]) / 1e9

    @property
    def whole_seconds(self) -> float:
        """From the first task's start to the last one's end."""
        return (max(end for _, end, _ in self.slots) - self.slots[0][0]) / 1e9


class Worker:
    """A started worker. `started_at_ns` is on the clock of the meter."""

    def __init__(self, process: subprocess.Popen[bytes], readings: Readings, log: Path, broker_pid: int) -> None:
        self.pid = process.pid
        self.started_at_ns = time.time_ns()
        self._process = process
        self._readings = readings
        self._log = log
        self._broker_pid = broker_pid

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def run(self, count: int, begun_ns: int, ended: bool = False) -> Phase:
        """Wait until `count` tasks that were published after `begun_ns` have started (`ended`: and ended)."""
        before = self._readings.count() - len(self._readings.since(begun_ns))
        self._wait(before + 1, False, START_SECONDS, FIRST_POLL_SECONDS)
        cpu, broker = trees.cpu_seconds(self.pid), trees.process_cpu_seconds(self._broker_pid)
        self._wait(before + count, ended, TASKS_SECONDS, POLL_SECONDS)
        cpu = trees.cpu_seconds(self.pid) - cpu
        broker = trees.process_cpu_seconds(self._broker_pid) - broker
        return Phase(self._readings.since(begun_ns), cpu, broker if self._broker_pid else None)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped with all its processes, while its queue is filled."""
        trees.send_signal(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            trees.send_signal(self.pid, signal.SIGCONT)

    def stop(self, number: signal.Signals, to_all: bool, expected: int) -> None:
        """Ask it, or all its processes, to end, and wait. Raises unless it ends soon and `expected` tasks have run, each once."""
        if to_all:
            trees.send_signal(self.pid, number)
        else:
            self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise PeerFailed(f"its worker did not end within {STOP_SECONDS:g} s of {number.name}") from error
        if (found := self._readings.count()) != expected:
            raise PeerFailed(f"expected {expected} tasks to run, got {found}")

    def _wait(self, count: int, ended: bool, seconds: float, poll_seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (found := self._readings.count(ended)) < count:
            if self._process.poll() is not None:
                raise PeerFailed(f"its worker ended with exit code {self._process.returncode}:\n{self.said()}")
            if time.monotonic() > deadline:
                raise PeerFailed(f"expected {count} tasks within {seconds:g} s, got {found}:\n{self.said()}")
            time.sleep(poll_seconds)


@contextmanager
def running(words: Sequence[str], variables: Mapping[str, str], folder: Path, broker_pid: int) -> Iterator[Worker]:
    """The worker and its meter; whatever of it still runs at the end is killed."""
    meter = Path(variables["BENCH_METER"])
    readings = Readings(meter)
    log = folder / "worker.log"
    with open(log, "ab") as out:
        process = subprocess.Popen(
            words,
            env={**os.environ, **variables},
            cwd=folder.parent,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    worker = Worker(process, readings, log, broker_pid)
    try:
        yield worker
    finally:
        trees.send_signal(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)
        readings.close()
