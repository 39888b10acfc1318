"""The runs of one worker: each delivery from its slot to its fate, with its timeout on the way.

Decides when; what a run does belongs to `execution`, its fate to `decide`, and only `settle` may carry that out. All of
it lives on the server's event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ..brokers.base import Delivery, Session
from ..model.outcome import (
    HAND_BACK,
    Cancelled,
    CutShort,
    DeadLetter,
    DiedAlone,
    Discarded,
    Outcome,
    Raised,
    Rejected,
    Result,
    RetryLater,
    Returned,
    SnoozeLater,
    decide,
)
from ..observe.events import TaskCancelling, TaskFailed, TaskOverran, TaskStarted, TaskSucceeded, WorkerFull
from ..observe.hooks import EventHub
from .execution import Execution, Ready, Refused, Run, attempt_of, timed_out
from .executors import text_of
from .quarantine import redeliveries_of
from .registry import Registry
from .settle import Settler, Unsettled
from .slots import Slots

__all__ = ["Runs"]

CANCEL_PATIENCE_SECONDS = 5.0
"""A cancelled coroutine that has not ended by then counts as overrunning."""

ENDED_BY_ITSELF = (Returned, Rejected, Discarded, CutShort)
"""What a cancelled task may still end with; everything else is `Cancelled`."""

CUT_SHORT_PATIENCE_SECONDS = 2.0
"""How long a run that is cut short may take to end before its delivery is handed back all the same."""


class Runs:
    """Runs tasks of `registry`, each in one of `slots`.

    At `max_overrunning` functions that passed their timeout and run on without a slot, `room` is closed: nothing new
    may begin, and one more that overruns keeps its slot. Once nothing else runs then, `exhausted` is set.
    `retries_due_at` is when the last retry or snooze published here is due, in Unix seconds. `begun` counts the
    deliveries that had a slot.
    """

    def __init__(
        self,
        worker: str,
        queue: str,
        registry: Registry,
        *,
        hub: EventHub,
        execution: Execution,
        settler: Settler,
        slots: Slots,
        max_overrunning: int,
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._registry = registry
        self._hub = hub
        self._execution = execution
        self._settler = settler
        self._slots = slots
        self._max_overrunning = max_overrunning
        self._runs: set[Run] = set()
        self._orphans: dict[tuple[int, bytes], Run] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._released = 0
        self.overrunning = 0
        self.room = asyncio.Event()
        self.room.set()
        self.exhausted = asyncio.Event()
        self.retries_due_at = 0.0
        self.begun = 0

    @property
    def running(self) -> int:
        """Tasks that run or are being settled, overrunning ones left out."""
        return len(self._runs) - self.overrunning

    async def wait_idle(self) -> None:
        """Wait until nothing runs here, overrunning functions aside."""
        await self._idle.wait()

    async def wait_empty(self) -> None:
        """Wait until nothing runs here at all."""
        await self._empty.wait()

    # --- from a slot to the function's end -------------------------------------------------------------------------

    def begin(self, session: Session, delivery: Delivery, alone: asyncio.Event | None = None) -> None:
        """Start the run of a delivery; a slot is taken for it. `alone`: of a suspect; set when the next one may begin."""
        prepared = self._execution.prepare(delivery, self._registry)
        run = Run(Unsettled(delivery, session, prepared.uuid, prepared.name, prepared.attempt), prepared, alone)
        if len(self._runs) == self.overrunning:
            self._idle.clear()
            self._empty.clear()
        self._runs.add(run)
        self.begun += 1
        self._go_on(run)

    def _go_on(self, run: Run) -> None:
        """From what was read of the delivery to its function, or to its fate."""
        prepared = run.prepared
        if isinstance(prepared, Refused):
            self._settle(run, decide(prepared.result, None, prepared.attempt))
            return
        if self._hub.busy:
            item = run.item
            self._hub.emit(TaskStarted(item.uuid, item.task, item.delivery.queue, item.attempt, prepared.redelivered))
        self._execution.start(run, prepared, self._began, self._ended)

    def _began(self, run: Run) -> None:
        """The function starts: its clock does too. A process that had to be made first is not the function's time."""
        ready = run.prepared
        assert isinstance(ready, Ready)
        if not run.running:
            return  # handed back while it waited for its thread
        run.started_at = time.monotonic()
        if ready.task.timeout_seconds is not None and run.cancelled is None:
            seconds = ready.task.timeout_seconds
            run.timer = asyncio.get_running_loop().call_later(seconds, self._timed_out, run, ready)

    def adopt(self, session: Session, delivery: Delivery) -> bool:
        """Whether this is the redelivery of a run that goes on here since its session died: it will settle this one.

        So is a copy that another worker has put in the place of the redelivery, in order to count it.
        """
        if not self._orphans or not (delivery.redelivered or redeliveries_of(delivery.headers)):
            return False
        run = self._orphans.pop(_identity(delivery), None)
        if run is None or not run.running:  # it ended meanwhile, and its fate went with the old session
            return False
        run.item = run.item.brought_by(delivery, session)
        return True

    def orphan(self, live: Session) -> None:
        """What runs of another session than `live`, which is lost then, may be redelivered, and shall not run twice here."""
        for run in self._runs:
            if run.running and run.item.session is not live and isinstance(run.prepared, Ready):
                self._orphans[_identity(run.item.delivery)] = run

    def _ended(self, run: Run, result: Result) -> None:
        """A function ended, in whatever way."""
        if run not in self._runs:
            return  # its delivery was handed back while it could not be stopped
        ready = run.prepared
        assert isinstance(ready, Ready)
        self._report(run, result)
        if run.cancelled is not None and not isinstance(result, ENDED_BY_ITSELF):
            result = run.cancelled  # it shall not run again, whatever its policy
        self._settle(run, _fate(result, ready, run.item.attempt))

    def _report(self, run: Run, result: Result) -> None:
        item = run.item
        if isinstance(result, Returned):
            if self._hub.busy:
                seconds = time.monotonic() - run.started_at
                self._hub.emit(TaskSucceeded(item.uuid, item.task, item.delivery.queue, item.attempt, seconds))
        elif isinstance(result, Raised | DiedAlone):
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

    def cancel(self, uuid: str) -> None:
        """The sender of task `uuid` has cancelled it: tell its runs here, and stop those that can be stopped."""
        for run in tuple(self._runs):  # one that had not begun yet ends at once
            if run.running and run.call is not None and run.item.uuid == uuid and run.cancelled is None:
                item, ready = run.item, run.prepared
                why = self._execution.cancel_of(ready) if isinstance(ready, Ready) else None
                if why is None:
                    continue  # it was replayed since
                self._hub.emit(TaskCancelling(item.uuid, item.task, item.delivery.queue, item.attempt))
                run.cancelled = why
                run.ask_to_cancel(why)
                if not run.running:
                    continue
                if run.timer is not None:
                    run.timer.cancel()
                run.timer = asyncio.get_running_loop().call_later(CANCEL_PATIENCE_SECONDS, self._unheeded, run, why)

    def _unheeded(self, run: Run, why: Cancelled) -> None:
        """It runs on, cancelled: a process is killed, anything else has to end by itself, within its timeout if it has one."""
        ready = run.prepared
        if not run.running or not isinstance(ready, Ready):
            return
        run.timer = None
        if run.kill(why):
            return
        run.let_go_on()
        if ready.task.timeout_seconds is not None and not run.overrunning:
            left = run.started_at + ready.task.timeout_seconds - time.monotonic()
            run.timer = asyncio.get_running_loop().call_later(max(0.0, left), self._timed_out, run, ready)

    def _timed_out(self, run: Run, ready: Ready) -> None:
        if ready.task.config.on_timeout == "release":
            self._overrun(run, ready)
            return
        run.stop(timed_out(ready.name, ready.task.timeout_seconds or 0.0))
        run.timer = asyncio.get_running_loop().call_later(CANCEL_PATIENCE_SECONDS, self._overrun, run, ready)

    def _overrun(self, run: Run, ready: Ready) -> None:
        """Its time is over and it runs on: its slot goes to the next task, as long as there is room for one more such."""
        run.timer = None
        run.let_go_on()
        if run.alone is not None:
            run.alone.set()
        run.overrunning = True
        self.overrunning += 1
        item = run.item
        self._hub.emit(
            TaskOverran(
                item.uuid,
                item.task,
                item.delivery.queue,
                item.attempt,
                ready.task.timeout_seconds or 0.0,
                self.overrunning,
            )
        )
        if self._released < self._max_overrunning:
            self._released += 1
            run.has_slot = False
            if self._released == self._max_overrunning:
                self.room.clear()  # before the slot is given: who gets it looks whether there is room
                self._hub.emit(WorkerFull(self._worker, self._queue, self.overrunning))
            self._slots.give()
        self._note_end()

    # --- from the end to the fate ----------------------------------------------------------------------------------

    def _settle(self, run: Run, outcome: Outcome) -> None:
        run.running = False
        if run.timer is not None:
            run.timer.cancel()
        if self._settler.settle_now(run.item, outcome):
            self._forget(run)
            return
        task = asyncio.create_task(self._settle_with_copy(run, outcome), name=f"dispatcher settle {run.item.uuid}")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_with_copy(self, run: Run, outcome: Outcome) -> None:
        settled = True
        try:
            settled = await self._settler.settle_with_copy(run.item, outcome)
            if isinstance(outcome, RetryLater | SnoozeLater):
                self.retries_due_at = max(self.retries_due_at, time.time() + outcome.delay_seconds)
        except asyncio.CancelledError:
            self._settler.hand_back(run.item.delivery)  # cut short before its copy was accepted
            raise
        finally:
            if settled:
                self._forget(run)
        if not settled:  # a redelivery that cannot be counted: it runs as it is, once in the life of this worker
            run.prepared = self._execution.prepare(run.item.delivery, self._registry)
            self._go_on(run)

    def _forget(self, run: Run) -> None:
        self._runs.discard(run)
        if run.alone is not None:
            run.alone.set()
        if self._orphans:
            self._orphans.pop(_identity(run.item.delivery), None)
        if run.overrunning:
            self.overrunning -= 1
        if run.has_slot:
            self._slots.give()
        else:
            self._released -= 1
            self.room.set()
        self._note_end()

    def _note_end(self) -> None:
        if len(self._runs) > self.overrunning:
            return
        if not self._runs:
            self._empty.set()
        self._idle.set()
        if not self.room.is_set():
            self.exhausted.set()

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


def _identity(delivery: Delivery) -> tuple[int, bytes]:
    """What tells a redelivery of the same message from another message with the same uuid, which is in the body."""
    return attempt_of(delivery.headers), delivery.body


def _fate(result: Result, ready: Ready, attempt: int) -> Outcome:
    """`decide`, with a user's own retry rule that raises turned into the end of its attempts."""
    try:
        return decide(result, ready.task.retry, attempt)
    except BaseException as error:  # the rule is user code: whatever it raises, the task must still get a fate
        failure = result.failure if isinstance(result, Raised) else None
        return DeadLetter("failed", f"its retry rule raised {type(error).__name__}: {text_of(error, 500)}", failure)
