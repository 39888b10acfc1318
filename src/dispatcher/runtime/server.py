"""The server: one live session to a broker, kept alive by reconnecting, with a publisher and any number of workers on it.

The session is disposable: when it is lost the server connects anew, verifies the topology and lets publisher and
workers go on; nobody repairs anything. It runs on the event loop it was connected on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec

from ..brokers import TlsSettings, open_broker, redact_url
from ..brokers.base import Broker, Inspector, Session
from ..errors import (
    BrokerUnavailable,
    ConfigError,
    ConnectionLost,
    DispatcherError,
    WorkerNotFound,
)
from ..model.task import Receipt, Task, check_uuid
from ..model.topology import DeclareMode, Queue, Topology, check_name
from ..observe.context import CURRENT_TASK
from ..observe.hooks import EventHub, Middleware, Observer
from ..observe.logs import Log, LogObserver, default_log
from .cancels import CancelBook
from .execution import Execution
from .executors import refuse_inside_main_import
from .link import Link, LostLinks
from .publisher import Publisher
from .registry import Registry, TaskConfig
from .settings import default_url
from .settle import Settler
from .slots import Slots
from .worker import Worker, WorkerConfig

__all__ = ["Server", "ServerConfig"]

DECLARE_RETRY_SECONDS = 1.0
"""How soon a queue is declared again where the broker did not answer, and its session lives on."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is and how to use it.

    `url`: `amqp://user:password@host/vhost`, `amqps://…`, `sqlite:///file.db` (relative), `sqlite:////absolute/file.db`,
    or `memory://`; left out it is `$DISPATCHER_URL`, else `sqlite:///dispatcher.db`.
    `exchange`, `default_routing_key`: the direct exchange of all tasks, and the routing key of those that name none.
    `init_queues`: queues to declare; one that exists is used as it is.
    `declare`: `"create"` what is missing, `"verify"` only (`TopologyMismatch` where it differs), or `"never"` look.
    `reconnection_retries_forever`, `reconnection_retries`: for ever, unless a number is given (both: `ConfigError`);
    zero gives up at the first loss. `reconnection_interval_seconds`: the first pause's upper bound; it doubles up to
    `reconnection_max_interval_seconds`, and each pause is drawn at random below it. A connection that did not last
    as long as the next pause may be counts as a retry that failed.
    `connect_timeout_seconds`: bounds the first connect; None tries for ever.
    `publish_timeout_seconds`: bounds every publish, waiting for a connection included.
    `max_body_bytes`: the largest task, sent or received.
    `tls_config`, `secure_connection`, `insecure_skip_verify`: for `amqp` URLs only.
    `middleware`: wraps every run, the first outermost. `observers`: see every event.
    `logger`: a `logging.Logger` or anything with debug, info and error; None is the logger `dispatcher`.
    `debug_mode`: sets that default logger to DEBUG.
    """

    url: str = msgspec.field(default_factory=default_url)
    exchange: str
    default_routing_key: str
    init_queues: Sequence[Queue] = ()
    declare: DeclareMode = "create"
    reconnection_retries_forever: bool | None = None
    reconnection_retries: int | None = None
    reconnection_interval_seconds: float = 0.5
    reconnection_max_interval_seconds: float = 30.0
    connect_timeout_seconds: float | None = 30.0
    publish_timeout_seconds: float = 30.0
    max_body_bytes: int = 2 * 1024 * 1024
    tls_config: ssl.SSLContext | None = None
    secure_connection: bool = False
    insecure_skip_verify: bool = False
    middleware: Sequence[Middleware] = ()
    observers: Sequence[Observer] = ()
    logger: Log | None = None
    debug_mode: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise ConfigError(f"url: expected a string, got {self.url!r}; leave it out for the default")
        check_name("exchange", self.exchange)
        check_name("default_routing_key", self.default_routing_key)
        if self.declare not in ("create", "verify", "never"):
            raise ConfigError(f"declare: expected 'create', 'verify' or 'never', got {self.declare!r}")
        for queue in self.init_queues:
            if not isinstance(queue, Queue):
                raise ConfigError(f"init_queues: expected Queue objects, got {queue!r:.200}")
        self._check_numbers()
        self._check_tls()

    def __repr__(self) -> str:
        return f"ServerConfig(url={redact_url(self.url)!r}, exchange={self.exchange!r}, …)"

    @property
    def tls(self) -> TlsSettings:
        """What of it concerns TLS."""
        return TlsSettings(
            tls_config=self.tls_config,
            secure_connection=self.secure_connection,
            insecure_skip_verify=self.insecure_skip_verify,
        )

    def _check_numbers(self) -> None:
        if self.reconnection_retries is not None:
            if self.reconnection_retries_forever:
                raise ConfigError("expected reconnection_retries or reconnection_retries_forever, got both")
            if type(self.reconnection_retries) is not int or self.reconnection_retries < 0:
                raise ConfigError(f"reconnection_retries: expected an integer >= 0, got {self.reconnection_retries!r}")
        elif self.reconnection_retries_forever is False:
            raise ConfigError("reconnection_retries_forever=False: expected a number of reconnection_retries besides")
        for what in (
            "reconnection_interval_seconds",
            "reconnection_max_interval_seconds",
            "connect_timeout_seconds",
            "publish_timeout_seconds",
        ):
            value = getattr(self, what)
            if value is None and what == "connect_timeout_seconds":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"{what}: expected a number of seconds above zero, got {value!r}")
        if type(self.max_body_bytes) is not int or self.max_body_bytes < 1:
            raise ConfigError(f"max_body_bytes: expected an integer of 1 or more, got {self.max_body_bytes!r}")

    def _check_tls(self) -> None:
        given = [what for what in ("tls_config", "secure_connection", "insecure_skip_verify") if getattr(self, what)]
        if given and not self.url.lower().startswith(("amqp://", "amqps://")):
            scheme = self.url.partition(":")[0]
            raise ConfigError(f"{given[0]}: expected an amqp:// or amqps:// URL with it, got {scheme}:")


class Server:
    """Made by `await Server.connect(config)`; `async with` it closes at the end."""

    def __init__(self, config: ServerConfig, broker: Broker, schedules: Sequence[str] = ()) -> None:
        self.config = config
        self._schedules = tuple(schedules)
        self._loop = asyncio.get_running_loop()
        log = LogObserver(config.logger or default_log(debug=config.debug_mode))
        self.hub = EventHub(log, config.observers, debug=log.wants_debug)
        self._publisher = Publisher(
            self,
            self.hub,
            exchange=config.exchange,
            default_routing_key=config.default_routing_key,
            publish_timeout_seconds=config.publish_timeout_seconds,
            max_body_bytes=config.max_body_bytes,
            canceller=self.cancel,
        )
        self._link = Link(
            broker,
            config.exchange,
            prepare=self._declare_all,
            on_event=self.hub.emit,
            on_give_up=self.give_up,
            retries=config.reconnection_retries,
            first_pause_seconds=config.reconnection_interval_seconds,
            longest_pause_seconds=config.reconnection_max_interval_seconds,
        )
        self._queues: dict[str, Queue] = {queue.name: queue for queue in config.init_queues}
        self._workers: dict[str, Worker] = {}
        self._cancels = CancelBook(config.exchange, self.hub, self._stop_running)
        self.one_suspect = asyncio.Lock()  # over all workers: what dies beside one that dies would be no proof
        self._closing: asyncio.Task[None] | None = None
        self._refusing = False
        self._undeclared_because = ""
        self._given_up: DispatcherError | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        state = "closed" if self._closed.done() else "up" if self._link.session is not None else "disconnected"
        return f"<Server {state}, exchange {self.config.exchange!r}, {len(self._workers)} workers>"

    # --- life ------------------------------------------------------------------------------------------------------

    @classmethod
    async def connect(
        cls, config: ServerConfig, *, broker: Broker | None = None, schedules: Sequence[str] = ()
    ) -> Self:
        """Connect, and declare the exchange and `init_queues`.

        Tries until `connect_timeout_seconds`, then raises `BrokerUnavailable`. What trying again cannot help is raised
        at once: `ConfigError`, `AuthenticationError`, `TopologyMismatch`, `StorageError`. `broker` shares one that is
        open already (a `memory://` one holds its messages). `schedules`: the names of what fires here periodically.
        """
        refuse_inside_main_import()
        server = cls(config, broker or open_broker(config.url, config.tls), schedules)
        try:
            async with asyncio.timeout(config.connect_timeout_seconds):
                await server._link.open()
        except TimeoutError:
            because = f": {failure}" if (failure := server._link.failure) else ""
            raise BrokerUnavailable(
                f"no connection to the broker within {config.connect_timeout_seconds:g} s;"
                f" is it running at that URL?{because}"
            ) from None
        return server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, grace_seconds: float | None = None) -> None:
        """Close gracefully; twice is fine: both wait for the one close.

        In this order: no more reconnecting; publishes from outside of running tasks are refused; every worker stops
        consuming and waits for its running tasks; the connection is closed. `grace_seconds`: what still runs then is
        cut short and handed back; None waits.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(grace_seconds), name="dispatcher server close")
        await asyncio.shield(self._closing)

    async def cut_short(self) -> None:
        """Cancel or kill every running task and hand it back: for a close that may not wait any longer."""
        await asyncio.gather(*(worker.runs.cut_short() for worker in self._workers.values()))

    async def wait_closed(self) -> None:
        """Return after `close()`. Raises `ConnectionLost` when the reconnection retries ran out, or the `StorageError`
        that ended it."""
        await asyncio.shield(self._closed)

    @property
    def closed(self) -> bool:
        """Whether it is closed or closing, by `close()` or because it gave up."""
        return self._closing is not None

    async def _close(self, grace_seconds: float | None) -> None:
        self._refusing = True
        self._link.stop_reconnecting()
        closing = [worker.close(grace_seconds=grace_seconds) for worker in self._workers.values()]
        try:
            failures = [error for error in await asyncio.gather(*closing, return_exceptions=True) if error is not None]
            await self._link.close()
        finally:
            self._cancels.close()
            self._publisher.close()
            if self._given_up is not None:
                self._closed.set_exception(self._given_up)
                self._closed.exception()  # nobody may be waiting for it
            else:
                self._closed.set_result(None)
        if failures:  # faults of ours; all else is closed by now
            raise failures[0]

    # --- the session -----------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The live session, None while disconnected. For the publisher."""
        return self._link.session

    async def live_session(self) -> Session:
        """Wait for a live session. `ConnectionLost` once the server closes without one, or gave up."""
        return await self._link.live()

    @property
    def lost_links(self) -> LostLinks:
        """The links that were lost lately. For the workers."""
        return self._link.lost

    @property
    def inspector(self) -> Inspector:
        """For looking around in the broker. `ConnectionLost` while disconnected."""
        session = self._link.session
        if session is None:
            raise ConnectionLost("there is no connection to the broker at the moment")
        return session.inspector

    async def _declare_all(self, session: Session) -> None:
        queues = tuple(self._queues.values())
        await session.declare(Topology(self.config.exchange, queues, self.config.declare, self._schedules))

    def give_up(self, error: DispatcherError) -> None:
        """End the server: it closes as in `close()`, and `wait_closed()` raises `error`."""
        if self._closing is None:
            self._given_up = error
            self._closing = self._loop.create_task(self._close(None), name="dispatcher server close")

    # --- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, task: Task) -> Receipt:
        """Publish `task`; it is on disk when this returns.

        Raises `ArgumentError` before anything is sent; else a `PublishError`: `Unroutable`, `PublishRefused`,
        `BrokerBlocked`, `PublishUnknown`, `BrokerUnavailable`.
        """
        self._check_may_publish(task)
        return await self._publisher.publish(task)

    async def publish_many(self, tasks: Iterable[Task]) -> list[Receipt]:
        """Publish all, up to 1,000 in flight, and return their receipts in order.

        `tasks` is taken lazily. All are tried; `PublishManyError` says which were accepted and which failed.
        """
        self._check_may_publish()
        return await self._publisher.publish_many(tasks)

    def _check_may_publish(self, task: Task | None = None) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigError(
                "this server was connected on another event loop; publish there, or use send_sync from other threads"
            )
        if not self._refusing:
            return
        if CURRENT_TASK.get() is None:
            uuid = task.uuid if isinstance(task, Task) else None
            raise BrokerUnavailable("this server is closed or closing: it takes no more publishes", uuid=uuid)
        if self._link.session is None:
            raise ConnectionLost("this server is closing, and its connection is gone")

    async def cancel(self, uuid: str) -> None:
        """Cancel the task of `uuid`; it is recorded for every worker, those of later too, when this returns.

        One that waits or is delayed becomes a dead letter (`cancelled`) when its turn comes. One that runs is told: see
        `current_task().cancelled`. One that has ended has ended, and nobody is told. The record is kept for
        30 days. Tasks of another server's exchange are not meant.

        Raises `ArgumentError` for what is no uuid, and like `publish`: `PublishUnknown` where it may be recorded.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigError(
                "this server was connected on another event loop, as that of send_sync is; cancel with app.cancel(uuid), or"
                " app.cancel_sync(uuid) in synchronous code"
            )
        self._check_may_publish()
        await self._publisher.cancel(check_uuid(uuid))

    def _stop_running(self, uuid: str) -> None:
        for worker in self._workers.values():
            worker.runs.cancel(uuid)

    async def hear_cancels(self, session: Session) -> None:
        """Return once it is known what was cancelled until now. `ConnectionLost` where the session is lost meanwhile."""
        await self._cancels.hear(session)

    # --- workers ---------------------------------------------------------------------------------------------------

    async def new_worker(
        self, config: WorkerConfig, tasks: Mapping[str, TaskConfig] | Registry, *, slots: Slots | None = None
    ) -> Worker:
        """Make a worker, and declare and bind its queue. It consumes after `await worker.start()`.

        `tasks`: by name, what this worker runs. `slots`: shared with other workers, None for its own.
        Raises `ConfigError` for the name of a worker that is not closed yet. While disconnected it waits for the
        connection, at most `publish_timeout_seconds`, then raises `BrokerUnavailable`.
        """
        if self._refusing:
            raise ConfigError("this server is closed or closing: it takes no new workers")
        if not self.is_free(config.name):
            raise ConfigError(f"worker {config.name!r} exists already in this server; give it another name")
        worker = Worker(
            self,
            config,
            tasks,
            hub=self.hub,
            execution=Execution(
                self.hub,
                self.config.middleware,
                limit=config.limit + (config.max_overrunning or config.limit),
                max_body_bytes=self.config.max_body_bytes,
                delivery_limit=self._queues.get(config.queue, Queue(config.queue)).delivery_limit,
                cancels=self._cancels,
            ),
            settler=Settler(
                self.hub, publish_timeout_seconds=self.config.publish_timeout_seconds, where=_where(config.name)
            ),
            start_seconds=self.config.publish_timeout_seconds,
            slots=slots,
        )
        self._workers[config.name] = worker
        try:
            async with asyncio.timeout(self.config.publish_timeout_seconds):
                await self.declare_for(config)
        except BaseException as error:
            del self._workers[config.name]
            if isinstance(error, TimeoutError):
                because = f": {self._undeclared_because}" if self._undeclared_because else ""
                raise BrokerUnavailable(
                    f"no connection to the broker to declare the worker's queue on{because}"
                ) from None
            raise
        return worker

    async def declare_for(self, worker: WorkerConfig) -> None:
        """Declare the queue of `worker`, with its binding keys besides those that `init_queues` gives it.

        Waits for a session, and for the next one where that is lost. Raises like `live_session`, and `TopologyMismatch`.
        """
        known = self._queues.get(worker.queue, Queue(worker.queue))
        keys = tuple(dict.fromkeys((*known.binding_keys, *worker.binding_keys)))
        queue = msgspec.structs.replace(known, binding_keys=keys)
        while True:
            session = await self.live_session()
            try:
                await session.declare(Topology(self.config.exchange, (queue,), self.config.declare))
            except ConnectionLost as error:
                self._undeclared_because = str(error)
                await asyncio.wait([session.closed], timeout=DECLARE_RETRY_SECONDS)
            else:
                self._queues[queue.name] = queue
                return

    def is_free(self, name: str) -> bool:
        """Whether a new worker may have that name."""
        taken = self._workers.get(name)
        return taken is None or taken.closed

    def get_worker_by_name(self, name: str) -> Worker:
        """The worker of that name; `WorkerNotFound` if there is none."""
        try:
            return self._workers[name]
        except KeyError:
            raise WorkerNotFound(f"no worker {name!r} in this server; it has {sorted(self._workers)}") from None


def _where(worker: str) -> str:
    """What the history of a task calls a worker: host, process and name; an app's worker has the first two in its name."""
    process = f"{socket.gethostname()}:{os.getpid()}"
    return worker if worker.startswith(process + "/") else f"{process}/{worker}"
