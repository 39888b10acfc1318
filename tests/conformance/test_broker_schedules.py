"""Who leads a schedule: one session at a time, on every broker, and what it leaves to the next."""

from __future__ import annotations

import asyncio
import time
from itertools import count

import pytest
from brokers_under_test import EXCHANGE, Rig, message, soon, take_bodies, waiting

from dispatcher.brokers.base import Lead, Session
from dispatcher.errors import ConnectionLost, PublishError
from dispatcher.model.topology import Queue, Topology

Q = Queue("q", binding_keys=("q",))
NAME = "nightly"
SHORT_SECONDS = 1.5
"""For what must not come: longer than a new leader on RabbitMQ looks around."""


async def connect(rig: Rig, *names: str) -> Session:
    return await rig.connect(Q, schedules=names or (NAME,))


async def lead(session: Session, name: str = NAME) -> Lead:
    return await soon(session.schedules.lead(EXCHANGE, name))


async def test_a_new_schedule_has_never_fired(rig: Rig) -> None:
    """Its first leader learns that, and since when it exists: from there on it owes firings."""
    before = int(time.time() * 1000)
    first = await lead(await connect(rig))
    assert first.fired_ms is None
    assert before - 1 <= first.since_ms <= int(time.time() * 1000)
    assert not first.is_doubtful


async def test_a_firing_is_published_and_kept(rig: Rig) -> None:
    """The message is in its queue; the firing is what the leader and the next one see."""
    session = await connect(rig)
    first = await lead(session)
    for n in range(1, 6):
        await soon(first.fire(message(b"%d" % n), n * 1000))
        assert first.fired_ms == n * 1000
    since = first.since_ms
    await soon(first.resign())
    second = await lead(session)
    assert (second.fired_ms, second.since_ms, second.is_doubtful) == (5000, since, False)
    assert await waiting(rig, "q") == [b"%d" % n for n in range(1, 6)]


async def test_one_leads_and_the_others_wait(rig: Rig) -> None:
    """Of three sessions, each gets its turn when the one before resigns, and finds its firings."""
    sessions = [await connect(rig) for _ in range(3)]
    leads = [asyncio.ensure_future(session.schedules.lead(EXCHANGE, NAME)) for session in sessions]
    for fired in (1000, 2000, 3000):
        done, _ = await asyncio.wait(leads, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        [leader] = done
        leads.remove(leader)
        assert leader.result().fired_ms == (fired - 1000 or None)
        await soon(leader.result().fire(message(b"%d" % fired), fired))
        await soon(leader.result().resign())


async def test_two_in_one_session_take_turns_too(rig: Rig) -> None:
    """One process may run two workers on one session."""
    session = await connect(rig)
    first = await lead(session)
    second = asyncio.ensure_future(session.schedules.lead(EXCHANGE, NAME))
    await asyncio.wait([second], timeout=SHORT_SECONDS)
    assert not second.done()
    await soon(first.fire(message(b"1"), 1000))
    await soon(first.resign())
    assert (await soon(second)).fired_ms == 1000


async def test_a_lost_leader_is_followed_by_the_next(rig: Rig) -> None:
    """Nothing that it fired is forgotten. The lead that is lost says so, and fires nothing any more."""
    first_session, second_session = await connect(rig), await connect(rig)
    first = await lead(first_session)
    second = asyncio.ensure_future(second_session.schedules.lead(EXCHANGE, NAME))
    await soon(first.fire(message(b"1"), 1000))
    await rig.lose(first_session)
    await soon(asyncio.wait([first.lost]))
    with pytest.raises(ConnectionLost):
        await soon(first.fire(message(b"stale"), 2000))
    await soon(first.resign())
    next_lead = await soon(second)
    assert next_lead.fired_ms == 1000
    await soon(next_lead.fire(message(b"2"), 2000))
    assert await waiting(rig, "q") == [b"1", b"2"]


async def test_a_schedule_that_never_fired_is_owed_since_its_beginning(rig: Rig) -> None:
    """A leader that dies before its first firing leaves when the schedule was first seen."""
    first_session, second_session = await connect(rig), await connect(rig)
    first = await lead(first_session)
    await rig.lose(first_session)
    second = await lead(second_session)
    assert (second.fired_ms, second.since_ms) == (None, first.since_ms)


async def test_a_session_that_is_closed_leads_no_more(rig: Rig) -> None:
    """It lets go by itself, and whoever waited in it is told."""
    first_session, second_session = await connect(rig), await connect(rig)
    first = await lead(first_session)
    waits = asyncio.ensure_future(second_session.schedules.lead(EXCHANGE, NAME))
    await asyncio.sleep(0)
    await soon(first_session.close())
    await soon(asyncio.wait([first.lost]))
    await soon(waits)
    third = asyncio.ensure_future(second_session.schedules.lead(EXCHANGE, NAME))
    await asyncio.wait([third], timeout=0.1)
    await soon(second_session.close())
    with pytest.raises(ConnectionLost):
        await soon(third)


async def test_who_gives_up_waiting_never_leads(rig: Rig) -> None:
    """Cancelled at any moment, it leaves the schedule to others."""
    session, other = await connect(rig), await connect(rig)
    for turns in (0, 1, 2, 5, 20):
        given_up = asyncio.ensure_future(session.schedules.lead(EXCHANGE, NAME))
        for _ in range(turns):
            await asyncio.sleep(0)
        given_up.cancel()
        await soon(asyncio.wait([given_up]))
        if not given_up.cancelled():  # it was faster
            await soon(given_up.result().resign())
    first = await lead(other)
    waits = asyncio.ensure_future(session.schedules.lead(EXCHANGE, NAME))
    await asyncio.wait([waits], timeout=0.1)
    waits.cancel()
    await soon(asyncio.wait([waits]))
    await soon(first.fire(message(b"1"), 1000))
    await soon(first.resign())
    assert (await lead(other)).fired_ms == 1000


async def test_schedules_do_not_meet(rig: Rig) -> None:
    """Each name has its leader and its firings, and so has each exchange."""
    session = await connect(rig, "a", "b")
    await soon(rig_declare(rig, "another", "a"))
    a, b = await lead(session, "a"), await lead(session, "b")
    other = await soon(session.schedules.lead("another", "a"))
    await soon(a.fire(message(b"a"), 1000))
    await soon(b.fire(message(b"b"), 2000))
    assert (a.fired_ms, b.fired_ms, other.fired_ms) == (1000, 2000, None)


async def rig_declare(rig: Rig, exchange: str, name: str) -> None:
    await rig.connect(Queue("elsewhere"), exchange=exchange, schedules=(name,))


async def test_a_firing_that_is_refused_moves_nothing(rig: Rig) -> None:
    """It may be tried again, and counts once it goes."""
    session = await connect(rig)
    first = await lead(session)
    await soon(first.fire(message(b"1"), 1000))
    with pytest.raises(PublishError):
        await soon(first.fire(message(b"lost", key="nowhere"), 2000))
    assert first.fired_ms == 1000
    await soon(first.fire(message(b"2"), 2000))
    assert first.fired_ms == 2000
    assert await waiting(rig, "q") == [b"1", b"2"]


async def test_a_refused_firing_leaves_the_room_of_its_queue(rig: Rig) -> None:
    """What was undone does not count against `max_length`."""
    full = Queue("full", binding_keys=("full",), max_length=2)
    session = await rig.connect(full, schedules=(NAME,))
    first = await lead(session)
    refused = 0
    for n in count(1):
        try:
            await soon(first.fire(message(b"%d" % n, key="full"), n))
        except PublishError:
            refused += 1
            if refused == 3:
                break
    fired = first.fired_ms or 0
    consumer = await session.consume("full", prefetch=1)
    assert await take_bodies(consumer, fired) == [b"%d" % n for n in range(1, fired + 1)]
    await soon(consumer.stop())
    await soon(first.fire(message(b"again", key="full"), 1000))


async def test_the_last_firing_can_be_asked_for(rig: Rig) -> None:
    """By who leads nothing; None where the broker cannot tell, or there was none."""
    session = await connect(rig)
    assert await soon(session.schedules.fired_ms(EXCHANGE, NAME)) is None
    first = await lead(session)
    await soon(first.fire(message(b"1"), 1000))
    assert await soon(session.schedules.fired_ms(EXCHANGE, NAME)) in (1000, None)


async def test_a_declared_schedule_can_be_verified(rig: Rig) -> None:
    """What `create` made is what `verify` asks for."""
    session = await connect(rig)
    await soon(session.declare(Topology(EXCHANGE, (Q,), "verify", (NAME,))))
