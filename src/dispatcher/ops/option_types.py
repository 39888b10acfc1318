"""The numbers that options take, refused in plain words: what was expected, and what came. No option is defined here."""

from __future__ import annotations

import math
import re
from typing import Any

import click
import msgspec

__all__ = ["Age", "NewArgument", "Rate", "Seconds", "WholeNumber"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
AGE = re.compile(r"([0-9]{1,9})([smhd])")


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


class Rate(click.ParamType[float]):
    """A number a second, `least` or more; neither `inf` nor `nan`."""

    name = "N"

    def __init__(self, least: float) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            rate = float(value)
        except ValueError:
            rate = 0.0
        if not self.least <= rate < math.inf:
            self.fail(f"expected a number a second, {self.least} or more, got {value!r}", param, ctx)
        return rate


class Age(click.ParamType[int]):
    """How long ago, in seconds: a whole number and its unit, `90s`, `30m`, `12h` or `7d`."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = AGE.fullmatch(value)
        if found is None:
            self.fail(f"expected an age such as 90s, 30m, 12h or 7d, got {value!r}", param, ctx)
        return int(found[1]) * UNITS[found[2]]


class NewArgument(click.ParamType[tuple[int, Any]]):
    """`INDEX=JSON`: an argument's place, from 0, and its new value."""

    name = "INDEX=JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, Any]:
        if isinstance(value, tuple):
            return value
        index, equals, text = value.partition("=")
        if not equals or re.fullmatch("[0-9]{1,9}", index) is None:
            self.fail(f"expected INDEX=JSON with an index from 0, such as 0=42, got {value!r}", param, ctx)
        try:
            return int(index), msgspec.json.decode(text)
        except ValueError:
            example = f"{index}={msgspec.json.encode(text or 'text').decode('utf-8')}"
            self.fail(f"expected JSON after '{index}=', got {text!r}; a text has quotes: '{example}'", param, ctx)
