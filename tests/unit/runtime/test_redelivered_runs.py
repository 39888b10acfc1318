"""A run goes on while its session is lost: whenever that happens, its redelivery is held for it and not run beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher import Server, ServerConfig, Task, TaskConfig, WorkerConfig
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.errors import ConnectionLost, ConsumerCancelled

DEADLINE_SECONDS = 10.0


class CancelledConsumer:
    """A consumer that the broker ends by itself after one delivery."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._delivered = False
        self.delivery_timeout_seconds = None
        self.stop = consumer.stop

    def __aiter__(self) -> CancelledConsumer:
        return self

    async def __anext__(self) -> Any:
        if self._delivered:
            raise ConsumerCancelled("its queue is not available")
        self._delivered = True
        return await anext(self._consumer)


class Again:
    """Another delivery of the same message."""

    def __init__(self, delivery: Any, *, redelivered: bool, **headers: Any) -> None:
        self.body, self.queue = delivery.body, delivery.queue
        self.redelivered, self.headers = redelivered, headers


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    config = ServerConfig(url="memory://", exchange="x", default_routing_key="k", reconnection_interval_seconds=0.001)
    async with await Server.connect(config, broker=MemoryBroker()) as server:
        yield server


async def test_a_session_that_ends_between_two_consumers_runs_nothing_twice(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker ends the consumer; while the worker waits to consume again the session is lost, too."""
    go_on, runs = asyncio.Event(), asyncio.Queue[str]()
    session: Any = await server.live_session()
    consume = session.consume

    async def consume_once(queue: str, *, prefetch: int) -> CancelledConsumer:
        return CancelledConsumer(await consume(queue, prefetch=prefetch))

    async def declare(topology: object) -> None:
        """The worker has seen its consumer's end: the session is lost before there is another."""
        session.lose()
        raise ConnectionLost("the link was cut")

    async def task() -> None:
        runs.put_nowait("run")
        await go_on.wait()

    worker = await server.new_worker(WorkerConfig("w", "q", ("k",)), {"task": TaskConfig(task)})
    monkeypatch.setattr(session, "consume", consume_once)
    monkeypatch.setattr(session, "declare", declare)
    await worker.start()
    await server.publish(Task("task"))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await runs.get()
        while (await server.live_session()) is session or (await server.inspector.depth("q")).unacked != 1:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        go_on.set()
        while (depth := await server.inspector.depth("q")).unacked or depth.ready:
            await asyncio.sleep(0.001)
    assert runs.empty(), "the redelivery was run beside the run that it is of"


@pytest.mark.parametrize(
    ("redelivered", "headers", "adopted"),
    [
        (True, {}, True),
        (False, {"x-dispatcher-redeliveries": 1}, True),
        (False, {}, False),
        (True, {"x-dispatcher-attempt": 2}, False),
    ],
    ids=["redelivery", "counted by another worker", "another task alike", "another attempt"],
)
async def test_what_is_the_same_message_and_what_only_looks_alike(
    server: Server, redelivered: bool, headers: dict[str, Any], adopted: bool
) -> None:
    """On a classic queue another worker may count the redelivery first: a copy, not redelivered, is in its place."""
    running, go_on = asyncio.Event(), asyncio.Event()

    async def task() -> None:
        running.set()
        await go_on.wait()

    worker = await server.new_worker(WorkerConfig("w", "q", ("k",)), {"task": TaskConfig(task)})
    await worker.start()
    await server.publish(Task("task"))
    await asyncio.wait_for(running.wait(), DEADLINE_SECONDS)
    [run] = worker.runs._runs
    delivery, session = run.item.delivery, run.item.session
    another: Any = object()
    worker.runs.orphan(another)
    again: Any = Again(delivery, redelivered=redelivered, **headers)
    assert worker.runs.adopt(another, again) is adopted
    assert (run.item.delivery is again) is adopted
    run.item = run.item.brought_by(delivery, session)
    go_on.set()
    await server.close()
