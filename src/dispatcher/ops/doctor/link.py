"""One connection of an examination: what is asked there has an answer, a refusal, or a deadline.

Refusals are what it is for, and each ends the channel that it came on, so every question has a channel of its own or is
asked again on a new one. Once the broker blocks the connection it answers nothing any more: that ends it as an `Alarm`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from ...amqp.channel import Channel
from ...amqp.connection import Connection, open_connection
from ...amqp.errors import AmqpError, ChannelGone, ReplyError
from ...amqp.events import Content
from ...amqp.methods import BasicGet, Method
from ...amqp.properties import encode_properties
from ...amqp.tables import encode_table
from ...amqp.url import AmqpUrl
from ...brokers.rabbitmq.version import Features, features_of, server_version
from ...model.headers import PUBLISH

__all__ = ["Alarm", "Answer", "Link", "Published", "open_link"]

T = TypeVar("T")

ANSWER_SECONDS = 30.0
TRANSIENT = 1
"""Nothing that is published here is to outlive the examination."""

Answer = Method | ReplyError


class Alarm(Exception):
    """The broker takes no messages: it is short of a resource. The text is its own, such as "low on memory"."""


class Published(msgspec.Struct, frozen=True):
    """What became of a message, and after how many seconds: `returned` is one that no queue took."""

    outcome: Literal["confirmed", "returned", "refused"]
    seconds: float


async def open_link(url: AmqpUrl, host: tuple[str, int], context: ssl.SSLContext | None) -> Link:
    """Connect to one host of the URL. Raises what `open_connection` does."""
    blocked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    began = time.monotonic()
    connection = await open_connection(
        url,
        host=host,
        context=context,
        name="dispatcher doctor",
        on_blocked=lambda reason: None if blocked.done() else blocked.set_result(reason),
        on_unblocked=lambda: None,
    )
    return Link(connection, host, blocked, time.monotonic() - began)


class Link:
    """Made by `open_link`. `host`: of the URL. `connect_seconds`: how long TCP, TLS and login took."""

    def __init__(
        self, connection: Connection, host: tuple[str, int], blocked: asyncio.Future[str], connect_seconds: float
    ) -> None:
        self.connection = connection
        self.host = host
        self.connect_seconds = connect_seconds
        self.features: Features = features_of(server_version(connection.server_properties))
        self._blocked = blocked

    async def open_channel(self) -> Channel:
        return await self.answered(self.connection.open_channel())

    async def ask(self, methods: Sequence[Method]) -> list[Answer]:
        """The answer to each, or the refusal. All are on their way at once; after a refusal the rest is sent again."""
        answers: list[Answer] = []
        while len(answers) < len(methods):
            channel = await self.open_channel()
            try:
                for asked in [channel.ask(method) for method in methods[len(answers) :]]:
                    answers.append((await self.answered(asked)).method)
            except ReplyError as refusal:
                answers.append(refusal)
            finally:
                await channel.close()
        return answers

    async def publish(
        self, exchange: str, routing_key: str, *, body: bytes = b"", expiration: str | None = None
    ) -> Published:
        """Publish, mandatory, on a channel of its own. `ReplyError` where the broker refuses it and closes the channel."""
        channel = await self.open_channel()
        try:
            listener = _Listener()
            await self.answered(channel.select_confirms(listener, return_header=PUBLISH))
            headers = encode_table({PUBLISH: channel.next_publish})
            properties = encode_properties(headers=headers, delivery_mode=TRANSIENT, expiration=expiration)
            began = time.monotonic()
            channel.publish(exchange, routing_key, properties, body, None)
            outcome = await self.answered(listener.outcome)
            return Published(outcome, time.monotonic() - began)
        finally:
            await channel.close()

    async def get(self, channel: Channel, queue: str) -> Content | None:
        """Take a message for good; None if the queue is empty."""
        return (await self.answered(channel.ask(BasicGet(queue=queue, no_ack=True)))).content

    async def answered(self, what: Awaitable[T]) -> T:
        """Wait for an answer of the broker. `Alarm` where it blocks the connection, `ChannelGone` after 30 s."""
        asked = asyncio.ensure_future(what)
        try:
            waited: set[asyncio.Future[Any]] = {asked, self._blocked}
            await asyncio.wait(waited, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            self.connection.abort()  # there will be no answer to anything, a goodbye included
            if self._blocked.done():
                raise Alarm(self._blocked.result())
            raise ChannelGone(f"expected an answer of the broker within {ANSWER_SECONDS:.0f} s, got none")
        finally:
            asked.cancel()  # nothing happens to one that is done
            await asyncio.wait([asked])
            if not asked.cancelled():
                asked.exception()  # read: nobody else asks for it after an alarm

    async def close(self) -> None:
        await self.connection.close()


class _Listener:
    """A `ConfirmListener` for one publish."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Literal["confirmed", "returned", "refused"]] = (
            asyncio.get_running_loop().create_future()
        )
        self._returned = False

    def confirmed(self, waiters: Sequence[Any]) -> None:
        self.outcome.set_result("returned" if self._returned else "confirmed")

    def refused(self, waiters: Sequence[Any]) -> None:
        self.outcome.set_result("refused")

    def returned(self, waiter: Any, error: ReplyError) -> None:
        self._returned = True

    def lost(self, waiters: Sequence[Any], error: AmqpError | None) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error or ChannelGone("the channel was closed"))
