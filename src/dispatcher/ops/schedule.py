"""`dispatcher schedule`: what an app fires periodically, when it is next, and when it last was. It looks, and changes nothing."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import click
import msgspec

from ..brokers import kind_of
from ..model.schedule import Schedule
from ..runtime.app import Dispatcher
from .connect import looking, place_of
from .failures import CliError
from .locate import load_app
from .terminal import echo_table

__all__ = ["command"]

MOST_NEXT = 1000


class _Listed(msgspec.Struct, frozen=True):
    """One schedule as it is printed. Instants are ISO 8601; `last` is None where there was none, or nobody can tell."""

    name: str
    task: str
    when: str
    timezone: str
    misfire: str
    next: list[str]
    next_utc: list[str]
    last: str | None


@click.command("schedule")
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--next", "count", type=click.IntRange(1, MOST_NEXT), default=1, show_default=True, metavar="N",
    help="How many firings of each to show.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(target: str, count: int, as_json: bool) -> None:
    """Show the schedules of MODULE:APP: when each fires next, in its time zone and in UTC, and when it last did.

    A `-` is a firing that never was, or that this broker cannot tell: on RabbitMQ it is in the leader's hands.
    """
    app = load_app(target)[1]
    fired = asyncio.run(_fired(app))
    now_ms = time.time_ns() // 1_000_000
    listed = [
        _listed(one.schedule, one.task, fired.get(name), count, now_ms) for name, one in sorted(app.schedules.items())
    ]
    if as_json:
        for one in listed:
            click.echo(msgspec.json.encode(one))
    elif not listed:
        click.echo("no schedules; declare one with @app.periodic")
    else:
        _show(listed)


def _listed(schedule: Schedule, task: str, fired_ms: int | None, count: int, now_ms: int) -> _Listed:
    instants: list[int] = []
    for _ in range(count):
        now_ms = schedule.next_after(now_ms)
        instants.append(now_ms)
    moments = [datetime.fromtimestamp(at_ms / 1000, schedule.zone) for at_ms in instants]
    return _Listed(
        schedule.name,
        task,
        schedule.written,
        str(schedule.zone),
        schedule.misfire,
        [moment.isoformat() for moment in moments],
        [_utc(at_ms) for at_ms in instants],
        None if fired_ms is None else _utc(fired_ms),
    )


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def _show(listed: list[_Listed]) -> None:
    rows = []
    for one in listed:
        first, *others = zip(one.next, one.next_utc, strict=True)
        rows.append((one.name, one.task, one.when, one.timezone, *first, one.last))
        rows += [("", "", "", "", *other, "") for other in others]
    echo_table(("SCHEDULE", "TASK", "WHEN", "TIMEZONE", "NEXT", "NEXT UTC", "LAST UTC"), rows)


async def _fired(app: Dispatcher) -> dict[str, int | None]:
    """The last firings, where the broker can tell: that of a file that exists."""
    place = place_of(app)
    if kind_of(place.url) != "sqlite":
        return {}
    try:
        async with looking(place, "dispatcher schedule") as session:
            exchange = app.config.exchange
            return {name: await session.schedules.fired_ms(exchange, name) for name in app.schedules}
    except CliError:
        return {}  # no file yet: nothing has ever fired
