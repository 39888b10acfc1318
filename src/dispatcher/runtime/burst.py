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
RETURN_SLACK_SECONDS = 0.5
"""How long after its due time a retry may take to show up in its queue."""


async def wait_until_empty(server: Server, workers: Sequence[Worker]) -> None:
    """Return once `workers` have nothing left to do.

    A message that another process holds counts as not done: it comes back if that process dies. A task that its sender
    delayed does not count; a retry or snooze that one of `workers` published does.
    """
    while True:
        for worker in workers:
            await worker.runs.wait_idle()
        if not any(worker.runs.running for worker in workers) and await _empty(server, workers):
            return
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _empty(server: Server, workers: Sequence[Worker]) -> bool:
    if any(
        worker.runs.retries_due_at and worker.runs.retries_due_at + RETURN_SLACK_SECONDS > time.time()
        for worker in workers
    ):
        return False
    try:
        for queue in {worker.config.queue for worker in workers}:
            depth = await server.inspector.depth(queue)
            if depth.ready or depth.unacked:
                return False
    except ConnectionLost:
        return False  # the server is reconnecting; nobody knows what waits
    return True
