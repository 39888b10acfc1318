"""Which task a worker runs next: the one of the highest priority, on every broker and kind of queue that has priorities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from rabbitmq_url import RabbitMq
from server_bench import Recorder

from dispatcher import ConfigError, Dispatcher, Queue, RetryPolicy, Task, current_task
from dispatcher.brokers.rabbitmq.version import features_of, server_version


@pytest.fixture
async def app(kind: str, url: str, recorder: Recorder, request: pytest.FixtureRequest) -> AsyncIterator[Dispatcher]:
    """Its queue orders by priority: by itself, and before RabbitMQ 4.3 as a classic queue that asks for it."""
    queue = Queue("default")
    if kind == "rabbitmq":
        rabbitmq: RabbitMq = request.getfixturevalue("rabbitmq")
        if features_of(server_version({"version": rabbitmq.version})).quorum_priorities != "strict":
            queue = Queue("default", type="classic", max_priority=9)
    yield Dispatcher(url, init_queues=[queue], observers=[recorder])


async def worked(app: Dispatcher, recorder: Recorder, count: int) -> None:
    """Run a worker with one slot until `count` tasks succeeded."""
    running = asyncio.create_task(app.run_worker(limit=1))
    await recorder.wait_for("task.succeeded", count)
    running.cancel()
    await asyncio.wait([running])


async def test_higher_goes_first_and_equal_ones_in_order(app: Dispatcher, recorder: Recorder) -> None:
    """0 to 9, each of them; what has none counts as 4 and keeps its place among the fours."""
    ran: list[str] = []

    @app.task
    async def task(name: str) -> None:
        ran.append(name)

    async with app:
        for priority in (0, 3, 9, None, 4, 1, None, 5, 7, 2, 8, 6):
            name = f"{priority} {ran.__len__()}" if priority is None else str(priority)
            await task.options(priority=priority).send(name)
        await task.send("4 again")
        await worked(app, recorder, 13)
    assert ran == ["9", "8", "7", "6", "5", "None 0", "4", "None 0", "4 again", "3", "2", "1", "0"]


async def test_a_retry_and_a_delay_keep_the_priority(app: Dispatcher, recorder: Recorder) -> None:
    """A copy is as urgent as what it is a copy of, and a delayed task when its time has come."""
    ran: list[str] = []

    @app.task(retry=RetryPolicy(max_attempts=2, base_seconds=0.01, jitter=False))
    async def task(name: str) -> None:
        if name == "low, late" and len(ran) < 2:
            await recorder.wait_for("task.retried")
            depth = app.server.inspector.depth
            while (await depth("default")).ready < 3:  # the retry and the delayed one are there
                await asyncio.sleep(0.01)
        ran.append(f"{name} {current_task().attempt}")
        if name == "urgent" and current_task().attempt == 1:
            raise ValueError("again")

    async with app:
        await task.options(priority=9).send("urgent")
        await task.options(priority=1).send("low, late")
        await task.options(priority=2).send("second last")
        await task.options(priority=8, delay_seconds=0.3).send("delayed")
        await worked(app, recorder, 4)
    assert ran[0] == "urgent 1"
    assert set(ran) == {"urgent 1", "urgent 2", "delayed 1", "second last 1", "low, late 1"}
    assert recorder.named("task.dead_lettered") == []


@pytest.mark.parametrize("priority", [-1, 10, 255, 4.0, "4", True])
async def test_out_of_range_is_refused_before_anything_is_sent(
    app: Dispatcher, recorder: Recorder, priority: int
) -> None:
    """A `ConfigError` that says what was expected, at a send and in a `Task`."""

    @app.task
    async def task() -> None: ...

    async with app:
        with pytest.raises(ConfigError, match="0 to 9"):
            await task.options(priority=priority).send()
        with pytest.raises(ConfigError, match="0 to 9"):
            await app.publish(Task("task", priority=priority))
    assert recorder.named("task.published") == []
