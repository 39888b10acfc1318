"""What every broker makes of the end of a session: a close, and a loss."""

from __future__ import annotations

import asyncio

import pytest
from brokers_under_test import EXCHANGE, Rig, publish, soon, take, take_bodies, waiting

from dispatcher.brokers.base import Connected, Disconnected
from dispatcher.errors import ConnectionLost, DeliveryLost
from dispatcher.model import headers as names
from dispatcher.model.topology import Queue, Topology

Q = Queue("q", binding_keys=("q",))


async def test_closed_is_pending_while_the_session_lives_and_none_after_close(rig: Rig) -> None:
    """Closing is no error; twice is fine, and at the same time too."""
    session = await rig.connect(Q)
    assert not session.closed.done()
    await soon(asyncio.gather(session.close(), session.close()))
    assert await soon(asyncio.shield(session.closed)) is None
    await soon(session.close())
    assert [type(event) for event in rig.events] == [Connected]


async def test_closing_hands_back_in_order_and_counts_no_death(rig: Rig) -> None:
    """What was delivered and what was only on its way: all is there for the next, redelivered where it was seen."""
    session = await rig.connect(Q)
    await publish(session, b"1", b"2", b"3", b"4")
    await take(await session.consume("q", prefetch=3), 2)
    await soon(session.close())
    again = await take(await (await rig.connect()).consume("q", prefetch=4), 4)
    assert [d.body for d in again] == [b"1", b"2", b"3", b"4"]
    assert [d.redelivered for d in again[:2]] == [True, True]
    assert again[3].redelivered is False
    assert [d.delivery_count for d in again] == ([1, 1, 1, 0] if rig.hand_backs_count else [0, 0, 0, 0])


async def test_closing_flushes_settlements(rig: Rig) -> None:
    """An ack and a reject right before the close have their effect."""
    session = await rig.connect(Q)
    await publish(session, *[b"%d" % n for n in range(100)])
    for delivery in await take(await session.consume("q", prefetch=100), 100):
        if delivery.body == b"50":
            delivery.reject()
        else:
            delivery.ack()
    await soon(session.close())
    assert await waiting(rig, "q") == [b"50"]


async def test_iteration_ends_when_the_session_does(rig: Rig) -> None:
    """After a close and after a loss alike, without an exception."""
    for end in ("close", "lose"):
        session = await rig.connect(Q)
        consumer = await session.consume("q", prefetch=1)

        async def iterate(consumer=consumer) -> list[bytes]:
            return [delivery.body async for delivery in consumer]

        waiter = asyncio.ensure_future(iterate())
        await asyncio.sleep(0)
        await soon(session.close() if end == "close" else rig.lose(session))
        assert await soon(waiter) == []
        assert await soon(iterate()) == []
        await soon(consumer.stop())


@pytest.mark.parametrize("end", ["close", "lose"])
async def test_deliveries_of_an_ended_session_cannot_be_settled(rig: Rig, end: str) -> None:
    """They raise `DeliveryLost` and change nothing: the broker delivers them again, once."""
    session = await rig.connect(Q)
    await publish(session, b"1", b"2")
    deliveries = await take(await session.consume("q", prefetch=2), 2)
    await soon(session.close() if end == "close" else rig.lose(session))
    for delivery in deliveries:
        with pytest.raises(DeliveryLost):
            delivery.ack()
        with pytest.raises(DeliveryLost):
            delivery.reject()
    assert await waiting(rig, "q") == [b"1", b"2"]


async def test_a_stale_ack_does_not_reach_the_new_holder(rig: Rig) -> None:
    """The message that a lost session held is held by another now: only that one can settle it."""
    session, other = await rig.connect(Q), await rig.connect()
    await publish(other, b"1")
    [stale] = await take(await session.consume("q", prefetch=1), 1)
    await rig.lose(session)
    [fresh] = await take(await other.consume("q", prefetch=1), 1)
    with pytest.raises(DeliveryLost):
        stale.ack()
    fresh.reject()
    await other.close()
    assert await waiting(rig, "q") == [b"1"]


async def test_a_loss_redelivers_and_counts_a_death(rig: Rig) -> None:
    """To a consumer that is waiting already; the place is kept, the count is that of the holders lost."""
    other = await rig.connect(Q)
    await publish(other, b"1", b"2")
    for deaths in range(3):
        session = await rig.connect()
        [delivery] = await take(await session.consume("q", prefetch=1), 1)
        assert (delivery.body, delivery.delivery_count, delivery.redelivered) == (b"1", deaths, deaths > 0)
        await rig.lose(session)
    elsewhere = await other.consume("q", prefetch=1)
    [delivery] = await take(elsewhere, 1)
    assert (delivery.body, delivery.delivery_count, delivery.redelivered) == (b"1", 3, True)
    delivery.ack()
    assert await take_bodies(elsewhere, 1) == [b"2"]


async def test_a_loss_wakes_a_waiting_consumer(rig: Rig) -> None:
    """Without anyone publishing anything."""
    session, other = await rig.connect(Q), await rig.connect()
    await publish(other, b"1")
    await take(await session.consume("q", prefetch=1), 1)
    waiter = asyncio.ensure_future(take_bodies(await other.consume("q", prefetch=1), 1))
    await asyncio.sleep(0)
    await rig.lose(session)
    assert await waiter == [b"1"]


async def test_what_was_acked_before_the_loss_may_come_again_but_nothing_vanishes(rig: Rig) -> None:
    """The unacked are all there; an ack that was on its way is allowed to be lost with the session."""
    session = await rig.connect(Q)
    await publish(session, *[b"%d" % n for n in range(10)])
    deliveries = await take(await session.consume("q", prefetch=10), 10)
    for delivery in deliveries[:5]:
        delivery.ack()
    await rig.lose(session)
    left = await waiting(rig, "q")
    assert left[-5:] == [b"5", b"6", b"7", b"8", b"9"]
    assert len(left) == len(set(left))


async def test_a_loss_is_connection_lost(rig: Rig) -> None:
    """`closed` says so, an event says so, and every call after it does."""
    session = await rig.connect(Q)
    rig.events.clear()
    await rig.lose(session)
    with pytest.raises(ConnectionLost):
        await soon(asyncio.shield(session.closed))
    assert Disconnected in {type(event) for event in rig.events}
    with pytest.raises(ConnectionLost):
        await soon(session.declare(Topology(EXCHANGE, (Q,))))
    with pytest.raises(ConnectionLost):
        await soon(session.consume("q", prefetch=1))
    await soon(session.close())


async def test_a_closed_session_can_do_nothing(rig: Rig) -> None:
    """Declaring and consuming raise `ConnectionLost`."""
    session = await rig.connect(Q)
    await session.close()
    with pytest.raises(ConnectionLost):
        await soon(session.declare(Topology(EXCHANGE, (Q,))))
    with pytest.raises(ConnectionLost):
        await soon(session.consume("q", prefetch=1))


async def test_a_lost_session_harms_no_other(rig: Rig) -> None:
    """What another session holds stays held by it."""
    session, other = await rig.connect(Q), await rig.connect()
    await publish(other, b"mine", b"theirs")
    [mine] = await take(await session.consume("q", prefetch=1), 1)
    [theirs] = await take(await other.consume("q", prefetch=1), 1)
    await rig.lose(session)
    assert not other.closed.done()
    theirs.ack()
    await other.close()
    assert await waiting(rig, "q") == [mine.body]


async def test_beyond_the_delivery_limit_a_message_is_parked(rig: Rig) -> None:
    """With a limit of 2, the third death makes it a dead letter with its reason; the one behind it is not touched."""
    other = await rig.connect(Queue("q", binding_keys=("q",), delivery_limit=2))
    await publish(other, b"deadly", headers={"mine": [1]}, uuid="poison", priority=5)
    await publish(other, b"harmless")
    for _ in range(3):
        session = await rig.connect()
        [delivery] = await take(await session.consume("q", prefetch=1), 1)
        assert delivery.body == b"deadly"
        await rig.lose(session)
    [dead] = await take(await (await rig.connect_operator()).consume("q.dead", prefetch=1), 1)
    assert (dead.body, dead.uuid, dead.priority, dead.headers["mine"]) == (b"deadly", "poison", 5, [1])
    assert dead.headers[names.REASON] == "delivery_limit"
    assert dead.headers[names.QUEUE] == "q"
    assert (dead.headers[names.EXCHANGE], dead.headers[names.ROUTING_KEY]) == (EXCHANGE, "q")
    assert isinstance(dead.headers[names.DEAD_AT], int)
    assert await waiting(rig, "q") == [b"harmless"]


async def test_dead_letters_have_no_limit(rig: Rig) -> None:
    """Whoever dies while looking at them parks nothing further and loses nothing."""
    session = await rig.connect(Queue("q", binding_keys=("q",), delivery_limit=1))
    await publish(session, b"deadly")
    for queue, deaths in (("q", 2), ("q.dead", 5)):
        for _ in range(deaths):
            session = await rig.connect_operator()
            [delivery] = await take(await session.consume(queue, prefetch=1), 1)
            assert delivery.body == b"deadly"
            await rig.lose(session)
    session = await rig.connect_operator()
    assert await take_bodies(await session.consume("q.dead", prefetch=1), 1) == [b"deadly"]
