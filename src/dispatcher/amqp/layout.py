"""How the arguments of a method lie in its frame (AMQP 0-9-1, section 4.2): compiled from a line of words, used both ways.

Pure functions; which method has which layout is written in `methods`. Bytes from a peer raise nothing but `ProtocolError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArgumentError
from .errors import ProtocolError
from .tables import decode_table, encode_table

__all__ = ["Layout", "decode_text", "encode_short_string"]

SYNTAX_ERROR = 502
MAX_SHORT_STRING_BYTES = 255

_LENGTH = struct.Struct(">I")
_NUMBERS = {
    "octet": struct.Struct(">B"),
    "short": struct.Struct(">H"),
    "long": struct.Struct(">I"),
    "longlong": struct.Struct(">Q"),
}
_EMPTY: Mapping[str, Any] = {"shortstr": "", "longstr": b"", "bit": False}
"""What is sent for a reserved field; 0 where it is a number."""


class Layout:
    """The layout `words`: the kinds of a method's arguments in their order, a reserved one as `(kind)`.

    Bits that follow one another share an octet, the first in the lowest bit. `names` are those of the arguments that
    are not reserved, for errors.
    """

    __slots__ = ("_fields", "_method")

    def __init__(self, method: str, words: str, names: Sequence[str]) -> None:
        self._method = method
        self._fields: list[tuple[str, str | None]] = []
        left = list(names)
        for word in words.split():
            reserved = word.startswith("(")
            self._fields.append((word.strip("()"), None if reserved else left.pop(0)))
        assert not left, f"{method} has more fields than its layout"

    def encode(self, method: object) -> bytes:
        """The arguments of `method` as bytes. `ArgumentError`, naming the argument, for one that does not fit."""
        pieces: list[bytes] = []
        bits: int | None = None
        place = 0
        for kind, name in self._fields:
            value = _EMPTY.get(kind, 0) if name is None else getattr(method, name)
            if kind == "bit":
                bits = (bits or 0) | bool(value) << place
                place += 1
                continue
            if bits is not None:
                pieces.append(bytes((bits,)))
                bits, place = None, 0
            pieces.append(self._encode_one(kind, name, value))
        if bits is not None:
            pieces.append(bytes((bits,)))
        return b"".join(pieces)

    def _encode_one(self, kind: str, name: str | None, value: Any) -> bytes:
        if kind == "shortstr":
            return encode_short_string(value, f"{self._method}.{name}")
        if kind == "table":
            return encode_table(value)
        if kind == "longstr":
            return b"%b%b" % (_LENGTH.pack(len(value)), value)
        number = _NUMBERS[kind]
        try:
            return number.pack(value)
        except struct.error:
            bits = 8 * number.size
            raise ArgumentError(
                f"{self._method}.{name}: expected {bits} bits without sign, got {value!r:.100}"
            ) from None

    def decode(self, data: bytes, offset: int) -> list[Any]:
        """The arguments from `offset` of `data` on, which they must fill; `ProtocolError` (502) if they do not."""
        try:
            values, end = self._decode(data, offset)
        except (IndexError, struct.error):
            raise ProtocolError(SYNTAX_ERROR, f"expected a whole {self._method}, got {len(data)} bytes of it") from None
        if end != len(data):
            raise ProtocolError(SYNTAX_ERROR, f"expected a {self._method} of {end} bytes, got {len(data)}")
        return values

    def _decode(self, data: bytes, offset: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        place = 0
        for kind, name in self._fields:
            value: Any
            if kind == "bit":
                if not place:
                    offset += 1
                value = bool(data[offset - 1] >> place & 1)
                place += 1
            else:
                place = 0
                if kind == "shortstr":
                    start = offset + 1
                    offset = start + data[offset]
                    value = decode_text(data[start:offset])
                elif kind == "table":
                    value, offset = decode_table(data, offset)
                elif kind == "longstr":
                    start = offset + 4
                    offset = start + _LENGTH.unpack_from(data, offset)[0]
                    value = data[start:offset]
                else:
                    value = _NUMBERS[kind].unpack_from(data, offset)[0]
                    offset += _NUMBERS[kind].size
            if name is not None:
                values.append(value)
        return values, offset


def encode_short_string(value: str, name: str) -> bytes:
    """`value` with its length in one octet; `ArgumentError`, naming `name`, above 255 bytes of UTF-8."""
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{name}: expected text that is valid UTF-8, got {value!r:.100}") from None
    if len(raw) > MAX_SHORT_STRING_BYTES:
        raise ArgumentError(
            f"{name}: expected at most {MAX_SHORT_STRING_BYTES} bytes of UTF-8, got {len(raw)}: {value!r:.100}"
        )
    return b"%c%b" % (len(raw), raw)


def decode_text(raw: bytes) -> str:
    """`raw` as text; what is not UTF-8 becomes a question mark, so that the text is never longer than its bytes.

    Thus a name that a peer sent can always be sent back, by a cancel-ok or in the copy of a message.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace").replace("\ufffd", "?")
