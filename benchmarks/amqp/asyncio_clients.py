"""The client-level cases of aiormq and aio-pika, on asyncio's own event loop. Each runs alone in a process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import aiormq

from ..samples import Sample, Stopwatch
from .message import ACK_EVERY, BODY, CONTENT_TYPE, HEADERS, PREFETCH, WINDOW, attempt, message_id
from .pika_client import filled_queue
from .queue import QUEUE, URL, check_depth, new_queue

__all__ = ["aio_pika_consume", "aio_pika_publish", "aiormq_consume", "aiormq_publish"]


def aiormq_publish(count: int) -> Sample:
    """`basic_publish`, awaited in each of as many coroutines as the window is wide."""

    async def run() -> Sample:
        connection = await aiormq.connect(URL)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)

        async def publish(number: int) -> None:
            properties = aiormq.spec.Basic.Properties(
                content_type=CONTENT_TYPE, message_id=message_id(number), delivery_mode=2, headers=HEADERS
            )
            await channel.basic_publish(BODY, exchange=QUEUE, routing_key=QUEUE, properties=properties, mandatory=True)

        sample = await _published(publish, count)
        await connection.close()
        return sample

    new_queue()
    sample = asyncio.run(run())
    check_depth(count)
    return sample


def aiormq_consume(count: int) -> Sample:
    """A coroutine for each delivery; acks are not waited for."""

    async def run() -> Sample:
        connection = await aiormq.connect(URL)
        channel = await connection.channel()
        await channel.basic_qos(prefetch_count=PREFETCH)
        seen = attempts = 0
        done = asyncio.Event()

        async def delivered(message: Any) -> None:
            nonlocal seen, attempts
            seen += 1
            properties = message.header.properties
            attempts += attempt(
                properties.content_type,
                properties.message_id,
                properties.delivery_mode,
                properties.headers,
                message.body,
            )
            if seen % ACK_EVERY == 0 or seen == count:
                await channel.basic_ack(message.delivery.delivery_tag, multiple=True, wait=False)
            if seen == count:
                done.set()

        watch = Stopwatch()
        await channel.basic_consume(QUEUE, delivered)
        await done.wait()
        sample = watch.sample(attempts)
        await connection.close()
        return sample

    filled_queue(count)
    sample = asyncio.run(run())
    check_depth(0)
    return sample


def aio_pika_publish(count: int) -> Sample:
    """`Exchange.publish`, awaited in each of as many coroutines as the window is wide."""

    async def run() -> Sample:
        connection = await aio_pika.connect(URL)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(QUEUE, ensure=False)

        async def publish(number: int) -> None:
            message = aio_pika.Message(
                BODY,
                content_type=CONTENT_TYPE,
                message_id=message_id(number),
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                headers=HEADERS,
            )
            await exchange.publish(message, QUEUE, mandatory=True)

        sample = await _published(publish, count)
        await connection.close()
        return sample

    new_queue()
    sample = asyncio.run(run())
    check_depth(count)
    return sample


def aio_pika_consume(count: int) -> Sample:
    """A coroutine for each delivery."""

    async def run() -> Sample:
        connection = await aio_pika.connect(URL)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(QUEUE, ensure=False)
        seen = attempts = 0
        done = asyncio.Event()

        async def delivered(message: Any) -> None:
            nonlocal seen, attempts
            seen += 1
            attempts += attempt(
                message.content_type, message.message_id, message.delivery_mode, message.headers, message.body
            )
            if seen % ACK_EVERY == 0 or seen == count:
                await message.ack(multiple=True)
            if seen == count:
                done.set()

        watch = Stopwatch()
        await queue.consume(delivered)
        await done.wait()
        sample = watch.sample(attempts)
        await connection.close()
        return sample

    filled_queue(count)
    sample = asyncio.run(run())
    check_depth(0)
    return sample


async def _published(publish: Callable[[int], Awaitable[None]], count: int) -> Sample:
    numbers = iter(range(count))

    async def keep_publishing() -> None:
        for number in numbers:
            await publish(number)

    watch = Stopwatch()
    async with asyncio.TaskGroup() as group:
        for _ in range(WINDOW):
            group.create_task(keep_publishing())
    return watch.sample(count)
