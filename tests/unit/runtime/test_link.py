"""The link, against a broker that the test plays: whatever becomes of a session, and when, the next one is made."""

from __future__ import annotations

import asyncio
from typing import Any

from dispatcher.brokers.base import OnEvent, Session
from dispatcher.errors import ConnectionLost, DispatcherError
from dispatcher.runtime.link import Link

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


def make_link(broker: PlayedBroker, prepare: Any) -> Link:
    def give_up(error: DispatcherError) -> None:
        raise AssertionError(error)

    return Link(
        broker,
        "test",
        prepare=prepare,
        on_event=lambda event: None,
        on_give_up=give_up,
        retries=None,
        first_pause_seconds=0.001,
        longest_pause_seconds=0.001,
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
