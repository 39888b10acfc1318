"""Which task is running here: what `current_task()` returns, and what a task's log lines carry.

One context variable, set by `execution` around a run and nowhere else. Threads and middleware inherit it; a process
of the process executor sets its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..errors import DispatcherError
from ..model.history import FailedAttempt, history_of

__all__ = ["CURRENT_TASK", "CurrentTask", "current_task"]


class CurrentTask(msgspec.Struct, frozen=True):
    """The task that is running.

    `attempt`: 1-based, counts this run. `redelivered`: the broker may have delivered it before: it may have run
    already. `headers`: the message's, ours included. `deadline_at`: Unix seconds when its `timeout_seconds` are over,
    None without a timeout. `cancel_asked`: what `cancelled` says, of the moment it was last looked at.
    """

    uuid: str
    name: str
    attempt: int
    redelivered: bool
    headers: Mapping[str, Any]
    queue: str
    deadline_at: float | None = None
    cancel_asked: bool = False

    @property
    def deadline(self) -> datetime | None:
        """When its `timeout_seconds` are over, in UTC; None without a timeout."""
        return None if self.deadline_at is None else datetime.fromtimestamp(self.deadline_at, UTC)

    @property
    def history(self) -> tuple[FailedAttempt, ...]:
        """The attempts before this one that failed, oldest first: the first and the latest, ten at most."""
        return history_of(self.headers)

    @property
    def cancelled(self) -> bool:
        """Whether its sender has cancelled it since it began: long work looks at this now and then, and ends early.

        A coroutine is cancelled besides; a process is killed if it runs on for 5 s.
        """
        if not self.cancel_asked and (is_told := CANCEL_PROBE.get()) is not None and is_told():
            self.ask_to_cancel()
        return self.cancel_asked

    def ask_to_cancel(self) -> None:
        """From now on `cancelled` is true. For the worker that runs it."""
        msgspec.structs.force_setattr(self, "cancel_asked", True)


CANCEL_PROBE: ContextVar[Callable[[], bool] | None] = ContextVar("dispatcher_cancel_probe", default=None)
"""How a process of the process executor finds out; elsewhere the worker tells the task itself."""

CURRENT_TASK: ContextVar[CurrentTask | None] = ContextVar("dispatcher_current_task", default=None)


def current_task() -> CurrentTask:
    """The task this code runs in. Raises `DispatcherError` outside of a task."""
    task = CURRENT_TASK.get()
    if task is None:
        raise DispatcherError("current_task(): no task is running here; call it inside a task's function")
    return task
