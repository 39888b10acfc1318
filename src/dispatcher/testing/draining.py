"""Run everything that an app's queues hold, in a test, and fail where a task did.

It sees failures as an operator does, as dead letters: a task that was retried and succeeded has not failed. It never
settles or publishes anything itself; the app's own worker does.
"""

from __future__ import annotations

import asyncio

from ..brokers.base import Inspector
from ..model.topology import dead_queue
from ..runtime.app import Dispatcher
from ..runtime.dead_letter import DeadLetter, letter_of

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


async def _dead_letters(app: Dispatcher, inspector: Inspector) -> dict[tuple[str, int], DeadLetter]:
    """By queue and key."""
    return {
        (queue.name, found.key): letter_of(queue.name, found)
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


def _raise_first(letters: list[DeadLetter]) -> None:
    failed = sorted(
        (letter for letter in letters if letter.reason not in ASKED_FOR), key=lambda one: one.dead_at_ms or 0
    )
    if failed:
        first = failed[0]
        more = f"{len(failed)} tasks became dead letters; the first: " if len(failed) > 1 else ""
        text = f"task {first.task or 'unknown'!r} ({first.uuid}), {first.reason or 'unknown'}: {first.text}\n{first.traceback}"
        raise DrainFailed(more + text.rstrip())
