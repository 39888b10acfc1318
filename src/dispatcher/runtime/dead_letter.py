"""One dead letter: what it says, whether it is meant, and what is sent when it is replayed. Pure; meets no broker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from ..brokers.base import BrowsedMessage, Message
from ..errors import ArgumentError, ConfigError, DecodeError
from ..model import headers as names
from ..model.codec import decode_body, encode_body
from ..model.outcome import REASONS, Reason
from ..model.task import Task, TaskArgument
from ..model.topology import DELAY_EXCHANGE
from ..model.wire import decode_value

__all__ = [
    "DeadLetter",
    "Edit",
    "Filter",
    "Retention",
    "edited_message",
    "letter_of",
    "received_task",
    "replayed_message",
    "with_arguments",
]

DEATH_NOTES = frozenset(
    {
        names.ATTEMPT,
        names.SNOOZES,
        names.UNKNOWN_SINCE,
        names.REDELIVERIES,
        names.ERROR_TYPE,
        names.ERROR,
        names.TRACEBACK,
        names.HISTORY,
        names.REASON,
        names.REASON_TEXT,
        names.DEAD_AT,
        names.QUEUE,
        names.ETA,
        *names.NOT_COPIED,
    }
)
"""Headers a replayed letter leaves behind: it starts again at its first attempt, at once."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter.

    `queue`: the one it died in, or on its way to. `task` is empty and `args` None where the body is not a task; values of
    `args` are as they stand on the wire. `reason`: one of the closed list, `text` the same for people. `error_type`,
    `error` and `traceback` are empty where no exception was the cause. `attempt`: the one it died in, from 1.
    Times are Unix milliseconds. `first_published_at_ms`, `dead_at_ms`, `exchange` and `routing_key` (what it was first
    published with) are None where nobody noted them: a Go sender notes no time. `replayed_at_ms`: when it was last
    replayed, None for never. `headers`: the message's, ours included.
    """

    uuid: str
    task: str
    queue: str
    reason: str
    text: str
    attempt: int
    error_type: str
    error: str
    traceback: str
    first_published_at_ms: int | None
    dead_at_ms: int | None
    replayed_at_ms: int | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    args: tuple[TaskArgument, ...] | None
    body: bytes
    headers: Mapping[str, Any]


Edit: TypeAlias = Callable[[DeadLetter], Task | None]
"""Gives the task to send in place of a letter's: its name and arguments are taken, all else stays the letter's. None
leaves the letter as it is."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant: those that fit everything given. None given means all.

    `error`: a part of the error's type or message, or of the reason's text; case does not matter.
    `dead_before_ms`, `dead_after_ms`: Unix milliseconds; a letter whose time of death is not known fits neither.
    Raises `ConfigError`.
    """

    task: str | None = None
    reason: Reason | None = None
    error: str | None = None
    dead_before_ms: int | None = None
    dead_after_ms: int | None = None
    uuids: Collection[str] | None = None

    def __post_init__(self) -> None:
        if self.reason is not None and self.reason not in REASONS:
            raise ConfigError(f"reason: expected one of {', '.join(REASONS)}, got {self.reason!r}")
        if isinstance(self.uuids, str | bytes):
            raise ConfigError(f"uuids: expected a list or set of uuids, got the text {self.uuids!r:.300}")

    def fits(self, letter: DeadLetter, newer: int) -> bool:
        """Whether `letter` is meant, after which `newer` others came into its queue."""
        if self.uuids is not None and letter.uuid not in self.uuids:
            return False
        if self.task is not None and letter.task != self.task:
            return False
        if self.reason is not None and letter.reason != self.reason:
            return False
        if self.error is not None and not _says(letter, self.error):
            return False
        if self.dead_before_ms is not None and not _died_before(letter, self.dead_before_ms):
            return False
        return self.dead_after_ms is None or (letter.dead_at_ms is not None and letter.dead_at_ms > self.dead_after_ms)


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters have been kept long enough: those that died before, and all but the newest `keep` of each queue."""

    dead_before_ms: int
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and (type(self.keep) is not int or self.keep < 0):
            raise ConfigError(f"keep: expected a number of letters, 0 or more, or None, got {self.keep!r}")

    def fits(self, letter: DeadLetter, newer: int) -> bool:
        return (self.keep is not None and newer >= self.keep) or _died_before(letter, self.dead_before_ms)


def _says(letter: DeadLetter, part: str) -> bool:
    part = part.casefold()
    error = f"{letter.error_type}: {letter.error}" if letter.error_type else letter.error
    return part in error.casefold() or part in letter.text.casefold()


def _died_before(letter: DeadLetter, moment_ms: int) -> bool:
    return letter.dead_at_ms is not None and letter.dead_at_ms <= moment_ms


def letter_of(queue: str, browsed: BrowsedMessage) -> DeadLetter:
    """What a message among the dead letters of `queue` says. A stranger's headers do no harm."""
    message = browsed.message
    headers = message.headers or {}
    uuid, task = message.uuid, ""
    args: tuple[TaskArgument, ...] | None = None
    try:
        decoded = decode_body(message.body, max_bytes=len(message.body))
        uuid, task, args = message.uuid or decoded.uuid, decoded.name, decoded.args
    except DecodeError:
        pass  # that is why it died; its reason says so
    return DeadLetter(
        uuid=uuid,
        task=task,
        queue=_text(headers, names.QUEUE) or "" if queue == DELAY_EXCHANGE else queue,
        reason=_text(headers, names.REASON) or "",
        text=_text(headers, names.REASON_TEXT) or "",
        attempt=_number(headers, names.ATTEMPT) or 1,
        error_type=_text(headers, names.ERROR_TYPE) or "",
        error=_text(headers, names.ERROR) or "",
        traceback=_text(headers, names.TRACEBACK) or "",
        first_published_at_ms=_number(headers, names.FIRST_PUBLISHED_AT),
        dead_at_ms=_number(headers, names.DEAD_AT) or None,  # zero: the broker did not say
        replayed_at_ms=_number(headers, names.REPLAYED_AT),
        exchange=_text(headers, names.EXCHANGE),
        routing_key=_text(headers, names.ROUTING_KEY),
        priority=message.priority,
        args=args,
        body=message.body,
        headers=headers,
    )


def _text(headers: Mapping[str, Any], name: str) -> str | None:
    value = headers.get(name)
    return value if isinstance(value, str) else None


def _number(headers: Mapping[str, Any], name: str) -> int | None:
    value = headers.get(name)
    return value if type(value) is int else None


def replayed_message(message: Message, queue: str, now_ms: int) -> Message:
    """`message` of a dead letter as it is published to `queue` again."""
    kept = {key: value for key, value in (message.headers or {}).items() if key not in DEATH_NOTES}
    expires_at = kept.get(names.EXPIRES_AT)
    if isinstance(expires_at, int) and expires_at <= now_ms:
        del kept[names.EXPIRES_AT]  # it would only die of it again
    kept[names.REPLAYED_AT] = now_ms
    return msgspec.structs.replace(message, exchange=DELAY_EXCHANGE, routing_key=queue, headers=kept, ready_at_ms=None)


def edited_message(message: Message, task: Task, max_body_bytes: int) -> Message:
    """`message` with name and arguments of `task`. Its uuid stays, unless it has none. `ArgumentError` if that cannot travel."""
    if not isinstance(task, Task):
        raise ArgumentError(f"edit: expected a Task or None, got {task!r:.200}; a task function's .bind(…) makes one")
    try:
        uuid = decode_body(message.body, max_bytes=len(message.body)).uuid
    except DecodeError:
        uuid = message.uuid or task.id
    body = encode_body(uuid, task.name, task.args, max_bytes=max_body_bytes)
    return msgspec.structs.replace(message, body=body, uuid=message.uuid or uuid)


def with_arguments(letter: DeadLetter, values: Sequence[tuple[int, Any]]) -> Task:
    """The task of `letter` with other values, each by its index from 0, of the type that the argument has on the wire.

    Raises `ArgumentError` where there is no such argument, or it does not hold the value.
    """
    if letter.args is None:
        raise ArgumentError(f"dead letter {letter.uuid}: expected a task with arguments, got a body that is not a task")
    args = [*letter.args]
    for index, value in values:
        if not 0 <= index < len(args):
            most = f"0 to {len(args) - 1}" if args else "none, since it has no arguments"
            raise ArgumentError(f"dead letter {letter.uuid}: expected an argument's index, {most}, got {index}")
        args[index] = TaskArgument(args[index].type, value)
    return received_task(letter.task, args)


def received_task(name: str, args: Sequence[TaskArgument]) -> Task:
    """The task to send of what a body says. `ArgumentError` for what a worker would refuse, whatever its function takes."""
    checked = []
    for number, arg in enumerate(args, 1):
        try:
            checked.append(TaskArgument(arg.type, decode_value(arg.type, arg.value)))
        except ArgumentError as error:
            raise ArgumentError(f"task {name!r}, argument {number}: {error}") from None
    return Task(name, checked)
