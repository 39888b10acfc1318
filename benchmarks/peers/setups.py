"""The settings in which each peer goes through everything: publish, drain, latency, start, memory, idle. Data only."""

from __future__ import annotations

import msgspec

from .catalogue import AT_ONCE, Setup
from .commands import (
    APPS,
    CELERY,
    DRAMATIQ,
    DRAMATIQ_MANY,
    DRAMATIQ_QUEUES,
    FASTSTREAM,
    HUEY,
    HUEY_POLLS,
    MANY,
    OURS,
    PLAIN,
    RQ_OPTIONS,
    TASKIQ,
    TASKIQ_QUEUES,
)
from .loads import CPU, IO

__all__ = ["SETUPS", "WORK"]


def _ours(name: str, title: str, options: tuple[str, ...], **fields: object) -> Setup:
    base = {"count": 20_000, "in_flight": 100, "stop": "INT", "peer": "dispatcher", "name": name, "title": title}
    return msgspec.convert({**base, "worker": (*OURS, *options), **fields}, Setup)


SYNCED = "fsync a publish; acks within 250 ms"
NO_ACK = "no fsync, no ack"

WORK = (
    _ours("dispatcher-32", "Dispatcher, coroutines, limit 32", (), note="`dispatcher worker` without options."),
    _ours("dispatcher", "Dispatcher, coroutines, limit 500", ("-c", "500"), note="`-c 500`, the peers' number."),
    _ours(
        "dispatcher-plain", "Dispatcher, plain functions, limit 500", ("-c", "500"), variables=PLAIN, note="`-c 500`."
    ),
    _ours(
        "dispatcher-sqlite",
        "Dispatcher on SQLite, coroutines, limit 500",
        ("-c", "500"),
        service="sqlite",
        durability=SYNCED,
        note="`-c 500`.",
    ),
    _ours(
        "dispatcher-sqlite-plain",
        "Dispatcher on SQLite, plain functions, limit 500",
        ("-c", "500"),
        service="sqlite",
        variables=PLAIN,
        durability=SYNCED,
        note="`-c 500`.",
    ),
    Setup(
        "celery-prefork",
        "celery",
        "Celery, prefork, 2 processes",
        (*CELERY, "-P", "prefork", "-c", "2"),
        variables={"BENCH_PREFETCH": "128"},
        note="one process for each core, a multiplier of 128.",
    ),
    Setup(
        "celery-threads",
        "celery",
        "Celery, 8 threads",
        (*CELERY, "-P", "threads", "-c", "8"),
        variables={"BENCH_PREFETCH": "64"},
        note="a multiplier of 64.",
    ),
    Setup(
        "celery-gevent",
        "celery",
        "Celery, gevent, 100 greenlets",
        (*CELERY, "-P", "gevent", "-c", "100"),
        variables={"BENCH_PREFETCH": "5"},
        note="a multiplier of 5.",
    ),
    Setup(
        "celery-solo",
        "celery",
        "Celery, solo",
        (*CELERY, "-P", "solo"),
        variables={"BENCH_PREFETCH": "500"},
        note="a multiplier of 500.",
    ),
    Setup(
        "celery-solo-confirm",
        "celery",
        "Celery, solo, `confirm_publish`",
        (*CELERY, "-P", "solo"),
        variables={"BENCH_PREFETCH": "500", "BENCH_CONFIRM": "1"},
        count=3000,
        note="the same with its publishes confirmed.",
    ),
    Setup(
        "dramatiq-1p8t",
        "dramatiq",
        "Dramatiq, 1 process, 8 threads",
        (*DRAMATIQ, "-p", "1", "-t", "8"),
        queues=DRAMATIQ_QUEUES,
        variables=DRAMATIQ_MANY,
        note="`-p 1 -t 8`.",
    ),
    Setup(
        "dramatiq-2p8t",
        "dramatiq",
        "Dramatiq, 2 processes, 8 threads",
        (*DRAMATIQ, "-p", "2", "-t", "8"),
        queues=DRAMATIQ_QUEUES,
        variables=DRAMATIQ_MANY,
        count=8000,
        note="`-p 2 -t 8`: what it starts on two cores.",
    ),
    Setup(
        "dramatiq-2p8t-confirm",
        "dramatiq",
        "Dramatiq, 2 processes, 8 threads, `confirm_delivery`",
        (*DRAMATIQ, "-p", "2", "-t", "8"),
        queues=DRAMATIQ_QUEUES,
        variables={**DRAMATIQ_MANY, "BENCH_CONFIRM": "1"},
        count=3000,
        note="the same with its publishes confirmed.",
    ),
    Setup(
        "taskiq-1w",
        "taskiq",
        "taskiq, 1 worker process",
        (*TASKIQ, "-w", "1", "--max-async-tasks", str(AT_ONCE)),
        variables=MANY,
        in_flight=100,
        queues=TASKIQ_QUEUES,
        note="`-w 1`.",
    ),
    Setup(
        "taskiq-2w",
        "taskiq",
        "taskiq, 2 worker processes",
        (*TASKIQ, "-w", "2", "--max-async-tasks", str(AT_ONCE)),
        variables=MANY,
        in_flight=100,
        queues=TASKIQ_QUEUES,
        note="`-w 2`, its default.",
    ),
    Setup(
        "faststream",
        "faststream",
        "FastStream, 1 process",
        FASTSTREAM,
        variables=MANY,
        in_flight=100,
        stop="INT",
        note="`faststream run`.",
    ),
    Setup(
        "faststream-2w",
        "faststream",
        "FastStream, 2 processes",
        (*FASTSTREAM, "--workers", "2"),
        variables=MANY,
        in_flight=100,
        stop="INT",
        note="`--workers 2`.",
    ),
    Setup(
        "huey-redis",
        "huey",
        "huey on Redis, 1 thread",
        (*HUEY, "-w", "1"),
        service="redis",
        stop="INT",
        note="one thread, which drains faster than more of them.",
    ),
    Setup(
        "huey-sqlite",
        "huey",
        "huey on SQLite, 1 thread",
        (*HUEY, "-w", "1", *HUEY_POLLS),
        service="sqlite",
        stop="INT",
        durability=NO_ACK,
        note="one thread, for the same reason.",
    ),
    Setup(
        "rq",
        "rq",
        "RQ, a fork for each task",
        ("{bin}/rq", "worker", "{queue}", *RQ_OPTIONS, "--disable-job-desc-logging"),
        service="redis",
        count=150,
        steady=False,
        note="its default worker.",
    ),
    Setup(
        "rq-simple",
        "rq",
        "RQ, `SimpleWorker`",
        ("{bin}/rq", "worker", "{queue}", *RQ_OPTIONS, "--disable-job-desc-logging", "-w", "rq.worker.SimpleWorker"),
        service="redis",
        count=600,
        note="no fork: its documented choice where tasks are trusted.",
    ),
    Setup(
        "arq",
        "arq",
        "arq",
        ("{bin}/arq", f"{APPS}.arq_app.WorkerSettings"),
        service="redis",
        variables={"BENCH_LIMIT": "100"},
        count=2000,
        in_flight=100,
        note="`max_jobs=100`.",
    ),
    Setup(
        "saq",
        "saq",
        "SAQ",
        ("{bin}/saq", f"{APPS}.saq_app.settings", "--quiet"),
        service="redis",
        variables={"BENCH_LIMIT": "100"},
        count=3000,
        in_flight=100,
        note="`concurrency=100`.",
    ),
    Setup(
        "streaq",
        "streaq",
        "streaQ",
        ("{bin}/streaq", "run", f"{APPS}.streaq_app:worker"),
        service="redis",
        variables={"BENCH_LIMIT": "100"},
        count=2000,
        in_flight=100,
        note="`concurrency=100`.",
    ),
    Setup(
        "go",
        "go",
        "The Go package, limit 500",
        ("{bin}/go-peer", "worker", str(AT_ONCE)),
        service="go",
        count=20_000,
        stop="INT",
        note="`Limit: 500`, which is its prefetch.",
    ),
)

SETUPS = (*WORK, *IO, *CPU)
