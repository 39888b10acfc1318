"""Worker processes under measurement: Dispatcher's and huey's own command lines, started and asked through a pipe."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from .samples import Sample

__all__ = ["DISPATCHER_WORKER", "WorkerProcess", "huey_worker", "started", "wall_seconds"]

DEADLINE_SECONDS = 120.0
DRAIN_SECONDS = 20.0

DISPATCHER_WORKER = ("-m", "dispatcher", "worker", "benchmarks.dispatcher_app:app")


def huey_worker(threads: int) -> tuple[str, ...]:
    """huey's consumer as fast as it goes: no log line a task, no periodic tasks, a poll every 2 ms when it is idle."""
    options = ("-q", "-n", "-w", str(threads), "-d", "0.002", "-m", "0.002")
    return ("-m", "huey.bin.huey_consumer", "benchmarks.huey_app.huey", *options)


class WorkerProcess:
    """A started worker; `started_at` is on the clock of `time.monotonic`."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int, started_at: float) -> None:
        self._process = process
        self._pipe = pipe
        self.started_at = started_at
        self.pid = process.pid

    def sample(self) -> Sample:
        """Wait for the report of its `Meter`. RuntimeError if it ends without one, or takes two minutes."""
        readable, _, _ = select.select([self._pipe], [], [], DEADLINE_SECONDS)
        if not readable:
            raise RuntimeError(f"the worker was not done within {DEADLINE_SECONDS:g} s")
        line = os.read(self._pipe, 4096)
        if not line:
            raise RuntimeError(f"the worker ended with exit code {self._process.wait()} before its tasks were done")
        return msgspec.json.decode(line, type=Sample)

    def family(self) -> list[int]:
        """It and all processes below it. Needs /proc: Linux."""
        found = [self.pid]
        for pid in found:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def drain(self) -> None:
        """Ask it to finish what it runs, and wait for its end. Raises unless it ends cleanly and soon."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(DRAIN_SECONDS)
        if code != 0:
            raise RuntimeError(f"expected the worker to end with 0 after its drain, got {code}")

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._pipe)


@contextmanager
def started(words: Sequence[str], count: int, environment: Mapping[str, str] | None = None) -> Iterator[WorkerProcess]:
    """A worker of this Python that reports after `count` tasks; it is killed at the end, if it still runs then."""
    reader, writer = os.pipe()
    variables = {**os.environ, **(environment or {}), "BENCH_COUNT": str(count), "BENCH_PIPE": str(writer)}
    with open(Path(os.environ["BENCH_FILE"]).with_suffix(".log"), "ab") as log:
        started_at = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *words], env=variables, pass_fds=[writer], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    os.close(writer)
    worker = WorkerProcess(process, reader, started_at)
    try:
        yield worker
    finally:
        worker.kill()


def wall_seconds(words: Sequence[str]) -> float:
    """How long this Python takes for `words`, from start to exit."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - begun
