"""The publishes of one exchange over channels that open late, end early, and answer in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dispatcher.amqp.errors import AmqpError, ChannelGone, PeerLost, reply_error
from dispatcher.amqp.properties import Properties
from dispatcher.brokers.base import Message
from dispatcher.brokers.rabbitmq.publishing import MAX_TRIES, ExchangePublisher, Limits, Publish
from dispatcher.errors import (
    BrokerBlocked,
    ConnectionLost,
    DispatcherError,
    PublishRefused,
    PublishUnknown,
    TopologyMissing,
    Unroutable,
)
from dispatcher.model import headers as names

CLOSED = reply_error(406, "PRECONDITION_FAILED - something")


class FakeState:
    def __init__(self) -> None:
        self.confirms: list[Publish] = []


class FakeChannel:
    """Keeps what is published on it."""

    def __init__(self) -> None:
        self.is_open = True
        self.paused = False
        self.has_room = True
        self.waiting_for_room: list[Callable[[], None]] = []
        self.state = FakeState()
        self.sent: list[tuple[str, str, int, bytes]] = []
        self.listener: Any = None

    async def select_confirms(self, listener: Any, *, return_header: str) -> None:
        assert return_header == names.PUBLISH
        self.listener = listener

    def when_there_is_room(self, callback: Callable[[], None]) -> None:
        self.waiting_for_room.append(callback)

    def make_room(self) -> None:
        self.has_room = True
        waiting, self.waiting_for_room = self.waiting_for_room, []
        for callback in waiting:
            callback()

    @property
    def next_publish(self) -> int:
        return len(self.sent) + 1

    def publish(self, exchange: str, key: str, properties: bytes, body: bytes, waiter: Publish) -> None:
        self.sent.append((exchange, key, Properties(properties).headers[names.PUBLISH], body))
        self.state.confirms.append(waiter)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, _, body in self.sent]

    def confirm(self, *places: int) -> None:
        waiters = [self.state.confirms[place] for place in places or range(len(self.state.confirms))]
        self.state.confirms = [waiter for waiter in self.state.confirms if waiter not in waiters]
        self.listener.confirmed(waiters)

    def end(self, error: AmqpError | None) -> None:
        self.is_open = False
        waiters, self.state.confirms = self.state.confirms, []
        self.listener.lost(waiters, error)


class Bench:
    """A publisher whose channels open when they are told to."""

    def __init__(self, exchange: str = "ex") -> None:
        self.channels: list[FakeChannel] = []
        self.given_up: list[DispatcherError] = []
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.opening_fails: AmqpError | None = None
        self.limits = Limits()
        self.publisher = ExchangePublisher(exchange, self.open, self.limits, self.given_up.append)

    async def open(self) -> Any:
        await self.may_open.wait()
        if self.opening_fails is not None:
            raise self.opening_fails
        self.channels.append(FakeChannel())
        return self.channels[-1]

    def publish(self, *bodies: bytes, exchange: str = "ex") -> list[asyncio.Future[None]]:
        futures = []
        for body in bodies:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            message = Message(exchange, "k", body, body.decode())
            self.publisher.publish(Publish(exchange, message, {}, future, None))
            futures.append(future)
        return futures

    async def opened(self, count: int = 1) -> FakeChannel:
        while len(self.channels) < count or self.channels[-1].listener is None:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self.channels[-1]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def outcomes(futures: list[asyncio.Future[None]]) -> list[Any]:
    """What became of each: None for accepted, "open", or the error's class."""
    return [
        "cancelled"
        if future.cancelled()
        else "open"
        if not future.done()
        else None
        if future.exception() is None
        else type(future.exception())
        for future in futures
    ]


async def test_what_waits_for_the_channel_goes_out_in_order(bench: Bench) -> None:
    """With the numbers that the channel gives; one channel is opened for all."""
    futures = bench.publish(b"1", b"2", b"3")
    channel = await bench.opened()
    futures += bench.publish(b"4")
    assert channel.sent == [("ex", "k", n, b"%d" % n) for n in (1, 2, 3, 4)]
    channel.confirm(2)
    assert outcomes(futures) == ["open", "open", None, "open"]
    channel.confirm()
    assert outcomes(futures) == [None] * 4
    assert len(bench.channels) == 1


async def test_who_gave_up_while_it_waited_is_not_sent(bench: Bench) -> None:
    """And the numbers of the others are right all the same."""
    futures = bench.publish(b"1", b"2", b"3")
    futures[1].cancel()
    channel = await bench.opened()
    assert channel.sent == [("ex", "k", 1, b"1"), ("ex", "k", 2, b"3")]
    channel.confirm()
    assert outcomes(futures) == [None, "cancelled", None]


async def test_a_returned_message_is_unroutable_though_it_is_confirmed(bench: Bench) -> None:
    """The confirm that follows says nothing about a queue."""
    futures = bench.publish(b"1", b"2")
    channel = await bench.opened()
    channel.listener.returned(channel.state.confirms[0], reply_error(312, "NO_ROUTE"))
    channel.confirm()
    assert outcomes(futures) == [Unroutable, None]
    assert futures[0].exception().uuid == "1"  # type: ignore[union-attr]


async def test_a_message_that_came_back_and_is_nobody_s_ends_the_session(bench: Bench) -> None:
    """Else the confirm that follows would make some publish accepted that is in no queue."""
    bench.publish(b"1")
    (await bench.opened()).listener.returned(None, reply_error(312, "NO_ROUTE"))
    assert [type(error) for error in bench.given_up] == [ConnectionLost]


async def test_a_nack_is_a_refusal(bench: Bench) -> None:
    """That may be tried again."""
    futures = bench.publish(b"1")
    channel = await bench.opened()
    channel.listener.refused(channel.state.confirms)
    assert outcomes(futures) == [PublishRefused]
    assert not futures[0].exception().final  # type: ignore[union-attr]


async def test_a_channel_that_ends_for_no_fault_of_a_publish_is_replaced(bench: Bench) -> None:
    """What it left unanswered goes out again, in its order, before what comes after."""
    futures = bench.publish(b"1", b"2", b"3")
    first = await bench.opened()
    first.confirm(1)
    futures[2].cancel()
    first.end(CLOSED)
    futures += bench.publish(b"4")
    second = await bench.opened(2)
    assert second.sent == [("ex", "k", 1, b"1")]
    second.confirm()
    assert second.sent == [("ex", "k", 1, b"1"), ("ex", "k", 2, b"4")]
    second.confirm()
    assert outcomes(futures) == [None, None, "cancelled", None]
    assert bench.given_up == []


async def test_channels_that_end_again_and_again_end_the_session(bench: Bench) -> None:
    """Not for ever: whoever publishes is told that nobody knows."""
    futures = bench.publish(b"1")
    for count in range(1, MAX_TRIES + 1):
        (await bench.opened(count)).end(CLOSED)
    assert outcomes(futures) == [ConnectionLost]
    assert [type(error) for error in bench.given_up] == [ConnectionLost]
    assert len(bench.channels) == MAX_TRIES


async def test_who_makes_the_broker_close_the_channel_is_found_among_many(bench: Bench) -> None:
    """The broker does not say whom it means: sent one at a time it does, and the innocent lose nothing but time."""
    unexplained = reply_error(406, "PRECONDITION_FAILED - no idea", 60, 40)
    futures = bench.publish(b"1", b"2", b"bad", b"3", b"4")
    (await bench.opened()).end(unexplained)
    late = bench.publish(b"5")
    for count in range(2, 2 + MAX_TRIES):
        channel = await bench.opened(count)
        while channel.bodies[-1] != b"bad":
            assert len(channel.state.confirms) == 1
            channel.confirm()
        channel.end(unexplained)
    last = await bench.opened(2 + MAX_TRIES)
    while last.state.confirms:
        last.confirm()
    assert last.bodies == [b"3", b"4", b"5"]
    assert outcomes(futures + late) == [None, None, PublishRefused, None, None, None]
    assert futures[2].exception().final  # type: ignore[union-attr]
    assert bench.given_up == []


async def test_what_is_nacked_makes_room_for_the_next_suspect(bench: Bench) -> None:
    """A refusal is an answer, too."""
    futures = bench.publish(b"1", b"2")
    (await bench.opened()).end(CLOSED)
    second = await bench.opened(2)
    [first], second.state.confirms = second.state.confirms, []
    second.listener.refused([first])
    second.confirm()
    assert outcomes(futures) == [ConnectionLost, None]  # its first try may have been accepted


async def test_an_alarm_ends_the_search_for_a_suspect(bench: Bench) -> None:
    """What waits fails then; what comes after the alarm is sent as ever."""
    futures = bench.publish(b"1", b"2", b"3")
    (await bench.opened()).end(CLOSED)
    second = await bench.opened(2)
    bench.publisher.block("memory")
    bench.publisher.block(None)
    futures += bench.publish(b"4", b"5")
    assert second.bodies == [b"1", b"4", b"5"]
    second.confirm()
    assert outcomes(futures) == [None, ConnectionLost, ConnectionLost, None, None]


NO_EXCHANGE = reply_error(404, "NOT_FOUND - no exchange 'ex' in vhost '/'", 60, 40)


async def test_an_exchange_that_was_there_a_moment_ago_may_have_taken_them(bench: Bench) -> None:
    """Nobody knows which of those in flight came before it was deleted: that is said, and no more."""
    first = bench.publish(b"0")
    channel = await bench.opened()
    channel.confirm()
    futures = bench.publish(b"1", b"2")
    channel.end(NO_EXCHANGE)
    second = await bench.opened(2)
    assert second.bodies == [b"1", b"2"]
    second.end(NO_EXCHANGE)
    late = bench.publish(b"3")
    (await bench.opened(3)).end(NO_EXCHANGE)
    assert outcomes(first + futures + late) == [None, PublishUnknown, PublishUnknown, TopologyMissing]


async def test_the_only_one_in_flight_is_the_one_that_is_refused(bench: Bench) -> None:
    """There is nothing uncertain about it."""
    bench.publish(b"0")
    channel = await bench.opened()
    channel.confirm()
    futures = bench.publish(b"1")
    channel.end(NO_EXCHANGE)
    assert outcomes(futures) == [TopologyMissing]


async def test_an_exchange_that_is_there_again_takes_them(bench: Bench) -> None:
    """Deleted and declared anew, in between: they are accepted, once more perhaps."""
    bench.publish(b"0")
    channel = await bench.opened()
    channel.confirm()
    futures = bench.publish(b"1", b"2")
    channel.end(NO_EXCHANGE)
    (await bench.opened(2)).confirm()
    assert outcomes(futures) == [None, None]


async def test_a_link_that_does_not_keep_up_is_given_no_more(bench: Bench) -> None:
    """What waits goes out in its order when there is room; what was given up meanwhile does not, and is in nobody's way."""
    futures = bench.publish(b"1")
    channel = await bench.opened()
    channel.has_room = False
    futures += bench.publish(b"2", b"3", b"4")
    assert (channel.bodies, len(channel.waiting_for_room)) == ([b"1"], 1)
    futures[1].cancel()
    channel.make_room()
    assert channel.bodies == [b"1", b"3", b"4"]
    futures += bench.publish(b"5")
    channel.confirm()
    assert outcomes(futures) == [None, "cancelled", None, None, None]


async def test_what_ends_the_connection_is_no_refusal_of_a_publish(bench: Bench) -> None:
    """An operator closes it: there is no other channel to be had, and nobody waits for one."""
    futures = bench.publish(b"1", b"2")
    channel = await bench.opened()
    waiting = asyncio.ensure_future(bench.publisher.answered())
    channel.end(reply_error(320, "CONNECTION_FORCED - broker forced connection closure"))
    await asyncio.wait_for(waiting, 10)
    assert outcomes(futures) == [ConnectionLost, ConnectionLost]
    assert len(bench.channels) == 1


async def test_a_lost_connection_fails_what_is_sent_and_what_waits(bench: Bench) -> None:
    """It is not tried again here: there is no connection to try it on."""
    futures = bench.publish(b"1")
    channel = await bench.opened()
    bench.may_open.clear()
    channel.is_open = False
    futures += bench.publish(b"2")
    channel.end(PeerLost("gone"))
    assert outcomes(futures) == [ConnectionLost, ConnectionLost]
    await asyncio.sleep(0)


async def test_a_missing_exchange_dooms_only_what_went_there(bench: Bench) -> None:
    """All rungs of the ladder share a channel: those that exist are published again."""
    bench = Bench("dispatcher.delay")
    futures = bench.publish(b"1", exchange="dispatcher.delay.3") + bench.publish(b"2", exchange="dispatcher.delay.4")
    (await bench.opened()).end(reply_error(404, "NOT_FOUND - no exchange 'dispatcher.delay.4' in vhost '/'"))
    second = await bench.opened(2)
    assert second.bodies == [b"1"]
    second.confirm()
    assert outcomes(futures) == [None, TopologyMissing]


async def test_no_permission_is_a_refusal_for_good(bench: Bench) -> None:
    """To try it again would change nothing."""
    futures = bench.publish(b"1")
    (await bench.opened()).end(reply_error(403, "ACCESS_REFUSED - access to exchange 'ex' refused"))
    assert outcomes(futures) == [PublishRefused]
    assert futures[0].exception().final  # type: ignore[union-attr]


async def test_a_forbidden_rung_dooms_only_what_went_there(bench: Bench) -> None:
    """As a missing one does: the user may write to the others."""
    bench = Bench("dispatcher.delay")
    futures = bench.publish(b"1", exchange="dispatcher.delay.3") + bench.publish(b"2", exchange="dispatcher.delay")
    (await bench.opened()).end(reply_error(403, "ACCESS_REFUSED - access to exchange 'dispatcher.delay' in vhost '/'"))
    second = await bench.opened(2)
    assert second.bodies == [b"1"]
    second.confirm()
    assert outcomes(futures) == [None, PublishRefused]


async def test_only_what_is_too_large_is_refused(bench: Bench) -> None:
    """However often it happens, the others are not counted out; later ones of that size are not even sent."""
    futures = bench.publish(b"small")
    for count in range(1, MAX_TRIES + 2):
        bench.limits.largest_body = None  # another session's publisher, in effect: the broker must be asked
        futures += bench.publish(b"x" * 11)
        channel = await bench.opened(count)
        channel.end(reply_error(406, "PRECONDITION_FAILED - message size 11 is larger than configured max size 10"))
    last = await bench.opened(MAX_TRIES + 2)
    futures += bench.publish(b"y" * 11)
    last.confirm()
    assert outcomes(futures) == [None, *[PublishRefused] * (MAX_TRIES + 2)]
    assert last.bodies == [b"small"]
    assert bench.given_up == []


async def test_an_alarm_fails_what_is_not_sent_yet(bench: Bench) -> None:
    """It is in no queue. What is sent stays open: nobody knows."""
    futures = bench.publish(b"sent")
    channel = await bench.opened()
    bench.may_open.clear()
    channel.is_open = False
    futures += bench.publish(b"waits")
    bench.publisher.block("low on memory")
    assert outcomes(futures) == ["open", BrokerBlocked]
    bench.opening_fails = ChannelGone("no answer within 30 s")
    bench.may_open.set()
    await asyncio.sleep(0.01)
    assert bench.given_up == []  # a broker that is out of memory answers nothing, and is not lost


async def test_no_channel_to_be_had_ends_the_session(bench: Bench) -> None:
    """Without an alarm a broker that opens no channel is lost."""
    bench.opening_fails = ChannelGone("no answer within 30 s")
    futures = bench.publish(b"1")
    while not bench.given_up:
        await asyncio.sleep(0)
    bench.publisher.end(bench.given_up[0])
    assert outcomes(futures) == [ConnectionLost]


async def test_a_paused_channel_takes_nothing(bench: Bench) -> None:
    """`channel.flow`: it may be tried again."""
    bench.publish(b"1")
    channel = await bench.opened()
    channel.paused = True
    assert outcomes(bench.publish(b"2")) == [BrokerBlocked]


async def test_what_was_given_up_before_it_was_sent_needs_no_answer(bench: Bench) -> None:
    """Its caller was cancelled while the channel was being opened: nobody waits for it at the end."""
    bench.may_open.clear()
    futures = bench.publish(b"1", b"2")
    waiting = asyncio.ensure_future(bench.publisher.answered())
    await asyncio.sleep(0)
    for future in futures:
        future.cancel()
    bench.may_open.set()
    await asyncio.wait_for(waiting, 10)
    assert bench.channels[0].sent == []


async def test_the_answers_to_everything_can_be_waited_for(bench: Bench) -> None:
    """Those that are not even sent yet, too."""
    await bench.publisher.answered()
    futures = bench.publish(b"1", b"2")
    waiting = asyncio.ensure_future(bench.publisher.answered())
    channel = await bench.opened()
    assert not waiting.done()
    channel.confirm(0)
    channel.listener.refused(channel.state.confirms[:])
    channel.state.confirms.clear()
    channel.confirm()
    await waiting
    assert outcomes(futures) == [None, PublishRefused]
