"""Dramatiq on RabbitMQ."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from .. import work

__all__ = ["send"]

QUEUE = os.environ["BENCH_QUEUE"]

dramatiq.set_broker(RabbitmqBroker(url=os.environ["BENCH_URL"], confirm_delivery=os.environ["BENCH_CONFIRM"] == "1"))

TASKS = {
    "noop": dramatiq.actor(work.noop, queue_name=QUEUE),
    "timed": dramatiq.actor(work.timed, queue_name=QUEUE),
    "io": dramatiq.actor(work.blocking_io, queue_name=QUEUE),
    "cpu": dramatiq.actor(work.cpu, queue_name=QUEUE),
}


def send(kind: str, value: int) -> None:
    TASKS[kind].send(value)
