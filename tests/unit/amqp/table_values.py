"""Random field tables for the tests of the codec, and what damages bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

__all__ = ["damaged", "in_bytes", "names", "short_texts", "tables"]


def fits(limit: int) -> Any:
    return lambda text: len(text.encode()) <= limit


names = st.text(max_size=30).filter(fits(100))
short_texts = st.text(max_size=255).filter(fits(255))

_whole_seconds = st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
_decimals = st.builds(
    lambda number, places: Decimal(number).scaleb(-places), st.integers(-(2**31), 2**31 - 1), st.integers(0, 255)
)
_plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-300, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | _whole_seconds
    | _decimals
)
_values = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
tables = st.dictionaries(names, _values, max_size=6)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of `whole` with some changed, cut off or doubled."""
    raw = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.integers(0, 3)):
            case 0 if at < len(raw):
                raw[at] = draw(st.integers(0, 255))
            case 1:
                del raw[at:]
            case 2:
                raw[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                raw[at:at] = raw[at : at + 8]
    return bytes(raw)


def in_bytes(value: Any) -> Any:
    """`value` as pamqp read it, with bytes for its bytearrays."""
    match value:
        case bytearray():
            return bytes(value)
        case dict():
            return {name: in_bytes(inner) for name, inner in value.items()}
        case list():
            return [in_bytes(inner) for inner in value]
    return value
