"""The same measurements of huey and litequeue, and of a bare SQLite insert. Each runs alone in an empty folder."""

from __future__ import annotations

import os
import sqlite3
import time

from litequeue import LiteQueue

from .huey_app import function, huey, timed
from .processes import huey_worker, started
from .samples import Sample, Stopwatch

__all__ = [
    "huey_drain",
    "huey_latency",
    "huey_publish",
    "huey_start",
    "litequeue_drain",
    "litequeue_publish",
    "sqlite_insert",
]

BODY = '{"uuid": "6f0e7a64c1d94b7f8d3c5e21a9b04d12", "name": "coroutine", "args": [{"type": "int", "value": 1}]}'


def sqlite_insert(count: int) -> Sample:
    """INSERT and COMMIT one by one, WAL and `synchronous=FULL`: what the disk and SQLite take, without any queue."""
    connection = sqlite3.connect(os.environ["BENCH_FILE"], isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, body BLOB)")
    watch = Stopwatch()
    for _ in range(count):
        connection.execute("INSERT INTO messages (body) VALUES (?)", (BODY.encode(),))
    return watch.sample(count)


def huey_publish(count: int) -> Sample:
    """Call the task, one by one."""
    for number in range(20):
        function(number)
    watch = Stopwatch()
    for number in range(count):
        function(number)
    return watch.sample(count)


def huey_drain(count: int, threads: int) -> Sample:
    """One consumer process with `threads` worker threads takes and runs tasks that wait in the file."""
    for number in range(count):
        function(number)
    with started(huey_worker(threads), count) as worker:
        sample = worker.sample()
        worker.drain()
    if left := huey.storage.queue_size():
        raise RuntimeError(f"expected an empty queue after the drain, got {left} messages")
    return sample


def huey_start() -> Sample:
    """From starting a consumer process to the first line of the first task, which waits in the file."""
    function(1)
    with started(huey_worker(1), 1) as worker:
        sample = worker.sample()
        worker.drain()
    return Sample(figures={"start_ms": (sample.figures["first_at"] - worker.started_at) * 1e3})


def huey_latency(count: int, per_second: float) -> Sample:
    """From the call of the task to the function's first line in another process, at a steady rate."""
    with started(huey_worker(1), count) as worker:
        time.sleep(2.0)
        begun = time.perf_counter()
        for number in range(count):
            time.sleep(max(0.0, begun + number / per_second - time.perf_counter()))
            timed(time.monotonic_ns())
        sample = worker.sample()
    return Sample(figures={key: sample.figures[key] for key in ("p50_ms", "p99_ms")})


def litequeue_publish(count: int) -> Sample:
    """`put`, one by one."""
    queue = LiteQueue(os.environ["BENCH_FILE"])
    watch = Stopwatch()
    for _ in range(count):
        queue.put(BODY)
    return watch.sample(count)


def litequeue_drain(count: int) -> Sample:
    """`pop` and `done` in a loop: it has no worker, so no task is decoded or run here."""
    queue = LiteQueue(os.environ["BENCH_FILE"])
    for _ in range(count):
        queue.put(BODY)
    watch = Stopwatch()
    for _ in range(count):
        message = queue.pop()
        # From 0.14 on, which needs Python 3.12, a claim is fenced by its number.
        claim = {"claim_id": message.claim_id} if hasattr(message, "claim_id") else {}
        queue.done(message.message_id, **claim)
    return watch.sample(count)
