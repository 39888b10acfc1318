"""Every error Dispatcher raises, in one tree.

This module holds names and sentences only: it imports nothing of Dispatcher and decides nothing.

    DispatcherError
    ├── ConfigError                what you wrote cannot work: a wrong value, URL, name or signature
    │   ├── ArgumentError          a task's arguments or options do not fit: its signature, a wire type, a bound
    │   ├── TopologyMismatch       a queue or exchange exists, but not as it was asked for
    │   └── AuthenticationError    the broker refused the credentials or the virtual host
    ├── DecodeError                a body that is not a task
    ├── WorkerNotFound             no worker of that name in this server
    ├── WorkerExhausted            too many functions overran their timeout: the process must be recycled
    ├── ConnectionLost             the link to the broker is gone
    ├── DeliveryLost               an ack or reject came after its session had ended
    ├── ConsumerCancelled          the broker ended one consumer (its queue was deleted)
    ├── StorageError               the embedded broker's file cannot be used
    │   ├── StorageFull            no space left for it
    │   ├── StorageReadOnly        it cannot be written
    │   ├── StorageCorrupt         it is damaged, or is not a Dispatcher file
    │   ├── StorageGone            it was deleted or replaced while open
    │   └── StorageUnsupported     its file system, schema or SQLite version cannot be trusted with it
    ├── PublishError               a publish was not accepted; `.uuid` names the task
    │   ├── Unroutable             no queue is bound to that routing key
    │   ├── PublishRefused         the broker said no: a queue at its maximum length, no permission
    │   ├── BrokerBlocked          the broker takes nothing now: out of disk or memory
    │   ├── PublishUnknown         no answer before the deadline: it may have been accepted
    │   ├── BrokerUnavailable      there was no connection before the deadline
    │   └── TopologyMissing        an exchange or delay queue it needs does not exist
    ├── PublishManyError           some of a `publish_many` failed: `.accepted` and `.failed` say which
    └── TaskError                  what Dispatcher itself records as a task's failure
        ├── TaskTimeout            it ran longer than its `timeout_seconds`
        └── TaskProcessDied        the process that ran it died: killed, a segfault, out of memory

`Retry`, `Snooze`, `Reject` and `Discard` are not errors: a task raises them to say what becomes of it.
They live in `dispatcher.model.outcome`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "ArgumentError",
    "AuthenticationError",
    "BrokerBlocked",
    "BrokerUnavailable",
    "ConfigError",
    "ConnectionLost",
    "ConsumerCancelled",
    "DecodeError",
    "DeliveryLost",
    "DispatcherError",
    "PublishError",
    "PublishManyError",
    "PublishRefused",
    "PublishUnknown",
    "StorageCorrupt",
    "StorageError",
    "StorageFull",
    "StorageGone",
    "StorageReadOnly",
    "StorageUnsupported",
    "TaskError",
    "TaskProcessDied",
    "TaskTimeout",
    "TopologyMismatch",
    "TopologyMissing",
    "Unroutable",
    "WorkerExhausted",
    "WorkerNotFound",
]


class DispatcherError(Exception):
    """The base of every error Dispatcher raises."""


class ConfigError(DispatcherError, ValueError):
    """What was configured cannot work; the message says what was expected, what came and what to do."""


class TopologyMismatch(ConfigError):
    """A queue or exchange is absent or differs from what was asked for, and may not be created."""


class AuthenticationError(ConfigError):
    """The broker refused the credentials, or the virtual host does not exist or is forbidden."""


class ArgumentError(ConfigError):
    """A task's arguments do not fit (wrong count, wrong type, out of range), or an option of it is out of bounds."""


class DecodeError(DispatcherError, ValueError):
    """A message body is not a task. Such a delivery is parked with reason `undecodable`."""


class WorkerNotFound(DispatcherError, LookupError):
    """No worker of that name exists in this server."""


class WorkerExhausted(DispatcherError):
    """As many functions as `max_overrunning` allows passed their timeout and still run: only a new process helps."""


class ConnectionLost(DispatcherError, ConnectionError):
    """The link to the broker is gone. What was unsettled on it is redelivered by the broker."""


class DeliveryLost(DispatcherError):
    """A delivery was settled after its session had ended, or a second time. The broker redelivers what was not settled."""


class ConsumerCancelled(DispatcherError):
    """The broker ended this consumer, for instance because its queue was deleted."""


class StorageError(DispatcherError, OSError):
    """The embedded broker's file cannot be used. `.path` names it."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class StorageFull(StorageError):
    """There is no space left for the file."""


class StorageReadOnly(StorageError):
    """The file or its folder cannot be written."""


class StorageCorrupt(StorageError):
    """The file is damaged, or is not a Dispatcher file. It was left as it is."""


class StorageGone(StorageError):
    """The file was deleted or replaced while it was open."""


class StorageUnsupported(StorageError):
    """The file cannot be trusted to this place: a network file system, an unknown schema, an old SQLite."""


class PublishError(DispatcherError):
    """A publish was not accepted by the broker. `.uuid` is the task's, None where there was no task yet."""

    def __init__(self, message: str, *, uuid: str | None = None) -> None:
        super().__init__(message)
        self.uuid = uuid


class Unroutable(PublishError):
    """No queue is bound to the routing key, so the broker handed the message back. It is in no queue."""


class PublishRefused(PublishError):
    """The broker refused the message, for instance because a queue is at its maximum length. It is in no queue.

    `.final`: it would refuse it again: this user may not write there, or the message is larger than the broker takes.
    """

    def __init__(self, message: str, *, uuid: str | None = None, final: bool = False) -> None:
        super().__init__(message, uuid=uuid)
        self.final = final


class BrokerBlocked(PublishError):
    """The broker takes no messages at the moment (disk or memory alarm) and did not until the deadline. It is in no queue."""


class PublishUnknown(PublishError):
    """The message may have been accepted, once or more: the broker did not answer before the deadline, or refused a later try."""


class BrokerUnavailable(PublishError):
    """There was no connection to the broker before the deadline. The message was not accepted."""


class TopologyMissing(PublishError):
    """An exchange or a delay queue that this publish needs does not exist in the broker."""


class PublishManyError(DispatcherError):
    """Some tasks of a `publish_many` were not accepted.

    `.accepted` holds the receipts of those that were, in order; `.failed` holds `(task, error)` pairs of the others.
    """

    def __init__(self, accepted: Sequence[Any], failed: Sequence[tuple[Any, Exception]]) -> None:
        self.accepted = list(accepted)
        self.failed = list(failed)
        super().__init__(
            f"{len(self.failed)} of {len(self.accepted) + len(self.failed)} tasks were not accepted;"
            f" the first: {self.failed[0][1] if self.failed else 'none'}"
        )


class TaskError(DispatcherError):
    """A failure that Dispatcher itself records for a task."""


class TaskTimeout(TaskError, TimeoutError):
    """The task ran longer than its `timeout_seconds` and was stopped."""


class TaskProcessDied(TaskError):
    """The process that ran the task died: killed, a segmentation fault, `os._exit`, or out of memory."""
