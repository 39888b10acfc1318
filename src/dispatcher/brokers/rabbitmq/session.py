"""A session on RabbitMQ: two connections, one that publishes and one that consumes, and the end of both together.

Two, because an alarm of the broker (memory, disk) stops the reading of a connection that publishes: acks on the same one
would stop with it. The consuming one is opened when it is first needed: who only publishes needs one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from functools import partial
from time import time

from ...amqp.channel import Channel
from ...amqp.connection import Connection
from ...amqp.errors import AmqpError, ChannelsExhausted, PreconditionFailed
from ...errors import (
    ArgumentError,
    BrokerBlocked,
    ConfigError,
    ConnectionLost,
    ConsumerCancelled,
    DispatcherError,
    PublishError,
    PublishRefused,
    TopologyMissing,
)
from ...model.topology import DELAY_EXCHANGE, Topology
from ..base import DEFAULT_PRIORITY, Blocked, Connected, Disconnected, Message, OnEvent, TopologyDiffers, Unblocked
from .cancels import RabbitCancels
from .consuming import RabbitConsumer
from .declare import OpenChannel, declare, has_services
from .inspector import RabbitInspector
from .known import Known
from .ladder import detour, is_service, level_names
from .publishing import ExchangePublisher, Limits, Publish
from .schedules import RabbitSchedules, is_schedule
from .translate import is_down, lost, refusal
from .version import Features, features_of, server_version
from .ways import Ways

__all__ = ["Opener", "RabbitSession"]

CONSUMER_TIMEOUT = "x-consumer-timeout"
LONGEST_TIMEOUT_MS = 10 * 365 * 86_400_000
"""What we ask for as that where it is heeded: how long a task may run is for its own timeout to say."""

CLOSE_SECONDS = 5.0
MUTE_CLOSE_SECONDS = 1.0
"""How long a close waits for the answers of the broker, all in all; the second if that has not answered before, either."""

Opener = Callable[[str, Callable[[str], None], Callable[[], None]], Awaitable[Connection]]
"""Opens a connection of that role to the same broker."""


class RabbitSession:
    """One session. See `brokers.base.Session`. Made by `RabbitBroker.connect`."""

    def __init__(self, name: str, open_connection: Opener, on_event: OnEvent, known: Known) -> None:
        self._name = name
        self._open_connection = open_connection
        self._on_event = on_event
        self._known = known
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._publishing: Connection | None = None
        self._consuming: Connection | None = None
        self._opening = asyncio.Lock()
        self._publishers: dict[str, ExchangePublisher] = {}
        self._publishers_of: dict[str, ExchangePublisher] = {}  # by each exchange's name: those of the ladder share one
        self._limits = Limits()
        self._ways = Ways(self.publish)
        self._has_seen_services = False
        self._consumers: list[RabbitConsumer] = []
        self._blocked: str | None = None
        self._ended = False
        self._closing: asyncio.Task[None] | None = None
        self._features = features_of(server_version({}))
        self._inspector: RabbitInspector | None = None
        self.peer = ""

    async def open(self) -> None:
        """Open the publishing connection."""
        connection = await self._open_connection("publisher", self._note_blocked, self._note_unblocked)
        self._publishing = connection
        self.peer = connection.peer
        self._features = features_of(server_version(connection.server_properties))
        self._inspector = RabbitInspector(self._consumer_channel, self._known.queues, self._features)
        connection.closed.add_done_callback(self._connection_closed)
        self._on_event(Connected(self.peer))

    @property
    def closed(self) -> asyncio.Future[None]:
        return self._closed

    @property
    def features(self) -> Features:
        """What this broker's version can do."""
        return self._features

    @property
    def inspector(self) -> RabbitInspector:
        self._check()
        assert self._inspector is not None
        return self._inspector

    @property
    def cancels(self) -> RabbitCancels:
        self._check()
        return RabbitCancels(self.publish, self._consumer_channel)

    @property
    def schedules(self) -> RabbitSchedules:
        self._check()
        return RabbitSchedules(self.publish, lambda queue, prefetch: self.consume(queue, prefetch=prefetch))

    # --- topology --------------------------------------------------------------------------------------------------

    async def declare(self, topology: Topology) -> None:
        self._check()
        assert self._publishing is not None
        # While an alarm blocks the one connection the broker reads nothing of it, a declare neither.
        open_channel = self._publishing.open_channel if self._blocked is None else self._consumer_channel
        try:
            is_whole = await declare(
                open_channel,
                topology,
                self._features,
                self._tell,
                with_services=not await self._has_services(open_channel),
            )
        except AmqpError as error:
            raise refusal(error, f"declaring the topology of exchange {topology.exchange!r}") from error
        self._known.add(topology)
        if is_whole:
            self._has_seen_services = True
            self._known.ladder = level_names(self._features)
            self._ways.add(topology)

    async def _has_services(self, open_channel: OpenChannel) -> bool:
        """Whether the ladder and the like need not be declared: they were by this program, and a look says that they are there.

        A fleet that comes back after its broker would else declare it a thousand times at once.
        """
        if not self._has_seen_services and self._known.ladder == level_names(self._features):
            self._has_seen_services = await has_services(open_channel, self._features)
        return self._has_seen_services

    def _tell(self, difference: TopologyDiffers) -> None:
        if difference not in self._known.told:
            self._known.told.add(difference)
            self._on_event(difference)

    # --- publishing ------------------------------------------------------------------------------------------------

    def publish(self, message: Message) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        ready_at_ms = message.ready_at_ms
        delay_ms = 0 if ready_at_ms is None else ready_at_ms - int(time() * 1000)
        if delay_ms > 0 and not self._ways.is_sure(message.exchange, message.routing_key):
            self._publish_once_sure(message, future)
        else:
            self._publish(message, delay_ms, future)
        return future

    def _publish_once_sure(self, message: Message, future: asyncio.Future[None]) -> None:
        """Publish once it is known that the message will come to a queue when its delay is over."""

        def answered(asked: asyncio.Future[None]) -> None:
            error = asked.exception()
            if future.done():
                pass  # who waited for it gave up
            elif error is not None:
                future.set_exception(_for(message, error))
            else:
                self._publish(message, max(1, (message.ready_at_ms or 0) - int(time() * 1000)), future)

        try:
            self._ways.ask(message.exchange, message.routing_key).add_done_callback(answered)
        except DispatcherError as error:
            future.set_exception(error)

    def _publish(self, message: Message, delay_ms: int, future: asyncio.Future[None]) -> None:
        try:
            self._check()
            if self._blocked is not None:
                raise BrokerBlocked(f"the broker takes no messages now: {self._blocked}", uuid=message.uuid)
            publish = self._prepare(message, delay_ms, future)
        except DispatcherError as error:
            future.set_exception(error)
        else:
            publisher = self._publishers_of.get(publish.exchange) or self._publisher(publish.exchange)
            publisher.publish(publish)

    def _prepare(self, message: Message, delay_ms: int, future: asyncio.Future[None]) -> Publish:
        exchange, headers = message.exchange, message.headers or {}
        try:
            priority = self._known.priorities[exchange, message.routing_key]
        except KeyError:
            priority = self._known.add_route(exchange, message.routing_key)
        if delay_ms > 0:
            way = detour(
                delay_ms,
                exchange,
                due_at_ms=message.ready_at_ms or 0,
                priority=DEFAULT_PRIORITY if message.priority is None else message.priority,
                features=self._features,
            )
            exchange, headers = way.exchange, {**headers, **way.headers}
        try:
            return Publish(exchange, message, headers, future, priority)
        except ArgumentError as error:
            raise ArgumentError(f"headers of message {message.uuid!r}: {error}") from error

    def _publisher(self, exchange: str) -> ExchangePublisher:
        key = DELAY_EXCHANGE if is_service(exchange) else exchange
        publisher = self._publishers.get(key)
        if publisher is None:
            assert self._publishing is not None
            publisher = ExchangePublisher(key, self._publishing.open_channel, self._limits, self._end)
            self._publishers[key] = publisher
        self._publishers_of[exchange] = publisher
        return publisher

    def _note_blocked(self, reason: str) -> None:
        self._blocked = reason
        for publisher in self._publishers.values():
            publisher.block(reason)
        self._on_event(Blocked(reason))

    def _note_unblocked(self) -> None:
        self._blocked = None
        for publisher in self._publishers.values():
            publisher.block(None)
        self._on_event(Unblocked())

    # --- consuming -------------------------------------------------------------------------------------------------

    async def consume(self, queue: str, *, prefetch: int) -> RabbitConsumer:
        """`TopologyMismatch`, too, where this user may not read the queue; `ConsumerCancelled` while its node is down.

        A refusal of any other kind ends the session: its channel may have held what is lost now.
        """
        if prefetch < 1:
            raise ConfigError(f"prefetch: expected 1 or more, got {prefetch!r}")
        arguments = {CONSUMER_TIMEOUT: LONGEST_TIMEOUT_MS} if self._features.consumer_timeout_argument else {}
        try:
            try:
                return await self._consume(queue, prefetch, arguments)
            except PreconditionFailed as error:
                if CONSUMER_TIMEOUT not in error.text:
                    raise
                return await self._consume(queue, prefetch, {})  # a classic queue, which has no such timeout there
        except AmqpError as error:
            if is_down(error):
                raise ConsumerCancelled(f"queue {queue!r}: the node that holds it is down ({error.text})") from error
            failed = refusal(error, f"consuming queue {queue!r}", "to read it")
            if isinstance(failed, ConnectionLost):
                self._end(failed)
            raise failed from error

    async def _consume(self, queue: str, prefetch: int, arguments: Mapping[str, int]) -> RabbitConsumer:
        channel = await self._consumer_channel()
        consumer = RabbitConsumer(queue, channel, self._features, self._end, self._forget)
        self._consumers.append(consumer)
        try:
            await consumer.start(prefetch, arguments)
        except BaseException:
            self._forget(consumer)
            consumer.end()
            await channel.close()
            raise
        if not is_schedule(queue) and not self._ways.is_sure(DELAY_EXCHANGE, queue):
            self._ways.ask(DELAY_EXCHANGE, queue).add_done_callback(partial(self._tell_of_way, queue))
        return consumer

    def _tell_of_way(self, queue: str, asked: asyncio.Future[None]) -> None:
        error = asked.exception()
        if isinstance(error, TopologyMissing | PublishRefused):
            found = f"none, and retries and snoozes wait in their worker until there is one ({error})"
            self._tell(TopologyDiffers(f"way back from the delays to queue {queue!r}", "one", found))

    def _forget(self, consumer: RabbitConsumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    async def _consumer_channel(self) -> Channel:
        """A new channel on the consuming connection.

        Where no such connection is to be had (`ConnectionLost`) the session goes on as far as it can: all hosts were asked.
        """
        self._check()
        async with self._opening:
            if self._consuming is None:
                try:
                    connection = await self._open_connection("consumer", _ignore, _ignore_too)
                except DispatcherError as error:
                    # Not AuthenticationError: the publishing connection was let in a moment ago.
                    raise ConnectionLost(f"no second connection, for consuming: {error}") from error
                if self._ended:
                    connection.abort()
                    self._check()
                connection.closed.add_done_callback(self._connection_closed)
                self._consuming = connection
        try:
            return await self._consuming.open_channel()
        except ChannelsExhausted as error:
            raise ConfigError(
                f"{error}; each queue that is worked on takes one: work on fewer in one process (-Q), or raise channel_max"
            ) from error
        except AmqpError as error:
            failed = ConnectionLost(f"expected a channel for consuming: {error}")
            self._end(failed)
            raise failed from error

    # --- the end ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._ended:
            raise ConnectionLost("this session has ended; connect again")

    def _connection_closed(self, closed: asyncio.Future[None]) -> None:
        self._end(lost(closed.exception(), self.peer))

    def _end(self, error: ConnectionLost) -> None:
        """The session is lost: everything of it ends now, whatever part of it still works."""
        if self._ended:
            return
        self._ended = True
        self._on_event(Disconnected(self.peer, str(error)))
        self._let_go(error)
        for connection in (self._publishing, self._consuming):
            if connection is not None:
                connection.abort()
        self._closed.set_exception(error)
        self._closed.exception()  # nobody need await `closed`: unread, asyncio would log it as never retrieved

    @property
    def unsettled(self) -> int:
        """For tests: how many deliveries the broker counts as held by this session, the state of schedules aside."""
        return sum(consumer.unsettled for consumer in self._consumers if not is_schedule(consumer.queue))

    def abort(self) -> None:
        """For tests: end it without a word to the broker, as a broken link does."""
        self._end(ConnectionLost(f"{self.peer}: the test ended it"))

    def _let_go(self, error: ConnectionLost) -> None:
        for consumer in self._consumers:
            consumer.end()
        for publisher in self._publishers.values():
            publisher.end(error)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"dispatcher close session {self._name}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._ended:
            return
        self._ended = True
        connections = [one for one in (self._consuming, self._publishing) if one is not None]
        is_mute = any(connection.silent_seconds > MUTE_CLOSE_SECONDS for connection in connections)
        try:
            async with asyncio.timeout(MUTE_CLOSE_SECONDS if is_mute else CLOSE_SECONDS):
                await asyncio.gather(self._all_answered(), *[consumer.close() for consumer in self._consumers])
                self._let_go(ConnectionLost("this session was closed"))
                await asyncio.gather(*[connection.close() for connection in connections])
        except TimeoutError:
            # The broker takes back what was not settled when the connection ends; of what was published nobody knows.
            self._let_go(ConnectionLost("this session was closed before the broker had answered"))
        for connection in connections:
            connection.abort()
        self._closed.set_result(None)

    async def _all_answered(self) -> None:
        """Wait for what the broker has to say of each publish; while an alarm blocks it, that is nothing."""
        if self._blocked is None:
            await asyncio.gather(*[publisher.answered() for publisher in self._publishers.values()])


def _for(message: Message, error: BaseException) -> BaseException:
    """The same error for one of those who asked: each has a uuid and a traceback of its own."""
    own = copy(error)
    if isinstance(own, PublishError):
        own.uuid = message.uuid
    return own


def _ignore(reason: str) -> None:
    """The consuming connection publishes nothing: blocked or not is all the same to it."""


def _ignore_too() -> None:
    """See `_ignore`."""
