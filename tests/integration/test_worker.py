"""A worker's limits and lifecycle: slots, overrunning functions, lost sessions, draining."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from server_bench import DEADLINE_SECONDS, Bench, Recorder

from dispatcher import (
    ConfigError,
    Dispatcher,
    RetryPolicy,
    Task,
    TaskArgument,
    TaskConfig,
    Unroutable,
    WorkerConfig,
    WorkerExhausted,
    current_task,
)
from dispatcher.runtime.slots import Slots


class Gauge:
    """Counts what runs at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


@pytest.mark.parametrize("kind", ["coroutine", "thread", "retried"])
async def test_never_more_than_limit_run(bench: Bench, recorder: Recorder, kind: str) -> None:
    """With 60 waiting tasks and a limit of 3, three run at once and never four."""
    gauge = Gauge()

    async def coroutine() -> None:
        with gauge:
            await asyncio.sleep(0.005)

    def thread() -> None:
        with gauge:
            time.sleep(0.005)

    async def retried() -> None:
        with gauge:
            await asyncio.sleep(0.005)
            if current_task().attempt == 1:
                raise ValueError("once")

    tasks = {
        "coroutine": TaskConfig(coroutine),
        "thread": TaskConfig(thread),
        "retried": TaskConfig(retried, retry=RetryPolicy(max_attempts=2, base_seconds=0)),
    }
    worker = await bench.worker(limit=3, start=False, **tasks)
    await bench.server.publish_many([Task(kind) for _ in range(60)])
    await worker.start()
    await recorder.wait_for("task.succeeded", 60)
    assert gauge.most == 3


async def test_workers_of_one_slots_share_its_limit() -> None:
    """Slots are handed on in the order of waiting, and a cancelled waiter passes its place on."""
    slots = Slots(1)
    assert slots.try_take()
    order: list[int] = []

    async def taker(number: int) -> None:
        await slots.take()
        order.append(number)

    takers = [asyncio.create_task(taker(number)) for number in range(3)]
    await asyncio.sleep(0)
    takers[0].cancel()
    slots.give()
    await asyncio.wait([takers[1]])
    slots.give()
    await asyncio.wait([takers[2]])
    assert order == [1, 2]
    slots.give()
    assert slots.taken == 0
    assert takers[0].cancelled()


async def test_at_the_bound_of_overrunning_functions_nothing_new_is_taken(url: str, recorder: Recorder) -> None:
    """Two functions that never end, a limit of two: the worker takes nothing more, and asks to be replaced."""
    never = threading.Event()
    app = Dispatcher(url, observers=[recorder])

    @app.task(timeout_seconds=0.05)
    def stuck() -> None:
        never.wait(60)

    @app.task
    async def later() -> None: ...

    try:
        async with app:
            await stuck.send()
            await stuck.send()
            running = asyncio.create_task(app.run_worker(limit=2))
            await recorder.wait_for("worker.full")
            await later.send()
            with pytest.raises(WorkerExhausted):
                await asyncio.wait_for(running, DEADLINE_SECONDS)
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (await app.server.inspector.depth("default")).ready != 3:
                    await asyncio.sleep(0.01)
            assert recorder.named("task.succeeded") == []
    finally:
        never.set()


async def test_a_lost_session_is_replaced_and_the_run_settles_its_redelivery(bench: Bench, recorder: Recorder) -> None:
    """The link breaks under a running task: it goes on, its redelivery is not run again, and is acked by its end."""
    started, go_on = asyncio.Event(), asyncio.Event()
    runs: list[int] = []

    async def task(number: int) -> None:
        runs.append(number)
        started.set()
        await go_on.wait()

    await bench.worker(limit=2, task=TaskConfig(task))
    await bench.server.publish(Task("task", [TaskArgument("int", 7)]))
    await started.wait()
    session = await bench.server.live_session()
    await bench.lose(session)
    await recorder.wait_for("worker.started", 2)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await bench.depth())[:2] != (0, 1):
            await asyncio.sleep(0.01)
        go_on.set()
        while (await bench.depth())[:2] != (0, 0):
            await asyncio.sleep(0.01)
    assert runs == [7]
    assert recorder.named("task.delivery_lost") == []


async def test_a_run_that_ends_without_its_session_acks_nothing(bench: Bench, recorder: Recorder) -> None:
    """Ended between the loss and the redelivery: the stale ack is dropped, and the task runs a second time."""
    started = asyncio.Event()
    go_on = asyncio.Event()
    redelivered: list[bool] = []

    async def task() -> None:
        redelivered.append(current_task().redelivered)
        started.set()
        await go_on.wait()

    await bench.worker(task=TaskConfig(task))
    await bench.server.publish(Task("task"))
    await started.wait()
    session = await bench.server.live_session()
    lost = asyncio.create_task(bench.lose(session))
    await asyncio.wait([session.closed])
    go_on.set()
    await lost
    await recorder.wait_for("task.succeeded", 1)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await bench.depth())[:2] != (0, 0):
            await asyncio.sleep(0.01)
    assert redelivered in ([False], [False, True])
    assert len(recorder.named("task.delivery_lost")) == len(redelivered) - 1


async def test_tasks_may_publish_while_the_server_closes(bench: Bench, recorder: Recorder) -> None:
    """A drain waits for running tasks, which may still publish; nobody else may."""
    started, go_on = asyncio.Event(), asyncio.Event()
    server = bench.server

    async def parent() -> None:
        started.set()
        await go_on.wait()
        await server.publish(Task("child"))

    await bench.worker(parent=TaskConfig(parent))
    await server.publish(Task("parent"))
    await started.wait()
    closing = asyncio.create_task(server.close())
    await recorder.wait_for("worker.draining")
    with pytest.raises(Exception, match="closed or closing"):
        await server.publish(Task("outsider"))
    go_on.set()
    await closing
    assert [event.task for event in recorder.named("task.published")] == ["parent", "child"]
    assert [event.task for event in recorder.named("task.succeeded")] == ["parent"]


async def test_closing_twice_and_starting_twice_are_fine(bench: Bench) -> None:
    """Both lifecycles are idempotent; a closed worker is not started again."""
    worker = await bench.worker()
    await worker.start()
    await asyncio.gather(worker.close(), worker.close())
    await worker.close()
    await asyncio.gather(bench.server.close(), bench.server.close())
    await bench.server.wait_closed()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"queue": "q"}, "worker name"),
        ({"name": "w"}, "queue of worker"),
        ({"name": "w", "queue": "q", "limit": 0}, "limit"),
        ({"name": "w", "queue": "q", "limit": True}, "limit"),
        ({"name": "w", "queue": "q", "limit": 8, "prefetch": 0}, "prefetch"),
        ({"name": "w", "queue": "q", "binding_keys": "key"}, "binding_keys"),
        ({"name": "w", "queue": "q" * 251}, "250 bytes"),
    ],
)
def test_a_worker_config_that_cannot_work_says_why(values: dict[str, object], said: str) -> None:
    """Bad configuration is refused when it is written, with the field's name."""
    with pytest.raises(ConfigError, match=said):
        WorkerConfig(**values)  # type: ignore[arg-type]


async def test_a_worker_without_binding_keys_is_bound_to_nothing(bench: Bench) -> None:
    """At the explicit level a queue's own name is no binding key."""
    await bench.server.new_worker(WorkerConfig("w", "alone"), {})
    with pytest.raises(Unroutable):
        await bench.server.publish(Task("task", routing_key="alone"))
