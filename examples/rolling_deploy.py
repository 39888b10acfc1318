"""Two releases on one queue: a task that only the new one knows waits until a new worker is there.

Run it: `python examples/rolling_deploy.py`.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from dispatcher import Dispatcher

greeted, met = asyncio.Event(), asyncio.Event()


class Watch:
    """Sees every event of the old release; here, that it did not know a task."""

    def on_event(self, event: object) -> None:
        if getattr(event, "name", "") == "task.unknown":
            print("the old release does not know it: put off")
            met.set()


def releases(url: str) -> tuple[Dispatcher, Dispatcher]:
    """Two programs would have one app each."""
    old, new = Dispatcher(url, observers=[Watch()]), Dispatcher(url)

    @old.task
    async def greet(name: str) -> None:
        print("hello", name)

    new.task(greet.function)

    @new.task
    async def greet_politely(name: str) -> None:
        print("good day,", name)
        greeted.set()

    return old, new


async def main(url: str) -> None:
    old, new = releases(url)
    async with old, new:
        old_worker = asyncio.create_task(old.run_worker())
        await new.tasks["greet_politely"].send("Ada")
        await met.wait()
        new_worker = asyncio.create_task(new.run_worker())
        old_worker.cancel()  # drains, as SIGTERM does
        await greeted.wait()
        new_worker.cancel()
        await asyncio.wait([old_worker, new_worker])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dispatcher-example-") as folder:
        asyncio.run(main(f"sqlite:///{Path(folder) / 'broker.db'}"))
