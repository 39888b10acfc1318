"""Cancelled tasks, through a real server and worker: waiting, delayed, running, in each kind of place."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from server_bench import Bench, Recorder, eventually

from dispatcher import (
    ArgumentError,
    BrokerBlocked,
    BrokerUnavailable,
    CallNext,
    ConfigError,
    ConnectionLost,
    CurrentTask,
    Dispatcher,
    PublishRefused,
    PublishUnknown,
    Receipt,
    RetryPolicy,
    Server,
    ServerConfig,
    Task,
    TaskArgument,
    TaskConfig,
    current_task,
)
from dispatcher.brokers.base import Cancel, Message
from dispatcher.brokers.memory.cancels import MemoryCancels
from dispatcher.brokers.rabbitmq.cancels import RabbitCancels
from dispatcher.brokers.sqlite.cancels import SqliteCancels
from dispatcher.model import headers as names
from dispatcher.observe.hooks import EventHub
from dispatcher.observe.logs import LogObserver
from dispatcher.runtime import runs as runs_module
from dispatcher.runtime.publisher import Publisher

RETRIED = RetryPolicy(max_attempts=5, base_seconds=0.02, jitter=False)


@pytest.fixture(params=["memory", "sqlite", "rabbitmq", "rabbitmq-work-role"])
def kind(request: pytest.FixtureRequest) -> str:
    """Every broker, RabbitMQ also as a user who may only work."""
    return str(request.param)


async def wait_set(event: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        await event.wait()


async def publish(server: Server, name: str, **options: object) -> Receipt:
    return await server.publish(Task(name, **options))  # type: ignore[arg-type]


async def test_what_waits_is_parked_when_its_turn_comes(bench: Bench, recorder: Recorder) -> None:
    """Also by a worker that starts after the cancel, and never runs."""
    ran: list[str] = []

    async def task() -> None:
        ran.append(current_task().uuid)

    await bench.worker(start=False, task=TaskConfig(task, retry=RETRIED))
    doomed, fine = await publish(bench.server, "task"), await publish(bench.server, "task")
    await doomed.cancel()
    await bench.server.get_worker_by_name("w").start()
    [dead] = await recorder.wait_for("task.dead_lettered")
    await recorder.wait_for("task.succeeded")
    assert (dead.uuid, dead.reason) == (doomed.uuid, "cancelled")
    assert ran == [fine.uuid]
    assert (await bench.dead_letter())["x-dispatcher-reason"] == "cancelled"


async def test_what_is_delayed_is_parked_when_it_is_due(bench: Bench, recorder: Recorder) -> None:
    """A retry that is on its way is such, too."""
    ran: list[str] = []

    async def task() -> None:
        ran.append(current_task().uuid)
        raise ValueError

    policy = RetryPolicy(backoff=[1], jitter=False)
    await bench.worker(task=TaskConfig(task, retry=policy))
    delayed = await publish(bench.server, "task", delay_seconds=1)
    await delayed.cancel()
    retried = await publish(bench.server, "task")
    await recorder.wait_for("task.retried")
    await bench.server.cancel(retried.uuid)
    dead = await recorder.wait_for("task.dead_lettered", 2)
    assert {(one.uuid, one.reason) for one in dead} == {(delayed.uuid, "cancelled"), (retried.uuid, "cancelled")}
    assert ran == [retried.uuid]


async def test_a_running_coroutine_is_cancelled(bench: Bench, recorder: Recorder) -> None:
    """It is told by `CancelledError` and by `current_task().cancelled`; no policy tries it again."""
    began, seen = asyncio.Event(), []

    async def task() -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            seen.append(current_task().cancelled)
            raise

    await bench.worker(task=TaskConfig(task, retry=RETRIED))
    receipt = await publish(bench.server, "task")
    await wait_set(began)
    await receipt.cancel()
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert (dead.uuid, dead.reason, seen) == (receipt.uuid, "cancelled", [True])
    assert [event.uuid for event in recorder.named("task.cancelling")] == [receipt.uuid]


async def test_a_coroutine_that_does_not_heed_it_runs_on(
    bench: Bench, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it does in the end counts: it returned, so it is done."""
    monkeypatch.setattr(runs_module, "CANCEL_PATIENCE_SECONDS", 0.05)
    began, told, let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def task() -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            told.set()
        await let_go.wait()

    worker = await bench.worker(task=TaskConfig(task))
    receipt = await publish(bench.server, "task")
    await wait_set(began)
    await receipt.cancel()
    await wait_set(told)
    [run] = worker.runs._runs
    assert run.call is not None

    async def is_left_alone() -> bool:
        return run.call is not None and run.call.stopped is None

    await eventually(is_left_alone, True)
    let_go.set()
    await recorder.wait_for("task.succeeded")
    await bench.becomes(0, 0, 0, 0)


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_a_thread_looks_itself(bench: Bench, recorder: Recorder, how: str) -> None:
    """It sees it in `current_task().cancelled`. If it returns it is done, if it raises it is parked, and not tried again."""
    began = threading.Event()

    def task() -> None:
        began.set()
        deadline = time.monotonic() + 30
        while not current_task().cancelled and time.monotonic() < deadline:
            time.sleep(0.005)
        if how == "raises":
            raise RuntimeError("told to stop")

    await bench.worker(task=TaskConfig(task, retry=RETRIED))
    receipt = await publish(bench.server, "task")
    assert await asyncio.to_thread(began.wait, 30)
    await receipt.cancel()
    if how == "returns":
        await recorder.wait_for("task.succeeded")
        await bench.becomes(0, 0, 0, 0)
    else:
        [dead] = await recorder.wait_for("task.dead_lettered")
        assert (dead.reason, dead.attempt) == ("cancelled", 1)


def heedful() -> None:
    while not current_task().cancelled:
        time.sleep(0.005)


async def heedful_coroutine() -> None:
    while not current_task().cancelled:
        await asyncio.sleep(0.005)


def deaf() -> None:
    time.sleep(600)


@pytest.mark.parametrize("function", [heedful, heedful_coroutine])
async def test_a_process_hears_of_it(bench: Bench, recorder: Recorder, function: object) -> None:
    """What it does then is its own affair; the same process runs the next task."""
    config = TaskConfig(function, executor="process", timeout_seconds=60)  # type: ignore[arg-type]
    await bench.worker(task=config)
    for number in (1, 2):
        receipt = await publish(bench.server, "task")
        worker = bench.server.get_worker_by_name("w")

        async def is_running(uuid: str = receipt.uuid, runs: runs_module.Runs = worker.runs) -> bool:
            return any(run.item.uuid == uuid and run.timer is not None for run in runs._runs)

        await eventually(is_running, True)
        await receipt.cancel()
        await recorder.wait_for("task.succeeded", number)
    assert recorder.named("process.replaced") == []


async def test_a_deaf_process_is_killed(bench: Bench, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its patience: then it is parked as cancelled, whatever its policy."""
    monkeypatch.setattr(runs_module, "CANCEL_PATIENCE_SECONDS", 0.05)
    await bench.worker(task=TaskConfig(deaf, executor="process", retry=RETRIED))
    receipt = await publish(bench.server, "task")
    await recorder.wait_for("task.started")
    await receipt.cancel()
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert (dead.uuid, dead.reason) == (receipt.uuid, "cancelled")


async def test_what_was_replayed_since_runs(bench: Bench, recorder: Recorder) -> None:
    """Who sends a cancelled task again means it; a cancel after that holds again."""
    ran = asyncio.Event()

    async def task() -> None:
        ran.set()

    await bench.worker(task=TaskConfig(task))
    receipt = await publish(bench.server, "task", delay_seconds=1)
    await receipt.cancel()
    await recorder.wait_for("task.dead_lettered")
    [letter] = await bench.dead_letters()
    session = await bench.server.live_session()
    again = {names.REPLAYED_AT: int(time.time() * 1000) + 1}
    await session.publish(Message("ex", "rk", letter.body, receipt.uuid, again))
    await wait_set(ran)


async def test_the_uuid_of_another_exchange_is_another_task(bench: Bench, url: str, recorder: Recorder) -> None:
    """Uuids are the senders' own: two apps may use the same."""

    async def task() -> None: ...

    await bench.worker(start=False, task=TaskConfig(task))
    await publish(bench.server, "task", uuid="order-1")
    other = ServerConfig(url=url, exchange="another", default_routing_key="rk", declare="never")
    broker = bench.server._link._broker
    async with await Server.connect(other, broker=broker) as server:
        await server.cancel("order-1")
    await bench.server.get_worker_by_name("w").start()
    await recorder.wait_for("task.succeeded")


async def test_it_holds_after_the_session_was_lost(bench: Bench, recorder: Recorder) -> None:
    """The worker's next session tells it again; a cancel meanwhile waits for it."""
    began, hold = asyncio.Event(), asyncio.Event()

    async def task() -> None:
        began.set()
        await hold.wait()

    await bench.worker(task=TaskConfig(task))
    receipt = await publish(bench.server, "task")
    await wait_set(began)
    await bench.lose(await bench.server.live_session())
    await receipt.cancel()
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert (dead.uuid, dead.reason) == (receipt.uuid, "cancelled")
    hold.set()


@pytest.mark.parametrize("uuid", ["", "x" * 256, None, 3])
async def test_what_is_no_uuid_is_refused(bench: Bench, uuid: object) -> None:
    """Before anything is sent."""
    with pytest.raises(ArgumentError, match="uuid: expected"):
        await bench.server.cancel(uuid)  # type: ignore[arg-type]


async def test_a_closed_server_cancels_nothing(bench: Bench) -> None:
    """It says so, at once."""
    receipt = Receipt("u")
    with pytest.raises(ConfigError, match=r"app\.cancel"):
        await receipt.cancel()
    await bench.server.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await bench.server.cancel("u")


async def test_from_an_app(app: Dispatcher, kind: str, recorder: Recorder, request: pytest.FixtureRequest) -> None:
    """`receipt.cancel()`, `app.cancel(uuid)`, and `app.cancel_sync(uuid)` without an event loop."""
    if kind == "rabbitmq-work-role":
        app = Dispatcher(request.getfixturevalue("vhost_url"), observers=[recorder])
    ran: list[int] = []

    @app.task
    async def task(number: int) -> None:
        ran.append(number)

    async with app:
        first, second, third, fourth = [await task.send(number) for number in range(4)]
        await first.cancel()
        await app.cancel(second.uuid)
        await asyncio.to_thread(app.cancel_sync, third.uuid)
        await app.run_worker(burst=True)
    await asyncio.to_thread(app.close_sync)
    assert ran == [3]
    assert {event.uuid for event in recorder.named("task.dead_lettered")} == {first.uuid, second.uuid, third.uuid}
    assert first == Receipt(first.uuid) and len({first, Receipt(first.uuid), fourth}) == 2


async def test_a_cancelled_task_can_be_replayed(
    app: Dispatcher, kind: str, recorder: Recorder, request: pytest.FixtureRequest
) -> None:
    """From the dead letters, by hand; a cancel after that holds again."""
    if kind == "rabbitmq-work-role":
        app = Dispatcher(request.getfixturevalue("vhost_url"), observers=[recorder])
    ran: list[str] = []

    @app.task
    async def task() -> None:
        ran.append(current_task().uuid)

    async with app:
        receipt = await task.send()
        await receipt.cancel()
        await app.run_worker(burst=True)
        assert (ran, await app.dead_letters.count(reason="cancelled")) == ([], 1)
        await app.dead_letters.replay(uuids=[receipt.uuid])
        await app.run_worker(burst=True)
        assert (ran, await app.dead_letters.count()) == ([receipt.uuid], 0)


async def test_a_worker_with_room_for_few_keeps_order(bench: Bench, recorder: Recorder) -> None:
    """Many cancelled tasks between others: those are parked, these run."""
    ran: list[int] = []

    async def task(number: int) -> None:
        ran.append(number)

    await bench.worker(start=False, limit=2, task=TaskConfig(task))
    receipts = [await bench.server.publish(Task("task", [TaskArgument("int", number)])) for number in range(60)]
    await asyncio.gather(*[receipt.cancel() for receipt in receipts[::2]])
    await bench.server.get_worker_by_name("w").start()
    await recorder.wait_for("task.dead_lettered", 30)
    await recorder.wait_for("task.succeeded", 30)
    assert sorted(ran) == list(range(1, 60, 2))


async def test_a_cancellation_that_comes_late_is_a_failure(
    bench: Bench, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coroutine that tidies up beyond its patience and then lets `CancelledError` out was not cut short by its worker."""
    monkeypatch.setattr(runs_module, "CANCEL_PATIENCE_SECONDS", 0.05)
    go_on = asyncio.Event()

    async def task() -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await go_on.wait()
            raise

    await bench.worker(task=TaskConfig(task, timeout_seconds=0.05, on_timeout="cancel"))
    await publish(bench.server, "task")
    await recorder.wait_for("task.overran")
    go_on.set()
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.attempt) == ("failed", 1)
    assert recorder.named("task.handed_back") == []


async def test_an_old_cancel_that_is_told_again_stops_no_replay(bench: Bench, recorder: Recorder) -> None:
    """A new session tells all of them anew, in whatever order: what was replayed since goes on."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def task() -> None:
        began.set()
        await go_on.wait()

    await bench.worker(task=TaskConfig(task))
    receipt = await publish(bench.server, "task", delay_seconds=1)
    await receipt.cancel()
    await receipt.cancel()
    await recorder.wait_for("task.dead_lettered")
    [letter] = await bench.dead_letters()
    session = await bench.server.live_session()
    again = {names.REPLAYED_AT: int(time.time() * 1000) + 1}
    await session.publish(Message("ex", "rk", letter.body, receipt.uuid, again))
    await wait_set(began)
    await bench.lose(session)
    await recorder.wait_for("worker.started", 2)
    go_on.set()
    await recorder.wait_for("task.succeeded")
    assert recorder.named("task.cancelling") == []


async def test_a_broker_that_tells_no_cancels_stops_no_worker(
    bench: Bench, recorder: Recorder, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says instead: that is told, asked again, and tasks run meanwhile."""

    async def refuse(self: object, on_cancel: object) -> None:
        raise ConfigError("no channel left")

    async def task() -> None: ...

    for owner in (MemoryCancels, SqliteCancels, RabbitCancels):
        monkeypatch.setattr(owner, "watch", refuse)
    await bench.worker(task=TaskConfig(task))
    await publish(bench.server, "task")
    await recorder.wait_for("task.succeeded")
    [event] = await recorder.wait_for("cancels.unheard")
    assert event.error == "no channel left"


def two_look() -> None:
    seen: list[object] = []
    context = contextvars.copy_context()

    def look() -> None:
        try:
            for _ in range(2_000):
                current_task().cancelled  # noqa: B018
        except BaseException as error:
            seen.append(error)

    threads = [threading.Thread(target=context.copy().run, args=(look,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if seen:
        raise RuntimeError(repr(seen[0]))


async def test_threads_of_a_process_may_look_at_once(bench: Bench, recorder: Recorder) -> None:
    """Each for itself."""
    await bench.worker(task=TaskConfig(two_look, executor="process"))
    await publish(bench.server, "task")
    await recorder.wait_for("task.succeeded")


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_what_waits_in_middleware_does_not_begin(
    url: str, kind: str, recorder: Recorder, request: pytest.FixtureRequest, executor: Any, tmp_path: Path
) -> None:
    """Its sender was told that it is cancelled."""
    if kind == "rabbitmq-work-role":
        url = request.getfixturevalue("vhost_url")
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def patient(task: CurrentTask, call_next: CallNext) -> None:
        waiting.set()
        await go_on.wait()
        await call_next()

    app = Dispatcher(url, observers=[recorder], middleware=[patient])
    task = app.task(name="touch", executor=executor)(touch)
    async with app:
        worker = asyncio.create_task(app.run_worker())
        receipt = await task.send(str(tmp_path / "ran"))
        await wait_set(waiting)
        await receipt.cancel()
        await recorder.wait_for("task.cancelling")
        go_on.set()
        [dead] = await recorder.wait_for("task.dead_lettered")
        worker.cancel()
        await asyncio.wait([worker])
    assert dead.reason == "cancelled"
    assert not (tmp_path / "ran").exists()


def touch(path: str) -> None:
    Path(path).touch()


def test_a_receipt_can_be_copied_and_sent_about() -> None:
    """What is left of it is the uuid."""
    receipt = Receipt("u", canceller=_never)
    for other in (pickle.loads(pickle.dumps(receipt)), copy.deepcopy(receipt)):
        assert other == receipt and other.canceller is None


async def _never(uuid: str) -> None:
    raise AssertionError(uuid)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([PublishRefused("no right", final=True)], PublishRefused),
        ([PublishRefused("full"), BrokerBlocked("alarm")], BrokerBlocked),
        ([ConnectionLost("cut")], PublishUnknown),
        ([None], None),
        ([ConnectionLost("cut"), None], None),
    ],
)
async def test_what_a_cancel_that_failed_says(answers: list[Any], expected: type[Exception] | None) -> None:
    """Refused, not known, or done: never the one for the other."""
    source = Source(answers)
    publisher = Publisher(
        source,
        EventHub(LogObserver(logging.getLogger("test"))),
        exchange="ex",
        default_routing_key="rk",
        publish_timeout_seconds=5 if expected is None else 0.5,
        max_body_bytes=1000,
        canceller=_never,
    )
    try:
        if expected is None:
            await publisher.cancel("u")
        else:
            with pytest.raises(expected):
                await publisher.cancel("u")
            assert expected is not PublishRefused or source.asked == 1
    finally:
        publisher.close()


class Source:
    """A server with a session whose answers are given; the last one repeats."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers
        self.asked = 0
        self.session: Any = self
        self.cancels = self

    async def live_session(self) -> Any:
        return self

    async def add(self, cancel: Cancel) -> None:
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        if answer is not None:
            raise answer
