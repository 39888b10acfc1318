"""Dispatcher: an asynchronous task queue for Python, on RabbitMQ or on an embedded broker, that does not lose tasks.

The everyday level is `Dispatcher`; the explicit one, as in the Go package, is `Server`, `Task`, `TaskConfig`,
`WorkerConfig`. Importing this package starts nothing and sets nothing global.

The errors are here at once; the rest is loaded when it is first named, which `from dispatcher import Dispatcher` does.
So the command line answers `--help`, and a shell's TAB, without loading what runs tasks (decision 0024).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    ArgumentError,
    AuthenticationError,
    BrokerBlocked,
    BrokerUnavailable,
    ConfigError,
    ConnectionLost,
    ConsumerCancelled,
    DecodeError,
    DeliveryLost,
    DispatcherError,
    PublishError,
    PublishManyError,
    PublishRefused,
    PublishUnknown,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageGone,
    StorageReadOnly,
    StorageUnsupported,
    TaskError,
    TaskProcessDied,
    TaskTimeout,
    TopologyMismatch,
    TopologyMissing,
    Unroutable,
    WorkerExhausted,
    WorkerNotFound,
)

if TYPE_CHECKING:
    from . import types
    from .model.history import FailedAttempt
    from .model.outcome import Discard, Reject, Retry, Snooze
    from .model.retry import RetryPolicy, RetryRule
    from .model.task import Receipt, Task, TaskArgument
    from .model.topology import Queue
    from .observe.context import CurrentTask, current_task
    from .observe.hooks import AnyEvent, CallNext, Middleware, Observer
    from .observe.logs import Log
    from .runtime.app import Dispatcher
    from .runtime.app_dead_letters import DeadLetters
    from .runtime.app_task import AppTask
    from .runtime.dead_letter import DeadLetter
    from .runtime.dead_letters import ReplayReport
    from .runtime.registry import TaskConfig
    from .runtime.server import Server, ServerConfig
    from .runtime.worker import Worker, WorkerConfig

__version__ = "0.1.0"

__all__ = [
    "AnyEvent",
    "AppTask",
    "ArgumentError",
    "AuthenticationError",
    "BrokerBlocked",
    "BrokerUnavailable",
    "CallNext",
    "ConfigError",
    "ConnectionLost",
    "ConsumerCancelled",
    "CurrentTask",
    "DeadLetter",
    "DeadLetters",
    "DecodeError",
    "DeliveryLost",
    "Discard",
    "Dispatcher",
    "DispatcherError",
    "FailedAttempt",
    "Log",
    "Middleware",
    "Observer",
    "PublishError",
    "PublishManyError",
    "PublishRefused",
    "PublishUnknown",
    "Queue",
    "Receipt",
    "Reject",
    "ReplayReport",
    "Retry",
    "RetryPolicy",
    "RetryRule",
    "Server",
    "ServerConfig",
    "Snooze",
    "StorageCorrupt",
    "StorageError",
    "StorageFull",
    "StorageGone",
    "StorageReadOnly",
    "StorageUnsupported",
    "Task",
    "TaskArgument",
    "TaskConfig",
    "TaskError",
    "TaskProcessDied",
    "TaskTimeout",
    "TopologyMismatch",
    "TopologyMissing",
    "Unroutable",
    "Worker",
    "WorkerConfig",
    "WorkerExhausted",
    "WorkerNotFound",
    "current_task",
    "types",
]

_HOMES = {
    "AnyEvent": ".observe.hooks",
    "AppTask": ".runtime.app_task",
    "CallNext": ".observe.hooks",
    "CurrentTask": ".observe.context",
    "DeadLetter": ".runtime.dead_letter",
    "DeadLetters": ".runtime.app_dead_letters",
    "Discard": ".model.outcome",
    "Dispatcher": ".runtime.app",
    "FailedAttempt": ".model.history",
    "Log": ".observe.logs",
    "Middleware": ".observe.hooks",
    "Observer": ".observe.hooks",
    "Queue": ".model.topology",
    "Receipt": ".model.task",
    "Reject": ".model.outcome",
    "ReplayReport": ".runtime.dead_letters",
    "Retry": ".model.outcome",
    "RetryPolicy": ".model.retry",
    "RetryRule": ".model.retry",
    "Server": ".runtime.server",
    "ServerConfig": ".runtime.server",
    "Snooze": ".model.outcome",
    "Task": ".model.task",
    "TaskArgument": ".model.task",
    "TaskConfig": ".runtime.registry",
    "Worker": ".runtime.worker",
    "WorkerConfig": ".runtime.worker",
    "current_task": ".observe.context",
}
"""The module of each name that is loaded when it is first named."""

if not TYPE_CHECKING:  # a type checker must see the names above, and miss any other

    def __getattr__(name: str) -> object:
        if name == "types":
            return import_module(".types", __name__)
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
