"""Delays without a plugin: a ladder of queues, each of which keeps a message for a fixed time.

Level `n` keeps it for 100 ms times 2 to the power of `n`. A delay is written in binary, one header for each bit that is
set; the message enters at its highest bit and goes down the ladder, through the queues of its bits and past the others:

    exchange dispatcher.delay.5 --- has the header of 5 ---> queue dispatcher.delay.5
        |                                                        | after 3.2 s (its dead-letter exchange)
        | has it not (its alternate exchange)                    v
        +----------------------------------------------> exchange dispatcher.delay.4, and so on down to

    exchange dispatcher.delay.due  --- for exchange X ---> exchange dispatcher.delay.for.X
        |                                                    |  the queues that were declared with its key
        | for a queue, whose name is the routing key         |
        v                                                    v
    exchange dispatcher.delay  -------------------------> queue dispatcher.delay.back.q ---> exchange of that name ---> q
        .                                                    .                                    .
        . there is no such queue                             . no such key                        . q was deleted
        v                                                    v                                    v
    exchange dispatcher.delay.dead  --- it has been on the ladder ---> queue dispatcher.delay.dead

All messages of one level wait equally long, so that none stands in another's way, and no message meets one level twice.
The routing key is the target's from the first hop to the last. Every hop is at-least-once: the level forgets a message
when the next one has it on disk. A hop takes some milliseconds.

RabbitMQ 4.0 to 4.2 looks for what is due at the head of the messages of high priority or of the others, not of both: one
that waits may hide one of the other kind that is due. There, priorities above 4 have a ladder of their own, beside.

Each queue's `back.q` is a bulkhead. RabbitMQ has at most 32 messages on their way out of one queue, and offers those
that nobody takes again every three minutes: a queue that is full, or whose node is down, holds up its own delays and no
one else's. A retry thus finds room beside a full queue, and comes back to it in time.

What is published without a delay and finds no way is returned to who published it. What has been on the ladder cannot
be: whoever sends it there asks first, with `way_key`, whether there is a way at the end. What loses it meanwhile
becomes a dead letter of the delays.

Nothing here talks to a broker. Sources: RabbitMQ's pages on TTL, dead letter exchanges, quorum queues and alternate exchanges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ...model import headers as names
from ...model.topology import DELAY_EXCHANGE, MAX_SHORT_STRING, dead_queue
from ..base import DEFAULT_PRIORITY
from ..delays import check_delay
from .specs import Arguments, BindingSpec, ExchangeSpec, Plan, QueueSpec, join
from .version import Features

__all__ = [
    "LOST_QUEUE",
    "SERVICE_PREFIX",
    "UNREACHABLE_DELIVERY_LIMIT",
    "Detour",
    "detour",
    "for_exchange",
    "is_service",
    "ladder",
    "level_names",
    "level_seconds",
    "named",
    "strip",
    "way_key",
    "way_to_exchange",
    "way_to_queue",
]

STEP_MS = 100
LEVELS = 32  # together they reach 13.6 years

SERVICE_PREFIX = DELAY_EXCHANGE + "."
DUE_EXCHANGE = SERVICE_PREFIX + "due"
LOST_QUEUE = dead_queue(DELAY_EXCHANGE)
"""The dead letters of the ladder itself: what came due for a queue that was deleted meanwhile."""

FOR_EXCHANGE = SERVICE_PREFIX + "for."
BACK_TO_QUEUE = SERVICE_PREFIX + "back."
PROBE_QUEUE = SERVICE_PREFIX + "probe"
HAS_WAY = SERVICE_PREFIX + "way."

PLAIN_LANE = SERVICE_PREFIX
HIGH_LANE = SERVICE_PREFIX + "high."

UNREACHABLE_DELIVERY_LIMIT = 1_000_000_000
"""Said outright because RabbitMQ 4.0 made 20 the default: whoever browses a queue may die as often as it likes."""


class Detour(msgspec.Struct, frozen=True):
    """How a message goes by way of the ladder: the exchange to publish it to, and headers to add. Its key stays."""

    exchange: str
    headers: dict[str, str | int | bool]


def detour(delay_ms: int, exchange: str, *, due_at_ms: int, priority: int, features: Features) -> Detour:
    """The way to `exchange` that takes `delay_ms` or up to 99 ms longer, and some for the hops.

    `exchange` may be `DELAY_EXCHANGE`: then the routing key is the name of a queue. `due_at_ms`, Unix time, is for
    those who browse the ladder. `delay_ms` is at least 1: what is due is published without a detour. `ConfigError` for
    more than ten years.
    """
    assert delay_ms > 0, "what is due is published without a detour"
    check_delay(delay_ms)
    steps = -(-delay_ms // STEP_MS)
    headers: dict[str, str | int | bool] = {
        names.DELAY_PREFIX + str(level): True for level in range(LEVELS) if steps >> level & 1
    }
    headers[names.DELAYED] = True
    headers[names.DELAY_DUE] = due_at_ms
    if exchange != DELAY_EXCHANGE:
        headers[names.DELAY_TO] = exchange
    lane = HIGH_LANE if priority > DEFAULT_PRIORITY and HIGH_LANE in _lanes(features) else PLAIN_LANE
    return Detour(_level(lane, steps.bit_length() - 1), headers)


def strip(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of a delivery without what the way to it left there.

    That is the ladder's headers, the publisher's own number, and the broker's notes of each hop: the end of a delay is
    no death. What the broker noted of other queues stays.
    """
    kept = dict(headers)
    kept.pop(names.PUBLISH, None)  # every message of ours has it; the others only what was delayed
    if not _OF_THE_WAY.isdisjoint(kept):
        kept = {name: value for name, value in kept.items() if name not in _OF_THE_WAY}
    if "x-death" not in kept:  # nearly always; no other note of a death comes without it
        return kept
    deaths = kept["x-death"]
    if isinstance(deaths, list):
        others = [death for death in deaths if not (isinstance(death, Mapping) and is_service(death.get("queue")))]
        kept["x-death"] = others
        if not others:
            del kept["x-death"]
    for which in ("x-first-death", "x-last-death"):
        if is_service(kept.get(f"{which}-queue")):
            for field in ("queue", "reason", "exchange"):
                kept.pop(f"{which}-{field}", None)
    return kept


_OF_THE_WAY = frozenset(
    (
        names.DELAYED,
        names.DELAY_TO,
        names.DELAY_DUE,
        *(names.DELAY_PREFIX + str(level) for level in range(LEVELS)),
    )
)


def is_service(name: object) -> bool:
    """Whether an exchange or queue of that name belongs to the ladder or to a way to and from it."""
    return isinstance(name, str) and (name == DELAY_EXCHANGE or name.startswith(SERVICE_PREFIX))


def ladder(features: Features) -> Plan:
    """All levels, and what follows on the last."""
    ends = Plan(
        exchanges=(
            ExchangeSpec(LOST_QUEUE, "headers"),
            ExchangeSpec(DELAY_EXCHANGE, "direct", _else(LOST_QUEUE)),
            ExchangeSpec(DUE_EXCHANGE, "headers", _else(DELAY_EXCHANGE)),
        ),
        queues=(
            QueueSpec(LOST_QUEUE, {"x-queue-type": "quorum", "x-delivery-limit": UNREACHABLE_DELIVERY_LIMIT}),
            QueueSpec(PROBE_QUEUE, {"x-queue-type": "quorum", "x-message-ttl": 0}),
        ),
        bindings=(BindingSpec(LOST_QUEUE, LOST_QUEUE, arguments=_has(names.DELAYED, True)),),
    )
    return join([ends, *(_rung(lane, level) for lane in _lanes(features) for level in range(LEVELS))])


def _rung(lane: str, level: int) -> Plan:
    name = _level(lane, level)
    below = _level(lane, level - 1) if level else DUE_EXCHANGE
    # One more, because the broker's clock counts whole milliseconds: what comes in at 0.9 is due at 1.0 of them.
    ttl_ms = (STEP_MS << level) + 1
    return Plan(
        (ExchangeSpec(name, "headers", _else(below)),),
        (_transit(name, ttl_ms, below),),
        (BindingSpec(name, name, arguments=_has(names.DELAY_PREFIX + str(level), True)),),
    )


def way_to_exchange(exchange: str) -> Plan:
    """What leads delayed messages for `exchange` on to its queues, which `way_to_queue` adds."""
    name = for_exchange(exchange)
    return Plan(
        exchanges=(ExchangeSpec(name, "direct", _else(LOST_QUEUE)),),
        bindings=(BindingSpec(DUE_EXCHANGE, name, arguments=_has(names.DELAY_TO, exchange), to_exchange=True),),
    )


def way_to_queue(queue: str, exchange: str, keys: Iterable[str]) -> Plan:
    """What leads to `queue`: retries and snoozes by its name, delayed messages for `exchange` by the `keys` it is bound with.

    What `way_key` asks for is bound last.
    """
    name = named(BACK_TO_QUEUE, queue)
    ways = [(DELAY_EXCHANGE, queue), *((for_exchange(exchange), key) for key in keys)]
    return Plan(
        exchanges=(ExchangeSpec(name, "fanout", _else(LOST_QUEUE)),),
        queues=(_transit(name, 0, name),),
        bindings=(
            BindingSpec(name, queue),
            *(BindingSpec(source, name, key) for source, key in ways),
            *(BindingSpec(source, PROBE_QUEUE, way_key(key)) for source, key in ways),
        ),
    )


def for_exchange(exchange: str) -> str:
    """The exchange that delayed messages for `exchange` come to in the end, and that knows the keys of its queues."""
    return named(FOR_EXCHANGE, exchange)


def way_key(key: str) -> str:
    """The key with which a message is returned where one with `key` would be, and else vanishes.

    For `DELAY_EXCHANGE`, where `key` is a queue's name, and what `for_exchange` gives. AMQP cannot be asked for bindings.
    """
    return named(HAS_WAY, key)


def named(prefix: str, name: str) -> str:
    """A name of ours for something of that name; of one that leaves no room for ours it has a digest."""
    text = name.encode("utf-8", "surrogatepass")
    fits = len(text) <= MAX_SHORT_STRING - len(prefix)
    return prefix + (name if fits else hashlib.blake2b(text, digest_size=16).hexdigest())


def level_names(features: Features) -> tuple[str, ...]:
    """The names of all levels, each of which is an exchange and a queue."""
    return tuple(_level(lane, level) for lane in _lanes(features) for level in range(LEVELS))


def level_seconds(name: str) -> float:
    """How long a message in the queue of that level has to wait at most: the rest of this level, and all below."""
    return (STEP_MS << int(name.rpartition(".")[2]) + 1) / 1000


def _lanes(features: Features) -> tuple[str, ...]:
    return (PLAIN_LANE, HIGH_LANE) if features.quorum_priorities == "two levels" else (PLAIN_LANE,)


def _level(lane: str, level: int) -> str:
    """The name of a level's exchange and of its queue."""
    return f"{lane}{level}"


def _transit(name: str, ttl_ms: int, onwards: str) -> QueueSpec:
    """A queue that keeps each message for `ttl_ms` and forgets it once exchange `onwards` has led it somewhere."""
    return QueueSpec(
        name,
        {
            "x-queue-type": "quorum",
            "x-message-ttl": ttl_ms,
            "x-dead-letter-exchange": onwards,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",  # at-least-once exists with this only
            "x-delivery-limit": UNREACHABLE_DELIVERY_LIMIT,
        },
    )


def _else(exchange: str) -> Arguments:
    return {"alternate-exchange": exchange}


def _has(header: str, value: str | bool) -> Arguments:
    # "all" would overlook headers that begin with x-; this one exists since 3.10.
    return {"x-match": "all-with-x", header: value}
