"""Consuming one queue: a channel of its own, whose end is the end of everything delivered on it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ...amqp.channel import Channel
from ...amqp.errors import AmqpError
from ...amqp.events import Content
from ...errors import ConnectionLost, ConsumerCancelled
from .delivery import RabbitDelivery
from .version import Features

__all__ = ["RabbitConsumer"]

DEFAULT_DELIVERY_TIMEOUT_SECONDS = 1800.0
"""RabbitMQ's `consumer_timeout` where nobody changed it (rabbitmq.com/docs/consumers); it cannot be asked for."""

SETTLE_SECONDS = 0.05
"""How long the last settlements have before their channel closes.

A quorum queue is told of 32 at once; the others wait in the channel for its answer, and are lost if that closes meanwhile:
of 99 acks in one write before a close 66 came again (3.10.8). AMQP has nothing that answers an ack.
"""


class RabbitConsumer:
    """The deliveries of one queue. See `brokers.base.Consumer`.

    `give_up` ends the session; `forget` is called once its channel is closed because nothing needs it any more.
    """

    def __init__(
        self,
        queue: str,
        channel: Channel,
        features: Features,
        give_up: Callable[[ConnectionLost], None],
        forget: Callable[[RabbitConsumer], None],
    ) -> None:
        self.queue = queue
        self.delivery_timeout_seconds = None if features.consumer_timeout_argument else DEFAULT_DELIVERY_TIMEOUT_SECONDS
        self.ack = channel.ack
        self.nack = channel.nack
        self._channel = channel
        self._give_up = give_up
        self._forget = forget
        self._tag = ""
        self._held = 0  # delivered and not settled, iterated over or not
        self._delivers = False
        self._releasing: asyncio.Task[None] | None = None
        self._arrived: deque[RabbitDelivery] = deque()
        self._arrival = asyncio.Event()
        self._stopped = False
        self._stopping: asyncio.Task[None] | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._cancelled: ConsumerCancelled | None = None
        self._ended = False

    @property
    def is_alive(self) -> bool:
        """Whether its deliveries can be settled."""
        return not self._ended and self._channel.is_open

    @property
    def unsettled(self) -> int:
        return self._channel.state.acks.unsettled

    async def start(self, prefetch: int, arguments: Mapping[str, Any]) -> None:
        """Consume. Raises the `AmqpError` that ended the channel."""
        self._tag = await self._channel.consume(
            self.queue, prefetch=prefetch, on_delivery=self._deliver, on_cancel=self._cancel, arguments=arguments
        )
        self._delivers = True
        self._channel.closed.add_done_callback(self._channel_closed)

    def __aiter__(self) -> RabbitConsumer:
        return self

    async def __anext__(self) -> RabbitDelivery:
        while True:
            if self._stopped:
                raise StopAsyncIteration
            if self._cancelled is not None:
                raise self._cancelled
            if self._arrived:
                return self._arrived.popleft()
            self._arrival.clear()
            await self._arrival.wait()

    async def stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"dispatcher stop consuming {self.queue}")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self._stopped = True
        self._arrival.set()
        await self._stop_deliveries()
        self._give_back()
        self._release_if_idle()

    async def _stop_deliveries(self) -> None:
        if self._cancelling is None and self._delivers:
            self._cancelling = asyncio.create_task(self._cancel_consumer(), name=f"dispatcher cancel of {self.queue}")
        if self._cancelling is not None:
            await asyncio.shield(self._cancelling)

    async def _cancel_consumer(self) -> None:
        if self._channel.is_open:
            try:
                await self._channel.cancel(self._tag)
            except AmqpError:
                pass  # the channel is gone, and with it what it held
        self._delivers = False

    async def close(self) -> None:
        """Hand back what is not settled, and close the channel. Bounded by whoever calls."""
        self.end()
        # What was settled in this turn goes out before the cancel, whose answer comes after its effect.
        await asyncio.sleep(0 if self._delivers else SETTLE_SECONDS)
        # First: what is handed back while this consumer is open comes to it again, and the close counts as its death.
        await self._stop_deliveries()
        if self._channel.is_open:
            self._channel.hand_back_all()
        await self._channel.close()
        if self._releasing is not None:
            await asyncio.wait([self._releasing])

    def note_settled(self) -> bool:
        """One of its deliveries is about to be settled. False where that is possible no more."""
        if not self.is_alive:
            return False
        self._held -= 1
        if not self._held and not self._delivers:
            self._release_if_idle()
        return True

    def _release_if_idle(self) -> None:
        """Close the channel once there is nothing to settle on it any more. It sends what was settled before."""
        if not self._held and not self._delivers and not self._ended and self._releasing is None:
            self._releasing = asyncio.create_task(self._release(), name=f"dispatcher end of consuming {self.queue}")

    async def _release(self) -> None:
        await asyncio.sleep(SETTLE_SECONDS)
        await self._channel.close()
        self._forget(self)

    def end(self) -> None:
        """Let the iteration end; nothing can be settled any more."""
        self._ended = True
        self._stopped = True
        self._arrived.clear()
        self._arrival.set()

    def _deliver(self, content: Content) -> None:
        self._held += 1
        self._arrived.append(RabbitDelivery(self, content))
        if self._stopped:
            self._give_back()
        elif len(self._arrived) == 1:  # else it was told, and has not looked yet
            self._arrival.set()

    def _give_back(self) -> None:
        """Hand back what was not iterated over; where the channel is gone, the broker has it back already."""
        while self._arrived and self.is_alive:
            self._arrived.popleft().reject()
        self._arrived.clear()

    def _cancel(self) -> None:
        self._cancelled = ConsumerCancelled(
            f"the broker ended the consumer of queue {self.queue!r}: the queue was deleted, or is not available"
        )
        self._delivers = False
        self._give_back()
        self._arrival.set()
        self._release_if_idle()

    def _channel_closed(self, closed: asyncio.Future[None]) -> None:
        error = closed.exception()
        if error is not None and not self._ended:
            # Its deliveries are back with the broker. A new session, so that what still runs is known as redelivered.
            self._give_up(ConnectionLost(f"the broker closed the channel of queue {self.queue!r}: {error}"))
