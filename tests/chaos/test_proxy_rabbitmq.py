"""Links to RabbitMQ that break in every way networks know, under traffic: told as what they are, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rabbitmq_node import PrivateNode
from rabbitmq_stand import DEADLINE_SECONDS, SENDERS, stand
from tcp_proxy import Direction, Spoil, TcpProxy

from dispatcher import PublishError, Task, TaskArgument, WorkerConfig

pytestmark = pytest.mark.timeout(120)

FRAME_END = 0xCE
FRAME_OVERHEAD = 8


@pytest.mark.parametrize(
    ("direction", "told"),
    [("both", "sign of life"), ("to_client", "sign of life"), ("to_broker", "closed the connection|reset")],
)
async def test_a_stalled_link_is_noticed_and_replaced(
    proxied: str, proxy: TcpProxy, direction: Direction, told: str
) -> None:
    """No byte passes and nobody says so: two heartbeats later the session is given up, and all is well after the stall."""
    async with stand(proxied) as one, one.traffic():
        async with one.expect("broker.disconnected") as came:
            proxy.stall(direction)
        assert any(word in came[0].error for word in told.split("|")), came
        async with one.expect("broker.connected", "worker.started"):
            proxy.resume()


@pytest.mark.parametrize("direction", ["to_broker", "to_client"])
async def test_a_reset_in_the_middle_of_a_frame_loses_nothing(
    proxied: str, proxy: TcpProxy, direction: Direction
) -> None:
    """Half a frame has come through, ten times over: what was on its way is sent again or delivered again."""
    async with stand(proxied) as one, one.traffic():
        for times in range(10):
            async with one.expect("broker.disconnected", "worker.started"):
                proxy.cut_after(4001 + times, direction)
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
async def test_a_corrupted_byte_to_us_ends_the_session(proxied: str, proxy: TcpProxy, where: Spoil) -> None:
    """A frame without its end, or larger than was agreed: FRAME_ERROR, a new session, and nothing is lost."""
    async with stand(proxied) as one, one.traffic():
        async with one.expect("broker.disconnected", "worker.started") as came:
            proxy.corrupt(where, "to_client")
        assert "frame" in came[0].error, came


@pytest.mark.parametrize("where", [frame_end, frame_size])
async def test_a_corrupted_byte_to_the_broker_ends_the_session(proxied: str, proxy: TcpProxy, where: Spoil) -> None:
    """The broker says what it thinks of it, or nothing; a new session, and nothing is lost."""
    async with stand(proxied) as one, one.traffic():
        async with one.expect("broker.disconnected", "worker.started"):
            proxy.corrupt(where, "to_broker")


async def test_a_link_of_one_byte_a_second_stops_nobody_for_ever(proxied: str, proxy: TcpProxy) -> None:
    """It is alive, and useless: every publish ends at its deadline and says so; when it is fast again, all goes on."""
    async with stand(proxied, publish_timeout_seconds=2.0) as one, one.traffic():
        proxy.drip(1)
        await one.until(lambda: len(one.failed) >= SENDERS)
        proxy.resume()
        await one.more_accepted()
        assert {type(error).__name__ for error in one.failed} <= {"PublishUnknown", "BrokerUnavailable"}


async def test_senders_that_are_faster_than_the_link_do_not_fill_the_memory(
    node: PrivateNode, own_vhost: str, proxy: TcpProxy
) -> None:
    """What does not go out waits unsent, and is dropped when its sender gives up; the link is well once they are gone."""
    url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/{own_vhost}?heartbeat=600"
    async with stand(url, worker=False, publish_timeout_seconds=1.0) as one:
        await one.server.new_worker(WorkerConfig("w", "q", ("rk",)), {})
        proxy.drip(100_000)
        large = [TaskArgument("string", "x" * 50_000)]
        senders = [asyncio.ensure_future(one.server.publish(Task("note", large))) for _ in range(200)]
        await asyncio.wait(senders)
        assert sum(sender.exception() is not None for sender in senders) > 100
        session: Any = await one.server.live_session()
        assert session._publishing._stream.unsent < 1_000_000
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                try:
                    await one.send()
                except PublishError:
                    continue
                break


async def test_a_handshake_of_one_byte_a_second_is_given_up(proxied: str, proxy: TcpProxy) -> None:
    """A new connection gets no further within its time: that is told, tried again, and succeeds when the link is well."""
    async with stand(proxied) as one, one.traffic():
        proxy.drip(1)
        async with one.expect("broker.disconnected"):
            proxy.cut()
        async with one.expect("broker.disconnected") as came:
            pass
        assert "expected the AMQP handshake within 3 s" in came[0].error
        async with one.expect("broker.connected"):
            proxy.resume()


@pytest.mark.parametrize("harm", ["refuse", "mute"])
async def test_a_publish_during_an_outage_ends_at_its_deadline(proxied: str, proxy: TcpProxy, harm: str) -> None:
    """Nobody listens, or nobody answers: a typed error when its time is over, and the next one succeeds after the outage."""
    async with stand(proxied, publish_timeout_seconds=1.0) as one:
        uuid = await one.send()
        await one.until(lambda: one.runs[uuid] == 1)
        getattr(proxy, harm)()
        async with one.expect("broker.disconnected"):
            proxy.cut()
        with pytest.raises(PublishError) as raised:
            await one.send()
        assert type(raised.value).__name__ == "BrokerUnavailable"
        async with one.expect("broker.connected"):
            proxy.resume()
        uuid = await one.send()
        await one.until(lambda: one.runs[uuid] == 1)


@pytest.mark.parametrize("harm", ["refuse", "mute", "stall"])
async def test_a_close_during_an_outage_is_bounded(proxied: str, proxy: TcpProxy, harm: str) -> None:
    """Whatever it is doing just then, connecting or waiting for an answer: the server's close comes to its end."""
    async with stand(proxied) as one:
        getattr(proxy, harm)()
        if harm != "stall":
            async with one.expect("broker.disconnected"):
                proxy.cut()
        async with asyncio.timeout(50):  # 5 s for each step of it
            await one.server.close()
        await one.server.wait_closed()


@pytest.mark.parametrize("task", [None, "hold"])
async def test_a_close_on_a_silent_link_keeps_to_its_grace(
    node: PrivateNode, own_vhost: str, proxy: TcpProxy, task: str | None
) -> None:
    """Nobody has noticed the silence yet, and no answer comes: what runs is cut short, and the connection is given up."""
    url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/{own_vhost}?heartbeat=600"
    async with stand(url) as one:
        if task is not None:
            uuid = await one.send(task)
            await one.until(lambda: uuid in one.holding)
        proxy.stall("both")
        async with asyncio.timeout(25):
            await one.server.close(grace_seconds=0.5)
    assert len(one.recorder.named("task.handed_back")) == (0 if task is None else 1)


async def test_what_runs_while_the_link_is_cut_runs_once(proxied: str, proxy: TcpProxy) -> None:
    """Its redelivery comes back to the worker where it still runs, and is settled with that run's outcome."""
    async with stand(proxied) as one:
        uuid = await one.send("hold")
        await one.until(lambda: uuid in one.holding)
        async with one.expect("worker.started"):
            proxy.cut()
        other = await one.send()
        await one.until(lambda: one.runs[other] == 1)  # what came back came before it
        one.let_go.set()
        await one.until(lambda: one.runs[uuid] == 1)
        await one.server.close()
        assert one.runs[uuid] == 1
        assert not one.recorder.named("task.delivery_lost")
