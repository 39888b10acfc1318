"""The interface of a place where messages live: RabbitMQ, an SQLite file, or this process's memory.

Protocols and data only; no broker is imported here, and nothing here knows what a task is. The rules every
implementation keeps (the conformance suite holds them to it):

* `Session.publish` resolves only once the message is safe: on a majority of a quorum queue, or after the COMMIT.
* A delivery belongs to the session that brought it. Settling it after that session ended raises `DeliveryLost`
  and reaches no broker.
* `ack` and `reject` take effect in order, without waiting. `Session.close` flushes them.
* A session is disposable: when it is lost, `closed` gets its exception, every consumer's iteration ends, every
  pending publish fails with `ConnectionLost`. Nobody repairs a session; a new one is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec

from ..model.topology import Topology

__all__ = [
    "CANCEL_DAYS",
    "Blocked",
    "Broker",
    "BrokerEvent",
    "BrowsedMessage",
    "Cancel",
    "Cancels",
    "Connected",
    "Consumer",
    "DelayBand",
    "Delivery",
    "Disconnected",
    "Headers",
    "Insecure",
    "Inspector",
    "Lead",
    "Message",
    "OnEvent",
    "QueueDepth",
    "Schedules",
    "Session",
    "SessionsReleased",
    "TopologyDiffers",
    "Unblocked",
    "oldest_cancel_ms",
]

Headers: TypeAlias = Mapping[str, Any]
"""An AMQP field table: strings, booleans, integers, floats, bytes, None, lists and tables of those."""

DEFAULT_PRIORITY = 4


class Message(msgspec.Struct, frozen=True):
    """What a broker stores.

    `uuid` travels as `message_id`. `priority` None means 4. `ready_at_ms` is the Unix time in milliseconds before
    which the message must not be delivered; None means at once.
    """

    exchange: str
    routing_key: str
    body: bytes
    uuid: str = ""
    headers: Headers | None = None
    priority: int | None = None
    ready_at_ms: int | None = None
    content_type: str = "application/json"


class Delivery(Protocol):
    """One handing-over of a message to one consumer.

    `redelivered`: the broker says that it may have been delivered before (False is sure, True is a hint).
    `delivery_count`: how many holders were lost with it before this delivery; None for a redelivery of a queue whose
    broker does not count them (RabbitMQ's classic queues).
    `headers` is never None.
    """

    @property
    def queue(self) -> str: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def uuid(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def priority(self) -> int | None: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def delivery_count(self) -> int | None: ...

    def ack(self) -> None:
        """It is done with: the broker forgets it. Raises `DeliveryLost` after its session ended or when settled before."""
        ...

    def reject(self) -> None:
        """Hand it back: the broker delivers it again, to anyone. Never drops. Raises `DeliveryLost` like `ack`."""
        ...


class Consumer(Protocol):
    """The deliveries of one queue, at most `prefetch` of them unsettled at any time.

    Iteration ends after `stop()` or when the session is lost, and raises `ConsumerCancelled` when the broker ended
    this consumer alone. Deliveries stay settleable after it ended, as long as the session lives.
    `delivery_timeout_seconds`: after how long the broker takes back a delivery that is not settled; None for never.
    """

    @property
    def delivery_timeout_seconds(self) -> float | None: ...
    def __aiter__(self) -> AsyncIterator[Delivery]: ...
    async def __anext__(self) -> Delivery: ...

    async def stop(self) -> None:
        """Take nothing more; hand back what was not iterated over yet. Twice is fine."""
        ...


CANCEL_DAYS = 30
"""How long a cancel is kept: a task that waits for longer after it runs all the same."""


def oldest_cancel_ms(now_ms: int) -> int:
    """When the oldest cancel that still holds at `now_ms` was made, in Unix milliseconds."""
    return now_ms - CANCEL_DAYS * 86_400_000


class Cancel(msgspec.Struct, frozen=True):
    """The word of a sender: the task of that uuid, published to that exchange, must not run any more."""

    exchange: str
    uuid: str
    cancelled_at_ms: int


class Cancels(Protocol):
    """The cancels of a broker: kept for `CANCEL_DAYS` days, and told to everybody who watches."""

    async def add(self, cancel: Cancel) -> None:
        """Record it; it is safe when this returns. Raises like a publish, and `TopologyMissing` where nothing keeps cancels."""
        ...

    async def watch(self, on_cancel: Callable[[Cancel], None]) -> asyncio.Future[None]:
        """Tell every recorded cancel, return, and go on to tell those that come, each at least once.

        The future resolves when no more are told, though the session lives: watch again then. Raises
        `TopologyMismatch` where nothing keeps cancels or this user may not read them, `ConnectionLost`.
        """
        ...


class Session(Protocol):
    """One live link to a broker.

    `closed` resolves with None after `close()`, or with the exception that ended the session: `ConnectionLost`
    where a new session may succeed, anything else (`StorageError`) where it will not.
    """

    @property
    def closed(self) -> asyncio.Future[None]: ...
    @property
    def inspector(self) -> Inspector: ...
    @property
    def cancels(self) -> Cancels: ...
    @property
    def schedules(self) -> Schedules: ...

    async def declare(self, topology: Topology) -> None:
        """Make `topology` true according to its `declare` mode; `TopologyMismatch` where it may not or cannot."""
        ...

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Hand over `message`; the future resolves once it is accepted in every queue it routes to.

        Its exceptions: `Unroutable`, `PublishRefused`, `BrokerBlocked` (in no queue, may be tried again),
        `TopologyMissing`, `StorageError`, `ConnectionLost` (may have been accepted). The caller keeps the deadline.
        """
        ...

    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        """Start consuming `queue` with at most `prefetch` unsettled deliveries. `TopologyMismatch` if it does not exist."""
        ...

    async def close(self) -> None:
        """Flush settlements, hand back what is unsettled, end the session. Twice is fine; bounded to some seconds."""
        ...


class Broker(Protocol):
    """Where to connect to, and how. Holds no connection itself (a `memory://` broker holds its messages)."""

    async def connect(self, *, name: str, on_event: OnEvent) -> Session:
        """Open a session. `name` shows in the broker's own tools.

        One attempt: `ConnectionLost` where trying again may help; `ConfigError`, `AuthenticationError` or
        `StorageError` where it will not.
        """
        ...


class QueueDepth(msgspec.Struct, frozen=True):
    """How full a queue is. A figure is None where the broker cannot tell."""

    name: str
    ready: int
    unacked: int | None
    delayed: int | None
    consumers: int | None
    dead: int | None


class DelayBand(msgspec.Struct, frozen=True):
    """How many delayed messages come due in more than `from_seconds` and at most `to_seconds`, counted from now.

    `to_seconds` None: however long.
    `queue` None: the broker does not tell for which queues they are.
    """

    from_seconds: float
    to_seconds: float | None
    messages: int
    queue: str | None


class BrowsedMessage(msgspec.Struct, frozen=True):
    """A message seen without taking it. `key` names it to `Inspector.remove`."""

    key: int
    message: Message
    delivery_count: int
    published_at_ms: int | None


class Inspector(Protocol):
    """Looking around in a broker, for tools; no task ever needs it."""

    async def queues(self) -> list[QueueDepth]:
        """The depth of every queue the broker can list, dead-letter queues left out (they are the `dead` figure)."""
        ...

    async def depth(self, queue: str) -> QueueDepth:
        """The depth of one queue; `TopologyMismatch` if it does not exist."""
        ...

    async def delayed(self) -> list[DelayBand]:
        """How many messages wait for their time, by queue and band, the empty bands left out. It takes none of them.

        RabbitMQ's bands all begin at zero: one on a level of its ladder has the rest of that and the levels below before it.
        """
        ...

    def browse(self, queue: str) -> AsyncGenerator[BrowsedMessage, None]:
        """Every waiting message of `queue`, oldest first, with bounded memory. Takes nothing.

        Who leaves it early closes it (`contextlib.aclosing`): until then RabbitMQ keeps the messages from others.
        """
        ...

    async def remove(self, queue: str, key: int) -> bool:
        """Delete one browsed message; False if it was gone already."""
        ...

    async def purge(self, queue: str) -> int:
        """Delete every waiting message of `queue` and say how many there were."""
        ...


class Lead(Protocol):
    """That this session, and no other, fires one schedule. Times are Unix milliseconds.

    `fired_ms`: the last firing, None for none yet. `since_ms`: when the schedule was first seen: what is due after that
    and was not fired is owed. `is_doubtful`: the leader before was lost, and may have published the firing that follows
    `fired_ms` without being able to say so; never where firing and saying so are one transaction.
    `lost` resolves once this session leads no more, whatever the reason; it never fails.
    """

    @property
    def fired_ms(self) -> int | None: ...
    @property
    def since_ms(self) -> int: ...
    @property
    def is_doubtful(self) -> bool: ...
    @property
    def lost(self) -> asyncio.Future[None]: ...

    async def fire(self, message: Message, fired_ms: int) -> None:
        """Publish `message` and move `fired_ms`: in one transaction, or first the one and then the other.

        Raises like `Session.publish`, and `ConnectionLost` once the lead is lost. May be tried again with the same
        arguments: what the broker is known to have is not published twice. The caller keeps the deadline.
        """
        ...

    async def resign(self) -> None:
        """Let another lead. Twice is fine, and after the lead was lost; bounded to some seconds."""
        ...


class Schedules(Protocol):
    """Who fires which schedule. A schedule is a name; sessions that share a broker and an exchange share it."""

    async def lead(self, exchange: str, name: str) -> Lead:
        """Wait until this session leads that schedule, for ever if need be.

        `ConnectionLost` once the session has ended; `TopologyMismatch` and `ConsumerCancelled` where the schedule has no
        place in the broker: declare it.
        """
        ...

    async def fired_ms(self, exchange: str, name: str) -> int | None:
        """The last firing; None for none yet, and where only the leader knows it."""
        ...


class BrokerEvent(msgspec.Struct, frozen=True):
    """The base of what a session reports of itself. `name` is stable: logs and observers rely on it."""

    name: ClassVar[str]
    level: ClassVar[int]


class Connected(BrokerEvent, frozen=True):
    """A session is up. `peer` is the broker's address without credentials."""

    name = "broker.connected"
    level = 20
    peer: str


class Disconnected(BrokerEvent, frozen=True):
    """A session was lost, or an attempt to make a new one failed. Attempts that fail alike in a row are told once."""

    name = "broker.disconnected"
    level = 30
    peer: str
    error: str


class Insecure(BrokerEvent, frozen=True):
    """The way to the broker protects less than it could: `text` says what, and what to do. Told once, before connecting."""

    name = "broker.insecure"
    level = 30
    peer: str
    text: str


class Blocked(BrokerEvent, frozen=True):
    """The broker takes no publishes for now."""

    name = "broker.blocked"
    level = 30
    reason: str


class Unblocked(BrokerEvent, frozen=True):
    """The broker takes publishes again."""

    name = "broker.unblocked"
    level = 20


class TopologyDiffers(BrokerEvent, frozen=True):
    """Something exists otherwise than asked for, and is used as it is."""

    name = "topology.differs"
    level = 30
    what: str
    expected: str
    found: str


class SessionsReleased(BrokerEvent, frozen=True):
    """Holders were found dead; their `messages` were handed back, `dead_letters` of them parked for `delivery_limit`."""

    name = "broker.holders_released"
    level = 30
    holders: int
    messages: int
    dead_letters: int


OnEvent: TypeAlias = Callable[[BrokerEvent], None]
"""Called on the session's event loop; must not block and must not raise."""
