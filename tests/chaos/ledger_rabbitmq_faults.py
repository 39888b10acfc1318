"""Faults to plant in a child of the ledger test on RabbitMQ. Each breaks the promise in one way that a real client has had.

They replace methods of Dispatcher in this process only; nothing in `src` knows of them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from dispatcher.amqp.channel_state import ChannelState
from dispatcher.amqp.frames import ack_frame, method_frame
from dispatcher.amqp.methods import BasicPublish, encode_method
from dispatcher.brokers.rabbitmq import delivery, ladder
from dispatcher.brokers.rabbitmq.consuming import RabbitConsumer
from dispatcher.brokers.rabbitmq.delivery import RabbitDelivery
from dispatcher.brokers.rabbitmq.session import RabbitSession
from dispatcher.model import headers as names

__all__ = ["RABBITMQ_FAULTS"]


def confirm_unheard() -> None:
    """A publish returns at once; what the broker says of it is of no interest."""
    publish: Any = RabbitSession.publish

    def faulty(self: RabbitSession, message: Any) -> asyncio.Future[None]:
        publish(self, message).add_done_callback(asyncio.Future.exception)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        confirmed.set_result(None)
        return confirmed

    RabbitSession.publish = faulty  # type: ignore[method-assign]


def not_mandatory() -> None:
    """What no queue takes is confirmed, and dropped by the broker."""

    def faulty(self: ChannelState, exchange: str, routing_key: str) -> bytes:
        method = BasicPublish(exchange=exchange, routing_key=routing_key, mandatory=False)
        return method_frame(self.number, encode_method(method))

    ChannelState._route = faulty  # type: ignore[method-assign]


def keep_deaths() -> None:
    """A copy keeps the broker's notes of its deaths. RabbitMQ before 4.0 believes them, sees a cycle and drops it."""

    def faulty(headers: Any) -> dict[str, Any]:
        return {name: value for name, value in headers.items() if name not in ladder._OF_THE_WAY}

    delivery.strip = faulty
    names.NOT_COPIED = frozenset()


def stale_ack() -> None:
    """The ack of a session that is gone is kept, and sent on the next one, where its tag is somebody else's, or nobody's."""
    stale: dict[str, list[int]] = defaultdict(list)
    start: Any = RabbitConsumer.start
    take: Any = RabbitDelivery._take

    class Late:
        def __init__(self, queue: str) -> None:
            self.ack = self.nack = stale[queue].append

    def faulty_take(self: RabbitDelivery) -> Any:
        return take(self) if self._consumer.is_alive else Late(self.queue)

    async def faulty_start(self: RabbitConsumer, prefetch: int, arguments: Any) -> None:
        await start(self, prefetch, arguments)
        channel = self._channel
        channel.state._outbox += [
            ack_frame(channel.state.number, tag, multiple=False) for tag in stale.pop(self.queue, ())
        ]
        channel._wake()

    RabbitDelivery._take = faulty_take  # type: ignore[method-assign]
    RabbitConsumer.start = faulty_start  # type: ignore[method-assign]


RABBITMQ_FAULTS: dict[str, Callable[[], None]] = {
    "confirm_unheard": confirm_unheard,
    "not_mandatory": not_mandatory,
    "keep_deaths": keep_deaths,
    "stale_ack": stale_ack,
}
