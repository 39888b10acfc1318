"""A delivery of RabbitMQ: bytes until something is asked for, and settled on the channel that brought it."""

from __future__ import annotations

from typing import Any, Protocol

from ...amqp.errors import ProtocolError
from ...amqp.events import Content
from ...amqp.properties import Properties
from ...errors import DeliveryLost
from ...model import headers as names
from ...model.topology import DELAY_EXCHANGE
from .deaths import with_reason, with_reason_of_delay
from .ladder import LOST_QUEUE, is_service, strip

__all__ = ["DeliveringConsumer", "RabbitDelivery", "counted_deliveries", "raw_headers", "read_headers", "target_of"]


def raw_headers(properties: Properties) -> dict[str, Any]:
    """The headers of a message as they came."""
    try:
        return properties.headers
    except ProtocolError:
        # RabbitMQ hands on names that are not UTF-8 and tables of any depth. A stranger's: the body decides.
        return {}


def read_headers(properties: Properties, queue: str) -> dict[str, Any]:
    """The headers of a message of `queue`, without what the way to it left there."""
    headers = raw_headers(properties)
    if queue == LOST_QUEUE:
        return strip(with_reason_of_delay(headers))
    return with_reason(strip(headers), queue) if headers else {}


def target_of(headers: dict[str, Any]) -> str:
    """The exchange that a delayed message was published to, from its headers as they came."""
    to = headers.get(names.DELAY_TO)
    return to if isinstance(to, str) else DELAY_EXCHANGE


def counted_deliveries(headers: dict[str, Any]) -> int | None:
    """Take the broker's own count out of `headers`: how many holders were lost with it; None where it counts none."""
    acquired = headers.pop("x-acquired-count", None)  # from 4.3 on, besides: what was only handed back included
    count = headers.pop("x-delivery-count", None)
    return count if type(count) is int else None if acquired is None else 0


class DeliveringConsumer(Protocol):
    """What a delivery needs of the consumer that it came to."""

    queue: str

    def note_settled(self) -> bool:
        """One of its deliveries is about to be settled. False where that is possible no more."""
        ...

    def ack(self, tag: int) -> None: ...
    def nack(self, tag: int) -> None: ...


class RabbitDelivery:
    """One handing-over of one message. See `brokers.base.Delivery`."""

    __slots__ = ("_consumer", "_content", "_count", "_headers", "_properties", "_settled")

    def __init__(self, consumer: DeliveringConsumer, content: Content) -> None:
        self._consumer = consumer
        self._content = content
        self._properties = content.properties
        self._headers: dict[str, Any] | None = None
        self._count: int | None = None
        self._settled = False

    def __repr__(self) -> str:
        return f"RabbitDelivery(uuid={self.uuid!r}, queue={self.queue!r})"

    @property
    def queue(self) -> str:
        return self._consumer.queue

    @property
    def exchange(self) -> str:
        exchange = self._content.exchange
        return target_of(raw_headers(self._properties)) if is_service(exchange) else exchange

    @property
    def routing_key(self) -> str:
        return self._content.routing_key

    @property
    def body(self) -> bytes:
        return self._content.body

    @property
    def uuid(self) -> str:
        return self._properties.message_id or ""

    @property
    def headers(self) -> dict[str, Any]:
        if self._headers is None:
            self._headers = headers = read_headers(self._properties, self._consumer.queue)
            self._count = counted_deliveries(headers)
        return self._headers

    @property
    def priority(self) -> int | None:
        return self._properties.priority

    @property
    def redelivered(self) -> bool:
        return self._content.redelivered

    @property
    def delivery_count(self) -> int | None:
        headers = self.headers
        if self._count is not None:
            return self._count
        if self._content.redelivered:
            return None  # a classic queue: it says that there was a holder, not how many
        count = headers.get(names.REDELIVERIES)
        return count if type(count) is int else 0

    def ack(self) -> None:
        self._take().ack(self._content.delivery_tag)

    def reject(self) -> None:
        self._take().nack(self._content.delivery_tag)

    def _take(self) -> DeliveringConsumer:
        consumer = self._consumer
        if self._settled:
            raise DeliveryLost(f"message {self.uuid!r} was settled already; settle a delivery once")
        if not consumer.note_settled():
            raise DeliveryLost(
                f"the session that brought message {self.uuid!r} has ended; the broker delivers it again by itself"
            )
        self._settled = True
        return consumer
