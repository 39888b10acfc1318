"""A channel on the event loop: the commands of a `ChannelState`, with futures for the answers and callbacks for the rest.

Made by `Connection.open_channel`. Nothing here waits without a deadline, and nothing here knows what a task is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .channel_state import ChannelState, ChannelStatus
from .errors import AmqpError, ChannelGone, ReplyError, reply_error
from .events import Answered, ChannelClosed, Confirmed, ConsumerCancelled, Content, FlowChanged, Returned
from .methods import BasicCancel, BasicConsume, BasicGet, BasicQos, Method

__all__ = ["CALL_SECONDS", "Channel", "ConfirmListener"]

CALL_SECONDS = 30.0
"""How long the broker may take to answer a call. Declaring a quorum queue in a busy cluster takes seconds."""

CLOSE_SECONDS = 5.0

_OPEN = ChannelStatus.OPEN  # looked up once, see `channel_state`


class ConfirmListener(Protocol):
    """Who hears what became of publishes. A waiter is the object that was handed to `Channel.publish`."""

    def confirmed(self, waiters: Sequence[Any]) -> None:
        """The broker has them: in every queue they routed to, unless `returned` was told before."""
        ...

    def refused(self, waiters: Sequence[Any]) -> None:
        """The broker refused them (basic.nack): a full queue, or a fault of a queue."""
        ...

    def returned(self, waiter: Any, error: ReplyError) -> None:
        """No queue took it. `confirmed` follows, and means nothing then. `waiter` is None if it cannot be told which."""
        ...

    def lost(self, waiters: Sequence[Any], error: AmqpError | None) -> None:
        """The channel has ended before these were answered: they may have been accepted. None: we closed it."""
        ...


class _Link(Protocol):
    """What a channel needs of its connection."""

    @property
    def has_room(self) -> bool: ...
    def wake(self) -> None: ...
    def note_published(self, size: int) -> None: ...
    def note_settled(self, channel: ChannelState) -> None: ...
    def when_there_is_room(self, callback: Callable[[], None]) -> None: ...


class Channel:
    """See `connection.Connection.open_channel`."""

    def __init__(self, state: ChannelState, link: _Link) -> None:
        self.state = state
        self._link = link
        self._wake = link.wake
        self._settled = link.note_settled
        self._loop = asyncio.get_running_loop()
        self._consumers: dict[bytes, tuple[Callable[[Content], None], Callable[[], None]]] = {}
        self._listener: ConfirmListener | None = None
        self._last_tag = 0
        self.paused = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<Channel {self.state.number} {self.state.status.name.lower()}>"

    @property
    def is_open(self) -> bool:
        """Whether it takes commands."""
        return self.state.status is _OPEN

    # --- calls -----------------------------------------------------------------------------------------------------

    def ask(self, method: Method) -> asyncio.Future[Answered]:
        """Ask the broker something, without waiting: several may be on their way, and are answered in order.

        The future fails with the `AmqpError` that ends the channel.
        """
        future: asyncio.Future[Answered] = self._loop.create_future()
        try:
            self.state.call(method, future)
        except ChannelGone as error:
            future.set_exception(self._reason() or error)
        else:
            self._wake()
        return future

    async def call(self, method: Method) -> Method:
        """Ask, and return the answer. Raises the `AmqpError` that ended the channel; `ChannelGone` after 30 s."""
        return (await self.answer(self.ask(method))).method

    async def answer(self, asked: asyncio.Future[Answered]) -> Answered:
        """Wait for what `ask` asked."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await asked
        except TimeoutError:
            raise ChannelGone(f"expected an answer of the broker within {CALL_SECONDS:.0f} s, got none") from None

    async def get(self, queue: str) -> Content | None:
        """Take one message of `queue`, to be acked; None if it is empty."""
        return (await self.answer(self.ask(BasicGet(queue=queue)))).content

    # --- publishing ------------------------------------------------------------------------------------------------

    async def select_confirms(self, listener: ConfirmListener, *, return_header: str) -> None:
        """Have every publish answered to `listener`. Each must carry its number, `next_publish`, in that header."""
        future: asyncio.Future[Answered] = self._loop.create_future()
        self.state.select_confirms(future, return_header=return_header)
        self._listener = listener
        self._wake()
        await self.answer(future)

    @property
    def next_publish(self) -> int:
        """The number that the next publish will have."""
        assert self.state.confirms is not None, "this channel is not in confirm mode"
        return self.state.confirms.last + 1

    def publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes, waiter: Any) -> None:
        """Publish, mandatory; the listener hears of `waiter`. `ChannelGone` where the channel has ended.

        Who publishes while the link has no room (`has_room`) makes it a queue without a bound.
        """
        self.state.publish(exchange, routing_key, properties, body, waiter)
        self._link.note_published(len(body) + len(properties))

    @property
    def has_room(self) -> bool:
        """Whether the link keeps up with what it is given."""
        return self._link.has_room

    def when_there_is_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the link has caught up; never if the connection ends before."""
        self._link.when_there_is_room(callback)

    # --- consuming -------------------------------------------------------------------------------------------------

    async def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        on_delivery: Callable[[Content], None],
        on_cancel: Callable[[], None],
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Consume `queue` with at most `prefetch` unsettled deliveries, and return the consumer's tag.

        `on_cancel` is called when the broker ends this consumer alone.
        """
        self._last_tag += 1
        tag = f"c{self._last_tag}"
        self._consumers[tag.encode()] = (on_delivery, on_cancel)
        qos = self.ask(BasicQos(prefetch_count=prefetch))
        consume = self.ask(BasicConsume(queue=queue, consumer_tag=tag, arguments=arguments or {}))
        try:
            await self.answer(qos)
            await self.answer(consume)
        except BaseException:
            del self._consumers[tag.encode()]
            for asked in (qos, consume):
                if asked.done() and not asked.cancelled():
                    asked.exception()  # read: the first of them was raised
            raise
        return tag

    async def cancel(self, consumer_tag: str) -> None:
        """End a consumer. What the broker had sent before its answer was delivered."""
        await self.call(BasicCancel(consumer_tag=consumer_tag))
        self._consumers.pop(consumer_tag.encode(), None)

    def ack(self, tag: int) -> None:
        """Done with. Takes effect in order, without waiting. Nothing after the channel's end: the tag means nothing then."""
        if self.state.acks.ack(tag):
            self._settled(self.state)

    def nack(self, tag: int) -> None:
        """Hand back to the broker, which delivers it again."""
        if self.state.acks.nack(tag):
            self._settled(self.state)

    def hand_back_all(self) -> None:
        """Hand back everything that is not settled."""
        self.state.hand_back_all()
        self._wake()

    # --- the end ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Flush settlements and close; bounded to 5 s, twice is fine. What is unsettled then is handed back by the broker."""
        self.let_go()
        await asyncio.wait([self.closed], timeout=CLOSE_SECONDS)

    def let_go(self) -> None:
        """Close, without waiting for the answer."""
        if self.is_open:
            self.state.close(None)
            self._wake()

    def _reason(self) -> AmqpError | None:
        if self.closed.done() and isinstance(error := self.closed.exception(), AmqpError):
            return error
        return None

    # --- what the connection hears ---------------------------------------------------------------------------------

    def delivered(self, content: Content) -> None:
        """A delivery. One of a consumer that was given up while it was being started goes straight back."""
        consumer = self._consumers.get(content.consumer_tag)
        if consumer is not None:
            consumer[0](content)
        else:
            self.nack(content.delivery_tag)

    def answered_publishes(self, event: Confirmed) -> None:
        listener = self._listener
        if listener is None:
            return
        if self.closed.done():  # it was given up for what came just before these: nothing is certain any more
            listener.lost(event.waiters, self._reason())
        elif event.accepted:
            listener.confirmed(event.waiters)
        else:
            listener.refused(event.waiters)

    def returned(self, event: Returned) -> None:
        if self._listener is not None:
            self._listener.returned(event.waiter, reply_error(event.code, event.text))

    def cancelled(self, event: ConsumerCancelled) -> None:
        consumer = self._consumers.pop(event.consumer_tag, None)
        if consumer is not None:
            consumer[1]()

    def flow_changed(self, event: FlowChanged) -> None:
        self.paused = not event.active

    def ended(self, event: ChannelClosed) -> None:
        """The channel, or the whole connection, has ended."""
        if self.closed.done():
            return
        error = event.error
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error)
            self.closed.exception()  # read: nobody need await it
        for asked in event.calls:
            if asked is not None and not asked.done():
                asked.set_exception(error or ChannelGone("the channel was closed"))
                asked.exception()  # read: of several that were asked, only the first may be awaited
        if self._listener is not None and event.publishes:
            self._listener.lost(event.publishes, error)
