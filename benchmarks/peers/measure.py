"""One setup through its measurements, once: publish, drain, latency, start, memory, idle; or the I/O or the CPU-bound tasks.

Afterwards its queue must be empty, and every task must have run exactly once; otherwise it failed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import msgspec

from ..samples import Sample, percentile
from . import trees
from .catalogue import Setup, peer_of
from .environments import ROOT, folder
from .services import Services
from .work import IO_SECONDS
from .worker import PeerFailed, Phase, Worker, running

__all__ = ["Bench", "bare_loops"]

T = TypeVar("T")

SENDER_SECONDS = 120.0
WARM_UP = 200
WARM_LOADS = 8
STEADY_RATE = 200.0
STEADY_SECONDS = 2.0
ONE_BY_ONE = 1000
IDLE_SECONDS = 2.0
SETTLE_SECONDS = 0.5
LOCK_SECONDS = 10.0


class Bench:
    """A setup with a queue, a folder and a meter of its own. `scale`: a part of each number of tasks, for a short try."""

    def __init__(self, setup: Setup, services: Services, scratch: Path, queue: str, scale: float) -> None:
        self.setup = setup
        self.queue = queue
        self._services = services
        self._scale = scale
        self._folder = scratch / queue
        self._home = folder(peer_of(setup))
        self._published = 0

    def measure(self) -> dict[str, Sample]:
        """Samples by what they are of: `publish`, `in-flight`, `drain`, `running`, `io` or `cpu`."""
        self._folder.mkdir()
        with tempfile.TemporaryDirectory(prefix="dispatcher-meter-", dir=_memory()) as meter:
            self._variables = self._environment(meter)
            try:
                return self._work() if self.setup.kind == "work" else self._load()
            finally:
                shutil.rmtree(self._folder)

    def _work(self) -> dict[str, Sample]:
        begun_ns = time.time_ns()
        self._send("noop", 1)
        with self._worker() as worker:
            figures = {"start_ms": (worker.run(1, begun_ns).slots[0][0] - worker.started_at_ns) / 1e6}
            warm_up = min(WARM_UP, self.setup.count)
            self._run(worker, "noop", warm_up)
            if self.setup.steady:
                late = self._run(worker, "timed", int(STEADY_RATE * STEADY_SECONDS), STEADY_RATE)
                late_ms = [(start - sent) / 1e6 for start, _, sent in late.slots if sent]
                figures |= {"p50_ms": percentile(late_ms, 50), "p99_ms": percentile(late_ms, 99)}
            samples, drained = self._drain(worker)
            time.sleep(SETTLE_SECONDS)
            figures["rss_mb"], figures["pss_mb"] = trees.memory_mb(worker.pid)
            figures["processes_count"] = len(trees.tree(worker.pid))
            before = trees.cpu_seconds(worker.pid)
            time.sleep(IDLE_SECONDS)
            figures["idle_cpu_percent"] = (trees.cpu_seconds(worker.pid) - before) / IDLE_SECONDS * 100
            self._finish(worker)
        drain = _sample(len(drained.slots) - 1, drained.start_seconds, drained)
        return {**samples, "drain": drain, "running": Sample(figures=figures)}

    def _drain(self, worker: Worker) -> tuple[dict[str, Sample], Phase]:
        """Fill the queue while the worker is frozen, which is the measurement of publishing, and let it run them all."""
        count = self._scaled(self.setup.count)
        samples = {}
        begun_ns = time.time_ns()
        with worker.frozen():
            self._wait_for_file(worker)
            if self.setup.in_flight == 1:
                samples["publish"] = self._send("noop", count)
            else:
                first = min(ONE_BY_ONE, count // 4)
                samples["publish"] = self._send("noop", first)
                samples["in-flight"] = self._send("noop", count - first, in_flight=self.setup.in_flight)
        return samples, worker.run(count, begun_ns)

    def _load(self) -> dict[str, Sample]:
        """The 50 ms tasks, or the CPU-bound ones, by a worker that is warm."""
        kind = self.setup.kind
        count = self._scaled(self.setup.count)
        with self._worker() as worker:
            # As many as run at once, so that every thread, greenlet and process is there.
            self._run(worker, kind, max(self.setup.at_once, WARM_LOADS))
            begun_ns = time.time_ns()
            with worker.frozen():
                self._wait_for_file(worker)
                self._send(kind, count, in_flight=self.setup.in_flight)
            phase = worker.run(count, begun_ns, ended=True)
            self._finish(worker)
        sample = _sample(count, phase.whole_seconds, phase)
        if kind == "io":
            cap = self.setup.at_once / IO_SECONDS
            sample.figures["share_percent"] = sample.count / sample.seconds / cap * 100
        return {kind: sample}

    def _run(self, worker: Worker, kind: str, count: int, per_second: float = 0.0) -> Phase:
        begun_ns = time.time_ns()
        self._send(kind, count, per_second=per_second, in_flight=1 if per_second else self.setup.in_flight)
        return worker.run(count, begun_ns, ended=kind in ("io", "cpu"))

    def _finish(self, worker: Worker) -> None:
        worker.stop(signal.Signals[f"SIG{self.setup.stop}"], self.setup.stop_all, self._published)
        if self.setup.service in ("rabbitmq", "go"):
            self._services.wait_until_empty(self.queue)
        elif left := self._ask('"depth"', int):
            raise PeerFailed(f"expected an empty queue afterwards, got {left} tasks")

    def _worker(self) -> AbstractContextManager[Worker]:
        words = [self._filled(word) for word in self.setup.worker]
        return running(words, self._variables, self._folder, self._services.broker_pid(self._broker))

    def _send(self, kind: str, count: int, in_flight: int = 1, per_second: float = 0.0) -> Sample:
        order = {"kind": kind, "count": count, "in_flight": in_flight, "per_second": per_second}
        self._published += count
        return self._ask(msgspec.json.encode(order).decode(), Sample)

    def _ask(self, order: str, answer: type[T]) -> T:
        app = peer_of(self.setup).app
        words = (
            [str(self._home / "python"), "-m", "benchmarks.peers.sender", app] if app else [str(self._home / "go-peer")]
        )
        try:
            done = subprocess.run(
                [*words, order],
                env={**os.environ, **self._variables},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=SENDER_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerFailed(f"its sender was not done within {SENDER_SECONDS:g} s") from error
        if done.returncode:
            raise PeerFailed(f"its sender ended with exit code {done.returncode}:\n{done.stderr}")
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=answer)

    def _scaled(self, count: int) -> int:
        return max(50, int(count * self._scale))

    @property
    def _broker(self) -> str:
        return "rabbitmq" if self.setup.service == "go" else self.setup.service

    def _filled(self, word: str) -> str:
        home = str(self._home)
        return word.format(python=f"{home}/python", bin=home, queue=self.queue, url=self._variables["BENCH_URL"])

    def _environment(self, meter: str) -> dict[str, str]:
        """What the peer's programs read. They may make what is named after the queue, and nothing else."""
        file = self._folder / "bench.db"
        url = f"sqlite:///{file}"
        if self._broker != "sqlite":
            broker = self._services.redis if self._broker == "redis" else self._services.rabbitmq
            assert broker is not None
            url = broker.url
        return {
            "PYTHONPATH": str(ROOT),
            "BENCH_URL": url,
            "BENCH_FILE": str(file),
            "BENCH_QUEUE": self.queue,
            "BENCH_METER": meter,
            "BENCH_PREFETCH": "1",
            "BENCH_LIMIT": "1",
            "BENCH_CONFIRM": "0",
            "BENCH_PLAIN": "0",
            # Read by the app of `make bench`, whose own meter is not used here.
            "BENCH_BROKER_PID": "0",
            "BENCH_QUEUES": self.queue,
            "BENCH_COUNT": "0",
            "BENCH_PIPE": "-1",
            **self.setup.variables,
        }

    def _wait_for_file(self, worker: Worker) -> None:
        """A worker frozen in a transaction would keep senders out: let it go on until it is not in one."""
        if self.setup.service != "sqlite":
            return
        deadline = time.monotonic() + LOCK_SECONDS
        while _is_locked(self._folder / "bench.db"):
            if time.monotonic() > deadline:
                raise PeerFailed(f"its file was locked for {LOCK_SECONDS:g} s")
            trees.send_signal(worker.pid, signal.SIGCONT)
            time.sleep(0.003)
            trees.send_signal(worker.pid, signal.SIGSTOP)


def bare_loops(processes: int, seconds: float = 1.0) -> Sample:
    """The CPU-bound task without any queue: how often so many processes run it, all at once, in as many seconds."""
    code = (
        "import sys, time; from benchmarks.peers.work import count; count(); n = 0; begun = time.perf_counter()\n"
        "while time.perf_counter() - begun < float(sys.argv[1]): count(); n += 1\n"
        "print(n / (time.perf_counter() - begun))"
    )
    words = [sys.executable, "-c", code, str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    rates = [float(process.communicate(timeout=SENDER_SECONDS)[0]) for process in started]
    return Sample(count=int(sum(rates) * 1000), seconds=1000.0)


def _sample(count: int, seconds: float, phase: Phase) -> Sample:
    return Sample(count, seconds, phase.cpu_seconds, phase.broker_cpu_seconds)


def _is_locked(file: Path) -> bool:
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False


def _memory() -> str | None:
    """A folder in memory for the meters, where there is one: they are no part of what is measured."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
