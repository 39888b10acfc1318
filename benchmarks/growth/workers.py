"""`python -m benchmarks.growth.workers WORKERS`: a program with so many workers on one connection, spread over the queues."""

from __future__ import annotations

import asyncio
import signal
import sys

from dispatcher import WorkerConfig
from dispatcher.observe.log_output import configure_logging

from ..dispatcher_app import QUEUES, app, coroutine

__all__: list[str] = []

LIMIT = 32


async def main(workers: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ended.set)
    async with app:
        started = [
            await app.server.new_worker(
                WorkerConfig(f"worker-{number}", QUEUES[number % len(QUEUES)], limit=LIMIT),
                {"coroutine": coroutine.config},
            )
            for number in range(workers)
        ]
        await asyncio.gather(*(worker.start() for worker in started))
        await ended.wait()


if __name__ == "__main__":
    configure_logging("INFO", format="console", stream=sys.stderr, color=False)
    asyncio.run(main(int(sys.argv[1])))
