"""Delays without a plugin: a ladder of queues, each of which keeps a message for a fixed time.

Level `n` keeps it for 100 ms times 2 to the power of `n`. A delay is written in binary, one header for each bit that is
set; the message enters at its highest bit and goes down the ladder, through the queues of its bits and past the others:

    exchange dispatcher.delay.5 --- has the header of 5 ---> queue dispatcher.delay.5
        |                                                        | after 3.2 s (its dead-letter exchange)
        | has it not (its alternate exchange)                    v
        +----------------------------------------------> exchange dispatcher.delay.4, and so on down to

    exchange dispatcher.delay.due  --- for exchange X ---> queue dispatcher.delay.to.X  ---> exchange X
        |
        | for a queue, whose name is the routing key
        v
    exchange dispatcher.delay  --- the queue has a maximum length ---> queue dispatcher.delay.back.q --+
        |                                                                                              |
        v                                                                                              |
    exchange dispatcher.delay.queues ---> the queue by its name  <-------------------------------------+
        |
        | there is no such queue any more
        v
    queue dispatcher.delay.lost

All messages of one level wait equally long, so that none stands in another's way, and no message meets one level twice.
The routing key is the target's from the first hop to the last. Every hop is at-least-once: the level forgets a message
when the next one has it on disk. A hop takes some milliseconds.

RabbitMQ 4.0 to 4.2 looks for what is due at the head of the messages of high priority or of the others, not of both: one
that waits may hide one of the other kind that is due. There, priorities above 4 have a ladder of their own, beside.

The last queues are bulkheads. RabbitMQ has at most 32 messages on their way out of one queue, and offers those that
nobody takes again every three minutes: what a deleted binding or a full queue leaves in `to.X` or `back.q` holds up the
delays to X or to q, and no one else's. A retry thus finds room beside a full queue, and comes back to it in time.

Nothing here talks to a broker. Sources: RabbitMQ's pages on TTL, dead letter exchanges, quorum queues and alternate exchanges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...errors import ConfigError
from ...model import headers as names
from ...model.topology import DELAY_EXCHANGE, check_name
from ..base import DEFAULT_PRIORITY
from .specs import Arguments, BindingSpec, ExchangeSpec, Plan, QueueSpec, join
from .version import Features

__all__ = [
    "LOST_QUEUE",
    "MAX_DELAY_MS",
    "SERVICE_PREFIX",
    "UNREACHABLE_DELIVERY_LIMIT",
    "Detour",
    "detour",
    "is_service",
    "ladder",
    "level_names",
    "strip",
    "way_to_exchange",
    "way_to_queue",
]

STEP_MS = 100
LEVELS = 32
MAX_DELAY_MS = 3653 * 86_400_000
"""Ten years with three leap days among them; the levels together reach 13.6 years."""

SERVICE_PREFIX = DELAY_EXCHANGE + "."
DUE_EXCHANGE = SERVICE_PREFIX + "due"
QUEUES_EXCHANGE = SERVICE_PREFIX + "queues"
LOST_QUEUE = SERVICE_PREFIX + "lost"
TO_EXCHANGE = SERVICE_PREFIX + "to."
BACK_TO_QUEUE = SERVICE_PREFIX + "back."

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
    if not 0 < delay_ms <= MAX_DELAY_MS:
        raise ConfigError(f"delay: expected at most ten years ({MAX_DELAY_MS} ms), got {delay_ms} ms")
    steps = -(-delay_ms // STEP_MS)
    headers: dict[str, str | int | bool] = {
        names.DELAY_PREFIX + str(level): True for level in range(LEVELS) if steps >> level & 1
    }
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
    kept = {name: value for name, value in headers.items() if name not in _OF_THE_WAY}
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
    (names.PUBLISH, names.DELAY_TO, names.DELAY_DUE, *(names.DELAY_PREFIX + str(level) for level in range(LEVELS)))
)


def is_service(name: object) -> bool:
    """Whether an exchange or queue of that name belongs to the ladder or to a way to and from it."""
    return isinstance(name, str) and (name == DELAY_EXCHANGE or name.startswith(SERVICE_PREFIX))


def ladder(features: Features) -> Plan:
    """All levels, and what follows on the last."""
    ends = Plan(
        exchanges=(
            ExchangeSpec(LOST_QUEUE, "fanout"),
            ExchangeSpec(QUEUES_EXCHANGE, "direct", _else(LOST_QUEUE)),
            ExchangeSpec(DELAY_EXCHANGE, "direct", _else(QUEUES_EXCHANGE)),
            ExchangeSpec(DUE_EXCHANGE, "headers", _else(DELAY_EXCHANGE)),
        ),
        queues=(QueueSpec(LOST_QUEUE, {"x-queue-type": "quorum", "x-delivery-limit": UNREACHABLE_DELIVERY_LIMIT}),),
        bindings=(BindingSpec(LOST_QUEUE, LOST_QUEUE),),
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
    """What leads a delayed message on to `exchange`. `ConfigError` if its name leaves no room for ours."""
    check_name("exchange name", exchange, room=len(TO_EXCHANGE))
    name = TO_EXCHANGE + exchange
    return Plan(
        queues=(_transit(name, 0, exchange),),
        bindings=(BindingSpec(DUE_EXCHANGE, name, arguments=_has(names.DELAY_TO, exchange)),),
    )


def way_to_queue(queue: str, *, bounded: bool) -> Plan:
    """What leads retries and snoozes back to `queue`, which may be full if it is `bounded`.

    The way round by `back.q` is preferred to the straight one rather than put in its place, so that a queue that had
    no bound when it was first declared does not get two copies.
    """
    straight = Plan(bindings=(BindingSpec(QUEUES_EXCHANGE, queue, queue),))
    if not bounded:
        return straight
    check_name("name of a queue with a max_length", queue, room=len(BACK_TO_QUEUE))
    name = BACK_TO_QUEUE + queue
    way_round = Plan(queues=(_transit(name, 0, QUEUES_EXCHANGE),), bindings=(BindingSpec(DELAY_EXCHANGE, name, queue),))
    return join([straight, way_round])


def level_names(features: Features) -> tuple[str, ...]:
    """The names of all levels, each of which is an exchange and a queue."""
    return tuple(_level(lane, level) for lane in _lanes(features) for level in range(LEVELS))


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
