"""A worker: takes the deliveries of one queue, at most `limit` of their tasks at a time, on one session after the other.

What becomes of a delivery once it has a slot is the business of `runs`. All of it lives on the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ..brokers.base import Consumer, Delivery, Session
from ..errors import (
    BrokerUnavailable,
    ConfigError,
    ConnectionLost,
    ConsumerCancelled,
    DispatcherError,
    StorageError,
    TopologyMismatch,
)
from ..model.topology import check_name
from ..observe.events import TasksMayOutlast, WorkerDraining, WorkerInterrupted, WorkerStarted, WorkerStopped
from ..observe.hooks import EventHub
from .execution import Execution
from .link import LostLinks
from .quarantine import is_suspect
from .registry import Registry, TaskConfig
from .runs import Runs
from .settle import Settler
from .slots import Slots

__all__ = ["Worker", "WorkerConfig", "WorkerHost"]

CONSUME_RETRY_SECONDS = 1.0
STOP_SECONDS = 2.0
"""How long a broker may take to confirm that it delivers no more, before a drain goes on without its word.

What it delivers all the same is handed back by the consumer, or taken back with the session.
"""

NAMED_TASKS = 5
MAX_PREFETCH = 65_535
"""What AMQP's `basic.qos` can say (section 1.8.3.3)."""


class WorkerConfig(msgspec.Struct, frozen=True):
    """One worker.

    `name`: unique in its server. `queue`: the queue it consumes, declared if it does not exist.
    `binding_keys`: routing keys to bind the queue to; none binds nothing.
    `limit`: how many tasks run at once.
    `prefetch`: the most deliveries held unsettled; None is `limit`, and room for the overrunning ones where a task can
    overrun. Fewer than `limit` bound what runs at once too.
    `max_overrunning`: how many functions may run on past their timeout before the worker takes nothing new; None is
    `limit`.
    """

    name: str = ""
    queue: str = ""
    binding_keys: Sequence[str] = ()
    limit: int = 32
    prefetch: int | None = None
    max_overrunning: int | None = None

    def __post_init__(self) -> None:
        check_name("worker name", self.name)
        check_name(f"queue of worker {self.name!r}", self.queue, room=len(".dead"))
        keys = self.binding_keys
        if isinstance(keys, str):
            raise ConfigError(
                f"binding_keys of worker {self.name!r}: expected a list of strings, got the string {keys!r}"
            )
        msgspec.structs.force_setattr(self, "binding_keys", tuple(check_name("binding key", key) for key in keys))
        for what in ("limit", "prefetch", "max_overrunning"):
            value = getattr(self, what)
            if value is None and what != "limit":
                continue
            if type(value) is not int or not 1 <= value <= MAX_PREFETCH:
                raise ConfigError(
                    f"{what} of worker {self.name!r}: expected an integer from 1 to {MAX_PREFETCH}, got {value!r}"
                )


class WorkerHost(Protocol):
    """What a worker needs of its server. `one_suspect`: held while a suspect runs; its workers share it."""

    one_suspect: asyncio.Lock

    @property
    def lost_links(self) -> LostLinks: ...

    async def live_session(self) -> Session: ...
    async def declare_for(self, worker: WorkerConfig) -> None: ...
    async def hear_cancels(self, session: Session) -> None: ...
    def give_up(self, error: DispatcherError) -> None: ...


class Worker:
    """Made by `Server.new_worker`, which documents it."""

    def __init__(
        self,
        host: WorkerHost,
        config: WorkerConfig,
        tasks: Mapping[str, TaskConfig] | Registry,
        *,
        hub: EventHub,
        execution: Execution,
        settler: Settler,
        start_seconds: float,
        slots: Slots | None = None,
    ) -> None:
        self.config = config
        self.name = config.name
        self.registry = tasks if isinstance(tasks, Registry) else Registry(tasks)
        max_overrunning = config.max_overrunning or config.limit
        can_overrun = any(task.timeout_seconds is not None for task in self.registry.values())
        self.prefetch = config.prefetch or min(MAX_PREFETCH, config.limit + (max_overrunning if can_overrun else 0))
        self._host = host
        self._start_seconds = start_seconds
        self._held_up_by = ""
        self._hub = hub
        self._execution = execution
        self._settler = settler
        self._slots = slots or Slots(config.limit)
        self.runs = Runs(
            config.name,
            config.queue,
            self.registry,
            hub=hub,
            execution=execution,
            settler=settler,
            slots=self._slots,
            max_overrunning=max_overrunning,
        )
        self._session: Session | None = None
        self._consumer: Consumer | None = None
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._taking: asyncio.Task[None] | None = None
        self._beginning: list[asyncio.Task[None]] = []
        self._waiting: deque[tuple[Session, Delivery]] = deque()
        self._wanted = asyncio.Event()
        self._suspects: deque[tuple[Session, Delivery]] = deque()
        self._suspected = asyncio.Event()
        self._interruptible = False
        self._interrupted_by = ""
        self._draining = False
        self._stopping: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return (
            f"<Worker {self.name!r} on {self.config.queue!r}: {self.runs.running} running,"
            f" {self.runs.overrunning} overrunning{', draining' if self._draining else ''}>"
        )

    @property
    def closed(self) -> bool:
        """Whether its close has ended."""
        return self._closing is not None and self._closing.done()

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Consume. Returns once the broker delivers to this worker; twice is fine.

        Waits for a connection, and for the broker to let it consume, at most the server's `publish_timeout_seconds`, then
        raises `BrokerUnavailable`. Raises `ConfigError` after `close()`, and what the broker says: `TopologyMismatch`,
        `StorageError`, `ConnectionLost`. It may be tried again then.
        """
        if self._draining:
            raise ConfigError(f"worker {self.name!r} was closed; make a new one")
        if self._taking is None or (self._taking.done() and self._started.done()):
            self._started = asyncio.get_running_loop().create_future()
            self._taking = self._task(self._take_deliveries(self._started), "taking")
            self._beginning = self._beginning or [
                self._task(self._begin_waiting(), "beginning"),
                self._task(self._begin_suspects(), "quarantine"),
            ]
        try:
            async with asyncio.timeout(self._start_seconds):
                await asyncio.shield(self._started)
        except TimeoutError:
            self._taking.cancel()
            await asyncio.wait([self._taking], timeout=STOP_SECONDS)
            because = f": {self._held_up_by}" if self._held_up_by else ""
            raise BrokerUnavailable(
                f"worker {self.name!r} could not begin to consume queue {self.config.queue!r} within"
                f" {self._start_seconds:g} s{because}"
            ) from None

    def _task(self, coroutine: Coroutine[Any, Any, None], role: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=f"dispatcher worker {self.name}: {role}")
        task.add_done_callback(self._check_end)
        return task

    def _check_end(self, task: asyncio.Task[None]) -> None:
        """A fault of ours: a worker that silently stopped would be worse than the server's end."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._host.give_up(DispatcherError(f"worker {self.name!r} failed: {type(error).__name__}: {error}"))

    async def close(self, *, grace_seconds: float | None = None) -> None:
        """Stop consuming, wait for what runs, settle it. Twice is fine: both wait for the one close.

        What has not begun is handed back at once. `grace_seconds`: what still runs then is cut short and handed back;
        None waits as long as it takes, functions that overran their timeout included; zero cuts at once.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(grace_seconds), name=f"dispatcher close {self.name}")
        await asyncio.shield(self._closing)

    async def _close(self, grace_seconds: float | None) -> None:
        now = asyncio.get_running_loop().time()
        await self.stop_taking()
        try:
            async with asyncio.timeout_at(None if grace_seconds is None else now + grace_seconds):
                await self.runs.wait_empty()
        except TimeoutError:
            pass  # the grace is over: what is left is cut short below
        await self.runs.cut_short()
        abandoned = await self._execution.close()
        self._hub.emit(WorkerStopped(self.name, self.config.queue, abandoned))

    async def stop_taking(self) -> None:
        """The first half of `close`: take nothing new, hand back what has not begun. What runs goes on."""
        if self._stopping is None:
            self._draining = True
            self._stopping = asyncio.create_task(self._stop_taking(), name=f"dispatcher drain {self.name}")
        await asyncio.shield(self._stopping)

    async def _stop_taking(self) -> None:
        self._hub.emit(WorkerDraining(self.name, self.config.queue, self.runs.running, self.runs.overrunning))
        self._settler.drain()
        if self._beginning:
            for beginning in self._beginning:
                beginning.cancel()
            await asyncio.wait(self._beginning)
        if self._consumer is not None:
            stopping = self._task(self._consumer.stop(), "stopping")
            await asyncio.wait([stopping], timeout=STOP_SECONDS)
        if self._taking is not None:
            if self._interruptible:
                self._taking.cancel()
            _, late = await asyncio.wait([self._taking], timeout=STOP_SECONDS)
            for taking in late:
                taking.cancel()  # the broker does not even let it begin; what it began ends with the session
        for waiting in (self._waiting, self._suspects):
            while waiting:
                self._settler.hand_back(waiting.popleft()[1])

    # --- taking deliveries -----------------------------------------------------------------------------------------

    async def _take_deliveries(self, started: asyncio.Future[None]) -> None:
        """Consume on one session after the other until the drain, or until the server gave up."""
        try:
            while not self._draining:
                try:
                    await self._consume_once(started)
                except (ConnectionLost, ConsumerCancelled, TopologyMismatch, StorageError) as error:
                    if not started.done() and not isinstance(error, ConnectionLost | ConsumerCancelled):
                        raise
                    await self._interruptibly(self._before_consuming_again(error))
        except DispatcherError as error:
            if not started.done():
                started.set_exception(error)
                started.exception()  # read: whoever awaits `start` sees it, and nobody else need
            # Otherwise the server has given up, and closes this worker itself.
        finally:
            if not started.done():
                started.set_exception(ConnectionLost(f"worker {self.name!r} was closed before it had started"))
                started.exception()

    async def _before_consuming_again(self, error: DispatcherError) -> None:
        """The session or the queue is gone: wait for a session, and have the queue declared again."""
        self._held_up_by = str(error)
        is_lost = isinstance(error, ConnectionLost)
        if is_lost and await self._host.live_session() is not self._session:
            return
        if self._held_up_by != self._interrupted_by:  # not every second
            self._interrupted_by = self._held_up_by
            self._hub.emit(WorkerInterrupted(self.name, self.config.queue, self._interrupted_by))
        await asyncio.sleep(CONSUME_RETRY_SECONDS)
        if is_lost:
            return  # the session lives, and has no connection for consumers: the queue is as it was
        try:
            await self._host.declare_for(self.config)
        except TopologyMismatch:
            pass  # it may not be declared: consuming says the same, and is tried until somebody has put it right

    async def _interruptibly(self, awaitable: Any) -> Any:
        """Wait for something that a drain may cancel."""
        self._interruptible = True
        try:
            return await awaitable
        finally:
            self._interruptible = False

    async def _consume_once(self, started: asyncio.Future[None]) -> None:
        session = self._session = await self._interruptibly(self._host.live_session())
        await self._interruptibly(self._host.hear_cancels(session))
        self.runs.orphan(session)
        consumer = self._consumer = await session.consume(self.config.queue, prefetch=self.prefetch)
        if self._draining:
            await consumer.stop()
        self._hub.emit(
            WorkerStarted(self.name, self.config.queue, self.config.limit, self.prefetch, len(self.registry))
        )
        self._interrupted_by = ""
        if not started.done():
            self._warn_of_long_tasks(consumer.delivery_timeout_seconds)
            started.set_result(None)
        async for delivery in consumer:
            if self._draining:  # `stop` is on its way; to go on taking would hand the same ones back and forth
                self._settler.hand_back(delivery)
                break
            self._take(session, delivery)

    def _warn_of_long_tasks(self, bound_seconds: float | None) -> None:
        """Say which tasks may run for longer than the broker leaves a delivery unsettled."""
        if bound_seconds is None:
            return
        long = [
            name
            for name, task in sorted(self.registry.items())
            if task.timeout_seconds is None or task.timeout_seconds > bound_seconds
        ]
        if long:
            named = ", ".join(long[:NAMED_TASKS]) + (
                f" and {len(long) - NAMED_TASKS} more" if long[NAMED_TASKS:] else ""
            )
            self._hub.emit(TasksMayOutlast(self.name, self.config.queue, named, bound_seconds))

    def _take(self, session: Session, delivery: Delivery) -> None:
        """Begin a delivery at once if it may, else let it wait for its slot."""
        if self.runs.adopt(session, delivery):
            pass  # it runs here since before its session was lost, and needs no slot of its own
        elif is_suspect(delivery, self._host.lost_links):
            self._suspects.append((session, delivery))
            self._suspected.set()
        elif not self._waiting and self.runs.room.is_set() and self._slots.try_take():
            self.runs.begin(session, delivery)
        else:
            self._waiting.append((session, delivery))
            self._wanted.set()

    async def _begin_waiting(self) -> None:
        """Begin what waits, in order, whenever there is a slot for it."""
        while True:
            await self._wanted.wait()
            await self.runs.room.wait()
            await self._slots.take()
            _drop_lost(self._waiting)
            if self._waiting and self.runs.room.is_set():
                self.runs.begin(*self._waiting.popleft())
            else:
                self._slots.give()
            if not self._waiting:
                self._wanted.clear()

    async def _begin_suspects(self) -> None:
        """Begin suspects, in order and one at a time. Those that wait have no slot: it is for others."""
        while True:
            await self._suspected.wait()
            async with self._host.one_suspect:
                await self.runs.room.wait()
                await self._slots.take()
                _drop_lost(self._suspects)
                if self._suspects and self.runs.room.is_set():
                    over = asyncio.Event()
                    self.runs.begin(*self._suspects.popleft(), over)
                    await over.wait()
                else:
                    self._slots.give()
            if not self._suspects:
                self._suspected.clear()


def _drop_lost(waiting: deque[tuple[Session, Delivery]]) -> None:
    """Forget those at the head whose session is lost: the broker delivers them again."""
    while waiting and waiting[0][0].closed.done():
        waiting.popleft()
