"""Frames as bytes (AMQP 0-9-1, section 4.2): how they are laid out, and how those of the hot path are built by hand.

Pure functions and an outbox; what a frame means is the business of `core` and `channel_state`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = [
    "BASIC",
    "BODY",
    "CONTENT_HEADER",
    "FRAME_END",
    "FRAME_HEAD",
    "FRAME_OVERHEAD",
    "HEADER",
    "HEARTBEAT",
    "HEARTBEAT_FRAME",
    "MAX_FRAME",
    "METHOD",
    "PROTOCOL_HEADER",
    "ack_frame",
    "content_frames",
    "method_frame",
    "nack_frame",
]

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
FRAME_OVERHEAD = 8
"""The bytes of a frame around its payload: type, channel, size, and the end octet."""

MAX_FRAME = 131_072
"""The largest frame we take or send, whatever the broker offers: RabbitMQ's own default."""

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

FRAME_HEAD = struct.Struct(">BHI")  # type, channel, size of the payload
CONTENT_HEADER = struct.Struct(">BHIHHQ")  # a header frame as far as the size of the body
_BODY_HEAD = struct.Struct(">BBHI")  # the end of the frame before, then the head of a body frame
_SETTLE = struct.Struct(">BHIHHQBB")  # a whole basic.ack or basic.nack frame

_END = b"\xce"
BASIC, _ACK, _NACK = 60, 80, 120
_MULTIPLE, _REQUEUE = 1, 2


def method_frame(channel: int, payload: bytes) -> bytes:
    """One method frame. `payload` is what `encode_method` made."""
    return b"%b%b\xce" % (FRAME_HEAD.pack(METHOD, channel, len(payload)), payload)


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """`basic.ack` of one delivery, or of all up to `tag`."""
    return _SETTLE.pack(METHOD, channel, 13, BASIC, _ACK, tag, _MULTIPLE if multiple else 0, FRAME_END)


def nack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """`basic.nack` that hands back one delivery, or all up to `tag`; it never asks the broker to drop anything."""
    bits = _REQUEUE | _MULTIPLE if multiple else _REQUEUE
    return _SETTLE.pack(METHOD, channel, 13, BASIC, _NACK, tag, bits, FRAME_END)


def content_frames(channel: int, properties: bytes, body: bytes, max_payload: int) -> Sequence[bytes]:
    """The header frame and the body frames of one message, as pieces to be joined."""
    size = len(body)
    head = CONTENT_HEADER.pack(HEADER, channel, 12 + len(properties), BASIC, 0, size)
    if size <= max_payload:
        if not size:
            return head, properties, _END
        return head, properties, _BODY_HEAD.pack(FRAME_END, BODY, channel, size), body, _END
    pieces = [head, properties]
    for start in range(0, size, max_payload):
        part = body[start : start + max_payload]
        pieces += (_BODY_HEAD.pack(FRAME_END, BODY, channel, len(part)), part)
    pieces.append(_END)
    return pieces
