"""`dispatcher dead replay|purge|retention`: what changes dead letters. It asks, and draws progress; `runtime` does the work."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import click

from ..brokers.base import Session
from ..model.task import Task
from ..runtime.dead_letter import DeadLetter, Edit, Filter, Retention, with_arguments
from ..runtime.dead_letters import LEAST_RATE, ReplayReport, count, dead_letters, purge, replay
from .connect import Place, broker_option, broker_place, looking
from .dead_edit import edited_by_hand
from .dead_options import bar, filter_options, moment_ms, not_there, queue_option, queues_meant, split, wanted_of
from .failures import EXIT_USAGE, CliError, as_cli_error
from .option_types import Age, NewArgument, Rate, WholeNumber

__all__ = ["purge_command", "replay_command", "retention_command"]


@click.command("replay")
@click.argument("words", metavar="[MODULE:APP] [UUID]...", nargs=-1)
@filter_options
@click.option("--all", "every", is_flag=True, help="All that the filters leave.")
@click.option("--to", "to_queue", default=None, metavar="QUEUE", help="To another queue than the one they died in.")
@click.option("--rate", default=None, type=Rate(LEAST_RATE), help="So many a second, evenly.  [default: no bound]")
@click.option("--edit", "by_hand", is_flag=True, help="Edit the task of the one UUID in $VISUAL or $EDITOR first.")
@click.option(
    "--set-arg", "arguments", type=NewArgument(), multiple=True, help="Give an argument, from 0, another value."
)
@click.pass_context
def replay_command(
    ctx: click.Context, /, words: tuple[str, ...], url: str | None, queue: str | None, every: bool, to_queue: str | None,
    rate: float | None, by_hand: bool, arguments: tuple[tuple[int, Any], ...], **filters: Any,
) -> None:  # fmt: skip
    """Send dead letters to their queue again: those of the UUIDs, or --all that the filters leave.

    Their attempts start again at 1. A letter is removed once the broker has the task; an interruption in between
    leaves both, never none.
    """
    target, uuids = split(words, url)
    _check_combination(uuids, every, by_hand, arguments)
    place = broker_place(ctx, target, url)
    wanted = wanted_of(uuids=frozenset(uuids) if uuids else None, **filters)
    edit: Edit | None = None
    if by_hand:
        edit = _as_it_was_edited(*asyncio.run(_only_letter(place, queue, to_queue, wanted, uuids)))
    elif arguments:
        edit = partial(with_arguments, values=arguments)
    report = asyncio.run(_replay(place, queue, wanted, to_queue, rate, edit))
    click.echo(f"replayed {report.replayed}")
    if report.first_error is not None:
        failure = as_cli_error(report.first_error)
        raise CliError(
            f"{report.failed} were not accepted and stay: {failure.message}", failure.hint, exit_code=failure.exit_code
        )
    if missing := [uuid for uuid in uuids if uuid not in report.uuids]:
        raise not_there(missing)


def _check_combination(uuids: Sequence[str], every: bool, by_hand: bool, arguments: Sequence[tuple[int, Any]]) -> None:
    hint = "'dispatcher dead list' shows the uuids"
    if bool(uuids) == every:
        got = "both" if every else "neither"
        raise CliError(f"expected UUIDs or --all, got {got}", hint, exit_code=EXIT_USAGE)
    if by_hand and len(uuids) != 1:
        got = "--all" if every else f"{len(uuids)} of them"
        raise CliError(
            f"--edit: expected exactly one UUID, got {got}",
            "--set-arg changes many without an editor",
            exit_code=EXIT_USAGE,
        )
    if by_hand and arguments:
        raise CliError("expected --edit or --set-arg, got both", "leave one of them out", exit_code=EXIT_USAGE)


async def _only_letter(
    place: Place, queue: str | None, to_queue: str | None, wanted: Filter, uuids: Sequence[str]
) -> list[DeadLetter]:
    async with looking(place, "dispatcher dead") as session:
        queues = await _queues_of_replay(session, queue, to_queue)
        async with aclosing(dead_letters(session.inspector, queues, wanted)) as letters:
            found = [letter async for letter in letters]
    if not found:
        raise not_there(uuids)
    if len(found) > 1:
        raise CliError(
            f"{len(found)} dead letters have the uuid {uuids[0]}",
            "narrow it down with -Q, --reason, --older or --newer",
            exit_code=EXIT_USAGE,
        )
    return found


def _as_it_was_edited(letter: DeadLetter) -> Edit:
    """What a person made of `letter`. Nothing of the broker is held meanwhile, so it may be another's by then."""
    task = edited_by_hand(letter)

    def edit(now: DeadLetter) -> Task:
        if now.body != letter.body:
            raise CliError(
                f"dead letter {letter.uuid} is not the one that was edited any more",
                "look at it again",
                exit_code=EXIT_USAGE,
            )
        return task

    return edit


async def _queues_of_replay(session: Session, queue: str | None, to_queue: str | None) -> list[str]:
    if to_queue is not None:
        await queues_meant(session, to_queue)
    return await queues_meant(session, queue)


async def _replay(
    place: Place, queue: str | None, wanted: Filter, to_queue: str | None, rate: float | None, edit: Edit | None
) -> ReplayReport:
    async with looking(place, "dispatcher dead") as session:
        queues = await _queues_of_replay(session, queue, to_queue)
        async with bar(session, queues, "replaying") as step:
            return await replay(session, queues, wanted, to_queue=to_queue, rate=rate, edit=edit, progress=step)


@click.command("purge")
@click.argument("target", metavar="[MODULE:APP]", required=False)
@filter_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def purge_command(
    ctx: click.Context, /, target: str | None, url: str | None, queue: str | None, yes: bool, **filters: Any
) -> None:
    """Delete dead letters for good: all that the filters leave. Asks first."""
    _delete(broker_place(ctx, target, url), queue, wanted_of(**filters), yes)


@click.command("retention")
@click.argument("target", metavar="[MODULE:APP]", required=False)
@broker_option
@queue_option
@click.option("--older", required=True, type=Age(), help="Delete those that died longer ago, such as 30d.")
@click.option("--keep", default=None, type=WholeNumber(0), help="Delete all but the newest so many of each queue, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def retention_command(
    ctx: click.Context,
    /,
    target: str | None,
    url: str | None,
    queue: str | None,
    older: int,
    keep: int | None,
    yes: bool,
) -> None:
    """Delete dead letters that were kept long enough, for good. Asks first; for cron, say --yes."""
    wanted = Retention(dead_before_ms=moment_ms(older), keep=keep)
    _delete(broker_place(ctx, target, url), queue, wanted, yes)


def _delete(place: Place, queue: str | None, wanted: Filter | Retention, yes: bool) -> None:
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise CliError(
                "expected --yes, since there is no terminal to ask on", "add --yes to delete", exit_code=EXIT_USAGE
            )
        letters = asyncio.run(_count(place, queue, wanted))
        if letters:
            click.confirm(f"Delete {letters} dead letters{f' of queue {queue}' if queue else ''} for good?", abort=True)
    click.echo(f"deleted {asyncio.run(_purge(place, queue, wanted))}")


async def _count(place: Place, queue: str | None, wanted: Filter | Retention) -> int:
    async with looking(place, "dispatcher dead") as session:
        return await count(session.inspector, await queues_meant(session, queue), wanted)


async def _purge(place: Place, queue: str | None, wanted: Filter | Retention) -> int:
    async with looking(place, "dispatcher dead") as session:
        queues = await queues_meant(session, queue)
        async with bar(session, queues, "deleting") as step:
            return await purge(session.inspector, queues, wanted, progress=step)
