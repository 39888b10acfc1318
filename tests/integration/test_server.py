"""The explicit level: what a user of the Go package finds, with its errors."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from server_bench import Bench, Recorder

from dispatcher import (
    ArgumentError,
    BrokerUnavailable,
    ConfigError,
    Dispatcher,
    PublishManyError,
    PublishRefused,
    Queue,
    Server,
    ServerConfig,
    Task,
    TaskArgument,
    TaskConfig,
    TopologyMismatch,
    Unroutable,
    WorkerConfig,
    WorkerNotFound,
)


def config(url: str, **settings: object) -> ServerConfig:
    return ServerConfig(url=url, exchange="ex", default_routing_key="rk", **settings)  # type: ignore[arg-type]


async def test_the_design_example_runs(url: str, recorder: Recorder) -> None:
    """Server, init queue, publish, worker, graceful close: as the Go package's own example does."""
    seen: list[tuple[str, int]] = []

    def task_1(text: str, number: int) -> None:
        seen.append((text, number))

    server = await Server.connect(
        ServerConfig(
            url=url,
            exchange="dispatcher_example",
            default_routing_key="dispatcher_rk",
            init_queues=[Queue("queue_1", binding_keys=["dispatcher_rk"])],
            observers=[recorder],
        )
    )
    arguments = [TaskArgument("string", "simple string"), TaskArgument("int", 1)]
    receipt = await server.publish(Task(name="task_1", args=arguments))
    worker = await server.new_worker(
        WorkerConfig(name="worker_1", queue="queue_1", limit=3),
        {"task_1": TaskConfig(function=task_1, timeout_seconds=60)},
    )
    await worker.start()
    (done,) = await recorder.wait_for("task.succeeded")
    assert done.uuid == receipt.uuid
    assert server.get_worker_by_name("worker_1") is worker
    waiting = asyncio.create_task(server.wait_closed())
    await server.close()
    await waiting
    assert seen == [("simple string", 1)]


async def test_workers_by_name(bench: Bench) -> None:
    """A name is taken once; an unknown one says which there are."""
    await bench.worker(name="a")
    with pytest.raises(ConfigError, match="'a' exists already"):
        await bench.worker(name="a")
    with pytest.raises(WorkerNotFound, match=r"\['a'\]"):
        bench.server.get_worker_by_name("b")


async def test_uuid_as_first_argument(bench: Bench, recorder: Recorder) -> None:
    """The uuid comes before the arguments, outside of their check."""
    seen: list[tuple[str, int]] = []

    async def task(uuid: str, number: int) -> None:
        seen.append((uuid, number))

    await bench.worker(task=TaskConfig(task, task_uuid_as_first_arg=True))
    await bench.server.publish(Task("task", [TaskArgument("int", 5)], uuid="any text ✓"))
    await recorder.wait_for("task.succeeded")
    assert seen == [("any text ✓", 5)]


async def test_publish_errors_carry_the_uuid(server: Server) -> None:
    """Unroutable is said, never swallowed."""
    with pytest.raises(Unroutable) as caught:
        await server.publish(Task("task", uuid="u1", routing_key="nowhere"))
    assert caught.value.uuid == "u1"


async def test_a_full_queue_refuses_until_the_deadline(url: str) -> None:
    """A queue at its maximum length: back-off inside the deadline, then the refusal itself."""
    queues = [Queue("q", ("rk",), type="classic", max_length=1)]  # the bound of a quorum queue is not exact
    async with await Server.connect(config(url, init_queues=queues, publish_timeout_seconds=0.3)) as server:
        await server.publish(Task("task"))
        with pytest.raises(PublishRefused) as caught:
            await server.publish(Task("task", uuid="second"))
        assert caught.value.uuid == "second"


async def test_publish_many_tries_all_and_tells_which_failed(server: Server) -> None:
    """One that cannot be routed and one that cannot be encoded do not stop the others."""
    await server.new_worker(WorkerConfig("w", "q", ("rk",)), {})
    tasks = [Task("task", uuid=str(number)) for number in range(2500)]
    tasks[3] = Task("task", uuid="lost", routing_key="nowhere")
    tasks[2000] = Task("task", [TaskArgument("int8", 1000)], uuid="wide")
    with pytest.raises(PublishManyError) as caught:
        await server.publish_many(iter(tasks))
    assert [receipt.uuid for receipt in caught.value.accepted] == [t.id for t in tasks if t.id not in ("lost", "wide")]
    assert {task.uuid: type(error) for task, error in caught.value.failed} == {
        "lost": Unroutable,
        "wide": ArgumentError,
    }
    assert (await server.inspector.depth("q")).ready == 2498


async def test_publish_many_is_lazy(server: Server) -> None:
    """It takes tasks as it goes, so that a generator of millions needs no memory; an iterable's own error comes out."""
    await server.new_worker(WorkerConfig("w", "q", ("rk",)), {})
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            if taken > 5000:
                raise RuntimeError("the source broke")
            yield Task("task")

    with pytest.raises(RuntimeError, match="the source broke"):
        await server.publish_many(endless())  # type: ignore[arg-type]
    assert (await server.inspector.depth("q")).ready >= 4000


async def test_after_close_publishing_is_refused(server: Server) -> None:
    """A closed server says so at once."""
    await server.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await server.publish(Task("task"))
    with pytest.raises(ConfigError, match="closed"):
        await server.new_worker(WorkerConfig("w", "q"), {})


async def test_another_loop_is_refused(server: Server) -> None:
    """A server belongs to its event loop; using it from another is an error that says what to do."""

    def elsewhere() -> None:
        asyncio.run(server.publish(Task("task")))

    with pytest.raises(ConfigError, match="send_sync"):
        await asyncio.to_thread(elsewhere)


async def test_verify_refuses_what_is_not_there(url: str, tmp_path: Path) -> None:
    """`declare="verify"` creates nothing."""
    with pytest.raises(TopologyMismatch, match="absent"):
        await Server.connect(config(url, declare="verify", init_queues=[Queue("absent", ("rk",))]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"exchange": ""}, "exchange"),
        ({"default_routing_key": 3}, "default_routing_key"),
        ({"declare": "maybe"}, "'create', 'verify' or 'never'"),
        ({"reconnection_retries": 3, "reconnection_retries_forever": True}, "got both"),
        ({"reconnection_retries": -1}, "reconnection_retries"),
        ({"reconnection_retries_forever": False}, "reconnection_retries"),
        ({"publish_timeout_seconds": 0}, "publish_timeout_seconds"),
        ({"init_queues": ["q"]}, "Queue objects"),
        ({"secure_connection": True}, "amqp"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
    ],
)
def test_a_server_config_that_cannot_work_says_why(settings: dict[str, object], said: str) -> None:
    """Bad configuration is refused when it is written, with the field's name."""
    values = {"url": "memory://", "exchange": "ex", "default_routing_key": "rk"} | settings
    with pytest.raises(ConfigError, match=said):
        ServerConfig(**values)  # type: ignore[arg-type]


async def test_an_own_logger_gets_the_events(url: str) -> None:
    """Anything with debug, info and error will do as a logger."""
    lines: list[str] = []

    class Plain:
        def debug(self, message: str, *args: object) -> None: ...
        def info(self, message: str, *args: object) -> None:
            lines.append(message % args if args else message)

        def error(self, message: str, *args: object) -> None:
            lines.append(message % args if args else message)

    async with await Server.connect(config(url, logger=Plain())) as server:
        await (await server.new_worker(WorkerConfig("w", "q", ("rk",)), {})).start()
    assert any("worker.started" in line for line in lines)


async def test_the_root_logger_is_left_alone(url: str) -> None:
    """Connecting and working changes no logger but our own."""
    before = (logging.root.level, list(logging.root.handlers))
    async with await Server.connect(config(url, debug_mode=True)):
        assert logging.getLogger("dispatcher").level == logging.DEBUG
    assert (logging.root.level, list(logging.root.handlers)) == before
    logging.getLogger("dispatcher").setLevel(logging.NOTSET)


def test_an_unknown_setting_of_an_app_is_named() -> None:
    """A misspelt setting is not swallowed."""
    with pytest.raises(ConfigError, match="publish_timout_seconds"):
        Dispatcher("memory://", publish_timout_seconds=3)
