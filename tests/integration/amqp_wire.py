"""A bare AMQP connection for tests that look at a broker from outside of every session: topology, routes, rights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from dispatcher.amqp.channel import Channel
from dispatcher.amqp.connection import Connection, open_connection
from dispatcher.amqp.errors import AmqpError, ReplyError
from dispatcher.amqp.events import Content
from dispatcher.amqp.methods import BasicGet, QueueDeclare, QueueDeclareOk
from dispatcher.amqp.properties import encode_properties
from dispatcher.amqp.tables import encode_table
from dispatcher.amqp.url import parse_url
from dispatcher.brokers.base import TopologyDiffers
from dispatcher.brokers.rabbitmq.declare import declare
from dispatcher.brokers.rabbitmq.ladder import detour
from dispatcher.brokers.rabbitmq.version import Features, features_of, server_version
from dispatcher.model.topology import Topology

T = TypeVar("T")

DEADLINE_SECONDS = 30.0
RETURN_HEADER = "x-test-publish"


async def soon(what: Awaitable[T]) -> T:
    """The result of `what`, which must come within the deadline."""
    return await asyncio.wait_for(what, DEADLINE_SECONDS)


class Confirms:
    """A `ConfirmListener` whose waiters are futures: done means in a queue."""

    def confirmed(self, waiters: Sequence[Any]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def refused(self, waiters: Sequence[Any]) -> None:
        for waiter in waiters:
            waiter.set_exception(AmqpError("refused"))

    def returned(self, waiter: Any, error: ReplyError) -> None:
        waiter.set_exception(error)

    def lost(self, waiters: Sequence[Any], error: AmqpError | None) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error or AmqpError("the channel was closed"))


class Wire:
    """One connection, and what the broker at its end can do. Each operation has its own channel, so that none harms another."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.features: Features = features_of(server_version(connection.server_properties))

    async def declare(self, topology: Topology, features: Features | None = None) -> list[TopologyDiffers]:
        """Declare, and return what differs."""
        told: list[TopologyDiffers] = []
        await soon(declare(self.connection.open_channel, topology, features or self.features, told.append))
        return told

    async def call(self, *methods: Any) -> Any:
        """Ask one after the other on one channel; the last answer."""
        channel = await soon(self.connection.open_channel())
        try:
            for method in methods:
                answer = await soon(channel.call(method))
        finally:
            await channel.close()
        return answer

    async def publish(
        self, exchange: str, key: str, *bodies: bytes, headers: Mapping[str, Any] | None = None, priority: int = 4
    ) -> None:
        """Publish, mandatory and persistent, all at once, and wait until each is confirmed. `ReplyError` 312 if returned."""
        channel = await soon(self.connection.open_channel())
        try:
            await soon(channel.select_confirms(Confirms(), return_header=RETURN_HEADER))
            waiters = []
            for body in bodies:
                table = encode_table({**(headers or {}), RETURN_HEADER: channel.next_publish})
                waiters.append(asyncio.get_running_loop().create_future())
                properties = encode_properties(delivery_mode=2, headers=table, priority=priority)
                channel.publish(exchange, key, properties, body, waiters[-1])
            await soon(asyncio.gather(*waiters))
        finally:
            await channel.close()

    async def publish_delayed(
        self,
        delay_ms: int,
        exchange: str,
        key: str,
        *bodies: bytes,
        headers: Mapping[str, Any] | None = None,
        priority: int = 4,
        features: Features | None = None,
    ) -> float:
        """The same by way of the ladder. Returns when it is due, on the monotonic clock."""
        now = time.monotonic()
        way = detour(delay_ms, exchange, due_at_ms=0, priority=priority, features=features or self.features)
        await self.publish(way.exchange, key, *bodies, headers={**(headers or {}), **way.headers}, priority=priority)
        return now + delay_ms / 1000

    async def count(self, queue: str) -> int:
        """How many messages wait in a queue."""
        answer = await self.call(QueueDeclare(queue=queue, passive=True))
        assert isinstance(answer, QueueDeclareOk)
        return answer.message_count

    async def get(self, queue: str) -> None:
        await self.call(BasicGet(queue=queue))

    @asynccontextmanager
    async def consuming(self, queue: str) -> AsyncIterator[Taken]:
        """Consume `queue`; what comes is acked at once."""
        channel = await soon(self.connection.open_channel())
        taken = Taken(channel)
        await soon(channel.consume(queue, prefetch=100, on_delivery=taken.take, on_cancel=lambda: None))
        yield taken
        await channel.close()


class Taken:
    """What came of a queue, with the time when it came."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._came: asyncio.Queue[tuple[Content, float]] = asyncio.Queue()

    def take(self, content: Content) -> None:
        self._came.put_nowait((content, time.monotonic()))
        self._channel.ack(content.delivery_tag)

    async def next(self) -> tuple[Content, float]:
        return await soon(self._came.get())

    async def bodies(self, count: int) -> list[bytes]:
        return [(await self.next())[0].body for _ in range(count)]


def as_user(url: str, user: str, password: str) -> str:
    """The same URL for another login."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{host}"))


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[Wire]:
    """A connection to the broker at `url`, closed at the end."""
    parsed = parse_url(url)
    connection = await soon(
        open_connection(
            parsed,
            host=parsed.hosts[0],
            context=None,
            name="test",
            on_blocked=lambda reason: None,
            on_unblocked=lambda: None,
        )
    )
    try:
        yield Wire(connection)
    finally:
        await connection.close()
