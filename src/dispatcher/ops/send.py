"""`dispatcher send`: one task from the shell, its arguments typed by the task's own signature. Publishes and prints the uuid."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import Any

import click
import msgspec

from ..errors import ArgumentError
from ..model.task import Task
from ..runtime.app import Dispatcher
from .connect import place_of, shared_broker
from .failures import EXIT_USAGE, CliError
from .locate import load_app, pick

__all__ = ["command"]

NEGATIVE_NUMBER = re.compile(r"-(\d|\.\d|inf)", re.IGNORECASE)


class _SendCommand(click.Command):
    """Takes `-3` for an argument, and still refuses an option that does not exist."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        literal = len(args) - args.index("--") - 1 if "--" in args else 0
        rest = super().parse_args(ctx, args)
        words: tuple[str, ...] = ctx.params.get("arguments") or ()
        for word in words[: len(words) - literal]:
            if len(word) > 1 and word.startswith("-") and not NEGATIVE_NUMBER.match(word):
                raise click.NoSuchOption(word.partition("=")[0], ctx=ctx, possibilities=_near(self, word))
        return rest


def _near(command: click.Command, word: str) -> list[str]:
    names = [name for param in command.params for name in param.opts if name.startswith("--")]
    return [name for name in names if name.startswith(word[:4])]


class _Moment(click.ParamType[datetime]):
    """ISO 8601 with a time zone."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        example = "2026-01-31T12:00:00+01:00 or 2026-01-31T11:00:00Z"
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"expected a moment such as {example}, got {value!r}", param, ctx)
        if moment.utcoffset() is None:
            self.fail(f"expected a time zone with it, such as {example}, got {value!r}", param, ctx)
        return moment


@click.command("send", cls=_SendCommand, context_settings={"ignore_unknown_options": True})
@click.argument("target", metavar="MODULE:APP")
@click.argument("task")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--delay", "delay_seconds", type=float, metavar="SECONDS", help="Wait before it is delivered.")
@click.option("--eta", type=_Moment(), metavar="TIME", help="Deliver it then: ISO 8601 with a time zone.")
@click.option("--priority", type=int, metavar="0-9", help="Higher goes first.  [default: 4]")
@click.option("--expires", "expires_seconds", type=float, metavar="SECONDS", help="Dead letter unless started by then.")
@click.option("--queue", default=None, help="Another queue than the task's own.")
@click.option("--uuid", default=None, help="Its uuid.  [default: a new one]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(target: str, task: str, arguments: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Send TASK of MODULE:APP with ARGS, and print its uuid.

    Each of ARGS is VALUE or NAME=VALUE; the task's signature says how it is read: a number, true or false, text as it
    is, else JSON. When this returns the task is safe in the broker.
    """
    _, app = load_app(target)
    shared_broker(place_of(app))
    found = pick("task", task, app.tasks, exit_code=EXIT_USAGE)
    if options["queue"] is not None:
        pick("queue", options["queue"], {queue.name: queue for queue in app.queues}, exit_code=EXIT_USAGE)
    try:
        args, kwargs = found.signature.parse_text(arguments)
        made = found.options(**options).bind(*args, **kwargs)
    except ArgumentError as error:
        raise CliError(
            str(error), "'dispatcher send --help' says how arguments are written", exit_code=EXIT_USAGE
        ) from None
    asyncio.run(_publish(app, made))
    if as_json:
        click.echo(msgspec.json.encode({"uuid": made.uuid, "task": made.name, "queue": made.routing_key}))
    else:
        click.echo(made.uuid)


async def _publish(app: Dispatcher, task: Task) -> None:
    async with app:
        await app.publish(task)
