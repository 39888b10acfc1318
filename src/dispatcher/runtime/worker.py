"""A worker: takes the deliveries of one queue, runs at most `limit` of their tasks at once, and has each one settled.

It decides when: a slot, a timeout, a drain. What a run is belongs to `execution`, its fate to `decide`, and only
`settle` may carry that out. All of it lives on the server's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ..brokers.base import Consumer, Delivery, Session
from ..errors import ConfigError, ConnectionLost, ConsumerCancelled, DispatcherError, TopologyMismatch
from ..model.outcome import (
    HAND_BACK,
    CutShort,
    DeadLetter,
    Outcome,
    Raised,
    Result,
    RetryLater,
    Returned,
    SnoozeLater,
    decide,
)
from ..model.topology import check_name
from ..observe.events import (
    TaskFailed,
    TaskOverran,
    TaskStarted,
    TaskSucceeded,
    WorkerDraining,
    WorkerFull,
    WorkerStarted,
    WorkerStopped,
)
from ..observe.hooks import EventHub
from .execution import Execution, Ready, Refused, Run, timed_out
from .registry import Registry, TaskConfig
from .settle import Settler, Unsettled
from .slots import Slots

__all__ = ["Worker", "WorkerConfig", "WorkerHost"]

CANCEL_PATIENCE_SECONDS = 5.0
"""A cancelled coroutine that has not ended by then counts as overrunning."""

CUT_SHORT_PATIENCE_SECONDS = 2.0
"""How long a run that is cut short may take to end before its delivery is handed back all the same."""

CONSUME_RETRY_SECONDS = 1.0


class WorkerConfig(msgspec.Struct, frozen=True):
    """One worker.

    `name`: unique in its server. `queue`: the queue it consumes, declared if it does not exist.
    `binding_keys`: routing keys to bind the queue to; none binds nothing.
    `limit`: how many tasks run at once.
    `prefetch`: the most deliveries held unsettled; None is `limit`, and room for the overrunning ones where a task can
    overrun.
    `max_overrunning`: how many functions may run on past their timeout before the worker takes nothing new; None is
    `limit`.
    """

    name: str = ""
    queue: str = ""
    binding_keys: Sequence[str] = ()
    limit: int = 32
    prefetch: int | None = None
    max_overrunning: int | None = None

    def __post_init__(self) -> None:
        check_name("worker name", self.name)
        check_name(f"queue of worker {self.name!r}", self.queue, room=len(".dead"))
        keys = self.binding_keys
        if isinstance(keys, str):
            raise ConfigError(
                f"binding_keys of worker {self.name!r}: expected a list of strings, got the string {keys!r}"
            )
        msgspec.structs.force_setattr(self, "binding_keys", tuple(check_name("binding key", key) for key in keys))
        for what in ("limit", "prefetch", "max_overrunning"):
            value = getattr(self, what)
            if value is None and what != "limit":
                continue
            if type(value) is not int or not 1 <= value <= 65_535:
                raise ConfigError(f"{what} of worker {self.name!r}: expected an integer from 1 to 65535, got {value!r}")
        if self.prefetch is not None and self.prefetch < self.limit:
            raise ConfigError(
                f"prefetch of worker {self.name!r}: expected at least its limit of {self.limit}, got {self.prefetch};"
                " fewer would leave slots empty"
            )


class WorkerHost(Protocol):
    """What a worker needs of its server."""

    async def live_session(self) -> Session: ...
    async def declare_for(self, worker: WorkerConfig) -> None: ...
    def give_up(self, error: DispatcherError) -> None: ...


class Worker:
    """Made by `Server.new_worker`, which documents it."""

    def __init__(
        self,
        host: WorkerHost,
        config: WorkerConfig,
        tasks: Mapping[str, TaskConfig] | Registry,
        *,
        hub: EventHub,
        execution: Execution,
        settler: Settler,
        slots: Slots | None = None,
    ) -> None:
        self.config = config
        self.name = config.name
        self.registry = tasks if isinstance(tasks, Registry) else Registry(tasks)
        self.max_overrunning = config.max_overrunning or config.limit
        can_overrun = any(task.timeout_seconds is not None for task in self.registry.values())
        self.prefetch = config.prefetch or config.limit + (self.max_overrunning if can_overrun else 0)
        self._host = host
        self._hub = hub
        self._execution = execution
        self._settler = settler
        self._slots = slots or Slots(config.limit)
        self._runs: set[Run] = set()
        self._orphans: dict[tuple[str, int, bytes], Run] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._overrunning = 0
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._consumer: Consumer | None = None
        self._taking: asyncio.Task[None] | None = None
        self._interruptible = False
        self._draining = False
        self._closing: asyncio.Task[None] | None = None
        self.exhausted = asyncio.Event()
        self.retries_due_at = 0.0

    def __repr__(self) -> str:
        return (
            f"<Worker {self.name!r} on {self.config.queue!r}: {len(self._runs)} running,"
            f" {self._overrunning} overrunning{', draining' if self._draining else ''}>"
        )

    @property
    def closed(self) -> bool:
        """Whether its close has ended."""
        return self._closing is not None and self._closing.done()

    @property
    def running(self) -> int:
        """Tasks that run or are being settled here, overrunning ones left out."""
        return len(self._runs) - self._overrunning

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Consume. Returns once the broker delivers to this worker; twice is fine."""
        if self._taking is not None:
            return
        if self._draining:
            raise ConfigError(f"worker {self.name!r} was closed; make a new one")
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._taking = asyncio.create_task(self._take_deliveries(started), name=f"dispatcher worker {self.name}")
        await started

    async def close(self, *, grace_seconds: float | None = None) -> None:
        """Stop consuming, wait for what runs, settle it. Twice is fine: both wait for the one close.

        `grace_seconds`: what still runs then is cut short and handed back; None waits as long as it takes, zero cuts
        at once. Functions that overrun their timeout are not waited for: they are handed back.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(grace_seconds), name=f"dispatcher close {self.name}")
        await asyncio.shield(self._closing)

    async def _close(self, grace_seconds: float | None) -> None:
        self._draining = True
        self._hub.emit(WorkerDraining(self.name, self.config.queue, self.running))
        if self._consumer is not None:
            await self._consumer.stop()
        if self._taking is not None:
            if self._interruptible:
                self._taking.cancel()
            await asyncio.wait([self._taking])
        self._note_idle()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            pass  # the grace is over: what is left is cut short below
        await self.cut_short()
        abandoned = await self._execution.close()
        self._hub.emit(WorkerStopped(self.name, self.config.queue, abandoned))

    async def cut_short(self) -> None:
        """Cancel or kill what runs and hand it back; no attempt is counted. What cannot be stopped runs on unseen."""
        waiting: list[asyncio.Future[Any]] = list(self._settling)
        for run in tuple(self._runs):
            if run.running:
                if run.stop(CutShort()) and run.ended is not None:
                    waiting.append(run.ended)
        if waiting:
            await asyncio.wait(waiting, timeout=CUT_SHORT_PATIENCE_SECONDS)
        for run in tuple(self._runs):
            if run.running:
                self._settle(run, HAND_BACK)
        for task in self._settling:
            task.cancel()

    # --- taking deliveries -----------------------------------------------------------------------------------------

    async def _take_deliveries(self, started: asyncio.Future[None]) -> None:
        """Consume on one session after the other until the drain, or until the server gave up."""
        try:
            while not self._draining:
                try:
                    await self._consume_once(started)
                except (ConnectionLost, ConsumerCancelled, TopologyMismatch) as error:
                    if not started.done() and isinstance(error, TopologyMismatch):
                        raise
                    await self._interruptibly(self._before_consuming_again(error))
        except DispatcherError as error:
            if not started.done():
                started.set_exception(error)
            # Otherwise the server has given up, and closes this worker itself.
        except Exception as error:  # a fault of ours: a worker that silently stopped taking would be worse than its end
            self._host.give_up(DispatcherError(f"worker {self.name!r} failed: {type(error).__name__}: {error}"))
            raise
        finally:
            if not started.done():
                started.set_exception(ConnectionLost(f"worker {self.name!r} was closed before it had started"))

    async def _before_consuming_again(self, error: DispatcherError) -> None:
        """The session or the queue is gone: wait for a session, and have the queue declared again."""
        if not isinstance(error, ConnectionLost):
            await asyncio.sleep(CONSUME_RETRY_SECONDS)
        await self._host.live_session()
        if not isinstance(error, ConnectionLost):
            await self._host.declare_for(self.config)

    async def _interruptibly(self, awaitable: Any) -> Any:
        """Wait for something that a drain may cancel."""
        self._interruptible = True
        try:
            return await awaitable
        finally:
            self._interruptible = False

    async def _consume_once(self, started: asyncio.Future[None]) -> None:
        session = await self._interruptibly(self._host.live_session())
        consumer = self._consumer = await session.consume(self.config.queue, prefetch=self.prefetch)
        if self._draining:
            await consumer.stop()
        self._hub.emit(
            WorkerStarted(self.name, self.config.queue, self.config.limit, self.prefetch, len(self.registry))
        )
        if not started.done():
            started.set_result(None)
        try:
            async for delivery in consumer:
                if not (self._room.is_set() and self._slots.try_take()):
                    await self._wait_for_slot(delivery)
                    if session.closed.done():  # lost while it waited: the broker delivers it again
                        self._slots.give()
                        break
                self._begin(session, delivery)
        finally:
            if session.closed.done():
                self._orphan_runs(session)

    async def _wait_for_slot(self, delivery: Delivery) -> None:
        try:
            await self._interruptibly(self._room_and_slot())
        except asyncio.CancelledError:
            self._settler.hand_back(delivery)
            raise

    async def _room_and_slot(self) -> None:
        await self._room.wait()
        await self._slots.take()

    # --- runs ------------------------------------------------------------------------------------------------------

    def _begin(self, session: Session, delivery: Delivery) -> None:
        """Start the run of a delivery; a slot is taken for it."""
        prepared = self._execution.prepare(delivery, self.registry)
        item = Unsettled(delivery, session, prepared.uuid, prepared.name, prepared.attempt)
        if delivery.redelivered and self._orphans and self._adopted(item):
            self._slots.give()
            return
        run = Run(item, prepared)
        self._runs.add(run)
        self._idle.clear()
        if isinstance(prepared, Refused):
            self._settle(run, decide(prepared.result, None, prepared.attempt))
        else:
            self._run(run, prepared)

    def _run(self, run: Run, ready: Ready) -> None:
        if self._hub.busy:
            item = run.item
            self._hub.emit(
                TaskStarted(item.uuid, item.task, item.delivery.queue, item.attempt, item.delivery.redelivered)
            )
        timeout_seconds = ready.task.timeout_seconds
        if timeout_seconds is not None:
            run.timer = asyncio.get_running_loop().call_later(timeout_seconds, self._timed_out, run, ready)
        self._execution.start(run, ready, self._ended)

    def _adopted(self, item: Unsettled) -> bool:
        """Whether this is the redelivery of a run that goes on here since its session died: it will settle this one."""
        run = self._orphans.pop(_identity(item), None)
        if run is None or run not in self._runs:
            return False
        run.item = item
        return True

    def _orphan_runs(self, session: Session) -> None:
        for run in self._runs:
            if run.item.session is session and isinstance(run.prepared, Ready):
                self._orphans[_identity(run.item)] = run

    def _ended(self, run: Run, result: Result) -> None:
        """A function ended, in whatever way."""
        if run not in self._runs:
            return  # its delivery was handed back while it could not be stopped
        ready = run.prepared
        assert isinstance(ready, Ready)
        self._report(run, result)
        self._settle(run, _fate(result, ready, run.item.attempt))

    def _report(self, run: Run, result: Result) -> None:
        item = run.item
        if isinstance(result, Returned):
            if self._hub.busy:
                seconds = time.monotonic() - run.started_at
                self._hub.emit(TaskSucceeded(item.uuid, item.task, item.delivery.queue, item.attempt, seconds))
        elif isinstance(result, Raised):
            failure = result.failure
            self._hub.emit(
                TaskFailed(
                    item.uuid,
                    item.task,
                    item.delivery.queue,
                    item.attempt,
                    time.monotonic() - run.started_at,
                    failure.type,
                    failure.message,
                    failure.traceback,
                )
            )

    def _timed_out(self, run: Run, ready: Ready) -> None:
        if ready.task.config.on_timeout == "release":
            self._overrun(run, ready)
            return
        run.stop(timed_out(ready.name, ready.task.timeout_seconds or 0.0))
        run.timer = asyncio.get_running_loop().call_later(CANCEL_PATIENCE_SECONDS, self._overrun, run, ready)

    def _overrun(self, run: Run, ready: Ready) -> None:
        """Its time is over and it runs on: its slot goes to the next task."""
        run.timer = None
        run.let_go_on()
        run.overrunning = True
        self._overrunning += 1
        self._slots.give()
        item = run.item
        self._hub.emit(
            TaskOverran(
                item.uuid,
                item.task,
                item.delivery.queue,
                item.attempt,
                ready.task.timeout_seconds or 0.0,
                self._overrunning,
            )
        )
        if self._overrunning >= self.max_overrunning:
            self._room.clear()
            self._hub.emit(WorkerFull(self.name, self.config.queue, self._overrunning))
        self._note_idle()

    # --- settling --------------------------------------------------------------------------------------------------

    def _settle(self, run: Run, outcome: Outcome) -> None:
        run.running = False
        if self._settler.settle_now(run.item, outcome):
            self._forget(run)
            return
        task = asyncio.create_task(self._settle_with_copy(run, outcome), name=f"dispatcher settle {run.item.uuid}")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_with_copy(self, run: Run, outcome: Outcome) -> None:
        try:
            await self._settler.settle_with_copy(run.item, outcome)
            if isinstance(outcome, RetryLater | SnoozeLater):
                self.retries_due_at = max(self.retries_due_at, time.time() + outcome.delay_seconds)
        finally:
            self._forget(run)

    def _forget(self, run: Run) -> None:
        self._runs.discard(run)
        if run.timer is not None:
            run.timer.cancel()
        if self._orphans:
            self._orphans.pop(_identity(run.item), None)
        if run.overrunning:
            self._overrunning -= 1
            self._room.set()
        else:
            self._slots.give()
        self._note_idle()

    def _note_idle(self) -> None:
        if self.running:
            return
        self._idle.set()
        if not self._room.is_set():
            self.exhausted.set()

    async def wait_idle(self) -> None:
        """Wait until nothing runs here, overrunning functions aside."""
        await self._idle.wait()


def _identity(item: Unsettled) -> tuple[str, int, bytes]:
    """What tells a redelivery of the same message from another message with the same uuid."""
    return item.uuid, item.attempt, item.delivery.body


def _fate(result: Result, ready: Ready, attempt: int) -> Outcome:
    """`decide`, with a user's own retry rule that raises turned into the end of its attempts."""
    try:
        return decide(result, ready.task.retry, attempt)
    except Exception as error:  # the rule is user code: whatever it raises, the task must still get a fate
        failure = result.failure if isinstance(result, Raised) else None
        return DeadLetter("failed", f"its retry rule raised {type(error).__name__}: {error}", failure)
