"""Field tables, AMQP's typed dictionaries: message headers, queue arguments, what a peer says of itself. Pure functions.

The type tags are RabbitMQ's, which are not those of the specification (rabbitmq.com/docs/amqp-0-9-1-errata, section 3).
Whatever `decode_table` gives of a message that went through RabbitMQ, `encode_table` takes: a copy of a stranger's
message keeps its headers. Bytes from a peer never allocate by a length that they only claim, never recurse deeper than
a bound, and raise nothing but `ProtocolError`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from ..errors import ArgumentError
from .errors import ProtocolError

__all__ = ["MAX_DEPTH", "decode_table", "encode_table"]

MAX_DEPTH = 64
"""How deep tables and lists may stand in one another; the outermost table is 1."""

MAX_NAME_BYTES = 255
"""A short string's. The specification says 128 for names, RabbitMQ passes on what fits."""

MAX_PLACES = 255
"""Of a decimal."""

SYNTAX_ERROR = 502

_UINT32 = struct.Struct(">I")
_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")
_DECIMAL = struct.Struct(">Bi")
_TAGGED_INT32 = struct.Struct(">ci")
_TAGGED_INT64 = struct.Struct(">cq")
_TAGGED_DOUBLE = struct.Struct(">cd")
_TAGGED_LENGTH = struct.Struct(">cI")
_TAGGED_DECIMAL = struct.Struct(">cBi")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_STRING, _INTEGER, _LONG, _TABLE, _LIST, _BYTES = b"SIlFAx"


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode_table(data: bytes, offset: int = 0) -> tuple[dict[str, Any], int]:
    """The table that begins at `offset` of `data`, and the offset after it. `ProtocolError` (502) if it is malformed.

    A string that is not UTF-8 comes as bytes, a timestamp as an aware datetime in UTC, or as a number of seconds where
    datetime has no such year. Of a name that stands there twice the last counts.
    """
    try:
        return _decode_table(data, offset, len(data), 1)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ProtocolError(
            SYNTAX_ERROR, f"expected a field table at byte {offset}, got a broken one: {error}"
        ) from error


def _decode_table(data: bytes, offset: int, limit: int, depth: int) -> tuple[dict[str, Any], int]:
    end = _end(data, offset, limit)
    offset += 4
    if depth > MAX_DEPTH:
        raise _too_deep()
    table: dict[str, Any] = {}
    while offset < end:
        tag_at = offset + 1 + data[offset]
        name = data[offset + 1 : tag_at].decode()
        # The three kinds that nearly every header has, without a call; the rest below. A read beyond `end` stays in
        # `data` or raises IndexError, and is noticed when the table does not end where it should.
        tag = data[tag_at]
        if tag == _STRING:
            offset = tag_at + 5 + _UINT32.unpack_from(data, tag_at + 1)[0]
            raw = data[tag_at + 5 : offset]
            try:
                table[name] = raw.decode()
            except UnicodeDecodeError:
                table[name] = raw
        elif tag == _INTEGER:
            table[name] = _INT32.unpack_from(data, tag_at + 1)[0]
            offset = tag_at + 5
        elif tag == _LONG:
            table[name] = _INT64.unpack_from(data, tag_at + 1)[0]
            offset = tag_at + 9
        else:
            table[name], offset = _decode_value(data, tag_at, end, depth)
    if offset != end:
        raise ProtocolError(SYNTAX_ERROR, f"expected a field table to end at byte {end}, its fields end at {offset}")
    return table, end


def _decode_value(data: bytes, offset: int, limit: int, depth: int) -> tuple[Any, int]:
    """The value whose tag stands at `offset`, and the offset after it."""
    tag = data[offset]
    offset += 1
    if tag == _LONG:
        return _INT64.unpack_from(data, offset)[0], offset + 8
    if tag == _TABLE:
        return _decode_table(data, offset, limit, depth + 1)
    if tag == _LIST:
        return _decode_list(data, offset, limit, depth + 1)
    if tag in (_STRING, _BYTES):
        end = _end(data, offset, limit)
        raw = data[offset + 4 : end]
        if tag == _STRING:
            try:
                return raw.decode(), end
            except UnicodeDecodeError:  # a stranger's header must not cost the connection
                return raw, end
        return raw, end
    fixed = _FIXED.get(tag)
    if fixed is None:
        raise ProtocolError(SYNTAX_ERROR, f"expected a field of a known type in a table, got the type {bytes([tag])!r}")
    layout, make = fixed
    value = layout.unpack_from(data, offset)
    return value[0] if make is None else make(*value), offset + layout.size


def _decode_list(data: bytes, offset: int, limit: int, depth: int) -> tuple[list[Any], int]:
    end = _end(data, offset, limit)
    offset += 4
    if depth > MAX_DEPTH:
        raise _too_deep()
    items: list[Any] = []
    while offset < end:
        item, offset = _decode_value(data, offset, end, depth)
        items.append(item)
    if offset != end:
        raise ProtocolError(SYNTAX_ERROR, f"expected a field array to end at byte {end}, its items end at {offset}")
    return items, end


def _end(data: bytes, offset: int, limit: int) -> int:
    """Where what has its length at `offset` ends; never beyond `limit`."""
    end: int = offset + 4 + _UINT32.unpack_from(data, offset)[0]
    if end > limit:
        raise ProtocolError(
            SYNTAX_ERROR, f"expected at most {limit - offset - 4} bytes in a field, its length says more"
        )
    return end


def _too_deep() -> ProtocolError:
    return ProtocolError(SYNTAX_ERROR, f"expected tables and lists in one another at most {MAX_DEPTH} deep, got deeper")


def _make_datetime(seconds: int) -> datetime | int:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:  # often milliseconds, by a sender's mistake: kept as it came
        return seconds


def _make_decimal(scale: int, digits: int) -> Decimal:
    return Decimal((int(digits < 0), tuple(map(int, str(abs(digits)))), -scale))


_FIXED: dict[int, tuple[struct.Struct, Callable[..., Any] | None]] = {
    ord("t"): (struct.Struct(">?"), None),
    ord("d"): (struct.Struct(">d"), None),
    ord("V"): (struct.Struct(""), lambda: None),
    ord("T"): (_INT64, _make_datetime),
    ord("I"): (_INT32, None),
    ord("L"): (_INT64, None),  # in no list, but RabbitMQ takes it for `l`, and up to 3.x hands it on as it came
    ord("b"): (struct.Struct(">b"), None),
    ord("B"): (struct.Struct(">B"), None),
    ord("s"): (struct.Struct(">h"), None),
    ord("u"): (struct.Struct(">H"), None),
    ord("i"): (_UINT32, None),
    ord("f"): (struct.Struct(">f"), None),
    ord("D"): (_DECIMAL, _make_decimal),
}


# --- encoding ---------------------------------------------------------------------------------------------------------


def encode_table(table: Mapping[str, Any]) -> bytes:
    """`table` with its length before it. `ArgumentError`, naming the field, for what would not come back as it went.

    Strings, booleans, integers of 64 signed bits, finite floats, bytes, None, lists, tuples (they come back as lists) and
    mappings; aware datetimes of whole seconds and decimals too, for copies of what strangers sent. Names have at most
    255 bytes.
    """
    fields = _encode_fields(table, 1)
    return _UINT32.pack(len(fields)) + fields


def _encode_fields(table: Mapping[str, Any], depth: int) -> bytes:
    _check_depth(depth)
    pieces: list[bytes] = []
    for name, value in table.items():
        # The two kinds that nearly every header has, without a call.
        kind = type(value)
        if kind is str:
            raw = value.encode() if value.isascii() else _encode_text(name, value)
            pieces += (_encode_name(name), _TAGGED_LENGTH.pack(b"S", len(raw)), raw)
        elif kind is int:
            pieces += (_encode_name(name), _encode_int(name, value))
        else:
            pieces += (_encode_name(name), _encode_value(name, value, depth))
    return b"".join(pieces)


@lru_cache(maxsize=256, typed=True)
def _encode_name(name: str) -> bytes:
    """A name as a short string. Remembered: a program's headers have few names."""
    try:
        raw = str.encode(name)
    except (TypeError, UnicodeEncodeError):
        raise ArgumentError(f"expected names of fields to be text that is valid UTF-8, got {name!r:.100}") from None
    if len(raw) > MAX_NAME_BYTES:
        raise ArgumentError(f"expected names of fields of at most {MAX_NAME_BYTES} bytes, got {name!r:.100}")
    return b"%c%b" % (len(raw), raw)


def _encode_text(name: str, value: str) -> bytes:
    try:
        return str.encode(value)
    except UnicodeEncodeError:
        raise ArgumentError(f"field {name!r:.100}: expected text that is valid UTF-8, got {value!r:.100}") from None


def _encode_value(name: str, value: Any, depth: int) -> bytes:
    """`value` with its tag. `name` is for errors."""
    kind = type(value)
    if kind is str:
        raw = _encode_text(name, value)
        return _TAGGED_LENGTH.pack(b"S", len(raw)) + raw
    if kind is int:
        return _encode_int(name, value)
    if kind is bool:
        return b"t\x01" if value else b"t\x00"
    if value is None:
        return b"V"
    if kind is float:
        if not math.isfinite(value):  # RabbitMQ's reader dies of it: 541, and the connection is gone
            raise ArgumentError(f"field {name!r:.100}: expected a finite number, got {value}")
        return _TAGGED_DOUBLE.pack(b"d", value)
    if kind is bytes:
        return _TAGGED_LENGTH.pack(b"x", len(value)) + bytes(value)
    if isinstance(value, Mapping):
        raw = _encode_fields(value, depth + 1)
        return _TAGGED_LENGTH.pack(b"F", len(raw)) + raw
    if kind in (list, tuple):
        _check_depth(depth + 1)
        raw = b"".join([_encode_value(name, item, depth + 1) for item in value])
        return _TAGGED_LENGTH.pack(b"A", len(raw)) + raw
    if kind is datetime:
        return _encode_datetime(name, value)
    if kind is Decimal:
        return _encode_decimal(name, value)
    raise ArgumentError(
        f"field {name!r:.100}: expected text, a boolean, a number, bytes, None, a list or a table,"
        f" got {kind.__name__} {value!r:.100}"
    )


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ArgumentError(f"expected tables and lists in one another at most {MAX_DEPTH} deep, got deeper")


def _encode_int(name: str, value: int) -> bytes:
    if -0x8000_0000 <= value <= 0x7FFF_FFFF:
        return _TAGGED_INT32.pack(b"I", value)
    try:
        return _TAGGED_INT64.pack(b"l", value)
    except struct.error:
        raise ArgumentError(
            f"field {name!r:.100}: expected an integer of at most 64 signed bits, got a larger"
        ) from None


def _encode_datetime(name: str, value: datetime) -> bytes:
    if value.tzinfo is None or value.utcoffset() is None or value.microsecond:
        raise ArgumentError(f"field {name!r:.100}: expected an aware datetime of whole seconds, got {value!r}")
    return _TAGGED_INT64.pack(b"T", (value - _EPOCH) // timedelta(seconds=1))


def _encode_decimal(name: str, value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, int) and -MAX_PLACES <= exponent <= 0 and len(digits) <= 10:
        number = int("".join(map(str, digits))) * (-1 if sign else 1)
        if -(2**31) <= number < 2**31:
            return _TAGGED_DECIMAL.pack(b"D", -exponent, number)
    raise ArgumentError(
        f"field {name!r:.100}: expected a decimal of at most 32 signed bits and {MAX_PLACES} places, got {value!s:.100}"
    )
