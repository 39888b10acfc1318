"""The link, against a broker that the test plays: whatever becomes of a session, and when, the next one is made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dispatcher.brokers.base import OnEvent, Session
from dispatcher.errors import ConnectionLost, DispatcherError
from dispatcher.runtime.link import Backoff, Link

DEADLINE_SECONDS = 10.0


class PlayedSession:
    """A session that ends when it is told to."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.close_began = asyncio.Event()
        self.may_close = asyncio.Event()
        self.may_close.set()

    def lose(self) -> None:
        self.closed.set_exception(ConnectionLost("the link was cut"))
        self.closed.exception()

    async def close(self) -> None:
        self.close_began.set()
        await self.may_close.wait()
        if not self.closed.done():
            self.closed.set_result(None)


class PlayedBroker:
    """Notes every session that it gave."""

    def __init__(self) -> None:
        self.sessions: list[PlayedSession] = []

    async def connect(self, *, name: str, on_event: OnEvent) -> Session:
        session: Any = PlayedSession()
        self.sessions.append(session)
        return session  # type: ignore[no-any-return]


def never(error: DispatcherError) -> None:
    raise AssertionError(error)


async def no_topology(session: Any) -> None:
    """What a session is prepared with where that does not matter."""


def make_link(
    broker: PlayedBroker,
    prepare: Any,
    *,
    on_give_up: Any = never,
    retries: int | None = None,
    longest_pause_seconds: float = 0.001,
) -> Link:
    return Link(
        broker,
        "test",
        prepare=prepare,
        on_event=lambda event: None,
        on_give_up=on_give_up,
        retries=retries,
        first_pause_seconds=0.001,
        longest_pause_seconds=longest_pause_seconds,
    )


async def test_a_session_that_is_lost_before_anybody_has_it_is_replaced() -> None:
    """It ends in the very moment in which it is ready: the link must not wait for what only it can bring."""
    broker = PlayedBroker()

    async def prepare(session: Any) -> None:
        if len(broker.sessions) == 2:
            session.lose()

    link = make_link(broker, prepare)
    await link.open()
    broker.sessions[0].lose()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(broker.sessions) < 3 or link.session is None:
            await asyncio.sleep(0)
    assert await link.live() is broker.sessions[2]  # type: ignore[comparison-overlap]
    link.stop_reconnecting()
    await link.close()


async def test_a_session_that_is_being_opened_at_the_end_is_closed() -> None:
    """The end of the link waits until what it was just opening is closed."""
    broker = PlayedBroker()
    preparing = asyncio.Event()

    async def prepare(session: Any) -> None:
        if len(broker.sessions) == 2:
            session.may_close.clear()
            preparing.set()
            await asyncio.Event().wait()

    link = make_link(broker, prepare)
    await link.open()
    broker.sessions[0].lose()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await preparing.wait()
        link.stop_reconnecting()
        closing = asyncio.create_task(link.close())
        await broker.sessions[1].close_began.wait()
        assert not closing.done()
        broker.sessions[1].may_close.set()
        await closing
    assert broker.sessions[1].closed.done()


async def test_a_dead_session_is_not_handed_out_at_the_end() -> None:
    """The link is told to end while its session lives, and the session is lost then: who asks must not get that one."""
    broker = PlayedBroker()
    link = make_link(broker, no_topology)
    await link.open()
    link.stop_reconnecting()
    assert await link.live() is broker.sessions[0]  # type: ignore[comparison-overlap]
    broker.sessions[0].lose()
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            await link.live()
    await link.close()
    with pytest.raises(ConnectionLost):
        await link.live()


async def test_a_link_that_comes_and_goes_runs_out_of_retries() -> None:
    """A connection that does not last is a retry that failed, whether or not it was up for a moment."""
    broker = PlayedBroker()
    gave_up: asyncio.Future[DispatcherError] = asyncio.get_running_loop().create_future()
    link = make_link(broker, no_topology, on_give_up=gave_up.set_result, retries=3, longest_pause_seconds=1e9)
    await link.open()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not gave_up.done():
            broker.sessions[-1].lose()
            count = len(broker.sessions)
            while len(broker.sessions) == count and not gave_up.done():
                await asyncio.sleep(0)
    assert len(broker.sessions) == 1 + 3
    assert "after 3 retries" in str(gave_up.result())
    await link.close()


async def test_a_session_that_lasts_gives_all_retries_back() -> None:
    """Losses that lie far apart never add up."""
    broker = PlayedBroker()
    link = make_link(broker, no_topology, retries=1)
    await link.open()
    async with asyncio.timeout(DEADLINE_SECONDS):
        for lost in range(5):
            await asyncio.sleep(0.02)  # twenty times the longest pause
            broker.sessions[lost].lose()
            while len(broker.sessions) == lost + 1 or link.session is None:
                await asyncio.sleep(0)
    link.stop_reconnecting()
    await link.close()


@pytest.mark.parametrize("first_seconds", [0.5, 100.0])
async def test_pauses_grow_up_to_the_longest(first_seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds below which they are drawn; anew from the first after a success."""
    bounds: list[float] = []

    def uniform(least: float, bound: float) -> float:
        bounds.append(bound)
        return 0.0

    monkeypatch.setattr("dispatcher.runtime.link.random.uniform", uniform)
    backoff = Backoff(first_seconds, 30.0)
    for _ in range(8):
        await backoff.pause()
    backoff.begin_anew()
    await backoff.pause()
    first = min(first_seconds, 30.0)
    assert bounds == [min(first * 2**n, 30.0) for n in range(8)] + [first]
