"""One parameter of a task's function: its wire type, and how its values are sent, received and read from text.

    int, float, str, bool        `int`, `float64`, `string`, `bool`
    aliases of dispatcher.types  what they are called
    any other annotation         `json`, validated against the annotation on both sides
    no annotation                the value decides: the four above, `uint64` where `int` is too narrow, else `json`

A receiver takes any integer type for an integer parameter and either float type for a float one, as long as the value
is in range; `json` where its value is of the parameter's type; and every type for a parameter that is `json` itself
or has no annotation. Nothing here counts arguments or knows their order: that is `Signature`'s.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ..errors import ArgumentError, ConfigError
from .task import TaskArgument
from .wire import DECODERS, ENCODERS, INTEGERS, Converter, WireType, convert_json, to_plain

__all__ = ["NOTHING", "Parameter", "make_parameter", "read_text"]

NOTHING: Final = inspect.Parameter.empty
"""Stands for no default and for no annotation, since None can be either."""

_ANYTHING: Final = (Any, object, NOTHING)
_BY_PYTHON_TYPE: Final = {int: "int", float: "float64", str: "string", bool: "bool"}
_BASES: Final = {**dict.fromkeys(INTEGERS, int), "float32": float, "float64": float, "string": str, "bool": bool}


class Parameter(msgspec.Struct, frozen=True):
    """One parameter. `wire` is its wire type, None where the value decides; `annotation` as resolved.

    `encode` makes the argument to send, `decoders` the Python value of each wire type that fits; both raise
    `ArgumentError`. A parameter with a `default` may be left out.
    """

    name: str
    wire: str | None
    annotation: Any
    default: Any
    encode: Callable[[Any], TaskArgument]
    decoders: Mapping[str, Converter]

    @property
    def required(self) -> bool:
        return self.default is NOTHING


def make_parameter(function: Callable[..., Any], item: inspect.Parameter, task: str) -> Parameter:
    """The parameter `item` of `function`, which is the task `task`.

    Raises `ConfigError` for an annotation that cannot be resolved, a wire type on the wrong Python type, and a
    required parameter of a type that JSON cannot carry.
    """
    annotation = _annotation(function, item, task)
    base, metadata = _peel(annotation)
    marks = [mark.name for mark in metadata if isinstance(mark, WireType)]
    if marks and marks[-1] != "json":
        wire = marks[-1]
        if base is not _BASES[wire]:
            wanted = _BASES[wire].__name__
            raise ConfigError(f"task {task!r}, parameter {item.name!r}: expected {wanted} for {wire}, got {base!r}")
    else:
        wire = "json" if marks or not isinstance(base, type) else _BY_PYTHON_TYPE.get(base, "json")
    if base is NOTHING:
        return Parameter(item.name, None, NOTHING, item.default, _encode_by_value, DECODERS)
    if wire != "json":
        bounded = any(isinstance(mark, msgspec.Meta) for mark in metadata)
        encode = _encode_as(wire, annotation if bounded else None)
        decoders = _decoders(wire, annotation if bounded else None)
        return Parameter(item.name, wire, annotation, item.default, encode, decoders)
    if base in _ANYTHING:
        return Parameter(item.name, wire, annotation, item.default, _encode_any, DECODERS)
    if item.default is NOTHING and item.kind is not inspect.Parameter.VAR_POSITIONAL:
        _check_carried(annotation, item.name, task)
    encode = _encode_json_as(annotation)
    return Parameter(item.name, wire, annotation, item.default, encode, _decoders(wire, annotation))


def _annotation(function: Callable[..., Any], item: inspect.Parameter, task: str) -> Any:
    """The parameter's annotation with strings resolved, each by itself: one that cannot be is named."""
    if item.annotation is NOTHING:
        return NOTHING
    target: Any = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    if not hasattr(target, "__globals__"):
        target = type(target).__call__  # an instance that is callable

    def probe() -> None: ...

    probe.__annotations__ = {item.name: item.annotation}
    try:
        hints = typing.get_type_hints(probe, globalns=getattr(target, "__globals__", {}), include_extras=True)
    except Exception as error:  # an annotation is code and may raise anything
        raise ConfigError(
            f"task {task!r}, parameter {item.name!r}: its annotation {item.annotation!r} cannot be resolved: {error};"
            " import or define the type at the top of its module, outside of TYPE_CHECKING"
        ) from None
    return hints[item.name]


def _peel(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The annotation below Annotated, NewType and type aliases, and the metadata on the way, the outermost last."""
    metadata: tuple[Any, ...] = ()
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            metadata = annotation.__metadata__ + metadata
            annotation = annotation.__origin__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # typing's from Python 3.12 on: `type UserId = int`
            annotation = annotation.__value__
        else:
            return annotation, metadata


def _check_carried(annotation: Any, parameter: str, task: str) -> None:
    """Refuse a type that no JSON value can become, however deep inside `annotation` it is."""
    try:
        foreign = _foreign(msgspec.inspect.type_info(annotation), set())
    except Exception as error:  # what msgspec cannot tell apart, or does not know; the classes' own code runs too
        raise ConfigError(
            f"task {task!r}, parameter {parameter!r}: {annotation!r} cannot travel as JSON: {error}"
        ) from None
    if foreign is not None:
        raise ConfigError(
            f"task {task!r}, parameter {parameter!r}: {foreign!r} cannot travel as JSON;"
            " pass what it is made from (a path as str, a record as its id), or give the parameter a default"
        )


def _foreign(kind: Any, seen: set[int]) -> type | None:
    if id(kind) in seen:  # a type that holds itself
        return None
    seen.add(id(kind))
    if isinstance(kind, msgspec.inspect.CustomType):
        return None if kind.cls is object else kind.cls
    if isinstance(kind, msgspec.inspect.Metadata):
        return _foreign(kind.type, seen)
    inner: Sequence[Any] = ()
    if isinstance(kind, tuple):
        inner = kind
    elif isinstance(kind, msgspec.inspect.Type | msgspec.inspect.Field):
        inner = [getattr(kind, field) for field in kind.__struct_fields__]
    return next((found for part in inner if (found := _foreign(part, seen)) is not None), None)


def _encode_as(wire: str, bounds: Any) -> Callable[[Any], TaskArgument]:
    convert = ENCODERS[wire]

    def encode(value: Any) -> TaskArgument:
        try:
            return TaskArgument(wire, convert(value))
        except ArgumentError as error:
            if wire == "int" and type(value) is int and 0 < value <= INTEGERS["uint64"][1]:
                raise ArgumentError(f"{error}; annotate the parameter as dispatcher.types.Uint64") from None
            raise

    def encode_bounded(value: Any) -> TaskArgument:
        argument = encode(value)
        convert_json(argument.value, bounds)
        return argument

    return encode if bounds is None else encode_bounded


def _encode_by_value(value: Any) -> TaskArgument:
    wire = _BY_PYTHON_TYPE.get(type(value))
    if wire == "int" and not INTEGERS["int"][0] <= value <= INTEGERS["int"][1]:
        wire = "uint64" if 0 < value <= INTEGERS["uint64"][1] else None
    return _encode_any(value) if wire is None else TaskArgument(wire, ENCODERS[wire](value))


def _encode_any(value: Any) -> TaskArgument:
    return TaskArgument("json", ENCODERS["json"](to_plain(value)))  # a copy: the caller may change its list


def _encode_json_as(annotation: Any) -> Callable[[Any], TaskArgument]:
    def encode(value: Any) -> TaskArgument:
        as_given = to_plain(value)
        plain = to_plain(value, str_keys=True)
        meant = convert_json(as_given, annotation, str_keys=False)
        # JSON turns keys into strings: `dict[int, str]` turns them back, `dict` and `Any` would not.
        if plain != as_given and convert_json(plain, annotation) != meant:
            raise ArgumentError("expected strings as the keys of objects, or an annotation that says what they are")
        return TaskArgument("json", ENCODERS["json"](plain))

    return encode


def _decoders(wire: str, annotation: Any) -> Mapping[str, Converter]:
    """How values of each wire type that fits `wire` are read, and checked against `annotation` if it is not None."""
    if wire == "json":
        fitting = DECODERS
    elif wire in ("int", "int64"):
        fitting = {**{name: DECODERS[name] for name in INTEGERS}, "json": DECODERS[wire]}
    elif wire in INTEGERS:
        fitting = {**{name: _both(DECODERS[name], DECODERS[wire]) for name in INTEGERS}, "json": DECODERS[wire]}
    elif wire == "float32":
        fitting = dict.fromkeys(("float32", "float64", "json"), DECODERS[wire])
    elif wire == "float64":
        fitting = {name: DECODERS[name] for name in ("float32", "float64")} | {"json": DECODERS[wire]}
    else:
        fitting = dict.fromkeys((wire, "json"), DECODERS[wire])
    if annotation is None:
        return fitting
    validate = functools.partial(convert_json, annotation=annotation)
    return {name: _both(decode, validate) for name, decode in fitting.items()}


def _both(first: Converter, second: Converter) -> Converter:
    return lambda value: second(first(value))


def read_text(task: str, parameter: Parameter, text: str) -> Any:
    """One command-line value, read as the parameter's type says; `ArgumentError` if it cannot be."""
    wire = parameter.wire
    try:
        if wire == "string":
            return text
        if wire == "bool":
            return {"true": True, "false": False}[text.lower()]
        if wire in INTEGERS:
            return int(text)
        if wire in ("float32", "float64"):
            return float(text)
    except (KeyError, ValueError):
        raise ArgumentError(f"task {task!r}, argument {parameter.name!r}: expected {wire}, got {text!r:.60}") from None
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text
    try:
        parameter.encode(value)
    except ArgumentError:
        try:
            parameter.encode(text)
        except ArgumentError:
            return value  # neither fits: `bind` says why
        return text
    return value
