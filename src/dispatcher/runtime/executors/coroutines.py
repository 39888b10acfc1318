"""Runs coroutine functions on the worker's event loop, each in an `asyncio.Task` of its own.

The hot path of the whole package: every statement in `submit` is paid once per task. Must never await in `submit`.
"""

from __future__ import annotations

import asyncio
import sys

from ...model.outcome import CutShort, Result
from .call import Call, RunTask, resolve, run_coroutine, tell_end

__all__ = ["CoroutineExecutor"]

STOP_SECONDS = 5.0
"""How long `close` waits for the coroutines that it cancels. DESIGN section 4 gives the same time at a timeout."""


class CoroutineExecutor:
    """See `Executor`. From Python 3.12 on a coroutine starts inside `submit`, up to its first suspension."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: set[Call] = set()
        self._closed = False

    def submit(self, call: Call) -> asyncio.Future[Result]:
        if self._closed:
            future: asyncio.Future[Result] = self._loop.create_future()
            resolve(call, future, CutShort())
            return future
        self._running.add(call)
        if sys.version_info >= (3, 12):
            task = RunTask(run_coroutine(call, self._ended), loop=self._loop, eager_start=True)
        else:
            task = RunTask(run_coroutine(call, self._ended), loop=self._loop)
        call.run = task
        return task

    def stop(self, call: Call, result: Result) -> bool:
        if call not in self._running:
            return False
        call.stopped = result
        call.run.was_told = True
        call.run.cancel()
        return True

    def cancel(self, call: Call, result: Result) -> None:
        self.stop(call, result)

    def kill(self, call: Call, result: Result) -> bool:
        return False

    async def close(self, grace_seconds: float = 0.0) -> int:
        self._closed = True
        # Also with no grace, what has been told to stop just now gets a turn of the loop to do so.
        await _wait([call.run for call in self._running], grace_seconds)
        left = list(self._running)
        # What was told to stop before and goes on has had its time.
        first_told = [call.run for call in left if not call.run.was_told]
        for call in left:
            self.stop(call, CutShort())
        await _wait(first_told, STOP_SECONDS)
        return len(self._running)

    def _ended(self, call: Call, result: Result) -> None:
        self._running.discard(call)
        # Not where the loop has stopped for good: a coroutine that is thrown away then ends too, with GeneratorExit.
        if self._loop.is_running():
            tell_end(call, result)


async def _wait(runs: list[asyncio.Task[Result]], seconds: float) -> None:
    if runs:
        await asyncio.wait(runs, timeout=seconds)
