"""Which task is running here: what `current_task()` returns, and what a task's log lines carry.

One context variable, set by `execution` around a run and nowhere else. Threads and middleware inherit it; a process
of the process executor sets its own.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    None without a timeout.
    """

    uuid: str
    name: str
    attempt: int
    redelivered: bool
    headers: Mapping[str, Any]
    queue: str
    deadline_at: float | None = None

    @property
    def deadline(self) -> datetime | None:
        """When its `timeout_seconds` are over, in UTC; None without a timeout."""
        return None if self.deadline_at is None else datetime.fromtimestamp(self.deadline_at, UTC)

    @property
    def history(self) -> tuple[FailedAttempt, ...]:
        """The attempts before this one that failed, oldest first: the first and the latest, ten at most."""
        return history_of(self.headers)


CURRENT_TASK: ContextVar[CurrentTask | None] = ContextVar("dispatcher_current_task", default=None)


def current_task() -> CurrentTask:
    """The task this code runs in. Raises `DispatcherError` outside of a task."""
    task = CURRENT_TASK.get()
    if task is None:
        raise DispatcherError("current_task(): no task is running here; call it inside a task's function")
    return task
