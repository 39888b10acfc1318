"""What Dispatcher reports of itself: every event, its stable name, its fields. `docs/reference/events.md` is its table.

Data only. An event never carries a task's arguments. Times are seconds; `duration_seconds` is measured on the
monotonic clock.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import msgspec

from ..model.outcome import Reason

__all__ = [
    "ALL_EVENTS",
    "CancelsUnheard",
    "DeadLettered",
    "Event",
    "ObserverFailed",
    "ProcessReplaced",
    "RedeliveryCounted",
    "ScheduleFailed",
    "ScheduleFired",
    "ScheduleLeading",
    "ScheduleMisfired",
    "SettleFailed",
    "TaskCancelling",
    "TaskDiscarded",
    "TaskEvent",
    "TaskFailed",
    "TaskHandedBack",
    "TaskNotQuarantined",
    "TaskOffered",
    "TaskOverran",
    "TaskPublished",
    "TaskQuarantined",
    "TaskRetried",
    "TaskReturnedError",
    "TaskSettledElsewhere",
    "TaskSnoozed",
    "TaskStarted",
    "TaskSucceeded",
    "TasksMayOutlast",
    "WorkerDraining",
    "WorkerEvent",
    "WorkerFull",
    "WorkerInterrupted",
    "WorkerStarted",
    "WorkerStopped",
]


class Event(msgspec.Struct, frozen=True):
    """The base of all events. `name` is stable; `level` is the logging level it is logged at."""

    name: ClassVar[str]
    level: ClassVar[int] = logging.INFO


class TaskPublished(Event, frozen=True):
    """A task was accepted by the broker."""

    name = "task.published"
    level = logging.DEBUG
    uuid: str
    task: str
    routing_key: str


class TaskEvent(Event, frozen=True):
    """The base of what happens to one delivery of a task."""

    uuid: str
    task: str
    queue: str
    attempt: int


class TaskStarted(TaskEvent, frozen=True):
    """Its function is about to run."""

    name = "task.started"
    level = logging.DEBUG
    redelivered: bool


class TaskSucceeded(TaskEvent, frozen=True):
    """Its function returned."""

    name = "task.succeeded"
    level = logging.DEBUG
    duration_seconds: float


class TaskFailed(TaskEvent, frozen=True):
    """Its function raised, timed out and was stopped, or its process died."""

    name = "task.failed"
    level = logging.WARNING
    duration_seconds: float
    error_type: str
    error: str
    traceback: str


class TaskRetried(TaskEvent, frozen=True):
    """A copy with the next attempt was accepted; it comes after `delay_seconds`."""

    name = "task.retried"
    delay_seconds: float


class TaskSnoozed(TaskEvent, frozen=True):
    """A copy with the same attempt was accepted; it comes after `delay_seconds`."""

    name = "task.snoozed"
    delay_seconds: float


class TaskOffered(TaskEvent, frozen=True):
    """Not registered here: a copy was accepted for another worker; it comes after `delay_seconds`."""

    name = "task.unknown"
    level = logging.WARNING
    delay_seconds: float


class RedeliveryCounted(TaskEvent, frozen=True):
    """A holder was lost with it, and its broker does not count that: a copy that does was accepted in its place."""

    name = "task.redelivery_counted"
    level = logging.WARNING
    redeliveries: int


class TaskQuarantined(TaskEvent, frozen=True):
    """`holders_lost` workers ended while they held it: it runs alone now, in a process of its own."""

    name = "task.quarantined"
    level = logging.WARNING
    holders_lost: int


class TaskNotQuarantined(Event, frozen=True):
    """Workers ended while they held it, and no process of its own can run it: it runs in the worker. Told once per task."""

    name = "task.not_quarantined"
    level = logging.WARNING
    task: str
    reason: str


class TaskReturnedError(Event, frozen=True):
    """Its function returned an exception object instead of raising it; that counts as success. Told once per task."""

    name = "task.returned_error"
    level = logging.WARNING
    task: str
    error_type: str


class TaskDiscarded(TaskEvent, frozen=True):
    """It raised `Discard` and was acked."""

    name = "task.discarded"
    text: str


class DeadLettered(TaskEvent, frozen=True):
    """A copy was accepted by the dead letters. `task` is empty where the body could not be read."""

    name = "task.dead_lettered"
    level = logging.ERROR
    reason: Reason
    text: str


class TaskHandedBack(TaskEvent, frozen=True):
    """It was cut short by the worker and given back to the broker; no attempt is counted."""

    name = "task.handed_back"
    level = logging.WARNING


class TaskOverran(TaskEvent, frozen=True):
    """It passed its timeout and runs on; its slot was given to the next. `overrunning` counts those in this worker."""

    name = "task.overran"
    level = logging.ERROR
    timeout_seconds: float
    overrunning: int


class TaskCancelling(TaskEvent, frozen=True):
    """Its sender cancelled it while it runs: a coroutine is cancelled, a process has 5 s, a thread must look itself."""

    name = "task.cancelling"
    level = logging.WARNING


class TaskSettledElsewhere(TaskEvent, frozen=True):
    """It ended after its session was lost: nothing is acked, the broker delivers it again."""

    name = "task.delivery_lost"
    level = logging.WARNING


class SettleFailed(TaskEvent, frozen=True):
    """The copy that its fate asks for was not accepted; tried again after `delay_seconds`, unacked until then."""

    name = "task.settle_failed"
    level = logging.ERROR
    error: str
    delay_seconds: float


class WorkerEvent(Event, frozen=True):
    """The base of what happens to a worker."""

    worker: str
    queue: str


class WorkerStarted(WorkerEvent, frozen=True):
    """It consumes."""

    name = "worker.started"
    limit: int
    prefetch: int
    tasks: int


class TasksMayOutlast(WorkerEvent, frozen=True):
    """These tasks may run for longer than the broker leaves a delivery with a worker: it would deliver them again."""

    name = "worker.tasks_may_outlast"
    level = logging.WARNING
    tasks: str
    delivery_timeout_seconds: float


class WorkerInterrupted(WorkerEvent, frozen=True):
    """Its queue was deleted or cannot be consumed now. It has the queue declared and tries again, every second."""

    name = "worker.interrupted"
    level = logging.ERROR
    error: str


class WorkerDraining(WorkerEvent, frozen=True):
    """It takes nothing new and waits for `running` tasks, and for `overrunning` ones that passed their timeout."""

    name = "worker.draining"
    running: int
    overrunning: int


class WorkerStopped(WorkerEvent, frozen=True):
    """It is closed. `abandoned` overrunning functions still run and are redelivered."""

    name = "worker.stopped"
    abandoned: int


class WorkerFull(WorkerEvent, frozen=True):
    """`overrunning` tasks passed their timeout and run on: the bound. It takes nothing new and must be recycled."""

    name = "worker.full"
    level = logging.CRITICAL
    overrunning: int


class CancelsUnheard(Event, frozen=True):
    """The broker does not tell which tasks are cancelled: they run. Asked again every second."""

    name = "cancels.unheard"
    level = logging.ERROR
    error: str


class ProcessReplaced(Event, frozen=True):
    """A process of the process executor died or was killed, and a new one takes its place."""

    name = "process.replaced"
    level = logging.WARNING
    pid: int
    exit_code: int | None


class ScheduleLeading(Event, frozen=True):
    """This process fires the schedule from now on; others wait. `next_at_ms` is the next firing, Unix time."""

    name = "schedule.leading"
    schedule: str
    next_at_ms: int


class ScheduleFired(Event, frozen=True):
    """A task was accepted for the instant `scheduled_at_ms`.

    `possibly_doubled`: the leader before was lost, and may have fired that instant too, with the same uuid.
    """

    name = "schedule.fired"
    schedule: str
    uuid: str
    scheduled_at_ms: int
    late_seconds: float
    possibly_doubled: bool


class ScheduleMisfired(Event, frozen=True):
    """Nobody was there when `missed` instants passed, `unseen` says that there were more; `fired` of them are fired now."""

    name = "schedule.misfired"
    level = logging.WARNING
    schedule: str
    missed: int
    unseen: bool
    fired: int
    misfire: str


class ScheduleFailed(Event, frozen=True):
    """It cannot be led or fired now; tried again after `delay_seconds`, and told once for each error."""

    name = "schedule.failed"
    level = logging.ERROR
    schedule: str
    error: str
    delay_seconds: float


class ObserverFailed(Event, frozen=True):
    """An observer raised; it was ignored."""

    name = "observer.failed"
    level = logging.ERROR
    observer: str
    error: str


ALL_EVENTS: tuple[type[Event], ...] = (
    TaskPublished,
    TaskStarted,
    TaskSucceeded,
    TaskFailed,
    TaskRetried,
    TaskSnoozed,
    TaskOffered,
    TaskReturnedError,
    TaskDiscarded,
    DeadLettered,
    TaskHandedBack,
    TaskOverran,
    TaskCancelling,
    TaskSettledElsewhere,
    SettleFailed,
    WorkerStarted,
    TasksMayOutlast,
    WorkerInterrupted,
    WorkerDraining,
    WorkerStopped,
    WorkerFull,
    CancelsUnheard,
    ProcessReplaced,
    RedeliveryCounted,
    ScheduleLeading,
    ScheduleFired,
    ScheduleMisfired,
    ScheduleFailed,
    TaskQuarantined,
    TaskNotQuarantined,
    ObserverFailed,
)
"""Every event of tasks and workers; those of connections are `dispatcher.brokers.base.BrokerEvent`."""
