"""The delay ladder on a real RabbitMQ: never early, in nobody's way, and nothing lost at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from amqp_wire import Wire, soon, wire

from dispatcher.amqp.events import Content
from dispatcher.amqp.methods import QueueDelete
from dispatcher.brokers.rabbitmq.ladder import LOST_QUEUE, strip
from dispatcher.brokers.rabbitmq.version import ServerVersion, features_of
from dispatcher.model.topology import DELAY_EXCHANGE, Queue, Topology

HOUR_MS = 3_600_000
POLL_SECONDS = 0.05
AT_ONCE = 32
"""How many messages RabbitMQ has on their way out of a queue: with more that nobody takes, that queue stands still."""


@pytest.fixture
async def broker(vhost_url: str) -> AsyncIterator[Wire]:
    async with wire(vhost_url) as broker:
        yield broker


def stripped(content: Content) -> dict[str, object]:
    headers = strip(content.properties.headers)
    return {name: value for name, value in headers.items() if name != "x-test-publish"}


async def until_count(broker: Wire, queue: str, count: int) -> None:
    """Wait for what another process does in its own time."""

    async def reached() -> None:
        while await broker.count(queue) < count:
            await asyncio.sleep(POLL_SECONDS)

    await soon(reached())


async def test_delays_are_never_early_and_leave_no_trace(broker: Wire) -> None:
    """To an exchange and back to a queue, over one level and over several; key, priority and headers are the sender's."""
    await broker.declare(Topology("ex", (Queue("q", binding_keys=("k",)),)))
    due: dict[bytes, float] = {}
    for delay_ms in (1, 100, 250, 700, 1300):
        for exchange, key in (("ex", "k"), (DELAY_EXCHANGE, "q")):
            body = f"{exchange} {delay_ms}".encode()
            due[body] = await broker.publish_delayed(delay_ms, exchange, key, body, headers={"a": 1}, priority=7)
    async with broker.consuming("q") as taken:
        for _ in range(len(due)):
            content, at = await taken.next()
            assert at >= due.pop(content.body)
            assert stripped(content) == {"a": 1}
            assert (content.properties.priority, content.redelivered) == (7, False)
            assert content.routing_key == ("k" if content.body.startswith(b"ex") else "q")
    assert not due


async def test_one_message_goes_through_the_same_levels_again_and_again(broker: Wire) -> None:
    """With its death headers RabbitMQ up to 3.13 would drop it in silence the second time."""
    await broker.declare(Topology("ex", (Queue("q"),)))
    headers: dict[str, object] = {"mine": "kept"}
    async with broker.consuming("q") as taken:
        for _ in range(5):
            await broker.publish_delayed(300, DELAY_EXCHANGE, "q", b"again", headers=headers)
            content, _ = await taken.next()
            headers = stripped(content)
            assert headers == {"mine": "kept"}


async def test_a_short_delay_passes_long_ones(broker: Wire) -> None:
    """Two thousand that wait for an hour, of every priority, hold up nobody."""
    await broker.declare(Topology("ex", (Queue("q"),)))
    for priority in (0, 9):
        await broker.publish_delayed(HOUR_MS, DELAY_EXCHANGE, "q", *[b"hour"] * 1000, priority=priority)
    async with broker.consuming("q") as taken:
        await broker.publish_delayed(200, DELAY_EXCHANGE, "q", b"soon")
        assert await taken.bodies(1) == [b"soon"]


async def test_a_low_priority_is_not_hidden_behind_higher_ones_that_wait_longer(broker: Wire) -> None:
    """What is due on a level goes, whatever else waits there: the order is that of the times."""
    await broker.declare(Topology("ex", (Queue("q"),)))
    async with broker.consuming("q") as taken:
        await broker.publish_delayed(800, DELAY_EXCHANGE, "q", b"low", priority=0)
        await broker.publish_delayed(1600, DELAY_EXCHANGE, "q", b"longer", priority=9)
        await broker.publish_delayed(400, DELAY_EXCHANGE, "q", b"clock")
        assert await taken.bodies(1) == [b"clock"]
        await broker.publish_delayed(800, DELAY_EXCHANGE, "q", b"high", priority=9)  # 400 ms later on the same level
        assert await taken.bodies(3) == [b"low", b"high", b"longer"]


async def test_high_priorities_have_a_ladder_of_their_own_on_4_0_to_4_2(broker: Wire) -> None:
    """It is made beside the other, and leads to the same places."""
    features = features_of(ServerVersion(4, 1, 0))
    await broker.declare(Topology("ex", (Queue("q", binding_keys=("k",)),)), features)
    for priority in (4, 5):
        for exchange, key in (("ex", "k"), (DELAY_EXCHANGE, "q")):
            await broker.publish_delayed(300, exchange, key, b"%d" % priority, priority=priority, features=features)
    assert await broker.count("dispatcher.delay.high.1") == 2
    async with broker.consuming("q") as taken:
        assert sorted(await taken.bodies(4)) == [b"4", b"4", b"5", b"5"]


async def test_what_comes_due_for_nobody_is_parked_and_holds_up_nobody(broker: Wire) -> None:
    """A key that no queue was declared with, sent without asking: other delays and all retries go on."""
    await broker.declare(Topology("ex", (Queue("q", binding_keys=("k",)),)))
    await broker.publish_delayed(50, "ex", "nowhere", *[b"parked"] * 2 * AT_ONCE)
    async with broker.consuming("q") as taken:
        await broker.publish_delayed(200, "ex", "k", b"task")
        await broker.publish_delayed(200, DELAY_EXCHANGE, "q", b"retry")
        assert sorted(await taken.bodies(2)) == [b"retry", b"task"]
    await until_count(broker, LOST_QUEUE, 2 * AT_ONCE)


async def test_a_full_queue_refuses_no_retry_and_holds_up_nobody(broker: Wire) -> None:
    """Its retries wait beside it, delayed or not."""
    await broker.declare(Topology("ex", (Queue("full", max_length=1), Queue("q"))))
    await broker.publish(DELAY_EXCHANGE, "full", *[b"full"] * 2)
    await broker.publish_delayed(50, DELAY_EXCHANGE, "full", *[b"full"] * 2 * AT_ONCE)
    async with broker.consuming("q") as taken:
        await broker.publish_delayed(200, DELAY_EXCHANGE, "q", b"other")
        assert await taken.bodies(1) == [b"other"]
    async with broker.consuming("full") as taken:
        assert await taken.bodies(2) == [b"full"] * 2


async def test_a_retry_to_a_queue_that_was_deleted_is_parked(broker: Wire) -> None:
    """In sight, with its body and its key, and in nobody's way."""
    await broker.declare(Topology("ex", (Queue("gone"), Queue("q"))))
    await broker.publish_delayed(300, DELAY_EXCHANGE, "gone", *[b"parked"] * 2 * AT_ONCE)
    await broker.call(QueueDelete(queue="gone"))
    await until_count(broker, LOST_QUEUE, 2 * AT_ONCE)
    async with broker.consuming("q") as taken:
        await broker.publish_delayed(200, DELAY_EXCHANGE, "q", b"other")
        assert await taken.bodies(1) == [b"other"]
    async with broker.consuming(LOST_QUEUE) as lost:
        content, _ = await lost.next()
        assert (content.body, content.routing_key) == (b"parked", "gone")
