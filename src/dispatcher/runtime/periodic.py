"""What `@app.periodic` makes: a schedule, the task it fires and the arguments. Holds data, and publishes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta, tzinfo
from typing import Any, ParamSpec, TypedDict, TypeVar, overload

import msgspec

from ..brokers.base import Message
from ..errors import ConfigError
from ..model import headers as names
from ..model.retry import RetryRule
from ..model.schedule import Misfire, Schedule, firing_uuid
from ..model.task import TaskArgument
from ..model.topology import Queue
from .app_task import AppTask
from .registry import ExecutorKind, OnTimeout

__all__ = ["Periodic", "PeriodicDecorator", "TaskOptions", "with_schedule"]

SendP = ParamSpec("SendP")
CallP = ParamSpec("CallP")
R = TypeVar("R")


class TaskOptions(TypedDict, total=False):
    """Those of `Dispatcher.task` that `periodic` takes for a plain function; its `name` is the function's."""

    queue: str | Queue | None
    timeout_seconds: float | None
    on_timeout: OnTimeout
    retry: RetryRule | None
    executor: ExecutorKind | None


class Periodic(msgspec.Struct, frozen=True):
    """A schedule, and what it fires: the task of that name, with these arguments, sent to `routing_key`."""

    schedule: Schedule
    task: str
    args: Sequence[TaskArgument]
    routing_key: str

    def uuid(self, instant_ms: int) -> str:
        """The uuid of the firing at that instant, whoever fires it."""
        return firing_uuid(self.schedule.name, instant_ms)


def with_schedule(message: Message, name: str, instant_ms: int) -> Message:
    """`message` with the headers that say which firing it is."""
    headers = {**(message.headers or {}), names.SCHEDULE: name, names.SCHEDULED_AT: instant_ms}
    return msgspec.structs.replace(message, headers=headers)


class PeriodicDecorator:
    """What `app.periodic(…)` returns: to be put above `@app.task`, or on a plain function, which it makes a task of.

    `register` makes a task of a function, with `options`; `keep` is given what was made.
    """

    def __init__(
        self,
        register: Callable[..., AppTask[Any, Any, Any]],
        keep: Callable[[Periodic], None],
        *,
        when: str | timedelta | float,
        timezone: str | tzinfo | None,
        misfire: Misfire,
        name: str | None,
        args: Sequence[Any],
        options: dict[str, Any],
    ) -> None:
        # Now, and not when it decorates: `@app.periodic` without parentheses never would.
        self._schedule = Schedule(name or "periodic", when, timezone, misfire)
        if isinstance(args, str | bytes) or not isinstance(args, Sequence):
            raise ConfigError(f"periodic: expected args as a tuple or list, got {args!r:.200}")
        self._register = register
        self._keep = keep
        self._name = name
        self._args = args
        self._options = options

    @overload
    def __call__(self, task: AppTask[SendP, CallP, R], /) -> AppTask[SendP, CallP, R]: ...
    @overload
    def __call__(self, task: Callable[SendP, R], /) -> AppTask[SendP, SendP, R]: ...
    def __call__(self, task: Any, /) -> Any:
        is_task = isinstance(task, AppTask)
        if is_task and self._options:
            raise ConfigError(
                f"periodic: task {task.name!r} has its options from @app.task; put {sorted(self._options)} there"
            )
        if not is_task:
            task = self._register(task, **self._options)
        schedule = msgspec.structs.replace(self._schedule, name=self._name or task.name)
        bound = task.bind(*self._args)
        self._keep(Periodic(schedule, task.name, bound.args, task.queue))
        return task
