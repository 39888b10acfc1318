"""A worker's limits and lifecycle: slots, overrunning functions, lost sessions, draining."""

from __future__ import annotations

import asyncio
import threading
import time
from urllib.parse import urlsplit

import pytest
from server_bench import DEADLINE_SECONDS, Bench, Recorder
from tcp_proxy import TcpProxy

from dispatcher import (
    BrokerBlocked,
    BrokerUnavailable,
    ConfigError,
    Dispatcher,
    PublishRefused,
    Queue,
    RetryPolicy,
    Server,
    ServerConfig,
    Task,
    TaskArgument,
    TaskConfig,
    TopologyMismatch,
    Unroutable,
    WorkerConfig,
    WorkerExhausted,
    current_task,
)
from dispatcher.brokers.base import Message
from dispatcher.model.topology import DEAD_EXCHANGE
from dispatcher.runtime import runs as runs_module
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
    await bench.becomes(0, 1)
    go_on.set()
    await bench.becomes(0, 0)
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
    await bench.becomes(0, 0)
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


@pytest.mark.parametrize("kind", ["memory", "sqlite", "rabbitmq", "rabbitmq-classic"])
async def test_a_redelivery_is_adopted_even_when_every_slot_is_taken(
    bench: Bench, recorder: Recorder, kind: str
) -> None:
    """All slots are taken by runs whose session was lost: their redeliveries need no slot, and none runs twice.

    On a classic queue the worker counts what it had not begun, and not what goes on.
    """
    go_on = asyncio.Event()
    runs: list[int] = []

    async def task(number: int) -> None:
        runs.append(number)
        await go_on.wait()

    worker = await bench.server.new_worker(
        WorkerConfig("w", "q", ("rk",), limit=2, prefetch=4), {"task": TaskConfig(task)}
    )
    await worker.start()
    for number in range(4):
        await bench.server.publish(Task("task", [TaskArgument("int", number)]))
    await recorder.wait_for("task.started", 2)
    await bench.lose(await bench.server.live_session())
    await recorder.wait_for("worker.started", 2)
    await bench.becomes(0, 4)
    go_on.set()
    await recorder.wait_for("task.succeeded", 4)  # a copy on its way through another queue is not in this one
    await bench.becomes(0, 0)
    assert sorted(runs) == [0, 1, 2, 3]
    assert len(recorder.named("task.redelivery_counted")) == (2 if kind == "rabbitmq-classic" else 0)


async def test_overrunning_functions_are_bounded(bench: Bench, recorder: Recorder) -> None:
    """With one slot and room for one overrunning function, a second that waits does not begin until one ends."""
    go_on = threading.Event()
    gauge = Gauge()

    def stuck() -> None:
        with gauge:
            go_on.wait(60)

    worker = await bench.server.new_worker(
        WorkerConfig("w", "q", ("rk",), limit=1, prefetch=8, max_overrunning=1),
        {"stuck": TaskConfig(stuck, timeout_seconds=0.05)},
    )
    await bench.server.publish_many([Task("stuck") for _ in range(4)])
    try:
        await worker.start()
        (full,) = await recorder.wait_for("worker.full")
        assert full.overrunning == 1
        session = await bench.server.live_session()
        for _ in range(3):  # whatever would begin now has had its turn of the loop and of the broker
            await session.inspector.depth("q")
        assert gauge.most == 1
    finally:
        go_on.set()
    await recorder.wait_for("task.succeeded", 4)
    assert gauge.most == 1


async def test_a_cut_copy_is_handed_back(url: str, recorder: Recorder) -> None:
    """Closed without grace while a dead letter is not accepted: the delivery goes back, it is not left held."""
    app = Dispatcher(url, observers=[recorder], publish_timeout_seconds=0.2)

    @app.task
    async def task() -> None:
        raise ValueError("to the dead letters")

    async with app:
        await task.send()
        session = app.server.session
        assert session is not None
        original = session.publish

        def refuse(message: Message) -> asyncio.Future[None]:
            if message.exchange != DEAD_EXCHANGE:
                return original(message)
            future = asyncio.get_running_loop().create_future()
            future.set_exception(PublishRefused("full"))
            return future

        session.publish = refuse  # type: ignore[method-assign]
        running = asyncio.create_task(app.run_worker(grace_seconds=0))
        await recorder.wait_for("task.settle_failed")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await app.server.inspector.depth("default")).ready != 1:
                await asyncio.sleep(0.01)


async def test_a_drain_does_not_wait_for_a_broker_to_take_a_copy(
    bench: Bench, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alarm, say: the task is handed back after the first try, however long the grace; nothing is lost."""

    async def task() -> None:
        raise ValueError("to the dead letters")

    worker = await bench.worker(task=TaskConfig(task))
    session = await bench.server.live_session()
    publish = session.publish

    def refuse(message: Message) -> asyncio.Future[None]:
        if message.exchange != DEAD_EXCHANGE:
            return publish(message)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(BrokerBlocked("low on memory"))
        return future

    monkeypatch.setattr(session, "publish", refuse)
    await bench.server.publish(Task("task"))
    await recorder.wait_for("task.settle_failed", 3)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await worker.close()
    await bench.becomes(1, 0, 0, 0)
    assert len(recorder.named("task.handed_back")) == 1


@pytest.mark.parametrize("kind", ["rabbitmq"])
async def test_a_start_that_gets_no_connection_ends_at_its_deadline(url: str, kind: str, recorder: Recorder) -> None:
    """Publishing goes on meanwhile, and a later start succeeds."""
    parts = urlsplit(url)
    with TcpProxy(parts.hostname or "", parts.port or 5672) as proxy:
        config = ServerConfig(
            url=f"amqp://{parts.username}:{parts.password}@127.0.0.1:{proxy.port}{parts.path}",
            exchange="ex",
            default_routing_key="rk",
            publish_timeout_seconds=1.0,
            observers=[recorder],
        )

        async def task() -> None: ...

        async with await Server.connect(config) as server:
            worker = await server.new_worker(WorkerConfig("w", "q", ("rk",)), {"task": TaskConfig(task)})
            proxy.refuse()
            async with asyncio.timeout(DEADLINE_SECONDS):
                for _ in range(2):
                    with pytest.raises(BrokerUnavailable, match="second connection"):
                        await worker.start()
            await server.publish(Task("task"))
            assert "second connection" in recorder.named("worker.interrupted")[0].error
            assert recorder.named("broker.disconnected") == []
            proxy.resume()
            await worker.start()
            await recorder.wait_for("task.succeeded")


async def test_a_worker_that_cannot_be_closed_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours: it is raised, and all else is closed."""
    server = await Server.connect(ServerConfig(url="memory://", exchange="ex", default_routing_key="rk"))
    worker = await server.new_worker(WorkerConfig("w", "q"), {})
    await worker.start()

    async def broken() -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr(worker._execution, "close", broken)
    session = await server.live_session()
    with pytest.raises(RuntimeError, match="a fault"):
        await server.close()
    await server.wait_closed()
    assert session.closed.done()


async def test_no_prefetch_is_more_than_amqp_can_say(bench: Bench) -> None:
    """With room for the functions that overran the default would be twice the limit."""
    worker = await bench.server.new_worker(
        WorkerConfig("w", "q", limit=65_535), {"task": TaskConfig(lambda: None, timeout_seconds=1)}
    )
    assert worker.prefetch == 65_535


async def test_a_retry_is_not_refused_by_its_own_backlog(url: str, recorder: Recorder) -> None:
    """A queue at its maximum length takes back what came out of it: else the worker would block itself."""
    app = Dispatcher(url, observers=[recorder])

    @app.task(queue=Queue("q", max_length=1), retry=RetryPolicy(max_attempts=2, base_seconds=0))
    async def task(number: int) -> None:
        if number == 0 and current_task().attempt == 1:
            await task.send(1)
            raise ValueError("once")

    async with app:
        await task.send(0)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await app.run_worker(limit=1, burst=True)
    assert len(recorder.named("task.succeeded")) == 2
    assert recorder.named("task.settle_failed") == []


async def test_close_without_grace_waits_for_overrunning_functions(bench: Bench, recorder: Recorder) -> None:
    """None waits as long as it takes: a function past its timeout still ends with its own ack."""
    go_on = threading.Event()

    def slow() -> None:
        go_on.wait(60)

    worker = await bench.worker(slow=TaskConfig(slow, timeout_seconds=0.05))
    await bench.server.publish(Task("slow"))
    await recorder.wait_for("task.overran")
    closing = asyncio.create_task(worker.close())
    await recorder.wait_for("worker.draining")
    go_on.set()
    await closing
    await recorder.wait_for("task.succeeded")
    assert recorder.named("task.handed_back") == []


async def test_a_coroutine_that_ignores_its_cancellation_overruns(
    bench: Bench, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to stop and still there after its patience: it counts as overrunning, and its own end settles it."""
    monkeypatch.setattr(runs_module, "CANCEL_PATIENCE_SECONDS", 0.1)
    go_on = asyncio.Event()

    async def stubborn() -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    await bench.worker(stubborn=TaskConfig(stubborn, timeout_seconds=0.05, on_timeout="cancel"))
    await bench.server.publish(Task("stubborn"))
    await recorder.wait_for("task.overran")
    go_on.set()
    await recorder.wait_for("task.succeeded")


async def test_a_failed_start_may_be_tried_again(url: str) -> None:
    """What made `start` fail is raised each time, and a closed worker says so."""
    config = ServerConfig(url=url, exchange="ex", default_routing_key="rk", declare="never")
    async with await Server.connect(config) as server:
        worker = await server.new_worker(WorkerConfig("w", "absent"), {})
        for _ in range(2):
            with pytest.raises(TopologyMismatch):
                await worker.start()
        await worker.close()
        with pytest.raises(ConfigError, match="closed"):
            await worker.start()


async def test_before_a_process_is_replaced_its_other_tasks_end(url: str, recorder: Recorder) -> None:
    """One queue's worker is full of functions that never end; a task of another queue is waited for, not cut."""
    never, go_on = threading.Event(), asyncio.Event()
    app = Dispatcher(url, observers=[recorder])

    @app.task(queue="stuck", timeout_seconds=0.05)
    def stuck() -> None:
        never.wait(60)

    @app.task(queue="fine")
    async def fine() -> None:
        await go_on.wait()

    try:
        async with app:
            await fine.send()
            running = asyncio.create_task(app.run_worker(limit=2))
            await recorder.wait_for("task.started")
            await stuck.send()
            await stuck.send()
            await recorder.wait_for("worker.draining", 2)
            go_on.set()
            with pytest.raises(WorkerExhausted):
                await asyncio.wait_for(running, DEADLINE_SECONDS)
    finally:
        never.set()
    assert [event.task for event in recorder.named("task.succeeded")] == ["fine"]
    assert {event.task for event in recorder.named("task.handed_back")} == {"stuck"}
