"""`python -m benchmarks.peers.sender APP ORDER`: publish tasks as a program of the peer's user would, and time it.

Runs in the peer's environment. APP is a module of `benchmarks.peers.apps`, ORDER a JSON object: `kind` and `count` of the
tasks, `in_flight` how many publishes may be awaited at once, `per_second` a steady rate (zero: as fast as it goes). Prints one
JSON object: `seconds` and `cpu_seconds`. The order `depth` asks how many tasks wait, and prints that.

An app has `send(kind, value)`; where that is a coroutine, `opened()`, an asynchronous context in which it may be called.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
import time
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

__all__: list[str] = []

READY = 20
"""Tasks sent before the clock starts: connections are made and queues declared with the first. They tell no time."""


def main(name: str, text: str) -> None:
    app = importlib.import_module(f"benchmarks.peers.apps.{name}")
    order = json.loads(text)
    if order == "depth":
        result: Any = asyncio.run(app.depth()) if inspect.iscoroutinefunction(app.depth) else app.depth()
    elif inspect.iscoroutinefunction(app.send):
        result = asyncio.run(_send_in_loop(app, **order))
    else:
        result = _send(app, **order)
    print(json.dumps(result))


def _send(app: ModuleType, kind: str, count: int, in_flight: int, per_second: float) -> dict[str, float]:
    ready = min(READY, count - 1)
    for _ in range(ready):
        app.send(kind, 0)
    watch = Watch()
    for number in range(count - ready):
        if per_second:
            time.sleep(watch.until(number / per_second))
        app.send(kind, time.time_ns() if kind == "timed" else number)
    return watch.result(count - ready)


async def _send_in_loop(app: ModuleType, kind: str, count: int, in_flight: int, per_second: float) -> dict[str, float]:
    async def send_all(numbers: Iterable[int]) -> None:
        for number in numbers:
            if per_second:
                await asyncio.sleep(watch.until(number / per_second))
            await app.send(kind, time.time_ns() if kind == "timed" else number)

    ready = min(READY, count - 1)
    watch = Watch()
    async with app.opened():
        for _ in range(ready):
            await app.send(kind, 0)
        watch = Watch()
        numbers: Iterator[int] = iter(range(count - ready))
        await asyncio.gather(*(send_all(numbers) for _ in range(in_flight)))
        return watch.result(count - ready)


class Watch:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def until(self, seconds: float) -> float:
        """How long it is until so many seconds after the start; zero if that is over."""
        return max(0.0, self._wall + seconds - time.perf_counter())

    def result(self, count: int) -> dict[str, float]:
        seconds, cpu_seconds = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"count": count, "seconds": seconds, "cpu_seconds": cpu_seconds}


if __name__ == "__main__":
    main(*sys.argv[1:])
