"""What the transactions cost, how the log stays short, and what else keeps a file healthy for years."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_rig import QUEUE, Driver, Rig, message, publish, soon, take

from dispatcher.brokers.sqlite import engine as engine_module
from dispatcher.brokers.sqlite import faults, file
from dispatcher.brokers.sqlite.entries import Batch, Results
from dispatcher.brokers.sqlite.statements import runs
from dispatcher.brokers.sqlite.store import wall_clock_ms
from dispatcher.errors import PublishRefused
from dispatcher.model.topology import DELAY_EXCHANGE, Queue

MIB = 1024 * 1024


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "broker.db", prefetch=10)
    yield driver
    driver.engine.leave(Results())
    driver.engine.close()


def everyday(driver: Driver) -> None:
    """Each kind of turn that a busy session takes."""
    driver.publish(20)
    driver.publish(3, ready_at_ms=2**50)
    driver.settle(7, "acks")
    driver.settle(1, "acks")
    driver.settle(2, "rejects")
    driver.turn(Batch())


def test_what_comes_due_brings_nothing_along_that_is_not(driver: Driver) -> None:
    """Of messages that are due a millisecond apart, each comes at its own time."""
    for later in (1, 2, 3):
        driver.publish(1, ready_at_ms=driver.now_ms + later)
    for count in (0, 1, 2, 3):
        driver.turn(Batch())
        assert len(driver.held) == count
        driver.now_ms += 1


def test_no_everyday_statement_scans_a_table(driver: Driver) -> None:
    """Publish, claim, ack and reject must find their rows by keys, however many messages wait."""
    seen: list[str] = []
    driver.connection.set_trace_callback(seen.append)
    everyday(driver)
    driver.connection.set_trace_callback(None)
    statements = {re.sub(r"\s+", " ", sql) for sql in seen if re.match(r"(INSERT|DELETE|UPDATE|SELECT)", sql)}
    assert len(statements) > 10
    for sql in statements:
        plan = [row[3] for row in driver.connection.execute("EXPLAIN QUERY PLAN " + sql)]
        # `state` has one row. A subquery's scan is of its own few rows, and VALUES is a scan of constants, `w` its name.
        scans = [
            step
            for step in plan
            if step.startswith("SCAN") and not re.search(r"state|SUBQUERY|CONSTANT|\d-ROW|SCAN w$", step)
        ]
        assert scans == [], f"{sql}: {plan}"
        assert not any("TEMP B-TREE" in step for step in plan), f"{sql}: {plan}"


def cost_of_a_turn(driver: Driver) -> int:
    """How many steps SQLite's machine takes for the everyday turns."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    driver.connection.set_progress_handler(step, 1)
    everyday(driver)
    driver.connection.set_progress_handler(None, 1)
    return steps


def test_the_cost_is_flat_from_a_thousand_to_a_hundred_thousand(driver: Driver) -> None:
    """A turn must take as many steps of SQLite with 100,000 waiting messages as with 1,000."""
    for _ in range(50):
        driver.publish(20)
    few = cost_of_a_turn(driver)
    for _ in range(99):
        driver.publish(1000)
    many = cost_of_a_turn(driver)
    assert driver.connection.execute("SELECT count(*) FROM ready").fetchone()[0] > 99_000
    assert many < few * 1.1


def test_runs_of_ids() -> None:
    """Neighbours become one range; what is alone, or nearly, does not."""
    assert runs([]) == ([], [])
    assert runs([7]) == ([], [7])
    assert runs([1, 2, 3, 4, 9, 11, 12, 20, 21, 22, 23, 24]) == ([(1, 4), (20, 24)], [9, 11, 12])


async def test_the_log_stays_short_under_load(rig: Rig) -> None:
    """Two sessions that write 60 MiB through the log must not let it grow beyond a few checkpoints' worth."""
    sessions = [await rig.connect(QUEUE), await rig.connect()]
    consumer = await soon(sessions[0].consume("q", prefetch=50))
    largest = 0
    for _ in range(60):
        for session in sessions:
            await publish(session, *[bytes(20_000) for _ in range(25)])
        for delivery in await take(consumer, 50):
            delivery.ack()
        largest = max(largest, os.path.getsize(f"{rig.path}-wal"))
    assert 2 * MIB < largest < 24 * MIB


async def test_a_stuck_reader_holds_the_log_up_only_while_it_reads(rig: Rig) -> None:
    """A foreign program that reads for long makes the log grow; once it is done the log must be used anew."""
    session = await rig.connect(QUEUE)
    with closing(sqlite3.connect(rig.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        for _ in range(5):
            await publish(session, *[bytes(100_000) for _ in range(30)])
        reader.execute("COMMIT")
    grown = os.path.getsize(f"{rig.path}-wal")
    for _ in range(5):
        await publish(session, *[bytes(100_000) for _ in range(30)])
    assert grown > 12 * MIB
    assert os.path.getsize(f"{rig.path}-wal") < grown + 8 * MIB


async def test_a_foreign_lock_delays_and_harms_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program holds the file for itself, publishes and acks wait; then all of them pass."""
    monkeypatch.setattr(file, "BUSY_SECONDS", 0.01)
    session = await rig.connect(QUEUE)
    consumer = await soon(session.consume("q", prefetch=1))
    await publish(session, b"1")
    (delivery,) = await take(consumer, 1)
    refusals = asyncio.Event()
    loop = asyncio.get_running_loop()
    is_busy = faults.is_busy

    def watched(error: Exception) -> bool:
        loop.call_soon_threadsafe(refusals.set)
        return is_busy(error)

    monkeypatch.setattr(engine_module, "is_busy", watched)
    with closing(sqlite3.connect(rig.path, isolation_level=None)) as tool:
        tool.execute("BEGIN IMMEDIATE")
        delivery.ack()
        pending = session.publish(message(b"2"))
        await soon(refusals.wait())
        assert not pending.done()
        tool.execute("COMMIT")
    await soon(pending)
    (delivery,) = await take(consumer, 1)
    assert delivery.body == b"2"


async def test_a_session_renews_its_lease(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle session must say in its row that it lives, or others would release it after a minute."""
    monkeypatch.setattr(engine_module, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(engine_module, "TICK_SECONDS", 0.01)
    session = await rig.connect(QUEUE)

    def seen(work: object) -> int:
        return int(session._writer.engine.store.connection.execute("SELECT seen_ms FROM sessions").fetchone()[0])

    first = await session.call(seen)

    async def until_renewed() -> None:
        while await session.call(seen) == first:
            await asyncio.sleep(0.01)

    await soon(until_renewed())


async def test_an_idle_session_gives_room_back_to_the_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a flood was worked off, the file must shrink by itself, without a VACUUM that would block everybody."""
    monkeypatch.setattr(file, "VACUUM_ABOVE_PAGES", 10)
    monkeypatch.setattr(engine_module, "TICK_SECONDS", 0.01)
    session = await rig.connect(QUEUE)
    for _ in range(4):
        await publish(session, *[bytes(100_000) for _ in range(40)])
    assert await session.inspector.purge("q") == 160
    execute = session._writer.engine.store.connection.execute

    async def until_shrunk() -> None:
        while await session.call(lambda work: execute("PRAGMA page_count").fetchone()[0]) > 1000:
            await asyncio.sleep(0.05)  # idle turns are what it waits for

    await soon(until_shrunk())


async def test_ids_are_never_used_twice(rig: Rig) -> None:
    """A browsed key must not come to name another message, not even after everything was drained by others."""
    session = await rig.connect(QUEUE)
    await publish(session, b"1")
    (found,) = [one async for one in session.inspector.browse("q")]
    assert await session.inspector.remove("q", found.key)
    await session.close()
    other = await rig.connect()
    await publish(other, b"2")
    assert not await other.inspector.remove("q", found.key)
    assert (await other.inspector.depth("q")).ready == 1


async def test_browsing_pages_through_ranks_and_delays_in_order_of_arrival(rig: Rig) -> None:
    """More than a page, of all priorities and some delayed, must come oldest first and each once."""
    session = await rig.connect(QUEUE)
    in_an_hour_ms = wall_clock_ms() + 3_600_000
    for number in range(250):
        delay = {"ready_at_ms": in_an_hour_ms} if number % 7 == 0 else {}
        await publish(session, b"%d" % number, priority=number % 10, **delay)
    assert [int(found.message.body) async for found in session.inspector.browse("q")] == list(range(250))


async def test_a_retry_finds_room_in_a_full_queue(rig: Rig) -> None:
    """What comes back by the delay exchange had its place before: only what is new is refused, and the count stays true."""
    session = await rig.connect(Queue("q", ("q",), max_length=1))
    await publish(session, b"1")
    await publish(session, b"2", exchange=DELAY_EXCHANGE)
    consumer = await soon(session.consume("q", prefetch=1))
    await take(consumer, 1)
    with pytest.raises(PublishRefused):
        await session.publish(message(b"3"))
    assert (await session.inspector.depth("q")).ready == 1


async def test_one_message_for_several_queues_is_refused_by_all_when_one_is_full(rig: Rig) -> None:
    """A publish is accepted by every queue it routes to, or by none."""
    session = await rig.connect(Queue("q", ("q", "both")), Queue("small", ("both",), max_length=1))
    await publish(session, b"1", key="both")
    with pytest.raises(Exception, match="'small' is at its maximum length of 1"):
        await session.publish(message(b"2", "both"))
    assert (await session.inspector.depth("q")).ready == 1
