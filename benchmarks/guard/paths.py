"""What the guard measures: no-op tasks along each path through Dispatcher, and reference work to divide them by.

Everything runs in this one process, so that its CPU time is all there is: publishing, then a burst of a worker. The
reference is what a task costs us most in: small objects, dicts, JSON, an asyncio task and callbacks. It must not change,
or every baseline is void, and must not call Dispatcher.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from dispatcher import Dispatcher

__all__ = ["Path", "reference"]

REFERENCE_TASKS = 300
HOLD_SECONDS = 0.05
"""How long the loop is held up once the first task has run: till all others are here. In what portions a broker happens to
deliver them would be most of what is measured."""


class Path:
    """One broker with one kind of function. `round(count)` gives the CPU seconds of a task, published and drained."""

    def __init__(self, url: str, kind: str, name: str) -> None:
        self._app = Dispatcher(url, exchange=name, default_queue=name)
        self._seen = 0
        self._count = 0
        self._seen_before = 0
        self._began = self._ended = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        task = self._coroutine if kind == "coroutine" else self._function
        self._task = self._app.task(name="guard", timeout_seconds=600)(task)

    async def _coroutine(self, number: int, text: str) -> None:
        self._tick()

    def _function(self, number: int, text: str) -> None:
        self._tick()

    def _tick(self) -> None:
        # Threads may come here at once. One that is counted late moves the end by a task, not the result.
        if self._seen == 0 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._hold)
        self._seen += 1
        if self._seen == self._count:
            self._ended = time.process_time()

    def _hold(self) -> None:
        time.sleep(HOLD_SECONDS)
        self._seen_before = self._seen
        self._began = time.process_time()

    async def _published(self, count: int) -> float:
        async with self._app as app:
            await app.publish_many(self._bound(20))
            began = _clean_clock()
            await app.publish_many(self._bound(count))
            return time.process_time() - began

    def _bound(self, count: int) -> Any:
        return (self._task.bind(number, "some text") for number in range(count))

    async def _drained(self) -> float:
        self._loop = asyncio.get_running_loop()
        gc.collect()
        await self._app.run_worker(burst=True, prefetch=self._count)
        return (self._ended - self._began) / (self._count - self._seen_before)

    def round(self, count: int) -> tuple[float, float]:
        self._seen, self._count = 0, count + 20
        published = asyncio.run(self._published(count)) / count
        drained = asyncio.run(self._drained())
        if self._seen != self._count:
            raise RuntimeError(f"expected {self._count} tasks to run, got {self._seen}")
        return published, drained


def reference() -> float:
    """The CPU seconds of the reference work."""

    async def run() -> float:
        began = _clean_clock()
        await _reference_tasks(REFERENCE_TASKS)
        return time.process_time() - began

    return asyncio.run(run())


def _clean_clock() -> float:
    gc.collect()  # or the garbage of the one before is this one's cost
    return time.process_time()


class _Item:
    __slots__ = ("args", "done", "headers", "name")

    def __init__(self, name: str, args: list[Any], headers: dict[str, Any], done: Callable[[], None]) -> None:
        self.name = name
        self.args = args
        self.headers = headers
        self.done = done


async def _reference_tasks(count: int) -> None:
    loop = asyncio.get_running_loop()
    waiting: deque[bytes] = deque()
    finished: set[int] = set()
    all_done = loop.create_future()

    def finish(number: int) -> None:
        finished.add(number)
        if len(finished) == count:
            all_done.set_result(None)

    async def call(item: _Item) -> None:
        number, text = item.args
        if isinstance(number, int) and isinstance(text, str) and item.headers.get("attempt", 1) >= 1:
            loop.call_soon(item.done)

    for number in range(count):
        args = [{"type": "int", "value": number}, {"type": "string", "value": "some text"}]
        body = {"uuid": f"{number:032x}", "name": "guard", "args": args}
        waiting.append(json.dumps(body, separators=(",", ":")).encode())
    while waiting:
        tasks = []
        for _ in range(min(32, len(waiting))):
            message = json.loads(waiting.popleft())
            args = [argument["value"] for argument in message["args"]]
            headers = {"attempt": 1, "published-at": time.time(), "uuid": message["uuid"]}
            item = _Item(message["name"], args, headers, lambda number=args[0]: finish(number))  # type: ignore[misc]
            tasks.append(loop.create_task(call(item)))
        await asyncio.gather(*tasks)
    await all_done
