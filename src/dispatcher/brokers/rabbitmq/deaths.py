"""Reading RabbitMQ's own notes on a dead letter (`x-death`): the ways to one that are not ours.

When a message has cost too many holders the broker itself moves it to `q.dead`, and when a delay is over and the queue
is not there any more, to the dead letters of the delays. It knows nothing of our headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ...model import headers as names

__all__ = ["with_reason", "with_reason_of_delay"]


def with_reason(headers: dict[str, Any], queue: str) -> dict[str, Any]:
    """`headers` of a message in `queue`; a dead letter that the broker made gets the headers that one of ours has.

    One of ours has no notes of the broker's. What a sender wrote into headers of ours counts for nothing.
    """
    if not queue.endswith(".dead"):
        return headers
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else None
    if death is None:
        return headers
    told = str(death.get("reason", ""))
    keys = death.get("routing-keys")
    at = death.get("time")
    origin = str(death.get("queue", ""))
    return headers | {
        # "expired", "maxlen", "rejected" come of arguments or policies that are not ours: no task was at fault.
        names.REASON: "delivery_limit" if told == "delivery_limit" else "rejected",
        names.REASON_TEXT: f"RabbitMQ moved it here from queue {origin!r}: {told}",
        names.QUEUE: origin,
        names.EXCHANGE: headers.get(names.EXCHANGE, str(death.get("exchange", ""))),
        names.ROUTING_KEY: headers.get(names.ROUTING_KEY, str(keys[0]) if isinstance(keys, list) and keys else ""),
        names.DEAD_AT: int(at.timestamp() * 1000) if isinstance(at, datetime) else 0,
    }


def with_reason_of_delay(headers: dict[str, Any]) -> dict[str, Any]:
    """`headers` of a message among the dead letters of the delays, as they came, with those that a dead letter has."""
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}
    keys, at = death.get("routing-keys"), death.get("time")
    queue = str(keys[0]) if isinstance(keys, list) and keys else ""
    return {
        **headers,
        names.REASON: "rejected",
        names.REASON_TEXT: f"when its delay was over there was no queue {queue!r}, or none that delays lead to",
        names.QUEUE: queue,
        names.DEAD_AT: int(at.timestamp() * 1000) if isinstance(at, datetime) else 0,
    }
