"""The cases by name: what each measures, how durable it is, and which function does it. Data only."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["CASES", "GROUPS", "Case", "Group"]

FSYNC = "fsync a commit"
NO_SYNC = "no fsync"
NORMAL = "fsync at checkpoints"

Need = Literal["rabbitmq", "librabbitmq"]


class Case(msgspec.Struct, frozen=True):
    """`name` is `group/who`. `does` names the function, `module:function`, `options` its arguments. `queues`: how many it has.

    `once`: measured in the first round only, because it takes long and hardly varies. `needs`: what there must be besides
    Python; without it the case says that it was not measured. `note`: its settings, told below its table.
    """

    name: str
    title: str
    does: str
    options: dict[str, Any] = {}
    durability: str = ""
    once: bool = False
    huey_fsync: bool = False
    needs: tuple[Need, ...] = ()
    note: str = ""
    queues: int = 1


class Group(msgspec.Struct, frozen=True):
    """The cases of one table, of rates (`what` a second, CPU for so many) or of figures.

    `peers` starts the names of those that Dispatcher's rates are divided by: the best one. `note` stands below the table.
    """

    name: str
    title: str
    peers: str = ""
    peers_title: str = ""
    is_rates: bool = True
    what: str = "tasks"
    cpu_for: int = 10_000
    note: str = ""

    @property
    def chart(self) -> str:
        """The file of its chart; none without peers to compare."""
        return f"bench-{self.name}.svg" if self.peers else ""


GROUPS = (
    Group("publish", "Publish one by one, each awaited", "publish/huey-fsync", "huey fsync"),
    Group("in-flight", "Publish with 100 in flight", "in-flight/huey", "huey no fsync"),
    Group("drain", "Drain no-op tasks, one worker process", "drain/huey", "best huey"),
    Group("rabbitmq", "Dispatcher on RabbitMQ: a quorum queue, confirms, everything through its public interface"),
    Group(
        "amqp-publish",
        "AMQP clients: publish to a quorum queue, each publish confirmed",
        "amqp-publish/aio-pika",
        "aio-pika",
        what="messages",
        cpu_for=100_000,
        note="All: 100 bytes of body, content type, message id, three headers; persistent, mandatory; 1,000 publishes wait"
        " for their confirm. Afterwards the queue holds every message.",
    ),
    Group(
        "amqp-consume",
        "AMQP clients: consume from a quorum queue and ack",
        "amqp-consume/aio-pika",
        "aio-pika",
        what="messages",
        cpu_for=100_000,
        note="All: the same messages, of which every property and header is read; a prefetch of 1,000,"
        " with which each is as fast as without any. Afterwards the queue is empty.",
    ),
    Group("latency", "From `send` to the function's start, another process", is_rates=False),
    Group(
        "handover",
        "Handing a function that does nothing to a thread or a process, and its result back to the event loop",
        is_rates=False,
        note="For each function. Alone: one at a time, each awaited. In flight: 32 at once, the next when one is back. CPU with"
        " that of the child processes. Dramatiq's processes each take from the broker themselves: nothing is handed to them.",
    ),
    Group(
        "busy",
        "Tasks that keep a processor busy for about 5 ms",
        "busy/bare",
        "a bare loop",
        note="From the first task begun to the last one ended, on a SQLite file.",
    ),
    Group("start", "Starting", is_rates=False),
    Group("idle", "Having nothing to do", is_rates=False),
)

OURS = "dispatcher_cases"
HANDOVER = "handover_cases"
PEERS = "peer_cases"

WINDOW_NOTE = "the window is filled again when it is half empty"
COROUTINES_NOTE = "1,000 coroutines, each of which awaits its publish"
ACKS_NOTE = "one ack for 50 deliveries"


def _amqp(name: str, title: str, does: str, count: int, note: str) -> Case:
    """A case of one AMQP client."""
    needs: tuple[Need, ...] = ("rabbitmq", "librabbitmq") if name.endswith("librabbitmq") else ("rabbitmq",)
    return Case(f"amqp-{name}", title, f"amqp.{does}", {"count": count}, needs=needs, note=note)


CASES = (
    Case("publish/sqlite", "bare SQLite insert", f"{PEERS}:sqlite_insert", {"count": 3000}, FSYNC),
    Case("publish/dispatcher", "Dispatcher", f"{OURS}:publish", {"count": 3000, "publishers": 1}, FSYNC),
    Case("publish/huey-fsync", "huey, its default", f"{PEERS}:huey_publish", {"count": 3000}, FSYNC, huey_fsync=True),
    Case("publish/huey", "huey `fsync=False`", f"{PEERS}:huey_publish", {"count": 10_000}, NO_SYNC),
    Case("publish/litequeue", "litequeue", f"{PEERS}:litequeue_publish", {"count": 10_000}, NORMAL),
    Case(
        "in-flight/dispatcher",
        "Dispatcher, 100 publishers",
        f"{OURS}:publish",
        {"count": 30_000, "publishers": 100},
        FSYNC,
    ),
    Case("in-flight/dispatcher-many", "Dispatcher, `publish_many`", f"{OURS}:publish_many", {"count": 30_000}, FSYNC),
    Case("in-flight/huey", "huey `fsync=False`, one by one", f"{PEERS}:huey_publish", {"count": 20_000}, NO_SYNC),
    *(
        Case(
            f"drain/dispatcher-{kind}-{limit}",
            f"Dispatcher, {what}, limit {limit}",
            f"{OURS}:drain",
            {"kind": kind, "count": 20_000, "limit": limit},
            "claim and ack, synced within 250 ms",
        )
        for kind, what in (("coroutine", "coroutines"), ("function", "plain functions"))
        for limit in (32, 250)
    ),
    *(
        Case(
            f"drain/huey-{threads}",
            f"huey, {threads} thread{'s' if threads > 1 else ''}",
            f"{PEERS}:huey_drain",
            {"count": 5000, "threads": threads},
            f"no ack, {NO_SYNC}",
        )
        for threads in (1, 2, 4, 8)
    ),
    Case(
        "drain/litequeue",
        "litequeue, a loop of pop and done",
        f"{PEERS}:litequeue_drain",
        {"count": 3000},
        f"ack, {NORMAL}",
    ),
    Case(
        "rabbitmq/publish-100",
        "publish, 100 publishers",
        f"{OURS}:publish",
        {"count": 10_000, "publishers": 100},
        needs=("rabbitmq",),
    ),
    Case("rabbitmq/publish-many", "`publish_many`", f"{OURS}:publish_many", {"count": 20_000}, needs=("rabbitmq",)),
    *(
        Case(
            f"rabbitmq/drain-{kind}-{limit}",
            f"drain, {what}, limit {limit}",
            f"{OURS}:drain",
            {"kind": kind, "count": 20_000, "limit": limit},
            needs=("rabbitmq",),
        )
        for kind, what in (("coroutine", "coroutines"), ("function", "plain functions"))
        for limit in (32, 250)
    ),
    _amqp(
        "publish/dispatcher",
        "Dispatcher",
        "our_client:publish",
        30_000,
        f"asyncio, callbacks; {WINDOW_NOTE}; a fourth header numbers the publish, so that a return can be told from others.",
    ),
    _amqp("publish/pika", "pika", "pika_client:publish", 15_000, f"`SelectConnection`, callbacks; {WINDOW_NOTE}."),
    _amqp(
        "publish/py-amqp",
        "py-amqp",
        "blocking_clients:pyamqp_publish",
        8000,
        f"`confirm_select`, confirms by `drain_events`; {WINDOW_NOTE}; `connection.blocked` is not negotiated, so that a"
        " publish need not look for it first.",
    ),
    _amqp("publish/aiormq", "aiormq", "asyncio_clients:aiormq_publish", 5000, f"asyncio; {COROUTINES_NOTE}."),
    _amqp(
        "publish/aio-pika",
        "aio-pika",
        "asyncio_clients:aio_pika_publish",
        5000,
        f"asyncio, `connect`; {COROUTINES_NOTE}.",
    ),
    _amqp(
        "publish/librabbitmq",
        "librabbitmq (C)",
        "blocking_clients:librabbitmq_publish",
        30_000,
        f"one thread; {WINDOW_NOTE}.",
    ),
    _amqp(
        "consume/dispatcher",
        "Dispatcher",
        "our_client:consume",
        30_000,
        "asyncio, a callback; each delivery is acked, and the client joins the acks of one turn of the event loop.",
    ),
    _amqp("consume/pika", "pika", "pika_client:consume", 15_000, f"`SelectConnection`, a callback; {ACKS_NOTE}."),
    _amqp(
        "consume/py-amqp",
        "py-amqp",
        "blocking_clients:pyamqp_consume",
        8000,
        f"`drain_events`, a callback; {ACKS_NOTE}.",
    ),
    _amqp(
        "consume/aiormq",
        "aiormq",
        "asyncio_clients:aiormq_consume",
        8000,
        f"asyncio, a coroutine; {ACKS_NOTE}, which is not waited for.",
    ),
    _amqp(
        "consume/aio-pika",
        "aio-pika",
        "asyncio_clients:aio_pika_consume",
        8000,
        f"asyncio, `connect`, a coroutine; {ACKS_NOTE}.",
    ),
    _amqp(
        "consume/librabbitmq",
        "librabbitmq (C)",
        "blocking_clients:librabbitmq_consume",
        30_000,
        f"one thread, `amqp_consume_message`; {ACKS_NOTE}.",
    ),
    Case("latency/dispatcher", "Dispatcher, 200 tasks/s", f"{OURS}:latency", {"count": 800, "per_second": 200}, FSYNC),
    Case(
        "latency/huey",
        "huey, 200 tasks/s, polls every 2 ms",
        f"{PEERS}:huey_latency",
        {"count": 800, "per_second": 200},
        NO_SYNC,
    ),
    Case(
        "latency/dispatcher-wake",
        "Dispatcher, 20 tasks/s: an idle worker wakes",
        f"{OURS}:latency",
        {"count": 60, "per_second": 20},
        FSYNC,
    ),
    Case(
        "latency/rabbitmq",
        "Dispatcher on RabbitMQ, 200 tasks/s",
        f"{OURS}:latency",
        {"count": 800, "per_second": 200},
        needs=("rabbitmq",),
    ),
    *(
        Case(f"handover/{by}", title, f"{HANDOVER}:handover", {"by": by, "count": count, "workers": workers})
        for by, title, count, workers in (
            ("dispatcher-threads", "Dispatcher, threads", 10_000, 32),
            ("thread-pool", "`ThreadPoolExecutor`, `run_in_executor`", 10_000, 32),
            ("to-thread", "`asyncio.to_thread`", 10_000, 32),
            ("dispatcher-processes", "Dispatcher, 2 processes", 5000, 2),
            ("process-pool", "`ProcessPoolExecutor`, 2 processes", 5000, 2),
        )
    ),
    Case(
        "handover/dramatiq",
        "Dramatiq, 8 threads",
        f"{HANDOVER}:dramatiq_threads",
        {"count": 10_000, "workers": 8},
        note="its broker in memory, no middleware; the function's end is told by a semaphore, as there is no event loop.",
    ),
    Case("busy/bare", "a bare loop, one process", f"{HANDOVER}:bare_spin", {"count": 400}),
    *(
        Case(
            f"busy/{kind}-{processes}-{limit}",
            f"Dispatcher, {title}",
            f"{HANDOVER}:work",
            {"kind": kind, "count": 400, "processes": processes, "limit": limit},
        )
        for kind, processes, limit, title in (
            ("thread", 1, 4, "`-p 1 -c 4`"),
            ("thread", 2, 4, "`-p 2 -c 4`"),
            ("process", 1, 1, '`executor="process"`, `-c 1`'),
            ("process", 1, 2, '`executor="process"`, `-c 2`'),
            ("process", 1, 4, '`executor="process"`, `-c 4`'),
        )
    ),
    Case("start/dispatcher", "Dispatcher, worker process to first task", f"{OURS}:start"),
    Case(
        "start/rabbitmq",
        "Dispatcher on RabbitMQ, worker process to first task",
        f"{OURS}:start",
        needs=("rabbitmq",),
    ),
    Case("start/huey", "huey, consumer process to first task", f"{PEERS}:huey_start"),
    Case("start/commands", "Dispatcher, without a worker", f"{OURS}:without_worker"),
    Case("idle/dispatcher-1", "Dispatcher, 1 worker process", f"{OURS}:idle", {"processes": 1}, once=True),
    Case(
        "idle/dispatcher-4", "Dispatcher, 4 worker processes on one file", f"{OURS}:idle", {"processes": 4}, once=True
    ),
    Case(
        "idle/rabbitmq-1",
        "Dispatcher on RabbitMQ, 1 worker process",
        f"{OURS}:idle",
        {"processes": 1},
        once=True,
        needs=("rabbitmq",),
    ),
)
