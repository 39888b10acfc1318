"""Sessions, consumers and deliveries of the memory broker: its asyncio face.

A session's methods are called on its own event loop. Its consumers may be woken from any thread, because another
session's publish may bring them something. Nothing here decides which message goes where: that is `store`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError, ConnectionLost, DeliveryLost, DispatcherError
from ...model.topology import Topology
from ..base import Connected, Disconnected, Message, OnEvent, SessionsReleased, TopologyDiffers
from ..headers import decode_headers
from .cancels import MemoryCancels
from .entries import Entry, QueueState, Window
from .inspector import MemoryInspector
from .schedules import Book, MemorySchedules
from .store import Store, Woken

__all__ = ["MemoryConsumer", "MemoryDelivery", "MemorySession"]

PEER = "memory"

MAX_TIMER_SECONDS = 0.25
"""The wall clock is read again at least this often while something is delayed, so that a jump of it is noticed."""


class MemoryDelivery:
    """One handing-over of one message. See `brokers.base.Delivery`."""

    __slots__ = (
        "_entry",
        "_session",
        "body",
        "delivery_count",
        "exchange",
        "headers",
        "priority",
        "queue",
        "redelivered",
        "routing_key",
        "uuid",
    )

    def __init__(self, session: MemorySession, entry: Entry) -> None:
        message = entry.message
        self._session = session
        self._entry: Entry | None = entry
        self.queue: str = entry.queue.name
        self.exchange: str = message.exchange
        self.routing_key: str = message.routing_key
        self.body: bytes = message.body
        self.uuid: str = message.uuid
        self.headers: Mapping[str, Any] = decode_headers(entry.headers)
        self.priority: int | None = message.priority
        self.redelivered: bool = entry.redelivered
        self.delivery_count: int = entry.deaths

    def __repr__(self) -> str:
        return f"MemoryDelivery(uuid={self.uuid!r}, queue={self.queue!r})"

    def ack(self) -> None:
        self._session.settle(self._take(), keep=False)

    def reject(self) -> None:
        self._session.settle(self._take(), keep=True)

    def _take(self) -> Entry:
        entry = self._entry
        if entry is None:
            raise DeliveryLost(f"message {self.uuid!r} was settled already; settle a delivery once")
        if self._session.ended:
            raise DeliveryLost(
                f"the session that brought message {self.uuid!r} has ended; the broker delivers it again by itself"
            )
        self._entry = None
        return entry


class MemoryConsumer:
    """The deliveries of one queue. See `brokers.base.Consumer`."""

    delivery_timeout_seconds = None

    def __init__(self, session: MemorySession, queue: QueueState, prefetch: int, held: dict[int, Entry]) -> None:
        self._session = session
        self._stopped = False
        self._arrival = asyncio.Event()
        self.window = Window(queue, prefetch, held, self.wake)

    def __aiter__(self) -> MemoryConsumer:
        return self

    async def __anext__(self) -> MemoryDelivery:
        arrived = self.window.arrived
        while True:
            self._arrival.clear()  # before the look: what arrives from another thread after it sets the event again
            if self._stopped:
                raise StopAsyncIteration
            if arrived:
                return MemoryDelivery(self._session, arrived.popleft())
            await self._arrival.wait()

    async def stop(self) -> None:
        if not self._stopped:
            self._session.forget(self)

    def wake(self, running: asyncio.AbstractEventLoop) -> None:
        """Something may have come. Called on the event loop `running`, in any thread."""
        self._session.wake(running, self._arrival)

    def end(self) -> None:
        """Let the iteration end."""
        self._stopped = True
        self._arrival.set()


class MemorySession:
    """One session of a memory broker. See `brokers.base.Session`."""

    def __init__(self, store: Store, name: str, on_event: OnEvent, told: set[TopologyDiffers], book: Book) -> None:
        self._store = store
        self._book = book
        self._name = name
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._held: dict[int, Entry] = {}
        self._consumers: list[MemoryConsumer] = []
        self._timer: asyncio.TimerHandle | None = None
        self._told = told  # shared by the broker's sessions: a reconnect need not report it all again
        self.ended = False
        on_event(Connected(PEER))

    @property
    def closed(self) -> asyncio.Future[None]:
        return self._closed

    @property
    def inspector(self) -> MemoryInspector:
        self._check()
        return MemoryInspector(self._store)

    @property
    def cancels(self) -> MemoryCancels:
        self._check()
        return MemoryCancels(self._store.cancels, self._closed)

    @property
    def schedules(self) -> MemorySchedules:
        self._check()
        return MemorySchedules(self._book, self)

    async def declare(self, topology: Topology) -> None:
        self._check()
        for difference in self._store.declare(topology):
            if difference not in self._told:
                self._told.add(difference)
                self._on_event(difference)

    def publish(self, message: Message) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            self._check()
            woken = self._store.publish(message)
        except DispatcherError as error:
            future.set_exception(error)
        else:
            future.set_result(None)
            self._wake(woken)
        return future

    async def consume(self, queue: str, *, prefetch: int) -> MemoryConsumer:
        self._check()
        if prefetch < 1:
            raise ConfigError(f"prefetch: expected 1 or more, got {prefetch!r}")
        consumer = MemoryConsumer(self, self._store.queue(queue), prefetch, self._held)
        self._consumers.append(consumer)
        self._wake(self._store.add_window(consumer.window))
        return consumer

    async def close(self) -> None:
        if not self.ended:
            woken, _, _ = self._end(died=False)
            self._closed.set_result(None)
            self._wake(woken)

    def lose(self) -> None:
        """For tests: end this session as a broken link or a killed process would. Its holding counts as a death."""
        if self.ended:
            return
        woken, messages, parked = self._end(died=True)
        self._on_event(Disconnected(PEER, "the test ended it"))
        if messages:
            self._on_event(SessionsReleased(holders=1, messages=messages, dead_letters=parked))
        self._closed.set_exception(ConnectionLost(f"session {self._name!r} was lost"))
        self._closed.exception()  # nobody need await `closed`: unread, asyncio would log it as never retrieved
        self._wake(woken)

    def settle(self, entry: Entry, *, keep: bool) -> None:
        """Hand `entry` back (`keep`) or forget it."""
        self._wake(self._store.hand_back((entry,)) if keep else self._store.settle(entry))

    def forget(self, consumer: MemoryConsumer) -> None:
        """Stop `consumer`; its deliveries that were iterated over stay held."""
        self._consumers.remove(consumer)
        consumer.end()
        self._wake(self._store.remove_window(consumer.window))

    def wake(self, running: asyncio.AbstractEventLoop, arrival: asyncio.Event) -> None:
        """Set `arrival`, and the timer, on this session's event loop. Called on `running`, in any thread."""
        if running is self._loop:
            self._arrived(arrival)
            return
        try:
            self._loop.call_soon_threadsafe(self._arrived, arrival)
        except RuntimeError:  # its event loop was closed before the session: nobody is left there to settle anything
            self.ended = True
            woken, _, _ = self._store.release([c.window for c in self._consumers], self._held, died=True)
            for window in woken:
                window.wake(running)

    def _check(self) -> None:
        if self.ended:
            raise ConnectionLost(f"session {self._name!r} has ended; connect again")

    def _end(self, *, died: bool) -> tuple[Woken, int, int]:
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        consumers, self._consumers = self._consumers, []
        released = self._store.release([consumer.window for consumer in consumers], self._held, died=died)
        for consumer in consumers:
            consumer.end()
        return released

    def _wake(self, woken: Woken) -> None:
        for window in woken:
            window.wake(self._loop)

    def _arrived(self, arrival: asyncio.Event) -> None:
        arrival.set()
        self._set_timer()

    # --- delays -------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        """Be called when the next delayed message is due, or soon enough to notice that the wall clock jumped."""
        queues = [consumer.window.queue for consumer in self._consumers if consumer.window.queue.delayed]
        due_ms = self._store.next_due_ms(queues) if queues else None
        if due_ms is None:
            return
        seconds = max(due_ms - self._store.now_ms(), 1) / 1000
        at = self._loop.time() + min(seconds, MAX_TIMER_SECONDS)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._wake(self._store.promote({consumer.window.queue for consumer in self._consumers}))
        self._set_timer()
