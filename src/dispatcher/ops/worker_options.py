"""What `dispatcher worker` may be told, said once for the command itself and for the processes it starts. No behaviour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from .option_types import Seconds, WholeNumber

__all__ = ["WorkerOptions", "worker_options"]

Function = TypeVar("Function", bound=Callable[..., Any])

LEVELS = ("debug", "info", "warning", "error", "critical")


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options that every worker process gets.

    `queues`: comma-separated, empty means those of the app's tasks. `grace_seconds`: None waits for running tasks.
    `name`: None leaves it to the app. `prefetch`: None is as in `Dispatcher.run_worker`.
    """

    target: str
    queues: str
    limit: int
    prefetch: int | None
    burst: bool
    level: str
    log_format: str
    grace_seconds: float | None
    name: str | None

    @property
    def queue_names(self) -> list[str] | None:
        """The queues, None for those of the app's tasks."""
        names = [name.strip() for name in self.queues.split(",")]
        return list(dict.fromkeys(name for name in names if name)) or None

    def words(self, number: int) -> list[str]:
        """These options as the command line of process `number` (from zero) under a supervisor."""
        words = ["--limit", str(self.limit), "--log-level", self.level, "--log-format", self.log_format]
        if self.queues:
            words += ["--queues", self.queues]
        if self.prefetch is not None:
            words += ["--prefetch", str(self.prefetch)]
        if self.burst:
            words.append("--burst")
        if self.grace_seconds is not None:
            words += ["--grace", repr(self.grace_seconds)]
        if self.name is not None:
            words += ["--name", f"{self.name}-{number + 1}"]
        return [*words, "--", self.target]


def worker_options(function: Function) -> Function:
    """Give a click command the argument and options of `WorkerOptions`."""
    decorators = (
        click.argument("target", metavar="MODULE:APP"),
        click.option(
            "-Q", "--queues", default="", metavar="Q1,Q2",
            help="Queues to take from.  [default: those of the app's tasks]",
        ),
        click.option(
            "-c", "--limit", default=32, show_default=True, type=WholeNumber(1, 65_535),
            help="Tasks running at once in one process.",
        ),
        click.option(
            "--prefetch", default=None, type=WholeNumber(1, 65_535),
            help="Tasks taken from each queue and not done yet, running ones included; what waits here no other worker can have."
            "  [default: the limit, and as many again where a task can overrun its timeout]",
        ),
        click.option("--burst", is_flag=True, help="End when the queues are empty."),
        click.option(
            "-l", "--log-level", "level", default="info", show_default=True,
            type=click.Choice(LEVELS, case_sensitive=False), help="The least level that is logged.",
        ),
        click.option(
            "--log-format", default="console", show_default=True, type=click.Choice(["console", "json"]),
            help="For people, or one JSON object a line.",
        ),
        click.option(
            "--grace", "grace_seconds", default=None, type=Seconds(), metavar="SECONDS",
            help="How long a drain waits for running tasks before it hands them back.  [default: as long as they take]",
        ),
        click.option("--name", default=None, help="The worker's name, as brokers and logs show it."),
    )  # fmt: skip
    for decorator in reversed(decorators):
        function = decorator(function)
    return function
