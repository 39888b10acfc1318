"""Annotations for the wire types that Python has no type of its own for.

    from dispatcher.types import Int8, Uint64

    @app.task
    def resize(level: Int8, size: Uint64) -> None: ...

A plain `int` travels as `int` (64 bits, signed), `float` as `float64`. To a type checker these are `int` and `float`;
the range is checked when a task is sent and again before it runs. Inside a container or a dataclass, which travel as
`json`, integers are range-checked too, floats are not. Nothing but these names lives here.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from .model.wire import WireType

__all__ = [
    "Float32",
    "Float64",
    "Int",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "Uint",
    "Uint8",
    "Uint16",
    "Uint32",
    "Uint64",
]

Int: TypeAlias = Annotated[int, WireType("int"), Meta(ge=-(2**63), le=2**63 - 1)]
Int8: TypeAlias = Annotated[int, WireType("int8"), Meta(ge=-(2**7), le=2**7 - 1)]
Int16: TypeAlias = Annotated[int, WireType("int16"), Meta(ge=-(2**15), le=2**15 - 1)]
Int32: TypeAlias = Annotated[int, WireType("int32"), Meta(ge=-(2**31), le=2**31 - 1)]
Int64: TypeAlias = Annotated[int, WireType("int64"), Meta(ge=-(2**63), le=2**63 - 1)]
# msgspec holds bounds in 64 signed bits, so inside a container the upper bound of these two is not checked.
Uint: TypeAlias = Annotated[int, WireType("uint"), Meta(ge=0)]
Uint64: TypeAlias = Annotated[int, WireType("uint64"), Meta(ge=0)]
Uint8: TypeAlias = Annotated[int, WireType("uint8"), Meta(ge=0, le=2**8 - 1)]
Uint16: TypeAlias = Annotated[int, WireType("uint16"), Meta(ge=0, le=2**16 - 1)]
Uint32: TypeAlias = Annotated[int, WireType("uint32"), Meta(ge=0, le=2**32 - 1)]
Float32: TypeAlias = Annotated[float, WireType("float32")]
Float64: TypeAlias = Annotated[float, WireType("float64")]
