"""Runs plain functions in daemon threads of our own.

Not `asyncio.to_thread`: its threads are joined when the interpreter ends, so one function that never returns keeps the
process alive for ever. A thread cannot be stopped; this module never pretends that it can.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import TypeAlias

import msgspec

from ...errors import ConfigError, TaskError
from ...model.outcome import CutShort, Result
from .call import Call, resolve, run_plain, tell_began
from .failures import result_of

__all__ = ["ThreadExecutor", "put_off_deadline"]

_Run: TypeAlias = tuple[Call, Context, asyncio.Future[Result], float | None]
"""The last is when it began to wait for a thread, in Unix seconds; None where it need not wait, or nobody asks."""


class ThreadExecutor:
    """See `Executor`. Threads are started when they are first needed, at most `max_threads`; further calls wait.

    A thread that cannot be started is that call's failure. Functions that still run after `close` are abandoned: their
    futures resolve with `CutShort`, what they do afterwards is not seen.
    """

    def __init__(self, max_threads: int) -> None:
        if type(max_threads) is not int or max_threads < 1:
            raise ConfigError(f"max_threads: expected an integer of 1 or more, got {max_threads!r}")
        self.max_threads = max_threads
        self._loop = asyncio.get_running_loop()
        self._inbox: SimpleQueue[_Run | None] = SimpleQueue()
        self._threads = 0
        self._running: dict[asyncio.Future[Result], Call] = {}
        # Threads take calls in the order they came, so the loop knows which begins without being told by a thread.
        self._waiting: deque[Call] = deque()
        self._closed = False
        # Threads append under the lock; only the first since the loop last looked wakes it.
        self._lock = threading.Lock()
        self._ended: list[tuple[asyncio.Future[Result], Result]] = []

    def submit(self, call: Call) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = self._loop.create_future()
        if self._closed:
            resolve(call, future, CutShort())
            return future
        if len(self._running) >= self._threads and self._threads < self.max_threads:
            try:
                self._start_thread()
            except (RuntimeError, MemoryError) as error:  # out of threads: RLIMIT_NPROC, a container's pids limit
                failed = TaskError(f"expected to start a thread for the task, got {error}; lower the worker's limit")
                resolve(call, future, result_of(failed))
                return future
        waits_since = None
        if len(self._running) >= self._threads:
            self._waiting.append(call)
            if call.on_began is not None:
                waits_since = time.time()
        else:
            tell_began(call)
        self._running[future] = call
        self._inbox.put((call, copy_context(), future, waits_since))
        return future

    def stop(self, call: Call, result: Result) -> bool:
        return False

    def cancel(self, call: Call, result: Result) -> None:
        """What it can see, `current_task().cancelled`, was set already."""

    def kill(self, call: Call, result: Result) -> bool:
        return False

    async def close(self, grace_seconds: float = 0.0) -> int:
        self._closed = True
        if self._running and grace_seconds > 0:
            await asyncio.wait(list(self._running), timeout=grace_seconds)
        self._waiting.clear()
        while not self._inbox.empty():
            run = self._inbox.get()
            if run is not None:
                self._resolve(run[2], CutShort())
        abandoned = list(self._running)
        for future in abandoned:
            self._resolve(future, CutShort())
        for _ in range(self._threads):
            self._inbox.put(None)
        self._threads = 0
        return len(abandoned)

    # --- on the loop ------------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        name = f"dispatcher-task-{self._threads + 1}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()
        self._threads += 1

    def _collect(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        for future, result in ended:
            self._resolve(future, result)
            if self._waiting:
                tell_began(self._waiting.popleft())

    def _resolve(self, future: asyncio.Future[Result], result: Result) -> None:
        call = self._running.pop(future, None)
        if call is not None and not future.done():
            resolve(call, future, result)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (run := self._inbox.get()) is not None:
            call, context, future, waits_since = run
            if waits_since is not None:
                put_off_deadline(call, time.time() - waits_since)
            result = context.run(run_plain, call)
            self._hand_over(future, result)
            del run, call, context, future, result  # nothing of a task is kept while waiting for the next

    def _hand_over(self, future: asyncio.Future[Result], result: Result) -> None:
        with self._lock:
            self._ended.append((future, result))
            first = len(self._ended) == 1
        if first:
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                pass  # the loop is closed: this function was abandoned, and nobody waits for it


def put_off_deadline(call: Call, seconds: float) -> None:
    """It has waited that long for where it runs: that is not the function's time."""
    current = call.current
    if current.deadline_at is not None:
        call.current = msgspec.structs.replace(current, deadline_at=current.deadline_at + seconds)
