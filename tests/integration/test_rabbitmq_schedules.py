"""Schedules on RabbitMQ: the one message that is a schedule's state, whatever happens to it and to who holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import pytest
from rabbitmq_admin import Admin
from rabbitmq_url import RabbitMq
from server_bench import DEADLINE_SECONDS, Recorder

from dispatcher import Dispatcher, Queue
from dispatcher.brokers import open_broker
from dispatcher.brokers.base import Lead, Message
from dispatcher.brokers.rabbitmq import RabbitSession
from dispatcher.brokers.rabbitmq import schedules as module
from dispatcher.brokers.rabbitmq.schedules import RabbitLead, schedule_queue
from dispatcher.errors import ConnectionLost, TopologyMismatch
from dispatcher.model.topology import SCHEDULE_EXCHANGE, Topology

T = TypeVar("T")

QUEUE = schedule_queue("ex", "s")
TOPOLOGY = Topology("ex", (Queue("q", ("rk",)),), schedules=("s",))


async def soon(what: Awaitable[T]) -> T:
    return await asyncio.wait_for(what, DEADLINE_SECONDS)


@pytest.fixture
async def connect(vhost_url: str) -> AsyncIterator[Callable[[], Awaitable[RabbitSession]]]:
    """Sessions that have declared everything, closed at the end."""
    async with AsyncExitStack() as stack:

        async def connect() -> RabbitSession:
            session = await soon(open_broker(vhost_url).connect(name="test", on_event=lambda event: None))
            assert isinstance(session, RabbitSession)
            stack.push_async_callback(session.close)
            await soon(session.declare(TOPOLOGY))
            return session

        yield connect


async def lead(session: RabbitSession) -> RabbitLead:
    return await soon(session.schedules.lead("ex", "s"))


def firing(number: int) -> Message:
    return Message("ex", "rk", b"%d" % number, uuid=f"firing {number}")


async def messages(admin: Admin, vhost: str, expected: tuple[int, int]) -> None:
    """Ready and unacked in the schedule's queue become that."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await asyncio.to_thread(admin.counts, vhost))[QUEUE] != expected:
            await asyncio.sleep(0.05)


Connect = Callable[[], Awaitable[RabbitSession]]


async def test_a_leader_that_died_between_its_two_publishes_leaves_a_doubt(connect: Connect) -> None:
    """What it published last cannot be known: the next one says so, and would fire the same uuid."""
    first_session = await connect()
    first = await lead(first_session)
    await soon(first.fire(firing(1), 1000))
    await soon(first_session.publish(firing(2)))
    first_session.abort()
    second = await lead(await connect())
    assert (second.fired_ms, second.is_doubtful) == (1000, True)


async def test_a_firing_that_went_and_a_state_that_did_not_is_not_fired_twice(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again by the same leader, only the state is published once more."""
    session = await connect()
    first = await lead(session)
    monkeypatch.setattr(first, "_replace", failing)
    with pytest.raises(ConnectionLost):
        await soon(first.fire(firing(1), 1000))
    monkeypatch.undo()
    await soon(first.fire(firing(1), 1000))
    assert (await soon(session.inspector.depth("q"))).ready == 1


async def failing(state: object) -> None:
    raise ConnectionLost("the test broke it")


async def test_the_queue_holds_one_message_however_often_it_is_fired(
    connect: Connect, rabbitmq: RabbitMq, vhost: str
) -> None:
    """And however many wait to lead: their seeds are nothing beside a state."""
    first = await lead(await connect())
    others = [asyncio.ensure_future((await connect()).schedules.lead("ex", "s")) for _ in range(3)]
    for n in range(1, 21):
        await soon(first.fire(firing(n), n * 1000))
    await messages(rabbitmq.admin, vhost, (0, 1))
    for other in others:
        other.cancel()
    await asyncio.wait(others)
    await soon(first.resign())
    await messages(rabbitmq.admin, vhost, (1, 0))


async def test_a_state_is_worth_more_than_any_number_of_seeds(connect: Connect) -> None:
    """More than a consumer is given at once, before the state and after it."""
    session = await connect()
    first = await lead(session)
    await soon(first.fire(firing(1), 1000))
    await soon(first.resign())
    seeds = [Message(SCHEDULE_EXCHANGE, QUEUE, b'{"since_ms": %d}' % n) for n in range(350)]
    await soon(asyncio.gather(*map(session.publish, seeds)))
    assert (await lead(session)).fired_ms == 1000


async def test_a_strangers_message_is_no_state(connect: Connect, rabbitmq: RabbitMq, vhost: str) -> None:
    """It is taken out of the queue, and changes nothing."""
    session = await connect()
    for body in (b"", b"{", b"[]", b'{"since_ms": "x"}', b"\xff", b'{"fired_ms": 5}'):
        await soon(session.publish(Message(SCHEDULE_EXCHANGE, QUEUE, body)))
    first = await lead(session)
    assert first.fired_ms is None
    await messages(rabbitmq.admin, vhost, (0, 1))


async def test_a_state_is_renewed_before_the_broker_takes_it_back(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, rabbitmq: RabbitMq, vhost: str
) -> None:
    """A message that nobody acks for half an hour would end its channel: a copy takes its place in time."""
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.05)
    first = await lead(await connect())
    await soon(first.fire(firing(1), 1000))
    held = first._held
    assert held is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        while first._held is None or first._held[1] is held[1]:
            await asyncio.sleep(0.01)
    assert first.fired_ms == 1000
    await soon(first.resign())
    await messages(rabbitmq.admin, vhost, (1, 0))


async def test_what_is_absent_is_a_mismatch_to_verify(vhost_url: str) -> None:
    """The exchange and the queue of each schedule are part of the topology."""
    session = await soon(open_broker(vhost_url).connect(name="test", on_event=lambda event: None))
    await soon(session.declare(Topology("ex", TOPOLOGY.queues)))
    with pytest.raises(TopologyMismatch, match="exchange 'dispatcher.schedule' does not exist.*ex/s' does not exist"):
        await soon(session.declare(Topology("ex", TOPOLOGY.queues, "verify", ("s",))))
    await soon(session.close())


async def test_a_queue_that_is_deleted_is_made_again(
    vhost_url: str, rabbitmq: RabbitMq, vhost: str, recorder: Recorder
) -> None:
    """The schedule begins anew, and says what happened."""
    app = Dispatcher(vhost_url, observers=[recorder])

    @app.periodic(every_seconds=1)
    async def tick() -> None: ...

    worker = asyncio.create_task(app.run_worker())
    await recorder.wait_for("schedule.fired")
    rabbitmq.admin.delete_queue(vhost, schedule_queue("dispatcher", "tick"))
    await recorder.wait_for("schedule.leading", 2)
    fired = len(recorder.named("schedule.fired"))
    await recorder.wait_for("schedule.fired", fired + 1)
    assert recorder.named("schedule.failed")
    worker.cancel()
    await asyncio.wait([worker])


def keeps_protocol(lead: RabbitLead) -> Lead:
    return lead
