"""The client-level cases of Dispatcher's own AMQP client, on asyncio's own event loop. Each runs alone in a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dispatcher.amqp.channel import Channel
from dispatcher.amqp.connection import open_connection
from dispatcher.amqp.errors import AmqpError, ReplyError
from dispatcher.amqp.events import Content
from dispatcher.amqp.properties import encode_properties
from dispatcher.amqp.tables import encode_table
from dispatcher.amqp.url import parse_url

from ..samples import Sample, Stopwatch
from .message import BODY, CONTENT_TYPE, HEADERS, PREFETCH, REFILL, WINDOW, attempt, message_id
from .pika_client import filled_queue
from .queue import QUEUE, URL, check_depth, new_queue

__all__ = ["consume", "publish"]

RETURN_HEADER = "x-publish"


class Publisher:
    """Publishes until the window is full, and again when it is told of confirms."""

    def __init__(self, channel: Channel, count: int) -> None:
        self._channel = channel
        self._count = count
        self._sent = self._unconfirmed = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fill(self) -> None:
        channel = self._channel
        while self._sent < self._count and self._unconfirmed < WINDOW:
            properties = encode_properties(
                content_type=CONTENT_TYPE,
                headers=encode_table({**HEADERS, RETURN_HEADER: channel.next_publish}),
                delivery_mode=2,
                message_id=message_id(self._sent),
            )
            channel.publish(QUEUE, QUEUE, properties, BODY, self._sent)
            self._sent += 1
            self._unconfirmed += 1

    def confirmed(self, waiters: Sequence[Any]) -> None:
        self._unconfirmed -= len(waiters)
        if self._sent < self._count:
            if self._unconfirmed <= REFILL:
                self.fill()
        elif not self._unconfirmed:
            self.done.set_result(None)

    def refused(self, waiters: Sequence[Any]) -> None:
        self.done.set_exception(RuntimeError("expected every publish to be accepted, got a nack"))

    def returned(self, waiter: Any, error: ReplyError) -> None:
        self.done.set_exception(error)

    def lost(self, waiters: Sequence[Any], error: AmqpError | None) -> None:
        self.done.set_exception(error or RuntimeError("expected every publish to be answered before the close"))


def publish(count: int) -> Sample:
    """From a callback of the confirms."""

    async def run() -> Sample:
        async with _channel() as channel:
            publisher = Publisher(channel, count)
            await channel.select_confirms(publisher, return_header=RETURN_HEADER)
            watch = Stopwatch()
            publisher.fill()
            await publisher.done
            return watch.sample(count)

    new_queue()
    sample = asyncio.run(run())
    check_depth(count)
    return sample


def consume(count: int) -> Sample:
    """A callback for each delivery, which acks it; the channel joins the acks of one turn of the event loop."""

    async def run() -> Sample:
        async with _channel() as channel:
            done = asyncio.get_running_loop().create_future()
            attempts = 0

            def delivered(content: Content) -> None:
                nonlocal attempts
                properties = content.properties
                attempts += attempt(
                    properties.content_type,
                    properties.message_id,
                    properties.delivery_mode,
                    properties.headers,
                    content.body,
                )
                channel.ack(content.delivery_tag)
                if attempts == count:
                    done.set_result(None)

            def cancelled() -> None:
                done.set_exception(RuntimeError("expected deliveries, but the broker ended the consumer"))

            watch = Stopwatch()
            await channel.consume(QUEUE, prefetch=PREFETCH, on_delivery=delivered, on_cancel=cancelled)
            await done
            return watch.sample(attempts)

    filled_queue(count)
    sample = asyncio.run(run())
    check_depth(0)
    return sample


@asynccontextmanager
async def _channel() -> AsyncIterator[Channel]:
    url = parse_url(URL)
    connection = await open_connection(
        url,
        host=url.hosts[0],
        context=None,
        name="benchmark",
        on_blocked=lambda reason: None,
        on_unblocked=lambda: None,
    )
    try:
        yield await connection.open_channel()
    finally:
        await connection.close()
