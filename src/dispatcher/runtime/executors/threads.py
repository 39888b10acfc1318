"""Runs plain functions in daemon threads of our own.

Not `asyncio.to_thread`: its threads are joined when the interpreter ends, so one function that never returns keeps the
process alive for ever. A thread cannot be stopped; this module never pretends that it can.

Waking a thread costs more than most functions, so at most one is on its way to the calls that wait. It runs them one after
the other, and before it begins the first it tells the loop. If calls still wait when the loop looks, the function blocks:
then the loop sends a second thread, and from there each sends the next before it begins its own. So functions that block
all run at once, and those that return at once share a thread and one wake-up of the loop.
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
        self._threads = 0
        self._running: dict[asyncio.Future[Result], Call] = {}
        # Threads take calls in the order they came, so the loop knows which begins without being told by a thread.
        self._waiting: deque[Call] = deque()
        self._closed = False
        # Whoever appends here looks at the mark afterwards, and whoever takes does so after taking the mark off: nothing
        # is left lying. A mark that is taken off too early costs a wake-up, no more.
        self._inbox: deque[_Run] = deque()
        self._sent = False  # a thread is on its way to the inbox
        self._relay = False  # it shall send the next one itself
        self._ended: deque[tuple[asyncio.Future[Result], Result]] = deque()
        self._told = False  # the loop is on its way to what has ended
        self._lock = threading.Lock()
        self._parked: list[threading.Lock] = []  # under the lock: the gates of the threads that have nothing to do

    def submit(self, call: Call) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = self._loop.create_future()
        if self._closed:
            resolve(call, future, CutShort())
            return future
        waits_since = None
        if len(self._running) >= self.max_threads:
            self._waiting.append(call)
            if call.on_began is not None:
                waits_since = time.time()
        else:
            tell_began(call)
        self._running[future] = call
        self._inbox.append((call, copy_context(), future, waits_since))
        self._serve_waiting(relay=False)
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

    def _serve_waiting(self, relay: bool) -> None:
        """See to it that a thread is on its way to the calls that wait, as long as there may be one more.

        With a thread for each call that runs, one of them is about to look for the next itself.
        """
        if self._sent:
            return
        self._relay = relay
        while not self._send_parked() and self._threads < min(self.max_threads, len(self._running)):
            try:
                self._start_thread()
                return
            except (RuntimeError, MemoryError) as error:  # out of threads: RLIMIT_NPROC, a container's pids limit
                failed = TaskError(f"expected to start a thread for the task, got {error}; lower the worker's limit")
                if (run := self._next()) is not None:
                    self._resolve(run[2], result_of(failed))

    def _start_thread(self) -> None:
        name = f"dispatcher-task-{self._threads + 1}"
        self._sent = True
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except BaseException:
            self._sent = False
            raise
        self._threads += 1

    def _collect(self) -> None:
        self._told = False
        ended = self._ended
        while ended:
            future, result = ended.popleft()
            self._resolve(future, result)
            if self._waiting:
                tell_began(self._waiting.popleft())
        self._serve_waiting(relay=True)

    def _resolve(self, future: asyncio.Future[Result], result: Result) -> None:
        call = self._running.pop(future, None)
        if call is not None and not future.done():
            resolve(call, future, result)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        while True:
            run = self._next()
            relay = self._relay
            self._sent = False
            while run is not None:
                if self._inbox and not self._sent and not (relay and self._send_parked()):
                    self._tell_loop()  # which alone starts threads
                call, context, future, waits_since = run
                if waits_since is not None:
                    put_off_deadline(call, time.time() - waits_since)
                self._ended.append((future, context.run(run_plain, call)))
                self._tell_loop()
                del run, call, context, future  # nothing of a task is kept while waiting for the next
                run = self._next()
            with self._lock:
                if self._inbox:
                    continue
                if self._closed:
                    return
                self._parked.append(gate)
            gate.acquire()

    def _tell_loop(self) -> None:
        if not self._told:
            self._told = True
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                pass  # the loop is closed: this function was abandoned, and nobody waits for it

    # --- anywhere ---------------------------------------------------------------------------------------------------

    def _next(self) -> _Run | None:
        try:
            return self._inbox.popleft()
        except IndexError:
            return None

    def _send_parked(self) -> bool:
        """Send one thread to the calls that wait. False where there are calls and no thread that has nothing to do."""
        with self._lock:
            if self._sent or not self._inbox:
                return True
            if not self._parked:
                return False
            self._sent = True
            gate = self._parked.pop()
        gate.release()
        return True


def put_off_deadline(call: Call, seconds: float) -> None:
    """It has waited that long for where it runs: that is not the function's time."""
    current = call.current
    if current.deadline_at is not None:
        call.current = msgspec.structs.replace(current, deadline_at=current.deadline_at + seconds)
