"""The numbers that options take, refused in plain words: what was expected, and what came. No option is defined here."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["Seconds", "WholeNumber"]


class WholeNumber(click.IntRange):
    """An integer from `min` to `max`, both included; a `max` of None sets no upper bound."""

    def __init__(self, min: int, max: int | None = None) -> None:
        super().__init__(min, max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            most = "or more" if self.max is None else f"to {self.max}"
            self.fail(f"expected a whole number, {self.min} {most}, got {value!r}", param, ctx)


class Seconds(click.FloatRange):
    """A number of seconds, zero or more. `inf` is one, `nan` is none."""

    def __init__(self) -> None:
        super().__init__(0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            seconds = super().convert(value, param, ctx)
        except click.BadParameter:
            seconds = None
        if seconds is None or seconds != seconds:  # only nan differs from itself; no bound of a range refuses it
            self.fail(f"expected a number of seconds, 0 or more, got {value!r}", param, ctx)
        return seconds
