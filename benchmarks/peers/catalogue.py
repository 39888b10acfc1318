"""Who is measured, and the settings that all setups of a peer share, with the reasons. Data only: the setups are in `setups`."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["AT_ONCE", "PEERS", "Kind", "Peer", "Setup", "peer_of"]

Service = Literal["rabbitmq", "redis", "sqlite", "go"]
Kind = Literal["work", "io", "cpu"]

AT_ONCE = 500
"""How many 50 ms tasks run at once, where the peer can."""


class Peer(msgspec.Struct, frozen=True):
    """`requirements` are installed in an environment of its own; the versions of `packages` are told in the report.

    `app` is its module in `apps`; without one it is built by `golang`. `note`: the settings that all its rows share, and their
    reasons. `here`: it is in the environment that this runs in.
    """

    name: str
    title: str
    app: str = ""
    requirements: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    note: str = ""
    here: bool = False


class Setup(msgspec.Struct, frozen=True):
    """One peer with one worker command; `work` goes through everything, `io` and `cpu` through that one measurement.

    In `worker`, `{python}` and `{bin}` stand for the peer's environment, `{queue}` and `{url}` for the measurement's.
    `count`: tasks that are drained. `in_flight`: how many publishes can be awaited at once (1: it can but one). `at_once`:
    how many 50 ms tasks run at once. `steady`: it keeps up with 200 tasks a second, so that there is a latency. `queues`:
    what it declares besides `{queue}`. `stop`: the signal that makes it finish what it runs and end; `stop_all`: each of its
    processes has to be sent it, as ^C in a terminal does.
    """

    name: str
    peer: str
    title: str
    worker: tuple[str, ...]
    kind: Kind = "work"
    service: Service = "rabbitmq"
    variables: dict[str, str] = {}
    count: int = 5000
    in_flight: int = 1
    at_once: int = 0
    steady: bool = True
    queues: tuple[str, ...] = ()
    stop: Literal["INT", "TERM"] = "TERM"
    stop_all: bool = False
    durability: str = ""
    note: str = ""

    @property
    def key(self) -> str:
        """What it is called in the results: `cpu/celery-prefork`."""
        return f"{self.kind}/{self.name}"


PEERS = (
    Peer(
        "dispatcher",
        "Dispatcher",
        "dispatcher_app",
        here=True,
        note="as shipped and with its features on: two headers, `RetryPolicy(max_attempts=5)`, an observer that"
        " every event is built for, logs at INFO, quorum queues, `mandatory`, confirms, an ack after the run.",
    ),
    Peer(
        "celery",
        "Celery",
        "celery_app",
        ("celery >=5.5,<6", "gevent"),
        ("celery", "kombu", "amqp", "gevent"),
        note="`task_ignore_result`, because nobody reads results here; `worker_prefetch_multiplier` raised, as its"
        " guide to optimizing says for short tasks; `--without-gossip --without-mingle --without-heartbeat`,"
        " `worker_enable_remote_control=False` and `worker_disable_rate_limits`, because each costs and none"
        " is used; its connection pool as it ships. As it ships: an ack before the run, classic queues, no"
        " confirms except in the row that says so, logs at WARNING.",
    ),
    Peer(
        "dramatiq",
        "Dramatiq",
        "dramatiq_app",
        ("dramatiq[rabbitmq] >=2,<3", "gevent"),
        ("dramatiq", "pika", "gevent"),
        note="`dramatiq_queue_prefetch=500` instead of twice the threads, because tasks are short. As it ships:"
        " its default middleware (retries, time and age limits among it), classic queues, an ack after the"
        " run, no confirms except in the row that says so.",
    ),
    Peer(
        "taskiq",
        "taskiq",
        "taskiq_app",
        ("taskiq >=0.12", "taskiq-aio-pika >=0.5", "uvloop"),
        ("taskiq", "taskiq-aio-pika", "aio-pika", "uvloop"),
        note="uvloop, which its worker takes where it is installed; `qos` and `--max-async-tasks` raised from 10"
        " and 100 to 500, because `qos` bounds how many tasks run at once; logs at WARNING, because a line for"
        " each task costs; `--no-parse`, which leaves the conversion of arguments out. As it ships: quorum"
        " queues, confirms, an ack after the run, no results.",
    ),
    Peer(
        "faststream",
        "FastStream",
        "faststream_app",
        ("faststream[rabbit,cli] >=0.6", "uvloop"),
        ("faststream", "aio-pika", "uvloop"),
        note="uvloop, which its command takes where it is installed; `prefetch_count=500`; `logger=None`, because"
        " two lines for each message cost; `apply_types=False`, which leaves checking and injecting arguments"
        " out. As it ships: a durable classic queue, confirms, an ack after the run; messages are published"
        " persistent.",
    ),
    Peer(
        "huey",
        "huey",
        "huey_app",
        ("huey >=3,<4", "redis", "gevent"),
        ("huey", "redis"),
        note="`results=False`; no periodic tasks (`-n`) and no log line for each task (`-q`); on SQLite"
        " `fsync=False`, and an idle consumer polls every 2 ms instead of every 100. As it ships: a task is"
        " deleted before it runs.",
    ),
    Peer(
        "rq",
        "RQ",
        "rq_app",
        ("rq >=2", "redis"),
        ("rq", "redis"),
        note="`result_ttl=0`, because nobody reads results; logs off (`--quiet`, `--disable-job-desc-logging`).",
    ),
    Peer(
        "arq",
        "arq",
        "arq_app",
        ("arq >=0.26",),
        ("arq", "redis", "hiredis"),
        note="`poll_delay=0.005` instead of 0.5 s, because a latency is measured; `max_jobs` and"
        " `queue_read_limit` raised from 10; `keep_result=0`, `log_results=False` and logs at WARNING, because"
        " nobody reads them.",
    ),
    Peer(
        "saq",
        "SAQ",
        "saq_app",
        ("saq[redis,hiredis] >=0.24", "typing_extensions"),
        ("saq", "redis"),
        note="`concurrency` raised from 10; `ttl=-1`, so that no result is kept; hiredis; logs off (`--quiet`);"
        " swept once before its worker starts, whose own first sweep would run the task that it has just taken twice.",
    ),
    Peer(
        "streaq",
        "streaQ",
        "streaq_app",
        ("streaq >=6",),
        ("streaq", "coredis"),
        note="`concurrency` and `prefetch` raised from 16; `ttl=0`, so that no result is kept; `silent`, so that"
        " no line is logged for a task.",
    ),
    Peer(
        "go",
        "The Go package",
        "",
        note="`github.com/gofort/dispatcher`, a worker and a sender of our own around it, built with the machine's"
        " Go; its logger says nothing. As it ships: an ack after the run, confirms, not `mandatory`, classic"
        " queues.",
    ),
)


def peer_of(setup: Setup) -> Peer:
    return next(peer for peer in PEERS if peer.name == setup.peer)
