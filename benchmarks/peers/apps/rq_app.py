"""RQ on Redis."""

from __future__ import annotations

import os

from redis import Redis
from rq import Queue

from .. import work

__all__ = ["depth", "send"]

queue = Queue(os.environ["BENCH_QUEUE"], connection=Redis.from_url(os.environ["BENCH_URL"]))

TASKS = {"noop": work.noop, "timed": work.timed, "io": work.blocking_io, "cpu": work.cpu}


def send(kind: str, value: int) -> None:
    queue.enqueue(TASKS[kind], value, result_ttl=0)


def depth() -> int:
    return queue.count + queue.started_job_registry.count
