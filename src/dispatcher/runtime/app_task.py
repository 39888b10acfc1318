"""A task as its declaring module sees it: the function, still callable, and typed ways to send it.

Holds a name, a queue and a signature, and two functions that publish. It never holds a broker, a server or an app.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import msgspec

from ..model.signature import Signature
from ..model.task import Receipt, Task, TaskArgument
from ..model.topology import check_name
from .registry import RegisteredTask, TaskConfig

__all__ = ["AppTask", "PublishSync", "Publishing", "SendOptions", "TaskSender"]

SendP = ParamSpec("SendP")
CallP = ParamSpec("CallP")
R = TypeVar("R")

PublishSync = Callable[[Task], Receipt]


class Publishing(msgspec.Struct, frozen=True):
    """The two ways to publish that an app gives its tasks."""

    publish: Callable[[Task], Awaitable[Receipt]]
    publish_sync: PublishSync


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `options()` sets for one send; see `Task` for each. `queue` None is the task's own."""

    queue: str | None = None
    uuid: str | None = None
    headers: Mapping[str, Any] | None = None
    priority: int | None = None
    expires_seconds: float | None = None
    delay_seconds: float | None = None
    eta: datetime | None = None


class TaskSender(Generic[SendP]):
    """A task with the options of one send: what `task.options(…)` returns."""

    def __init__(
        self, name: str, queue: str, signature: Signature, publishing: Publishing, options: SendOptions | None = None
    ) -> None:
        self.name = name
        self.queue = queue
        self.signature = signature
        self._publishing = publishing
        self._options = options
        self._is_alike = options is None or (options.uuid is None and options.eta is None)
        self._first: Task | None = None

    def bind(self, *args: SendP.args, **kwargs: SendP.kwargs) -> Task:
        """A `Task` with these arguments, to publish later. `ArgumentError` if they do not fit the signature."""
        arguments = self.signature.bind(args, kwargs)
        if self._first is not None:
            return self._first.again(arguments)  # all but the arguments was checked with the first
        task = self._task(arguments)
        if self._is_alike:
            self._first = task.again(())  # one of our own, that nobody else can change
        return task

    def _task(self, arguments: tuple[TaskArgument, ...]) -> Task:
        chosen = self._options
        if chosen is None:
            return Task(self.name, arguments, None, self.queue)
        return Task(
            self.name,
            arguments,
            chosen.uuid,
            chosen.queue or self.queue,
            chosen.headers,
            chosen.priority,
            chosen.expires_seconds,
            chosen.delay_seconds,
            chosen.eta,
        )

    async def send(self, *args: SendP.args, **kwargs: SendP.kwargs) -> Receipt:
        """Publish it; the task is on disk when this returns. Needs `async with app`.

        Raises `ArgumentError` if the arguments do not fit, else a `PublishError`.
        """
        return await self._publishing.publish(self.bind(*args, **kwargs))

    def send_sync(self, *args: SendP.args, **kwargs: SendP.kwargs) -> Receipt:
        """`send` from synchronous code: it blocks until the task is on disk, and opens its own connection at first use."""
        return self._publishing.publish_sync(self.bind(*args, **kwargs))


class AppTask(TaskSender[SendP], Generic[SendP, CallP, R]):
    """What `@app.task` makes of a function."""

    def __init__(
        self,
        function: Callable[CallP, R],
        *,
        name: str,
        queue: str,
        config: TaskConfig,
        publishing: Publishing,
    ) -> None:
        self.registered = RegisteredTask(name, config)
        super().__init__(name, queue, self.registered.signature, publishing)
        self.function = function
        self.config = config
        update_wrapper(self, function)

    def __call__(self, *args: CallP.args, **kwargs: CallP.kwargs) -> R:
        """Just call the function, here and now."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name!r} in queue {self.queue!r}>"

    def options(
        self,
        *,
        queue: str | None = None,
        uuid: str | None = None,
        headers: Mapping[str, Any] | None = None,
        priority: int | None = None,
        expires_seconds: float | None = None,
        delay_seconds: float | None = None,
        eta: datetime | None = None,
    ) -> TaskSender[SendP]:
        """The same task with options for its next sends: `task.options(delay_seconds=60).send(…)`; see `Task`.

        They are checked when a task is bound or sent; `headers` are copied here. `queue` must be one that exists.
        """
        if queue is not None:
            check_name("queue", queue)
        chosen = SendOptions(
            queue=queue,
            uuid=uuid,
            headers=dict(headers) if isinstance(headers, Mapping) else headers,
            priority=priority,
            expires_seconds=expires_seconds,
            delay_seconds=delay_seconds,
            eta=eta,
        )
        return TaskSender(self.name, self.queue, self.signature, self._publishing, chosen)
