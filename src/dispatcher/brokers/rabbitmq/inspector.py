"""Looking around in RabbitMQ with what AMQP offers: passive declares, `basic.get`, `queue.purge`.

Browsing takes messages and gives them back: while it lasts nobody else is delivered them, and up to RabbitMQ 4.2 each
browse counts towards a queue's delivery limit (that of the dead letters is out of reach). AMQP can list no queues: those
are known that a session of the same broker object has declared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

from ...amqp.channel import Channel
from ...amqp.errors import AccessRefused, AmqpError, NotFound
from ...amqp.events import Content
from ...amqp.methods import QueueDeclare, QueueDeclareOk, QueuePurge, QueuePurgeOk
from ...errors import ConfigError, DispatcherError, TopologyMismatch
from ...model import headers as names
from ...model.topology import Queue, dead_queue
from ..base import BrowsedMessage, DelayBand, QueueDepth
from .browsing import Browse
from .delivery import raw_headers
from .ladder import level_names, level_seconds
from .translate import is_down, refusal
from .version import Features

__all__ = ["RabbitInspector"]


class RabbitInspector:
    """See `brokers.base.Inspector`. Every operation has a channel of its own."""

    def __init__(
        self, open_channel: Callable[[], Awaitable[Channel]], known: Mapping[str, Queue], features: Features
    ) -> None:
        self._open_channel = open_channel
        self._known = known
        self._features = features
        self._open: dict[str, list[Browse]] = {}
        self._wanted: dict[str, dict[int, asyncio.Future[bool]]] = {}
        self._removing = asyncio.Lock()
        self._removals: set[asyncio.Task[None]] = set()

    async def queues(self) -> list[QueueDepth]:
        dead = {dead_queue(name) for name in self._known}
        return [await self.depth(name) for name in sorted(self._known) if name not in dead]

    async def depth(self, queue: str) -> QueueDepth:
        """`unacked` and `delayed` are None: AMQP tells neither."""
        found = await self._passive(queue)
        if found is None:
            raise _absent(queue)
        try:
            dead = await self._passive(dead_queue(queue))
        except ConfigError:
            dead = None  # who only works on a queue may not look at its dead letters
        return QueueDepth(
            queue,
            ready=found.message_count,
            unacked=None,
            delayed=None,
            consumers=found.consumer_count,
            dead=None if dead is None else dead.message_count,
        )

    async def delayed(self) -> list[DelayBand]:
        """By level of the ladder, which all apps of the vhost share. What is due and finds no room AMQP does not tell."""
        counts: dict[float, int] = {}
        for level in level_names(self._features):
            found = await self._passive(level)
            if found is not None:  # there may be no ladder yet, or somebody deleted a part of it
                seconds = level_seconds(level)
                counts[seconds] = counts.get(seconds, 0) + found.message_count
        return [DelayBand(0.0, seconds, count, None) for seconds, count in sorted(counts.items()) if count]

    async def browse(self, queue: str) -> AsyncGenerator[BrowsedMessage, None]:
        """The delayed ones come last. While it lasts their delays stand still."""
        if await self._passive(queue) is None:
            raise _absent(queue)
        browse = Browse(self._open_channel, self._features)
        self._open.setdefault(queue, []).append(browse)
        try:
            async with aclosing(browse.messages(queue)) as waiting:
                async for content in waiting:
                    yield browse.show(content, queue, delayed=False)
            async with aclosing(self._delayed(browse, queue)) as delayed:
                async for content in delayed:
                    yield browse.show(content, queue, delayed=True)
        finally:
            await browse.close()
            self._open[queue].remove(browse)

    async def remove(self, queue: str, key: int) -> bool:
        """Cheap while a browse of the queue is open; else the queue is looked through, once for all that ask meanwhile."""
        for browse in self._open.get(queue, ()):
            if browse.knows(key):
                return browse.remove(key)
        wanted = self._wanted.get(queue)
        if wanted is None:
            wanted = self._wanted[queue] = {}
            removal = asyncio.create_task(self._remove_wanted(queue), name=f"dispatcher removing from {queue}")
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)
        if key in wanted:
            return False  # another asks for it already, and is told True
        found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        wanted[key] = found
        return await found

    async def _remove_wanted(self, queue: str) -> None:
        """Look for what `remove` was asked for. One look at a time: two would hide messages from each other."""
        wanted: dict[int, asyncio.Future[bool]] = {}
        removed: set[int] = set()
        failure: DispatcherError | None = None
        async with self._removing:
            try:
                for closing in list(self._open.get(queue, ())):
                    await closing.closed()
                browse = Browse(self._open_channel, self._features)
                try:
                    wanted = self._wanted.pop(queue)
                    await self._remove_all(browse, queue, set(wanted), removed)
                finally:
                    await browse.close()
            except DispatcherError as error:
                failure = error
                wanted |= self._wanted.pop(queue, {})
        for key, future in wanted.items():
            if future.done():
                continue
            if failure is None or key in removed:
                future.set_result(key in removed)
            else:
                future.set_exception(failure)

    async def _remove_all(self, browse: Browse, queue: str, missing: set[int], removed: set[int]) -> None:
        for messages in (browse.messages(queue), self._delayed(browse, queue)):
            async with aclosing(messages):
                while missing and (content := await anext(messages, None)) is not None:
                    key = browse.key(content)
                    if key in missing and browse.remove(key):
                        missing.discard(key)
                        removed.add(key)

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
            raise _failure(error, f"purging queue {queue!r}", "to read it") from error
        finally:
            await channel.close()

    async def _passive(self, queue: str) -> QueueDeclareOk | None:
        """What the broker says of a queue, None if it does not exist."""
        channel = await self._open_channel()
        try:
            found = await channel.call(QueueDeclare(queue=queue, passive=True))
            assert isinstance(found, QueueDeclareOk)
            return found
        except AmqpError as error:
            if isinstance(error, NotFound) and not is_down(error):
                return None
            raise _failure(error, f"looking at queue {queue!r}", "to do anything with it") from error
        finally:
            await channel.close()

    async def _delayed(self, browse: Browse, queue: str) -> AsyncGenerator[Content, None]:
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
                    targets = keys if names.DELAY_TO in raw_headers(content.properties) else (queue,)
                    if content.routing_key in targets:
                        yield content


def _failure(error: AmqpError, what: str, permission: str) -> DispatcherError:
    """What is forbidden is a `ConfigError` alone: `TopologyMismatch` would say that the queue is not there."""
    failure = refusal(error, what, permission)
    return ConfigError(str(failure)) if isinstance(error, AccessRefused) else failure


def _absent(queue: str) -> TopologyMismatch:
    return TopologyMismatch(f"queue {queue!r} does not exist; declare it, or correct its name")
