"""What every broker shows to one who looks around. A figure it cannot tell is None."""

from __future__ import annotations

import time
from math import inf

import pytest
from brokers_under_test import Rig, message, publish, soon, take, take_bodies, waiting

from dispatcher.brokers.base import BrowsedMessage, DelayBand, Session
from dispatcher.errors import TopologyMismatch
from dispatcher.model.topology import DEAD_EXCHANGE, Queue

Q = Queue("q", binding_keys=("q",))
FAR_MS = time.time_ns() // 1_000_000 + 5 * 365 * 86_400_000  # five years


async def browse(session: Session, queue: str) -> list[BrowsedMessage]:
    return [seen async for seen in session.inspector.browse(queue)]


async def test_depth_counts_each_state(rig: Rig) -> None:
    """Ready, unacked, delayed, consumers and dead letters."""
    session = await rig.connect(Q)
    await publish(session, *[b"%d" % n for n in range(5)])
    await publish(session, b"delayed", ready_at_ms=FAR_MS)
    await soon(session.publish(message(b"dead", exchange=DEAD_EXCHANGE)))
    held = await take(await session.consume("q", prefetch=2), 2)
    depth = await soon(session.inspector.depth("q"))
    assert (depth.name, depth.ready) == ("q", 3)
    for figure, expected in ((depth.unacked, 2), (depth.delayed, 1), (depth.consumers, 1), (depth.dead, 1)):
        assert figure in (expected, None)
    assert len(held) == 2


async def test_depth_of_a_queue_that_does_not_exist(rig: Rig) -> None:
    """It is a `TopologyMismatch` that names it."""
    session = await rig.connect(Q)
    with pytest.raises(TopologyMismatch, match="nowhere"):
        await soon(session.inspector.depth("nowhere"))


async def test_queues_lists_all_but_the_dead_letters(rig: Rig) -> None:
    """Those are a figure of their queue; a queue of their own they are not."""
    session = await rig.connect(Q, Queue("empty"))
    await publish(session, b"1")
    depths = {depth.name: depth.ready for depth in await soon(session.inspector.queues())}
    assert depths == {"q": 1, "empty": 0}


async def test_depth_of_dead_letters_by_their_own_name(rig: Rig) -> None:
    """Tools look into them by name."""
    session = await rig.connect(Q)
    await soon(session.publish(message(b"dead", exchange=DEAD_EXCHANGE)))
    assert (await soon(session.inspector.depth("q.dead"))).ready == 1


async def test_browsing_sees_all_and_takes_nothing(rig: Rig) -> None:
    """Oldest first, with headers and body, more than one page of them, and afterwards all are still delivered."""
    session = await rig.connect(Q)
    bodies = [b"%d" % n for n in range(1_234)]
    await publish(session, *bodies, headers={"h": b"\x00"})
    seen = await browse(session, "q")
    assert [one.message.body for one in seen] == bodies
    assert seen[0].message == message(b"0", headers={"h": b"\x00"})
    assert seen[0].delivery_count == 0
    assert len({one.key for one in seen}) == 1_234
    left = await waiting(rig, "q")
    assert left == bodies


async def test_browsing_does_not_see_what_is_held(rig: Rig) -> None:
    """A message in a consumer's hands is not waiting, and cannot be removed."""
    session = await rig.connect(Q)
    await publish(session, b"held", b"waits")
    keys = {one.message.body: one.key for one in await browse(session, "q")}
    [held] = await take(await session.consume("q", prefetch=1), 1)
    assert [one.message.body for one in await browse(session, "q")] == [b"waits"]
    assert await soon(session.inspector.remove("q", keys[b"held"])) is False
    held.ack()


async def test_browsing_an_empty_queue(rig: Rig) -> None:
    """Nothing, and no error; one that does not exist is an error."""
    session = await rig.connect(Q)
    assert await browse(session, "q") == []
    with pytest.raises(TopologyMismatch, match="nowhere"):
        await browse(session, "nowhere")


async def test_browsing_may_remove_what_it_sees(rig: Rig) -> None:
    """Half of them removed in passing: the others are untouched, and a second removal says False."""
    session = await rig.connect(Q)
    await publish(session, *[b"%03d" % n for n in range(300)])
    async for seen in session.inspector.browse("q"):
        if int(seen.message.body) % 2:
            assert await session.inspector.remove("q", seen.key) is True
            assert await session.inspector.remove("q", seen.key) is False
    left, expected = await waiting(rig, "q"), [b"%03d" % n for n in range(0, 300, 2)]
    assert left == expected


async def test_removing_a_delayed_message(rig: Rig) -> None:
    """It is seen while it waits, and gone once removed."""
    session = await rig.connect(Q)
    await publish(session, b"delayed", ready_at_ms=FAR_MS)
    [seen] = await browse(session, "q")
    assert (seen.message.body, seen.message.ready_at_ms) == (b"delayed", FAR_MS)
    assert await soon(session.inspector.remove("q", seen.key)) is True
    assert await browse(session, "q") == []
    assert (await session.inspector.depth("q")).delayed in (0, None)


async def test_purging_deletes_what_waits_and_leaves_what_is_held(rig: Rig) -> None:
    """It says how many; the queue works on, and the held delivery is settled as ever."""
    session = await rig.connect(Q)
    await publish(session, *[b"%d" % n for n in range(10)])
    consumer = await session.consume("q", prefetch=1)
    [held] = await take(consumer, 1)
    assert await soon(session.inspector.purge("q")) == 9
    assert await soon(session.inspector.purge("q")) == 0
    held.reject()
    await publish(session, b"new")
    assert await take_bodies(consumer, 2) == [b"0", b"new"]


async def test_purging_dead_letters_leaves_their_queue(rig: Rig) -> None:
    """Each queue is purged by its own name."""
    session = await rig.connect(Q)
    await publish(session, b"live")
    await soon(session.publish(message(b"dead", exchange=DEAD_EXCHANGE)))
    assert await soon(session.inspector.purge("q.dead")) == 1
    assert await waiting(rig, "q") == [b"live"]


def counted(bands: list[DelayBand], remaining_seconds: float, queue: str) -> int:
    """How many messages the bands show that may be due in that time, for that queue as far as it is told."""
    return sum(
        band.messages
        for band in bands
        if band.queue in (queue, None)
        and band.from_seconds <= remaining_seconds <= (inf if band.to_seconds is None else band.to_seconds)
    )


async def test_delayed_messages_are_counted_by_band(rig: Rig) -> None:
    """Of seconds, hours and years, for two queues; all of them, and none that is ready or held."""
    session = await rig.connect(Q, Queue("r", binding_keys=("r",)))
    assert await soon(session.inspector.delayed()) == []
    now_ms = time.time_ns() // 1_000_000
    waits = {30: 3, 5_000: 1, 3 * 365 * 86_400: 2, 3_652 * 86_400: 1}
    for seconds, count in waits.items():
        await publish(session, *[b"q"] * count, ready_at_ms=now_ms + seconds * 1_000)
    await publish(session, b"r", key="r", ready_at_ms=now_ms + 7_000_000)
    await publish(session, b"ready", b"held")
    await take(await session.consume("q", prefetch=1), 1)
    bands = await soon(session.inspector.delayed())
    assert sum(band.messages for band in bands) == 8
    assert all(band.messages > 0 and band.from_seconds < (band.to_seconds or inf) for band in bands)
    for seconds, count in waits.items():
        assert counted(bands, seconds - 5, "q") >= count
    assert counted(bands, 6_990, "r") >= 1
    assert {band.queue for band in bands} in ({"q", "r"}, {None})


async def test_nothing_is_delayed_where_there_is_no_topology(rig: Rig) -> None:
    """No queue, no ladder, no error."""
    session = await rig.connect()
    assert await soon(session.inspector.delayed()) == []
