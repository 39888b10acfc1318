"""What every broker makes of a topology in each of its three modes."""

from __future__ import annotations

import pytest
from brokers_under_test import EXCHANGE, Rig, message, publish, soon, waiting

from dispatcher.brokers.base import TopologyDiffers
from dispatcher.errors import TopologyMismatch, TopologyMissing, Unroutable
from dispatcher.model.topology import DEAD_EXCHANGE, Queue, Topology

Q = Queue("q", binding_keys=("q",))


async def test_creating_twice_changes_nothing(rig: Rig) -> None:
    """Messages stay, and nothing is reported to differ."""
    session = await rig.connect(Q)
    await publish(session, b"kept")
    await soon(session.declare(Topology(EXCHANGE, (Q,))))
    await rig.connect(Q)
    assert await waiting(rig, "q") == [b"kept"]
    assert not [event for event in rig.events if isinstance(event, TopologyDiffers)]


async def test_a_queue_that_differs_is_used_as_it_is(rig: Rig) -> None:
    """The difference is reported once, however often it is declared, and the old limit still holds."""
    await rig.connect(Queue("q", binding_keys=("q",), max_length=1000))
    rig.events.clear()
    session = await rig.connect(Queue("q", binding_keys=("q",), max_length=1))
    await soon(session.declare(Topology(EXCHANGE, (Queue("q", binding_keys=("q",), max_length=1),))))
    differs = [event for event in rig.events if isinstance(event, TopologyDiffers)]
    assert len(differs) == 1
    assert "q" in differs[0].what
    assert "1000" in differs[0].found
    await publish(session, b"1", b"2", b"3")
    assert await waiting(rig, "q") == [b"1", b"2", b"3"]


async def test_creating_adds_bindings_to_a_queue_that_exists(rig: Rig) -> None:
    """And takes none away."""
    session = await rig.connect(Q)
    await rig.connect(Queue("q", binding_keys=("other",)))
    await publish(session, b"1", key="q")
    await publish(session, b"2", key="other")
    assert await waiting(rig, "q") == [b"1", b"2"]


async def test_an_exchange_without_queues(rig: Rig) -> None:
    """It exists then: a publish to it is unroutable rather than missing its topology."""
    session = await rig.connect()
    await soon(session.declare(Topology("bare")))
    with pytest.raises(Unroutable):
        await soon(session.publish(message(b"", exchange="bare")))


async def test_exchanges_are_apart(rig: Rig) -> None:
    """One key on two exchanges leads to two queues."""
    session = await rig.connect(Queue("a", binding_keys=("k", "a")))
    await soon(session.declare(Topology("second", (Queue("b", binding_keys=("k",)),))))
    await soon(session.publish(message(b"second", "k", exchange="second")))
    assert await waiting(rig, "a") == []
    assert (await session.inspector.depth("b")).ready == 1


async def test_verify_passes_what_is_as_asked(rig: Rig) -> None:
    """And creates nothing, reports nothing."""
    await rig.connect(Q)
    await rig.connect(Q, declare="verify")
    assert not [event for event in rig.events if isinstance(event, TopologyDiffers)]


async def test_verify_refuses_what_is_absent_and_creates_nothing(rig: Rig) -> None:
    """The error names every queue that is absent."""
    session = await rig.connect(Q)
    absent = (Q, Queue("absent-1", binding_keys=("x",)), Queue("absent-2"))
    with pytest.raises(TopologyMismatch, match=r"absent-1.*absent-2"):
        await soon(session.declare(Topology(EXCHANGE, absent, "verify")))
    with pytest.raises(TopologyMismatch):
        await soon(session.declare(Topology(EXCHANGE, (Queue("absent-1"),), "verify")))
    with pytest.raises(Unroutable):
        await soon(session.publish(message(b"", "x")))
    with pytest.raises(Unroutable):
        await soon(session.publish(message(b"", "absent-1", exchange=DEAD_EXCHANGE)))


async def test_verify_refuses_an_absent_exchange(rig: Rig) -> None:
    """By its name."""
    await rig.connect(Q)
    session = await rig.connect()
    with pytest.raises(TopologyMismatch, match="no-such-exchange"):
        await soon(session.declare(Topology("no-such-exchange", (), "verify")))


async def test_verify_refuses_a_difference(rig: Rig) -> None:
    """The error says what is there and what was asked for."""
    await rig.connect(Queue("q", binding_keys=("q",), max_length=1000))
    session = await rig.connect()
    with pytest.raises(TopologyMismatch, match=r"1000.*77|77.*1000"):
        await soon(session.declare(Topology(EXCHANGE, (Queue("q", binding_keys=("q",), max_length=77),), "verify")))


async def test_never_declares_nothing(rig: Rig) -> None:
    """Neither queue nor exchange comes to be, and what is there is used."""
    session = await rig.connect(Q, declare="never")
    with pytest.raises(TopologyMissing):
        await soon(session.publish(message(b"")))
    with pytest.raises(TopologyMismatch):
        await soon(session.consume("q", prefetch=1))
    await rig.connect(Q)
    await publish(session, b"used")
    assert await waiting(rig, "q") == [b"used"]


async def test_a_session_sees_what_another_declared_later(rig: Rig) -> None:
    """No session keeps stale routes: a new queue and a new binding are used by sessions that were there before."""
    early = await rig.connect(Q)
    with pytest.raises(Unroutable):
        await soon(early.publish(message(b"", "new")))
    await rig.connect(Queue("new", binding_keys=("new", "q")))
    await publish(early, b"1", key="new")
    await publish(early, b"2", key="q")
    assert (await early.inspector.depth("new")).ready == 2
    assert (await early.inspector.depth("q")).ready == 1
