"""The wire types: which values each one holds, and how a Python value becomes a JSON value and back.

One table, `ENCODERS` and `DECODERS` by wire type name, is all the rest of Dispatcher knows of types. Integers never
pass through a float. What does not fit is an `ArgumentError`; nothing is rounded, cut or guessed to make it fit
(a float becomes the nearest float32 where that is the type). What is said about a received value names its kind
and never shows it: those sentences end in logs and dead letters. Nothing here parses or writes JSON text.

    bool                      bool
    string                    str, valid UTF-8
    int8 int16 int32 int64    int; `int` and `uint` are 64 bits wide
    uint8 … uint64, int, uint
    float32 float64           float, finite; a JSON integer is accepted
    json                      any JSON value: Dispatcher's extension, which a Go worker does not know
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from ..errors import ArgumentError, ConfigError

__all__ = [
    "DECODERS",
    "ENCODERS",
    "INTEGERS",
    "MAX_VALUE_DEPTH",
    "WIRE_TYPES",
    "Converter",
    "WireType",
    "convert_json",
    "decode_value",
    "encode_value",
    "to_plain",
]

Converter: TypeAlias = Callable[[Any], Any]
"""Returns the value in the form of the other side, or raises `ArgumentError`."""

INTEGERS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "int": (-(2**63), 2**63 - 1),
        "int8": (-(2**7), 2**7 - 1),
        "int16": (-(2**15), 2**15 - 1),
        "int32": (-(2**31), 2**31 - 1),
        "int64": (-(2**63), 2**63 - 1),
        "uint": (0, 2**64 - 1),
        "uint8": (0, 2**8 - 1),
        "uint16": (0, 2**16 - 1),
        "uint32": (0, 2**32 - 1),
        "uint64": (0, 2**64 - 1),
    }
)
"""The integer types and their bounds, both included."""

MAX_VALUE_DEPTH = 61
"""How deep a `json` value may nest: the 64 levels of a body less the three around an argument's value."""

_MAX_JSON_INTEGER_BITS = 14_000  # a reader takes up to 4,300 digits, CPython's own limit: 14,284 bits


class WireType(msgspec.Struct, frozen=True):
    """Marks an annotation with its wire type: `Annotated[int, WireType("int8")]`. `dispatcher.types` has them all.

    Raises `ConfigError` for a name that is no wire type.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in WIRE_TYPES:
            raise ConfigError(f"wire type: expected one of {', '.join(WIRE_TYPES)}, got {self.name!r}")


# --- how a value is spoken of -------------------------------------------------------------------------------------

_KINDS: Final[Mapping[type, str]] = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def _kind(value: Any) -> str:
    """What came, without showing it."""
    if value is None:
        return "null"
    return _KINDS.get(type(value)) or f"a {type(value).__module__}.{type(value).__qualname__}"


def _shown(value: Any) -> str:
    """What came, shown to the one who passed it. Only small plain values: the repr of others can be anything."""
    if type(value) is int and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if value is None or type(value) in (bool, int, float, str):
        return f"{value!r:.60}"
    return _kind(value)


# --- converters ---------------------------------------------------------------------------------------------------


def _bool(got: Callable[[Any], str]) -> Converter:
    def convert(value: Any) -> Any:
        if value is True or value is False:
            return value
        raise ArgumentError(f"expected true or false (bool), got {got(value)}")

    return convert


def _integer(name: str, got: Callable[[Any], str]) -> Converter:
    low, high = INTEGERS[name]

    def convert(value: Any) -> Any:
        if type(value) is int and low <= value <= high:
            return value
        if not isinstance(value, int) or value is True or value is False:
            raise ArgumentError(f"expected an integer from {low} to {high} ({name}), got {got(value)}")
        if not low <= value <= high:
            raise ArgumentError(f"expected an integer from {low} to {high} ({name}), got {got(value)}, out of range")
        return int(value)  # an IntEnum's member, for instance

    return convert


def _string(got: Callable[[Any], str]) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            raise ArgumentError(f"expected a string, got {got(value)}")
        if not value.isascii():
            _check_utf8(value)
        return value if type(value) is str else str.__str__(value)

    return convert


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"expected text that is valid UTF-8, got a string with a lone surrogate at index {error.start}"
        ) from None


def _float64(got: Callable[[Any], str]) -> Converter:
    def convert(value: Any) -> Any:
        if type(value) is float and math.isfinite(value):
            return value
        if not isinstance(value, int | float) or value is True or value is False:
            raise ArgumentError(f"expected a number (float64), got {got(value)}")
        try:
            number = float(value)
        except OverflowError:  # an integer beyond the largest float
            number = math.inf
        if not math.isfinite(number):
            raise ArgumentError(f"expected a finite number (float64), got {got(value)}; JSON has no others")
        return number

    return convert


_FLOAT32 = struct.Struct("<f")


def _float32(got: Callable[[Any], str]) -> Converter:
    to_float64 = _float64(got)

    def convert(value: Any) -> Any:
        number = to_float64(value)
        try:
            return _FLOAT32.unpack(_FLOAT32.pack(number))[0]
        except OverflowError:
            raise ArgumentError(f"expected at most 3.4028235e+38 either way (float32), got {got(value)}") from None

    return convert


def _shortest_float32(got: Callable[[Any], str]) -> Converter:
    """A float whose JSON text is the shortest decimal that reads back as the same float32, as Go writes it: 0.32."""
    to_float32 = _float32(got)

    def convert(value: Any) -> Any:
        number = to_float32(value)
        for digits in range(1, 9):
            candidate = float(f"{number:.{digits}g}")
            try:
                if _FLOAT32.unpack(_FLOAT32.pack(candidate))[0] == number:
                    return candidate
            except OverflowError:  # rounded up beyond the largest float32
                continue
        return float(f"{number:.9g}")  # nine digits tell any two float32 apart (IEEE 754, section 5.12.2)

    return convert


# --- json ---------------------------------------------------------------------------------------------------------


def _plain_object(value: Any) -> Any:
    """What msgspec leaves to us: classes derived from the plain ones, such as a framework's safe string."""
    for plain in (str, float, int):
        if isinstance(value, plain):
            return plain.__str__(value) if plain is str else plain(value)
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be sent as JSON")


def to_plain(value: Any, *, str_keys: bool = False) -> Any:
    """A copy of `value` in JSON's own types: dataclasses, Structs, datetimes, enums, sets, bytes as msgspec has them.

    `str_keys` makes strings of an object's keys. Raises `ArgumentError` for what has no JSON form.
    """
    try:
        return msgspec.to_builtins(value, str_keys=str_keys, enc_hook=_plain_object)
    except RecursionError:
        raise ArgumentError(f"expected at most {MAX_VALUE_DEPTH} levels of nesting, got more, or a loop") from None
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ArgumentError(f"expected a value that JSON can hold, got {_kind(value)}: {error}") from None


def _is_plain(value: Any, room: int) -> bool:
    """Whether `value` is made of JSON's own types only. Raises `ArgumentError` for what JSON cannot hold."""
    kind = type(value)
    if kind is str:
        if not value.isascii():
            _check_utf8(value)
        return True
    if kind is int:
        if value.bit_length() > _MAX_JSON_INTEGER_BITS:
            raise ArgumentError(f"expected an integer of at most 4,200 digits in JSON, got {_shown(value)}")
        return True
    if kind is float:
        if not math.isfinite(value):
            raise ArgumentError(f"expected a finite number, got {value!r}; JSON has no others")
        return True
    if kind is dict or kind is list or kind is tuple:
        if room == 0:
            raise ArgumentError(f"expected at most {MAX_VALUE_DEPTH} levels of nesting, got more, or a loop")
        if kind is not dict:
            return all([_is_plain(item, room - 1) for item in value])
        for key in value:
            if not isinstance(key, str):
                raise ArgumentError(f"expected strings as the keys of a JSON object, got {_shown(key)}")
        return all([_is_plain(key, 0) for key in value]) and all([_is_plain(item, room - 1) for item in value.values()])
    return value is None or kind is bool


def _encode_json(value: Any) -> Any:
    if _is_plain(value, MAX_VALUE_DEPTH):
        return value
    plain = to_plain(value)
    if not _is_plain(plain, MAX_VALUE_DEPTH):
        raise ArgumentError(f"expected a value that JSON can hold, got {_kind(value)}")
    return plain


def _decode_json(value: Any) -> Any:
    return value  # parsed JSON already


_ENUM_VALUE = re.compile(r"Invalid enum value .*?(?= - at `|\Z)", re.DOTALL)


def convert_json(value: Any, annotation: Any, *, str_keys: bool = True) -> Any:
    """A plain JSON value as what `annotation` says, uncoerced; raises `ArgumentError` naming the place that differs.

    `str_keys`: an object's keys came as strings, whatever type they stand for.
    """
    try:
        return msgspec.convert(value, annotation, strict=True, str_keys=str_keys)
    except msgspec.ValidationError as error:
        raise ArgumentError(_ENUM_VALUE.sub("Invalid enum value", str(error))) from None
    except Exception as error:  # a class's own __post_init__ may raise anything; it refused the value
        raise ArgumentError(f"{type(error).__name__} from {annotation!r:.80}: {error}") from error


# --- the table ----------------------------------------------------------------------------------------------------


def _table(got: Callable[[Any], str], float32: Converter, json: Converter) -> Mapping[str, Converter]:
    table: dict[str, Converter] = {"bool": _bool(got), "string": _string(got)}
    table.update((name, _integer(name, got)) for name in INTEGERS)
    table.update(float32=float32, float64=_float64(got), json=json)
    return table  # no read-only view: a plain dictionary answers twice as fast, and this is asked for each argument


ENCODERS: Final = _table(_shown, _shortest_float32(_shown), _encode_json)
"""Wire type name -> Python value to JSON-able value. Encoding twice is encoding once."""

DECODERS: Final = _table(_kind, _float32(_kind), _decode_json)
"""Wire type name -> parsed JSON value to Python value."""

WIRE_TYPES: Final = tuple(ENCODERS)
"""The fourteen types of the Go package, then `json`."""


def encode_value(type: str, value: Any) -> Any:
    """The JSON form of `value` as wire type `type`; `ArgumentError` if it is not one or there is no such type."""
    return _converter(ENCODERS, type)(value)


def decode_value(type: str, value: Any) -> Any:
    """The Python form of the parsed JSON `value` of wire type `type`; `ArgumentError` as for `encode_value`."""
    return _converter(DECODERS, type)(value)


def _converter(table: Mapping[str, Converter], name: object) -> Converter:
    converter = table.get(name) if isinstance(name, str) else None
    if converter is None:
        raise ArgumentError(f"wire type: expected one of {', '.join(WIRE_TYPES)}, got {name!r:.60}")
    return converter
