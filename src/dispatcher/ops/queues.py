"""`dispatcher queues`: how full each queue is. It looks, and changes nothing."""

from __future__ import annotations

import asyncio

import click
import msgspec

from ..brokers.base import QueueDepth
from .connect import Place, broker_option, broker_place, looking
from .terminal import echo_table

__all__ = ["command"]


@click.command("queues")
@click.argument("target", metavar="[MODULE:APP]", required=False)
@broker_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def command(ctx: click.Context, target: str | None, url: str | None, as_json: bool) -> None:
    """Show every queue: tasks ready, delayed and unacked, its consumers, its dead letters.

    A `-` is a figure that this broker cannot tell.
    """
    depths = asyncio.run(_depths(broker_place(ctx, target, url)))
    if as_json:
        for depth in depths:
            click.echo(msgspec.json.encode(depth))
        return
    heads = ("QUEUE", "READY", "DELAYED", "UNACKED", "CONSUMERS", "DEAD")
    rows = [(d.name, d.ready, d.delayed, d.unacked, d.consumers, d.dead) for d in depths]
    echo_table(heads, rows, right=(1, 2, 3, 4, 5))


async def _depths(place: Place) -> list[QueueDepth]:
    async with looking(place, "dispatcher queues") as session:
        return sorted(await session.inspector.queues(), key=lambda depth: depth.name)
