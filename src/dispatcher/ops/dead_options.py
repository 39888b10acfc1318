"""What the `dispatcher dead` commands share: the options that choose letters, the queues they mean, a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click

from ..brokers.base import Session
from ..model.outcome import REASONS
from ..model.topology import DELAY_EXCHANGE
from ..runtime.dead_letter import Filter
from ..runtime.dead_letters import dead_total
from .connect import broker_option
from .failures import EXIT_USAGE, CliError
from .locate import looks_like_target, pick
from .option_types import Age

__all__ = ["bar", "filter_options", "moment_ms", "not_there", "queue_option", "queues_meant", "split", "wanted_of"]

Function = TypeVar("Function", bound=Callable[..., Any])

queue_option = click.option("-Q", "--queue", default=None, help="Only the dead letters of this queue.")


def filter_options(function: Function) -> Function:
    """Give a click command `--url`, `-Q` and the options that `wanted_of` takes."""
    decorators = (
        broker_option,
        queue_option,
        click.option("--task", default=None, help="Only those of this task."),
        click.option("--reason", default=None, type=click.Choice(REASONS), help="Only those that died of this."),
        click.option("--error", default=None, metavar="TEXT", help="Only those with TEXT in their error or reason."),
        click.option("--older", default=None, type=Age(), help="Only those that died longer ago, such as 7d."),
        click.option("--newer", default=None, type=Age(), help="Only those that died since, such as 30m."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def wanted_of(
    *,
    task: str | None,
    reason: Any,
    error: str | None,
    older: int | None,
    newer: int | None,
    uuids: Collection[str] | None = None,
) -> Filter:
    """The filter that the options name."""
    return Filter(
        task=task,
        reason=reason,
        error=error,
        dead_before_ms=None if older is None else moment_ms(older),
        dead_after_ms=None if newer is None else moment_ms(newer),
        uuids=uuids,
    )


def moment_ms(age_seconds: int) -> int:
    """When that was, as Unix milliseconds."""
    return int((time.time() - age_seconds) * 1000)


def split(words: Sequence[str], url: str | None) -> tuple[str | None, list[str]]:
    """`[MODULE:APP] UUID…` apart. With --url every word is a uuid, also one that looks like module:app."""
    if words and url is None and looks_like_target(words[0]):
        return words[0], list(words[1:])
    return None, list(words)


async def queues_meant(session: Session, queue: str | None) -> list[str]:
    """The queues whose dead letters are meant; None is all that the broker tells of."""
    if queue == DELAY_EXCHANGE:
        return [queue]  # not among all: they are of every app
    known = sorted(depth.name for depth in await session.inspector.queues())
    if queue is None:
        return known
    return [pick("queue", queue, {name: name for name in known}, exit_code=EXIT_USAGE)]


def not_there(uuids: Sequence[str]) -> CliError:
    return CliError(
        f"no dead letter {', '.join(uuids)}", "'dispatcher dead list' shows which there are", exit_code=EXIT_USAGE
    )


@asynccontextmanager
async def bar(session: Session, queues: list[str], label: str) -> AsyncIterator[Callable[[int], None]]:
    """A progress bar over all letters of `queues`, on a terminal only."""
    length = 0
    for queue in queues:
        length += await dead_total(session.inspector, queue)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=hidden, show_pos=True) as shown:
        yield shown.update
