"""Which functions run which tasks, and how: checked once, when they are registered. Knows no broker and runs nothing."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from ..errors import ConfigError
from ..model.retry import RetryRule
from ..model.signature import Signature
from ..model.task import check_task_name
from .executors import check_process_target

__all__ = ["ExecutorKind", "OnTimeout", "Place", "RegisteredTask", "Registry", "TaskConfig"]

OnTimeout = Literal["release", "cancel", "kill"]
ExecutorKind = Literal["thread", "process"]
Place = Literal["loop", "thread", "process"]


class TaskConfig(msgspec.Struct, frozen=True):
    """How one task runs.

    `function`: a coroutine function runs on the worker's event loop, a plain one in a thread.
    `timeout_seconds`: None means no bound.
    `task_uuid_as_first_arg`: the task's uuid is passed before its arguments.
    `on_timeout`: `"release"` frees the slot and lets the function run on; `"cancel"` cancels a coroutine; `"kill"` ends
    the process of `executor="process"`. The last two make it a failure with `TaskTimeout`.
    `retry`: a `RetryPolicy` or anything like it; None means that the first failure is final.
    `executor`: None, `"thread"` or `"process"` (killable, and may crash alone).

    Raises `ConfigError` for a combination that cannot work.
    """

    function: Callable[..., Any]
    timeout_seconds: float | None = None
    task_uuid_as_first_arg: bool = False
    on_timeout: OnTimeout = "release"
    retry: RetryRule | None = None
    executor: ExecutorKind | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"function: expected something to call, got {self.function!r}")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise ConfigError(
                "function: expected one that runs when called, got a generator, whose body would never run"
            )
        _check_timeout(self.timeout_seconds)
        if self.executor not in (None, "thread", "process"):
            raise ConfigError(f"executor: expected 'thread', 'process' or None, got {self.executor!r}")
        if self.executor == "thread" and self.is_coroutine:
            raise ConfigError(
                "executor='thread': expected a plain function, got a coroutine function; leave executor out"
            )
        self._check_on_timeout()
        rule = self.retry
        if rule is not None and not (callable(getattr(rule, "delay_seconds", None)) and hasattr(rule, "jitter")):
            raise ConfigError(
                f"retry: expected a RetryPolicy, or an object with delay_seconds() and jitter, got {rule!r}"
            )

    @property
    def is_coroutine(self) -> bool:
        """Whether the function is a coroutine function, or an object whose `__call__` is one."""
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(
            getattr(self.function, "__call__", None)  # noqa: B004 - it is the bound method that is looked at
        )

    @property
    def place(self) -> Place:
        """Where it runs."""
        if self.executor == "process":
            return "process"
        return "loop" if self.is_coroutine else "thread"

    def _check_on_timeout(self) -> None:
        if self.on_timeout not in ("release", "cancel", "kill"):
            raise ConfigError(f"on_timeout: expected 'release', 'cancel' or 'kill', got {self.on_timeout!r}")
        if self.on_timeout == "cancel" and self.place != "loop":
            hint = "use on_timeout='kill'" if self.place == "process" else "use executor='process', on_timeout='kill'"
            raise ConfigError(
                f"on_timeout='cancel': expected a coroutine on the event loop, got one in a {self.place}; {hint}"
            )
        if self.on_timeout == "kill" and self.place != "process":
            raise ConfigError("on_timeout='kill': expected executor='process': nothing else can be killed alone")


def _check_timeout(seconds: object) -> None:
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise ConfigError(f"timeout_seconds: expected a number of seconds above zero, or None, got {seconds!r}")


class RegisteredTask:
    """One task as the worker runs it. `target` is `module:qualname` where it runs in a process, else None."""

    __slots__ = ("config", "function", "name", "place", "retry", "signature", "target", "timeout_seconds")

    def __init__(self, name: str, config: TaskConfig) -> None:
        self.name = name
        self.config = config
        self.function = config.function
        self.place = config.place
        self.retry = config.retry
        self.timeout_seconds = config.timeout_seconds
        self.signature = Signature.of(config.function, skip_first=config.task_uuid_as_first_arg, name=name)
        self.target = check_process_target(config.function) if self.place == "process" else None

    def __repr__(self) -> str:
        return f"<RegisteredTask {self.name} on {self.place}>"


class Registry(Mapping[str, RegisteredTask]):
    """The tasks of one worker or app by name. A name is registered once."""

    def __init__(self, tasks: Mapping[str, TaskConfig] | None = None) -> None:
        self._tasks: dict[str, RegisteredTask] = {}
        for name, config in (tasks or {}).items():
            if not isinstance(config, TaskConfig):
                raise ConfigError(f"task {name!r}: expected a TaskConfig, got {config!r:.200}")
            self.add(RegisteredTask(_checked(name), config))

    def add(self, task: RegisteredTask) -> None:
        _checked(task.name)
        if task.name in self._tasks:
            other = self._tasks[task.name].function
            raise ConfigError(
                f"task {task.name!r} is registered already, by {other.__module__}.{getattr(other, '__qualname__', other)};"
                " give one of the two another name="
            )
        self._tasks[task.name] = task

    def __getitem__(self, name: str) -> RegisteredTask:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def _checked(name: object) -> str:
    try:
        return check_task_name(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
