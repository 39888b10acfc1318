"""The body of a message: a task as JSON, exactly as the Go package writes it, and back.

    {"uuid": "...", "name": "...", "args": [{"type": "int", "value": 3}, ...]}

`decode_body` takes any bytes whatever and raises `DecodeError` only: such a body is *undecodable*. Size and nesting
are checked before anything is parsed. It does not know functions: a known type name, and values that fit it, are
`Signature.check`'s business, whose refusal is *bad arguments*. `encode_body` writes nothing that `decode_body`, given
the same limit, would refuse.

Of what a foreign sender may add: unknown keys are ignored, as Go does, so that a later version of the format does not
strand its tasks on an older worker; a key twice is refused, since two readers would see two different tasks.
`"args": null`, and none at all, mean no arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec

from ..errors import ArgumentError, DecodeError
from .task import MAX_UUID_BYTES, NAME_PATTERN, TaskArgument
from .wire import ENCODERS, MAX_VALUE_DEPTH

__all__ = ["MAX_BODY_BYTES", "MAX_DEPTH", "DecodedTask", "decode_body", "encode_body"]

MAX_BODY_BYTES = 2 * 1024 * 1024
"""The largest body, in bytes, unless configured otherwise."""

MAX_DEPTH: Final = MAX_VALUE_DEPTH + 3
"""How deep objects and lists may nest in a body: 64, the body's own three levels included."""


class DecodedTask(msgspec.Struct, frozen=True):
    """What a body says. The values of `args` are parsed JSON, not checked against their types yet.

    It is the wire's own shape: the order of the fields is the order of the keys.
    """

    uuid: str
    name: str
    args: tuple[TaskArgument, ...] = ()


class _NullableArgs(msgspec.Struct, frozen=True):
    """A body as Go writes one without arguments: with null, which is the same as none at all."""

    uuid: str
    name: str
    args: tuple[TaskArgument, ...] | None = None


_decode = msgspec.json.Decoder(DecodedTask).decode
_decode_nullable = msgspec.json.Decoder(_NullableArgs).decode
_encode = msgspec.json.Encoder().encode
_is_name = NAME_PATTERN.fullmatch


def encode_body(uuid: str, name: str, args: Sequence[TaskArgument], *, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The body of the task `uuid`, whose name and uuid `Task` has checked already.

    Raises `ArgumentError` for a value its wire type does not hold, an unknown wire type, and more than `max_bytes`.
    """
    changed: dict[int, TaskArgument] = {}
    index = 0
    try:  # one for all: this is the publisher's hot path, and `index` says where it stopped
        for arg in args:
            value = ENCODERS[arg.type](arg.value)
            if value is not arg.value:
                changed[index] = TaskArgument(arg.type, value)
            index += 1
    except (ArgumentError, AttributeError, KeyError, TypeError) as error:
        raise _refusal(name, index, args[index], error) from None
    if changed:
        args = [changed.get(index, arg) for index, arg in enumerate(args)]
    body = _encode(DecodedTask(uuid, name, tuple(args)))
    if len(body) > max_bytes:
        raise ArgumentError(
            f"task {name!r}: expected a body of at most {max_bytes} bytes, got {len(body)};"
            " send a reference to the data instead of the data"
        )
    return body


def _refusal(name: str, index: int, arg: object, error: Exception) -> ArgumentError:
    if isinstance(error, ArgumentError):
        why = str(error)
    elif not isinstance(arg, TaskArgument):
        why = f"expected TaskArgument(type, value), got a {type(arg).__qualname__}"
    else:
        why = f"expected one of the wire types {', '.join(ENCODERS)}, got {arg.type!r:.60}"
    return ArgumentError(f"task {name!r}, argument {index + 1}: {why}")


def decode_body(body: bytes, *, max_bytes: int = MAX_BODY_BYTES) -> DecodedTask:
    """The task a body holds; `DecodeError`, and nothing else, for every other sequence of bytes."""
    if len(body) > max_bytes:
        raise DecodeError(f"body: expected at most {max_bytes} bytes, got {len(body)}")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(body)
    try:
        task = _decode(body)
    except ValueError:  # malformed, not UTF-8, a lone surrogate, a number no float holds, another shape
        task = _with_null(body)
    if _encode(task) != body:
        # A key that comes twice is lost in parsing, so a task that has one is never written as it came.
        _check_strictly(body)
    uuid, name = task.uuid, task.name
    if not uuid or (len(uuid) > MAX_UUID_BYTES // 4 and len(uuid.encode()) > MAX_UUID_BYTES):
        raise DecodeError(f"body: expected a uuid of 1 to {MAX_UUID_BYTES} bytes, got {len(uuid.encode())}")
    if _is_name(name) is None:
        raise DecodeError(f"body: expected a name of 1 to 200 of the characters A-Z a-z 0-9 _ . : -, got {name!r:.210}")
    return task


def _with_null(body: bytes) -> DecodedTask:
    """The task of a body whose arguments may be null; else it is none at all."""
    try:
        task = _decode_nullable(body)
    except ValueError as error:
        raise DecodeError(f"body: expected a task as JSON: {error}") from None
    return DecodedTask(task.uuid, task.name, task.args or ())


_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def _check_depth(body: bytes) -> None:
    """Refuse what nests deeper than `MAX_DEPTH`, without recursion.

    Escapes go first, then strings, then all but the brackets, which become steps up and down, +1 and -1 as signed bytes.
    On what is not JSON the answer may be wrong, but only beyond the first fault, where the parser stops.
    """
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    steps = outside.translate(_STEPS, _NOT_BRACKETS)
    depth = max(accumulate(memoryview(steps).cast("b")), default=0)
    if depth > MAX_DEPTH:
        raise DecodeError(f"body: expected at most {MAX_DEPTH} levels of nesting, got {depth}")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise DecodeError(f"body: expected each key once in an object, got {key!r:.60} twice")
        seen.add(key)


def _check_float(text: str) -> None:
    if not math.isfinite(float(text)):
        raise DecodeError(f"body: expected a finite number, got {text:.30}")


# Builds no numbers: only the keys matter, and what msgspec skipped over, unread, under keys it does not know. NaN and
# its like, which this parser would take, msgspec has refused there too.
_strict = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_float=_check_float, parse_int=len).decode


def _check_strictly(body: bytes) -> None:
    try:
        _strict(body.decode())
    except ValueError as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(f"body: expected a task as JSON: {error}") from None
