"""One channel without I/O: what was asked, what was published, what was delivered, and how it ends.

The core feeds it frames and the edge gives it commands; bytes go to the outbox, what happened to the list of events.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any

from ..errors import ArgumentError
from .acks import AckWindow
from .answers import ANSWERS
from .confirms import Confirms
from .errors import AmqpError, ChannelGone, ProtocolError, reply_error
from .events import Answered, ChannelClosed, Confirmed, ConsumerCancelled, Content, Event, FlowChanged, Returned
from .frames import FRAME_OVERHEAD, content_frames, method_frame
from .methods import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicGetOk,
    BasicNack,
    BasicPublish,
    BasicQos,
    BasicReturn,
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelFlowOk,
    ChannelOpen,
    ConfirmSelect,
    Method,
    decode_method,
    encode_method,
)
from .properties import Properties

__all__ = ["ChannelState", "ChannelStatus"]

MAX_CACHED_ROUTES = 1_000

WINDOWS = 16
"""How many times its prefetch a consumer may have unsettled here, before we say that the broker broke its word.

Quorum queues may deliver a window anew while we hold the one before, when a node of the cluster was away for a moment.
"""


_CANCEL_OK = b"\x00\x3c\x00\x1f"


class ChannelStatus(enum.Enum):
    """What a channel may do: only an open one takes commands."""

    OPEN = 1
    CLOSING = 2
    CLOSED = 3


_OPEN = ChannelStatus.OPEN  # each look-up of an enum's member costs as much as a short call on Python 3.11


class _Incoming:
    """A message whose frames are still coming. `content` is None for one that comes back: nobody asks for it."""

    __slots__ = ("body", "content", "method", "missing", "properties")

    def __init__(self, method: BasicReturn | BasicGetOk | None, content: Content | None) -> None:
        self.method = method
        self.content = content
        self.properties: bytes | None = None
        self.missing = 0
        self.body: bytes | bytearray = b""


class ChannelState:
    """A channel of one connection. `outbox` takes the bytes that are to be sent."""

    def __init__(self, number: int, outbox: list[bytes], *, frame_max: int, max_body_bytes: int) -> None:
        self.number = number
        self.status = ChannelStatus.OPEN
        self.acks = AckWindow(number)
        self.confirms: Confirms | None = None
        self.incoming: _Incoming | None = None
        self._outbox = outbox
        self._max_payload = frame_max - FRAME_OVERHEAD
        self.max_body_bytes = max_body_bytes
        self._prefetch = 0  # the largest that was asked for; zero: no bound
        self._consumers = 0
        self._got = 0
        self._calls: deque[tuple[Any, Method]] = deque()
        self._routes: dict[tuple[str, str], bytes] = {}
        self._return_header = ""

    @property
    def is_unanswered(self) -> bool:
        """Whether the broker owes an answer to a call or a publish."""
        return bool(self._calls) or bool(self.confirms)

    # --- commands --------------------------------------------------------------------------------------------------

    def call(self, method: Method, waiter: Any) -> None:
        """Ask the broker something; `Answered` brings the answer. Calls are answered in their order.

        `ArgumentError` for what does not fit into a frame.
        """
        self._check_open()
        payload = encode_method(method)
        if len(payload) > self._max_payload:
            raise ArgumentError(
                f"{type(method).__name__}: expected arguments of at most {self._max_payload} bytes, got {len(payload)}"
            )
        self._calls.append((waiter, method))
        self._outbox.append(method_frame(self.number, payload))
        if isinstance(method, BasicQos):
            self._prefetch = max(self._prefetch, method.prefetch_count)
        elif isinstance(method, BasicConsume):
            self._consumers += 1

    def open(self, waiter: Any) -> None:
        """Ask for the channel itself; commands may follow at once."""
        self.call(ChannelOpen(), waiter)

    def select_confirms(self, waiter: Any, *, return_header: str) -> None:
        """Have every publish answered. `return_header`: the name of the header in which each carries its number."""
        self.call(ConfirmSelect(), waiter)
        self.confirms = Confirms()
        self._return_header = return_header

    def publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes, waiter: Any) -> int:
        """Publish, mandatory; `Confirmed` or `Returned` tells `waiter`. Returns the publish's number.

        `ArgumentError` if the properties are larger than a frame: the broker would end the connection.
        """
        self._check_open()
        assert self.confirms is not None, "publishes go through channels in confirm mode"
        route = self._routes.get((exchange, routing_key))
        if route is None:
            route = self._route(exchange, routing_key)
        if len(properties) > self._max_payload - 12:  # class, weight and body size stand before them
            raise ArgumentError(
                f"expected properties and headers of at most {self._max_payload - 12} bytes, got {len(properties)}"
            )
        self._outbox.append(route)
        self._outbox += content_frames(self.number, properties, body, self._max_payload)
        return self.confirms.add(waiter)

    def _route(self, exchange: str, routing_key: str) -> bytes:
        """The method frame of a publish: it is the same for all that go the same way."""
        method = BasicPublish(exchange=exchange, routing_key=routing_key, mandatory=True)
        frame = method_frame(self.number, encode_method(method))
        if len(self._routes) >= MAX_CACHED_ROUTES:
            self._routes.clear()
        self._routes[exchange, routing_key] = frame
        return frame

    def flush_settlements(self) -> None:
        """Tell the broker what was acked and handed back since the last call."""
        if self.status is _OPEN:
            self._outbox += self.acks.take()

    def hand_back_all(self) -> None:
        """Hand back every delivery that is not settled."""
        if self.status is ChannelStatus.OPEN:
            self._outbox += self.acks.take_all_back()

    def close(self, waiter: Any) -> None:
        """Close the channel; `ChannelClosed` follows."""
        self._check_open()
        self.flush_settlements()
        self.call(ChannelClose(reply_code=200, reply_text="done"), waiter)
        self.status = ChannelStatus.CLOSING
        self.incoming = None

    def abandon(self) -> tuple[list[Any], list[Any]]:
        """The connection is gone: who waits for calls, and who for confirms."""
        self.status = ChannelStatus.CLOSED
        calls = [waiter for waiter, _ in self._calls]
        self._calls.clear()
        return calls, [] if self.confirms is None else self.confirms.take_all()

    def _check_open(self) -> None:
        if self.status is not _OPEN:
            raise ChannelGone(f"channel {self.number} is closed; open another")

    # --- frames from the broker ------------------------------------------------------------------------------------

    def method_arrived(self, payload: bytes, events: list[Event]) -> None:
        """A method frame, `basic.deliver` aside."""
        method = decode_method(payload)
        if self.status is ChannelStatus.CLOSING:
            self._while_closing(method, events)
            return
        if self.incoming is not None:
            raise ProtocolError(505, f"expected the rest of a message, got {type(method).__name__}")
        match method:
            case BasicAck(delivery_tag=tag, multiple=multiple):
                self.confirmed(tag, multiple=multiple, accepted=True, events=events)
            case BasicNack(delivery_tag=tag, multiple=multiple):
                self.confirmed(tag, multiple=multiple, accepted=False, events=events)
            case BasicReturn():
                self.incoming = _Incoming(method, None)
            case BasicGetOk(delivery_tag=tag, redelivered=redelivered):
                self._expect_answer(method)
                route = payload[13:-4]  # between the tag with its bit and the count of messages
                self.incoming = _Incoming(method, Content(self.number, b"", tag, redelivered, route, b"", b""))
            case BasicCancel(no_wait=no_wait):
                tag_bytes = payload[5:-1]  # as it came: a tag that is not UTF-8 goes back unchanged
                self._consumers -= 1
                events.append(ConsumerCancelled(self.number, tag_bytes))
                if not no_wait:
                    self._outbox.append(method_frame(self.number, _CANCEL_OK + payload[4:-1]))
            case ChannelFlow(active=active):
                self._send(ChannelFlowOk(active=active))
                events.append(FlowChanged(self.number, active))
            case ChannelClose():
                self._send(ChannelCloseOk())
                error = reply_error(method.reply_code, method.reply_text, method.class_id, method.method_id)
                self._closed(error, events)
            case _:
                self._expect_answer(method)
                if isinstance(method, BasicCancelOk):
                    self._consumers -= 1
                events.append(Answered(self._calls.popleft()[0], method))

    def _while_closing(self, method: Method, events: list[Event]) -> None:
        """Between our close and its answer all else is to be dropped (section 1.5.2.5)."""
        if isinstance(method, ChannelClose):
            self._send(ChannelCloseOk())
        elif isinstance(method, ChannelCloseOk):
            self._closed(None, events)

    def _closed(self, error: AmqpError | None, events: list[Event]) -> None:
        calls, publishes = self.abandon()
        self.incoming = None
        events.append(ChannelClosed(self.number, error, calls, publishes))

    def _expect_answer(self, method: Method) -> None:
        if not self._calls or not isinstance(method, ANSWERS.get(type(self._calls[0][1]), ())):
            asked = type(self._calls[0][1]).__name__ if self._calls else "nothing"
            raise ProtocolError(505, f"expected the answer to {asked}, got {type(method).__name__}")

    def _send(self, method: Method) -> None:
        self._outbox.append(method_frame(self.number, encode_method(method)))

    def confirmed(self, number: int, *, multiple: bool, accepted: bool, events: list[Event]) -> None:
        """The broker answered one publish, or all up to one."""
        if self.confirms is None:
            raise ProtocolError(505, "expected no confirm on a channel that is not in confirm mode")
        answered: list[Any] = []
        self.confirms.answer(number, multiple=multiple, answered=answered)
        if answered:
            events.append(Confirmed(self.number, answered, accepted))

    # --- messages --------------------------------------------------------------------------------------------------

    def delivery_started(self, content: Content) -> None:
        """A delivery whose header and body are still to come."""
        if self.incoming is not None:
            raise ProtocolError(505, "expected the rest of a message, got basic.deliver")
        self.incoming = _Incoming(None, content)

    def header_arrived(self, size: int, properties: bytes, events: list[Event]) -> None:
        """A content header: `size` is that of the body."""
        if self.status is ChannelStatus.CLOSING:
            return
        incoming = self.incoming
        if incoming is None or incoming.properties is not None:
            raise ProtocolError(505, "expected a method, got a content header")
        self.check_size(size)
        incoming.properties = properties
        incoming.missing = size
        if not size:
            self._complete(incoming, events)

    def body_arrived(self, part: bytes, events: list[Event]) -> None:
        """A body frame."""
        if self.status is ChannelStatus.CLOSING:
            return
        incoming = self.incoming
        if incoming is None or incoming.properties is None:
            raise ProtocolError(505, "expected a method, got a body")
        incoming.missing -= len(part)
        if incoming.missing < 0:
            raise ProtocolError(501, "expected no more of the body than its header said")
        if isinstance(incoming.body, bytearray):  # no list of parts: a peer may send them byte by byte
            incoming.body += part
        else:
            incoming.body = bytearray(part) if incoming.missing else part
        if not incoming.missing:
            self._complete(incoming, events)

    def check_size(self, size: int) -> None:
        """Refuse a body that is larger than any RabbitMQ carries, before anything is kept of it."""
        if size > self.max_body_bytes:
            raise ProtocolError(501, f"expected a body of at most {self.max_body_bytes} bytes, got {size}")

    def _complete(self, incoming: _Incoming, events: list[Event]) -> None:
        self.incoming = None
        properties, content = incoming.properties or b"", incoming.content
        if content is not None:
            content.raw_properties, content.body = properties, bytes(incoming.body)
            self.acks.count(content.delivery_tag)
        match incoming.method:
            case BasicReturn() as returned:
                self._returned(returned, properties, events)
            case BasicGetOk() as got:
                self._got += 1
                events.append(Answered(self._calls.popleft()[0], got, content))
            case None if content is not None:
                self.check_window()
                events.append(content)

    def check_window(self) -> None:
        """Refuse deliveries far beyond the prefetch: where nothing bounds them, nothing bounds our memory."""
        bound = self._prefetch * max(self._consumers, 1) * WINDOWS
        if bound and self.acks.unsettled - self._got > bound:
            raise ProtocolError(
                505, f"expected at most {self._prefetch} unsettled deliveries of a consumer, got more than {bound}"
            )

    def _returned(self, method: BasicReturn, properties: bytes, events: list[Event]) -> None:
        waiter = None
        if self.confirms is not None:
            number = Properties(properties).headers.get(self._return_header)
            if type(number) is int:
                waiter = self.confirms.waiter(number)
        events.append(
            Returned(self.number, waiter, method.reply_code, method.reply_text, method.exchange, method.routing_key)
        )
