"""The client-level cases of py-amqp and librabbitmq, which block. Each runs alone in a process."""

from __future__ import annotations

import os
import subprocess
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from ..samples import Sample, Stopwatch
from .message import (
    ACK_EVERY,
    BODY,
    CONTENT_TYPE,
    HEADERS,
    PREFETCH,
    REFILL,
    WINDOW,
    Unconfirmed,
    attempt,
    message_id,
)
from .pika_client import filled_queue
from .queue import QUEUE, URL, check_depth, new_queue

__all__ = ["librabbitmq_consume", "librabbitmq_publish", "pyamqp_consume", "pyamqp_publish"]

DEADLINE_SECONDS = 60.0


def pyamqp_publish(count: int) -> Sample:
    """`basic_publish` without waiting; the confirms come by `drain_events`."""
    new_queue()
    unconfirmed = Unconfirmed()
    with _pyamqp() as connection:
        channel = connection.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(unconfirmed.acked)
        channel.events["basic_nack"].add(unconfirmed.nacked)
        watch = Stopwatch()
        for number in range(count):
            message = amqp.Message(
                BODY,
                content_type=CONTENT_TYPE,
                message_id=message_id(number),
                delivery_mode=2,
                application_headers=HEADERS,
            )
            unconfirmed.add()
            channel.basic_publish(message, QUEUE, QUEUE, mandatory=True)
            if len(unconfirmed) == WINDOW:
                while len(unconfirmed) > REFILL:
                    connection.drain_events(timeout=DEADLINE_SECONDS)
        while unconfirmed:
            connection.drain_events(timeout=DEADLINE_SECONDS)
        sample = watch.sample(count)
    check_depth(count)
    return sample


def pyamqp_consume(count: int) -> Sample:
    """A callback, called by `drain_events`."""
    filled_queue(count)
    seen = attempts = 0

    def delivered(message: Any) -> None:
        nonlocal seen, attempts
        seen += 1
        attempts += attempt(
            message.content_type, message.message_id, message.delivery_mode, message.application_headers, message.body
        )
        if seen % ACK_EVERY == 0 or seen == count:
            message.channel.basic_ack(message.delivery_tag, multiple=True)

    with _pyamqp() as connection:
        channel = connection.channel()
        channel.basic_qos(0, PREFETCH, False)
        watch = Stopwatch()
        channel.basic_consume(QUEUE, callback=delivered)
        while seen < count:
            connection.drain_events(timeout=DEADLINE_SECONDS)
        sample = watch.sample(attempts)
    check_depth(0)
    return sample


def librabbitmq_publish(count: int) -> Sample:
    new_queue()
    sample = _librabbitmq("publish", count)
    check_depth(count)
    return sample


def librabbitmq_consume(count: int) -> Sample:
    filled_queue(count)
    sample = _librabbitmq("consume", count)
    check_depth(0)
    return sample


def _pyamqp() -> Any:
    """A connection that does not ask for notices of alarms: with them each publish looks first whether one has come."""
    parts = urlsplit(URL)
    connection = amqp.Connection(
        parts.netloc.rpartition("@")[2], parts.username, parts.password, virtual_host=unquote(parts.path[1:])
    )
    connection.negotiate_capabilities = {"consumer_cancel_notify": True, "connection.blocked": False}
    return connection


def _librabbitmq(what: str, count: int) -> Sample:
    """One run of `peer.c`, which was compiled before. Its own clocks count, and the broker's CPU from its `begin` on."""
    words = [os.environ["BENCH_C_CLIENT"], what, str(count)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "begin\n":
            raise RuntimeError(f"{what}: the C client did not begin; what it said is above")
        watch = Stopwatch()
        answer = process.stdout.readline()
    if process.returncode:
        raise RuntimeError(f"{what}: the C client ended with exit code {process.returncode}; what it said is above")
    sample = watch.sample(count)
    sample.seconds, sample.cpu_seconds = map(float, answer.split())
    return sample
