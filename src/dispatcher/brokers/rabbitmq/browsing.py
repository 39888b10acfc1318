"""One look at the messages of a queue: each is taken, shown, and given back at the end, in its old order.

There is no other way to see a message in AMQP. They are taken by consumers, one after the other, rather than by
`basic.get`: a quorum queue keeps the order of what one consumer gives back at once, and not that of single gets.
Must never ack a message that it was not told to remove.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from ...amqp.channel import Channel
from ...amqp.errors import AmqpError
from ...amqp.events import Content
from ...amqp.methods import QueueDeclare, QueueDeclareOk
from ...errors import DispatcherError
from ...model import headers as names
from ..base import BrowsedMessage, Message
from .delivery import counted_deliveries, raw_headers, read_headers, target_of
from .ladder import is_service
from .translate import refusal
from .version import Features

__all__ = ["Browse"]

WINDOW = 300
"""How many messages one consumer takes, and so how many bodies are in memory."""

WINDOWS_OF_CHANNEL = 9
"""What a channel gives back is sorted by consumer tag, as text; the tags of a channel are c1, c2, …"""

ARRIVAL_SECONDS = 1.0
"""How long a message that is ready may take to come, if nobody else takes it."""

LOOKS = 2
"""How often a queue must be found empty: the first answer may overtake a message that is on its way."""

RETURN_SECONDS = 0.5
RETURN_POLL_SECONDS = 0.01
"""How long a queue may take to have back what was given back to it. A quorum queue writes that down first."""

REMOVED = 0
_TAG_BITS = 48


class Browse:
    """The messages that one look holds. It keeps no body, and about 100 bytes for each message."""

    def __init__(self, open_channel: Callable[[], Awaitable[Channel]], features: Features) -> None:
        self._open_channel = open_channel
        self._nacks = features.nack_is_free
        self._channels: dict[int, Channel] = {}
        self._windows = 0
        self._queues: set[str] = set()
        self._tags: dict[int, int] = {}
        self._closing: asyncio.Task[None] | None = None

    async def messages(self, queue: str) -> AsyncGenerator[Content, None]:
        """Take every message of `queue` that is ready. `TopologyMismatch` if there is no such queue, or no right to read it."""
        self._queues.add(queue)
        try:
            taken = WINDOW
            while taken >= WINDOW:
                taken = 0
                channel = await self._channel_for_window()
                arrived: deque[Content] = deque()
                came = asyncio.Event()
                tag = await _consume(channel, queue, arrived, came)
                try:
                    while taken < WINDOW and await _is_more(channel, queue, arrived, came):
                        taken += 1
                        yield arrived.popleft()
                finally:
                    # What was removed in this turn goes out first: the cancel is answered after it has its effect, and a
                    # channel that closes before that loses acks (see `consuming`).
                    await asyncio.sleep(0)
                    if channel.is_open:
                        await channel.cancel(tag)
                while arrived:  # in the place of those that were removed meanwhile
                    taken += 1
                    yield arrived.popleft()
        except AmqpError as error:
            raise refusal(error, f"browsing queue {queue!r}", "to read it") from error

    async def _channel_for_window(self) -> Channel:
        if self._windows % WINDOWS_OF_CHANNEL == 0:
            channel = await self._open_channel()
            self._channels[channel.state.number] = channel
        self._windows += 1
        return next(reversed(self._channels.values()))

    def key(self, content: Content) -> int:
        """Names a message for as long as it exists, whoever browses. From here on `remove` knows it.

        Of messages that are alike in everything each has a key of its own, by their order.
        """
        properties = content.properties
        number = raw_headers(properties).get(names.PUBLISH)
        text = f"{content.exchange}\0{content.routing_key}\0{properties.message_id}\0{properties.timestamp}\0{number}\0"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass") + content.body, digest_size=7).digest()
        key = int.from_bytes(digest, "big")
        while key in self._tags:
            key += 1
        self._tags[key] = content.channel << _TAG_BITS | content.delivery_tag
        return key

    def show(self, content: Content, queue: str, *, delayed: bool) -> BrowsedMessage:
        """A message of `queue`, or one on its way there through the ladder."""
        properties = content.properties
        raw = raw_headers(properties)
        due, published = (raw.get(name) for name in (names.DELAY_DUE, names.FIRST_PUBLISHED_AT))
        exchange = target_of(raw) if is_service(content.exchange) else content.exchange
        headers = read_headers(properties, queue)
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
        return self._closing is None and key in self._tags

    def remove(self, key: int) -> bool:
        """Delete a message that it knows; False if it was removed before, or is lost with its channel."""
        tag = self._tags[key]
        if tag == REMOVED:
            return False
        self._tags[key] = REMOVED  # remembered: the next one alike must not get its key
        channel = self._channels[tag >> _TAG_BITS]
        if channel.is_open:
            channel.ack(tag & (1 << _TAG_BITS) - 1)
        return channel.is_open

    async def close(self) -> None:
        """Give back what was not removed; who consumes after this sees it. Twice is fine."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="dispatcher end of browsing")
        await asyncio.shield(self._closing)

    async def closed(self) -> None:
        """Wait for the end of a close that has begun; one that has not is not waited for."""
        if self._closing is not None:
            await asyncio.wait([self._closing])

    async def _close(self) -> None:
        given_back = 0
        for channel in self._channels.values():  # one after the other, for the order
            if channel.is_open:
                given_back += channel.state.acks.unsettled
                if self._nacks:
                    # Where it is not free it counts like the channel's end, which keeps the order: 3.10 returns what one nack
                    # names in that of a hash.
                    channel.hand_back_all()
            await channel.close()
        if given_back:
            await self._until_returned(given_back)

    async def _until_returned(self, count: int) -> None:
        """Wait until the queues show what they got back, so that who looks next sees it; not for long: others may take it."""
        try:
            async with asyncio.timeout(RETURN_SECONDS):
                channel = await self._open_channel()
                try:
                    while True:
                        if sum([await _ready(channel, queue) for queue in self._queues]) >= count:
                            break
                        await asyncio.sleep(RETURN_POLL_SECONDS)
                finally:
                    channel.let_go()
        except (TimeoutError, DispatcherError):
            pass  # somebody takes them, or there is nobody to ask any more: they are back all the same


async def _consume(channel: Channel, queue: str, arrived: deque[Content], came: asyncio.Event) -> str:
    def arrive(content: Content) -> None:
        arrived.append(content)
        came.set()

    return await channel.consume(queue, prefetch=WINDOW, on_delivery=arrive, on_cancel=came.set)


async def _is_more(channel: Channel, queue: str, arrived: deque[Content], came: asyncio.Event) -> bool:
    """Whether a message has arrived, or does so now."""
    for _ in range(LOOKS):
        if arrived:
            return True
        came.clear()
        if await _ready(channel, queue) and not arrived:
            try:
                async with asyncio.timeout(ARRIVAL_SECONDS):
                    await came.wait()
            except TimeoutError:
                break  # others take what is ready
    return bool(arrived)


async def _ready(channel: Channel, queue: str) -> int:
    answer = await channel.call(QueueDeclare(queue=queue, passive=True))
    assert isinstance(answer, QueueDeclareOk)
    return answer.message_count
