"""Field tables: both ways, against another implementation, and against bytes made to harm.

Where pamqp, the other opinion, differs, ours is RabbitMQ's way (rabbitmq.com/docs/amqp-0-9-1-errata, section 3):

* it packs floats into 32 bits and loses precision; ours keep 64 (tag `d`);
* it packs small integers into the smallest type; ours use the two (`I`, `l`) that every client reads alike;
* it takes timestamps above 32 bits for milliseconds; ours are seconds, as the specification says;
* it shortens names above 128 bytes without an error; ours pass or fail, and never change;
* it reads what is cut off as shorter, and what lies behind the end of a table as part of it; ours refuse both.
"""

from __future__ import annotations

import math
import struct
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pamqp.decode
import pamqp.encode
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from table_values import damaged, in_bytes, tables

from dispatcher.amqp.errors import ProtocolError
from dispatcher.amqp.tables import MAX_DEPTH, decode_table, encode_table
from dispatcher.brokers.headers import decode_headers, encode_headers
from dispatcher.errors import ArgumentError

DEADLINE_SECONDS = 5.0
"""For what takes milliseconds: a bound that only a cost that grows with the square would break."""


def table_of(*fields: bytes) -> bytes:
    raw = b"".join(fields)
    return struct.pack(">I", len(raw)) + raw


def field(tag: bytes, raw: bytes, name: bytes = b"n") -> bytes:
    return bytes([len(name)]) + name + tag + raw


def nested(depth: int, *, lists: bool) -> Any:
    """A table in which `depth` tables or lists stand in one another, itself counted."""
    value: Any = [] if lists else {}
    for _ in range(depth - 2):
        value = [value] if lists else {"n": value}
    return {"n": value}


def for_pamqp(value: Any) -> Any:
    """`value` as pamqp takes it and as it comes back from it: a bytearray, a float of 32 bits."""
    match value:
        case bool():
            return value
        case float():
            try:
                return struct.unpack(">f", struct.pack(">f", value))[0]
            except OverflowError:
                return 0.5
        case bytes():
            return bytearray(value)
        case dict():
            return {name: for_pamqp(inner) for name, inner in value.items()}
        case list():
            return [for_pamqp(inner) for inner in value]
    return value


@settings(deadline=None)
@given(tables)
def test_a_table_comes_back_as_it_went(table: dict[str, Any]) -> None:
    """What was encoded decodes to the same, with the same types and from any place of a larger buffer."""
    raw = encode_table(table)
    found, end = decode_table(b"before" + raw + b"after", 6)
    assert end == 6 + len(raw)
    assert found == table
    assert repr(found) == repr(table)  # 1 is not True, and 1.0 not 1


@settings(deadline=None)
@given(tables)
def test_pamqp_reads_what_we_write(table: dict[str, Any]) -> None:
    """Another implementation reads our bytes as what they were made from."""
    raw = encode_table(table)
    size, found = pamqp.decode.field_table(raw)
    assert size == len(raw)
    assert in_bytes(found) == table


@settings(deadline=None)
@given(tables)
def test_we_read_what_pamqp_writes(table: dict[str, Any]) -> None:
    """We read another implementation's bytes, all of its integer types and its small floats among them."""
    table = for_pamqp(table)
    raw = pamqp.encode.field_table(table)
    assert decode_table(raw) == (in_bytes(table), len(raw))


@pytest.mark.parametrize(
    ("tag", "raw", "value"),
    [
        (b"t", b"\x00", False),
        (b"t", b"\x01", True),
        (b"b", b"\xff", -1),
        (b"B", b"\xff", 255),
        (b"s", b"\xff\xff", -1),
        (b"u", b"\xff\xff", 65535),
        (b"I", b"\xff\xff\xff\xff", -1),
        (b"i", b"\xff\xff\xff\xff", 2**32 - 1),
        (b"l", b"\x80" + 7 * b"\x00", -(2**63)),
        (b"L", b"\xff" * 8, -1),
        (b"f", b"\x3f\x80\x00\x00", 1.0),
        (b"d", struct.pack(">d", 0.1), 0.1),
        (b"D", b"\x02\x00\x00\x01\x3b", Decimal("3.15")),
        (b"D", b"\x02\xff\xff\xfe\xc5", Decimal("-3.15")),
        (b"S", b"\x00\x00\x00\x02\xc3\xa4", "ä"),
        (b"S", b"\x00\x00\x00\x02\xff\x00", b"\xff\x00"),
        (b"x", b"\x00\x00\x00\x02ab", b"ab"),
        (b"V", b"", None),
        (b"T", struct.pack(">q", 1_700_000_000), datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (b"T", struct.pack(">q", -1), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (b"T", struct.pack(">q", 1_700_000_000_000), 1_700_000_000_000),
        (b"A", b"\x00\x00\x00\x04t\x01VV", [True, None, None]),
        (b"F", b"\x00\x00\x00\x03\x01nV", {"n": None}),
    ],
)
def test_every_type_of_rabbitmq_is_read(tag: bytes, raw: bytes, value: Any) -> None:
    """Each type tag gives its value, in a table and in a list, and the value can be sent on."""
    for found in (
        decode_table(table_of(field(tag, raw)))[0]["n"],
        decode_table(table_of(field(b"A", table_of(tag, raw))))[0]["n"][0],
    ):
        assert (type(found), found) == (type(value), value)
        assert decode_table(encode_table({"n": found}))[0]["n"] == value


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (2**31 - 1, b"I\x7f\xff\xff\xff"),
        (-(2**31), b"I\x80\x00\x00\x00"),
        (2**31, b"l" + struct.pack(">q", 2**31)),
        (-(2**31) - 1, b"l" + struct.pack(">q", -(2**31) - 1)),
        (True, b"t\x01"),
        (1.5, b"d" + struct.pack(">d", 1.5)),
        (sys.float_info.max, b"d\x7f\xef" + 6 * b"\xff"),
        ("ä", b"S\x00\x00\x00\x02\xc3\xa4"),
        (b"\x00", b"x\x00\x00\x00\x01\x00"),
        (None, b"V"),
        ((1,), b"A\x00\x00\x00\x05I\x00\x00\x00\x01"),
        (MappingProxyType({}), b"F\x00\x00\x00\x00"),
        (datetime(1970, 1, 1, 1, 0, 7, tzinfo=timezone(timedelta(hours=1))), b"T" + struct.pack(">q", 7)),
    ],
)
def test_the_tag_of_each_value(value: Any, raw: bytes) -> None:
    """Each value goes out with the tag that RabbitMQ reads back as the same."""
    assert encode_table({"n": value}) == table_of(b"\x01n", raw)


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        10**5000,
        math.inf,
        math.nan,
        "\ud800",
        bytearray(b"x"),
        {1, 2},
        object(),
        datetime(2024, 1, 1),
        datetime(2024, 1, 1, microsecond=1, tzinfo=UTC),
        Decimal("NaN"),
        Decimal("1E+2"),
        Decimal(2**31),
        Decimal("1E-256"),
        Decimal("9" * 5000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_come_back_is_refused(value: Any) -> None:
    """A value that a table cannot carry unchanged is refused with the name of its field, deep inside too."""
    for table in ({"the-field": value}, {"a": [1, {"the-field": value}]}, {"the-field": [[value]]}):
        with pytest.raises(ArgumentError, match="the-field"):
            encode_table(table)


@pytest.mark.parametrize("name", ["x" * 256, "ä" * 128, "\ud800", 1, None, b"raw"])
def test_a_name_that_does_not_fit_is_refused(name: Any) -> None:
    """A name is text of at most 255 bytes of UTF-8."""
    with pytest.raises(ArgumentError, match="names of fields"):
        encode_table({name: 1})


@pytest.mark.parametrize("name", ["", "x" * 255, "ä" * 127])
def test_a_name_of_any_length_a_stranger_may_send_passes(name: str) -> None:
    """Names up to 255 bytes pass in both directions, so that a stranger's message can be copied."""
    assert decode_table(encode_table({name: 1}))[0] == {name: 1}


@pytest.mark.parametrize("lists", [False, True])
def test_depth_is_bounded_in_both_directions(lists: bool) -> None:
    """As deep as can be sent can be read; one more is refused, however deep, without a RecursionError."""
    table = nested(MAX_DEPTH, lists=lists)
    raw = encode_table(table)
    assert decode_table(raw)[0] == table
    with pytest.raises(ProtocolError) as caught:
        deeper = field(b"A", table_of(b"A" + raw[7:])) if lists else field(b"F", raw)
        decode_table(table_of(deeper))
    assert caught.value.code == 502
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(ArgumentError, match="deep"):
            encode_table(nested(depth, lists=lists))
    raw = b""
    for _ in range(20_000):
        raw = table_of(b"A" + raw) if lists else table_of(field(b"F", raw or table_of()))
    with pytest.raises(ProtocolError):
        decode_table(table_of(field(b"A", raw)) if lists else raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00\x00",
        b"\x00\x00\x00\x01",
        b"\xff\xff\xff\xff",
        table_of(b"\x05n"),
        table_of(b"\x01\xffV"),
        table_of(field(b"S", b"\x00\x00\x00\x05ab")),
        table_of(field(b"S", b"\xff\xff\xff\xffab")),
        table_of(field(b"x", b"\xff\xff\xff\xffab")),
        table_of(field(b"A", b"\x00\x00\x00\x01")),
        table_of(field(b"A", table_of(b"I\x00"))),
        table_of(field(b"F", b"\x00\x00\x00\x09\x01nV")),
        table_of(field(b"I", b"\x00\x00")) + b"\x00\x00",
        table_of(field(b"l", b"\x00\x00")) + bytes(10),
        table_of(field(b"S", b"\x00\x00\x00\x02a")) + b"b",
        table_of(field(b"F", b"\x00\x00\x00\x05\x01nI\x00\x00")) + bytes(10),
        table_of(field(b"Q", b"")),
        table_of(field(b"\x00", b"")),
    ],
    ids=bytes.hex,
)
def test_a_broken_table_is_a_syntax_error(raw: bytes) -> None:
    """What is cut off, says that it is longer than what holds it, or has an unknown type, is refused with 502."""
    with pytest.raises(ProtocolError) as caught:
        decode_table(raw)
    assert caught.value.code == 502


@pytest.mark.parametrize("tag", [b"S", b"x", b"A", b"F"])
@pytest.mark.parametrize("length", [1, 2**31, 2**32 - 1])
def test_a_length_is_held_against_what_contains_it(tag: bytes, length: int) -> None:
    """A length that goes beyond the table around it is refused for that, before anything is read by it."""
    with pytest.raises(ProtocolError, match="at most 0 bytes in a field|expected a field table to end at byte"):
        decode_table(table_of(field(tag, struct.pack(">I", length))) + bytes(100))


@settings(deadline=None)
@given(damaged(tables.map(encode_table)) | st.binary(max_size=200))
@example(table_of(field(b"T", b"\x7f" + 7 * b"\xff")))
@example(table_of(field(b"D", b"\xff\x80\x00\x00\x00")))
def test_damaged_bytes_raise_nothing_else(raw: bytes) -> None:
    """Whatever comes either decodes to what can be sent on, or is a `ProtocolError`.

    But for infinities and NaN: RabbitMQ cannot pass them on, and ends a connection that brings one.
    """
    try:
        table, end = decode_table(raw)
    except ProtocolError as error:
        assert error.code == 502
        return
    assert 4 <= end <= len(raw)
    try:
        copy = encode_table(table)
    except ArgumentError as error:
        assert "expected a finite number" in str(error)
    else:
        assert repr(decode_table(copy)[0]) == repr(table)


def test_a_frame_made_to_cost_time_costs_little() -> None:
    """The most expensive tables that fit one frame are read within a bound that no quadratic cost keeps."""
    began = time.monotonic()
    many = 131_072  # the largest frame that we take
    for raw in (
        table_of(b"\x00V" * (many // 2)),
        table_of(field(b"A", table_of(b"V" * many))),
        table_of(field(b"A", table_of(b"F\x00\x00\x00\x00" * (many // 5)))),
        table_of(b"".join(field(b"V", b"", name=b"%08x" % number) for number in range(many // 10))),
    ):
        decode_table(raw)
    assert time.monotonic() - began < DEADLINE_SECONDS


def test_the_same_headers_as_the_other_brokers_take() -> None:
    """What the embedded brokers take as headers goes through a table unchanged; but for times and decimals, no more does."""
    both = {"s": "ä", "t": True, "i": 2**63 - 1, "d": 0.1, "x": b"\xff", "V": None, "A": [1, ["x"]], "F": {"": {}}}
    assert decode_table(encode_table(both))[0] == decode_headers(encode_headers(both, "u")) == both
    for value in (2**63, {1}, bytearray(b""), object(), "\ud800", Text("x"), Number(1)):
        with pytest.raises(ArgumentError):
            encode_headers({"n": value}, "u")
        with pytest.raises(ArgumentError):
            encode_table({"n": value})


class Text(str):
    __slots__ = ()


class Number(int):
    __slots__ = ()
