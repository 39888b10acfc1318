"""One look at the messages of a queue: each is taken, shown, and given back at the end, all on one channel.

There is no other way to see a message in AMQP. Must never ack a message that it was not told to remove.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator

from ...amqp.channel import Channel
from ...amqp.errors import AmqpError
from ...amqp.events import Answered, Content
from ...amqp.methods import BasicGet
from ...errors import ConnectionLost
from ...model import headers as names
from ...model.topology import DELAY_EXCHANGE
from ..base import BrowsedMessage, Message
from .delivery import counted_deliveries, raw_headers, read_headers
from .ladder import is_service

__all__ = ["Browse"]

GETS_AT_ONCE = 200
"""How many messages are asked for at once, and so how many bodies are in memory."""

REMOVED = 0  # no delivery has that tag


class Browse:
    """The messages that one look holds. It keeps no body, and about 100 bytes for each message."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tags: dict[int, int] = {}
        self._closing: asyncio.Task[None] | None = None

    async def messages(self, queue: str) -> AsyncGenerator[Content, None]:
        """Take every waiting message of `queue`; several are asked for at once."""
        while True:
            asked = [self._channel.ask(BasicGet(queue=queue)) for _ in range(GETS_AT_ONCE)]
            try:
                for one in asked:
                    content = (await self._answer(one)).content
                    if content is None:
                        return
                    yield content
            finally:
                await asyncio.wait(asked)  # else what still comes would be held for a caller who is gone

    async def _answer(self, asked: asyncio.Future[Answered]) -> Answered:
        try:
            return await self._channel.answer(asked)
        except AmqpError as error:
            raise ConnectionLost(f"browsing was interrupted: {error}") from error

    def key(self, content: Content) -> int:
        """Names a message for as long as it exists, whoever browses. From here on `remove` knows it.

        Of messages that are alike in everything each has a key of its own, by their order.
        """
        properties = content.properties
        number = raw_headers(content).get(names.PUBLISH)
        text = f"{content.exchange}\0{content.routing_key}\0{properties.message_id}\0{properties.timestamp}\0{number}\0"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass") + content.body, digest_size=7).digest()
        key = int.from_bytes(digest, "big")
        while key in self._tags:
            key += 1
        self._tags[key] = content.delivery_tag
        return key

    def show(self, content: Content, queue: str, *, delayed: bool) -> BrowsedMessage:
        """A message of `queue`, or one on its way there through the ladder."""
        properties = content.properties
        raw = raw_headers(content)
        due, to, published = (raw.get(name) for name in (names.DELAY_DUE, names.DELAY_TO, names.FIRST_PUBLISHED_AT))
        exchange = content.exchange
        if is_service(exchange):
            exchange = to if isinstance(to, str) else DELAY_EXCHANGE
        headers = read_headers(content, queue)
        count = counted_deliveries(headers)
        return BrowsedMessage(
            self.key(content),
            Message(
                exchange=exchange,
                routing_key=content.routing_key,
                body=content.body,
                uuid=properties.message_id or "",
                headers=headers,
                priority=properties.priority,
                ready_at_ms=due if delayed and type(due) is int else None,
                content_type=properties.content_type or "",
            ),
            delivery_count=count or 0,
            published_at_ms=published if type(published) is int else None,
        )

    def knows(self, key: int) -> bool:
        """Whether it has met that message, so that `remove` is for it to answer."""
        return self._closing is None and key in self._tags and self._channel.is_open

    def remove(self, key: int) -> bool:
        """Delete a message that it knows; False if it was removed before."""
        tag = self._tags[key]
        self._tags[key] = REMOVED  # remembered: the next one alike must not get its key
        if tag != REMOVED:
            self._channel.ack(tag)
        return tag != REMOVED

    async def close(self) -> None:
        """Give back what was not removed. Returns once the broker has it; twice is fine."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="dispatcher end of browsing")
        await asyncio.shield(self._closing)

    async def closed(self) -> None:
        """Wait for the end of a close that has begun; one that has not is not waited for."""
        if self._closing is not None:
            await asyncio.wait([self._closing])

    async def _close(self) -> None:
        if self._channel.is_open:
            self._channel.hand_back_all()
        await self._channel.close()
