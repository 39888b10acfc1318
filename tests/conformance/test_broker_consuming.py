"""What every broker promises a consumer: order, prefetch, ack, reject, stop."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from brokers_under_test import Rig, publish, soon, take, take_bodies, waiting

from dispatcher.brokers.base import Consumer, Session
from dispatcher.errors import DeliveryLost, TopologyMismatch
from dispatcher.model.topology import Queue

Q = Queue("q", binding_keys=("q",))


async def test_first_in_first_out(rig: Rig) -> None:
    """Messages of one priority come in the order of their publishing, over several sessions of publishers."""
    session = await rig.connect(Q)
    bodies = [b"%d" % n for n in range(100)]
    await publish(session, *bodies[:50])
    await publish(await rig.connect(), *bodies[50:])
    assert await take_bodies(await session.consume("q", prefetch=7), 100) == bodies


async def test_higher_priorities_come_first(rig: Rig) -> None:
    """9 before 0; None counts as 4; equal ones first in, first out."""
    session = await rig.connect(rig.priorities(Q))
    for body, priority in ((b"none", None), (b"0", 0), (b"9", 9), (b"4", 4), (b"3", 3), (b"5", 5), (b"9 again", 9)):
        await publish(session, body, priority=priority)
    got = await take_bodies(await session.consume("q", prefetch=1), 7)
    assert got == [b"9", b"9 again", b"5", b"none", b"4", b"3", b"0"]


async def test_a_waiting_consumer_is_woken(rig: Rig) -> None:
    """By a publish of its own session and by one of another."""
    session, other = await rig.connect(Q), await rig.connect(Q)
    consumer = await session.consume("q", prefetch=1)
    for publisher in (session, other, session):
        waiter = asyncio.ensure_future(take_bodies(consumer, 1))
        await asyncio.sleep(0)
        await publish(publisher, b"wake")
        assert await waiter == [b"wake"]


async def test_prefetch_bounds_what_is_unsettled(rig: Rig) -> None:
    """With three unsettled of ten, the other seven are free for another consumer."""
    session, other = await rig.connect(Q), await rig.connect(Q)
    await publish(session, *[b"%d" % n for n in range(10)])
    held = await take(await session.consume("q", prefetch=3), 3)
    rest = await take(await other.consume("q", prefetch=10), 7)
    assert {d.body for d in held + rest} == {b"%d" % n for n in range(10)}


async def test_prefetch_is_never_exceeded_while_settling(rig: Rig) -> None:
    """Acks and rejects in random order never let more than `prefetch` deliveries be unsettled at once."""
    session = await rig.connect(Q)
    rng = random.Random(4)
    await publish(session, *[b"%d" % n for n in range(200)])
    consumer, done = await session.consume("q", prefetch=5), 0
    held = await take(consumer, 5)
    while done < 200:
        # With five in hand the broker may bring nothing: what were brought would be in `depth` beyond them.
        unacked = (await session.inspector.depth("q")).unacked if done % 50 == 0 else None
        assert unacked is None or unacked <= 5
        delivery = held.pop(rng.randrange(len(held)))
        if rng.random() < 0.3:
            delivery.reject()
        else:
            delivery.ack()
            done += 1
        if done + len(held) < 200:
            held += await take(consumer, 1)
    await session.close()
    assert await waiting(rig, "q") == []


async def test_an_ack_makes_room_for_the_next(rig: Rig) -> None:
    """With prefetch 1 the second comes after the first is settled."""
    session = await rig.connect(Q)
    await publish(session, b"1", b"2", b"3")
    assert await take_bodies(await session.consume("q", prefetch=1), 3) == [b"1", b"2", b"3"]


async def test_an_acked_message_is_gone(rig: Rig) -> None:
    """For later sessions too; its neighbour, not acked, is not."""
    session = await rig.connect(Q)
    await publish(session, b"acked", b"kept")
    first, _ = await take(await session.consume("q", prefetch=2), 2)
    first.ack()
    await session.close()
    assert await waiting(rig, "q") == [b"kept"]


async def test_a_rejected_message_comes_again_in_its_old_place(rig: Rig) -> None:
    """Handed back, marked as redelivered, before what was published after it, and no death is counted."""
    session = await rig.connect(msgspec.structs.replace(Q, delivery_limit=30))
    await publish(session, b"1", b"2")
    consumer = await session.consume("q", prefetch=1)
    for n in range(30):
        [delivery] = await take(consumer, 1)
        assert (delivery.body, delivery.redelivered) == (b"1", n > 0)
        assert delivery.delivery_count == (n if rig.hand_backs_count else 0)
        delivery.reject()
    assert await take_bodies(consumer, 2) == [b"1", b"2"]


async def test_a_rejected_message_may_go_to_another_consumer(rig: Rig) -> None:
    """Handing back is to anyone."""
    session, other = await rig.connect(Q), await rig.connect(Q)
    await publish(session, b"for anyone")
    consumer = await session.consume("q", prefetch=1)
    [delivery] = await take(consumer, 1)
    elsewhere = await other.consume("q", prefetch=1)
    await consumer.stop()
    delivery.reject()
    [again] = await take(elsewhere, 1)
    assert (again.body, again.redelivered) == (b"for anyone", True)


async def test_settling_twice_raises(rig: Rig) -> None:
    """An ack or reject after either of them raises `DeliveryLost` and changes nothing."""
    session = await rig.connect(Q)
    await publish(session, b"acked", b"rejected")
    consumer = await session.consume("q", prefetch=2)
    acked, rejected = await take(consumer, 2)
    acked.ack()
    rejected.reject()
    for delivery in (acked, rejected):
        with pytest.raises(DeliveryLost):
            delivery.ack()
        with pytest.raises(DeliveryLost):
            delivery.reject()
    await session.close()
    assert await waiting(rig, "q") == [b"rejected"]


async def test_stop_hands_back_what_was_not_iterated_over(rig: Rig) -> None:
    """In order; what was taken out stays held and settleable."""
    session, other = await rig.connect(Q), await rig.connect(Q)
    await publish(session, *[b"%d" % n for n in range(6)])
    consumer = await session.consume("q", prefetch=6)
    acked, rejected = await take(consumer, 2)
    await soon(consumer.stop())
    elsewhere = await other.consume("q", prefetch=1)
    assert await take_bodies(elsewhere, 4) == [b"2", b"3", b"4", b"5"]
    acked.ack()
    rejected.reject()
    assert await take_bodies(elsewhere, 1) == [b"1"]
    await elsewhere.stop()
    assert await waiting(rig, "q") == []


async def test_iteration_ends_after_stop(rig: Rig) -> None:
    """For one who waits in it and for one who comes later; stopping twice is fine."""
    session = await rig.connect(Q)
    consumer = await session.consume("q", prefetch=5)

    async def iterate() -> list[bytes]:
        return [delivery.body async for delivery in consumer]

    waiter = asyncio.ensure_future(iterate())
    await publish(session, b"1")
    await asyncio.sleep(0)
    await soon(consumer.stop())
    assert await soon(waiter) in ([b"1"], [])
    await soon(consumer.stop())
    assert await soon(iterate()) == []


async def test_a_cancelled_wait_loses_nothing(rig: Rig) -> None:
    """Cancelling the iteration step leaves the consumer usable, and the message to the next step."""
    session = await rig.connect(Q)
    consumer = await session.consume("q", prefetch=2)
    for n in range(20):
        waiter = asyncio.ensure_future(anext(consumer))
        await asyncio.sleep(0)
        published = asyncio.ensure_future(publish(session, b"%d" % n))
        waiter.cancel()
        await asyncio.wait({waiter})
        await published
        if waiter.cancelled():
            assert await take_bodies(consumer, 1) == [b"%d" % n]
        else:
            waiter.result().ack()


async def test_two_consumers_share_a_queue(rig: Rig) -> None:
    """Each gets up to its prefetch, nobody gets what another holds."""
    session, other = await rig.connect(Q), await rig.connect(Q)
    consumers = [await session.consume("q", prefetch=10), await other.consume("q", prefetch=10)]
    await publish(session, *[b"%d" % n for n in range(20)])
    shares = await asyncio.gather(*[take(consumer, 10) for consumer in consumers])
    assert {d.body for share in shares for d in share} == {b"%d" % n for n in range(20)}


async def test_two_consumers_of_one_session(rig: Rig) -> None:
    """They have windows of their own, on one queue or on two."""
    session = await rig.connect(Q, Queue("r", binding_keys=("r",)))
    await publish(session, b"q1", b"q2")
    await publish(session, b"r1", key="r")
    first, second = await session.consume("q", prefetch=1), await session.consume("q", prefetch=1)
    third = await session.consume("r", prefetch=1)
    assert {d.body for c in (first, second) for d in await take(c, 1)} == {b"q1", b"q2"}
    assert [d.queue for d in await take(third, 1)] == ["r"]


async def test_a_queue_that_does_not_exist_cannot_be_consumed(rig: Rig) -> None:
    """It is a `TopologyMismatch` that names it, and the session lives on."""
    session = await rig.connect(Q)
    with pytest.raises(TopologyMismatch, match="nowhere"):
        await soon(session.consume("nowhere", prefetch=1))
    await publish(session, b"fine")
    assert await waiting(rig, "q") == [b"fine"]


async def test_a_burst_is_delivered_exactly_once_to_three_sessions(rig: Rig) -> None:
    """5,000 messages, published while three sessions consume and ack: none missing, none twice."""
    publisher = await rig.connect(Q)
    total, got, all_came = 5_000, [], asyncio.Event()

    async def work(consumer: Consumer) -> None:
        async for delivery in consumer:
            got.append(delivery.body)
            delivery.ack()
            if len(got) == total:
                all_came.set()

    sessions: list[Session] = [await rig.connect() for _ in range(3)]
    consumers = [await session.consume("q", prefetch=50) for session in sessions]
    workers = [asyncio.ensure_future(work(consumer)) for consumer in consumers]
    for start in range(0, total, 500):
        await publish(publisher, *[b"%d" % n for n in range(start, start + 500)])
    await soon(all_came.wait())
    for consumer in consumers:
        await soon(consumer.stop())
    await soon(asyncio.gather(*workers))
    for session in sessions:
        await soon(session.close())
    assert sorted(got) == sorted(b"%d" % n for n in range(total))
    assert await waiting(rig, "q") == []


async def test_single_messages_go_to_consumers_in_turn(rig: Rig) -> None:
    """Two consumers of one session that wait both get some: what the one cannot run must not come to it for ever."""
    session = await rig.connect(Q)
    consumers = [await session.consume("q", prefetch=5) for _ in range(2)]
    got: dict[int, int] = {0: 0, 1: 0}
    waiters = {asyncio.ensure_future(anext(consumer)): number for number, consumer in enumerate(consumers)}
    for _ in range(10):
        await publish(session, b"single")
        done, _ = await soon(asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED))
        [taker] = done
        number = waiters.pop(taker)
        taker.result().ack()
        got[number] += 1
        waiters[asyncio.ensure_future(anext(consumers[number]))] = number
    for consumer in consumers:
        await soon(consumer.stop())
    await asyncio.wait(waiters)
    for waiter in waiters:
        assert isinstance(waiter.exception(), StopAsyncIteration)
    assert min(got.values()) > 0, got
