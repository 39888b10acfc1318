"""The settings for tasks that take time: 50 ms of waiting, many at once, and 5 ms of computing in two processes. Data only."""

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
    MANY,
    OURS,
    PLAIN,
    RQ_OPTIONS,
    TASKIQ,
    TASKIQ_QUEUES,
)

__all__ = ["CPU", "IO"]


def _io(name: str, peer: str, title: str, worker: tuple[str, ...], at_once: int, note: str, **fields: object) -> Setup:
    base: dict[str, object] = {"kind": "io", "count": 5000, "in_flight": 1, "variables": MANY}
    named = {"name": name, "peer": peer, "title": title, "worker": worker, "at_once": at_once, "note": note}
    return msgspec.convert({**base, **named, **fields}, Setup)


IO = (
    _io(
        "dispatcher",
        "dispatcher",
        "Dispatcher, coroutines",
        (*OURS, "-c", "500", "--prefetch", "1000"),
        500,
        "`-c 500 --prefetch 1000`.",
        in_flight=100,
        stop="INT",
    ),
    _io(
        "dispatcher-sqlite",
        "dispatcher",
        "Dispatcher on SQLite, coroutines",
        (*OURS, "-c", "500", "--prefetch", "1000"),
        500,
        "`-c 500 --prefetch 1000`.",
        in_flight=100,
        service="sqlite",
        stop="INT",
    ),
    _io(
        "dispatcher-plain",
        "dispatcher",
        "Dispatcher, plain functions in threads",
        (*OURS, "-c", "500", "--prefetch", "1000"),
        500,
        "`-c 500 --prefetch 1000`, so 500 threads.",
        in_flight=100,
        variables=PLAIN,
        stop="INT",
    ),
    _io(
        "celery-gevent",
        "celery",
        "Celery, gevent",
        (*CELERY, "-P", "gevent", "-c", "500"),
        500,
        "500 greenlets, a multiplier of 2.",
        variables={"BENCH_PREFETCH": "2"},
    ),
    _io(
        "celery-threads",
        "celery",
        "Celery, threads",
        (*CELERY, "-P", "threads", "-c", "100"),
        100,
        "100 threads: more are slower.",
        count=3000,
        variables={"BENCH_PREFETCH": "2"},
    ),
    _io(
        "dramatiq-gevent",
        "dramatiq",
        "Dramatiq, gevent",
        ("{bin}/dramatiq-gevent", f"{APPS}.dramatiq_app", "-p", "1", "-t", "500"),
        500,
        "`dramatiq-gevent -p 1 -t 500`.",
        queues=DRAMATIQ_QUEUES,
        variables=DRAMATIQ_MANY,
    ),
    _io(
        "dramatiq-threads",
        "dramatiq",
        "Dramatiq, threads",
        (*DRAMATIQ, "-p", "1", "-t", "100"),
        100,
        "`-p 1 -t 100`.",
        count=3000,
        queues=DRAMATIQ_QUEUES,
        variables=DRAMATIQ_MANY,
    ),
    _io(
        "taskiq",
        "taskiq",
        "taskiq",
        (*TASKIQ, "-w", "1", "--max-async-tasks", str(AT_ONCE)),
        500,
        "`-w 1`.",
        in_flight=100,
        queues=TASKIQ_QUEUES,
    ),
    _io("faststream", "faststream", "FastStream", FASTSTREAM, 500, "`prefetch_count=500`.", in_flight=100, stop="INT"),
    _io(
        "huey-greenlet",
        "huey",
        "huey on Redis, greenlets",
        ("{python}", "-m", "gevent.monkey", *HUEY, "-k", "greenlet", "-w", "100"),
        100,
        "`-k greenlet -w 100`, patched by `python -m gevent.monkey`, as it asks for; 500 are slower.",
        service="redis",
        stop="INT",
    ),
    _io(
        "huey-threads",
        "huey",
        "huey on Redis, threads",
        (*HUEY, "-w", "100"),
        100,
        "`-w 100`.",
        count=3000,
        service="redis",
        stop="INT",
    ),
    _io(
        "arq",
        "arq",
        "arq",
        ("{bin}/arq", f"{APPS}.arq_app.WorkerSettings"),
        500,
        "`max_jobs=500`.",
        count=2500,
        in_flight=100,
        service="redis",
    ),
    _io(
        "saq",
        "saq",
        "SAQ",
        ("{bin}/saq", f"{APPS}.saq_app.settings", "--quiet"),
        500,
        "`concurrency=500`.",
        count=2500,
        in_flight=100,
        service="redis",
    ),
    _io(
        "streaq",
        "streaq",
        "streaQ",
        ("{bin}/streaq", "run", f"{APPS}.streaq_app:worker"),
        500,
        "`concurrency=500`.",
        count=2500,
        in_flight=100,
        service="redis",
    ),
    _io(
        "go",
        "go",
        "The Go package",
        ("{bin}/go-peer", "worker", str(AT_ONCE)),
        500,
        "`Limit: 500`.",
        service="go",
        stop="INT",
    ),
)


def _cpu(name: str, peer: str, title: str, worker: tuple[str, ...], note: str, **fields: object) -> Setup:
    base: dict[str, object] = {"kind": "cpu", "count": 400, "variables": {"BENCH_PREFETCH": "2", "BENCH_LIMIT": "2"}}
    named = {"name": name, "peer": peer, "title": title, "worker": worker, "note": note}
    return msgspec.convert({**base, **named, **fields}, Setup)


CPU = (
    _cpu(
        "dispatcher",
        "dispatcher",
        "Dispatcher, 2 worker processes",
        (*OURS, "-p", "2", "-c", "1", "--prefetch", "2"),
        "`-p 2 -c 1 --prefetch 2`: threads of one process would share its interpreter.",
        variables=PLAIN,
        stop="INT",
    ),
    _cpu(
        "dispatcher-executor",
        "dispatcher",
        'Dispatcher, `executor="process"`, 1 worker',
        (*OURS, "-c", "2", "--prefetch", "4"),
        "`-c 2 --prefetch 4`: the worker runs two child processes.",
        variables={**PLAIN, "BENCH_EXECUTOR": "process"},
        stop="INT",
    ),
    _cpu(
        "celery-prefork",
        "celery",
        "Celery, prefork",
        (*CELERY, "-P", "prefork", "-c", "2"),
        "`-c 2`, a multiplier of 2.",
    ),
    _cpu(
        "dramatiq",
        "dramatiq",
        "Dramatiq, 2 processes",
        (*DRAMATIQ, "-p", "2", "-t", "1"),
        "`-p 2 -t 1`, a prefetch of 2: threads of one process would share its interpreter.",
        queues=DRAMATIQ_QUEUES,
        variables={"dramatiq_queue_prefetch": "2"},
    ),
    _cpu(
        "taskiq",
        "taskiq",
        "taskiq, 2 worker processes",
        (*TASKIQ, "-w", "2", "--max-async-tasks", "2"),
        "`-w 2 --max-async-tasks 2`, `qos=2`.",
        queues=TASKIQ_QUEUES,
    ),
    _cpu(
        "faststream",
        "faststream",
        "FastStream, 2 processes",
        (*FASTSTREAM, "--workers", "2"),
        "`--workers 2`, `prefetch_count=2`.",
        stop="INT",
    ),
    _cpu(
        "huey",
        "huey",
        "huey on Redis, 2 processes",
        (*HUEY, "-k", "process", "-w", "2"),
        "`-k process -w 2`.",
        service="redis",
        stop="INT",
    ),
    _cpu(
        "rq",
        "rq",
        "RQ, 2 `SimpleWorker`s",
        ("{bin}/rq", "worker-pool", "{queue}", *RQ_OPTIONS, "-n", "2", "-w", "rq.worker.SimpleWorker"),
        "`worker-pool -n 2`.",
        count=200,
        service="redis",
    ),
    _cpu(
        "saq",
        "saq",
        "SAQ, 2 processes",
        ("{bin}/saq", f"{APPS}.saq_app.settings", "--quiet", "--workers", "2"),
        "`--workers 2`, `concurrency=2`.",
        service="redis",
        stop_all=True,
    ),
    _cpu(
        "streaq",
        "streaq",
        "streaQ, 2 processes",
        ("{bin}/streaq", "run", f"{APPS}.streaq_app:worker", "--workers", "2"),
        "`--workers 2`, `concurrency=2`.",
        service="redis",
        stop_all=True,
    ),
)
