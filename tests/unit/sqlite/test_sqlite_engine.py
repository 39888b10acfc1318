"""What a session does by the clock: syncing acks, looking for work, waiting, and believing leases."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlite_rig import Driver

from dispatcher.brokers.sqlite import engine, faults, members
from dispatcher.brokers.sqlite.catalog import load
from dispatcher.brokers.sqlite.entries import Batch, Results, Window
from dispatcher.brokers.sqlite.file import Database
from dispatcher.model.topology import Queue

NewDriver = Callable[..., Driver]


@pytest.fixture
def new_driver(tmp_path: Path) -> Iterator[NewDriver]:
    """Opens one session more on the same file, without its thread."""
    drivers: list[Driver] = []

    def open_one(*arguments: object) -> Driver:
        drivers.append(Driver(tmp_path / "broker.db", 10, *arguments))  # type: ignore[arg-type]
        return drivers[-1]

    yield open_one
    for driver in drivers:
        driver.engine.close()


def tick(driver: Driver) -> None:
    """The duties of a quarter second, now."""
    driver.engine._next_tick = 0.0
    driver.engine._leases_from = engine.NEVER  # the tick that should have been at 0.0 looks like a stall: so be it
    driver.turn(Batch())


def statements(driver: Driver, do: Callable[[], None]) -> list[str]:
    seen: list[str] = []
    driver.connection.set_trace_callback(seen.append)
    do()
    driver.connection.set_trace_callback(None)
    return seen


def transactions(seen: list[str]) -> list[str]:
    return [sql for sql in seen if re.match(r"PRAGMA synchronous|BEGIN IMMEDIATE|COMMIT", sql)]


def test_acks_are_synced_by_the_next_tick(new_driver: NewDriver) -> None:
    """Acks alone are committed without waiting for the disk; the next tick must commit in full, and only that one."""
    driver = new_driver()
    driver.publish(3)
    acking = statements(driver, partial(driver.settle, 2, "acks"))
    assert transactions(acking) == ["PRAGMA synchronous = NORMAL", "BEGIN IMMEDIATE", "COMMIT"]
    assert transactions(statements(driver, partial(tick, driver))) == [
        "PRAGMA synchronous = FULL",
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]
    assert transactions(statements(driver, partial(tick, driver))) == []


def test_a_publish_beside_acks_syncs_them(new_driver: NewDriver) -> None:
    """A batch with a publish is committed in full, so its acks leave nothing for the tick."""
    driver = new_driver()
    driver.publish(3)
    driver.settle(1, "acks")
    assert transactions(statements(driver, partial(driver.publish, 1)))[0] == "PRAGMA synchronous = FULL"
    assert transactions(statements(driver, partial(tick, driver))) == []


def test_a_look_at_many_queues_is_one_statement(new_driver: NewDriver) -> None:
    """An idle session must not ask more often with 200 queues than with one."""
    few = new_driver((Queue("q0", ("q0",)),))
    many = new_driver(tuple(Queue(f"q{number}", (f"q{number}",)) for number in range(200)))
    for driver in (few, many):
        tick(driver)
    assert len(statements(many, partial(tick, many))) == len(statements(few, partial(tick, few))) < 10


def test_a_look_finds_what_waits_in_any_queue(new_driver: NewDriver) -> None:
    """One statement for all queues must still see each of them: what is ready, and what is due first."""
    driver = new_driver((Queue("q", ("q",)), Queue("r", ("r",))))
    store = driver.engine.store
    sender = new_driver((Queue("other", ("other",)),))
    assert not store.worth_claiming()
    for later in (9, 5):
        sender.publish(1, key="r", ready_at_ms=driver.now_ms + later)
    assert (store.worth_claiming(), store.next_due_ms) == (False, driver.now_ms + 5)
    driver.now_ms += 5
    assert store.worth_claiming()
    driver.turn(Batch())
    assert (store.worth_claiming(), store.next_due_ms) == (False, driver.now_ms + 4)
    sender.publish(1, key="r")
    assert store.worth_claiming()


def called(driver: Driver, run: Callable[..., object], window: Window) -> None:
    batch = Batch()
    batch.calls.append((partial(run, window), None))  # type: ignore[arg-type]
    driver.turn(batch)


def test_a_consumer_comes_and_goes_without_a_look_at_all_queues(new_driver: NewDriver) -> None:
    """A worker of 200 queues must not read 200 queues 200 times; what the session then knows is what the file says."""
    other = new_driver()
    driver = new_driver((Queue("q", ("q",)), Queue("r", ("r",))))
    more = [Window(None, name, 1) for name in ("r", "r", "q")]  # type: ignore[arg-type]
    for run in (driver.engine.start_consumer, driver.engine.stop_consumer):
        for window in more:
            assert not [
                sql for sql in statements(driver, partial(called, driver, run, window)) if "FROM bindings" in sql
            ]
            known = driver.engine.store.catalog
            assert known == load(driver.connection, known.epoch)
            other.engine.store.look()
            assert other.engine.store.catalog == known


def test_a_consumer_that_never_started_can_be_stopped(new_driver: NewDriver) -> None:
    """Its start was given up, or failed: there is nothing to end, and nothing that others must read again."""
    driver = new_driver()
    before = driver.engine.store.catalog
    called(driver, driver.engine.stop_consumer, Window(None, "q", 1))  # type: ignore[arg-type]
    assert driver.engine.store.catalog == before


class Sleep:
    """Stands for the waker: how long the session would have slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False


def seconds_of_sleep(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> float:
    sleep = Sleep()
    with monkeypatch.context() as patched:
        patched.setattr(driver.engine, "waker", sleep)
        driver.engine.wait()
    return sleep.seconds[0]


def test_without_consumers_nothing_is_due(new_driver: NewDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A due time that passed after the last consumer stopped must not keep the thread awake."""
    monkeypatch.setattr(engine, "TICK_SECONDS", 3600.0)
    driver = new_driver()
    driver.publish(1, ready_at_ms=driver.now_ms + 1000)
    assert 0 < seconds_of_sleep(driver, monkeypatch) <= 1
    stopping = Batch()
    stopping.calls.append((partial(driver.engine.stop_consumer, driver.window), None))  # type: ignore[arg-type]
    driver.turn(stopping)
    driver.now_ms += 2000
    driver.turn(Batch())
    assert seconds_of_sleep(driver, monkeypatch) > 60


HOUR_MS = 3_600_000


def test_a_wall_clock_set_forward_is_noticed_by_the_next_tick(
    new_driver: NewDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the wait was to be, nobody sleeps longer than a tick; then what is due now is handed out."""
    driver = new_driver()
    driver.publish(1, ready_at_ms=driver.now_ms + HOUR_MS)
    assert 0 < seconds_of_sleep(driver, monkeypatch) <= engine.TICK_SECONDS
    driver.now_ms += HOUR_MS
    driver.turn(Batch())
    assert len(driver.held) == 1


def test_a_wall_clock_set_back_makes_what_waits_wait_for_it(
    new_driver: NewDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is due at its time by the clock, without a busy loop until then; what was due before stays so, handed back too."""
    driver = new_driver()
    driver.publish(1, ready_at_ms=driver.now_ms + 500)
    driver.publish(1, ready_at_ms=driver.now_ms + 1000)
    driver.now_ms += 500
    driver.turn(Batch())
    assert len(driver.held) == 1
    driver.now_ms -= HOUR_MS
    driver.settle(1, "rejects")
    assert len(driver.held) == 1
    assert seconds_of_sleep(driver, monkeypatch) > 0
    driver.now_ms += HOUR_MS
    driver.turn(Batch())
    assert len(driver.held) == 1
    driver.now_ms += 500
    driver.turn(Batch())
    assert len(driver.held) == 2


@pytest.mark.parametrize("code", [faults.FULL, faults.BUSY])
def test_what_is_due_and_cannot_be_had_waits_for_the_tick(
    new_driver: NewDriver, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """With a full or a locked file a due message must not be tried again in a loop, and must come once that is over."""
    monkeypatch.setattr(engine, "TICK_SECONDS", 3600.0)
    driver = new_driver()
    driver.publish(1, ready_at_ms=driver.now_ms + 1000)
    driver.now_ms += 1000

    def no_commit(self: Database, pages: int) -> None:
        error = sqlite3.OperationalError("not now")
        error.sqlite_errorcode = code
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Database, "commit", no_commit)
        driver.turn(Batch())
    assert driver.held == []
    assert seconds_of_sleep(driver, monkeypatch) > 60
    driver.turn(Batch())
    assert len(driver.held) == 1


class Clock:
    """The monotonic clock of all sessions of a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def pass_by(self, seconds: int, *drivers: Driver) -> None:
        """Second by second, each of `drivers` having its turn."""
        for _ in range(seconds):
            self.now += 1.0
            for driver in drivers:
                driver.turn(Batch())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(members, "monotonic_ms", lambda: int(clock.now * 1000))
    return clock


LEASE_SECONDS = members.LEASE_MS // 1000


def test_who_was_kept_waiting_takes_nobody_for_dead(new_driver: NewDriver, clock: Clock) -> None:
    """After all were blocked for longer than a lease, the first to go on must let the others renew theirs."""
    holder, first = new_driver(), new_driver()
    holder.publish(1)
    clock.pass_by(30, holder, first)
    clock.now += LEASE_SECONDS + 10  # a process was stopped with the write lock in its hand
    first.turn(Batch())
    clock.pass_by(5, first)
    clock.pass_by(60, holder, first)
    holder.settle(1, "acks")
    assert first.connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)


def test_who_waited_within_its_tick_takes_nobody_for_dead(
    new_driver: NewDriver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where the lock was waited for by the heartbeat of the very tick that then looks for the dead."""
    holder, first = new_driver(), new_driver()
    holder.publish(1)
    clock.pass_by(30, holder, first)
    renew = members.renew

    def renew_late(*arguments: object) -> None:
        clock.now += LEASE_SECONDS + 10
        renew(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(members, "renew", renew_late)
        first.engine._next_heartbeat = 0.0
        clock.pass_by(1, first)
    clock.pass_by(5, holder, first)
    holder.settle(1, "acks")


def test_who_just_came_takes_nobody_for_dead(new_driver: NewDriver, clock: Clock) -> None:
    """A new session cannot know for how long the others were kept from renewing: it must wait as well."""
    holder = new_driver()
    holder.publish(1)
    clock.now += LEASE_SECONDS + 10
    late = new_driver()
    clock.pass_by(5, late, holder)
    holder.settle(1, "acks")


def test_a_lease_that_is_over_releases_all_the_same(new_driver: NewDriver, clock: Clock) -> None:
    """A session that alone is unheard of for a minute must lose what it holds, whoever was kept waiting before."""
    holder, other = new_driver(), new_driver()
    holder.publish(1)
    clock.now += 30.0
    clock.pass_by(LEASE_SECONDS - 31, other)
    assert other.held == []
    clock.pass_by(20, other)
    assert len(other.held) == 1


def test_a_stall_puts_off_no_sure_death(new_driver: NewDriver, clock: Clock) -> None:
    """A free lock is proof: what a dead process held must come at once, right after a stall too."""
    holder, other = new_driver(), new_driver()
    holder.publish(1)
    holder.engine._member.lock.close()
    clock.now += LEASE_SECONDS + 10
    other.turn(Batch())
    assert len(other.held) == 1


def test_a_lease_renewed_at_the_last_moment_counts(new_driver: NewDriver, clock: Clock) -> None:
    """Between finding a lease over and releasing its session lies a wait for the lock: who renewed meanwhile lives."""
    holder, other = new_driver(), new_driver()
    holder.publish(1)
    clock.now += LEASE_SECONDS + 10
    store, place = other.engine.store, other.engine._place
    (dead,) = members.find_dead(place, store, other.engine._member, by_lease=True)
    holder.engine._heartbeat()
    other.engine._release([dead], Results())
    assert os.path.exists(place.inside(members.fifo_name(dead.session.token)))
    holder.settle(1, "acks")
