"""Running an app's workers and schedules from start to end: the reason to end, and the order in which all of it does.

Started and closed here, decided nowhere: what a worker and a schedule do is said in their own modules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..errors import BrokerUnavailable, ConnectionLost, WorkerExhausted
from .burst import wait_until_empty
from .scheduler import Scheduler
from .server import Server
from .worker import Worker

__all__ = ["run_until_told"]


async def run_until_told(
    server: Server, workers: Sequence[Worker], scheduler: Scheduler, burst: bool, grace_seconds: float | None
) -> None:
    """Start the workers, wait for the reason to end, and end them."""
    told = _times_cancelled()
    closed = asyncio.ensure_future(server.wait_closed())
    exhausted = [asyncio.ensure_future(worker.runs.exhausted.wait()) for worker in workers]
    reasons: list[asyncio.Future[Any]] = [closed, *exhausted]
    if burst:
        reasons.append(asyncio.ensure_future(wait_until_empty(server, workers)))
    try:
        await _start_all(server, workers)
        scheduler.start()
        await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
        full = any(worker.runs.exhausted.is_set() for worker in workers)
        if full:
            await scheduler.close()
            await _finish_what_can_end(workers, grace_seconds)
            grace_seconds = 0
    finally:
        for reason in reasons:
            reason.cancel()
        await _close_all(workers, scheduler, grace_seconds, told)
        await asyncio.wait(reasons)
    for reason in (closed, *reasons[-1:]):
        if not reason.cancelled():
            reason.result()
    if full:
        raise WorkerExhausted(
            "too many functions passed their timeouts and still run; this process must be replaced by a new one"
        )


async def _start_all(server: Server, workers: Sequence[Worker]) -> None:
    """Start them, however long the broker is away: how often to try is the server's business."""
    for worker in workers:
        started = False
        while not started and not server.closed:
            try:
                await worker.start()
                started = True
            except BrokerUnavailable:
                pass  # tried again, unless the server has given up
            except ConnectionLost:
                if not server.closed:
                    raise
                # It gave up meanwhile: why, `wait_closed` tells better.


async def _finish_what_can_end(workers: Sequence[Worker], grace_seconds: float | None) -> None:
    """Before a process is replaced: every task but those that overran their timeout may end."""
    try:
        async with asyncio.timeout(grace_seconds):
            await asyncio.gather(*(worker.stop_taking() for worker in workers))
            await asyncio.gather(*(worker.runs.wait_idle() for worker in workers))
    except TimeoutError:
        pass  # the grace is over: the close that follows cuts them short


async def _close_all(workers: Sequence[Worker], scheduler: Scheduler, grace_seconds: float | None, told: int) -> None:
    """Close them; at a second cancellation since `told` cut short what runs."""
    closing = asyncio.gather(scheduler.close(), *(worker.close(grace_seconds=grace_seconds) for worker in workers))
    try:
        if _times_cancelled() > told + 1:
            raise asyncio.CancelledError  # both came before this task had its turn: it was woken once for the two
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.gather(*(worker.runs.cut_short() for worker in workers))
        await closing
        raise


def _times_cancelled() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()
