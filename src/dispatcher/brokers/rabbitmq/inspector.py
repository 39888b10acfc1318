"""Looking around in RabbitMQ with what AMQP offers: passive declares, `basic.get`, `queue.purge`.

Browsing takes messages and gives them back: while it lasts nobody else is delivered them, and up to RabbitMQ 4.2 each
browse counts towards a queue's delivery limit (that of the dead letters is out of reach). AMQP can list no queues: those
are known that a session of the same broker object has declared.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

from ...amqp.channel import Channel
from ...amqp.errors import AmqpError, NotFound
from ...amqp.events import Answered, Content
from ...amqp.methods import BasicGet, QueueDeclare, QueueDeclareOk, QueuePurge, QueuePurgeOk
from ...errors import ConnectionLost, TopologyMismatch
from ...model import headers as names
from ...model.topology import Queue, dead_queue
from ..base import BrowsedMessage, Message, QueueDepth
from .delivery import counted_deliveries, read_headers
from .ladder import level_names
from .version import Features

__all__ = ["RabbitInspector"]

GETS_AT_ONCE = 200


class RabbitInspector:
    """See `brokers.base.Inspector`. Every operation has a channel of its own."""

    def __init__(
        self, open_channel: Callable[[], Awaitable[Channel]], known: Mapping[str, Queue], features: Features
    ) -> None:
        self._open_channel = open_channel
        self._known = known
        self._features = features
        self._open: dict[str, _Browse] = {}

    async def queues(self) -> list[QueueDepth]:
        dead = {dead_queue(name) for name in self._known}
        return [await self.depth(name) for name in sorted(self._known) if name not in dead]

    async def depth(self, queue: str) -> QueueDepth:
        """`unacked` and `delayed` are None: AMQP tells neither."""
        found = await self._passive(queue)
        if found is None:
            raise _absent(queue)
        dead = await self._passive(dead_queue(queue))
        return QueueDepth(
            queue,
            ready=found.message_count,
            unacked=None,
            delayed=None,
            consumers=found.consumer_count,
            dead=None if dead is None else dead.message_count,
        )

    async def browse(self, queue: str) -> AsyncGenerator[BrowsedMessage, None]:
        """The delayed ones come last. While it lasts their delays stand still."""
        if await self._passive(queue) is None:
            raise _absent(queue)
        browse = self._open[queue] = _Browse(await self._open_channel())
        try:
            async with aclosing(browse.messages(queue)) as waiting:
                async for content in waiting:
                    yield browse.show(content, queue)
            async with aclosing(self._delayed(browse, queue)) as delayed:
                async for content in delayed:
                    yield browse.show(content, queue)
        finally:
            if self._open.get(queue) is browse:
                del self._open[queue]
            await browse.close()

    async def remove(self, queue: str, key: int) -> bool:
        browse = self._open.get(queue)
        if browse is not None:
            return browse.remove(key)
        async with aclosing(self.browse(queue)) as messages:
            async for message in messages:
                if message.key == key:
                    return self._open[queue].remove(key)
        return False

    async def purge(self, queue: str) -> int:
        """What waits in the queue itself; delayed messages on their way to it stay."""
        channel = await self._open_channel()
        try:
            purged = await channel.call(QueuePurge(queue=queue))
            assert isinstance(purged, QueuePurgeOk)
            return purged.message_count
        except NotFound:
            raise _absent(queue) from None
        except AmqpError as error:
            raise ConnectionLost(f"queue {queue!r} cannot be purged: {error}") from error
        finally:
            await channel.close()

    async def _passive(self, queue: str) -> QueueDeclareOk | None:
        """What the broker says of a queue, None if it does not exist."""
        channel = await self._open_channel()
        try:
            found = await channel.call(QueueDeclare(queue=queue, passive=True))
            assert isinstance(found, QueueDeclareOk)
            return found
        except NotFound:
            return None
        except AmqpError as error:
            raise ConnectionLost(f"queue {queue!r} cannot be looked at: {error}") from error
        finally:
            await channel.close()

    async def _delayed(self, browse: _Browse, queue: str) -> AsyncGenerator[Content, None]:
        """The messages in the ladder that go to `queue`."""
        if queue.endswith(".dead"):
            return  # nothing is delayed on its way there
        keys = self._known[queue].binding_keys if queue in self._known else ()
        for level in level_names(self._features):
            found = await self._passive(level)
            if found is None:
                return  # no ladder here
            if not found.message_count:
                continue
            async with aclosing(browse.messages(level)) as messages:
                async for content in messages:
                    targets = keys if names.DELAY_TO in content.properties.headers else (queue,)
                    if content.routing_key in targets:
                        yield content


class _Browse:
    """The messages that one browse holds, on a channel of its own."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tags: dict[int, int] = {}

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
                await asyncio.wait(asked)

    async def _answer(self, asked: asyncio.Future[Answered]) -> Answered:
        try:
            return await self._channel.answer(asked)
        except AmqpError as error:
            raise ConnectionLost(f"browsing was interrupted: {error}") from error

    def show(self, content: Content, queue: str) -> BrowsedMessage:
        properties = content.properties
        raw = properties.headers
        key = _key(content)
        self._tags[key] = content.delivery_tag
        due = raw.get(names.DELAY_DUE)
        to = raw.get(names.DELAY_TO)
        published = raw.get(names.FIRST_PUBLISHED_AT)
        headers = read_headers(content, queue)
        count = counted_deliveries(headers)
        return BrowsedMessage(
            key,
            Message(
                exchange=str(to) if to is not None else content.exchange,
                routing_key=content.routing_key,
                body=content.body,
                uuid=properties.message_id or "",
                headers=headers,
                priority=properties.priority,
                ready_at_ms=due if type(due) is int else None,
                content_type=properties.content_type or "",
            ),
            delivery_count=count or 0,
            published_at_ms=published if type(published) is int else None,
        )

    def remove(self, key: int) -> bool:
        tag = self._tags.pop(key, None)
        if tag is None or not self._channel.is_open:
            return False
        self._channel.ack(tag)
        return True

    async def close(self) -> None:
        """Give back what was not removed."""
        if self._channel.is_open:
            self._channel.hand_back_all()
        await self._channel.close()


def _key(content: Content) -> int:
    """Names a message as long as it exists: what no redelivery changes."""
    properties = content.properties
    number = properties.headers.get(names.PUBLISH)
    text = f"{properties.message_id}\0{number}\0{properties.timestamp}\0".encode()
    return int.from_bytes(hashlib.blake2b(text + content.body, digest_size=7).digest(), "big")


def _absent(queue: str) -> TopologyMismatch:
    return TopologyMismatch(f"queue {queue!r} does not exist; declare it, or correct its name")
