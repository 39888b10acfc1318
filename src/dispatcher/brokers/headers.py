"""Message headers as the brokers without AMQP keep them: as bytes, so that a message shares nothing with its sender.

What is accepted is what an AMQP field table can carry and give back unchanged; all else is refused rather than bent.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgspec

from ..errors import ArgumentError
from .base import Headers

__all__ = ["decode_headers", "encode_headers"]

INT64 = range(-(2**63), 2**63)
"""RabbitMQ reads table integers of at most 64 signed bits (rabbitmq.com/amqp-0-9-1-errata, section 3)."""


_SELF_CONTAINED = frozenset({str, bool, bytes, type(None)})
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


def encode_headers(headers: Headers | None, uuid: str) -> bytes | None:
    """`headers` as bytes, None for none. `ArgumentError` for a type that would not come back as it went."""
    if not headers:
        return None
    try:
        return _encode(_table(headers))
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise ArgumentError(
            "headers: expected strings, booleans, signed 64-bit integers, finite floats, bytes, None, and lists and tables"
            f" of those; message {uuid!r} has another: {error}"
        ) from error


def decode_headers(raw: bytes | None) -> dict[str, Any]:
    """The headers of a message, as a new mapping each time."""
    return {} if raw is None else _decode(raw)


def _table(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """`table` itself where all of it can be encoded as it is."""
    changed: dict[str, Any] = {}
    for name, value in table.items():
        if type(name) is not str:
            raise TypeError(f"the name {name!r:.100}")
        kind = type(value)
        if kind not in _SELF_CONTAINED and not (kind is int and -(2**63) <= value < 2**63):
            changed[name] = _field(value)
    return {**table, **changed} if changed or type(table) is not dict else table


def _field(value: Any) -> Any:
    kind = type(value)
    if kind is int and value in INT64:
        return value
    if kind is float and isfinite(value):  # RabbitMQ closes the connection on the others
        return value
    if kind in _SELF_CONTAINED:
        return value
    if kind in (list, tuple):
        return [_field(item) for item in value]
    if isinstance(value, Mapping):
        return _table(value)
    raise TypeError(f"{kind.__name__} {value!r:.100}")
