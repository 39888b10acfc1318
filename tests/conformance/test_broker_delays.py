"""What every broker promises of delays: never early, soon after, and in nobody's way."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import pytest
from brokers_under_test import Rig, message, publish, soon, take, waiting

from dispatcher.brokers.base import Consumer, Delivery
from dispatcher.brokers.delays import MAX_DELAY_MS
from dispatcher.errors import ConfigError
from dispatcher.model.topology import DELAY_EXCHANGE, Queue

Q = Queue("q", binding_keys=("q",))
HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def take_on_time(consumer: Consumer, due_ms: dict[bytes, int]) -> list[Delivery]:
    """One delivery per entry of `due_ms`, none before its time."""
    got = []
    for _ in due_ms:
        delivery = await soon(anext(consumer))
        assert now_ms() >= due_ms[delivery.body]
        got.append(delivery)
        delivery.ack()
    return got


async def test_delays_end_in_their_order_and_never_early(rig: Rig) -> None:
    """Three delays, published out of order, come in the order of their times."""
    session = await rig.connect(Q)
    consumer = await session.consume("q", prefetch=5)
    start = now_ms()
    due = {b"third": start + 450, b"first": start + 150, b"second": start + 300}
    for body, ready_at_ms in due.items():
        await publish(session, body, ready_at_ms=ready_at_ms)
    assert [d.body for d in await take_on_time(consumer, due)] == [b"first", b"second", b"third"]


async def test_a_shorter_delay_published_later_wakes_a_waiting_consumer(rig: Rig) -> None:
    """The wait for an hour is cut short, also when another session publishes the shorter delay."""
    session, other = await rig.connect(Q), await rig.connect(Q)
    consumer = await session.consume("q", prefetch=5)
    await publish(session, b"hour", ready_at_ms=now_ms() + HOUR_MS)
    waiter = asyncio.ensure_future(take(consumer, 1))
    await asyncio.sleep(0)
    due = now_ms() + 150
    await publish(other, b"soon", ready_at_ms=due)
    [delivery] = await waiter
    assert delivery.body == b"soon"
    assert now_ms() >= due


async def test_a_delayed_message_does_not_block_others(rig: Rig) -> None:
    """What is ready passes what waits for an hour, whatever their priorities."""
    session = await rig.connect(Q)
    await publish(session, b"hour", priority=9, ready_at_ms=now_ms() + HOUR_MS)
    await publish(session, b"now", priority=0)
    assert await waiting(rig, "q") == [b"now"]
    depth = await session.inspector.depth("q")
    assert depth.ready == 0
    assert depth.delayed in (1, None)


async def test_a_time_in_the_past_means_now(rig: Rig) -> None:
    """It waits for nothing, and keeps its place among the others."""
    session = await rig.connect(Q)
    await publish(session, b"1")
    await publish(session, b"2", ready_at_ms=now_ms() - HOUR_MS)
    await publish(session, b"3", ready_at_ms=1)
    await publish(session, b"4")
    assert await waiting(rig, "q") == [b"1", b"2", b"3", b"4"]


async def test_thousands_that_are_due_at_once(rig: Rig) -> None:
    """2,000 messages of one due time come to two consumers, each once, none early, never more than four unsettled."""
    session, other = await rig.connect(Q), await rig.connect(Q)
    bodies = [b"%d" % n for n in range(2_000)]
    due = now_ms() + 1_500
    await publish(session, *bodies, ready_at_ms=due)
    got: list[bytes] = []
    all_came = asyncio.Event()

    async def work(consumer: Consumer) -> None:
        held: deque[Delivery] = deque()
        async for delivery in consumer:
            assert now_ms() >= due
            held.append(delivery)
            assert len(held) <= 4
            got.append(delivery.body)
            if len(held) == 4 or len(got) > len(bodies) - 8:
                held.popleft().ack()  # one at a time: the window stays full until the last few
            if len(got) == len(bodies):
                all_came.set()
        for delivery in held:
            delivery.ack()

    consumers = [await session.consume("q", prefetch=4), await other.consume("q", prefetch=4)]
    workers = [asyncio.ensure_future(work(consumer)) for consumer in consumers]
    await soon(all_came.wait())
    for consumer in consumers:
        await consumer.stop()
    await asyncio.gather(*workers)
    assert sorted(got) == sorted(bodies)


async def test_what_comes_due_waits_for_room_in_the_window(rig: Rig) -> None:
    """Of ten that are due at once a consumer with room for four has four; the rest is ready, for whoever takes it."""
    session, other = await rig.connect(Q), await rig.connect(Q)
    consumer = await session.consume("q", prefetch=4)
    await publish(session, *[b"%d" % n for n in range(10)], ready_at_ms=now_ms() + 200)
    held = await take(consumer, 4)
    fifth = asyncio.ensure_future(anext(consumer))
    rest = await take(await other.consume("q", prefetch=10), 6)
    assert not fifth.done()
    assert len({delivery.body for delivery in (*held, *rest)}) == 10
    fifth.cancel()


async def test_a_short_delay_is_not_behind_thousands_of_long_ones(rig: Rig) -> None:
    """Whether the long ones are all of one time or each of its own, of whatever priority."""
    session = await rig.connect(Q)
    start = now_ms()
    await publish(session, *[b"hour"] * 1_500, ready_at_ms=start + HOUR_MS, priority=9)
    for n in range(15):
        await publish(session, *[b"hours"] * 100, ready_at_ms=start + HOUR_MS + n * 1_234_567, priority=n % 10)
    consumer = await session.consume("q", prefetch=5)
    due = now_ms() + 300
    await publish(session, b"soon", ready_at_ms=due, priority=0)
    await take_on_time(consumer, {b"soon": due})


async def test_years_are_accepted_and_more_than_ten_refused(rig: Rig) -> None:
    """`ConfigError`, and nothing is in any queue; a day is left for rounding and clocks."""
    session = await rig.connect(Q)
    await publish(session, b"years", ready_at_ms=now_ms() + MAX_DELAY_MS - 1)
    with pytest.raises(ConfigError, match="ten years"):
        await publish(session, b"more", ready_at_ms=now_ms() + MAX_DELAY_MS + HOUR_MS)
    assert await waiting(rig, "q") == []


@pytest.mark.parametrize("overdue", [False, True])
async def test_a_delay_outlives_its_publisher(rig: Rig, overdue: bool) -> None:
    """It is due for whoever consumes then: for a consumer that comes before that, and for one that comes after."""
    session = await rig.connect(Q)
    due = now_ms() + 200
    await publish(session, b"later", ready_at_ms=due)
    await session.close()
    while overdue and now_ms() <= due + 100:
        await asyncio.sleep(0.01)
    consumer = await (await rig.connect()).consume("q", prefetch=1)
    await take_on_time(consumer, {b"later": due})


async def test_what_was_delayed_is_ordered_by_priority_once_due(rig: Rig) -> None:
    """Of two that are due together the higher priority comes first."""
    session = await rig.connect(rig.priorities(Q))
    due = now_ms() + 200
    await publish(session, b"low", priority=1, ready_at_ms=due)
    await publish(session, b"high", priority=8, ready_at_ms=due)
    while (await soon(session.inspector.depth("q"))).ready < 2:
        await asyncio.sleep(0.01)  # a consumer that is there before would get whichever comes first
    consumer = await session.consume("q", prefetch=1)
    assert [d.body for d in await take_on_time(consumer, {b"low": due, b"high": due})] == [b"high", b"low"]


async def test_the_delay_exchange_delays(rig: Rig) -> None:
    """A retry's way: the exchange of delays, the queue's name, a time."""
    session = await rig.connect(Queue("q"))
    due = now_ms() + 150
    await soon(session.publish(message(b"retry", "q", exchange=DELAY_EXCHANGE, ready_at_ms=due)))
    [delivery] = await take_on_time(await session.consume("q", prefetch=1), {b"retry": due})
    assert delivery.redelivered is False


async def test_a_rejected_message_is_not_delayed_again(rig: Rig) -> None:
    """Its time is over: handed back, it is ready at once."""
    session = await rig.connect(Q)
    due = now_ms() + 150
    await publish(session, b"once", ready_at_ms=due)
    consumer = await session.consume("q", prefetch=1)
    [delivery] = await take(consumer, 1)
    delivery.reject()
    await publish(session, b"after", priority=0)
    assert [d.body for d in await take(consumer, 1)] == [b"once"]


async def test_a_busy_queue_lets_nothing_out_early(rig: Rig) -> None:
    """Publishing, consuming and stopping around it all the time does not make a delay any shorter."""
    session = await rig.connect(Q)
    due = now_ms() + 250
    await publish(session, b"delayed", priority=9, ready_at_ms=due)
    body = b""
    while body != b"delayed":
        await publish(session, b"tick")
        consumer = await session.consume("q", prefetch=1)
        [delivery] = await take(consumer, 1)
        assert now_ms() >= due or delivery.body == b"tick"
        body = delivery.body
        delivery.ack()
        await consumer.stop()
