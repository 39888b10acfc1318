"""What only the memory broker has: several event loops on one broker, a clock that can be moved, a loop that went away.

Everything else about it is in the conformance suite.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher.brokers.base import BrokerEvent, Message, Session, SessionsReleased
from dispatcher.brokers.headers import encode_headers
from dispatcher.brokers.memory import MemoryBroker, MemorySession
from dispatcher.brokers.memory.schedules import Book
from dispatcher.brokers.memory.store import Store
from dispatcher.errors import ArgumentError, ConfigError, ConnectionLost
from dispatcher.model.topology import Queue, Topology

DEADLINE_SECONDS = 20.0
TOPOLOGY = Topology("e", (Queue("q", binding_keys=("q",), delivery_limit=1),))


def ignore(event: BrokerEvent) -> None:
    pass


async def connect(broker: MemoryBroker) -> MemorySession:
    session = await broker.connect(name="test", on_event=ignore)
    await session.declare(TOPOLOGY)
    return session


def message(body: bytes, **fields: Any) -> Message:
    return Message("e", "q", body, uuid="u", **fields)


async def in_thread(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine` on an event loop of its own, in a thread of its own, while this loop goes on."""
    failures: list[BaseException] = []
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:
            failures.append(error)
        loop.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.wait_for(ended.wait(), DEADLINE_SECONDS)
    thread.join()
    if failures:
        raise failures[0]


async def test_a_publish_in_another_thread_wakes_a_consumer_here() -> None:
    """And each message comes once, though both event loops work at the same time."""
    broker = MemoryBroker()
    session = await connect(broker)
    consumer = await session.consume("q", prefetch=3)

    async def publish_all() -> None:
        publisher = await connect(broker)
        for n in range(2_000):
            await publisher.publish(message(b"%d" % n))
            if n % 10 == 0:
                await asyncio.sleep(0)
        await publisher.close()

    publishing = asyncio.ensure_future(in_thread(publish_all()))
    got = []
    for _ in range(2_000):
        delivery = await asyncio.wait_for(anext(consumer), DEADLINE_SECONDS)
        got.append(delivery.body)
        delivery.ack()
    await publishing
    assert got == [b"%d" % n for n in range(2_000)]
    await session.close()


async def test_consumers_in_three_threads_share_without_doubles() -> None:
    """1,500 messages, three event loops that ack and reject: each is acked once."""
    broker = MemoryBroker()
    session = await connect(broker)
    acked: list[bytes] = []
    total, all_acked = 1_500, threading.Event()

    async def work() -> None:
        mine = await connect(broker)
        consumer = await mine.consume("q", prefetch=4)
        while not all_acked.is_set():
            try:
                delivery = await asyncio.wait_for(anext(consumer), 0.05)
            except TimeoutError:
                continue
            if delivery.redelivered or int(delivery.body) % 7:
                delivery.ack()
                acked.append(delivery.body)
                if len(acked) >= total:
                    all_acked.set()
            else:
                delivery.reject()
        await mine.close()

    workers = [asyncio.ensure_future(in_thread(work())) for _ in range(3)]
    for n in range(total):
        await session.publish(message(b"%d" % n))
        await asyncio.sleep(0)
    await asyncio.gather(*workers)
    assert sorted(acked) == sorted(b"%d" % n for n in range(total))
    assert (await session.inspector.depth("q")).ready == 0
    await session.close()


def test_messages_survive_their_event_loop() -> None:
    """One broker object over two `asyncio.run`, as a user's tests do it."""
    broker = MemoryBroker()

    async def first() -> None:
        session = await connect(broker)
        await session.publish(message(b"kept"))
        await session.close()

    async def second() -> None:
        session = await connect(broker)
        delivery = await anext(await session.consume("q", prefetch=1))
        assert delivery.body == b"kept"
        await session.close()

    asyncio.run(first())
    asyncio.run(second())


def test_a_session_whose_event_loop_is_gone_gives_back_what_it_held() -> None:
    """Nobody can settle there any more: the next publish notices, and counts it as a death."""
    broker = MemoryBroker()
    left: list[Session] = []

    async def forget_to_close() -> None:
        session = await connect(broker)
        left.append(session)
        await session.publish(message(b"1"))
        await anext(await session.consume("q", prefetch=5))

    async def later() -> None:
        session = await connect(broker)
        await session.publish(message(b"2"))
        consumer = await session.consume("q", prefetch=5)
        deliveries = [await asyncio.wait_for(anext(consumer), DEADLINE_SECONDS) for _ in range(2)]
        assert [(d.body, d.delivery_count) for d in deliveries] == [(b"1", 1), (b"2", 1)]
        with pytest.raises(ConnectionLost):
            await left[0].declare(TOPOLOGY)
        await session.close()

    asyncio.run(forget_to_close())
    asyncio.run(later())


class Clock:
    """A wall clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


async def test_a_jump_of_the_wall_clock_is_noticed() -> None:
    """A message due in an hour comes soon after the clock was set forward, though no timer of an hour ran out."""
    clock = Clock()
    session = MemorySession(Store(clock), "test", ignore, set(), Book(clock))
    await session.declare(TOPOLOGY)
    consumer = await session.consume("q", prefetch=1)
    await session.publish(message(b"hour", ready_at_ms=clock.now + 3_600_000))
    assert (await session.inspector.depth("q")).delayed == 1
    clock.now += 3_600_000
    delivery = await asyncio.wait_for(anext(consumer), DEADLINE_SECONDS)
    assert delivery.body == b"hour"
    await session.close()


async def test_a_wall_clock_set_back_makes_what_waits_wait_for_it() -> None:
    """It is due at its time by the clock; what was due before stays so, handed back too."""
    clock = Clock()
    store = Store(clock)
    session = MemorySession(store, "test", ignore, set(), Book(clock))
    await session.declare(TOPOLOGY)
    await session.publish(message(b"first", ready_at_ms=clock.now + 500))
    await session.publish(message(b"second", ready_at_ms=clock.now + 1000))
    clock.now += 500
    consumer = await session.consume("q", prefetch=2)
    delivery = await asyncio.wait_for(anext(consumer), DEADLINE_SECONDS)
    clock.now -= 3_600_000
    delivery.reject()
    again = await asyncio.wait_for(anext(consumer), DEADLINE_SECONDS)
    assert (delivery.body, again.body, again.redelivered) == (b"first", b"first", True)
    assert (await session.inspector.depth("q")).delayed == 1
    clock.now += 3_600_500
    assert (await asyncio.wait_for(anext(consumer), DEADLINE_SECONDS)).body == b"second"
    await session.close()


async def test_a_due_time_is_due_to_the_millisecond() -> None:
    """Not one before it, and at it."""
    clock = Clock()
    store = Store(clock)
    session = MemorySession(store, "test", ignore, set(), Book(clock))
    await session.declare(TOPOLOGY)
    await session.publish(message(b"", ready_at_ms=clock.now + 10))
    clock.now += 9
    store.promote([store.queue("q")])
    assert [len(store.queue("q").ready), len(store.queue("q").delayed)] == [0, 1]
    clock.now += 1
    store.promote([store.queue("q")])
    assert [len(store.queue("q").ready), len(store.queue("q").delayed)] == [1, 0]
    await session.close()


async def test_a_loss_reports_what_was_released() -> None:
    """How many were handed back, and how many of them became dead letters."""
    events: list[BrokerEvent] = []
    session = await MemoryBroker().connect(name="test", on_event=events.append)
    await session.declare(TOPOLOGY)
    await session.publish(message(b"1"))
    await anext(await session.consume("q", prefetch=1))
    session.lose()
    session.lose()
    assert [event for event in events if isinstance(event, SessionsReleased)] == [SessionsReleased(1, 1, 0)]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, datetime(2026, 1, 1, tzinfo=UTC), {1: "a number for a name"}])
def test_headers_are_no_wider_than_a_field_table(value: object) -> None:
    """What an AMQP table cannot give back as it went is refused here too, not first in production."""
    with pytest.raises(ArgumentError, match="'the-uuid'"):
        encode_headers({"h": value}, "the-uuid")


@pytest.mark.parametrize("prefetch", [0, -1])
async def test_a_window_of_nothing_is_refused(prefetch: int) -> None:
    """It would wait for ever."""
    session = await connect(MemoryBroker())
    with pytest.raises(ConfigError, match="1 or more"):
        await session.consume("q", prefetch=prefetch)
    await session.close()
