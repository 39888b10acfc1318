"""Which task comes first, which comes too late, and which comes to a worker that does not know it: on every broker."""

from __future__ import annotations

import asyncio
import random

import pytest
from rabbitmq_url import RabbitMq
from server_bench import Bench, Recorder

from dispatcher import Dispatcher, Queue, RetryPolicy, Server, Task, TaskConfig, WorkerConfig, current_task
from dispatcher.brokers.rabbitmq.version import features_of, server_version


@pytest.fixture
def prioritized(kind: str, request: pytest.FixtureRequest) -> Queue:
    """A queue that orders by priority on this broker, of the default type where that does."""
    if kind != "rabbitmq":
        return Queue("q")
    rabbitmq: RabbitMq = request.getfixturevalue("rabbitmq")
    features = features_of(server_version({"version": rabbitmq.version}))
    return Queue("q") if features.quorum_priorities == "strict" else Queue("q", type="classic", max_priority=9)


async def test_higher_priorities_run_first(url: str, prioritized: Queue) -> None:
    """All ten of them, each in the order it was sent; none counts as 4."""
    app, ran = Dispatcher(url), list[tuple[int, int]]()

    @app.task(queue=prioritized)
    async def task(priority: int, number: int) -> None:
        ran.append((priority, number))

    wanted: list[tuple[int | None, int]] = [(priority, n) for priority in (*range(10), None) for n in range(3)]
    shuffled = sorted(wanted, key=lambda one: (one[1], random.random()))
    async with app:
        for priority, number in shuffled:
            shown = 4 if priority is None else priority
            await task.options(priority=priority).send(shown, number)
        await app.run_worker(limit=1, burst=True)
    assert [priority for priority, _ in ran] == sorted((4 if one is None else one for one, _ in wanted), reverse=True)
    for priority in {*range(10)} - {4}:
        assert [number for one, number in ran if one == priority] == [0, 1, 2]


async def test_a_retry_keeps_its_priority(url: str, prioritized: Queue) -> None:
    """It goes before what is lower when it comes back."""
    app, ran = Dispatcher(url), list[str]()
    back = asyncio.Event()

    @app.task(queue=prioritized, retry=RetryPolicy(max_attempts=2, backoff=[0.2], jitter=False))
    async def high() -> None:
        ran.append(f"high {current_task().attempt}")
        if current_task().attempt == 1:
            raise ValueError
        back.set()

    @app.task(queue=prioritized)
    async def low() -> None:
        if not back.is_set():
            await asyncio.sleep(0.05)
        ran.append("low")

    async with app:
        for _ in range(40):
            await low.options(priority=1).send()
        await high.options(priority=8).send()
        await app.run_worker(limit=1, burst=True)
    assert ran[0] == "high 1" and "high 2" in ran[1:-1]


@pytest.mark.parametrize(
    "options",
    [{"expires_seconds": 0.1, "delay_seconds": 0.6}, {"expires_seconds": 0.0}],
    ids=["while it was delayed", "at once"],
)
async def test_what_expired_is_parked_and_never_runs(
    bench: Bench, recorder: Recorder, options: dict[str, float]
) -> None:
    """Whatever it waited for."""
    ran: list[str] = []

    async def task() -> None:
        ran.append(current_task().uuid)

    await bench.worker(task=TaskConfig(task))
    receipt = await bench.server.publish(Task("task", **options))  # type: ignore[arg-type]
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert (dead.uuid, dead.reason, ran) == (receipt.uuid, "expired", [])


async def test_a_retry_that_comes_after_the_expiry_is_parked(bench: Bench, recorder: Recorder) -> None:
    """The expiry is the sender's, and is not put off by failures."""

    async def task() -> None:
        raise ValueError

    await bench.worker(task=TaskConfig(task, retry=RetryPolicy(backoff=[1.5], jitter=False)))
    await bench.server.publish(Task("task", expires_seconds=1))
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.attempt) == ("expired", 2)


async def test_what_started_in_time_may_end_later(bench: Bench, recorder: Recorder) -> None:
    """An expiry is no timeout."""

    async def task() -> None:
        await asyncio.sleep(0.6)

    await bench.worker(task=TaskConfig(task))
    await bench.server.publish(Task("task", expires_seconds=0.5))
    await recorder.wait_for("task.succeeded")


async def test_a_rolling_deploy_parks_nothing(bench: Bench, recorder: Recorder, kind: str) -> None:
    """Old workers and new ones on one queue: what the old ones do not know is run by the new ones, without a hot loop."""
    ran: list[str] = []

    async def old() -> None:
        await asyncio.sleep(0.01)

    async def new() -> None:
        ran.append(current_task().uuid)
        await asyncio.sleep(0.01)

    first = await bench.worker(name="old", limit=2, task=TaskConfig(old))
    server: Server = bench.server
    receipts = await server.publish_many(Task("new") for _ in range(6))
    await recorder.wait_for("task.unknown", 6)  # all came to the old one first
    worker = await server.new_worker(WorkerConfig("new", "q", (), 2), {"task": TaskConfig(old), "new": TaskConfig(new)})
    await worker.start()
    receipts += await server.publish_many(Task("new") for _ in range(6))
    await recorder.wait_for("task.succeeded", 6)  # while both are there
    await first.close()
    await recorder.wait_for("task.succeeded", 12)
    assert sorted(ran) == sorted(receipt.uuid for receipt in receipts)
    assert recorder.named("task.dead_lettered") == []
    offers = recorder.named("task.unknown")
    assert all(offer.delay_seconds >= 1 for offer in offers)
    await bench.becomes(0, 0, 0, 0)
