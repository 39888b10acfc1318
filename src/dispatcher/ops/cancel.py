"""`dispatcher cancel`: tells every worker, those of later too, that some tasks must not run any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import click

from ..brokers.base import Cancel
from ..errors import ArgumentError, PublishUnknown
from ..model.task import check_uuid
from .connect import Place, broker_option, broker_place, looking
from .dead_options import split
from .failures import EXIT_USAGE, CliError

__all__ = ["command"]

DEFAULT_EXCHANGE = "dispatcher"
ANSWER_SECONDS = 30.0


@click.command("cancel")
@click.argument("words", metavar="[MODULE:APP] UUID...", nargs=-1)
@broker_option
@click.option("--exchange", default=None, help="Where the tasks were sent to.  [default: the app's, else 'dispatcher']")
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...], url: str | None, exchange: str | None) -> None:
    """Cancel the tasks of the UUIDs.

    One that waits, or is delayed, becomes a dead letter (cancelled) when its turn comes. One that runs is told: a
    coroutine is cancelled, a process that has not ended in 5 s is killed, a thread must look at
    current_task().cancelled. One that has ended has ended: nothing tells which of these it was.
    """
    target, uuids = split(words, url)
    if target is not None and not uuids:
        uuids, target = [target], None  # a uuid that looks like module:app
    if not uuids:
        raise CliError("expected at least one UUID, got none", "'dispatcher send' prints them", exit_code=EXIT_USAGE)
    try:
        for uuid in uuids:
            check_uuid(uuid)
    except ArgumentError as error:
        raise CliError(str(error), "'dispatcher send' prints what is meant", exit_code=EXIT_USAGE) from None
    asyncio.run(_cancel(broker_place(ctx, target, url), exchange, uuids))
    click.echo(f"cancelled {len(uuids)}")


async def _cancel(place: Place, exchange: str | None, uuids: Sequence[str]) -> None:
    if exchange is None:
        exchange = DEFAULT_EXCHANGE if place.topology is None else place.topology.exchange
    async with looking(place, "dispatcher cancel", needs_queues=False) as session:
        for uuid in uuids:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await session.cancels.add(Cancel(exchange, uuid, int(time.time() * 1000)))
            except TimeoutError:
                raise PublishUnknown(
                    f"cancel of {uuid}: no answer from the broker within {ANSWER_SECONDS:g} s; it may be recorded",
                    uuid=uuid,
                ) from None
