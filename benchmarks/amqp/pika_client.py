"""pika's client-level cases, on the event loop of its SelectConnection, its fastest way. Each runs alone in a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika

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
from .queue import QUEUE, URL, check_depth, new_queue

__all__ = ["consume", "filled_queue", "publish"]


class Publisher:
    """Publishes until the window is full, and again from the callback of the confirms."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sent = 0
        self._unconfirmed = Unconfirmed()

    def begin(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed, lambda _: self._ready())

    def _ready(self) -> None:
        self._watch = Stopwatch()
        self._fill()

    def _fill(self) -> None:
        while self._sent < self._count and len(self._unconfirmed) < WINDOW:
            properties = pika.BasicProperties(
                content_type=CONTENT_TYPE, message_id=message_id(self._sent), delivery_mode=2, headers=HEADERS
            )
            self._channel.basic_publish(QUEUE, QUEUE, BODY, properties, mandatory=True)
            self._sent += 1
            self._unconfirmed.add()

    def _confirmed(self, frame: Any) -> None:
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            self._unconfirmed.nacked()
        self._unconfirmed.acked(frame.method.delivery_tag, frame.method.multiple)
        if self._sent < self._count:
            if len(self._unconfirmed) <= REFILL:
                self._fill()
        elif not self._unconfirmed:
            self.sample = self._watch.sample(self._count)
            self._channel.connection.close()

    def _returned(self, *_: Any) -> None:
        raise RuntimeError("expected every publish to reach the queue, got one back")


class Consumer:
    """Takes `count` deliveries and acks them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen = self._attempts = 0

    def begin(self, channel: Any) -> None:
        self._channel = channel
        channel.basic_qos(prefetch_count=PREFETCH, callback=lambda _: self._ready())

    def _ready(self) -> None:
        self._watch = Stopwatch()
        self._channel.basic_consume(QUEUE, self._delivered)

    def _delivered(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._seen += 1
        self._attempts += attempt(
            properties.content_type, properties.message_id, properties.delivery_mode, properties.headers, body
        )
        if self._seen % ACK_EVERY == 0 or self._seen == self._count:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if self._seen == self._count:
            self.sample = self._watch.sample(self._attempts)
            channel.connection.close()


def publish(count: int) -> Sample:
    new_queue()
    publisher = Publisher(count)
    _run(publisher.begin)
    check_depth(count)
    return publisher.sample


def filled_queue(count: int) -> None:
    """The queue with `count` of our message, for any client to consume. Confirmed: without that, some don't arrive."""
    publish(count)


def consume(count: int) -> Sample:
    filled_queue(count)
    consumer = Consumer(count)
    _run(consumer.begin)
    check_depth(0)
    return consumer.sample


def _run(begin: Callable[[Any], None]) -> None:
    """Connect, open a channel, hand it to `begin`, and run the event loop until the connection is closed."""
    connection = pika.SelectConnection(
        pika.URLParameters(URL),
        on_open_callback=lambda connection: connection.channel(on_open_callback=begin),
        on_close_callback=lambda connection, _: connection.ioloop.stop(),
    )
    connection.ioloop.start()
