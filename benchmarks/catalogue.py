"""The cases by name: what each measures, how durable it is, and which function does it. Data only."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["CASES", "GROUPS", "MILLION", "Case", "Group"]

FSYNC = "fsync a commit"
NO_SYNC = "no fsync"
NORMAL = "fsync at checkpoints"


class Case(msgspec.Struct, frozen=True):
    """`name` is `group/who`. `does` names the function, `module:function`, `options` its arguments.

    `once`: measured in the first round only, because it takes long and hardly varies.
    """

    name: str
    title: str
    does: str
    options: dict[str, Any] = {}
    durability: str = ""
    once: bool = False
    huey_fsync: bool = False


class Group(msgspec.Struct, frozen=True):
    """The cases of one table. `peers` starts the names of those that Dispatcher's rates are divided by: the best one."""

    name: str
    title: str
    peers: str = ""
    peers_title: str = ""


GROUPS = (
    Group("publish", "Publish one by one, each awaited", "publish/huey-fsync", "huey fsync"),
    Group("in-flight", "Publish with 100 in flight", "in-flight/huey", "huey no fsync"),
    Group("drain", "Drain no-op tasks, one worker process", "drain/huey", "best huey"),
    Group("latency", "From `send` to the function's start, another process"),
    Group("start", "Starting"),
    Group("idle", "Having nothing to do"),
    Group("growth", "Cost of a task while others wait in the queue"),
)

OURS = "dispatcher_cases"
PEERS = "peer_cases"

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
    Case("start/dispatcher", "Dispatcher, worker process to first task", f"{OURS}:start"),
    Case("start/huey", "huey, consumer process to first task", f"{PEERS}:huey_start"),
    Case("start/commands", "Dispatcher, without a worker", f"{OURS}:without_worker"),
    Case("idle/dispatcher-1", "Dispatcher, 1 worker process", f"{OURS}:idle", {"processes": 1}, once=True),
    Case(
        "idle/dispatcher-4", "Dispatcher, 4 worker processes on one file", f"{OURS}:idle", {"processes": 4}, once=True
    ),
    *(
        Case(f"growth/{waiting}", f"{waiting:,} waiting", f"{OURS}:growth", {"waiting": waiting, "count": 5000}, FSYNC)
        for waiting in (1000, 10_000, 100_000)
    ),
)

MILLION = Case(
    "growth/1000000", "1,000,000 waiting", f"{OURS}:growth", {"waiting": 1_000_000, "count": 5000}, FSYNC, once=True
)
