"""What the worker and a child process say to each other: length-prefixed msgpack over a socket pair.

Data only, both ways, so that neither side ever unpickles what the other or a user's task made. Reads no socket itself.
"""

from __future__ import annotations

import struct
import time
from typing import Any, TypeAlias

import msgspec

from ...errors import DecodeError
from ...model.outcome import BadArguments, Discarded, Raised, Rejected, Result, Returned, Snoozed
from ...observe.context import CurrentTask
from .call import Call

__all__ = [
    "BEGAN",
    "BEGAN_FRAME",
    "CANCEL_FRAME",
    "LENGTH",
    "READY",
    "FrameBuffer",
    "Request",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]

LENGTH = struct.Struct(">I")

READY = LENGTH.pack(0)
"""The empty frame: the child's first, sent when it has imported what it needs."""

BEGAN = b"\xc1"
"""What the child says when it calls a function for the first time: the one byte that msgpack never uses, so it is never a
reply. From then on the worker takes it that the function begins when it is handed over."""

BEGAN_FRAME = LENGTH.pack(len(BEGAN)) + BEGAN

CANCEL_FRAME = LENGTH.pack(0)
"""What the worker says to a child that runs something: it was cancelled. The child looks whether anything has come."""

MAX_REPLY_BYTES = 1 << 20  # a Failure is cut to some ten thousand characters: more is not a reply

_Kind: TypeAlias = type[Returned] | type[Raised] | type[Snoozed] | type[Rejected] | type[Discarded] | type[BadArguments]
_KINDS: dict[str, _Kind] = {cls.__name__: cls for cls in (Returned, Raised, Snoozed, Rejected, Discarded, BadArguments)}


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One task for a child to run. `timeout_seconds`: its deadline, from the moment it begins; None leaves it alone."""

    target: str
    uuid_first: bool
    body: bytes
    current: CurrentTask
    timeout_seconds: float | None


class _Reply(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    result: msgspec.Raw
    returned_error: str | None


_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(_Reply)
_result_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(cls) for kind, cls in _KINDS.items()
}


def _frame(data: bytes) -> bytes:
    return LENGTH.pack(len(data)) + data


def encode_request(call: Call) -> bytes:
    """Raises what msgpack raises for headers that it cannot carry (`TypeError`, `OverflowError`)."""
    current = msgspec.structs.replace(call.current, headers=dict(call.current.headers))
    timeout_seconds = None
    if call.on_began is not None and current.deadline_at is not None:
        timeout_seconds = current.deadline_at - time.time()
    return _frame(_encoder.encode(Request(call.target, call.uuid_first, call.body, current, timeout_seconds)))


def decode_request(data: bytes) -> Request:
    return _request_decoder.decode(data)


def encode_reply(result: Result, returned_error: str | None) -> bytes:
    return _frame(_encoder.encode(_Reply(type(result).__name__, msgspec.Raw(_encoder.encode(result)), returned_error)))


def decode_reply(data: bytes) -> tuple[Result, str | None]:
    """Raises `DecodeError` for anything that `encode_reply` did not make."""
    try:
        reply = _reply_decoder.decode(data)
        result: Result = _result_decoders[reply.kind].decode(reply.result)
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as error:
        raise DecodeError(f"expected a reply of a process, got {data[:40]!r}: {error}") from None
    return result, reply.returned_error


class FrameBuffer:
    """Puts frames together from the pieces that a socket gives."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completed. Raises `DecodeError` for one that is too long."""
        self._data += data
        frames = []
        while len(self._data) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._data)
            if size > MAX_REPLY_BYTES:
                raise DecodeError(f"expected a reply of at most {MAX_REPLY_BYTES} bytes, got {size}")
            end = LENGTH.size + size
            if len(self._data) < end:
                break
            frames.append(bytes(self._data[LENGTH.size : end]))
            del self._data[:end]
        return frames
