"""A session on a real RabbitMQ, beyond what every broker promises: its refusals, alarms, channels, and its two connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from amqp_wire import Confirms, wire
from rabbitmq_admin import Admin
from rabbitmq_node import PrivateNode
from rabbitmq_url import RabbitMq
from tcp_proxy import TcpProxy, free_port

from dispatcher.amqp import handshake
from dispatcher.amqp.methods import QueueDelete
from dispatcher.amqp.properties import encode_properties
from dispatcher.brokers import open_broker
from dispatcher.brokers.base import Blocked, BrokerEvent, Connected, Consumer, Disconnected, Message, Session, Unblocked
from dispatcher.brokers.rabbitmq import RabbitSession
from dispatcher.brokers.rabbitmq import session as session_module
from dispatcher.brokers.rabbitmq.consuming import RabbitConsumer
from dispatcher.errors import (
    ArgumentError,
    AuthenticationError,
    BrokerBlocked,
    ConfigError,
    ConnectionLost,
    ConsumerCancelled,
    PublishRefused,
    TopologyMismatch,
    TopologyMissing,
)
from dispatcher.model.topology import DEAD_EXCHANGE, Queue, Topology
from dispatcher.runtime.dead_letter import Filter
from dispatcher.runtime.dead_letters import purge, replay

T = TypeVar("T")

EXCHANGE = "sessions"
Q = Queue("q", binding_keys=("q",))
LARGEST_BODY = 2_000
DEADLINE_SECONDS = 20.0


async def soon(what: Awaitable[T]) -> T:
    """The result of `what`, which must come within a deadline that is far beyond what it takes."""
    return await asyncio.wait_for(what, DEADLINE_SECONDS)


def message(
    body: bytes = b"", key: str = "q", *, exchange: str = EXCHANGE, uuid: str = "u", **fields: object
) -> Message:
    return Message(exchange=exchange, routing_key=key, body=body, uuid=uuid, **fields)  # type: ignore[arg-type]


Connect = Callable[..., Awaitable[RabbitSession]]


@pytest.fixture
def events() -> list[BrokerEvent]:
    return []


@pytest.fixture
async def connect(events: list[BrokerEvent]) -> AsyncIterator[Connect]:
    """Opens sessions, which are closed after the test."""
    opened: list[Session] = []

    async def connect(url: str, *queues: Queue) -> RabbitSession:
        session = await soon(open_broker(url).connect(name="test", on_event=events.append))
        assert isinstance(session, RabbitSession)
        opened.append(session)
        if queues:
            await soon(session.declare(Topology(EXCHANGE, queues)))
        return session

    yield connect
    for session in opened:
        await soon(session.close())


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    """A broker that takes small messages only, and may be alarmed."""
    with PrivateNode() as node:
        node.start(f"max_message_size = {LARGEST_BODY}\n")
        yield node


@pytest.fixture
def node_url(node: PrivateNode) -> Iterator[str]:
    node.admin.add_vhost("sessions")
    yield node.url(vhost="sessions")
    node.admin.delete_vhost("sessions")


# --- connecting -----------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_told_at_once_and_without_it(vhost_url: str, connect: Connect) -> None:
    """An `AuthenticationError`, whose text and cause do not hold the password."""
    parts = urlsplit(vhost_url)
    with pytest.raises(AuthenticationError) as caught:
        await connect(f"amqp://guest:s3cret-word@{parts.hostname}:{parts.port}{parts.path}")
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


async def test_a_vhost_that_does_not_exist(rabbitmq: RabbitMq, connect: Connect) -> None:
    """An `AuthenticationError` that names it."""
    with pytest.raises(AuthenticationError, match="no-such-vhost"):
        await connect(rabbitmq.url_of("no-such-vhost"))


async def test_each_host_is_tried_and_named(vhost_url: str, connect: Connect, events: list[BrokerEvent]) -> None:
    """One that is there suffices; where none is, `ConnectionLost` says what became of each."""
    parts = urlsplit(vhost_url)
    dead = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    login = f"amqp://{parts.username}:{parts.password}@"
    await connect(f"{login}{dead[0]},{parts.hostname}:{parts.port},{dead[1]}{parts.path}")
    assert [type(event) for event in events] == [Connected]
    with pytest.raises(ConnectionLost) as caught:
        await connect(f"{login}{','.join(dead)}{parts.path}")
    assert all(host in str(caught.value) for host in dead)


async def test_a_publisher_needs_one_connection_and_a_consumer_a_second(vhost_url: str, connect: Connect) -> None:
    """The second is opened when something is consumed first."""
    parts = urlsplit(vhost_url)
    with TcpProxy(parts.hostname or "", parts.port or 5672) as proxy:
        session = await connect(f"amqp://{parts.username}:{parts.password}@127.0.0.1:{proxy.port}{parts.path}", Q)
        await soon(session.publish(message(b"1")))
        assert proxy.links == 1
        consumers = [await soon(session.consume("q", prefetch=1)) for _ in range(3)]
        assert proxy.links == 2
        assert len(consumers) == 3


async def test_without_a_second_connection_the_first_goes_on(
    vhost_url: str, connect: Connect, events: list[BrokerEvent]
) -> None:
    """Who publishes is not harmed by that nobody can consume; a later try may succeed."""
    parts = urlsplit(vhost_url)
    with TcpProxy(parts.hostname or "", parts.port or 5672) as proxy:
        session = await connect(f"amqp://{parts.username}:{parts.password}@127.0.0.1:{proxy.port}{parts.path}", Q)
        proxy.refuse()
        with pytest.raises(ConnectionLost, match="second connection"):
            await soon(session.consume("q", prefetch=1))
        await soon(session.publish(message(b"1")))
        proxy.resume()
        assert (await soon(anext(await soon(session.consume("q", prefetch=1))))).body == b"1"
    assert [type(event) for event in events[:1]] == [Connected]


# --- publishing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(
    "wrong",
    [{"headers": {"h": "x" * 200_000}}, {"uuid": "x" * 300}, {"key": "k" * 256}, {"priority": 256}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_what_cannot_be_sent_fails_alone(
    vhost_url: str, connect: Connect, opened: bool, wrong: dict[str, object]
) -> None:
    """As the future's exception, whether the channel is open or still being opened; its neighbours are sent."""
    session = await connect(vhost_url, Q)
    if opened:
        await soon(session.publish(message(b"0")))
    before, bad, after = (
        session.publish(message(b"1")),
        session.publish(message(b"2", **wrong)),  # type: ignore[arg-type]
        session.publish(message(b"3")),
    )
    with pytest.raises(ArgumentError):
        await soon(bad)
    await soon(asyncio.gather(before, after))
    assert (await soon(session.inspector.depth("q"))).ready == 2 + opened


async def test_a_missing_exchange_is_told_however_long_its_name(vhost_url: str, connect: Connect) -> None:
    """The broker cuts its sentence off at 255 bytes; that is no reason to end the session."""
    session = await connect(vhost_url, Q)
    with pytest.raises(TopologyMissing):
        await soon(session.publish(message(b"1", exchange="x" * 255)))
    await soon(session.publish(message(b"2")))


async def test_no_right_to_write_is_told(vhost_url: str, vhost: str, broker_admin: Admin, connect: Connect) -> None:
    """The error names the exchange, and publishes to others go on."""
    await connect(vhost_url, Q)
    broker_admin.add_user("reader", "pw", vhost, ("^$", "^other$", "^q$"))
    parts = urlsplit(vhost_url)
    session = await connect(f"amqp://reader:pw@{parts.hostname}:{parts.port}{parts.path}")
    with pytest.raises(PublishRefused, match=EXCHANGE):
        await soon(session.publish(message(b"1")))
    with pytest.raises(TopologyMissing):
        await soon(session.publish(message(b"1", exchange="other")))


async def test_a_message_that_is_too_large_is_refused_and_harms_no_other(node_url: str, connect: Connect) -> None:
    """The broker closes the channel at the first; those beside it are sent again, and the next is not even tried."""
    session = await connect(node_url, Q)
    for _ in range(5):
        sent = [session.publish(message(b"x" * size)) for size in (1, LARGEST_BODY + 1, 2, LARGEST_BODY, 3)]
        results = await soon(asyncio.gather(*sent, return_exceptions=True))
        assert [type(result) for result in results] == [type(None), PublishRefused, *[type(None)] * 3]
    assert (await soon(session.inspector.depth("q"))).ready >= 20
    assert not session.closed.done()


async def test_an_alarm_blocks_publishes_and_nothing_else(
    node: PrivateNode, node_url: str, connect: Connect, events: list[BrokerEvent]
) -> None:
    """What is published then fails at once, acks go on, and what had been sent is accepted after the alarm."""
    session = await connect(node_url, Q)
    await soon(asyncio.gather(*[session.publish(message(b"before")) for _ in range(2)]))
    consumer = await soon(session.consume("q", prefetch=1))
    node.alarm("memory")
    try:
        sent = session.publish(message(b"sent into the alarm"))
        await until(events, Blocked)
        for exchange in (EXCHANGE, "another"):
            with pytest.raises(BrokerBlocked):
                await soon(session.publish(message(b"blocked", exchange=exchange)))
        for _ in range(2):  # the second comes once the broker knows of the first one's ack
            (await soon(anext(consumer))).ack()
    finally:
        node.clear_alarm()
    await soon(sent)
    await until(events, Unblocked)
    await soon(session.publish(message(b"after")))


async def test_a_worker_may_start_during_an_alarm(
    node: PrivateNode, node_url: str, connect: Connect, events: list[BrokerEvent]
) -> None:
    """Although this session has published: it declares on the connection that is not blocked."""
    session = await connect(node_url, Q)
    await soon(session.publish(message(b"before")))
    node.alarm("memory")
    try:
        sent = []
        while not any(isinstance(event, Blocked) for event in events):  # the alarm takes a moment to reach everybody
            sent.append(session.publish(message(b"sent into the alarm")))
            await asyncio.sleep(0.05)
        await soon(session.declare(Topology(EXCHANGE, (Queue("late", ("late",)),))))
        await soon(session.consume("late", prefetch=1))
    finally:
        node.clear_alarm()
    await soon(asyncio.wait(sent))


async def test_more_queues_than_channels(
    vhost_url: str, connect: Connect, events: list[BrokerEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no lost connection, and trying again will not help: it is said, and the others work on."""
    monkeypatch.setattr(handshake, "MAX_CHANNELS", 4)
    session = await connect(vhost_url, *[Queue(f"q{n}", (f"q{n}",)) for n in range(5)])
    consumers = [await soon(session.consume(f"q{n}", prefetch=1)) for n in range(4)]
    with pytest.raises(ConfigError, match="at most 4 channels"):
        await soon(session.consume("q4", prefetch=1))
    await soon(session.publish(message(b"1", key="q3")))
    assert (await soon(anext(consumers[3]))).body == b"1"
    assert not [event for event in events if isinstance(event, Disconnected)]


async def test_a_close_during_an_alarm_is_bounded(
    node: PrivateNode, node_url: str, connect: Connect, events: list[BrokerEvent]
) -> None:
    """The broker reads nothing more of the publishing connection, the goodbye included; what is unsettled is handed back."""
    session = await connect(node_url, Q)
    await soon(session.publish(message(b"held")))
    await soon(anext(await soon(session.consume("q", prefetch=1))))
    node.alarm("disk")
    try:
        sent = session.publish(message(b"unknown"))
        await until(events, Blocked)
        await soon(session.close())
        with pytest.raises(ConnectionLost):
            await soon(sent)
    finally:
        node.clear_alarm()
    other = await connect(node_url)
    assert (await soon(anext(await soon(other.consume("q", prefetch=1))))).body == b"held"


async def test_a_close_waits_for_what_was_published_before_it(vhost_url: str, connect: Connect) -> None:
    """The first publish too, whose channel is not even open yet."""
    session = await connect(vhost_url, Q)
    sent = [session.publish(message(b"%d" % n)) for n in range(200)]
    await soon(session.close())
    assert await soon(asyncio.gather(*sent)) == [None] * 200


async def test_what_an_operator_closes_is_connection_lost(
    vhost_url: str, vhost: str, broker_admin: Admin, connect: Connect
) -> None:
    """For every publish in flight, the iteration, and whatever is asked for then."""
    session = await connect(vhost_url, Q)
    consumer = await soon(session.consume("q", prefetch=1))
    waiter = asyncio.ensure_future(iterate(consumer))
    await soon(session.publish(message(b"accepted")))
    assert broker_admin.close_all_connections(vhost) == 2
    in_flight = session.publish(message(b"in flight"))
    declaring = asyncio.ensure_future(session.declare(Topology(EXCHANGE, (Q, Queue("r")))))
    for broken in (in_flight, declaring, asyncio.shield(session.closed)):
        with pytest.raises(ConnectionLost):
            await soon(broken)
    assert await soon(waiter) <= 1


# --- consuming ------------------------------------------------------------------------------------------------------


async def test_no_right_to_read_is_told(vhost_url: str, vhost: str, broker_admin: Admin, connect: Connect) -> None:
    """A `TopologyMismatch`, not a lost connection: a worker would ask again at once, for ever."""
    await connect(vhost_url, Q)
    broker_admin.add_user("writer", "pw", vhost, ("^$", ".*", "^$"))
    parts = urlsplit(vhost_url)
    session = await connect(f"amqp://writer:pw@{parts.hostname}:{parts.port}{parts.path}")
    with pytest.raises(TopologyMismatch, match="'q'"):
        await soon(session.consume("q", prefetch=1))
    await soon(session.publish(message(b"the session lives")))


async def test_a_deleted_queue_ends_its_consumer_alone(vhost_url: str, connect: Connect) -> None:
    """`ConsumerCancelled`; what it delivered can still be settled, and a new consumer works."""
    session = await connect(vhost_url, Q, Queue("r", binding_keys=("r",)))
    await soon(asyncio.gather(*[session.publish(message(b"%d" % n)) for n in range(3)]))
    consumer = await soon(session.consume("q", prefetch=3))
    held = await soon(anext(consumer))
    async with wire(vhost_url) as operator:
        await operator.call(QueueDelete(queue="q"))
    with pytest.raises(ConsumerCancelled):
        await soon(iterate(consumer))
    held.ack()
    await soon(session.declare(Topology(EXCHANGE, (Q,))))
    await soon(session.publish(message(b"new")))
    assert (await soon(anext(await soon(session.consume("q", prefetch=1))))).body == b"new"
    assert not session.closed.done()


async def test_a_stopped_consumer_leaves_no_channel(vhost_url: str, connect: Connect) -> None:
    """It is closed once everything that came on it is settled, and not before."""
    session = await connect(vhost_url, Q)
    await soon(asyncio.gather(*[session.publish(message(b"%d" % n)) for n in range(3)]))
    for _ in range(3):
        consumer = await soon(session.consume("q", prefetch=3))
        first, second = [await soon(anext(consumer)) for _ in range(2)]
        await soon(consumer.stop())
        first.reject()
        assert consumer.is_alive
        second.reject()
        await soon(ended(consumer))
    await soon(all_ready(session, "q", 3))


@pytest.mark.parametrize("stopped", [False, True])
async def test_many_acks_right_before_a_close_all_count(vhost_url: str, connect: Connect, stopped: bool) -> None:
    """RabbitMQ forgets single acks that a quorum queue has not taken yet when the channel closes: we give it the time."""
    session = await connect(vhost_url, Q)
    await soon(asyncio.gather(*[session.publish(message(b"%d" % n)) for n in range(200)]))
    consumer = await soon(session.consume("q", prefetch=200))
    held = [await soon(anext(consumer)) for _ in range(200)]
    if stopped:
        await soon(consumer.stop())
    for delivery in held[1::2]:
        delivery.ack()
    await soon(session.close())
    other = await connect(vhost_url)
    again = await soon(other.consume("q", prefetch=200))
    bodies = [(await soon(anext(again))).body for _ in range(100)]
    assert bodies == [b"%d" % n for n in range(0, 200, 2)]
    assert (await soon(other.inspector.depth("q"))).ready == 0


async def test_a_stranger_s_headers_are_no_fault(vhost_url: str, connect: Connect) -> None:
    """A field name that is not UTF-8, which RabbitMQ hands on: neither consuming nor browsing fails of it."""
    session = await connect(vhost_url, Q)
    broken = b"\x00\x00\x00\x08\x02\xff\xfeI\x00\x00\x00\x01"
    async with wire(vhost_url) as stranger:
        channel = await soon(stranger.connection.open_channel())
        confirms = Confirms()
        await soon(channel.select_confirms(confirms, return_header="none"))
        accepted = asyncio.get_running_loop().create_future()
        channel.publish(EXCHANGE, "q", encode_properties(headers=broken), b"odd", accepted)
        await soon(accepted)
    [seen] = [seen async for seen in session.inspector.browse("q")]
    assert seen.message.headers == {}
    delivery = await soon(anext(await soon(session.consume("q", prefetch=1))))
    assert (delivery.body, delivery.headers, delivery.uuid) == (b"odd", {}, "")
    delivery.ack()


# --- clocks ---------------------------------------------------------------------------------------------------------


async def test_the_sender_s_clock_turns_an_eta_into_a_delay(
    vhost_url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment of the publish, an hour fast as it may be; whatever becomes of that clock later changes nothing."""
    ahead_seconds = 3_600.0
    monkeypatch.setattr(session_module, "time", lambda: time.time() + ahead_seconds)
    session = await connect(vhost_url, Q)
    consumer = await soon(session.consume("q", prefetch=5))
    now_ms = int((time.time() + ahead_seconds) * 1000)
    earliest = time.monotonic() + 0.3
    await soon(session.publish(message(b"overdue", ready_at_ms=now_ms - 3_600_000)))
    await soon(session.publish(message(b"delayed", ready_at_ms=now_ms + 301)))
    assert (await soon(anext(consumer))).body == b"overdue"
    ahead_seconds = -86_400.0
    assert (await soon(anext(consumer))).body == b"delayed"
    assert time.monotonic() >= earliest


# --- looking around -------------------------------------------------------------------------------------------------


async def test_many_removals_after_a_browse(vhost_url: str, connect: Connect) -> None:
    """All at once, as a replay of dead letters does it: every one is found, and what was not meant stays."""
    session = await connect(vhost_url, Q)
    letters = [message(b"%d" % n, exchange=DEAD_EXCHANGE, uuid=f"u{n}") for n in range(300)]
    await soon(asyncio.gather(*[session.publish(letter) for letter in letters]))
    keys = [seen.key async for seen in session.inspector.browse("q.dead")]
    gone = [session.inspector.remove("q.dead", key) for key in keys[::2]]
    assert await soon(asyncio.gather(*gone)) == [True] * 150
    assert await soon(session.inspector.remove("q.dead", keys[0])) is False
    assert {seen.key async for seen in session.inspector.browse("q.dead")} == set(keys[1::2])


@pytest.mark.parametrize("how", ["purge", "replay"])
async def test_all_dead_letters_are_taken(vhost_url: str, connect: Connect, how: str) -> None:
    """More than one look takes at a time, while those that were taken make room for others."""
    session = await connect(vhost_url, Q)
    letters = [message(b"%d" % n, exchange=DEAD_EXCHANGE, uuid=f"u{n}") for n in range(1000)]
    await soon(asyncio.gather(*[session.publish(letter) for letter in letters]))
    if how == "purge":
        assert await soon(purge(session.inspector, ["q"], Filter())) == 1000
    else:
        assert (await soon(replay(session, ["q"], Filter()))).replayed == 1000
        await soon(all_ready(session, "q", 1000))
    await soon(all_ready(session, "q.dead", 0))


async def test_messages_that_are_alike_are_removed_one_by_one(vhost_url: str, connect: Connect) -> None:
    """Two that differ in nothing have keys of their own."""
    for session in (await connect(vhost_url, Q), await connect(vhost_url)):
        await soon(session.publish(message(b"same", exchange=DEAD_EXCHANGE)))
    keys = [seen.key async for seen in session.inspector.browse("q.dead")]
    assert len(set(keys)) == 2
    assert await soon(session.inspector.remove("q.dead", keys[0])) is True
    assert [seen.message.body async for seen in session.inspector.browse("q.dead")] == [b"same"]


async def iterate(consumer: Consumer) -> int:
    return len([delivery async for delivery in consumer])


async def until(events: list[BrokerEvent], kind: type[BrokerEvent]) -> None:
    async def wait() -> None:
        while kind not in {type(event) for event in events}:
            await asyncio.sleep(0.01)

    await soon(wait())


async def ended(consumer: RabbitConsumer) -> None:
    while consumer.is_alive:
        await asyncio.sleep(0.01)


async def all_ready(session: RabbitSession, queue: str, count: int) -> None:
    while (await session.inspector.depth(queue)).ready != count:
        await asyncio.sleep(0.01)
