"""What a person sees: colour, tables, a progress bar. Nothing here reads the environment; `cli` has decided on colour."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TextIO, cast

import click

from ..observe.text import clean

__all__ = [
    "SHOW_CURSOR",
    "BarStream",
    "echo_block",
    "echo_table",
    "local_time",
    "log_stream",
    "shortened",
    "wants_color",
]

CLEAR_LINE = "\r\x1b[K"
SHOW_CURSOR = b"\x1b[?25h"
"""A progress bar hides the cursor; who ends without closing the bar must show it again."""


def wants_color(ctx: click.Context, stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal whose user did not refuse colour."""
    return ctx.color is not False and stream is not None and stream.isatty()


def echo_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> None:
    """Print a table; the columns in `right` are numbers. None shows as `-`, meaning that it is not known."""
    cells = [["-" if value is None else clean(str(value)) for value in row] for row in rows]
    widths = [max(len(head), *(len(row[i]) for row in cells)) if cells else len(head) for i, head in enumerate(heads)]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    click.echo(click.style(line(heads), bold=True))
    for row in cells:
        click.echo(line(row))


def local_time(unix_ms: int | None) -> str | None:
    """`2026-10-03 14:05:09` in local time; None stays None."""
    if unix_ms is None:
        return None
    try:
        return datetime.fromtimestamp(unix_ms / 1000).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return str(unix_ms)  # a header a stranger wrote: no such time


def shortened(text: str, length: int) -> str:
    """The first line of `text`, at most `length` characters."""
    first = text.split("\n", 1)[0]
    return first if len(first) <= length else first[: length - 1] + "…"


def echo_block(name: str, text: str) -> None:
    """Print `name  text`; what follows a line end is indented, so that no text can pass for a line of its own."""
    safe = clean(text, max_bytes=None, block=True).replace("\n", "\n  ")
    click.echo(f"{click.style(name, bold=True)}  {safe}")


def log_stream(*, burst: bool) -> TextIO | None:
    """Where log lines go: around the progress bar that a burst has on a terminal, else None, which is standard error."""
    if not burst or sys.stderr is None or not sys.stderr.isatty():
        return None
    return cast(TextIO, BarStream(sys.stderr))  # it has all that a log handler uses


class BarStream(io.TextIOBase):
    """A stream for log lines on a terminal that has a progress bar on it: clears the bar's line before each of them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(CLEAR_LINE + text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return True
