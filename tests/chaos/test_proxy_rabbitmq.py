"""Links to RabbitMQ that break in every way networks know, under traffic: told as what they are, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from rabbitmq_stand import SENDERS, stand
from rabbitmq_url import RabbitMq
from tcp_proxy import Direction, TcpProxy

from dispatcher import PublishError

pytestmark = pytest.mark.timeout(120)

FRAME_END = 0xCE
FRAME_OVERHEAD = 8


@pytest.fixture
def proxy(rabbitmq: RabbitMq, vhost_url: str) -> Iterator[TcpProxy]:
    host, _, port = vhost_url.rpartition("@")[2].partition("/")[0].rpartition(":")
    with TcpProxy(host, int(port)) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: TcpProxy, vhost_url: str) -> str:
    """Through the proxy, with the shortest heartbeat that there is, and little time for a handshake."""
    login = vhost_url.partition("://")[2].rpartition("@")[0]
    vhost = vhost_url.rpartition("/")[2]
    return f"amqp://{login}@{proxy.host}:{proxy.port}/{vhost}?heartbeat=1&connection_timeout=2000"


@pytest.mark.parametrize(
    ("direction", "told"),
    [("both", "sign of life"), ("to_client", "sign of life"), ("to_broker", "closed the connection|reset")],
)
async def test_a_stalled_link_is_noticed_and_replaced(
    url: str, proxy: TcpProxy, direction: Direction, told: str
) -> None:
    """No byte passes and nobody says so: two heartbeats later the session is given up, and all is well after the stall."""
    async with stand(url) as one, one.traffic():
        proxy.stall(direction)
        (event,) = await one.recorder.wait_for("broker.disconnected")
        assert any(word in event.error for word in told.split("|"))
        proxy.resume()
        await one.recorder.wait_for("broker.connected", 2)
        await one.recorder.wait_for("worker.started", 2)


@pytest.mark.parametrize("direction", ["to_broker", "to_client"])
async def test_a_reset_in_the_middle_of_a_frame_loses_nothing(url: str, proxy: TcpProxy, direction: Direction) -> None:
    """Half a frame has come through, ten times over: what was on its way is sent again or delivered again."""
    async with stand(url) as one, one.traffic():
        for times in range(1, 11):
            proxy.cut_after(4001 + times, direction)
            await one.recorder.wait_for("worker.started", times + 1)
            await one.more_accepted()
        for event in one.recorder.named("broker.disconnected"):
            assert "reset the connection" in event.error or "closed the connection" in event.error
        assert proxy.cuts >= 10


def frame_end(chunk: bytes) -> int | None:
    """Where the first frame of `chunk` ends, if nothing but whole frames are in it: a body may say what it likes."""
    ends = []
    at = 0
    while at + FRAME_OVERHEAD <= len(chunk):
        at += FRAME_OVERHEAD + int.from_bytes(chunk[at + 3 : at + 7], "big")
        ends.append(at - 1)
    return ends[0] if ends and at == len(chunk) and all(chunk[end] == FRAME_END for end in ends) else None


def frame_size(chunk: bytes) -> int | None:
    """Where the first byte of a frame's size is: inverted, it claims four gigabytes."""
    return None if frame_end(chunk) is None else 3


@pytest.mark.parametrize("where", [frame_end, frame_size])
async def test_a_corrupted_byte_to_us_ends_the_session(url: str, proxy: TcpProxy, where: object) -> None:
    """A frame without its end, or larger than was agreed: FRAME_ERROR, a new session, and nothing is lost."""
    async with stand(url) as one, one.traffic():
        proxy.corrupt(where, "to_client")  # type: ignore[arg-type]
        (event,) = await one.recorder.wait_for("broker.disconnected")
        assert "501" in event.error or "frame" in event.error, event
        await one.recorder.wait_for("worker.started", 2)


@pytest.mark.parametrize("where", [frame_end, frame_size])
async def test_a_corrupted_byte_to_the_broker_ends_the_session(url: str, proxy: TcpProxy, where: object) -> None:
    """The broker says what it thinks of it, or nothing; a new session, and nothing is lost."""
    async with stand(url) as one, one.traffic():
        proxy.corrupt(where, "to_broker")  # type: ignore[arg-type]
        await one.recorder.wait_for("broker.disconnected")
        await one.recorder.wait_for("worker.started", 2)


async def test_a_link_of_one_byte_a_second_stops_nobody_for_ever(url: str, proxy: TcpProxy) -> None:
    """It is alive, and useless: every publish ends at its deadline and says so; when it is fast again, all goes on."""
    async with stand(url, publish_timeout_seconds=2.0) as one, one.traffic():
        proxy.drip(1)
        await one.until(lambda: len(one.failed) >= SENDERS)
        proxy.resume()
        await one.more_accepted()
        assert {type(error).__name__ for error in one.failed} <= {"PublishUnknown", "BrokerUnavailable"}


async def test_a_handshake_of_one_byte_a_second_is_given_up(url: str, proxy: TcpProxy) -> None:
    """A new connection gets no further within its time: that is told, tried again, and succeeds when the link is well."""
    async with stand(url) as one, one.traffic():
        proxy.drip(1)
        proxy.cut()
        events = await one.recorder.wait_for("broker.disconnected", 2)
        assert "expected the AMQP handshake within 2 s" in events[1].error
        proxy.resume()
        await one.recorder.wait_for("broker.connected", 2)


@pytest.mark.parametrize("harm", ["refuse", "mute"])
async def test_a_publish_during_an_outage_ends_at_its_deadline(url: str, proxy: TcpProxy, harm: str) -> None:
    """Nobody listens, or nobody answers: a typed error when its time is over, and the next one succeeds after the outage."""
    async with stand(url, publish_timeout_seconds=1.0) as one:
        uuid = await one.send()
        await one.until(lambda: one.runs[uuid] == 1)
        getattr(proxy, harm)()
        proxy.cut()
        await one.recorder.wait_for("broker.disconnected")
        with pytest.raises(PublishError) as raised:
            await one.send()
        assert type(raised.value).__name__ == "BrokerUnavailable"
        proxy.resume()
        await one.recorder.wait_for("broker.connected", 2)
        uuid = await one.send()
        await one.until(lambda: one.runs[uuid] == 1)


@pytest.mark.parametrize("harm", ["refuse", "mute", "stall"])
async def test_a_close_during_an_outage_is_bounded(url: str, proxy: TcpProxy, harm: str) -> None:
    """Whatever it is doing just then, connecting or waiting for an answer: the server's close comes to its end."""
    async with stand(url) as one:
        getattr(proxy, harm)()
        if harm != "stall":
            proxy.cut()
            await one.recorder.wait_for("broker.disconnected")
        async with asyncio.timeout(50):  # 5 s for each step of it
            await one.server.close()
        await one.server.wait_closed()


async def test_what_runs_while_the_link_is_cut_runs_once(url: str, proxy: TcpProxy) -> None:
    """Its redelivery comes back to the worker where it still runs, and is settled with that run's outcome."""
    async with stand(url) as one:
        uuid = await one.send("hold")
        await one.until(lambda: uuid in one.holding)
        proxy.cut()
        await one.recorder.wait_for("worker.started", 2)
        other = await one.send()
        await one.until(lambda: one.runs[other] == 1)  # what came back came before it
        one.let_go.set()
        await one.until(lambda: one.runs[uuid] == 1)
        await one.server.close()
        assert one.runs[uuid] == 1
        assert not one.recorder.named("task.delivery_lost")
