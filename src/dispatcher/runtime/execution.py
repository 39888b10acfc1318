"""From a delivery to a result: read it, check it, run its function where it belongs, under the middleware.

What is here runs user code, so it cannot ack, reject or publish: it hands a `Result` to whoever started it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec

from ..brokers.base import Delivery
from ..errors import ArgumentError, DecodeError, TaskError, TaskTimeout
from ..model import headers as names
from ..model.codec import decode_body
from ..model.outcome import (
    BadArguments,
    Cancelled,
    Expired,
    Raised,
    Redelivered,
    Result,
    Returned,
    Undecodable,
    Unknown,
)
from ..model.retry import Failure
from ..observe.context import CurrentTask
from ..observe.events import ProcessReplaced, TaskQuarantined, TaskReturnedError
from ..observe.hooks import CallNext, EventHub, Middleware
from .cancels import CancelBook
from .executors import Call, CoroutineExecutor, Executor, ProcessExecutor, ThreadExecutor, check_returned, error_of
from .executors.call import RunTask
from .quarantine import Quarantine, died_alone, holders_lost, redeliveries_of
from .registry import Place, RegisteredTask
from .settle import Unsettled

__all__ = ["Execution", "Ready", "Refused", "Run", "attempt_of", "timed_out"]

COUNTED_KEPT = 10_000
"""Of so many redeliveries that were counted here the uuids are remembered."""


class Ready(msgspec.Struct, eq=False):
    """A delivery whose task is known and whose arguments fit. `redelivered` False: surely nobody had it before."""

    uuid: str
    name: str
    attempt: int
    task: RegisteredTask
    args: list[Any]
    headers: Mapping[str, Any]
    redelivered: bool


class Refused(msgspec.Struct, eq=False):
    """A delivery that will not run, with the reason as its result. `uuid` and `name` are empty where it has none."""

    uuid: str
    name: str
    attempt: int
    result: Result


class Run:
    """One delivery in a worker, from its slot to its fate. `item` is replaced when its delivery is redelivered.

    `alone`: it is a suspect; set once it ended, or overran its timeout, and the next suspect may begin.
    """

    __slots__ = (
        "alone",
        "call",
        "cancelled",
        "ended",
        "executor",
        "has_slot",
        "item",
        "overrunning",
        "prepared",
        "running",
        "started_at",
        "timer",
    )

    def __init__(self, item: Unsettled, prepared: Ready | Refused, alone: asyncio.Event | None = None) -> None:
        self.item = item
        self.prepared = prepared
        self.alone = alone
        self.running = False
        self.overrunning = False
        self.has_slot = True
        self.timer: asyncio.TimerHandle | None = None
        self.started_at = 0.0
        self.call: Call | None = None
        self.ended: asyncio.Future[Result] | None = None
        self.cancelled: Cancelled | None = None
        self.executor: Executor | None = None

    def stop(self, result: Result) -> bool:
        """Ask the function to end, with `result`. False where it cannot be stopped or has ended."""
        return self.executor is not None and self.call is not None and self.executor.stop(self.call, result)

    def ask_to_cancel(self, result: Cancelled) -> None:
        """Tell the function that its sender has cancelled it: a coroutine is cancelled, a process hears of it."""
        assert self.executor is not None and self.call is not None
        self.call.current.ask_to_cancel()
        self.executor.cancel(self.call, result)

    def kill(self, result: Result) -> bool:
        """End a process, with `result`. False for anything else: a coroutine has been told once, a thread cannot be."""
        return self.executor is not None and self.call is not None and self.executor.kill(self.call, result)

    def let_go_on(self) -> None:
        """It did not stop when it was asked to: what it does in the end counts again."""
        if self.call is not None:
            self.call.stopped = None
            if isinstance(self.call.run, RunTask):
                self.call.run.cancelled_from_outside = False  # a cancellation that it lets out now is its own failure


Prepared: TypeAlias = Ready | Refused
OnBegan: TypeAlias = Callable[[Run], None]
OnEnd: TypeAlias = Callable[[Run, Result], None]


class Execution:
    """The executors of one worker. `limit` is how many functions may be running in each, overrunning ones included.

    `delivery_limit`: how many holders may be lost with a message of its queue, where the broker does not count them.
    """

    def __init__(
        self,
        hub: EventHub,
        middleware: Sequence[Middleware],
        *,
        limit: int,
        max_body_bytes: int,
        delivery_limit: int,
        cancels: CancelBook,
    ) -> None:
        self._hub = hub
        self._middleware = tuple(middleware)
        self._limit = limit
        self._max_body_bytes = max_body_bytes
        self._delivery_limit = delivery_limit
        self._cancels = cancels
        self._warned: set[str] = set()
        self._counted: dict[str, None] = {}
        self._loop_executor = CoroutineExecutor()
        self._executors: dict[Place, Executor] = {"loop": self._loop_executor}
        self._quarantine = Quarantine(hub, limit)

    # --- before the run --------------------------------------------------------------------------------------------

    def prepare(self, delivery: Delivery, tasks: Mapping[str, RegisteredTask]) -> Prepared:
        """Read and check a delivery. Never raises for what a stranger may have sent."""
        headers = delivery.headers
        attempt = attempt_of(headers)
        try:
            body = decode_body(delivery.body, max_bytes=self._max_body_bytes)
        except DecodeError as error:
            return Refused(delivery.uuid, "", attempt, Undecodable(str(error)))
        if (cancelled := self._cancels.result_of(body.uuid, headers)) is not None:
            return Refused(body.uuid, body.name, attempt, cancelled)
        redeliveries = redeliveries_of(headers)
        if delivery.redelivered and delivery.delivery_count is None and self._must_count(body.uuid):
            return Refused(body.uuid, body.name, attempt, Redelivered(redeliveries + 1, self._delivery_limit))
        try:
            task = tasks[body.name]
        except KeyError:
            return Refused(body.uuid, body.name, attempt, Unknown(_known_for_seconds(headers)))
        expires_at = headers.get(names.EXPIRES_AT)
        if type(expires_at) is int and expires_at <= time.time() * 1000:
            late = time.time() - expires_at / 1000
            return Refused(body.uuid, body.name, attempt, Expired(f"it expired {late:.3f} s before it could start"))
        try:
            args = task.signature.check(body.args)
        except ArgumentError as error:
            return Refused(body.uuid, body.name, attempt, BadArguments(str(error)))
        # A copy that counts is not redelivered itself, but what it is a copy of may have run.
        redelivered = delivery.redelivered or redeliveries > 0
        return Ready(body.uuid, body.name, attempt, task, args, headers, redelivered)

    def _must_count(self, uuid: str) -> bool:
        """Whether a redelivery that the broker does not count is to be counted here: once, since we live.

        What comes here a second time cost no life of ours. A Go worker beside us hands back at once what it does not
        know, and a queue may give it every copy of ours in turn: counting each would make a dead letter of it.
        """
        if uuid in self._counted:
            return False
        if len(self._counted) >= COUNTED_KEPT:
            del self._counted[next(iter(self._counted))]
        self._counted[uuid] = None
        return True

    def cancel_of(self, ready: Ready) -> Cancelled | None:
        """The cancel that holds for a task that runs."""
        return self._cancels.result_of(ready.uuid, ready.headers)

    # --- the run ---------------------------------------------------------------------------------------------------

    def start(self, run: Run, ready: Ready, on_began: OnBegan, on_end: OnEnd) -> None:
        """Run the function. `on_began` is called on this loop when it starts, `on_end` with what happened: both at once
        where a coroutine does."""
        task = ready.task
        delivery = run.item.delivery
        timeout_seconds = task.timeout_seconds
        current = CurrentTask(
            ready.uuid,
            ready.name,
            ready.attempt,
            ready.redelivered,
            ready.headers,
            delivery.queue,
            None if timeout_seconds is None else time.time() + timeout_seconds,
        )
        args = [ready.uuid, *ready.args] if task.config.task_uuid_as_first_arg else ready.args
        call = Call(task.function, args, current)
        place: Place = task.place
        executor = self._executors.get(place)
        if executor is None:
            executor = self._executors[place] = self._make_executor(place)
        target = task.target
        suspected = 0
        if run.alone is not None and (own := self._quarantine.place_for(task, executor)) is not None:
            place = "process"
            executor, target = own
            suspected = holders_lost(delivery)
            self._hub.emit(TaskQuarantined(ready.uuid, ready.name, delivery.queue, ready.attempt, suspected))
        if target is not None:
            call.body = delivery.body
            call.target = target
            call.uuid_first = task.config.task_uuid_as_first_arg
        run.running = True
        run.started_at = time.monotonic()
        if place == "loop":
            on_began(run)
        else:
            call.on_began = partial(on_began, run)
        run.executor, run.call = executor, call
        tell_end = partial(self._end, run, call, suspected, on_end)
        if not self._middleware:
            call.on_end = tell_end
            run.ended = executor.submit(call)
        else:
            outer = self._wrapped(place, executor, call)
            outer.on_end = tell_end
            if (
                place == "loop"
            ):  # stopped together with what is around it; a process is stopped itself, and middleware sees it
                run.call = outer
            run.ended = self._loop_executor.submit(outer)

    def _end(self, run: Run, call: Call, suspected: int, on_end: OnEnd, result: Result) -> None:
        if call.returned_error is not None and call.current.name not in self._warned:
            self._warned.add(call.current.name)
            self._hub.emit(TaskReturnedError(call.current.name, call.returned_error))
        if suspected and call.died is not None:  # whatever middleware made of it
            result = died_alone(suspected, call.died)
        on_end(run, result)

    def _make_executor(self, place: Place) -> Executor:
        if place == "thread":
            return ThreadExecutor(self._limit)
        return ProcessExecutor(self._limit, on_replaced=self._process_replaced)

    def _process_replaced(self, pid: int, exit_code: int | None) -> None:
        self._hub.emit(ProcessReplaced(pid, exit_code))

    def _wrapped(self, place: Place, executor: Executor, call: Call) -> Call:
        """The call as its middleware sees it: a coroutine on the loop, with the function innermost."""

        began = False

        async def on_loop() -> None:
            value = await call.function(*call.args)
            if value is not None:
                check_returned(call, value)

        async def elsewhere() -> None:
            call.keep_error = True
            result = await asyncio.shield(executor.submit(call))
            if not isinstance(result, Returned):
                # The exception's frames lead back to the call: kept there, it would hold the function's locals alive.
                error, call.error = call.error, None
                raise error or error_of(result)

        async def once() -> None:
            nonlocal began
            if began:
                raise TaskError("a middleware awaited call_next() twice: a delivery is one run")
            if call.current.cancel_asked:
                raise TaskError("it was cancelled before it began")
            began = True
            await (on_loop() if place == "loop" else elsewhere())

        async def whole() -> None:
            step: CallNext = once
            for middleware in reversed(self._middleware):
                step = partial(middleware, call.current, step)
            await step()
            if not began:
                raise TaskError("a middleware returned without call_next(): to drop a task, raise Discard")

        return Call(whole, (), call.current)

    async def close(self) -> int:
        """Stop what still runs and end threads and processes; how many functions could not be stopped."""
        left = await self._quarantine.close()  # first: it may be about to run something in place
        for executor in self._executors.values():
            left += await executor.close()
        return left


def timed_out(name: str, timeout_seconds: float) -> Raised:
    """The result of a function that was stopped at its timeout."""
    message = f"task {name} ran longer than its timeout of {timeout_seconds:g} s"
    lineage = tuple(f"{cls.__module__}.{cls.__qualname__}" for cls in TaskTimeout.__mro__)
    return Raised(Failure(lineage[0], message, "", lineage))


def attempt_of(headers: Mapping[str, Any]) -> int:
    """Which attempt the headers of a message say; none, or a stranger's nonsense, is the first."""
    value = headers.get(names.ATTEMPT)
    return value if type(value) is int and value >= 1 else 1


def _known_for_seconds(headers: Mapping[str, Any]) -> float:
    since_ms = headers.get(names.UNKNOWN_SINCE)
    return max(0.0, time.time() - since_ms / 1000) if type(since_ms) is int else 0.0
