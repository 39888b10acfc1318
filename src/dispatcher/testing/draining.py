"""Run everything that an app's queues hold, in a test, and fail where a task did.

It sees failures as an operator does, as dead letters: a task that was retried and succeeded has not failed. It never
settles or publishes anything itself; the app's own worker does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ..brokers.base import Inspector
from ..errors import DecodeError
from ..model import headers as names
from ..model.codec import decode_body
from ..model.topology import dead_queue
from ..runtime.app import Dispatcher

__all__ = ["DrainFailed", "drain"]

ASKED_FOR = frozenset({"rejected", "expired", "cancelled"})
"""Dead letters that the code under test chose itself."""


class DrainFailed(AssertionError):
    """A task ended in the dead letters unasked, or the queues were not empty in time; the message says which and why."""


async def drain(app: Dispatcher, *, deadline_seconds: float = 30.0, raise_failures: bool = True) -> None:
    """Run the app's tasks in this event loop until its queues are empty and no retry is on its way.

    Tasks that their sender delayed stay where they are; retries and snoozes take their time. Connects if nobody has.
    `deadline_seconds`: when it is over, what still runs is cut short and handed back, and `DrainFailed` is raised.
    `raise_failures`: raise `DrainFailed` too if a task became a dead letter meanwhile, with its traceback; one that
    raised `Reject`, or expired, is left to the test's own assertions. Raises what `Dispatcher.run_worker` raises.
    """
    async with app:
        inspector = app.server.inspector
        before = await _dead_letters(app, inspector)
        if not await _run(app, deadline_seconds):
            raise DrainFailed(
                f"expected empty queues within {deadline_seconds:g} s, got {await _left(app, inspector)};"
                " does a task never end, or does it wait long for its retry?"
            )
        if raise_failures:
            after = await _dead_letters(app, inspector)
            _raise_first([letter for key, letter in after.items() if key not in before])


async def _run(app: Dispatcher, deadline_seconds: float) -> bool:
    """Whether the worker came to its end by itself."""
    worker = asyncio.create_task(app.run_worker(burst=True, grace_seconds=0), name="dispatcher drain")
    try:
        done, _ = await asyncio.wait([worker], timeout=deadline_seconds)
    finally:
        worker.cancel()  # its first cancellation ends it in order, and what it raises meanwhile counts
        await asyncio.wait([worker])
    if not worker.cancelled():
        worker.result()
    return bool(done)


class _Letter:
    """A dead letter as far as a test wants to know."""

    def __init__(self, uuid: str, body: bytes, headers: Mapping[str, Any]) -> None:
        self.uuid = uuid
        self.reason = str(headers.get(names.REASON, "unknown"))
        self.text = str(headers.get(names.REASON_TEXT, ""))
        self.traceback = str(headers.get(names.TRACEBACK, ""))
        self.dead_at_ms = int(headers.get(names.DEAD_AT, 0))
        try:
            self.task = decode_body(body, max_bytes=len(body)).name
        except DecodeError:
            self.task = ""

    def __str__(self) -> str:
        return f"task {self.task or 'unknown'!r} ({self.uuid}), {self.reason}: {self.text}\n{self.traceback}".rstrip()


async def _dead_letters(app: Dispatcher, inspector: Inspector) -> dict[tuple[str, int], _Letter]:
    """By queue and key."""
    return {
        (queue.name, found.key): _Letter(found.message.uuid, found.message.body, found.message.headers or {})
        for queue in app.queues
        async for found in inspector.browse(dead_queue(queue.name))
    }


async def _left(app: Dispatcher, inspector: Inspector) -> str:
    depths = [await inspector.depth(queue.name) for queue in app.queues]
    # What was handed back may count as held for a moment more. RabbitMQ does not tell what is held, nor what is delayed.
    return "; ".join(
        f"{depth.name}: {depth.ready + (depth.unacked or 0)} waiting"
        + ("" if depth.delayed is None else f", {depth.delayed} delayed")
        for depth in depths
    )


def _raise_first(letters: list[_Letter]) -> None:
    failed = sorted((letter for letter in letters if letter.reason not in ASKED_FOR), key=lambda one: one.dead_at_ms)
    if failed:
        more = f"{len(failed)} tasks became dead letters; the first: " if len(failed) > 1 else ""
        raise DrainFailed(f"{more}{failed[0]}")
