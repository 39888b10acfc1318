"""A task that crashes its process costs itself one attempt, and nobody else anything.

Run it: `python examples/processes.py`.
"""

from __future__ import annotations

import asyncio
import ctypes
import time

from dispatcher import Dispatcher, RetryPolicy, current_task

app = Dispatcher("memory://")
twice = RetryPolicy(max_attempts=2, base_seconds=0)


@app.task(executor="process", retry=twice)
def crash_once(name: str) -> None:
    attempt = current_task().attempt
    if attempt == 1:
        ctypes.string_at(0)  # a segmentation fault
    print(f"{name}: done on attempt {attempt}", flush=True)


@app.task(executor="process", timeout_seconds=1, on_timeout="kill", retry=twice)
def hang_once(name: str) -> None:
    attempt = current_task().attempt
    if attempt == 1:
        time.sleep(3600)  # its process is killed after a second
    print(f"{name}: done on attempt {attempt}", flush=True)


@app.task
def bystander(name: str) -> None:
    print(f"{name}: done on attempt {current_task().attempt}", flush=True)


async def main() -> None:
    async with app:
        await crash_once.send("crash")
        await hang_once.send("hang")
        await bystander.send("bystander")
        await app.run_worker(burst=True)


if __name__ == "__main__":
    asyncio.run(main())
