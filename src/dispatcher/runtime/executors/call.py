"""One call of a task's function, how it is run to a `Result`, and the interface of the places where that happens.

What is here runs user code and therefore never acks, publishes or decides a fate: it hands back what happened. Nothing
a function raises passes these guards, `SystemExit` and `KeyboardInterrupt` included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from inspect import CORO_CREATED, getcoroutinestate
from types import CoroutineType
from typing import Any, Protocol

import msgspec

from ...errors import ConfigError
from ...model.outcome import RETURNED, CutShort, Result
from ...observe.context import CURRENT_TASK, CurrentTask
from .failures import result_of

__all__ = [
    "Call",
    "Executor",
    "RunTask",
    "check_returned",
    "resolve",
    "run_coroutine",
    "run_plain",
    "tell_began",
    "tell_end",
]


class Call(msgspec.Struct, eq=False):
    """A function about to run, or running. One `Call` is one run; it is not used twice.

    `args`: its positional arguments, the uuid already first if the task asked for it. A process takes `body` and
    `target` instead and binds them itself; `uuid_first` tells it to put the uuid first.
    `keep_error`: keep the exception object in `error` once it raised, for the middleware around it.
    `on_began`: called when the function starts, for whoever measures its time: see `Executor.submit`.
    `on_end`: called on the loop with what happened, once, before the future of `submit` resolves, or while it is made.

    An executor writes the rest. `error`: see `keep_error`; never set by a process, whose exceptions stay there. Who
    takes it sets it back to None: its frames lead to this call, and the cycle would keep the function's locals alive.
    `returned_error`: the class name of an exception object that the function returned instead of raising it: almost
    surely a mistake, worth a warning. `died`: how the process that ran it ended, where it did so by itself, or by what the
    function did, while the function ran. `stopped`: the result that `Executor.stop` promised; whoever gives up waiting
    for a run to stop sets it back to None, and the run's own result counts again.
    """

    function: Callable[..., Any]
    args: Sequence[Any]
    current: CurrentTask
    body: bytes = b""
    target: str = ""
    uuid_first: bool = False
    keep_error: bool = False
    on_began: Callable[[], None] | None = None
    on_end: Callable[[Result], None] | None = None
    error: BaseException | None = None
    returned_error: str | None = None
    died: str | None = None
    stopped: Result | None = None
    run: Any = None  # the executor's own: how `stop` finds the run


class Executor(Protocol):
    """A place where functions run. Made and used on one running event loop."""

    def submit(self, call: Call) -> asyncio.Future[Result]:
        """Run `call`. The future resolves with what happened; it never gets an exception and must not be cancelled.

        A process calls `call.on_began` when the child has imported and bound everything and calls the function, or, if
        that child has called it before, when it is handed over; a thread when there is one for it. Both often are inside
        `submit`. The loop never does, as a coroutine starts here or on the loop's next turn. It is called on the loop, at
        most once, before the future resolves, and not after `stop` returned True. Where it is given, the `deadline` that
        the function sees counts from that moment as well.
        """
        ...

    def stop(self, call: Call, result: Result) -> bool:
        """Ask the run to end now, its future to resolve with `result` once it did.

        False: it ended already, or it cannot be stopped (a thread), and its own result will come.
        """
        ...

    def cancel(self, call: Call, result: Result) -> None:
        """Its sender has cancelled it: let the run hear of it, to end soon, with `result` where that stopped it."""
        ...

    def kill(self, call: Call, result: Result) -> bool:
        """`stop` for what did not heed its cancel. False where nothing ends it but itself: a coroutine, a thread."""
        ...

    async def close(self, grace_seconds: float = 0.0) -> int:
        """Wait up to `grace_seconds` for what runs (zero: not at all), then stop it with `CutShort`. Twice is fine.

        Every future resolves. Returns how many functions could not be stopped and still run.
        """
        ...


def resolve(call: Call, future: asyncio.Future[Result], result: Result) -> None:
    """Tell both who wait for a call what happened."""
    tell_end(call, result)
    future.set_result(result)


def tell_began(call: Call) -> None:
    """Call its `on_began`, if it has one, and forget that: see `tell_end`."""
    on_began, call.on_began = call.on_began, None
    if on_began is not None:
        on_began()


def tell_end(call: Call, result: Result) -> None:
    """Call its `on_end`, and forget that: who listens holds the call, and nobody should have to look for such circles."""
    on_end, call.on_end = call.on_end, None
    if on_end is not None:
        on_end(result)


def run_plain(call: Call) -> Result:
    """Call a plain function in the current context and thread."""
    CURRENT_TASK.set(call.current)
    try:
        value = call.function(*call.args)
        if value is not None:
            check_returned(call, value)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: a task may not end its worker
        return _failed(call, error)
    return RETURNED


async def run_coroutine(call: Call, on_end: Callable[[Call, Result], None] | None = None) -> Result:
    """Await a coroutine function in the current `asyncio.Task`, and tell `on_end` the result before it is returned."""
    result: Result = RETURNED
    if call.stopped is None:
        CURRENT_TASK.set(call.current)
        try:
            value = await call.function(*call.args)
            if value is not None:
                check_returned(call, value)
        except BaseException as error:  # out of a coroutine, SystemExit would cancel every other task of the loop
            if isinstance(error, asyncio.CancelledError) and _cancelled_from_outside():
                result = CutShort()
            elif call.stopped is None:
                result = _failed(call, error)
    if call.stopped is not None:
        # Also of a function that swallowed its cancellation: to take it for done would lose the task.
        result = call.stopped
    if on_end is not None:
        on_end(call, result)
    return result


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return isinstance(task, RunTask) and task.cancelled_from_outside


class RunTask(asyncio.Task[Result]):
    """An `asyncio.Task` that remembers who cancelled it.

    Cancelled by anyone but itself (the loop is torn down, its waiter was cancelled), the run was cut short. A function
    that cancels its own task failed: to hand it back would run it in a hot loop.
    """

    cancelled_from_outside = False
    was_told = False  # to stop, by its executor

    def cancel(self, msg: Any | None = None) -> bool:
        if asyncio.current_task(self.get_loop()) is not self:
            self.cancelled_from_outside = True
        coroutine = self.get_coro()
        if isinstance(coroutine, CoroutineType) and getcoroutinestate(coroutine) == CORO_CREATED:
            # Cancelled before its first step, it would end outside of its guard, as a cancelled future.
            self.get_loop().call_soon(super().cancel, msg)
            return True
        return super().cancel(msg)


def _failed(call: Call, error: BaseException) -> Result:
    if call.keep_error:
        own = error.__traceback__
        call.error = error.with_traceback(None if own is None else own.tb_next)
    return result_of(error)


def check_returned(call: Call, value: object) -> None:
    """Raise `ConfigError` for a value that is work nobody will do; note an exception object returned, not raised."""
    if isinstance(value, BaseException):
        call.returned_error = type(value).__qualname__
    elif isinstance(value, Coroutine):
        value.close()
        raise _not_done(call, "a coroutine that nobody awaits; define the task with `async def` and await it there")
    elif isinstance(value, Generator | AsyncGenerator):
        raise _not_done(call, f"{_described(value)}, whose body nobody runs; use it up inside the task")
    elif isinstance(value, Awaitable):
        raise _not_done(call, f"{_described(value)} that nobody awaits; await it in a task defined with `async def`")


def _not_done(call: Call, got: str) -> ConfigError:
    return ConfigError(f"task {call.current.name!r}: expected it to be done when it returned, got {got}")


def _described(value: object) -> str:
    return f"an object of class {type(value).__qualname__}"
