"""`dispatcher dead list|show`, and the group of all its commands. It asks and prints; it decides nothing and changes nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import click
import msgspec

from ..model.headers import PREFIX
from ..model.history import history_of
from ..runtime.dead_letter import DeadLetter, Filter
from ..runtime.dead_letters import dead_letters
from . import dead_change
from .connect import Place, broker_option, broker_place, looking
from .dead_options import filter_options, not_there, queues_meant, split, wanted_of
from .failures import EXIT_USAGE, CliError
from .option_types import WholeNumber
from .terminal import echo_block, echo_table, local_time, shortened

__all__ = ["command"]

ERROR_WIDTH = 60
BODY_SHOWN = 4_000


@click.group("dead")
def command() -> None:
    """List, show, replay or delete dead letters: messages parked after their last attempt, each with its reason.

    The broker is that of MODULE:APP, or --url, or $DISPATCHER_URL, or sqlite:///dispatcher.db.
    """


for _changing in (dead_change.replay_command, dead_change.purge_command, dead_change.retention_command):
    command.add_command(_changing)


@command.command("list")
@click.argument("target", metavar="[MODULE:APP]", required=False)
@filter_options
@click.option("--limit", default=100, show_default=True, type=WholeNumber(1), help="Show at most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def _list_command(
    ctx: click.Context,
    /,
    target: str | None,
    url: str | None,
    queue: str | None,
    limit: int,
    as_json: bool,
    **filters: Any,
) -> None:
    """List dead letters, oldest first."""
    asyncio.run(_list(broker_place(ctx, target, url), queue, wanted_of(**filters), limit, as_json))


async def _list(place: Place, queue: str | None, wanted: Filter, limit: int, as_json: bool) -> None:
    rows: list[tuple[object, ...]] = []
    shown = 0
    more = False
    async with looking(place, "dispatcher dead") as session:
        queues = await queues_meant(session, queue)
        async with aclosing(dead_letters(session.inspector, queues, wanted)) as letters:
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
        click.echo(
            f"there are more than {limit}: --limit shows more, -Q, --task, --reason, --error and --newer narrow it down",
            err=True,
        )


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


@command.command("show")
@click.argument("words", metavar="[MODULE:APP] UUID", nargs=-1)
@broker_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def _show_command(ctx: click.Context, /, words: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Show the dead letter of UUID whole: arguments, headers, error and traceback."""
    target, uuids = split(words, url)
    if len(uuids) != 1:
        raise CliError(
            f"expected one UUID, got {len(uuids)}", "'dispatcher dead list' shows them", exit_code=EXIT_USAGE
        )
    asyncio.run(_show(broker_place(ctx, target, url), uuids[0], as_json))


async def _show(place: Place, uuid: str, as_json: bool) -> None:
    found = 0
    async with looking(place, "dispatcher dead") as session:
        queues = await queues_meant(session, None)
        async with aclosing(dead_letters(session.inspector, queues, Filter(uuids={uuid}))) as letters:
            async for letter in letters:
                found += 1
                if as_json:
                    click.echo(_as_json(letter))
                else:
                    _echo_letter(letter)
    if not found:
        raise not_there([uuid])


def _echo_letter(letter: DeadLetter) -> None:
    lines = (
        ("uuid", letter.uuid),
        ("task", letter.task or "- (the body is not a task)"),
        ("queue", letter.queue),
        ("exchange", letter.exchange),
        ("routing key", letter.routing_key),
        ("reason", letter.reason or None),
        ("text", letter.text),
        ("attempt", str(letter.attempt)),
        ("first published", local_time(letter.first_published_at_ms)),
        ("died", local_time(letter.dead_at_ms)),
        ("replayed", local_time(letter.replayed_at_ms)),
        ("priority", None if letter.priority is None else str(letter.priority)),
    )
    for name, text in lines:
        echo_block(name, "-" if text is None else text)
    echo_block("body", letter.body.decode("utf-8", "backslashreplace")[:BODY_SHOWN])
    for name, value in sorted(_theirs(letter).items()):
        echo_block(f"header {name}", repr(value))
    for failed in history_of(letter.headers):
        when = local_time(failed.at_ms)
        echo_block(f"attempt {failed.attempt}", f"{when} on {failed.where}: {failed.error_type}: {failed.error}")
    if letter.error_type:
        echo_block("error", f"{letter.error_type}: {letter.error}")
    if letter.traceback:
        echo_block("traceback", "\n" + letter.traceback.rstrip("\n"))
    click.echo()


SHOWN_AS_THEY_ARE = tuple(name for name in DeadLetter.__struct_fields__ if name not in ("args", "body", "headers"))


def _as_json(letter: DeadLetter) -> bytes:
    fields: dict[str, Any] = {name: getattr(letter, name) for name in SHOWN_AS_THEY_ARE}
    if letter.args is None:
        fields["body"] = letter.body.decode("utf-8", "backslashreplace")
    else:
        fields["args"] = letter.args
    fields["history"] = history_of(letter.headers)
    fields["headers"] = _theirs(letter)
    return msgspec.json.encode(fields)


def _theirs(letter: DeadLetter) -> dict[str, Any]:
    """The headers of the sender."""
    return {name: value for name, value in letter.headers.items() if not name.startswith(PREFIX)}
