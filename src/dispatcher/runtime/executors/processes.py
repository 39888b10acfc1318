"""Runs functions in killable child processes, one task at a time in each.

Not `concurrent.futures`: there one segfault breaks the whole pool. Here a child's death costs its own task one attempt
and nothing else. No pickle of user data: a child gets the message's body and the name of the function.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable

from ...errors import ConfigError, DecodeError, TaskError, TaskProcessDied
from ...model.outcome import CutShort, Result
from .call import Call, resolve, tell_began
from .failures import result_of
from .pipe import BEGAN, CANCEL_FRAME, decode_reply, encode_request
from .process import ChildProcess, say_exit

__all__ = ["ProcessExecutor", "refuse_inside_main_import"]

EXIT_SECONDS = 2.0
"""How long an idle child may take to end by itself at `close` before it is killed."""

READY_SECONDS = 60.0
"""How long a child may take from being given a task to calling its function: to start, import and bind."""

REQUESTS_TO_END = (-signal.SIGTERM, -signal.SIGINT)
"""Exit codes of a child that somebody asked to end: a service manager, say. A worker would have drained."""

KILLED_SECONDS = 5.0
"""How long `close` waits for killed children to be reaped; only a process stuck in the kernel takes that long."""


class _Run:
    """A call and its future. `frame`: its request until `process` got it; then `patience` runs until it began."""

    __slots__ = ("call", "frame", "future", "patience", "process")

    def __init__(self, call: Call, future: asyncio.Future[Result], frame: bytes) -> None:
        self.call = call
        self.future = future
        self.frame = frame
        self.process: ChildProcess | None = None
        self.patience: asyncio.TimerHandle | None = None

    def end_patience(self) -> None:
        """Its time to get ready counts no more."""
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None

    def resolve(self, result: Result) -> None:
        self.end_patience()
        if not self.future.done():
            resolve(self.call, self.future, result)


class ProcessExecutor:
    """See `Executor`. Children are spawned when first needed, at most `max_processes`, and kept; further calls wait.

    `on_replaced(pid, exit_code)` is called when a child has died or was killed; the next call that needs one starts
    another. A child that dies makes its call `Raised` with `TaskProcessDied`, as does one that needs more than
    `READY_SECONDS` to import and bind what it shall call; one that cannot be started makes it `Raised` with
    `TaskError`. `fresh`: each call has a child of its own, made for it and ended after it.

    `ConfigError` on Windows, and where a main script without `if __name__ == "__main__":` is being
    imported by a child.
    """

    def __init__(
        self,
        max_processes: int,
        on_replaced: Callable[[int, int | None], None] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        if type(max_processes) is not int or max_processes < 1:
            raise ConfigError(f"max_processes: expected an integer of 1 or more, got {max_processes!r}")
        if sys.platform == "win32":
            raise ConfigError("executor='process': expected Linux or macOS, got Windows; leave executor out")
        refuse_inside_main_import()
        self.max_processes = max_processes
        self._on_replaced = on_replaced
        self._fresh = fresh
        self._loop = asyncio.get_running_loop()
        self._idle: list[ChildProcess] = []  # the last one used is at the end, and used next: its caches are warm
        self._busy: dict[ChildProcess, _Run] = {}
        # Those that are ready, each with what it has begun once: of that it says no more that it begins, as it has no need
        # to import anything first, and one word less is one wake-up less for a task.
        self._ready: dict[ChildProcess, set[tuple[str, bool]]] = {}
        self._ending: set[ChildProcess] = set()
        self._waiting: deque[_Run] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        # multiprocessing joins children at exit; those of an executor that nobody closed would never end.
        atexit.register(self._kill_all)

    def submit(self, call: Call) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = self._loop.create_future()
        if self._closed:
            resolve(call, future, CutShort())
            return future
        try:
            run = call.run = _Run(call, future, encode_request(call))
        except (TypeError, ValueError, OverflowError) as error:  # headers that no broker of ours delivers
            resolve(call, future, result_of(error))
            return future
        self._waiting.append(run)
        self._serve_waiting()
        return future

    def stop(self, call: Call, result: Result) -> bool:
        run = call.run
        if not isinstance(run, _Run) or run.future.done():
            return False
        call.stopped = result
        if run.process is None:
            self._waiting.remove(run)
            run.resolve(result)
        else:
            run.process.kill()
        return True

    def cancel(self, call: Call, result: Result) -> None:
        run = call.run
        if not isinstance(run, _Run) or run.future.done():
            return
        if run.process is None:
            self.stop(call, result)
        else:
            run.process.send(CANCEL_FRAME)

    def kill(self, call: Call, result: Result) -> bool:
        return self.stop(call, result)

    async def close(self, grace_seconds: float = 0.0) -> int:
        self._closed = True
        while self._waiting:
            self._waiting.popleft().resolve(CutShort())
        if self._busy and grace_seconds > 0:
            await asyncio.wait([run.future for run in self._busy.values()], timeout=grace_seconds)
        for run in list(self._busy.values()):
            self.stop(run.call, CutShort())
        while self._idle:
            process = self._idle.pop()
            self._ending.add(process)
            process.hang_up()
        await self._all_gone(EXIT_SECONDS)
        self._kill_all()
        await self._all_gone(KILLED_SECONDS)
        atexit.unregister(self._kill_all)
        for run in self._busy.values():
            run.resolve(CutShort())
        return len(self._busy)

    # --- handing out ------------------------------------------------------------------------------------------------

    def _serve_waiting(self) -> None:
        """Give every waiting run a child, as long as there are any."""
        while self._waiting:
            try:
                process = self._free_process()
            except Exception as error:  # out of processes, memory or descriptors; multiprocessing says no
                failed = TaskError(f"expected to start a process for the task, got {type(error).__name__}: {error}")
                self._waiting.popleft().resolve(result_of(failed))
                continue
            if process is None:
                return
            run = self._waiting.popleft()
            self._busy[process] = run
            run.process = process
            process.send(run.frame)
            run.frame = b""
            if _what(run.call) in self._ready.get(process, ()):
                tell_began(run.call)
            else:
                run.patience = self._loop.call_later(READY_SECONDS, self._not_ready, run, process)

    def _free_process(self) -> ChildProcess | None:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            self._ending.add(process)  # it died idle, unnoticed so far: no task may pay for that
        if len(self._busy) + len(self._ending) >= self.max_processes:
            return None
        return ChildProcess(self._loop, self._heard, self._exited)

    # --- hearing ----------------------------------------------------------------------------------------------------

    def _heard(self, process: ChildProcess, frame: bytes) -> None:
        if not frame:
            self._ready[process] = set()
            return
        run = self._busy.get(process)
        if run is not None and run.patience is not None and frame == BEGAN:
            run.end_patience()
            self._ready[process].add(_what(run.call))
            if run.call.stopped is None:
                tell_began(run.call)
            return
        self._busy.pop(process, None)
        if run is None:
            if process in self._idle:
                self._idle.remove(process)
                self._ending.add(process)
            process.kill()  # it spoke out of turn: a task has got hold of its socket
            return
        try:
            result, run.call.returned_error = decode_reply(frame)
        except DecodeError as error:
            self._busy[process] = run
            run.call.stopped = run.call.stopped or result_of(TaskProcessDied(str(error)))
            process.kill()
            return
        run.resolve(result)
        if run.call.stopped is None and not self._closed and not self._fresh:
            self._idle.append(process)
            self._serve_waiting()
        else:
            self._ending.add(process)  # it is being killed, comes too late to be used again, or was for this call only
            process.hang_up()
            self._loop.call_later(EXIT_SECONDS, self._end, process)

    def _end(self, process: ChildProcess) -> None:
        if process in self._ending:
            process.kill()  # a thread that the task left behind keeps it

    def _not_ready(self, run: _Run, process: ChildProcess) -> None:
        run.patience = None
        if run.call.stopped is None:
            run.call.stopped = result_of(_slow(process.pid, run.call.target, process in self._ready))
        process.kill()

    def _exited(self, process: ChildProcess, exit_code: int | None) -> None:
        run = self._busy.pop(process, None)
        self._ending.discard(process)
        if process in self._idle:
            self._idle.remove(process)
        if run is not None:
            if run.patience is None and run.call.stopped is None and exit_code not in REQUESTS_TO_END:
                run.call.died = say_exit(exit_code)
            run.resolve(run.call.stopped or result_of(_died(process.pid, exit_code, process in self._ready)))
        self._ready.pop(process, None)
        if self._on_replaced is not None and not self._closed:
            self._on_replaced(process.pid, exit_code)
        self._changed.set()
        self._serve_waiting()

    # --- ending -----------------------------------------------------------------------------------------------------

    async def _all_gone(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self._busy or self._ending:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass  # the caller looks at what is left

    def _kill_all(self) -> None:
        for process in [*self._busy, *self._ending, *self._idle]:
            process.kill()


def _what(call: Call) -> tuple[str, bool]:
    """What a child has to find and bind before it can call the function."""
    return call.target, call.uuid_first


def _died(pid: int, exit_code: int | None, was_ready: bool) -> TaskProcessDied:
    if was_ready:
        return TaskProcessDied(f"the process that ran it (pid {pid}) died: {say_exit(exit_code)}")
    return TaskProcessDied(
        f"its process (pid {pid}) died before it could begin: {say_exit(exit_code)}; see its standard error, and"
        ' whether the main script starts its work under `if __name__ == "__main__":`'
    )


def _slow(pid: int, target: str, was_ready: bool) -> TaskProcessDied:
    module = target.partition(":")[0]
    step = f"importing {module}" if was_ready else "starting it and importing the main script"
    return TaskProcessDied(
        f"its process (pid {pid}) did not get ready within {READY_SECONDS:g} s and was killed: {step} took too long;"
        " move slow work out of the module's top level into functions"
    )


def refuse_inside_main_import() -> None:
    """`ConfigError` in a child process that is importing the main script, which would do there what it does here."""
    # The mark by which multiprocessing itself refuses to start a process at that moment. Without this check such a
    # script would start a second worker inside the child, which takes tasks that nobody can run.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            'expected the main script to start its work under `if __name__ == "__main__":`,'
            " but a child process that imports it did so too: for executor='process', or to run a task alone that had"
            " killed its workers"
        )
