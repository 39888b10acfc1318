"""A full disk stops what comes in, never what goes out."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_rig import QUEUE, Rig, message, publish, soon, take

from dispatcher.brokers.base import Blocked, Message, Unblocked
from dispatcher.brokers.sqlite import SqliteSession, engine, faults
from dispatcher.brokers.sqlite.file import Database
from dispatcher.brokers.sqlite.space import BALLAST_BYTES, Space
from dispatcher.errors import BrokerBlocked
from dispatcher.model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE

MIB = 1024 * 1024


class Disk:
    """A disk whose figures a test sets; the ballast on it is a real file."""

    def __init__(self, total: int, free: int) -> None:
        self.total = total
        self.free = free

    def __call__(self, folder: str) -> tuple[int, int]:
        return self.total, self.free


def space_on(disk: Disk, folder: Path) -> Space:
    return Space(str(folder), str(folder / "ballast"), disk)


def test_the_ballast_is_a_small_part_of_a_small_disk(tmp_path: Path) -> None:
    """16 MiB, and never more than an eighth of the disk."""
    for total, size in ((1000 * MIB, BALLAST_BYTES), (8 * MIB, MIB)):
        assert space_on(Disk(total, total), tmp_path).restore()
        assert (tmp_path / "ballast").stat().st_size == size
        (tmp_path / "ballast").unlink()


def test_the_brake_acts_before_the_disk_is_full_and_lets_go_with_room(tmp_path: Path) -> None:
    """Below the reserve publishes stop, with room they go on, and each change is told once."""
    disk = Disk(80 * MIB, 20 * MIB)
    space = space_on(disk, tmp_path)
    space.restore()
    assert space.check(0.0) == []
    disk.free = 9 * MIB
    assert space.check(0.1) == []  # it looks four times a second at most
    assert [type(event) for event in space.check(0.3)] == [Blocked]
    assert space.check(0.6) == []
    assert space.blocked
    disk.free = 11 * MIB
    assert space.check(0.9) == [Unblocked()]
    assert not space.blocked


def test_space_that_the_ballast_left_is_not_free(tmp_path: Path) -> None:
    """Publishes of another session must not eat the room that this one's ballast made for acks."""
    disk = Disk(80 * MIB, 10 * MIB)
    first, second = space_on(disk, tmp_path), space_on(disk, tmp_path)
    first.restore()
    assert second.check(0.0) == []
    assert [type(event) for event in first.ran_full(0.0)] == [Blocked]
    assert not (tmp_path / "ballast").exists()
    assert [type(event) for event in second.check(1.0)] == [Blocked]
    assert first.check(2.0) == []
    disk.free = 21 * MIB
    assert first.check(3.0) == [Unblocked()]
    assert (tmp_path / "ballast").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of 3 MiB; None where this user cannot mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False).returncode
    )
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


async def limit_pages(session: SqliteSession) -> None:
    """Without a disk of our own: SQLite itself finds no space beyond some pages, the same error by another way."""
    database = session._writer.engine._database
    await session.call(lambda work: database.connection.execute("PRAGMA max_page_count = 300").fetchone())


def fill(folder: Path) -> Path:
    """Another program takes all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    return filler


async def publish_until_blocked(session: SqliteSession) -> int:
    accepted = 0
    with pytest.raises(BrokerBlocked, match="disk"):
        while True:
            await soon(session.publish(message(b"%d" % accepted, headers={"filler": "x" * 900})))
            accepted += 1
    return accepted


async def drain(session: SqliteSession, count: int) -> None:
    consumer = await soon(session.consume("q", prefetch=20))
    for number in range(count):
        (delivery,) = await take(consumer, 1)
        assert delivery.body == b"%d" % number
        delivery.ack()
    await soon(consumer.stop())
    assert (await session.inspector.depth("q")).unacked == 0


async def until_accepted(session: SqliteSession, what: Message) -> None:
    while True:
        try:
            return await session.publish(what)
        except BrokerBlocked:
            await asyncio.sleep(engine.TICK_SECONDS)


async def publish_once_there_is_room(session: SqliteSession) -> None:
    await until_accepted(session, message(b"again"))


def refuse_commits(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Let the next `count` commits find no room; returns what grows with each."""
    refusals: list[int] = []
    commit = Database.commit

    def commit_without_room(self: Database, pages: int) -> None:
        if len(refusals) < count:
            refusals.append(pages)
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = faults.FULL
            raise error
        commit(self, pages)

    monkeypatch.setattr(Database, "commit", commit_without_room)
    return refusals


async def test_publishes_that_fill_the_disk_are_refused_and_acks_pass(small_disk: Path | None, tmp_path: Path) -> None:
    """Everything accepted before the disk was full must be deliverable and ackable on it, and publishing goes on after."""
    rig = Rig((small_disk or tmp_path) / "broker.db")
    session = await rig.connect(QUEUE)
    if small_disk is None:
        await limit_pages(session)
    accepted = await publish_until_blocked(session)
    assert accepted > 100
    assert [type(event) for event in rig.events_of(Blocked)] == [Blocked]
    await drain(session, accepted)
    await soon(publish_once_there_is_room(session))
    assert rig.events_of(Unblocked)
    await session.close()


async def test_on_a_disk_that_another_program_filled_acks_pass(small_disk: Path | None, tmp_path: Path) -> None:
    """With not a byte left, the ballast must be what acks are written to, and a restarted worker must find its way in."""
    rig = Rig((small_disk or tmp_path) / "broker.db")
    session = await rig.connect(QUEUE)
    await publish(session, *[b"%d" % number for number in range(200)])
    filler = fill(small_disk) if small_disk is not None else None
    if filler is None:
        await limit_pages(session)
    await publish_until_blocked(session)
    await session.close()
    session = await rig.connect()
    await drain(session, 200)
    if filler is not None:
        filler.unlink()
    await soon(publish_once_there_is_room(session))
    await session.close()


async def test_acks_pass_where_even_the_ballast_is_gone(small_disk: Path | None, tmp_path: Path) -> None:
    """With not a byte left and no ballast either, acks must find their room in the log, by using it anew."""
    rig = Rig((small_disk or tmp_path) / "broker.db")
    session = await rig.connect(QUEUE)
    database = session._writer.engine._database
    database._checkpoint_pages = (
        0  # everything is in the file when the disk is full, and the log as long as one publish
    )
    await publish(session, *[b"%d" % number * 100 for number in range(300)])
    await publish(session, b"the log is started anew")
    consumer = await soon(session.consume("q", prefetch=1))
    database._checkpoint_pages = 2**60
    if small_disk is not None:
        Path(f"{rig.path}-dispatcher/ballast").unlink()
        fill(small_disk)
    else:
        await limit_pages(session)
    for number in range(300):
        (delivery,) = await take(consumer, 1)
        assert delivery.body == b"%d" % number * 100
        delivery.ack()
    await session.close()


async def test_copies_pass_the_brake(rig: Rig) -> None:
    """A retry or dead letter brings the ack of what it replaces: the brake must stop only what is new."""
    session = await rig.connect(QUEUE)
    session._writer.engine._space._measure = Disk(80 * MIB, 0)
    sent = [
        session.publish(message(b"%d" % n, exchange=name))
        for n, name in enumerate((DEAD_EXCHANGE, "ex", DELAY_EXCHANGE))
    ]
    results = await soon(asyncio.gather(*sent, return_exceptions=True))
    assert [type(result) for result in results] == [type(None), BrokerBlocked, type(None)]
    assert [type(event) for event in rig.events_of(Blocked)] == [Blocked]
    depth = await session.inspector.depth("q")
    assert (depth.ready, depth.dead) == (1, 1)


async def test_copies_that_find_no_room_are_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the brake, a disk that is really full refuses a copy too, and the acks beside it pass."""
    session = await rig.connect(QUEUE)
    consumer = await soon(session.consume("q", prefetch=1))
    await publish(session, b"1")
    (delivery,) = await take(consumer, 1)
    refuse_commits(monkeypatch, 1)
    delivery.ack()
    with pytest.raises(BrokerBlocked):
        await soon(session.publish(message(exchange=DEAD_EXCHANGE)))
    await soon(session.publish(message(b"copy", exchange=DEAD_EXCHANGE)))  # into the room that the ballast left
    depth = await session.inspector.depth("q")
    assert (depth.unacked, depth.dead) == (0, 1)


async def test_a_full_disk_works_off_tasks_that_fail(small_disk: Path | None, tmp_path: Path) -> None:
    """Each delivery is replaced by its dead letter on a disk that takes no publishes: all must get through."""
    rig = Rig((small_disk or tmp_path) / "broker.db")
    session = await rig.connect(QUEUE)
    if small_disk is None:
        await limit_pages(session)
    accepted = await publish_until_blocked(session)
    consumer = await soon(session.consume("q", prefetch=20))
    for _ in range(accepted):
        (delivery,) = await take(consumer, 1)
        letter = message(delivery.body, exchange=DEAD_EXCHANGE, headers=delivery.headers)
        await soon(until_accepted(session, letter))
        delivery.ack()
    await soon(consumer.stop())
    depth = await session.inspector.depth("q")
    assert (depth.ready, depth.unacked, depth.dead) == (0, 0, accepted)
    await session.close()


async def test_acks_that_find_no_room_at_all_wait_for_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no room even in the log an ack must be kept, and pass once there is room: nothing runs twice for it."""
    session = await rig.connect(QUEUE)
    consumer = await soon(session.consume("q", prefetch=1))
    await publish(session, b"1")
    (delivery,) = await take(consumer, 1)
    refusals = refuse_commits(monkeypatch, 4)
    delivery.ack()
    await soon(publish_once_there_is_room(session))
    (delivery,) = await take(consumer, 1)
    assert (delivery.body, len(refusals)) == (b"again", 4)
    await session.close()
    with closing(sqlite3.connect(rig.path)) as reader:
        assert reader.execute("SELECT body FROM messages").fetchall() == [(b"again",)]
