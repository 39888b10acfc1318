"""`dispatcher delayed`: how many messages wait for their time, and for how long. It looks, and changes nothing."""

from __future__ import annotations

import asyncio

import click
import msgspec

from ..brokers.base import DelayBand
from .connect import Place, broker_option, broker_place, looking
from .terminal import echo_table

__all__ = ["command"]

UNITS = ((365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "min"))


@click.command("delayed")
@click.argument("target", metavar="[MODULE:APP]", required=False)
@broker_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def command(ctx: click.Context, target: str | None, url: str | None, as_json: bool) -> None:
    """Show how many tasks wait for their time: delays, etas, retries and snoozes, by when they come due.

    On RabbitMQ they are those of all apps of the virtual host, and each is counted on the level of the delays where it
    is now: it comes due within that time, maybe at once. Which queue they are for RabbitMQ does not tell.
    """
    bands = asyncio.run(_bands(broker_place(ctx, target, url)))
    if as_json:
        for band in bands:
            click.echo(msgspec.json.encode(band))
        return
    rows = [(band.queue, _due(band), band.messages) for band in bands]
    echo_table(("QUEUE", "DUE", "MESSAGES"), rows, right=(2,))


async def _bands(place: Place) -> list[DelayBand]:
    async with looking(place, "dispatcher delayed", needs_queues=False) as session:
        return await session.inspector.delayed()


def _due(band: DelayBand) -> str:
    if band.to_seconds is None:
        return f"in more than {_span(band.from_seconds)}"
    if not band.from_seconds:
        return f"within {_span(band.to_seconds)}"
    return f"in {_span(band.from_seconds)} to {_span(band.to_seconds)}"


def _span(seconds: float) -> str:
    """In the largest unit of which there is one at least: `12.8 s`, `3.4 min`, `1 h`, `10 y`."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
