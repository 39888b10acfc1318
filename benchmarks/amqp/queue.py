"""A quorum queue of a measurement's own, with an exchange: made and checked outside the clock."""

from __future__ import annotations

import os
import time

from ..rabbitmq import connected

__all__ = ["QUEUE", "URL", "check_depth", "new_queue"]

URL = os.environ["BENCH_URL"]
QUEUE = os.environ["BENCH_QUEUE"]
"""The name of the queue, of its direct exchange, and the routing key between them."""

UNUSED_MS = 600_000
"""After which the broker itself deletes a queue that a killed run left behind."""

DEADLINE_SECONDS = 30.0


def new_queue() -> None:
    """The exchange and the queue, empty."""
    arguments = {"x-queue-type": "quorum", "x-expires": UNUSED_MS}
    with connected(URL) as channel:
        channel.exchange_declare(QUEUE, "direct", durable=True, auto_delete=True)
        channel.queue_declare(QUEUE, durable=True, arguments=arguments)
        channel.queue_bind(QUEUE, QUEUE, QUEUE)


def check_depth(expected: int) -> None:
    """The queue holds just that many messages; what it counts lags a little behind. RuntimeError if it never does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    with connected(URL) as channel:
        while (found := channel.queue_declare(QUEUE, passive=True).method.message_count) != expected:
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected {expected} messages in the queue afterwards, got {found}")
            time.sleep(0.05)
