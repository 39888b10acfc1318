"""Where a message goes on RabbitMQ when it is delayed, retried or sent by somebody else: never to a place that nobody knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from amqp_wire import Wire, soon, wire
from rabbitmq_admin import Admin
from server_bench import Recorder, eventually

from dispatcher import (
    PublishError,
    Queue,
    RetryPolicy,
    Server,
    ServerConfig,
    Task,
    TaskConfig,
    TopologyMissing,
    Unroutable,
    WorkerConfig,
    current_task,
)
from dispatcher.amqp.methods import ExchangeDeclare, ExchangeDelete, QueueBind, QueueDeclare, QueueDelete
from dispatcher.brokers import open_broker
from dispatcher.brokers.base import Broker, Message, Session
from dispatcher.brokers.rabbitmq import declare as declare_module
from dispatcher.brokers.rabbitmq.ladder import LOST_QUEUE, level_names
from dispatcher.model import headers as names
from dispatcher.model.topology import DELAY_EXCHANGE, QueueType, Topology
from dispatcher.runtime.dead_letter import Filter
from dispatcher.runtime.dead_letters import dead_letters, replay

SOON = RetryPolicy(max_attempts=2, backoff="constant", base_seconds=0.2, jitter=False)
HOUR_MS = 3_600_000
MORE_THAN_AT_ONCE = 40
"""RabbitMQ has 32 messages on their way out of a queue: with more that nobody takes, it stands still."""


@pytest.fixture
async def stranger(vhost_url: str) -> AsyncIterator[Wire]:
    """Another program on the same broker."""
    async with wire(vhost_url) as stranger:
        yield stranger


@pytest.fixture
def broker(vhost_url: str) -> Broker:
    return open_broker(vhost_url)


@pytest.fixture
async def session(broker: Broker) -> AsyncIterator[Session]:
    session = await soon(broker.connect(name="test", on_event=lambda event: None))
    yield session
    await soon(session.close())


async def as_a_go_program_declares_it(stranger: Wire) -> None:
    await stranger.call(
        ExchangeDeclare(exchange="ex", type="direct", durable=True),
        QueueDeclare(queue="q", durable=True),
        QueueBind(queue="q", exchange="ex", routing_key="rk"),
    )


# --- ways back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_ladder", [True, False])
async def test_a_retry_waits_in_its_worker_until_there_is_a_way_back(
    vhost: str, vhost_url: str, stranger: Wire, broker_admin: Admin, recorder: Recorder, has_ladder: bool
) -> None:
    """A queue that another program made and nobody has declared with us: a delayed copy would not come back to it.

    The worker says so when it starts; the task is not acked; once somebody has declared the queue the retry is sent.
    """
    await as_a_go_program_declares_it(stranger)
    if has_ladder:
        await stranger.declare(Topology("another", (Queue("another"),)))
    attempts: list[int] = []

    async def flaky() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("fails once")

    async def held() -> tuple[int, int]:
        return (await asyncio.to_thread(broker_admin.counts, vhost))["q"]

    config = ServerConfig(url=vhost_url, exchange="ex", default_routing_key="rk", declare="never", observers=[recorder])
    async with await Server.connect(config) as server:
        worker = await server.new_worker(WorkerConfig("w", "q"), {"flaky": TaskConfig(flaky, retry=SOON)})
        await worker.start()
        (told,) = await recorder.wait_for("topology.differs")
        assert "way back" in told.what and "'q'" in told.what
        await server.publish(Task("flaky", uuid="u"))
        failed = await recorder.wait_for("task.settle_failed", 2)
        assert all("TopologyMissing" in event.error for event in failed)
        await eventually(held, (0, 1))
        await stranger.declare(Topology("ex", (Queue("q", ("rk",), type="classic"),)))
        await recorder.wait_for("task.succeeded")
        await eventually(held, (0, 0))
    assert len(attempts) == 2
    assert await stranger.count(LOST_QUEUE) == 0


async def test_a_copy_without_a_delay_is_returned_where_there_is_no_way(stranger: Wire, session: Session) -> None:
    """To its publisher, who keeps what it is a copy of."""
    await as_a_go_program_declares_it(stranger)
    await soon(session.declare(Topology("another", (Queue("another"),))))
    with pytest.raises(Unroutable):
        await soon(session.publish(Message(DELAY_EXCHANGE, "q", b"", "u")))
    with pytest.raises(TopologyMissing, match="'q'"):
        await soon(session.publish(Message(DELAY_EXCHANGE, "q", b"", "u", ready_at_ms=_in(HOUR_MS))))
    await soon(session.publish(Message(DELAY_EXCHANGE, "another", b"", "u", ready_at_ms=_in(HOUR_MS))))


async def test_what_cannot_be_counted_is_run(
    vhost: str, vhost_url: str, stranger: Wire, broker_admin: Admin, recorder: Recorder
) -> None:
    """A redelivery on a classic queue that another program made: the copy that counts would not come back, so there is none."""
    await as_a_go_program_declares_it(stranger)
    ran: list[str] = []

    async def task() -> None:
        ran.append(current_task().uuid)

    async with wire(vhost_url) as dying:
        channel = await soon(dying.connection.open_channel())
        for number in range(6):
            await stranger.publish("ex", "rk", b'{"uuid":"u%d","name":"task","args":null}' % number)
        for _ in range(4):
            await soon(channel.get("q"))
    config = ServerConfig(url=vhost_url, exchange="ex", default_routing_key="rk", declare="never", observers=[recorder])
    async with await Server.connect(config) as server:
        worker = await server.new_worker(WorkerConfig("w", "q", limit=2), {"task": TaskConfig(task)})
        await worker.start()
        await recorder.wait_for("task.succeeded", 6)
    assert sorted(ran) == [f"u{number}" for number in range(6)]
    assert recorder.named("task.settle_failed") == recorder.named("task.redelivery_counted") == []


async def test_a_way_is_asked_for_once(stranger: Wire, session: Session) -> None:
    """By many at the same time, before anything is known; the question reaches nobody."""
    await stranger.declare(Topology("ex", (Queue("q"),)))
    copies = [Message(DELAY_EXCHANGE, "q", b"%d" % n, "u", ready_at_ms=1) for n in range(3)]
    later = [Message(DELAY_EXCHANGE, "q", b"later", "u", ready_at_ms=_in(HOUR_MS)) for _ in range(100)]
    await soon(asyncio.gather(*[session.publish(copy) for copy in (*copies, *later)]))
    assert await stranger.count("q") == 3
    assert sum([await stranger.count(level) for level in level_names(stranger.features)]) == 100


async def test_a_delay_to_a_key_that_nobody_has_declared_is_unroutable(stranger: Wire, session: Session) -> None:
    """At once, as without a delay: a sender's slip of the pen is no task that waits for ever."""
    await soon(session.declare(Topology("ex", (Queue("q", ("rk",)),))))
    for _ in range(2):
        typos = [Message("ex", "no-such-key", b"", f"u{n}", ready_at_ms=_in(100)) for n in range(3)]
        outcomes = await soon(asyncio.gather(*map(session.publish, typos), return_exceptions=True))
        assert [(type(error), error.uuid) for error in outcomes if isinstance(error, PublishError)] == [
            (Unroutable, message.uuid) for message in typos
        ]
    await soon(session.publish(Message("ex", "rk", b"", "u", ready_at_ms=_in(HOUR_MS))))
    assert sum([await stranger.count(level) for level in level_names(stranger.features)]) == 1


async def test_a_queue_of_another_program_is_reached_by_delays_once_it_is_declared(
    stranger: Wire, session: Session, vhost_url: str
) -> None:
    """A Go worker's queue: whoever names it to Dispatcher, it is used as it is, and every sender reaches it then."""
    await soon(session.declare(Topology("ex", (Queue("q", ("rk",)),))))
    await stranger.call(
        QueueDeclare(queue="go", durable=True), QueueBind(queue="go", exchange="ex", routing_key="go_key")
    )
    await soon(session.publish(Message("ex", "go_key", b"at once", "u")))
    with pytest.raises(Unroutable, match="go_key"):
        await soon(session.publish(Message("ex", "go_key", b"", "u", ready_at_ms=_in(100))))
    await stranger.declare(Topology("ex", (Queue("go", ("go_key",), type="classic"),)))
    async with stranger.consuming("go") as taken:
        await soon(session.publish(Message("ex", "go_key", b"for go", "u", ready_at_ms=_in(100))))
        assert await taken.bodies(2) == [b"at once", b"for go"]


async def test_a_queue_that_is_full_or_gone_holds_up_nobody_else(stranger: Wire, session: Session) -> None:
    """More of its delayed tasks than RabbitMQ has on their way at a time; and a task keeps its exchange and key."""
    full, gone = Queue("full", ("full",), type="classic", max_length=1), Queue("gone", ("gone",))
    await soon(session.declare(Topology("ex", (full, gone, Queue("q", ("rk",))))))
    for key in ("full", "gone"):
        due = [Message("ex", key, b"stuck", "u", ready_at_ms=_in(100)) for _ in range(MORE_THAN_AT_ONCE)]
        await soon(asyncio.gather(*[session.publish(message) for message in due]))
    await stranger.call(QueueDelete(queue="gone"))
    await asyncio.sleep(0.3)  # they are due, and nobody takes them
    consumer = await soon(session.consume("q", prefetch=2))
    await soon(session.publish(Message("ex", "rk", b"task", "u", ready_at_ms=_in(100))))
    task = await soon(anext(consumer))
    assert (task.body, task.exchange, task.routing_key) == (b"task", "ex", "rk")
    await soon(session.publish(Message(DELAY_EXCHANGE, "q", b"retry", "u", ready_at_ms=_in(100))))
    assert (await soon(anext(consumer))).body == b"retry"


async def test_what_came_due_for_a_deleted_queue_is_a_dead_letter_with_a_reason(
    stranger: Wire, session: Session
) -> None:
    """It is listed with the queue it was for, and can be replayed once that is there again."""
    await soon(session.declare(Topology("ex", (Queue("q"), Queue("other")))))
    body = b'{"uuid":"u","name":"task","args":[]}'
    await soon(session.publish(Message(DELAY_EXCHANGE, "q", body, "u", {"mine": 1}, ready_at_ms=_in(300))))
    await stranger.call(QueueDelete(queue="q"))

    async def lost() -> int:
        return await stranger.count(LOST_QUEUE)

    await eventually(lost, 1)
    [letter] = [letter async for letter in dead_letters(session.inspector, [DELAY_EXCHANGE], Filter())]
    assert (letter.uuid, letter.task, letter.queue, letter.reason) == ("u", "task", "q", "rejected")
    assert "'q'" in letter.text and letter.dead_at_ms
    assert letter.headers["mine"] == 1
    report = await soon(replay(session, [DELAY_EXCHANGE], Filter()))
    assert (report.replayed, report.failed) == (0, 1)
    await soon(session.declare(Topology("ex", (Queue("q"),))))
    report = await soon(replay(session, [DELAY_EXCHANGE], Filter()))
    assert (report.replayed, report.failed) == (1, 0)
    await eventually(lost, 0)
    delivery = await soon(anext(await soon(session.consume("q", prefetch=1))))
    assert (delivery.body, delivery.headers.keys()) == (body, {"mine", names.REPLAYED_AT})


# --- the ladder, once -----------------------------------------------------------------------------------------------


async def test_a_session_that_follows_another_does_not_make_the_ladder_anew(
    broker: Broker, stranger: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks whether it is there. Where it is not, it is made: the vhost may have been emptied meanwhile."""
    asked: list[Any] = []
    ask = declare_module._ask

    async def noted(open_channel: Any, methods: Any, **options: Any) -> Any:
        asked.extend(methods)
        return await ask(open_channel, methods, **options)

    monkeypatch.setattr(declare_module, "_ask", noted)
    levels = set(level_names(stranger.features))

    async def levels_declared() -> int:
        asked.clear()
        session = await soon(broker.connect(name="test", on_event=lambda event: None))
        try:
            for queue in ("q", "r"):  # as each worker of a server does
                await soon(session.declare(Topology("ex", (Queue(queue),))))
        finally:
            await soon(session.close())
        declared = [method for method in asked if isinstance(method, QueueDeclare) and not method.passive]
        return len([method for method in declared if method.queue in levels])

    assert await levels_declared() == len(levels)
    assert await levels_declared() == 0
    assert len(asked) < 40
    for harm in (QueueDelete(queue=LOST_QUEUE), ExchangeDelete(exchange="dispatcher.delay.7")):
        await stranger.call(harm)
        assert len(levels) <= await levels_declared() <= 2 * len(levels)
        assert await levels_declared() == 0


# --- priorities -----------------------------------------------------------------------------------------------------


async def test_no_priority_is_four_wherever_a_queue_may_have_priorities(
    broker: Broker, stranger: Wire, session: Session
) -> None:
    """A sender that did not declare the queue does not know; one that did, and knows that it has none, sends none."""
    await stranger.declare(Topology("ex", (Queue("q", ("rk",), type="classic", max_priority=9),)))
    for priority in (5, None, 3):
        await soon(session.publish(Message("ex", "rk", b"%d" % (priority or 0), "u", priority=priority)))
    async with stranger.consuming("q") as taken:
        contents = [(await taken.next())[0] for _ in range(3)]
    assert [content.properties.priority for content in contents] == [5, 4, 3]
    await soon(session.declare(Topology("ex", (Queue("plain", ("plain",), type="classic"),))))
    await soon(session.publish(Message("ex", "plain", b"", "u")))
    async with stranger.consuming("plain") as taken:
        assert (await taken.next())[0].properties.priority is None


# --- headers of strangers -------------------------------------------------------------------------------------------


@pytest.fixture
async def server(vhost_url: str, recorder: Recorder) -> AsyncIterator[Server]:
    queue = Queue("q", ("rk",), type="classic")
    config = ServerConfig(
        url=vhost_url, exchange="ex", default_routing_key="rk", init_queues=[queue], observers=[recorder]
    )
    async with await Server.connect(config) as server:
        yield server


async def test_a_copy_goes_to_its_queue_alone(stranger: Wire, server: Server, recorder: Recorder) -> None:
    """RabbitMQ sends a message to the keys in its header CC, too: its retry and its dead letter are for one queue."""
    await stranger.declare(Topology("ex", (Queue("copies", ("copy", "q")),)))

    async def fails() -> None:
        raise ValueError("every time")

    worker = await server.new_worker(WorkerConfig("w", "q"), {"task": TaskConfig(fails, retry=SOON)})
    await worker.start()
    body = b'{"uuid":"u","name":"task","args":null}'
    await stranger.publish("ex", "rk", body, headers={"CC": ["copy", "q"], "mine": 1})
    await recorder.wait_for("task.dead_lettered")
    assert await stranger.count("q.dead") == 1
    assert await stranger.count("copies") == 1
    assert len(recorder.named("task.failed")) == 2


@pytest.mark.parametrize("type_", ["classic", "quorum"])
async def test_headers_that_the_broker_makes_larger_than_a_frame(
    vhost_url: str, recorder: Recorder, type_: QueueType
) -> None:
    """It notes each hop of a delay and each delivery in them, and sends the whole: that is no fault, and costs no session."""
    queue = Queue("q", ("rk",), type=type_)
    config = ServerConfig(
        url=vhost_url, exchange="ex", default_routing_key="rk", init_queues=[queue], observers=[recorder]
    )
    sizes: list[int] = []

    async def task() -> None:
        sizes.append(len(current_task().headers.get("mine", "")))

    async with await Server.connect(config) as server:
        await server.publish(Task("task", headers={"mine": "x" * 130_500}, delay_seconds=0.7))
        await server.publish(Task("task", delay_seconds=0.8))
        worker = await server.new_worker(WorkerConfig("w", "q"), {"task": TaskConfig(task)})
        await worker.start()
        await recorder.wait_for("task.succeeded", 2)
    assert sorted(sizes) == [0, 130_500]
    assert recorder.named("broker.disconnected") == []


@pytest.mark.parametrize(("size", "fate"), [(110_000, "task.retried"), (130_900, "task.dead_lettered")])
async def test_headers_that_leave_hardly_any_room(
    stranger: Wire, server: Server, recorder: Recorder, size: int, fate: str
) -> None:
    """Ours travel in the same frame: there is less of them, or, in the end, nothing of the sender's."""

    async def fails() -> None:
        raise ValueError("é" * 8_000 + "\U0001f600" * 8_000)

    worker = await server.new_worker(WorkerConfig("w", "q"), {"task": TaskConfig(fails, retry=SOON)})
    await worker.start()
    await stranger.publish("ex", "rk", b'{"uuid":"u","name":"task","args":null}', headers={"mine": "x" * size})
    await recorder.wait_for(fate)
    await recorder.wait_for("task.dead_lettered")
    [letter] = [letter async for letter in dead_letters(server.inspector, ["q"], Filter())]
    assert letter.reason == "failed" and letter.error_type == "ValueError"
    has_room = fate == "task.retried"
    assert ("mine" in letter.headers) is has_room
    assert ("left out" in letter.text) is not has_room
    assert recorder.named("task.settle_failed") == []


def _in(milliseconds: int) -> int:
    return int(time.time() * 1000) + milliseconds


async def test_what_is_delayed_is_counted_on_a_ladder_with_a_hole(session: Session, stranger: Wire) -> None:
    """Somebody deleted one of its levels: the others are shown all the same."""
    await soon(session.declare(Topology("ex", (Queue("q", ("k",)),))))
    hour_ms = time.time_ns() // 1_000_000 + HOUR_MS
    await soon(session.publish(Message("ex", "k", b"", ready_at_ms=hour_ms)))
    await stranger.call(QueueDelete(queue="dispatcher.delay.3"))
    [band] = await soon(session.inspector.delayed())
    assert (band.messages, band.queue) == (1, None)
    assert band.to_seconds is not None and band.to_seconds > 3_600
