"""Runs plain functions in daemon threads of our own.

Not `asyncio.to_thread`: its threads are joined when the interpreter ends, so one function that never returns keeps the
process alive for ever. A thread cannot be stopped; this module never pretends that it can.

At most one thread is on its way to the calls that wait. The one that gets there sends the next, if there is a call left
for it, before it begins its own: so functions that block all run at once, and functions that return at once share one
thread, for they are done before the next one has come.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextvars import Context, copy_context
from typing import TypeAlias

import msgspec

from ...errors import ConfigError, TaskError
from ...model.outcome import CutShort, Result
from .call import Call, run_plain
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
        self._threads = 0
        self._running: set[asyncio.Future[Result]] = set()
        # Threads take calls in the order they came, so the loop knows which begins without being told by a thread.
        self._waiting: deque[Call] = deque()
        self._closed = False
        self._inbox: deque[_Run] = deque()
        # Of the threads, under the lock: the gates of those that have nothing to do, and whether one was sent to `_inbox`.
        self._lock = threading.Lock()
        self._parked: list[threading.Lock] = []
        self._sent = False
        self._chain = False
        # Whoever appends looks at the mark afterwards, `_collect` takes it off first: no result is left lying.
        self._ended: deque[tuple[asyncio.Future[Result], Result]] = deque()
        self._told = False

    def submit(self, call: Call) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = self._loop.create_future()
        if self._closed:
            future.set_result(CutShort())
            return future
        waits_since = None
        if len(self._running) >= self.max_threads:
            self._waiting.append(call)
            if call.on_began is not None:
                waits_since = time.time()
        elif call.on_began is not None:
            call.on_began()
        self._running.add(future)
        self._inbox.append((call, copy_context(), future, waits_since))
        if not self._sent:
            self._chain = False
            self._serve_waiting()
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
        while (run := self._next()) is not None:
            self._resolve(run[2], CutShort())
        abandoned = list(self._running)
        for future in abandoned:
            self._resolve(future, CutShort())
        with self._lock:
            while self._parked:
                self._parked.pop().release()
        return len(abandoned)

    # --- on the loop ------------------------------------------------------------------------------------------------

    def _serve_waiting(self) -> None:
        """See to it that a thread is on its way to the calls that wait, if there may be one."""
        while not self._send_one() and self._threads < self.max_threads:
            self._sent = True  # nobody else sends one while there is none to send
            try:
                name = f"dispatcher-task-{self._threads + 1}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
            except (RuntimeError, MemoryError) as error:  # out of threads: RLIMIT_NPROC, a container's pids limit
                self._sent = False
                failed = TaskError(f"expected to start a thread for the task, got {error}; lower the worker's limit")
                if (run := self._next()) is not None:
                    self._resolve(run[2], result_of(failed))
            else:
                self._threads += 1
                return

    def _collect(self) -> None:
        self._told = False
        ended = self._ended
        while ended:
            future, result = ended.popleft()
            self._resolve(future, result)
            if self._waiting:
                call = self._waiting.popleft()
                if call.on_began is not None:
                    call.on_began()
        if not self._sent:
            self._chain = True
            self._serve_waiting()

    def _resolve(self, future: asyncio.Future[Result], result: Result) -> None:
        if future in self._running:
            self._running.discard(future)
            if not future.done():
                future.set_result(result)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        was_sent = True
        while True:
            run = self._next()
            if was_sent:
                chain = self._chain
                was_sent = self._sent = False
            if run is None:
                with self._lock:
                    if self._inbox:
                        continue
                    if self._closed:
                        return
                    self._parked.append(gate)
                gate.acquire()
                was_sent = True
                continue
            if self._inbox and not self._sent:
                if not (chain and self._send_one()):
                    self._tell_loop()  # only the loop starts threads
            call, context, future, waits_since = run
            if waits_since is not None:
                put_off_deadline(call, time.time() - waits_since)
            result = context.run(run_plain, call)
            self._ended.append((future, result))
            self._tell_loop()
            del run, call, context, future, result  # nothing of a task is kept while waiting for the next

    def _next(self) -> _Run | None:
        try:
            return self._inbox.popleft()
        except IndexError:
            return None

    def _send_one(self) -> bool:
        """Send a thread to the calls that wait. False where there is none with nothing to do."""
        with self._lock:
            if self._sent or not self._inbox:
                return True
            if not self._parked:
                return False
            self._sent = True
            gate = self._parked.pop()
        gate.release()
        return True

    def _tell_loop(self) -> None:
        if not self._told:
            self._told = True
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                pass  # the loop is closed: this function was abandoned, and nobody waits for it


def put_off_deadline(call: Call, seconds: float) -> None:
    """It has waited that long for where it runs: that is not the function's time."""
    current = call.current
    if current.deadline_at is not None:
        call.current = msgspec.structs.replace(current, deadline_at=current.deadline_at + seconds)
