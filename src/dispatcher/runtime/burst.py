"""Knowing when a burst is over: the queues are empty, nothing runs here, and no retry of ours is on its way back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ..errors import ConnectionLost
from .server import Server
from .worker import Worker

__all__ = ["wait_until_empty"]

LOOK_AGAIN_SECONDS = 0.05
NEVER = -1
RETURN_SLACK_SECONDS = 0.5
"""How long after its due time a retry may take to show up in its queue."""


async def wait_until_empty(server: Server, workers: Sequence[Worker]) -> None:
    """Return once `workers` have nothing left to do.

    A message that another process holds counts as not done, where the broker can tell: it comes back if that process
    dies. A task that its sender delayed does not count; a retry or snooze that one of `workers` published does.
    """
    begun_at_last_look = NEVER
    while True:
        for worker in workers:
            await worker.runs.wait_idle()
        begun = _begun(workers)
        ready, held = await _left(server, workers)
        if ready or held or _begun(workers) != begun:
            begun_at_last_look = NEVER
        elif held == 0 or begun_at_last_look == begun:
            return
        else:
            # Nothing is ready, and nobody knows what is held: it may be on its way to us. So nothing must come meanwhile.
            begun_at_last_look = begun
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _begun(workers: Sequence[Worker]) -> int:
    return sum(worker.runs.begun for worker in workers)


async def _left(server: Server, workers: Sequence[Worker]) -> tuple[bool, int | None]:
    """Whether anything is ready or will be by our doing, and how many are held by somebody; None where nobody knows."""
    if any(
        worker.runs.retries_due_at and worker.runs.retries_due_at + RETURN_SLACK_SECONDS > time.time()
        for worker in workers
    ):
        return True, None
    held: int | None = 0
    try:
        for queue in {worker.config.queue for worker in workers}:
            depth = await server.inspector.depth(queue)
            if depth.ready:
                return True, None
            held = None if held is None or depth.unacked is None else held + depth.unacked
    except ConnectionLost:
        return True, None  # the server is reconnecting; nobody knows what waits
    return False, held
