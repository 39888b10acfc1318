"""Sessions of the embedded broker in one process. What every broker must do is tested in tests/conformance."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlite_rig import DEADLINE_SECONDS, QUEUE, Rig, message, publish, soon, take

from dispatcher.brokers.base import Disconnected, TopologyDiffers
from dispatcher.brokers.sqlite import SqliteBroker, engine
from dispatcher.brokers.sqlite import store as store_module
from dispatcher.brokers.sqlite.place import Place
from dispatcher.brokers.sqlite.store import Store
from dispatcher.errors import (
    ArgumentError,
    ConfigError,
    ConnectionLost,
    DeliveryLost,
    DispatcherError,
    PublishRefused,
    StorageGone,
)
from dispatcher.model.topology import Queue


async def test_a_publish_is_in_the_file_when_it_returns(rig: Rig) -> None:
    """A connection that knows nothing of Dispatcher must see the message once its publish has resolved."""
    session = await rig.connect(QUEUE)
    await publish(session, b"safe")
    with closing(sqlite3.connect(rig.path)) as reader:
        assert reader.execute("SELECT body FROM messages").fetchall() == [(b"safe",)]


async def test_unlike_messages_of_one_transaction_are_each_kept_whole(rig: Rig) -> None:
    session = await rig.connect(QUEUE)
    kinds: list[dict[str, Any]] = [
        {},
        {"priority": 4},
        {"content_type": "text/plain"},
        {"headers": {"a": 1, "b": b"x", "c": None}},
        {"priority": 4, "content_type": "text/plain", "headers": {"d": [1, {"e": 2.5}]}},
    ]
    sent = [message(b"%d" % number, **kinds[number % len(kinds)]) for number in range(103)]
    await soon(asyncio.gather(*[session.publish(one) for one in sent]))
    came = await take(await session.consume("q", prefetch=len(sent)), len(sent))
    for one, delivery in zip(sent, came, strict=True):
        assert (delivery.body, delivery.uuid, delivery.priority) == (one.body, one.uuid, one.priority)
        assert type(delivery.body) is bytes
        assert delivery.headers == (one.headers or {})
    with closing(sqlite3.connect(rig.path)) as reader:
        stored = [
            row[0] or "application/json" for row in reader.execute("SELECT content_type FROM messages ORDER BY id")
        ]
    assert stored == [one.content_type for one in sent]


async def test_a_jump_of_the_wall_clock_is_noticed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message due in an hour comes soon after the clock was set forward, in this session and in one that knew nothing."""
    ahead_ns = 0
    real_ns = time.time_ns
    monkeypatch.setattr(store_module, "time", SimpleNamespace(time_ns=lambda: real_ns() + ahead_ns))
    session, other = await rig.connect(QUEUE), await rig.connect(QUEUE)
    await publish(session, b"1", b"2", ready_at_ms=real_ns() // 1_000_000 + 3_600_000)
    consumers = [await one.consume("q", prefetch=1) for one in (session, other)]
    waiting = [asyncio.ensure_future(take(consumer, 1)) for consumer in consumers]
    await asyncio.wait(waiting, timeout=2 * engine.TICK_SECONDS)
    assert not any(waiter.done() for waiter in waiting)
    ahead_ns = 3_600_000_000_000
    assert sorted([delivery.body for (delivery,) in await soon(asyncio.gather(*waiting))]) == [b"1", b"2"]


async def test_the_file_is_synced_at_each_publish_and_checkpointed_by_nobody_else(rig: Rig) -> None:
    """The settings that durability and the log's safety rest on must be those of reliability.md, section 3."""
    session = await rig.connect(QUEUE)
    await publish(session, b"m")
    connection = session._writer.engine._database

    def read(work: object) -> dict[str, object]:
        names = (
            "synchronous",
            "wal_autocheckpoint",
            "foreign_keys",
            "journal_mode",
            "trusted_schema",
            "mmap_size",
            "auto_vacuum",
        )
        return {name: connection.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    assert await session.call(read) == {
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "foreign_keys": 1,
        "journal_mode": "wal",
        "trusted_schema": 0,
        "mmap_size": 0,
        "auto_vacuum": 2,
    }


async def test_only_the_owner_may_read_the_files(rig: Rig) -> None:
    """What tasks carry is nobody else's business: 0600 for files, 0700 for the folder."""
    session = await rig.connect(QUEUE)
    await publish(session, b"m")
    modes = {path.name: path.stat().st_mode & 0o777 for path in rig.path.parent.iterdir()}
    assert modes == {"broker.db": 0o600, "broker.db-wal": 0o600, "broker.db-shm": 0o600, "broker.db-dispatcher": 0o700}


async def test_a_closed_session_leaves_no_trace(rig: Rig) -> None:
    """Closing must delete the session's rows, lock and FIFO; only what all share stays."""
    session = await rig.connect(QUEUE)
    await soon(session.consume("q", prefetch=1))
    await session.close()
    assert sorted(os.listdir(f"{rig.path}-dispatcher")) == ["ballast", "write.lock"]
    with closing(sqlite3.connect(rig.path)) as reader:
        assert reader.execute(
            "SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM consumers)"
        ).fetchone() == (0,)


async def test_another_session_is_woken_by_its_fifo(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publish must reach a sleeping consumer of another session without the help of its clock."""
    monkeypatch.setattr(engine, "TICK_SECONDS", 3600.0)
    sender, receiver = await rig.connect(QUEUE), await rig.connect()
    consumer = await soon(receiver.consume("q", prefetch=5))
    for body in (b"1", b"2", b"3"):
        await publish(sender, body)
        (delivery,) = await take(consumer, 1)
        assert delivery.body == body
        delivery.ack()


async def test_without_fifos_a_session_polls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no FIFOs, a publish must reach another session all the same."""
    monkeypatch.delattr(os, "mkfifo")
    monkeypatch.setattr(engine, "TICK_SECONDS", 3600.0)
    sender, receiver = await rig.connect(QUEUE), await rig.connect()
    consumer = await soon(receiver.consume("q", prefetch=5))
    await publish(sender, b"1")
    (delivery,) = await take(consumer, 1)
    assert delivery.body == b"1"


async def test_a_delay_by_another_session_is_woken_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer must learn of a delayed message of another session, and deliver it by its own timer."""
    monkeypatch.setattr(engine, "TICK_SECONDS", 3600.0)
    sender, receiver = await rig.connect(QUEUE), await rig.connect()
    consumer = await soon(receiver.consume("q", prefetch=5))
    due_ms = int(datetime.now(UTC).timestamp() * 1000) + 150
    await soon(sender.publish(message(b"later", ready_at_ms=due_ms)))
    await take(consumer, 1)
    assert datetime.now(UTC).timestamp() * 1000 >= due_ms


async def test_consumers_of_one_queue_share_a_short_supply(rig: Rig) -> None:
    """Two consumers with room for everything must both get some of few messages."""
    session, other = await rig.connect(QUEUE), await rig.connect()
    first = await soon(session.consume("q", prefetch=100))
    second = await soon(other.consume("q", prefetch=100))
    await publish(session, *[b"%d" % n for n in range(10)])
    await take(first, 1)
    await take(second, 1)


async def test_what_others_leave_is_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fair share must not keep a message from the only consumer that has room, not even for a tick."""
    monkeypatch.setattr(engine, "TICK_SECONDS", 3600.0)
    session, other = await rig.connect(QUEUE), await rig.connect()
    await publish(session, b"blocker")
    full = await soon(other.consume("q", prefetch=1))
    await take(full, 1)
    consumer = await soon(session.consume("q", prefetch=100))
    await publish(session, *[b"%d" % n for n in range(9)])
    assert len(await take(consumer, 9)) == 9


async def test_a_value_that_sqlite_cannot_store_fails_alone(rig: Rig) -> None:
    """One impossible message must not harm those that were published in the same turn."""
    session = await rig.connect(QUEUE)
    futures = [
        session.publish(message(b"1")),
        session.publish(message(b"2", uuid="\ud800")),
        session.publish(message(b"3", priority=2**70)),
        session.publish(message(b"4")),
    ]
    results = await soon(asyncio.gather(*futures, return_exceptions=True))
    assert [type(result) for result in results] == [type(None), PublishRefused, PublishRefused, type(None)]
    assert (await session.inspector.depth("q")).ready == 2


async def test_a_transaction_that_is_done_again_starts_a_consumer_once(rig: Rig) -> None:
    """A neighbour's impossible message must not give a consumer that starts beside it a second window."""
    session = await rig.connect(QUEUE)
    await publish(session, *[b"%d" % n for n in range(9)])
    starting = asyncio.ensure_future(session.consume("q", prefetch=2))
    bad = session.publish(message(uuid="\ud800"))
    with pytest.raises(PublishRefused):
        await soon(bad)
    await take(await soon(starting), 2)
    assert (await session.inspector.depth("q")).unacked == 2


@pytest.mark.parametrize("value", [{1, 2}, object(), 2**64, datetime(2020, 1, 1), {1: "a"}, 1j])
async def test_headers_that_would_come_back_otherwise_are_refused(rig: Rig, value: object) -> None:
    """A header must come back as it went or be refused in the sender."""
    session = await rig.connect(QUEUE)
    with pytest.raises(ArgumentError, match="headers: expected"):
        await session.publish(message(headers={"h": value}))


async def test_bytes_survive_in_headers(rig: Rig) -> None:
    """Raw bytes must come back equal, however deep."""
    session = await rig.connect(QUEUE)
    headers = {
        "raw": b"\x00\xff",
        "deep": [{"a": [None, 1.5]}],
    }
    await publish(session, b"m", headers=headers)
    (delivery,) = await take(await soon(session.consume("q", prefetch=1)), 1)
    assert delivery.headers == headers


async def test_a_difference_is_told_once_for_all_sessions_of_a_broker(rig: Rig) -> None:
    """Reconnecting must not repeat the warning that a queue is otherwise than asked for."""
    await rig.connect(QUEUE)
    for _ in range(2):
        await rig.connect(Queue("q", ("q",), delivery_limit=3))
    assert rig.events_of(TopologyDiffers) == [TopologyDiffers("delivery_limit of queue 'q'", "3", "20")]


async def test_a_reaped_session_learns_it_and_settles_nothing(rig: Rig) -> None:
    """A session whose row a reaper deleted must lose everything it holds and end with ConnectionLost."""
    session = await rig.connect(QUEUE)
    consumer = await soon(session.consume("q", prefetch=1))
    await publish(session, b"m")
    (delivery,) = await take(consumer, 1)
    with closing(sqlite3.connect(rig.path, isolation_level=None)) as reaper:
        reaper.executescript(
            "BEGIN IMMEDIATE; INSERT INTO ready SELECT queue_id, rank, id, 1 FROM messages; DELETE FROM held;"
            " DELETE FROM consumers; DELETE FROM sessions; UPDATE state SET epoch = epoch + 1; COMMIT"
        )
    with pytest.raises(ConnectionLost, match="taken for dead"):
        await soon(session.closed)
    with pytest.raises(DeliveryLost):
        delivery.ack()
    with pytest.raises(ConnectionLost):
        await session.publish(message())
    with pytest.raises(StopAsyncIteration):
        await anext(consumer)
    assert rig.events_of(Disconnected)
    other = await rig.connect()
    assert (await other.inspector.depth("q")).ready == 1


async def test_a_stale_ack_on_its_way_is_fenced(rig: Rig) -> None:
    """An ack that reaches the file after the reaper must not delete the message, and the publish beside it must fail."""
    session = await rig.connect(QUEUE)
    consumer = await soon(session.consume("q", prefetch=1))
    await publish(session, b"m")
    (delivery,) = await take(consumer, 1)
    with closing(sqlite3.connect(rig.path, isolation_level=None)) as reaper:
        reaper.execute("BEGIN IMMEDIATE")
        delivery.ack()
        pending = session.publish(message(b"n"))
        await asyncio.sleep(0)  # the turn of the loop that hands both to the writer thread, which now waits
        for change in ("DELETE FROM consumers", "DELETE FROM sessions", "UPDATE state SET epoch = epoch + 1", "COMMIT"):
            reaper.execute(change)
        with pytest.raises(ConnectionLost):
            await soon(pending)
        assert reaper.execute("SELECT body FROM messages").fetchall() == [(b"m",)]


async def test_close_hands_back_without_counting(rig: Rig) -> None:
    """What a closed session held must be delivered again, flagged, with no death counted."""
    session = await rig.connect(QUEUE)
    consumer = await soon(session.consume("q", prefetch=2))
    await publish(session, b"1", b"2")
    await take(consumer, 1)
    await session.close()
    other = await rig.connect()
    deliveries = await take(await soon(other.consume("q", prefetch=2)), 2)
    assert [(d.body, d.redelivered, d.delivery_count) for d in deliveries] == [(b"1", True, 0), (b"2", True, 0)]


async def test_consume_given_up_half_way_holds_nothing(rig: Rig) -> None:
    """A consumer whose start was cancelled must leave its messages to others."""
    session = await rig.connect(QUEUE)
    await publish(session, b"1", b"2")
    starting = asyncio.ensure_future(session.consume("q", prefetch=10))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    deliveries = await take(await soon(session.consume("q", prefetch=2)), 2)
    assert [delivery.body for delivery in deliveries] == [b"1", b"2"]


async def test_what_was_on_its_way_to_a_stopped_consumer_goes_back(rig: Rig) -> None:
    """A message that was claimed while its consumer stopped must be handed back when `stop` returns."""
    session = await rig.connect(QUEUE)
    consumer = await soon(session.consume("q", prefetch=1))
    publishing = session.publish(message(b"m"))
    await asyncio.sleep(0)  # the turn of the loop that hands it to the writer thread
    with closing(sqlite3.connect(rig.path)) as reader:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not reader.execute("SELECT count(*) FROM held").fetchone()[0]:
            # The loop stands still on purpose: it must not hear of the claim before the consumer is stopped.
            assert time.monotonic() < deadline
    await consumer.stop()  # not as a task of its own: that would let the loop hear of the claim first
    await soon(publishing)
    depth = await session.inspector.depth("q")
    assert (depth.ready, depth.unacked, depth.consumers) == (1, 0, 0)


@pytest.mark.parametrize("telling", [False, True])
async def test_a_session_whose_loop_is_gone_ends_itself(tmp_path: Path, telling: bool) -> None:
    """A program that forgets to close must not leave its messages held by a thread of a dead event loop.

    `telling`: the thread has an answer for the closed loop; without one it must notice by itself.
    """
    broker = SqliteBroker(tmp_path / "broker.db")
    rig = Rig(tmp_path / "broker.db")

    async def forgetful() -> None:
        session = await Rig(tmp_path / "broker.db").connect(QUEUE)
        await publish(session, b"m")
        consumer = await session.consume("q", prefetch=1)
        await take(consumer, 1)
        if telling:
            session.publish(message(b"n"))

    await asyncio.to_thread(asyncio.run, forgetful())
    session = await soon(broker.connect(name="next", on_event=rig.events.append))
    consumer = await soon(session.consume("q", prefetch=2))
    bodies = {delivery.body for delivery in await take(consumer, 1 + telling)}
    assert bodies == ({b"m", b"n"} if telling else {b"m"})
    await session.close()


async def test_two_loops_in_two_threads_share_a_file(rig: Rig) -> None:
    """Sessions of several event loops of one process must work side by side."""
    await rig.connect(QUEUE)

    async def publisher() -> None:
        other = Rig(rig.path)
        session = await other.connect()
        await publish(session, b"from a thread")
        await session.close()

    thread = threading.Thread(target=lambda: asyncio.run(publisher()))
    thread.start()
    consumer = await soon(rig.sessions[0].consume("q", prefetch=1))
    assert (await take(consumer, 1))[0].body == b"from a thread"
    await asyncio.to_thread(thread.join)


async def test_a_deleted_file_is_gone_and_stays_so(rig: Rig) -> None:
    """Deleting the file under a session must end it with StorageGone, and create no new one."""
    session = await rig.connect(QUEUE)
    rig.path.unlink()
    with pytest.raises(StorageGone, match="deleted or replaced"):
        await soon(session.closed)
    with pytest.raises(ConnectionLost):
        await session.publish(message())
    assert not rig.path.exists()


async def test_a_publish_into_a_deleted_file_is_not_accepted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed to a file that nobody can find any more must not be called safe, not even before the tick."""
    monkeypatch.setattr(engine, "TICK_SECONDS", 3600.0)
    session = await rig.connect(QUEUE)
    rig.path.unlink()
    with pytest.raises(StorageGone, match="deleted or replaced"):
        await soon(session.publish(message()))
    with pytest.raises(StorageGone):
        await soon(session.closed)


@pytest.mark.parametrize("everything", [False, True])
async def test_a_deleted_lock_or_companion_folder_ends_the_session(rig: Rig, everything: bool) -> None:
    """Who starts now would lock another file, so sharing is over: every session must say so by itself."""
    sessions = [await rig.connect(QUEUE), await rig.connect()]
    companion = Path(f"{rig.path}-dispatcher")
    if everything:
        shutil.rmtree(companion)
    else:
        (companion / "write.lock").unlink()
    for session in sessions:
        with pytest.raises(StorageGone, match="Restart every process"):
            await soon(session.closed)


async def test_a_fault_of_ours_ends_the_session_as_what_it_is(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown exception must not pass for a lost connection, which would be tried anew for ever, nor lose its type."""

    def insert(*arguments: object) -> None:
        raise LookupError("odd")

    session = await rig.connect(QUEUE)
    monkeypatch.setattr(Store, "insert", insert)
    with pytest.raises(DispatcherError, match="LookupError: odd") as caught:
        await soon(session.publish(message()))
    assert type(caught.value) is DispatcherError
    with pytest.raises(LookupError, match="odd"):
        await soon(session.closed)
    (event,) = rig.events_of(Disconnected)
    assert isinstance(event, Disconnected)
    assert event.error == "LookupError: odd"


async def test_a_fault_of_ours_while_opening_is_no_lost_connection(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same while opening: what trying again cannot help must not look as if it could."""

    def prepare(*arguments: object) -> None:
        raise LookupError("odd")

    monkeypatch.setattr(Place, "prepare", prepare)
    with pytest.raises(DispatcherError, match="LookupError: odd") as caught:
        await rig.connect()
    assert type(caught.value) is DispatcherError


async def test_a_replaced_file_is_noticed(rig: Rig) -> None:
    """Another file under the same name is not the one that was opened."""
    session = await rig.connect(QUEUE)
    copy = rig.path.with_suffix(".copy")
    copy.write_bytes(rig.path.read_bytes())
    copy.replace(rig.path)
    with pytest.raises(StorageGone):
        await soon(session.closed)


def test_a_broker_tells_its_path(tmp_path: Path) -> None:
    """Tools show the path as it was given, as text."""
    assert SqliteBroker(tmp_path / "broker.db").path == str(tmp_path / "broker.db")
    assert SqliteBroker("some.db").path == "some.db"


@pytest.mark.parametrize("path", ["", ":memory:", "a\0b"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    """What cannot name a file must be refused where it was written."""
    with pytest.raises(ConfigError, match="path of a file"):
        SqliteBroker(path)


async def test_a_prefetch_of_zero_is_refused(rig: Rig) -> None:
    """A consumer that could never receive anything is a mistake."""
    session = await rig.connect(QUEUE)
    with pytest.raises(ConfigError, match="prefetch: expected 1 or more"):
        await session.consume("q", prefetch=0)
