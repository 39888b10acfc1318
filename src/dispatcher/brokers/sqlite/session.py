"""Sessions, consumers and deliveries of the embedded broker: its asyncio face.

Everything here runs on the session's event loop and touches no file: what is asked for within one turn of the loop is
handed to the writer thread at its end, and what that thread answers comes back in `_told`.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from ...errors import ConfigError, ConnectionLost, DeliveryLost, DispatcherError, StorageError, TopologyMismatch
from ...model.topology import Topology
from ..base import Cancel, Connected, Disconnected, Headers, Message, OnEvent, TopologyDiffers
from ..delays import check_delay
from ..headers import decode_headers, encode_headers
from .cancels import SqliteCancels
from .entries import Batch, Results, Row, Window
from .inspector import SqliteInspector
from .place import Place
from .schedules import SqliteSchedules
from .store import Work, wall_clock_ms
from .writer import Writer

__all__ = ["SqliteConsumer", "SqliteDelivery", "SqliteSession"]

OPEN_SECONDS = 30.0
CALL_SECONDS = 30.0
CLOSE_SECONDS = 5.0


class SqliteDelivery:
    """One handing-over of one message. See `brokers.base.Delivery`."""

    __slots__ = ("_consumer", "_row", "_settled")

    def __init__(self, consumer: SqliteConsumer, row: Row) -> None:
        self._consumer = consumer
        self._row = row
        self._settled = False

    def __repr__(self) -> str:
        return f"SqliteDelivery(uuid={self.uuid!r}, queue={self.queue!r})"

    @property
    def queue(self) -> str:
        return self._consumer.window.queue

    @property
    def exchange(self) -> str:
        return self._row[5]

    @property
    def routing_key(self) -> str:
        return self._row[6]

    @property
    def body(self) -> bytes:
        return self._row[10]

    @property
    def uuid(self) -> str:
        return self._row[7]

    @property
    def headers(self) -> Headers:
        return decode_headers(self._row[9])

    @property
    def priority(self) -> int | None:
        return self._row[4]

    @property
    def redelivered(self) -> bool:
        return bool(self._row[1])

    @property
    def delivery_count(self) -> int:
        return self._row[3]

    def ack(self) -> None:
        self._take().outgoing().acks.append((self._row[2], self._consumer.window))

    def reject(self) -> None:
        session = self._take()
        session.outgoing().rejects.append((self._row[2], self._consumer.window))

    def _take(self) -> SqliteSession:
        session = self._consumer.session
        if self._settled:
            raise DeliveryLost(f"message {self.uuid!r} was settled already; settle a delivery once")
        if session.ended:
            raise DeliveryLost(
                f"the session that brought message {self.uuid!r} has ended; the broker delivers it again by itself"
            )
        self._settled = True
        return session


class SqliteConsumer:
    """The deliveries of one queue. See `brokers.base.Consumer`."""

    delivery_timeout_seconds = None

    def __init__(self, session: SqliteSession, queue: str, prefetch: int) -> None:
        self.session = session
        self.window = Window(self, queue, prefetch)
        self._arrived: deque[SqliteDelivery] = deque()
        self._arrival = asyncio.Event()
        self._stopped = False

    def __aiter__(self) -> SqliteConsumer:
        return self

    async def __anext__(self) -> SqliteDelivery:
        while True:
            if self._stopped:
                raise StopAsyncIteration
            if self._arrived:
                return self._arrived.popleft()
            self._arrival.clear()
            await self._arrival.wait()

    async def stop(self) -> None:
        if self._stopped:
            return
        self.end()
        if not self.session.ended:
            await self.session.stop_consumer(self)

    def arrive(self, rows: list[Row]) -> None:
        """Deliveries for this consumer. They may come after it was stopped: then they go straight back."""
        self._arrived.extend([SqliteDelivery(self, row) for row in rows])
        if self._stopped:
            self.give_back()
        else:
            self._arrival.set()

    def give_back(self) -> None:
        """Reject what was not iterated over; after the session's end it is handed back with everything else."""
        if self.session.ended:
            self._arrived.clear()
        while self._arrived:
            self._arrived.popleft().reject()

    def end(self) -> None:
        """Let the iteration end."""
        self._stopped = True
        self._arrival.set()


class SqliteSession:
    """One session of one file. See `brokers.base.Session`. Made by `SqliteBroker.connect`."""

    def __init__(self, place: Place, name: str, on_event: OnEvent, told: set[TopologyDiffers]) -> None:
        self._place = place
        self._on_event = on_event
        self._differences_told = told
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._finished: asyncio.Future[BaseException] = self._loop.create_future()
        self._consumers: list[SqliteConsumer] = []
        self._cancel_watchers: list[Callable[[Cancel], None]] = []
        self._outgoing = Batch()
        self._flushing = False
        self._closing = False
        self._pid = os.getpid()
        self._writer = Writer(place, name, self._loop, self._told)
        self._schedules: SqliteSchedules | None = None

    @property
    def closed(self) -> asyncio.Future[None]:
        return self._closed

    @property
    def inspector(self) -> SqliteInspector:
        self._check()
        return SqliteInspector(self._place, self._writer.engine.store, self.call)

    @property
    def cancels(self) -> SqliteCancels:
        self._check()
        return SqliteCancels(self._writer.engine.cancels, self.call, self._cancel_watchers)

    @property
    def schedules(self) -> SqliteSchedules:
        self._check()
        if self._schedules is None:
            self._schedules = SqliteSchedules(self.call, self._writer.engine, self._closed)
        return self._schedules

    @property
    def ended(self) -> bool:
        """Whether nothing can be settled or asked for any more."""
        return self._closing or self._finished.done() or os.getpid() != self._pid

    async def open(self) -> None:
        """Open the file. `StorageError` or `ConfigError` where that cannot work, `ConnectionLost` where it took too long."""
        opened: asyncio.Future[None] = self._loop.create_future()
        self._writer.start(opened)
        try:
            # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the result.
            async with asyncio.timeout(OPEN_SECONDS):
                await asyncio.shield(opened)
        except TimeoutError as error:
            self._abandon(opened)
            raise ConnectionLost(
                f"{self._place.path}: expected to open it within {OPEN_SECONDS:.0f} s; another process holds its lock"
            ) from error
        except asyncio.CancelledError:
            self._abandon(opened)
            raise
        except (DispatcherError, OSError):
            self._writer.join(CLOSE_SECONDS)
            raise
        self._on_event(Connected(self._place.path))

    def _abandon(self, opened: asyncio.Future[None]) -> None:
        opened.cancel()
        self._closing = True
        self._writer.stop()

    async def declare(self, topology: Topology) -> None:
        engine = self._writer.engine
        for difference in await self.call(lambda work: engine.declare(topology, work)):
            if difference not in self._differences_told:
                self._differences_told.add(difference)
                self._on_event(difference)

    def publish(self, message: Message) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            self._check()
            if message.ready_at_ms is not None:
                check_delay(message.ready_at_ms - wall_clock_ms())
            headers = encode_headers(message.headers, message.uuid)
        except DispatcherError as error:
            future.set_exception(error)
        else:
            self.outgoing().publishes.append((message, headers, future))
        return future

    async def consume(self, queue: str, *, prefetch: int) -> SqliteConsumer:
        if prefetch < 1:
            raise ConfigError(f"prefetch: expected 1 or more, got {prefetch!r}")
        self._check()
        consumer = SqliteConsumer(self, queue, prefetch)
        self._consumers.append(consumer)
        try:
            await self.call(functools.partial(self._writer.engine.start_consumer, consumer.window))
        except BaseException as error:
            self._consumers.remove(consumer)
            consumer.end()
            if not self.ended and not isinstance(error, TopologyMismatch):
                # Given up while it was on its way: what has arrived, and what still arrives, must not stay held.
                consumer.give_back()
                stopped = self._later(functools.partial(self._writer.engine.stop_consumer, consumer.window))
                stopped.add_done_callback(lambda future: future.exception())
            raise
        return consumer

    async def stop_consumer(self, consumer: SqliteConsumer) -> None:
        """End `consumer` in the file and hand back what it did not iterate over."""
        self._consumers.remove(consumer)
        consumer.give_back()
        try:
            await self.call(functools.partial(self._writer.engine.stop_consumer, consumer.window))
            # What was claimed meanwhile came before that answer and was rejected as it came: see it through.
            await self.call(_nothing)
        except (ConnectionLost, StorageError):
            pass  # the session ended: what it held is handed back with it

    async def close(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child's copy: the session is the parent's
        if not self._closing and not self._finished.done():
            for consumer in self._consumers:
                consumer.end()
            self._flush()
            self._closing = True
            self._writer.stop()
        await asyncio.wait([self._finished], timeout=CLOSE_SECONDS)
        if not self._finished.done():
            # Another process is stopped with the file's lock in its hand. The thread goes on waiting for it and is a
            # daemon's: what it holds is handed back when the lock is free, or by others when this process ends.
            self._finished.set_result(ConnectionLost("this session was closed"))
        elif self._finished.done():
            self._writer.join(CLOSE_SECONDS)
        if not self._closed.done():
            self._closed.set_result(None)

    # --- to the writer thread and back --------------------------------------------------------------------------

    def outgoing(self) -> Batch:
        """What will be handed over at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return self._outgoing

    async def call(self, run: Callable[[Work], Any]) -> Any:
        """Have `run` called inside a transaction, and return what it returns or raise what it raises."""
        self._check()
        future = self._later(run)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await future
        except TimeoutError as error:
            raise ConnectionLost(
                f"{self._place.path}: expected an answer within {CALL_SECONDS:.0f} s; another process holds its lock"
            ) from error

    def _later(self, run: Callable[[Work], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self.outgoing().calls.append((run, future))
        return future

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ConnectionLost("this session belongs to the process that this one was forked from; connect anew here")
        if self._closing or self._finished.done():
            raise ConnectionLost("this session has ended; connect again")

    def _flush(self) -> None:
        self._flushing = False
        batch, self._outgoing = self._outgoing, Batch()
        if batch and not self._writer.submit(batch):
            for future in [publish[2] for publish in batch.publishes] + [call[1] for call in batch.calls]:
                if not future.done():
                    future.set_exception(ConnectionLost("this session has ended; connect again"))

    def _told(self, results: Results) -> None:
        for future, value, error in results.answers:
            if future.done():
                continue  # its caller gave up waiting
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        for cancel in results.cancels:
            for tell in self._cancel_watchers:
                tell(cancel)
        for window, rows in results.deliveries:
            window.consumer.arrive(rows)
        for event in results.events:
            self._on_event(event)
        if results.ended is not None:
            self._end(results.ended)

    def _end(self, error: BaseException) -> None:
        if self._finished.done():
            return
        self._finished.set_result(error)
        for consumer in self._consumers:
            consumer.end()
        if self._closing or self._closed.done():
            return
        told = str(error) if isinstance(error, DispatcherError) else f"{type(error).__name__}: {error}"
        self._on_event(Disconnected(self._place.path, told))
        self._closed.set_exception(error)
        self._closed.exception()  # nobody need await `closed`: unread, asyncio would log it as never retrieved


def _nothing(work: Work) -> None:
    """A call whose answer says that everything before it is done."""
