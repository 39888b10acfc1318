from __future__ import annotations

import dataclasses
import enum
import json
import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import ArgumentError, ConfigError
from dispatcher.model.wire import INTEGERS, MAX_VALUE_DEPTH, WIRE_TYPES, WireType, decode_value, encode_value

BOUNDS = [(name, *bounds) for name, bounds in INTEGERS.items()]


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.Enum):
    RED = "red"


class SafeText(str):
    __slots__ = ()


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Shape(msgspec.Struct):
    points: list[Point]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_there_are_the_fourteen_types_of_the_go_package_and_json() -> None:
    """The table holds exactly the wire types of the format."""
    assert sorted(WIRE_TYPES) == sorted(
        "bool string int int8 int16 int32 int64 uint uint8 uint16 uint32 uint64 float32 float64 json".split()
    )


@pytest.mark.parametrize(("name", "low", "high"), BOUNDS)
def test_an_integer_type_holds_its_whole_range_exactly_and_nothing_beyond(name: str, low: int, high: int) -> None:
    """Both bounds pass unchanged in both directions; one step beyond is refused in both."""
    for convert in (encode_value, decode_value):
        for value in (low, high, 0):
            assert convert(name, value) == value
            assert type(convert(name, value)) is int
        for value in (low - 1, high + 1):
            with pytest.raises(ArgumentError, match="out of range"):
                convert(name, value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], b"1", math.nan, Decimal(1)])
def test_an_integer_is_nothing_but_an_integer(name: str, value: Any) -> None:
    """Booleans, whole floats, text and the like are not integers, in neither direction."""
    for convert in (encode_value, decode_value):
        with pytest.raises(ArgumentError, match="expected an integer"):
            convert(name, value)


@given(st.integers())
def test_an_integer_is_exact_or_refused(value: int) -> None:
    """Whatever the integer, every type either keeps it exactly or says that it is out of range."""
    for name, low, high in BOUNDS:
        if low <= value <= high:
            assert decode_value(name, json.loads(json.dumps(encode_value(name, value)))) == value
        else:
            with pytest.raises(ArgumentError):
                encode_value(name, value)


def test_members_of_derived_classes_travel_as_what_they_are() -> None:
    """An IntEnum's member is sent as a plain int, a derived string as a plain str."""
    sent = (
        encode_value("int8", Level.HIGH),
        encode_value("string", SafeText("ä")),
        encode_value("json", [SafeText("a")]),
    )
    assert sent == (3, "ä", ["a"])
    assert [type(value) for value in sent] == [int, str, list]
    assert type(sent[2][0]) is str


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_bool_is_true_or_false(value: Any) -> None:
    """Nothing else counts as a boolean, in neither direction."""
    assert encode_value("bool", True) is True
    assert decode_value("bool", False) is False
    for convert in (encode_value, decode_value):
        with pytest.raises(ArgumentError, match="bool"):
            convert("bool", value)


def test_a_string_is_valid_utf8() -> None:
    """Text of any script passes; a lone surrogate, which UTF-8 cannot hold, and anything but text do not."""
    assert encode_value("string", "a\0ü😀") == "a\0ü😀"
    for value in ("\ud800", b"a", 1, None):
        with pytest.raises(ArgumentError):
            encode_value("string", value)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_a_float_takes_an_integer_but_no_boolean_and_nothing_infinite(name: str) -> None:
    """A JSON integer is accepted for a float; NaN, infinities, booleans, text and too large integers are refused."""
    for convert in (encode_value, decode_value):
        assert convert(name, 3) == 3.0
        assert type(convert(name, 3)) is float
        assert math.copysign(1, convert(name, -0.0)) == -1
        for value in (math.nan, math.inf, -math.inf, True, "1", None, 10**400, Decimal(1)):
            with pytest.raises(ArgumentError):
                convert(name, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.32, "0.32"),
        (0.1, "0.1"),
        (16777216, "16777216.0"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (1.401298464324817e-45, "1e-45"),
        (1 / 3, "0.33333334"),
        (0, "0.0"),
    ],
)
def test_a_float32_is_sent_as_the_shortest_decimal_that_is_it(value: float, text: str) -> None:
    """What is sent reads like Go's own: the fewest digits that name this float32."""
    assert json.dumps(encode_value("float32", value)) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float32_arrives_as_the_float32_it_was(value: float) -> None:
    """Every float32 survives the way through decimal text, and sending it once more changes nothing."""
    sent = encode_value("float32", value)
    assert decode_value("float32", json.loads(json.dumps(sent))) == value
    assert encode_value("float32", sent) == sent


def test_a_float32_beyond_its_range_is_refused() -> None:
    """The largest float32 passes; what would round to infinity does not, in neither direction."""
    for convert in (encode_value, decode_value):
        assert math.isfinite(convert("float32", 3.4028235e38))
        with pytest.raises(ArgumentError, match="float32"):
            convert("float32", 3.5e38)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float64_arrives_bit_for_bit(value: float) -> None:
    """Every finite double survives."""
    arrived = decode_value("float64", json.loads(json.dumps(encode_value("float64", value))))
    assert struct.pack("<d", arrived) == struct.pack("<d", value)


def test_json_takes_what_msgspec_can_write() -> None:
    """Dataclasses, Structs, dates, enums, bytes, UUIDs and sets are sent in their JSON form."""
    value = {
        "shape": Shape([Point(1, 2)]),
        "at": datetime(2024, 1, 2, tzinfo=UTC),
        "colour": Colour.RED,
        "raw": b"ab",
        "id": UUID(int=1),
        "price": Decimal("1.50"),
        "few": {1},
        "pair": (1, None),
        "big": 2**70,
    }
    assert json.loads(json.dumps(encode_value("json", value))) == {
        "shape": {"points": [{"x": 1, "y": 2}]},
        "at": "2024-01-02T00:00:00Z",
        "colour": "red",
        "raw": "YWI=",
        "id": "00000000-0000-0000-0000-000000000001",
        "price": "1.50",
        "few": [1],
        "pair": [1, None],
        "big": 2**70,
    }


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1, math.nan], "finite"),
        ({"a": {"b": math.inf}}, "finite"),
        ({1: "a"}, "keys"),
        ([{"a": {None: 1}}], "keys"),
        ({"a": "\udfff"}, "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (object(), "JSON"),
        ([1j], "JSON"),
        (10**5000, "digits"),
        (Shape([Point(1, math.nan)]), "finite"),  # type: ignore[arg-type]
        (nested(MAX_VALUE_DEPTH + 1), "nesting"),
        (nested(100_000), "nesting"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_json_refuses_what_json_cannot_hold(value: Any, why: str) -> None:
    """NaN, infinities, keys that are not text, lone surrogates, strange objects and too much depth are refused at send."""
    with pytest.raises(ArgumentError, match=why):
        encode_value("json", value)


def test_json_that_holds_itself_is_refused() -> None:
    """A loop is an error, not an endless walk."""
    loop: list[Any] = []
    loop.append(loop)
    for value in (loop, {"a": {1, 2}, "b": loop}):
        with pytest.raises(ArgumentError, match="nesting"):
            encode_value("json", value)


def test_the_deepest_json_value_passes() -> None:
    """The limit itself is inside."""
    assert encode_value("json", nested(MAX_VALUE_DEPTH)) == nested(MAX_VALUE_DEPTH)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_passes_plain_values_unchanged(value: Any) -> None:
    """What is JSON already arrives equal."""
    assert decode_value("json", json.loads(json.dumps(encode_value("json", value)))) == value


@pytest.mark.parametrize("name", ["integer", "", "Int", None, ["int"]])
def test_an_unknown_type_is_refused(name: Any) -> None:
    """A type that is not in the table is named in the error, with those that are."""
    for convert in (encode_value, decode_value):
        with pytest.raises(ArgumentError, match="expected one of bool, string, int"):
            convert(name, 1)


def test_a_mark_names_a_wire_type() -> None:
    """`WireType` refuses a name that is not in the table."""
    assert WireType("uint8").name == "uint8"
    with pytest.raises(ConfigError, match="uint7"):
        WireType("uint7")


@pytest.mark.parametrize("name", WIRE_TYPES)
@pytest.mark.parametrize("secret", ["hunter2", 4929_1234_5678_9012_3456, -4929123456789012, 4.9e300, ["hunter2"]])
def test_a_refusal_at_receive_never_shows_the_value(name: str, secret: Any) -> None:
    """Such sentences end in logs and dead letters: they name the kind of a value, not the value."""
    try:
        decode_value(name, secret)
    except ArgumentError as error:
        assert "hunter2" not in str(error)
        assert "4929" not in str(error)
        assert "4.9e" not in str(error)


def test_a_refusal_at_send_shows_a_small_value() -> None:
    """The sender is told what came; what is huge is described instead."""
    with pytest.raises(ArgumentError, match="-128 to 127.*got 300"):
        encode_value("int8", 300)
    with pytest.raises(ArgumentError, match=r"an integer of \d+ bits"):
        encode_value("int8", 10**10_000)
