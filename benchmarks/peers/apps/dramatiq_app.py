"""Dramatiq on RabbitMQ."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from .. import work

__all__ = ["send"]

QUEUE = os.environ["BENCH_QUEUE"]

dramatiq.set_broker(RabbitmqBroker(url=os.environ["BENCH_URL"], confirm_delivery=os.environ["BENCH_CONFIRM"] == "1"))

TASKS: dict[str, Any] = {
    "noop": dramatiq.actor(queue_name=QUEUE)(work.noop),
    "timed": dramatiq.actor(queue_name=QUEUE)(work.timed),
    "io": dramatiq.actor(queue_name=QUEUE)(work.blocking_io),
    "cpu": dramatiq.actor(queue_name=QUEUE)(work.cpu),
}


def send(kind: str, value: int) -> None:
    TASKS[kind].send(value)
