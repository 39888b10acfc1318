"""The one message that every AMQP client is measured with, the settings they share, and what each is held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "ACK_EVERY",
    "BODY",
    "CONTENT_TYPE",
    "HEADERS",
    "PREFETCH",
    "REFILL",
    "WINDOW",
    "Unconfirmed",
    "attempt",
    "message_id",
]

WINDOW = 1000
"""Publishes that wait for their confirm at any time."""

REFILL = WINDOW // 2
"""Who sees the confirms one by one fills the window again when it is half empty: fewer and longer writes."""

PREFETCH = 1000
ACK_EVERY = 50
"""Deliveries acked with one `basic.ack`, by those who leave that to their user."""

CONTENT_TYPE = "application/json"
HEADERS: dict[str, Any] = {"tenant": "acme", "request": "5f2b1c9e", "attempt": 1}
BODY = b'{"uuid":"6f0e7a64c1d94b7f8d3c5e21a9b04d12","name":"benchmark","args":[{"type":"int","value":12345}]}'


def message_id(number: int) -> str:
    return f"{number:032x}"


def attempt(content_type: Any, message: Any, delivery_mode: Any, headers: Mapping[str, Any], body: Any) -> int:
    """The attempt of a delivery, 1: summed up, it shows that every delivery was decoded. RuntimeError if one is not ours."""
    if content_type != CONTENT_TYPE or len(message) != 32 or delivery_mode != 2 or len(body) != len(BODY):
        raise RuntimeError("expected the benchmark's own message, got another")
    return int(headers["attempt"])


class Unconfirmed:
    """The publishes without an answer, by number, for clients that hand on what the broker says: one, or all up to one."""

    def __init__(self) -> None:
        self._waiting: dict[int, None] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self) -> None:
        self._last += 1
        self._waiting[self._last] = None

    def acked(self, number: int, multiple: bool) -> None:
        if not multiple:
            del self._waiting[number]
            return
        while self._waiting and (oldest := next(iter(self._waiting))) <= number:
            del self._waiting[oldest]

    def nacked(self, *_: Any) -> None:
        raise RuntimeError("expected every publish to be accepted, got a nack")
