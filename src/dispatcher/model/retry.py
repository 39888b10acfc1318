"""When to try a failed task again, and after how long. Pure: the spread that jitter asks for is drawn by `settle`."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from ..errors import ConfigError

__all__ = ["DEFAULT_ASKED_POLICY", "MAX_DELAY_SECONDS", "Failure", "RetryPolicy", "RetryRule"]

MAX_DELAY_SECONDS = 3_653 * 86_400
"""The longest delay anywhere: ten years, with three leap days among them."""

Backoff = Literal["exponential", "linear", "constant"]

_force = msgspec.structs.force_setattr


class Failure(msgspec.Struct, frozen=True):
    """What is kept of an exception: strings only, so that it crosses processes and is never rebuilt.

    `type` is the exception's qualified name, `lineage` those of its class and all its bases, `traceback` its text.
    `asked` is true when the task raised `Retry` itself.
    """

    type: str
    message: str
    traceback: str = ""
    lineage: tuple[str, ...] = ()
    asked: bool = False

    def is_a(self, classes: Sequence[builtins.type[BaseException]]) -> bool:
        """Whether the exception was an instance of one of `classes`."""
        return any(f"{cls.__module__}.{cls.__qualname__}" in self.lineage for cls in classes)


class RetryRule(Protocol):
    """What a task's `retry` may be: `RetryPolicy`, or anything with these two members."""

    @property
    def jitter(self) -> bool:
        """Whether the delay is spread at random over its upper half, so that a crowd of failures does not return at once."""
        ...

    def delay_seconds(self, attempt: int, failure: Failure, /) -> float | None:
        """Seconds to wait after the failed `attempt` (1-based), or None to give up."""
        ...


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Try a failed task up to `max_attempts` times in all, the first run included.

    `backoff`: `"exponential"` (base, 2 base, 4 base, …), `"linear"` (base, 2 base, 3 base, …), `"constant"`, or a list
    of seconds whose last entry repeats.
    `base_seconds`, `max_seconds`: the first delay and the longest. Zero means at once.
    `jitter`: spread each delay at random over its upper half.
    `retry_on`: only these exceptions are tried again, none given means all; `give_up_on`: these never are.
    """

    max_attempts: int = 5
    backoff: Backoff | Sequence[float] = "exponential"
    base_seconds: float = 1.0
    max_seconds: float = 3600.0
    jitter: bool = True
    retry_on: tuple[type[BaseException], ...] = ()
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise ConfigError(f"max_attempts: expected an integer of 1 or more, got {self.max_attempts!r}")
        for what in ("base_seconds", "max_seconds"):
            _check_seconds(what, getattr(self, what))
        if isinstance(self.backoff, str):
            if self.backoff not in ("exponential", "linear", "constant"):
                raise ConfigError(
                    f"backoff: expected 'exponential', 'linear', 'constant' or a list of seconds, got {self.backoff!r}"
                )
        else:
            steps = tuple(self.backoff)
            if not steps:
                raise ConfigError("backoff: expected at least one number of seconds, got an empty list")
            for step in steps:
                _check_seconds("backoff", step)
            _force(self, "backoff", steps)
        for what in ("retry_on", "give_up_on"):
            _force(self, what, _check_classes(what, getattr(self, what)))

    def delay_seconds(self, attempt: int, failure: Failure) -> float | None:
        if attempt >= self.max_attempts:
            return None
        if not failure.asked:
            if failure.is_a(self.give_up_on):
                return None
            if self.retry_on and not failure.is_a(self.retry_on):
                return None
        return min(self.max_seconds, self._step_seconds(attempt))

    def _step_seconds(self, attempt: int) -> float:
        if not isinstance(self.backoff, str):
            return self.backoff[min(attempt, len(self.backoff)) - 1]
        if self.backoff == "exponential":
            return self.base_seconds * 2.0 ** min(attempt - 1, 60)
        if self.backoff == "linear":
            return self.base_seconds * attempt
        return self.base_seconds


def _check_seconds(what: str, seconds: Any) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
        raise ConfigError(f"{what}: expected a number of seconds, zero or more, got {seconds!r}")


def _check_classes(what: str, classes: Any) -> tuple[type[BaseException], ...]:
    if isinstance(classes, type):
        classes = (classes,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise ConfigError(f"{what}: expected exception classes, got {cls!r}")
    return tuple(classes)


DEFAULT_ASKED_POLICY = RetryPolicy(max_attempts=3)
"""Bounds a task that raises `Retry` and has no policy of its own."""
