"""Statements that carry many rows, and rows cut to fit them. Pure: nothing here runs a statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["CHUNKS", "chunks", "insert_messages", "marks", "runs"]

CHUNKS = (64, 16, 4, 1)
"""How many rows a statement carries."""


def chunks(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """`rows` in pieces of few different sizes, so that each statement is prepared once."""
    start = 0
    for size in CHUNKS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def marks(count: int) -> str:
    """Places for so many values."""
    return ",".join("?" * count)


def insert_messages(columns: Sequence[str], size: int) -> str:
    """The statement that inserts `size` messages."""
    row = f"({marks(len(columns))})"
    return f"INSERT INTO messages ({', '.join(columns)}) VALUES {', '.join([row] * size)}"


def runs(ids: Sequence[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Ascending ids as runs of neighbours (first, last), and those that are not worth a statement of their own."""
    found: list[tuple[int, int]] = []
    singles: list[int] = []
    start = 0
    for index in range(1, len(ids) + 1):
        if index == len(ids) or ids[index] != ids[index - 1] + 1:
            if index - start >= 4:
                found.append((ids[start], ids[index - 1]))
            else:
                singles += ids[start:index]
            start = index
    return found, singles
