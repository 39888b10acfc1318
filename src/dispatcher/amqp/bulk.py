"""The path of deliveries and confirms: runs of equal frames, cut out of the bytes by hand.

Nearly all that a busy connection reads is one of two things: deliveries of one consumer that came the same way, each in
three whole frames, and acks of single publishes. Their first frame is read as any other; those that follow differ from
it in a few bytes. What is not so simple is left to `core`, which reads every frame; nothing is judged differently here.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

from .channel_state import ChannelState
from .errors import ProtocolError
from .events import Confirmed, Content, Event
from .frames import BASIC, BODY, FRAME_END, FRAME_HEAD, HEADER

__all__ = ["take_confirms", "take_deliveries"]

_TAG_AND_BIT = struct.Struct(">QB")
_NEXT_HEAD = struct.Struct(">BBHI")  # the end of the frame before, then the head of a frame
_TAG_BIT_END = struct.Struct(">QBB")
_HEAD_SIZE = FRAME_HEAD.size
_BEFORE_TAG = _HEAD_SIZE + 5  # class, method and the length of the consumer tag stand before that tag
_ROUTE_AFTER_TAG = _TAG_AND_BIT.size
_HEADER_START = 12  # class, weight and body size: what stands before the properties
_CONFIRM_HEAD = _HEAD_SIZE + 4
_CONFIRM_SIZE = _CONFIRM_HEAD + _TAG_BIT_END.size


@functools.lru_cache(maxsize=64)  # as many lengths of routes are in use at once, hardly more
def _layout(tail: int) -> struct.Struct:
    """From the delivery tag to the size of the body, with `tail` bytes of the first frame after the bit."""
    return struct.Struct(f">QB{tail}xBHIHHQ")


def take_deliveries(
    channel: ChannelState, data: bytes, offset: int, stop: int, largest: int, events: list[Event]
) -> int:
    """The `basic.deliver` whose frame begins at `offset` and has its end octet at `stop`, and those that follow it.

    Returns where the first frame begins that is left: if the message of the first delivery is not all there, or is in
    several body frames, that is its content header. `largest`: the most bytes of payload in a frame.
    """
    if channel.incoming is not None:
        raise ProtocolError(505, "expected the rest of a message, got basic.deliver")
    tag_at = offset + _BEFORE_TAG + data[offset + _BEFORE_TAG - 1]
    route = _checked_route(data[tag_at + _ROUTE_AFTER_TAG : stop])
    left = _take_run(channel, data, offset, tag_at, stop, largest, events)
    channel.check_window()
    if left != offset:
        return left
    consumer_tag = data[offset + _BEFORE_TAG : tag_at]
    tag, redelivered = _TAG_AND_BIT.unpack_from(data, tag_at)
    channel.delivery_started(Content(channel.number, consumer_tag, tag, redelivered & 1 == 1, route, b"", b""))
    return stop + 1


def _take_run(
    channel: ChannelState, data: bytes, offset: int, tag_at: int, stop: int, largest: int, events: list[Event]
) -> int:
    """The deliveries from `offset` on that differ from the first in tag and bit alone, as long as they are whole.

    A bad frame is left, too: `core` knows what is wrong with it.
    """
    consumer_tag, route = data[offset + _BEFORE_TAG : tag_at], data[tag_at + _ROUTE_AFTER_TAG : stop]
    head, tail = data[offset:tag_at], data[tag_at + _ROUTE_AFTER_TAG : stop + 1]
    number, count, starts = channel.number, channel.acks.count, data.startswith
    layout = _layout(len(tail))
    unpack, to_tag, to_tail = layout.unpack_from, len(head), len(head) + _ROUTE_AFTER_TAG
    to_properties, end, largest_body = to_tag + layout.size, len(data), min(largest, channel.max_body_bytes)
    while offset + to_properties <= end:
        tag, redelivered, kind, of, size, class_id, _, body_size = unpack(data, offset + to_tag)
        properties_at = offset + to_properties
        header_stop = properties_at + size - _HEADER_START
        body_at = header_stop + 1 + _HEAD_SIZE
        body_stop = body_at + body_size
        if (
            body_stop >= end
            or kind != HEADER
            or of != number
            or class_id != BASIC
            or not 0 < body_size <= largest_body
            or not _HEADER_START + 2 <= size <= largest
            or data[body_stop] != FRAME_END
        ):
            break
        last, kind, of, size = _NEXT_HEAD.unpack_from(data, header_stop)
        if last != FRAME_END or kind != BODY or of != number or size != body_size:
            break
        count(tag)
        events.append(
            Content(
                number,
                consumer_tag,
                tag,
                redelivered & 1 == 1,
                route,
                data[properties_at:header_stop],
                data[body_at:body_stop],
            )
        )
        offset = body_stop + 1
        if not starts(head, offset) or not starts(tail, offset + to_tail):
            break
    return offset


def _checked_route(route: bytes) -> bytes:
    """Two short strings that fill it exactly."""
    middle = 1 + route[0] if route else 0
    if not middle or middle >= len(route) or middle + 1 + route[middle] != len(route):
        raise ProtocolError(502, "expected a whole basic.deliver, got another one")
    return route


def take_confirms(channel: ChannelState, data: bytes, offset: int, events: list[Event]) -> int:
    """The `basic.ack` whose whole frame begins at `offset`, and those that follow it; returns where the next frame begins."""
    if channel.confirms is None or channel.incoming is not None:
        raise ProtocolError(505, "expected no confirm here: the channel is not in confirm mode, or in a message")
    confirms, head = channel.confirms, data[offset : offset + _CONFIRM_HEAD]
    end = len(data) - _CONFIRM_SIZE
    answered: list[Any] = []
    try:
        while True:
            number, multiple, last = _TAG_BIT_END.unpack_from(data, offset + _CONFIRM_HEAD)
            if last != FRAME_END:
                break
            confirms.answer(number, multiple=multiple & 1 == 1, answered=answered)
            offset += _CONFIRM_SIZE
            if offset > end or not data.startswith(head, offset):
                break
    finally:
        if answered:
            events.append(Confirmed(channel.number, answered, True))
    return offset
