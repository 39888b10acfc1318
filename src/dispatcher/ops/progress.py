"""The progress bar of `dispatcher worker --burst` on a terminal. It looks at the queues' depths and at nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TextIO

import click

from ..brokers.base import Inspector
from ..errors import DispatcherError, TopologyMismatch
from .connect import Place, looking
from .failures import CliError

__all__ = ["show_progress"]

LOOK_EVERY_SECONDS = 0.25


async def show_progress(place: Place, queues: Sequence[str], stream: TextIO, drawn: asyncio.Event) -> None:
    """Draw until cancelled, and once more then: how many of the most tasks seen waiting are done.

    `drawn` is set when the bar stands, or cannot: work should begin after that, or there is nothing left to count.
    """
    try:
        async with looking(place, "dispatcher progress") as session:
            await _draw(session.inspector, queues, stream, drawn)
    except (DispatcherError, CliError):
        return  # the bar only looks on: what is wrong with the broker, the worker itself reports
    finally:
        drawn.set()


async def _draw(inspector: Inspector, queues: Sequence[str], stream: TextIO, drawn: asyncio.Event) -> None:
    most = await _left(inspector, queues)
    with click.progressbar(length=max(1, most), label="tasks", file=stream, show_pos=True) as bar:
        drawn.set()
        stopped = False
        while not stopped:
            try:
                await asyncio.sleep(LOOK_EVERY_SECONDS)
            except asyncio.CancelledError:
                stopped = True  # the worker is done: one last look, so that the bar does not stop short
            left = await _left(inspector, queues)
            most = max(most, left)
            bar.length = max(1, most)
            bar.update(bar.length - left - bar.pos)


async def _left(inspector: Inspector, queues: Sequence[str]) -> int:
    left = 0
    for queue in queues:
        try:
            depth = await inspector.depth(queue)
        except TopologyMismatch:
            continue  # the worker has not declared it yet
        left += depth.ready + (depth.unacked or 0)
    return left
