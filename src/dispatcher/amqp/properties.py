"""The properties of a message (AMQP 0-9-1, section 4.2.6.1): flags, then the values that the flags announce.

Written in one go, read when first asked for, the header table apart from the rest. Nothing here judges a value: what
`expiration` or `priority` mean is the broker's business. Bytes from a peer raise nothing but `ProtocolError`.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

from ..errors import ArgumentError
from .errors import ProtocolError
from .layout import decode_text, encode_short_string
from .tables import decode_table

__all__ = ["Properties", "PropertiesForm", "encode_properties"]

SYNTAX_ERROR = 502

_KINDS = (
    "shortstr",  # content_type
    "shortstr",  # content_encoding
    "table",  # headers
    "octet",  # delivery_mode
    "octet",  # priority
    "shortstr",  # correlation_id
    "shortstr",  # reply_to
    "shortstr",  # expiration
    "shortstr",  # message_id
    "timestamp",  # timestamp
    "shortstr",  # type
    "shortstr",  # user_id
    "shortstr",  # app_id
    "shortstr",  # cluster_id
)
"""What the flags announce, from the highest bit down to 1 << 2."""

_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _PRIORITY, _MESSAGE_ID = 1 << 15, 1 << 13, 1 << 12, 1 << 11, 1 << 7
_USUAL = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _PRIORITY | _MESSAGE_ID
"""What nearly every message has, and no more."""

UNKNOWN = 0b10
CONTINUED = 0b01
"""More flags follow: for classes with more properties than AMQP 0-9-1 has."""

CONTENT_TYPE, CONTENT_ENCODING, HEADERS = 0x80, 0x40, 0x20
"""Of the first byte of the flags."""

_FLAGS = struct.Struct(">H")
_LENGTH = struct.Struct(">I")
_TIMESTAMP = struct.Struct(">Q")


def encode_properties(
    *,
    content_type: str | None = None,
    headers: bytes | None = None,
    delivery_mode: int | None = None,
    priority: int | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    expiration: str | None = None,
    message_id: str | None = None,
    timestamp: int | None = None,
    type: str | None = None,
    user_id: str | None = None,
    app_id: str | None = None,
) -> bytes:
    """Flags and values as they stand in a content header after the size of the body; None leaves a property out.

    `headers`: what `encode_table` made. `delivery_mode`: 2 is persistent. `priority`: 0 to 255. `expiration`:
    milliseconds, as decimal digits. `timestamp`: Unix seconds. `ArgumentError`, naming the property, for text of more
    than 255 bytes of UTF-8 or a number out of range.
    """
    flags = 0
    pieces = []
    if content_type is not None:
        flags |= 1 << 15
        pieces.append(encode_short_string(content_type, "content_type"))
    if headers is not None:
        flags |= 1 << 13
        pieces.append(headers)
    if delivery_mode is not None:
        flags |= 1 << 12
        pieces.append(_encode_octet(delivery_mode, "delivery_mode"))
    if priority is not None:
        flags |= 1 << 11
        pieces.append(_encode_octet(priority, "priority"))
    if correlation_id is not None:
        flags |= 1 << 10
        pieces.append(encode_short_string(correlation_id, "correlation_id"))
    if reply_to is not None:
        flags |= 1 << 9
        pieces.append(encode_short_string(reply_to, "reply_to"))
    if expiration is not None:
        flags |= 1 << 8
        pieces.append(encode_short_string(expiration, "expiration"))
    if message_id is not None:
        flags |= 1 << 7
        pieces.append(encode_short_string(message_id, "message_id"))
    if timestamp is not None:
        flags |= 1 << 6
        pieces.append(_encode_timestamp(timestamp))
    for flag, name, text in ((1 << 5, "type", type), (1 << 4, "user_id", user_id), (1 << 3, "app_id", app_id)):
        if text is not None:
            flags |= flag
            pieces.append(encode_short_string(text, name))
    return _FLAGS.pack(flags) + b"".join(pieces)


class PropertiesForm:
    """Properties of which many messages have the same; only headers and `message_id` are each one's own.

    It encodes what `encode_properties` does, in a fraction of the time.
    """

    __slots__ = ("_after", "_before")

    def __init__(self, *, content_type: str, delivery_mode: int, priority: int | None) -> None:
        headers, message_id = b"headers", "message_id"
        whole = encode_properties(
            content_type=content_type,
            headers=headers,
            delivery_mode=delivery_mode,
            priority=priority,
            message_id=message_id,
        )
        self._before, _, rest = whole.rpartition(headers)
        self._after = rest[: -len(encode_short_string(message_id, "message_id"))]

    def encode(self, headers: bytes, message_id: str) -> bytes:
        """`headers`: what `encode_table` made. `ArgumentError` for a `message_id` of more than 255 bytes of UTF-8."""
        return b"%b%b%b%b" % (self._before, headers, self._after, encode_short_string(message_id, "message_id"))


def _encode_octet(value: int, name: str) -> bytes:
    if not 0 <= value <= 255:
        raise ArgumentError(f"{name}: expected 0 to 255, got {value}")
    return b"%c" % value


def _encode_timestamp(value: int) -> bytes:
    if not 0 <= value < 2**64:
        raise ArgumentError(f"timestamp: expected Unix seconds, 0 or more, got {value}")
    return _TIMESTAMP.pack(value)


class Properties:
    """The properties of a message that came, from `raw`: the content header's bytes after the size of the body.

    Each is None where the message has none; `headers` is empty then. Text that is not UTF-8 is shown with question
    marks. The first one that is asked for may raise `ProtocolError` (502) if `raw` is malformed, and so may `headers`
    alone if the table is.
    """

    __slots__ = ("_headers", "_raw", "_values")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._values: list[Any] | None = None
        self._headers: dict[str, Any] | None = None

    def _all(self) -> list[Any]:
        if self._values is None:
            self._values = _parse(self._raw)
        return self._values

    @property
    def headers(self) -> dict[str, Any]:
        """The header table; the same dictionary each time. Where nothing else is asked for, nothing else is read."""
        if self._headers is None:
            raw = self._raw
            try:
                flags, offset = raw[0], 2
                if flags & CONTENT_TYPE:
                    offset += 1 + raw[offset]
                if flags & CONTENT_ENCODING:
                    offset += 1 + raw[offset]
            except IndexError:
                raise ProtocolError(SYNTAX_ERROR, f"expected whole properties, got {len(raw)} bytes of them") from None
            if not flags & HEADERS:
                self._all()  # an empty answer is given for what is whole only
                self._headers = {}
            else:
                self._headers = decode_table(raw, offset)[0]
        return self._headers

    @property
    def content_type(self) -> str | None:
        value: str | None = (self._values or self._all())[0]
        return value

    @property
    def content_encoding(self) -> str | None:
        value: str | None = (self._values or self._all())[1]
        return value

    @property
    def delivery_mode(self) -> int | None:
        value: int | None = (self._values or self._all())[3]
        return value

    @property
    def priority(self) -> int | None:
        value: int | None = (self._values or self._all())[4]
        return value

    @property
    def correlation_id(self) -> str | None:
        value: str | None = (self._values or self._all())[5]
        return value

    @property
    def reply_to(self) -> str | None:
        value: str | None = (self._values or self._all())[6]
        return value

    @property
    def expiration(self) -> str | None:
        value: str | None = (self._values or self._all())[7]
        return value

    @property
    def message_id(self) -> str | None:
        value: str | None = (self._values or self._all())[8]
        return value

    @property
    def timestamp(self) -> int | None:
        """Unix seconds, by the specification; some senders write milliseconds."""
        value: int | None = (self._values or self._all())[9]
        return value

    @property
    def type(self) -> str | None:
        value: str | None = (self._values or self._all())[10]
        return value

    @property
    def user_id(self) -> str | None:
        value: str | None = (self._values or self._all())[11]
        return value

    @property
    def app_id(self) -> str | None:
        value: str | None = (self._values or self._all())[12]
        return value

    @property
    def cluster_id(self) -> str | None:
        value: str | None = (self._values or self._all())[13]
        return value


@functools.lru_cache(maxsize=64)  # messages of one system have few sets of properties
def _announced(flags: int) -> tuple[tuple[int, str], ...]:
    """The places and kinds of the properties that `flags` announces, in their order."""
    return tuple((place, kind) for place, kind in enumerate(_KINDS) if flags & 1 << 15 - place)


def _parse(raw: bytes) -> list[Any]:
    """The values at their places, None for one that is absent; of the header table, where it begins."""
    values: list[Any] = [None] * len(_KINDS)
    try:
        flags = raw[0] << 8 | raw[1]
        if flags & (UNKNOWN | CONTINUED):
            raise ProtocolError(SYNTAX_ERROR, f"expected flags of the 14 properties of a message, got {flags:#06x}")
        offset = (_read_any if flags & ~_USUAL else _read_usual)(raw, flags, values)
    except (IndexError, struct.error):
        raise ProtocolError(SYNTAX_ERROR, f"expected whole properties, got {len(raw)} bytes of them") from None
    if offset != len(raw):
        raise ProtocolError(SYNTAX_ERROR, f"expected properties of {offset} bytes, got {len(raw)}")
    return values


def _read_usual(raw: bytes, flags: int, values: list[Any]) -> int:
    """Read the properties that `flags` announces, all of them usual; where they end. The same as `_read_any`, in less time."""
    offset = 2
    try:
        if flags & _CONTENT_TYPE:
            offset = 3 + raw[2]
            values[0] = raw[3:offset].decode()
        if flags & _HEADERS:
            values[2] = offset
            offset += 4 + _LENGTH.unpack_from(raw, offset)[0]
        if flags & _DELIVERY_MODE:
            values[3] = raw[offset]
            offset += 1
        if flags & _PRIORITY:
            values[4] = raw[offset]
            offset += 1
        if flags & _MESSAGE_ID:
            start = offset + 1
            offset = start + raw[offset]
            values[8] = raw[start:offset].decode()
    except UnicodeDecodeError:
        return _read_any(raw, flags, values)
    return offset


def _read_any(raw: bytes, flags: int, values: list[Any]) -> int:
    """Read the properties that `flags` announces; where they end."""
    offset = 2
    for place, kind in _announced(flags):
        if kind == "shortstr":
            start = offset + 1
            offset = start + raw[offset]
            try:
                values[place] = raw[start:offset].decode()
            except UnicodeDecodeError:
                values[place] = decode_text(raw[start:offset])
        elif kind == "octet":
            values[place] = raw[offset]
            offset += 1
        elif kind == "table":
            values[place] = offset
            offset += 4 + _LENGTH.unpack_from(raw, offset)[0]
        else:
            values[place] = _TIMESTAMP.unpack_from(raw, offset)[0]
            offset += 8
    return offset
