"""The everyday level: decorated tasks, typed sends, workers in a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from server_bench import DEADLINE_SECONDS, Recorder

from dispatcher import (
    ArgumentError,
    CallNext,
    ConfigError,
    CurrentTask,
    Dispatcher,
    DispatcherError,
    Queue,
    Retry,
    RetryPolicy,
    Server,
    StorageError,
    Task,
    TaskArgument,
    current_task,
)
from dispatcher.testing import waiting


async def drain(app: Dispatcher, **options: Any) -> None:
    """Run the app's tasks until its queues are empty."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        await app.run_worker(burst=True, **options)


async def test_send_and_run(app: Dispatcher) -> None:
    """What was sent before any worker existed is run; the receipt's uuid is the task's."""
    seen: list[tuple[str, str, str]] = []

    @app.task(queue="emails", timeout_seconds=30, on_timeout="cancel", retry=RetryPolicy(max_attempts=5))
    async def send_email(to: str, subject: str) -> None:
        seen.append((current_task().uuid, to, subject))

    async with app:
        receipt = await send_email.send("a@b.c", subject="hi")
        assert [queue.name for queue in app.queues] == ["emails"]
    # A memory:// app holds its messages as long as it lives; on SQLite they are in the file.
    await drain(app)
    assert seen == [(receipt.uuid, "a@b.c", "hi")]


async def test_a_task_is_still_its_function(app: Dispatcher) -> None:
    """Calling a task calls the function; its name and docstring are kept."""

    @app.task
    def add(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    assert add(1) == 3
    assert (add.__name__, add.__doc__) == ("add", "Adds.")  # type: ignore[attr-defined]
    assert repr(add) == "<task 'add' in queue 'default'>"


async def test_bind_makes_a_task(app: Dispatcher) -> None:
    """`bind` types the arguments by the signature and fills gaps from the defaults."""

    @app.task
    def task(a: int, b: float = 0.5, c: str = "c", d: Any = None) -> None: ...

    bound = task.bind(1, c="x")
    assert bound.args == (TaskArgument("int", 1), TaskArgument("float64", 0.5), TaskArgument("string", "x"))
    assert (bound.name, bound.routing_key) == ("task", "default")
    with pytest.raises(ArgumentError):
        task.bind("1")  # type: ignore[arg-type]


async def test_options(app: Dispatcher, recorder: Recorder) -> None:
    """Options go with one send; they do not stick to the task."""
    seen: list[str] = []

    @app.task
    async def task(text: str) -> None:
        seen.append(text)

    async with app:
        eta = datetime.now(UTC) + timedelta(seconds=1)
        await task.options(eta=eta, uuid="late").send("eta")
        await task.options(delay_seconds=0.15).send("delayed")
        await task.options(priority=9, headers={"h": 1}).send("first")
        await task.send("second")
        with pytest.raises(ArgumentError):
            await task.options(priority=10).send("never")
        running = asyncio.create_task(app.run_worker())
        await recorder.wait_for("task.succeeded", 4)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert seen == ["first", "second", "delayed", "eta"]


async def test_a_default_retry_for_all_tasks(url: str, recorder: Recorder) -> None:
    """`Dispatcher(retry=…)` holds for tasks that have none of their own."""
    app = Dispatcher(url, retry=RetryPolicy(max_attempts=2, base_seconds=0), observers=[recorder])
    attempts: list[int] = []

    @app.task
    async def task() -> None:
        attempts.append(current_task().attempt)
        raise Retry(after_seconds=0)

    async with app:
        await task.send()
        await drain(app)
    assert attempts == [1, 2]


@dataclass
class Address:
    street: str
    number: int


class Order(msgspec.Struct):
    id: int
    address: Address
    tags: list[str] = []


async def test_rich_arguments(app: Dispatcher) -> None:
    """Dataclasses, structs and containers arrive as what the annotation says."""
    seen: list[tuple[Order, Address, list[int]]] = []

    @app.task
    async def ship(order: Order, back: Address, numbers: list[int]) -> None:
        seen.append((order, back, numbers))

    order = Order(7, Address("Main", 1), ["x"])
    async with app:
        await ship.send(order, Address("Side", 2), [1, 2])
        await drain(app)
    assert seen == [(order, Address("Side", 2), [1, 2])]


def test_registration_errors() -> None:
    """What cannot work is refused at the decorator."""
    app = Dispatcher("memory://")

    def function(a: int) -> None: ...
    def keyword_only(*, a: int) -> None: ...
    def anything(**kwargs: int) -> None: ...

    async def coroutine() -> None: ...

    app.task(function)
    cases: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
        (function, {}, "registered already"),
        (function, {"name": "no spaces"}, "task name"),
        (lambda: None, {}, "name="),
        (keyword_only, {}, "keyword-only"),
        (anything, {}, "kwargs"),
        (coroutine, {"on_timeout": "kill"}, "executor='process'"),
        (function, {"name": "f2", "on_timeout": "cancel"}, "coroutine"),
        (coroutine, {"executor": "thread"}, "plain function"),
        (coroutine, {"timeout_seconds": 0}, "timeout_seconds"),
        (coroutine, {"executor": "gpu"}, "executor"),
        (coroutine, {"retry": 3}, "RetryPolicy"),
        (coroutine, {"queue": ""}, "queue name"),
    ]
    for broken, options, said in cases:
        with pytest.raises(ConfigError, match=said):
            app.task(**options)(broken)
    assert list(app.tasks) == ["function"]


def test_one_queue_is_defined_once() -> None:
    """Two definitions of one queue in an app are an error; naming it again is not."""
    app = Dispatcher("memory://")

    @app.task(queue=Queue("q", max_length=10))
    def first() -> None: ...

    @app.task(queue="q")
    def second() -> None: ...

    with pytest.raises(ConfigError, match="one definition"):

        @app.task(queue=Queue("q", max_length=20))
        def third() -> None: ...

    assert app.queues == (Queue("q", ("q",), max_length=10),)


async def test_outside_of_its_context_an_app_says_what_to_do(app: Dispatcher) -> None:
    """Sending without `async with app` is an error with the way out in it."""

    @app.task
    async def task() -> None: ...

    with pytest.raises(ConfigError, match="async with app"):
        await task.send()
    with pytest.raises(DispatcherError, match="inside a task"):
        current_task()
    with pytest.raises(ConfigError, match="no tasks"):
        await Dispatcher("memory://").run_worker()
    with pytest.raises(ConfigError, match=r"\['default'\]"):
        await app.run_worker(["other"])


async def test_tasks_send_tasks(app: Dispatcher) -> None:
    """Inside a worker a task may send others; burst ends after the last."""
    seen: list[int] = []

    @app.task
    async def countdown(number: int) -> None:
        seen.append(number)
        if number:
            await countdown.send(number - 1)

    async with app:
        await countdown.send(5)
        await drain(app)
    assert seen == [5, 4, 3, 2, 1, 0]


async def test_burst_waits_for_its_retries(app: Dispatcher) -> None:
    """A retry that is on its way back belongs to the burst; a task that its sender delayed does not."""
    attempts: list[int] = []

    @app.task(retry=RetryPolicy(max_attempts=3, backoff="constant", base_seconds=0.3, jitter=False))
    async def task() -> None:
        attempts.append(current_task().attempt)
        if len(attempts) < 3:
            raise ValueError("again")

    async with app:
        await task.options(delay_seconds=3600).send()
        await task.send()
        await drain(app)
        depth = await app.server.inspector.depth("default")
    assert attempts == [1, 2, 3]
    assert (depth.ready, len(await waiting(app))) == (0, 1)


async def test_limit_holds_over_all_queues(app: Dispatcher) -> None:
    """`run_worker(limit=…)` bounds the process, not each of its queues."""
    now = most = 0

    async def body() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    tasks = [app.task(name=f"task_{number}", queue=f"q{number}")(body) for number in range(3)]
    async with app:
        await app.publish_many(task.bind() for task in tasks for _ in range(10))
        await drain(app, limit=2)
    assert most == 2


async def test_middleware_wraps_and_its_exceptions_count(url: str, recorder: Recorder) -> None:
    """The first middleware is outermost, sees the task's own exception, and can fail the task, thread or coroutine."""
    trace: list[str] = []

    class Tracing:
        def __init__(self, name: str) -> None:
            self.name = name

        async def __call__(self, task: CurrentTask, call_next: CallNext) -> None:
            trace.append(f"{self.name} before {task.name}")
            try:
                await call_next()
            except LookupError as error:
                trace.append(f"{self.name} saw {error!r}")
                raise
            trace.append(f"{self.name} after")
            if task.name == "vetoed":
                raise PermissionError("vetoed")

    app = Dispatcher(url, middleware=[Tracing("a"), Tracing("b")], observers=[recorder])

    @app.task
    async def on_loop() -> None:
        raise LookupError("loop")

    @app.task
    def in_thread() -> None:
        raise LookupError("thread")

    @app.task
    def vetoed() -> None:
        trace.append("ran")

    async with app:
        for task in (on_loop, in_thread, vetoed):
            await task.send()
            await drain(app)
    assert trace[:4] == [
        "a before on_loop",
        "b before on_loop",
        "b saw LookupError('loop')",
        "a saw LookupError('loop')",
    ]
    assert trace[4:8] == [
        "a before in_thread",
        "b before in_thread",
        "b saw LookupError('thread')",
        "a saw LookupError('thread')",
    ]
    assert trace[8:] == ["a before vetoed", "b before vetoed", "ran", "b after"]
    reasons = [(event.task, event.text) for event in recorder.named("task.dead_lettered")]
    assert reasons == [
        ("on_loop", "LookupError: loop"),
        ("in_thread", "LookupError: thread"),
        ("vetoed", "PermissionError: vetoed"),
    ]


async def test_an_observer_that_raises_is_ignored(url: str, recorder: Recorder) -> None:
    """An observer's exception touches nothing but the log."""

    class Broken:
        def on_event(self, event: object) -> None:
            raise RuntimeError("observer")

    app = Dispatcher(url, observers=[Broken(), recorder])

    @app.task
    async def task() -> None: ...

    async with app:
        await task.send()
        await drain(app)
    assert len(recorder.named("task.succeeded")) == 1


async def test_run_worker_drains_at_the_first_cancellation_and_cuts_at_the_second(
    app: Dispatcher, recorder: Recorder
) -> None:
    """The first cancellation waits for what runs; the second hands it back and is raised."""
    go_on = asyncio.Event()

    @app.task
    async def task() -> None:
        await go_on.wait()

    async with app:
        await task.send()
        running = asyncio.create_task(app.run_worker())
        await recorder.wait_for("task.started")
        running.cancel()
        await recorder.wait_for("worker.draining")
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await recorder.wait_for("task.handed_back")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await app.server.inspector.depth("default")).ready != 1:
                await asyncio.sleep(0.01)
        go_on.set()
        await drain(app)
    assert len(recorder.named("task.succeeded")) == 1


async def test_sqlite_needs_nothing_but_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL the broker is a file in the current folder; $DISPATCHER_URL says otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPATCHER_URL", raising=False)
    app = Dispatcher()
    app.task(name="task")(lambda: None)
    async with app:
        await app.publish(Task("task"))
    assert (tmp_path / "dispatcher.db").exists()
    monkeypatch.setenv("DISPATCHER_URL", f"sqlite:///{tmp_path}/other.db")
    assert Dispatcher().config.url == f"sqlite:///{tmp_path}/other.db"


def test_an_app_serves_one_loop_after_the_other(shared_url: str) -> None:
    """Two asyncio.run in one program, each with parallel uses, the first of them left without its exit."""
    app = Dispatcher(shared_url)

    @app.task
    async def task() -> None: ...

    async def use() -> None:
        async with app:
            await task.send()

    async def both() -> None:
        await asyncio.gather(use(), use())

    for _ in range(2):
        asyncio.run(both())
    assert repr(app) == "<Dispatcher not connected, 1 tasks in ['default']>"


async def test_an_app_on_two_loops_at_once_says_what_to_do(app: Dispatcher) -> None:
    """A connection belongs to its loop: the other loop is told of send_sync."""

    async def use() -> None:
        async with app:
            pass

    async with app:
        with pytest.raises(ConfigError, match="send_sync"):
            await asyncio.to_thread(asyncio.run, use())


async def test_a_failed_connect_leaves_nothing_behind(tmp_path: Path) -> None:
    """After an error in connecting the app may be used again, once its reason is gone."""
    app = Dispatcher(f"sqlite:///{tmp_path}/later/dispatcher.db")
    for _ in range(2):
        with pytest.raises(StorageError):
            async with app:
                pass
    (tmp_path / "later").mkdir()
    async with app:
        assert app.server is not None


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, SystemExit])
async def test_whatever_a_retry_rule_raises_the_task_has_a_fate(
    url: str, recorder: Recorder, error: type[BaseException]
) -> None:
    """A rule is user code: nothing that it raises reaches the loop or keeps the slot."""

    class Broken:
        jitter = False

        def delay_seconds(self, attempt: int, failure: object, /) -> float | None:
            raise error("rule")

    app = Dispatcher(url, observers=[recorder])

    @app.task(retry=Broken())
    async def task() -> None:
        raise ValueError("first")

    async with app:
        await task.send()
        await drain(app)
    assert [event.reason for event in recorder.named("task.dead_lettered")] == ["failed"]


@pytest.mark.parametrize("calls", [0, 2])
async def test_a_middleware_calls_on_exactly_once(url: str, recorder: Recorder, calls: int) -> None:
    """Never would lose the task in silence, twice would run it twice: both are its failure."""
    ran: list[int] = []

    async def middleware(task: CurrentTask, call_next: CallNext) -> None:
        for _ in range(calls):
            await call_next()

    app = Dispatcher(url, middleware=[middleware], observers=[recorder])

    @app.task
    async def task() -> None:
        ran.append(1)

    async with app:
        await task.send()
        await drain(app)
    assert ran == [1] * min(calls, 1)
    (dead,) = recorder.named("task.dead_lettered")
    assert "call_next" in dead.text


async def test_two_cancellations_at_once_are_two(app: Dispatcher, recorder: Recorder) -> None:
    """Two signals within one turn of the loop mean: do not wait."""

    @app.task
    async def task() -> None:
        await asyncio.Event().wait()

    async with app:
        await task.send()
        running = asyncio.create_task(app.run_worker())
        await recorder.wait_for("task.started")
        running.cancel()
        running.cancel()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait([running])
        assert running.cancelled()
        await recorder.wait_for("task.handed_back")


@pytest.mark.parametrize("queue", ["x" * 250, "\u65e5" * 83])
async def test_a_queue_whose_name_is_as_long_as_it_may_be(url: str, recorder: Recorder, queue: str) -> None:
    """Workers, dead letters and delays have names made of it."""
    app = Dispatcher(url, observers=[recorder])

    @app.task(queue=queue, retry=RetryPolicy(max_attempts=2, base_seconds=0.1))
    async def task() -> None:
        raise ValueError("each time")

    async with app:
        await task.options(delay_seconds=0.1).send()
        await app.run_worker(burst=True)
        running = [asyncio.create_task(app.run_worker()) for _ in range(2)]
        await recorder.wait_for("worker.started", 3)
        await recorder.wait_for("task.dead_lettered")
        await recorder.wait_for("worker.started", 3)
        for worker in running:
            worker.cancel()
        await asyncio.wait(running)
    assert len({event.worker for event in recorder.named("worker.started")}) == 2


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_leaving_is_not_left_half_done(url: str, turns: int) -> None:
    """Cancelled while it closes the connection, it waits for the end of that: half closed, the server would live on."""
    app = Dispatcher(url)
    servers: list[Server] = []

    async def use() -> None:
        async with app:
            servers.append(app.server)
            await asyncio.Event().wait()

    using = asyncio.create_task(use())
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not servers:
            await asyncio.sleep(0.001)
    using.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    using.cancel()
    await asyncio.wait([using])
    assert using.cancelled()
    session = servers[0].session
    assert session is None or session.closed.done()
    await asyncio.wait_for(servers[0].wait_closed(), DEADLINE_SECONDS)
