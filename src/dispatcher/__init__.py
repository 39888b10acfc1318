"""Dispatcher: an asynchronous task queue for Python, on RabbitMQ or on an embedded broker, that does not lose tasks.

The everyday level is `Dispatcher`; the explicit one, as in the Go package, is `Server`, `Task`, `TaskConfig`,
`WorkerConfig`. Importing this package starts nothing and sets nothing global.
"""

from __future__ import annotations

from . import types
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
