"""The longest delay, and the bands in which delayed messages are counted: what every broker has in common. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from ..errors import ConfigError
from ..model.retry import MAX_DELAY_SECONDS
from .base import DelayBand

__all__ = ["BANDS", "MAX_DELAY_MS", "bands_of", "check_delay"]

MINUTE, HOUR, DAY = 60, 3_600, 86_400

MAX_DELAY_MS = 1_000 * (MAX_DELAY_SECONDS + DAY)
"""A day more than a task may ask for: on its way here it is rounded, and a clock may be set meanwhile."""

_ENDS = (1, 10, MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY, MAX_DELAY_SECONDS)

BANDS: tuple[tuple[float, float | None], ...] = tuple(zip((0, *_ENDS), (*_ENDS, None), strict=True))
"""From more than so many seconds to so many, None for however many: a clock that was set back makes delays longer."""


def check_delay(delay_ms: int) -> None:
    """`ConfigError` for more than ten years."""
    if delay_ms > MAX_DELAY_MS:
        raise ConfigError(f"delay: expected at most ten years ({MAX_DELAY_MS} ms), got {delay_ms} ms")


def bands_of(queue: str, remaining_ms: Iterable[int]) -> list[DelayBand]:
    """The bands of the messages of one queue that wait for so many milliseconds each, the empty ones left out."""
    counts = Counter(bisect_left(_ENDS, remaining / 1_000) for remaining in remaining_ms)
    return [DelayBand(*BANDS[index], counts[index], queue) for index in sorted(counts)]
