"""A task and its typed arguments: the unit that travels. Frozen; knows no broker and no function."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from os import urandom
from typing import Any

import msgspec

from ..errors import ArgumentError, ConfigError
from . import headers as names
from .retry import MAX_DELAY_SECONDS
from .topology import check_name

__all__ = ["NAME_PATTERN", "Receipt", "Task", "TaskArgument", "check_task_name", "check_uuid", "new_uuid"]

NAME_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
MAX_UUID_BYTES = 255

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_force = msgspec.structs.force_setattr


def new_uuid() -> str:
    """A random version-4 UUID as text (RFC 9562), made without the uuid module, which costs four times as much."""
    raw = urandom(16).hex()
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{_VARIANT[raw[16]]}{raw[17:20]}-{raw[20:]}"


def check_task_name(name: object) -> str:
    """Return `name` if it can name a task, else raise `ArgumentError`."""
    if not isinstance(name, str) or NAME_PATTERN.fullmatch(name) is None:
        raise ArgumentError(f"task name: expected 1 to 200 of the characters A-Z a-z 0-9 _ . : -, got {name!r}")
    return name


class TaskArgument(msgspec.Struct, frozen=True):
    """One argument: a wire type's name (`"int"`, `"string"`, `"json"`, …) and a value of it."""

    type: str
    value: Any


class Receipt(msgspec.Struct, frozen=True, eq=False):
    """The broker's promise to keep a task. `uuid` is the task's. Two of one uuid are equal."""

    uuid: str
    canceller: Callable[[str], Awaitable[None]] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Receipt) and other.uuid == self.uuid

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __repr__(self) -> str:
        return f"Receipt(uuid={self.uuid!r})"

    def __reduce__(self) -> tuple[type[Receipt], tuple[str]]:
        """Copies and pickles keep the uuid alone: a connection is of its process."""
        return Receipt, (self.uuid,)

    async def cancel(self) -> None:
        """Cancel the task, over the connection that published it, while that is open. See `Server.cancel`.

        `ConfigError` for a receipt that no publish returned, and for one of `send_sync`: see `Dispatcher.cancel_sync`.
        """
        if self.canceller is None:
            raise ConfigError("this receipt was not returned by a publish; cancel with app.cancel(uuid)")
        await self.canceller(self.uuid)


class Task(msgspec.Struct, frozen=True):
    """A task to publish.

    `uuid`: None makes a new one; any non-empty string of at most 255 bytes is kept as it is.
    `routing_key`: None takes the server's default.
    `headers`: the user's own; names that start with `x-dispatcher-` are ours and refused.
    `priority`: 0 to 9, higher first; None counts as 4.
    `expires_seconds`: not started by then, it becomes a dead letter (`expired`); None means never.
    `delay_seconds`, `eta`: wait before delivery, relative or as a datetime with a time zone; at most one of the two,
    at most ten years. None, and zero, mean at once; an eta in the past too.

    Raises `ArgumentError` for what is out of these bounds. The arguments' values are checked when it is published.
    """

    name: str
    args: Sequence[TaskArgument] = ()
    uuid: str | None = None
    routing_key: str | None = None
    headers: Mapping[str, Any] | None = None
    priority: int | None = None
    expires_seconds: float | None = None
    delay_seconds: float | None = None
    eta: datetime | None = None

    def __post_init__(self) -> None:
        check_task_name(self.name)
        if type(self.args) is not tuple:
            _force(self, "args", _check_args(self.name, self.args))
        if self.uuid is None:
            _force(self, "uuid", new_uuid())
        else:
            check_uuid(self.uuid)
        if self.routing_key is not None:
            _check_routing_key(self.routing_key)
        if self.headers is not None:
            _force(self, "headers", _check_headers(self.headers))
        if self.priority is not None and (type(self.priority) is not int or not 0 <= self.priority <= 9):
            raise ArgumentError(f"priority: expected an integer from 0 to 9 or None, got {self.priority!r}")
        if self.expires_seconds is not None:
            _check_seconds("expires_seconds", self.expires_seconds)
        if self.delay_seconds is not None:
            _check_seconds("delay_seconds", self.delay_seconds)
        if self.eta is not None:
            _check_eta(self.eta, self.delay_seconds)

    def again(self, args: tuple[TaskArgument, ...]) -> Task:
        """The same task with other arguments and a new uuid. Nothing is checked anew."""
        task: Task = self.__copy__()  # type: ignore[attr-defined]  # every Struct has it
        _force(task, "args", args)
        _force(task, "uuid", new_uuid())
        if self.headers is not None:
            _force(task, "headers", dict(self.headers))
        return task

    @property
    def id(self) -> str:
        """The uuid, which is never None once the task exists."""
        assert self.uuid is not None
        return self.uuid


def _check_args(name: str, args: object) -> tuple[TaskArgument, ...]:
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise ArgumentError(f"args of task {name!r}: expected a list of TaskArgument, got {args!r:.200}")
    for arg in args:
        if not isinstance(arg, TaskArgument):
            raise ArgumentError(f"args of task {name!r}: expected TaskArgument(type, value), got {arg!r:.200}")
    return tuple(args)


def check_uuid(uuid: object) -> str:
    """Return `uuid` if it can be one of a task, else raise `ArgumentError`."""
    if not isinstance(uuid, str) or not uuid:
        raise ArgumentError(f"uuid: expected a non-empty string, got {uuid!r}")
    try:
        size = len(uuid.encode())
    except UnicodeEncodeError:
        raise ArgumentError(f"uuid: expected text that is valid UTF-8, got {uuid!r}") from None
    if size > MAX_UUID_BYTES:
        raise ArgumentError(f"uuid: expected at most {MAX_UUID_BYTES} bytes of UTF-8, got {size}")
    return uuid


def _check_routing_key(key: object) -> None:
    if type(key) is str and 0 < len(key) <= 255 and key.isascii() and key.isprintable():
        return  # the usual kind, without a walk over its characters
    try:
        check_name("routing_key", key)
    except ValueError as error:
        raise ArgumentError(str(error)) from None


def _check_headers(headers: object) -> dict[str, Any]:
    if not isinstance(headers, Mapping):
        raise ArgumentError(f"headers: expected a mapping of strings, got {headers!r:.200}")
    for key in headers:
        if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "surrogatepass")) <= 128:
            raise ArgumentError(f"headers: expected names of 1 to 128 bytes, got {key!r:.200}")
        if key.startswith(names.PREFIX):
            raise ArgumentError(f"headers: names that start with {names.PREFIX!r} are Dispatcher's own, got {key!r}")
        if key in names.NOT_COPIED:
            raise ArgumentError(f"headers: {key!r} means something to RabbitMQ's routing; choose another name")
    return dict(headers)


def _check_seconds(what: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ArgumentError(f"{what}: expected a number of seconds, got {seconds!r}")
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise ArgumentError(f"{what}: expected 0 to {MAX_DELAY_SECONDS} seconds (ten years), got {seconds!r}")


def _check_eta(eta: object, delay_seconds: float | None) -> None:
    if not isinstance(eta, datetime):
        raise ArgumentError(f"eta: expected a datetime with a time zone, got {eta!r}")
    if eta.utcoffset() is None:
        raise ArgumentError(f"eta: expected a datetime with a time zone, got the naive {eta!r}; add tzinfo")
    if delay_seconds is not None:
        raise ArgumentError("expected delay_seconds or eta, got both")
    if eta.timestamp() > time.time() + MAX_DELAY_SECONDS:
        raise ArgumentError(f"eta: expected at most {MAX_DELAY_SECONDS} seconds (ten years) from now, got {eta!r}")
