"""`dispatcher dead list|show|replay|purge`: the face of `dead_letters`. It asks, prints and draws; it decides nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import click
import msgspec

from ..brokers.base import Session
from ..errors import DecodeError
from ..model.codec import decode_body
from ..model.headers import PREFIX
from ..model.history import history_of
from ..model.outcome import REASONS
from ..model.topology import DELAY_EXCHANGE
from .connect import Place, broker_option, broker_place, looking
from .dead_letters import DeadLetter, Filter, ReplayReport, dead_letters, dead_total, purge, queue_names, replay
from .failures import EXIT_USAGE, CliError, as_cli_error
from .locate import looks_like_target, pick
from .option_types import WholeNumber
from .terminal import echo_block, echo_table, local_time, shortened

__all__ = ["command"]

ERROR_WIDTH = 60
BODY_SHOWN = 4_000

Function = TypeVar("Function", bound=Callable[..., Any])


def _filters(function: Function) -> Function:
    decorators = (
        broker_option,
        click.option("-Q", "--queue", default=None, help="Only the dead letters of this queue."),
        click.option("--task", default=None, help="Only those of this task."),
        click.option("--reason", default=None, type=click.Choice(REASONS), help="Only those that died of this."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


@click.group("dead")
def command() -> None:
    """List, show, replay or delete dead letters: messages parked after their last attempt, each with its reason.

    The broker is that of MODULE:APP, or --url, or $DISPATCHER_URL, or sqlite:///dispatcher.db.
    """


@command.command("list")
@click.argument("target", metavar="[MODULE:APP]", required=False)
@_filters
@click.option("--limit", default=100, show_default=True, type=WholeNumber(1), help="Show at most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def _list_command(
    ctx: click.Context, target: str | None, url: str | None, queue: str | None, task: str | None, reason: Any,
    limit: int, as_json: bool,
) -> None:  # fmt: skip
    """List dead letters, oldest first."""
    asyncio.run(_list(broker_place(ctx, target, url), queue, Filter(task=task, reason=reason), limit, as_json))


async def _list(place: Place, queue: str | None, wanted: Filter, limit: int, as_json: bool) -> None:
    rows: list[tuple[object, ...]] = []
    shown = 0
    more = False
    async with looking(place, "dispatcher dead") as session:
        async with aclosing(_all_letters(session, await _queues(session, queue), wanted)) as letters:
            async for letter in letters:
                if shown >= limit:
                    more = True
                    break
                shown += 1
                if as_json:
                    click.echo(_as_json(letter))
                else:
                    rows.append(_row(letter))
    if not as_json:
        echo_table(("UUID", "TASK", "QUEUE", "REASON", "ATTEMPT", "DIED", "ERROR"), rows, right=(4,))
    if more:
        click.echo(f"there are more than {limit}: --limit shows more, -Q, --task and --reason narrow it down", err=True)


def _row(letter: DeadLetter) -> tuple[object, ...]:
    error = f"{letter.error_type}: {letter.error}" if letter.error_type else letter.text
    return (
        letter.uuid or None,
        letter.task or None,
        letter.queue,
        letter.reason or None,
        letter.attempt,
        local_time(letter.dead_at_ms),
        shortened(error, ERROR_WIDTH),
    )


async def _all_letters(session: Session, queues: list[str], wanted: Filter) -> AsyncGenerator[DeadLetter, None]:
    """Who leaves it early closes it, as a browse."""
    for queue in queues:
        async with aclosing(dead_letters(session.inspector, queue, wanted)) as letters:
            async for letter in letters:
                yield letter


async def _queues(session: Session, queue: str | None) -> list[str]:
    if queue == DELAY_EXCHANGE:
        return [queue]  # not among all: they are of every app
    known = await queue_names(session.inspector)
    if queue is None:
        return known
    return [pick("queue", queue, {name: name for name in known}, exit_code=EXIT_USAGE)]


@command.command("show")
@click.argument("words", metavar="[MODULE:APP] UUID", nargs=-1)
@broker_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def _show_command(ctx: click.Context, words: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Show the dead letter of UUID whole: arguments, headers, error and traceback."""
    target, uuids = _split(words, url)
    if len(uuids) != 1:
        raise CliError(
            f"expected one UUID, got {len(uuids)}", "'dispatcher dead list' shows them", exit_code=EXIT_USAGE
        )
    asyncio.run(_show(broker_place(ctx, target, url), uuids[0], as_json))


def _split(words: tuple[str, ...], url: str | None) -> tuple[str | None, list[str]]:
    """`[MODULE:APP] UUID…` apart. With --url every word is a uuid, also one that looks like module:app."""
    if words and url is None and looks_like_target(words[0]):
        return words[0], list(words[1:])
    return None, list(words)


async def _show(place: Place, uuid: str, as_json: bool) -> None:
    found = 0
    async with looking(place, "dispatcher dead") as session:
        async with aclosing(_all_letters(session, await _queues(session, None), Filter(uuids={uuid}))) as letters:
            async for letter in letters:
                found += 1
                if as_json:
                    click.echo(_as_json(letter))
                else:
                    _echo_letter(letter)
    if not found:
        raise _not_there([uuid])


def _not_there(uuids: list[str]) -> CliError:
    return CliError(
        f"no dead letter {', '.join(uuids)}", "'dispatcher dead list' shows which there are", exit_code=EXIT_USAGE
    )


def _echo_letter(letter: DeadLetter) -> None:
    message = letter.message
    lines = (
        ("uuid", letter.uuid),
        ("task", letter.task or "- (the body is not a task)"),
        ("queue", letter.queue),
        ("reason", letter.reason or "-"),
        ("text", letter.text),
        ("attempt", str(letter.attempt)),
        ("died", local_time(letter.dead_at_ms) or "-"),
        ("priority", "-" if message.priority is None else str(message.priority)),
    )
    for name, text in lines:
        echo_block(name, text)
    echo_block("body", message.body.decode("utf-8", "backslashreplace")[:BODY_SHOWN])
    for name, value in sorted((message.headers or {}).items()):
        if not name.startswith(PREFIX):
            echo_block(f"header {name}", repr(value))
    for failed in history_of(message.headers or {}):
        when = local_time(failed.at_ms)
        echo_block(f"attempt {failed.attempt}", f"{when} on {failed.where}: {failed.error_type}: {failed.error}")
    if letter.error_type:
        echo_block("error", f"{letter.error_type}: {letter.error}")
    if letter.traceback:
        echo_block("traceback", "\n" + letter.traceback.rstrip("\n"))
    click.echo()


def _as_json(letter: DeadLetter) -> bytes:
    fields: dict[str, Any] = {
        name: getattr(letter, name)
        for name in (
            "uuid",
            "task",
            "queue",
            "reason",
            "text",
            "attempt",
            "dead_at_ms",
            "error_type",
            "error",
            "traceback",
        )
    }
    try:
        decoded = decode_body(letter.message.body, max_bytes=len(letter.message.body))
        fields["args"] = [{"type": arg.type, "value": arg.value} for arg in decoded.args]
    except DecodeError:
        fields["body"] = letter.message.body.decode("utf-8", "backslashreplace")
    fields["history"] = history_of(letter.message.headers or {})
    fields["headers"] = {
        name: value for name, value in (letter.message.headers or {}).items() if not name.startswith(PREFIX)
    }
    return msgspec.json.encode(fields)


@command.command("replay")
@click.argument("words", metavar="[MODULE:APP] [UUID]...", nargs=-1)
@_filters
@click.option("--all", "every", is_flag=True, help="All that the filters leave.")
@click.option("--to", "to_queue", default=None, metavar="QUEUE", help="To another queue than the one they died in.")
@click.pass_context
def _replay_command(
    ctx: click.Context, words: tuple[str, ...], url: str | None, queue: str | None, task: str | None, reason: Any,
    every: bool, to_queue: str | None,
) -> None:  # fmt: skip
    """Send dead letters to their queue again: those of the UUIDs, or --all that the filters leave.

    Their attempts start again at 1. A letter is removed once the broker has the task; an interruption in between
    leaves both, never none.
    """
    target, uuids = _split(words, url)
    if bool(uuids) == every:
        got = "both" if every else "neither"
        raise CliError(
            f"expected UUIDs or --all, got {got}", "'dispatcher dead list' shows the uuids", exit_code=EXIT_USAGE
        )
    wanted = Filter(task=task, reason=reason, uuids=frozenset(uuids) if uuids else None)
    report = asyncio.run(_replay(broker_place(ctx, target, url), queue, wanted, to_queue))
    click.echo(f"replayed {report.replayed}")
    if report.first_error is not None:
        failure = as_cli_error(report.first_error)
        raise CliError(
            f"{report.failed} were not accepted and stay: {failure.message}", failure.hint, exit_code=failure.exit_code
        )
    if missing := [uuid for uuid in uuids if uuid not in report.uuids]:
        raise _not_there(missing)


async def _replay(place: Place, queue: str | None, wanted: Filter, to_queue: str | None) -> ReplayReport:
    total = ReplayReport()
    async with looking(place, "dispatcher dead") as session:
        if to_queue is not None:
            await _queues(session, to_queue)
        queues = await _queues(session, queue)
        async with _bar(session, queues, "replaying") as step:
            for name in queues:
                report = await replay(session, name, wanted, to_queue=to_queue, progress=step)
                total.replayed += report.replayed
                total.failed += report.failed
                total.uuids |= report.uuids
                total.first_error = total.first_error or report.first_error
    return total


@asynccontextmanager
async def _bar(session: Session, queues: list[str], label: str) -> AsyncIterator[Callable[[int], None]]:
    length = 0
    for queue in queues:
        length += await dead_total(session.inspector, queue)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=hidden, show_pos=True) as bar:
        yield bar.update


@command.command("purge")
@click.argument("target", metavar="[MODULE:APP]", required=False)
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def _purge_command(
    ctx: click.Context, target: str | None, url: str | None, queue: str | None, task: str | None, reason: Any, yes: bool
) -> None:
    """Delete dead letters for good: all that the filters leave. Asks first."""
    where = broker_place(ctx, target, url)
    wanted = Filter(task=task, reason=reason)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise CliError(
                "expected --yes, since there is no terminal to ask on", "add --yes to delete", exit_code=EXIT_USAGE
            )
        count = asyncio.run(_count(where, queue, wanted))
        if count:
            click.confirm(f"Delete {count} dead letters{f' of queue {queue}' if queue else ''} for good?", abort=True)
    click.echo(f"deleted {asyncio.run(_purge(where, queue, wanted))}")


async def _count(place: Place, queue: str | None, wanted: Filter) -> int:
    count = 0
    async with looking(place, "dispatcher dead") as session:
        async for _ in _all_letters(session, await _queues(session, queue), wanted):
            count += 1
    return count


async def _purge(place: Place, queue: str | None, wanted: Filter) -> int:
    count = 0
    async with looking(place, "dispatcher dead") as session:
        queues = await _queues(session, queue)
        async with _bar(session, queues, "deleting") as step:
            for name in queues:
                count += await purge(session.inspector, name, wanted, progress=step)
    return count
