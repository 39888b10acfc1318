"""The everyday level: an app with decorated tasks, a publisher, and workers for its queues.

The app gathers tasks and owns at most one server at a time; what they do is said in `registry`, `server` and `worker`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta, tzinfo
from functools import partial
from itertools import chain, count
from types import MappingProxyType, TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, Unpack, overload

import msgspec

from ..brokers import open_broker
from ..errors import ConfigError
from ..model.retry import RetryRule
from ..model.schedule import Misfire
from ..model.task import Receipt, Task
from ..model.topology import Queue
from ..observe.context import CURRENT_TASK
from .app_dead_letters import DeadLetters
from .app_task import AppTask, Publishing
from .periodic import Periodic, PeriodicDecorator, TaskOptions
from .registry import ExecutorKind, OnTimeout, Registry, TaskConfig
from .scheduler import Scheduler
from .server import Server, ServerConfig
from .settings import ServerSettings, default_url
from .slots import Slots
from .sync import SyncPublisher
from .worker import WorkerConfig
from .working import run_until_told

__all__ = ["Dispatcher"]

LONGEST_WORKER_NAME = 240

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Dispatcher:
    """An app: its tasks, and the way to its broker.

    `url`: None takes `$DISPATCHER_URL`, else the embedded broker in `dispatcher.db` of the current folder.
    `exchange`: the exchange of all its tasks. `default_queue`: for tasks that name no queue.
    `retry`: for tasks that have no retry of their own; None means that the first failure is final.
    `settings`: every other field of `ServerConfig`, by name.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        exchange: str = "dispatcher",
        default_queue: str = "default",
        retry: RetryRule | None = None,
        **settings: Unpack[ServerSettings],
    ) -> None:
        self.config = _config(url, exchange, default_queue, settings)
        self.default_queue = default_queue
        self._retry = retry
        self._broker = open_broker(self.config.url, self.config.tls)
        self._registry = Registry()
        self._tasks: dict[str, AppTask[Any, Any, Any]] = {}
        self._queues: dict[str, Queue] = {}
        self._periodic: dict[str, Periodic] = {}
        self._connecting: asyncio.Task[Server] | None = None
        self._connected_by = os.getpid()
        self._users = 0
        self._sync = SyncPublisher(self._connect, wait_seconds=self.config.publish_timeout_seconds)
        self._publishing = Publishing(self._publish_sent, self._sync.publish)

    def __repr__(self) -> str:
        state = "connected" if self._connecting is not None else "not connected"
        return f"<Dispatcher {state}, {len(self._tasks)} tasks in {sorted(self._queues)}>"

    # --- declaring -------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> Mapping[str, AppTask[Any, Any, Any]]:
        """The registered tasks by name."""
        return MappingProxyType(self._tasks)

    @property
    def schedules(self) -> Mapping[str, Periodic]:
        """What fires periodically, by the schedules' names."""
        return MappingProxyType(self._periodic)

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues of the registered tasks, each bound to its own name, and those of `init_queues`."""
        merged = {queue.name: queue for queue in self.config.init_queues}
        for queue in self._queues.values():
            merged[queue.name] = _merged(merged.get(queue.name), queue)
        return tuple(merged.values())

    @overload
    def task(self, function: Callable[P, R], /) -> AppTask[P, P, R]: ...
    @overload
    def task(
        self,
        *,
        task_uuid_as_first_arg: Literal[True],
        name: str | None = None,
        queue: str | Queue | None = None,
        timeout_seconds: float | None = None,
        on_timeout: OnTimeout = "release",
        retry: RetryRule | None = None,
        executor: ExecutorKind | None = None,
    ) -> Callable[[Callable[Concatenate[str, P], R]], AppTask[P, Concatenate[str, P], R]]: ...
    @overload
    def task(
        self,
        *,
        task_uuid_as_first_arg: Literal[False] = False,
        name: str | None = None,
        queue: str | Queue | None = None,
        timeout_seconds: float | None = None,
        on_timeout: OnTimeout = "release",
        retry: RetryRule | None = None,
        executor: ExecutorKind | None = None,
    ) -> Callable[[Callable[P, R]], AppTask[P, P, R]]: ...
    def task(self, *function: Callable[..., Any], **options: Any) -> Any:
        """Register a function as a task: `@app.task` or `@app.task(queue="emails", …)`. See `TaskConfig`.

        `name`: None is the function's own. `queue`: a name or a `Queue`; None is the app's default.
        Raises `ConfigError` for a name that is taken, or a signature that cannot travel.
        """
        return self._register(*function, **options) if function else partial(self._register, **options)

    def _register(
        self,
        function: Callable[..., Any],
        /,
        *,
        name: str | None = None,
        queue: str | Queue | None = None,
        retry: RetryRule | None = None,
        **config: Any,
    ) -> AppTask[Any, Any, Any]:
        if isinstance(function, AppTask):
            raise ConfigError(f"task: {function.name!r} is one already; write @app.periodic(…) above @app.task(…)")
        if name is None:
            name = getattr(function, "__name__", "<lambda>")
            if name == "<lambda>":
                raise ConfigError(f"task: expected a named function, got {function!r}; give it a name=")
        home = self._queue(queue)
        task: AppTask[Any, Any, Any] = AppTask(
            function,
            name=name,
            queue=home.name,
            config=TaskConfig(function, retry=retry or self._retry, **config),
            publishing=self._publishing,
        )
        self._registry.add(task.registered)
        self._queues[home.name] = home
        self._tasks[name] = task
        return task

    def _queue(self, queue: str | Queue | None) -> Queue:
        """The queue of a task, bound to its own name too. One name means one `Queue` in an app."""
        if not isinstance(queue, Queue):
            queue = Queue(self.default_queue if queue is None else queue)
        queue = _with_keys(queue, queue.name)
        for known in self.config.init_queues:
            if known.name == queue.name:
                _merged(known, queue)
        return _merged(self._queues.get(queue.name), queue)

    def periodic(
        self,
        when: str | timedelta | float | None = None,
        *,
        every_seconds: float | None = None,
        timezone: str | tzinfo | None = None,
        misfire: Misfire = "once",
        name: str | None = None,
        args: Sequence[Any] = (),
        **options: Unpack[TaskOptions],
    ) -> PeriodicDecorator:
        """Fire a task again and again: `@app.periodic("*/5 * * * *", timezone="Europe/Berlin")` above `@app.task`.

        `when`, `timezone` and `misfire`: see `Schedule`; an interval may be written `every_seconds=30`. `name`: of the
        schedule, for a second one of a task; None is the task's. `args`: what the task is called with. On a plain
        function it makes a task of it, with `options`, those of `task`. It fires in every `run_worker` that is no burst,
        in one at a time. Raises `ConfigError`, and `ArgumentError` for `args` that do not fit.
        """
        chosen = when if every_seconds is None else every_seconds
        if chosen is None or (when is not None and every_seconds is not None):
            raise ConfigError(
                "periodic: expected when it fires, as a cron expression or as every_seconds=, one of them"
            )
        for option in options:
            if option not in TaskOptions.__optional_keys__:
                raise ConfigError(
                    f"periodic: {option!r} is none of its options; it takes {sorted(TaskOptions.__optional_keys__)}"
                )
        return PeriodicDecorator(
            self._register,
            self._keep_periodic,
            when=chosen,
            timezone=timezone,
            misfire=misfire,
            name=name,
            args=args,
            options=dict(options),
        )

    def _keep_periodic(self, periodic: Periodic) -> None:
        name = periodic.schedule.name
        if name in self._periodic:
            raise ConfigError(
                f"schedule {name!r} exists already, for task {self._periodic[name].task!r}; give it a name="
            )
        self._periodic[name] = periodic

    # --- connecting ------------------------------------------------------------------------------------------------

    async def _connect(self) -> Server:
        config = msgspec.structs.replace(self.config, init_queues=self.queues)
        return await Server.connect(config, broker=self._broker, schedules=tuple(self._periodic))

    async def __aenter__(self) -> Self:
        """Connect and declare the queues of the tasks. Nested and parallel uses in one event loop share a connection."""
        self._forget_closed_loop()
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="dispatcher connect")
            self._connected_by = os.getpid()
        connecting = self._connecting
        self._users += 1
        try:
            await asyncio.shield(connecting)
        except BaseException:
            await self._leave(connecting)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connecting is not None
        await self._leave(self._connecting)

    async def _leave(self, connecting: asyncio.Task[Server]) -> None:
        """One user less of a connection; the last one closes it, also if it is still being made.

        Whoever is cancelled here waits all the same: half closed, the server would live on, unseen. A close is bounded.
        """
        self._users -= 1
        if self._users:
            return
        self._connecting = None
        closing = asyncio.create_task(_end(connecting), name="dispatcher disconnect")
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.wait([closing])
            except asyncio.CancelledError as error:
                cancelled = error
        closing.result()
        if cancelled is not None:
            raise cancelled

    def _forget_closed_loop(self) -> None:
        """A loop that ended without leaving `async with app` took its connection with it; a fork left it in the parent."""
        if self._connecting is None or self._connecting.get_loop() is asyncio.get_running_loop():
            return
        if not self._connecting.get_loop().is_closed() and self._connected_by == os.getpid():
            raise ConfigError("this app is connected on another event loop; send from here with send_sync")
        self._connecting, self._users = None, 0

    @property
    def server(self) -> Server:
        """The server inside `async with app`. `ConfigError` outside of it."""
        connecting = self._connecting
        if connecting is None or not connecting.done():
            raise ConfigError("this app is not connected here: use `async with app:`, or send_sync in synchronous code")
        return connecting.result()

    async def publish(self, task: Task) -> Receipt:
        """Publish a `Task`, for instance one that `some_task.bind(…)` made. See `Server.publish`."""
        return await self._on_server(lambda server: server.publish(task))

    def _publish_sent(self, task: Task) -> Awaitable[Receipt]:
        """`publish` for `send`, which awaits it: without a coroutine of its own."""
        return self.publish(task) if _is_in_child() else self.server.publish(task)

    async def publish_many(self, tasks: Iterable[Task]) -> list[Receipt]:
        """Publish many, pipelined. See `Server.publish_many`."""
        return await self._on_server(lambda server: server.publish_many(tasks))

    async def cancel(self, uuid: str) -> None:
        """Cancel the task of that uuid, whoever sent it. See `Server.cancel`."""
        await self._on_server(lambda server: server.cancel(uuid))

    async def _on_server(self, call: Callable[[Server], Awaitable[T]]) -> T:
        """What `call` makes of the server; in a child process of a worker that is one of its own, for this one call."""
        if _is_in_child():
            async with self:
                return await call(self.server)
        return await call(self.server)

    def cancel_sync(self, uuid: str) -> None:
        """`cancel`, from synchronous code, over the connection of `send_sync`."""
        self._sync.cancel(uuid)

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of the app's queues, inside `async with app`: to list, count, replay and delete."""
        return DeadLetters(lambda: self.server, lambda: [queue.name for queue in self.queues])

    def close_sync(self) -> None:
        """Close the connection that `send_sync` opened, if any. It is closed at exit too."""
        self._sync.close()

    # --- working ---------------------------------------------------------------------------------------------------

    async def run_worker(
        self,
        queues: Sequence[str] | None = None,
        limit: int = 32,
        burst: bool = False,
        *,
        name: str | None = None,
        grace_seconds: float | None = None,
        prefetch: int | None = None,
    ) -> None:
        """Run the app's tasks until cancelled.

        `queues`: None means all of the app's. `limit`: tasks running at once, over all queues together.
        `prefetch`: deliveries of each queue held unsettled; None is as in `WorkerConfig`.
        Its schedules fire here or in another such worker, whichever queues it works on.
        `burst`: return once the queues are empty, and fire no schedule. `name`: of the workers, shown in the broker; None is
        host and pid.
        A first cancellation drains: nothing new is taken, and what runs is waited for, at most `grace_seconds` (None
        waits). A second one cuts short what runs and hands it back. Either way it then ends with `CancelledError`.
        Raises `ConnectionLost` when the reconnection retries ran out, a `StorageError` that ended the server, and
        `WorkerExhausted` when too many functions overran their timeouts: run it in a new process then.
        """
        chosen = self._chosen(queues)
        slots = Slots(limit)
        async with self:
            server = self.server
            workers = []
            for queue in chosen:
                config = WorkerConfig(_worker_name(server, name, queue), queue, (), limit, prefetch)
                workers.append(await server.new_worker(config, self._registry, slots=slots))
            scheduler = Scheduler(server, () if burst else tuple(self._periodic.values()))
            await run_until_told(server, workers, scheduler, burst, grace_seconds)

    def _chosen(self, queues: Sequence[str] | None) -> Sequence[str]:
        known = [queue.name for queue in self.queues]
        if not known:
            raise ConfigError("this app has no tasks, so there is no queue to work on; declare one with @app.task")
        if queues is None:
            return known
        for queue in queues:
            if queue not in known:
                raise ConfigError(f"queue {queue!r}: expected one of this app's queues {known}")
        if not queues:
            raise ConfigError(f"queues: expected at least one of {known}, got none")
        return list(dict.fromkeys(queues))


def _is_in_child() -> bool:
    """Whether a task runs here in a child process of its worker: the worker's connection is not there, it needs its own."""
    return CURRENT_TASK.get() is not None and multiprocessing.parent_process() is not None


async def _end(connecting: asyncio.Task[Server]) -> None:
    """Close the server that `connecting` makes or has made."""
    connecting.cancel()
    await asyncio.wait([connecting])
    if not connecting.cancelled() and connecting.exception() is None:
        await connecting.result().close()


def _with_keys(queue: Queue, *keys: str) -> Queue:
    return msgspec.structs.replace(queue, binding_keys=tuple(dict.fromkeys((*keys, *queue.binding_keys))))


def _merged(known: Queue | None, queue: Queue) -> Queue:
    """One queue of two definitions: one that only names it adds its binding keys; else they must be equal."""
    if known is None:
        return queue
    for plain, other in ((queue, known), (known, queue)):
        if msgspec.structs.replace(plain, binding_keys=()) == Queue(plain.name):
            return _with_keys(other, *plain.binding_keys)
    if msgspec.structs.replace(known, binding_keys=()) != msgspec.structs.replace(queue, binding_keys=()):
        raise ConfigError(f"queue {queue.name!r}: expected one definition in an app, got {known!r} and {queue!r}")
    return _with_keys(known, *queue.binding_keys)


def _worker_name(server: Server, name: str | None, queue: str) -> str:
    """A name that is free in `server`: it may run several workers of one queue."""
    base = f"{name or f'{socket.gethostname()}:{os.getpid()}'}/{queue}"
    base = base.encode()[:LONGEST_WORKER_NAME].decode(errors="ignore")  # queues may have long names, too
    return next(free for free in chain([base], (f"{base}#{n}" for n in count(2))) if server.is_free(free))


def _config(url: str | None, exchange: str, default_queue: str, settings: ServerSettings) -> ServerConfig:
    known = ServerSettings.__optional_keys__
    for field in settings:
        if field not in known:
            raise ConfigError(f"Dispatcher: {field!r} is not one of its settings; it takes {sorted(known)}")
    return ServerConfig(
        url=default_url() if url is None else url, exchange=exchange, default_routing_key=default_queue, **settings
    )
