"""The embedded broker shared by several processes, some of which are killed, stopped or forked."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import warnings
from contextlib import closing

import pytest
from sqlite_rig import QUEUE, Rig, SpawnChild, kill, line_of, message, publish, soon, take

from dispatcher.brokers.base import SessionsReleased
from dispatcher.brokers.sqlite import engine, members
from dispatcher.errors import ConnectionLost, DeliveryLost
from dispatcher.model import headers as names
from dispatcher.model.topology import Queue


async def test_what_a_killed_process_held_comes_to_another(rig: Rig, spawn: SpawnChild) -> None:
    """After kill -9 of a holder a living consumer must get its messages, with one death counted."""
    session = await rig.connect(QUEUE)
    await publish(session, b"1", b"2", b"3")
    child = spawn("hold", rig.path, 3)
    assert [await line_of(child) for _ in range(4)] == ["consuming", "1", "2", "3"]
    consumer = await soon(session.consume("q", prefetch=5))
    kill(child)
    deliveries = await take(consumer, 3)
    assert [(d.body, d.redelivered, d.delivery_count) for d in deliveries] == [
        (b"1", True, 1),
        (b"2", True, 1),
        (b"3", True, 1),
    ]
    assert rig.events_of(SessionsReleased) == [SessionsReleased(holders=1, messages=3, dead_letters=0)]


async def test_the_next_to_connect_releases_the_dead(rig: Rig, spawn: SpawnChild) -> None:
    """With nobody consuming, what a killed process held must wait for others as soon as one connects."""
    session = await rig.connect(QUEUE)
    await publish(session, b"1")
    child = spawn("hold", rig.path, 1)
    assert [await line_of(child) for _ in range(2)] == ["consuming", "1"]
    kill(child)
    other = await rig.connect()
    assert (await other.inspector.depth("q")).ready == 1
    tokens = {name.split(".")[0] for name in os.listdir(f"{rig.path}-dispatcher")} - {"ballast", "write"}
    assert len(tokens) == 2  # those of the two living sessions


async def test_one_death_too_many_is_a_dead_letter(rig: Rig, spawn: SpawnChild) -> None:
    """A message that more holders died with than its queue allows must be parked with its reason."""
    session = await rig.connect(Queue("q", ("q",), delivery_limit=1))
    await publish(session, b"poison", headers={"mine": 1})
    for _ in range(2):
        child = spawn("hold", rig.path, 1)
        assert [await line_of(child) for _ in range(2)] == ["consuming", "poison"]
        kill(child)
        await (await rig.connect()).close()
    (delivery,) = await take(await soon(session.consume("q.dead", prefetch=1)), 1)
    told = dict(delivery.headers)
    assert told.pop(names.DEAD_AT) > 0
    assert told == {
        "mine": 1,
        names.REASON: "delivery_limit",
        names.REASON_TEXT: "2 holders died with it; the limit is 1",
        names.REDELIVERIES: 2,
        names.EXCHANGE: "ex",
        names.ROUTING_KEY: "q",
        names.QUEUE: "q",
    }
    assert (delivery.body, delivery.uuid, delivery.delivery_count) == (b"poison", "poison", 0)


async def test_a_stopped_process_keeps_its_messages_until_its_lease_ends(
    rig: Rig, spawn: SpawnChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is only stopped holds its lock: nothing is released before the lease is over, then all is."""
    monkeypatch.setattr(engine, "HEARTBEAT_SECONDS", 0.0)  # leases are believed from the first
    session = await rig.connect(QUEUE)
    await publish(session, b"1")
    child = spawn("hold", rig.path, 1)
    assert [await line_of(child) for _ in range(2)] == ["consuming", "1"]
    child.send_signal(signal.SIGSTOP)
    consumer = await soon(session.consume("q", prefetch=1))
    probe = await rig.connect()
    assert (await probe.inspector.depth("q")).unacked == 1
    monkeypatch.setattr(members, "LEASE_MS", -1)
    (delivery,) = await take(consumer, 1)
    assert delivery.delivery_count == 1
    monkeypatch.undo()
    child.send_signal(signal.SIGCONT)
    # It finds its row gone: its iteration ends, and with it the program.
    assert await line_of(child) == ""
    delivery.ack()
    await session.close()
    with closing(sqlite3.connect(rig.path)) as reader:
        assert reader.execute("SELECT count(*) FROM messages").fetchone() == (0,)


async def test_four_processes_claim_twenty_thousand_messages_once_each(rig: Rig, spawn: SpawnChild) -> None:
    """However many consumers race for a queue, each message must go to one of them."""
    total = 20_000
    session = await rig.connect(QUEUE)
    children = [spawn("drain", rig.path, 64) for _ in range(4)]
    for child in children:
        assert await line_of(child) == "consuming"
    seen: list[list[str]] = [[] for _ in children]
    left = total
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    def read(number: int) -> None:
        for line in children[number].stdout or ():
            if line.strip() == "closed":
                return
            seen[number].append(line.strip())
            loop.call_soon_threadsafe(count)

    readers = [asyncio.create_task(asyncio.to_thread(read, number)) for number in range(len(children))]
    for start in range(0, total, 1000):
        await publish(session, *[b"%d" % number for number in range(start, start + 1000)])
    await asyncio.wait_for(done.wait(), 50)
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
        child.stdin = None
    await soon(asyncio.gather(*readers))
    assert sorted(int(uuid) for part in seen for uuid in part) == list(range(total))
    assert all(seen), "each process must have had a share"
    depth = await session.inspector.depth("q")
    assert (depth.ready, depth.unacked, depth.consumers) == (0, 0, 0)


async def test_a_publish_that_returned_survives_the_publisher(rig: Rig, spawn: SpawnChild) -> None:
    """kill -9 of a publisher must lose nothing that it was told is safe."""
    session = await rig.connect(QUEUE)
    child = spawn("publish", rig.path, 100_000)
    told = [await line_of(child) for _ in range(50)]
    kill(child)
    assert child.stdout is not None
    told += [line.strip() for line in child.stdout if line.endswith("\n")]
    kept = [found.message.uuid async for found in session.inspector.browse("q")]
    assert kept[: len(told)] == told
    assert len(kept) <= len(told) + 1  # the one that was committed and could not be told any more


async def test_a_forked_child_cannot_use_the_session_and_does_not_keep_it_alive(rig: Rig) -> None:
    """In a forked child the session is the parent's: every call says so, and the child's end changes nothing."""
    session = await rig.connect(QUEUE)
    consumer = await soon(session.consume("q", prefetch=2))
    await publish(session, b"1", b"2")
    deliveries = await take(consumer, 2)
    locks = [f"{rig.path}-dispatcher/{name}" for name in os.listdir(f"{rig.path}-dispatcher") if name.endswith(".lock")]
    inodes = {os.stat(path).st_ino for path in locks}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 warns of any fork beside a thread: just what is tested
        child = os.fork()
    if child == 0:
        wrong = 1
        try:
            inherited = {os.fstat(int(fd)).st_ino for fd in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{fd}")}
            refused = session.publish(message()).exception()
            try:
                deliveries[0].ack()
            except DeliveryLost:
                wrong = 0 if isinstance(refused, ConnectionLost) and not inherited & inodes else 2
        finally:
            os._exit(wrong)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    deliveries[0].ack()
    deliveries[1].reject()
    (again,) = await take(consumer, 1)
    assert again.body == b"2"


async def test_a_lock_file_without_a_session_is_swept(rig: Rig, spawn: SpawnChild) -> None:
    """What a process left that was killed while it joined must be cleaned up by the next."""
    await rig.connect(QUEUE)
    orphan = rig.path.parent / "broker.db-dispatcher" / "0123456789abcdef.lock"
    orphan.touch()
    await rig.connect()
    assert not orphan.exists()
