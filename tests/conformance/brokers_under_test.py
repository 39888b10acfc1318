"""The brokers that the conformance suite runs over, and what its tests share.

To add a broker, write one function like `memory` below and enter it in `BROKERS`. What a broker cannot do would become
a flag of `Rig` that the test asks for; today every broker can do everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rabbitmq_roles import Roles
from rabbitmq_url import RabbitMq

from dispatcher.brokers import open_broker
from dispatcher.brokers.base import Broker, BrokerEvent, Consumer, Delivery, Message, Session
from dispatcher.brokers.memory import MemoryBroker, MemorySession
from dispatcher.brokers.rabbitmq import RabbitSession
from dispatcher.brokers.rabbitmq.schedules import is_schedule
from dispatcher.brokers.rabbitmq.version import features_of, server_version
from dispatcher.brokers.sqlite import SqliteBroker
from dispatcher.brokers.sqlite.file import connect
from dispatcher.model.topology import DeclareMode, Queue, Topology

T = TypeVar("T")

EXCHANGE = "conformance"
DEADLINE_SECONDS = 20.0
"""For waits that take milliseconds: reached only when something is broken."""


class Rig:
    """A broker under test and every session that a test opened on it."""

    def __init__(
        self,
        broker: Broker,
        lose: Callable[[Session, str], Awaitable[None]],
        *,
        hand_backs_count: bool = False,
        priorities: Callable[[Queue], Queue] = lambda queue: queue,
        max_length_is_soft: bool = False,
        operator: Broker | None = None,
        install: Callable[[Topology], Awaitable[None]] | None = None,
    ) -> None:
        self.broker = broker
        self.may_do_everything = (
            install is None
        )  # who may not is told the same of what is forbidden and of what is absent
        self.hand_backs_count = hand_backs_count  # a delivery that is only handed back counts as a holder's death
        self.priorities = priorities  # makes of a queue one of the kind that orders by priority
        self.max_length_is_soft = max_length_is_soft  # a full queue may take one message more
        self.events: list[BrokerEvent] = []
        self._operator = operator or broker
        self._install = install
        self._lose = lose
        self._sessions: dict[Session, str] = {}

    async def connect(
        self,
        *queues: Queue,
        declare: DeclareMode = "create",
        exchange: str = EXCHANGE,
        schedules: tuple[str, ...] = (),
    ) -> Session:
        """A new session; with `queues`, they are declared, and `schedules` with them."""
        topology = Topology(exchange, queues, declare, schedules)
        if queues and declare == "create" and self._install is not None:
            await soon(self._install(topology))
        session = await self._open(self.broker)
        if queues:
            await soon(session.declare(topology))
        return session

    async def connect_operator(self) -> Session:
        """A new session that may take dead letters too."""
        return await self._open(self._operator)

    async def _open(self, broker: Broker) -> Session:
        name = f"conformance {len(self._sessions)}"
        session = await soon(broker.connect(name=name, on_event=self.events.append))
        self._sessions[session] = name
        return session

    async def lose(self, session: Session) -> None:
        """End `session` without its doing: a cut link, or its process found dead. The broker has noticed on return."""
        await soon(self._lose(session, self._sessions[session]))

    async def close(self) -> None:
        for session in self._sessions:
            await soon(session.close())


@asynccontextmanager
async def memory(folder: Path) -> AsyncIterator[Rig]:
    async def lose(session: Session, name: str) -> None:
        assert isinstance(session, MemorySession)
        session.lose()

    yield Rig(MemoryBroker(), lose)


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Rig]:
    path = folder / "broker.db"
    broker = SqliteBroker(path)

    async def lose(session: Session, name: str) -> None:
        # As if it were of the time before the machine was started anew: the next session to open finds it dead.
        connection = connect(str(path))
        connection.execute("UPDATE sessions SET boot_id = 'another' WHERE name = ?", (name,))
        connection.execute("UPDATE state SET epoch = epoch + 1")
        connection.close()
        reaper = await broker.connect(name="reaper", on_event=lambda event: None)
        await reaper.close()
        await asyncio.wait({session.closed})

    yield Rig(broker, lose)


@asynccontextmanager
async def rabbitmq(url: str, broker: RabbitMq, users: Roles | None = None) -> AsyncIterator[Rig]:
    """A vhost of its own on the RabbitMQ of this run. With `users`, one installs what a test asks for, one does the rest."""
    vhost = url.rpartition("/")[2]

    async def lose(session: Session, name: str) -> None:
        assert isinstance(session, RabbitSession)
        before = held()
        mine = session.unsettled
        session.abort()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while held() > before - mine:
            assert time.monotonic() < deadline, "the broker has not noticed"
            await asyncio.sleep(0.02)

    def held() -> int:
        # What a leader of a schedule held is in the next one's hands at once.
        counts = broker.admin.counts(vhost).items()
        return sum(unacked for queue, (_, unacked) in counts if not is_schedule(queue))

    features = features_of(server_version({"version": broker.version}))
    yield Rig(
        open_broker(url if users is None else users.url("work")),
        lose,
        hand_backs_count=not features.nack_is_free,
        priorities=_as_it_is if features.quorum_priorities == "strict" else _with_priorities,
        max_length_is_soft=True,
        operator=None if users is None else open_broker(users.url("install")),
        install=None if users is None else users.install,
    )


def _as_it_is(queue: Queue) -> Queue:
    return queue


def _with_priorities(queue: Queue) -> Queue:
    """Before RabbitMQ 4.3 only classic queues order by priority."""
    return msgspec.structs.replace(queue, type="classic", max_priority=9)


BROKERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Rig]]] = {"memory": memory, "sqlite": sqlite}


async def soon(what: Awaitable[T]) -> T:
    """The result of `what`, which must come within the deadline."""
    return await asyncio.wait_for(what, DEADLINE_SECONDS)


def message(body: bytes = b"", key: str = "q", *, exchange: str = EXCHANGE, **fields: Any) -> Message:
    return Message(
        exchange=exchange, routing_key=key, body=body, uuid=fields.pop("uuid", "u-" + body.hex()[:32]), **fields
    )


async def publish(session: Session, *bodies: bytes, key: str = "q", **fields: Any) -> None:
    """Publish one message per body, all in flight at once, and wait until each is accepted."""
    await soon(asyncio.gather(*[session.publish(message(body, key, **fields)) for body in bodies]))


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """The next `count` deliveries, unsettled."""
    return [await soon(anext(consumer)) for _ in range(count)]


async def take_bodies(consumer: Consumer, count: int) -> list[bytes]:
    """The bodies of the next `count` deliveries, each acked as it comes."""
    bodies = []
    for _ in range(count):
        delivery = await soon(anext(consumer))
        bodies.append(delivery.body)
        delivery.ack()
    return bodies


async def waiting(rig: Rig, queue: str, *, key: str | None = None) -> list[bytes]:
    """The bodies of everything that waits in `queue` now, in order of delivery; they are gone then.

    The queue has no other consumer. A last message of the lowest priority marks the end, so that nothing
    is waited for in vain.
    """
    session = await rig.connect()
    mark = b"the end of " + queue.encode() + str(time.monotonic_ns()).encode()
    await publish(session, mark, key=key or queue, priority=0)
    consumer = await session.consume(queue, prefetch=1)
    bodies: list[bytes] = []
    while not bodies or bodies[-1] != mark:
        bodies += await take_bodies(consumer, 1)
    await session.close()
    return bodies[:-1]
