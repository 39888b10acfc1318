"""Firing what is due, with a clock that the test sets: misfires, clock steps, refusals, and leads that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from dispatcher import ServerConfig
from dispatcher.brokers.base import Message
from dispatcher.errors import ConnectionLost, TopologyMissing, Unroutable
from dispatcher.model.schedule import Misfire, Schedule, firing_uuid
from dispatcher.model.topology import Topology
from dispatcher.observe.hooks import AnyEvent, EventHub
from dispatcher.runtime import scheduler as module
from dispatcher.runtime.periodic import Periodic
from dispatcher.runtime.scheduler import Scheduler
from dispatcher.runtime.server import Server

DEADLINE_SECONDS = 20.0
NOON = 1_777_636_800_000
MINUTE = 60_000


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


class FakeLead:
    """A lead without a broker. `refusals` are raised by the next firings, in turn."""

    def __init__(self, fired_ms: int | None = NOON, *, since_ms: int = NOON, doubtful: bool = False) -> None:
        self.fired_ms = fired_ms
        self.since_ms = since_ms
        self.is_doubtful = doubtful
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refusals: list[Exception] = []
        self.tried: list[Message] = []
        self.fired: list[Message] = []
        self.resigned = False

    async def fire(self, message: Message, fired_ms: int) -> None:
        self.tried.append(message)
        if self.refusals:
            raise self.refusals.pop(0)
        self.fired.append(message)
        self.fired_ms = fired_ms

    async def resign(self) -> None:
        self.resigned = True


class FakeServer:
    """One session after the other, each of which gives the next of `leads`, or raises it."""

    def __init__(self) -> None:
        self.config = ServerConfig(url="memory://", exchange="ex", default_routing_key="rk", publish_timeout_seconds=5)
        self.events: list[AnyEvent] = []
        self.hub = EventHub(self)
        self.leads: asyncio.Queue[FakeLead | Exception] = asyncio.Queue()
        self.declared = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_event(self, event: AnyEvent) -> None:
        self.events.append(event)

    async def live_session(self) -> FakeServer:
        return self

    @property
    def schedules(self) -> FakeServer:
        return self

    async def lead(self, exchange: str, name: str) -> FakeLead:
        assert (exchange, name) == ("ex", "s")
        got = await self.leads.get()
        if isinstance(got, Exception):
            raise got
        return got

    async def declare(self, topology: Topology) -> None:
        assert topology == Topology("ex", schedules=("s",))
        self.declared += 1

    def told(self, name: str) -> list[Any]:
        return [event for event in self.events if event.name == name]


class Rig:
    def __init__(self) -> None:
        self.server = FakeServer()
        self.clock = Clock()
        self.scheduler = Scheduler(cast(Server, self.server), (), self.clock)

    def start(self, when: str | float = "* * * * *", misfire: Misfire = "once") -> None:
        periodic = Periodic(Schedule("s", when, None, misfire), "task", (), "queue")
        self.scheduler = Scheduler(cast(Server, self.server), (periodic,), self.clock)
        self.scheduler.start()

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not is_so():
                await asyncio.sleep(0.002)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    rig = Rig()
    yield rig
    await rig.scheduler.close()


def instants(lead: FakeLead) -> list[int]:
    return [(message.headers or {})["x-dispatcher-scheduled-at"] for message in lead.fired]


async def test_what_is_due_is_fired_when_the_clock_shows_it(rig: Rig) -> None:
    """Not before, once, to the task's queue, with name, instant and a uuid made of both."""
    lead = FakeLead()
    rig.server.leads.put_nowait(lead)
    rig.start()
    await rig.until(lambda: rig.server.told("schedule.leading"))
    assert rig.server.told("schedule.leading")[0].next_at_ms == NOON + MINUTE
    rig.clock.now = NOON + MINUTE - 1
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert lead.fired == []
    rig.clock.now = NOON + MINUTE + 4
    await rig.until(lambda: lead.fired)
    rig.clock.now = NOON + 2 * MINUTE
    await rig.until(lambda: len(lead.fired) == 2)
    assert instants(lead) == [NOON + MINUTE, NOON + 2 * MINUTE]
    first = lead.fired[0]
    assert (first.exchange, first.routing_key, first.uuid) == ("ex", "queue", firing_uuid("s", NOON + MINUTE))
    assert (first.headers or {})["x-dispatcher-schedule"] == "s"
    told = rig.server.told("schedule.fired")[0]
    assert (told.late_seconds, told.possibly_doubled) == (0.004, False)


@pytest.mark.parametrize(("misfire", "expected"), [("skip", []), ("once", [3]), ("all", [1, 2, 3])])
async def test_a_downtime_is_made_up_for_as_the_policy_says(rig: Rig, misfire: Misfire, expected: list[int]) -> None:
    """The event says how many were missed and how many are fired now; the next one is fired in any case."""
    lead = FakeLead()
    rig.clock.now = NOON + 3 * MINUTE + 30_000
    rig.server.leads.put_nowait(lead)
    rig.start(misfire=misfire)
    await rig.until(lambda: len(lead.fired) == len(expected) and rig.server.told("schedule.misfired"))
    [told] = rig.server.told("schedule.misfired")
    assert (told.missed, told.fired, told.misfire, told.unseen) == (3, len(expected), misfire, False)
    rig.clock.now = NOON + 4 * MINUTE
    await rig.until(lambda: len(lead.fired) == len(expected) + 1)
    assert instants(lead) == [NOON + n * MINUTE for n in [*expected, 4]]
    assert len(rig.server.told("schedule.misfired")) == 1


async def test_a_new_schedule_owes_what_came_since_it_was_first_seen(rig: Rig) -> None:
    """Nothing from before, and nothing at once."""
    lead = FakeLead(None, since_ms=NOON - 2000)
    rig.server.leads.put_nowait(lead)
    rig.start(1)
    await rig.until(lambda: len(lead.fired) == 2)
    assert instants(lead) == [NOON - 1000, NOON]


async def test_a_refused_firing_is_tried_with_the_same_uuid_until_it_goes(rig: Rig) -> None:
    """It is told once, and the instant is not given up."""
    lead = FakeLead()
    lead.refusals = [Unroutable("no queue"), Unroutable("no queue"), TimeoutError(), Unroutable("no queue")]
    rig.server.leads.put_nowait(lead)
    rig.clock.now = NOON + MINUTE
    rig.start()
    await rig.until(lambda: lead.fired)
    assert {message.uuid for message in lead.tried} == {firing_uuid("s", NOON + MINUTE)}
    assert len(lead.tried) == 5
    assert [event.error for event in rig.server.told("schedule.failed")] == [
        "Unroutable: no queue", "TimeoutError", "Unroutable: no queue",
    ]  # fmt: skip


async def test_a_lost_lead_is_given_up_and_asked_for_again(rig: Rig) -> None:
    """The next lead goes on after the last firing that its broker knows."""
    first, second = FakeLead(), FakeLead(NOON, doubtful=True)
    rig.server.leads.put_nowait(first)
    rig.server.leads.put_nowait(second)
    first.refusals = [ConnectionLost("gone")] * 1000
    rig.clock.now = NOON + MINUTE
    rig.start()
    await rig.until(lambda: first.tried)
    first.lost.set_result(None)
    rig.clock.now = NOON + MINUTE + 2000
    await rig.until(lambda: second.fired)
    assert first.resigned
    assert instants(second) == [NOON + MINUTE]
    rig.clock.now = NOON + 2 * MINUTE
    await rig.until(lambda: len(second.fired) == 2)
    assert [event.possibly_doubled for event in rig.server.told("schedule.fired")] == [True, False]


async def test_what_is_due_long_after_a_leaders_death_is_no_double(rig: Rig) -> None:
    """It cannot have fired what was not due yet."""
    lead = FakeLead(doubtful=True)
    rig.server.leads.put_nowait(lead)
    rig.start()
    await rig.until(lambda: rig.server.told("schedule.leading"))
    rig.clock.now = NOON + MINUTE
    await rig.until(lambda: lead.fired)
    assert not rig.server.told("schedule.fired")[0].possibly_doubled


async def test_a_schedule_without_a_place_is_declared_again(rig: Rig) -> None:
    """Somebody deleted its queue: it is told, declared, and goes on. A fault of ours ends it no more than that."""
    lead = FakeLead()
    for item in (TopologyMissing("no exchange"), RuntimeError("a fault"), lead):
        rig.server.leads.put_nowait(item)
    rig.start()
    rig.clock.now = NOON + MINUTE
    await rig.until(lambda: lead.fired)
    assert rig.server.declared == 1
    assert len(rig.server.told("schedule.failed")) == 2


async def test_a_clock_that_is_put_back_stops_nothing_for_long(rig: Rig) -> None:
    """By seconds: nothing is fired twice. By more than an hour: it goes on from there."""
    lead = FakeLead()
    rig.server.leads.put_nowait(lead)
    rig.start()
    rig.clock.now = NOON + MINUTE
    await rig.until(lambda: lead.fired)
    rig.clock.now = NOON + MINUTE - 5000
    for _ in range(20):
        await asyncio.sleep(0.002)
    rig.clock.now = NOON + MINUTE
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert len(lead.fired) == 1
    rig.clock.now = NOON - 48 * 60 * MINUTE
    for _ in range(20):
        await asyncio.sleep(0.002)
    rig.clock.now += MINUTE
    await rig.until(lambda: len(lead.fired) == 2)
    assert instants(lead)[1] == NOON - 48 * 60 * MINUTE + MINUTE


async def test_closing_lets_go_at_once(rig: Rig) -> None:
    """Leading or trying: nothing is fired any more, and the lead is given away."""
    lead = FakeLead()
    lead.refusals = [Unroutable("no queue")] * 1000
    rig.server.leads.put_nowait(lead)
    rig.clock.now = NOON + MINUTE
    rig.start()
    await rig.until(lambda: lead.tried)
    await asyncio.wait_for(rig.scheduler.close(), DEADLINE_SECONDS)
    assert lead.resigned
    tried = len(lead.tried)
    await asyncio.sleep(0)
    assert len(lead.tried) == tried
