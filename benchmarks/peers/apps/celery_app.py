"""Celery on RabbitMQ."""

from __future__ import annotations

import os

from celery import Celery

from .. import work

__all__ = ["app", "send"]

app = Celery("bench", broker=os.environ["BENCH_URL"])
app.conf.update(
    task_default_queue=os.environ["BENCH_QUEUE"],
    task_ignore_result=True,
    worker_prefetch_multiplier=int(os.environ["BENCH_PREFETCH"]),
    worker_enable_remote_control=False,
    worker_disable_rate_limits=True,
    broker_transport_options={"confirm_publish": os.environ["BENCH_CONFIRM"] == "1"},
)


@app.task
def noop(number: int) -> None:
    work.noop(number)


@app.task
def timed(sent_ns: int) -> None:
    work.timed(sent_ns)


@app.task
def io(number: int) -> None:
    work.blocking_io(number)


@app.task
def cpu(number: int) -> None:
    work.cpu(number)


TASKS = {"noop": noop, "timed": timed, "io": io, "cpu": cpu}


def send(kind: str, value: int) -> None:
    TASKS[kind].delay(value)
