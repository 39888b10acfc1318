"""The explicit level, with every type of the Go package, as type checkers see it. Never run; see `everyday_api`."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Sequence
from typing import assert_type

from dispatcher import (
    Queue,
    Receipt,
    RetryPolicy,
    Server,
    ServerConfig,
    Task,
    TaskArgument,
    TaskConfig,
    Worker,
    WorkerConfig,
)


def plain(text: str, number: int) -> None: ...
async def coroutine(uuid: str) -> None: ...


def every_setting(context: ssl.SSLContext) -> ServerConfig:
    return ServerConfig(
        url="amqps://guest:guest@localhost:5671/",
        exchange="dispatcher_example",
        default_routing_key="dispatcher_rk",
        init_queues=[Queue("queue_1", binding_keys=["dispatcher_rk"]), Queue("queue_2", ("a", "b"), type="classic")],
        declare="verify",
        reconnection_retries=3,
        reconnection_retries_forever=None,
        reconnection_interval_seconds=1,
        reconnection_max_interval_seconds=30,
        connect_timeout_seconds=None,
        publish_timeout_seconds=30.0,
        max_body_bytes=1 << 20,
        tls_config=context,
        secure_connection=True,
        insecure_skip_verify=False,
        middleware=(),
        observers=[],
        logger=logging.getLogger("mine"),
        debug_mode=True,
    )


async def every_step(config: ServerConfig) -> None:
    server = await Server.connect(config)
    assert_type(server, Server)
    receipt = await server.publish(Task("plain", [TaskArgument("string", "text"), TaskArgument("int", 1)]))
    assert_type(receipt, Receipt)
    assert_type(receipt.uuid, str)
    worker = await server.new_worker(
        WorkerConfig("worker_1", "queue_1", ["dispatcher_rk"], limit=3, prefetch=None, max_overrunning=2),
        {
            "plain": TaskConfig(function=plain, timeout_seconds=60, on_timeout="release", executor="thread"),
            "coroutine": TaskConfig(coroutine, 0.5, True, on_timeout="cancel", retry=RetryPolicy()),
        },
    )
    assert_type(worker, Worker)
    await worker.start()
    assert_type(server.get_worker_by_name("worker_1"), Worker)
    await worker.close()
    await worker.close(grace_seconds=5)
    await server.wait_closed()
    await server.close(grace_seconds=None)
    async with await Server.connect(config) as connected:
        assert_type(connected, Server)


async def publishes_any_iterable(server: Server) -> None:
    def lazily() -> Iterator[Task]:
        yield Task("plain")

    assert_type(await server.publish_many(lazily()), list[Receipt])
    await server.publish_many([Task("plain"), Task("coroutine")])
    await server.publish_many(Task("plain", priority=n) for n in range(10))


def what_a_task_is_made_of() -> None:
    task = Task(name="t", args=(), uuid=None, routing_key="rk", headers={"h": 1}, priority=4, expires_seconds=1)
    assert_type(task.name, str)
    assert_type(task.args, Sequence[TaskArgument])
    assert_type(task.uuid, str | None)
    assert_type(TaskArgument(type="int", value=1).type, str)


async def what_is_wrong(server: Server, worker: Worker) -> None:
    Server("sqlite:///x.db")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    ServerConfig(url="memory://", exchange="e")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ServerConfig("memory://", "e", "rk")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Queue("q", type="stream")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Queue("q", binding_keys=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Queue("q").name = "r"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    Task()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Task("t", args=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    TaskArgument(1, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    TaskConfig(function="plain")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    TaskConfig(plain, on_timeout="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WorkerConfig("w", "q", limit="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await server.publish("t")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await server.publish_many(Task("t"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await server.new_worker(WorkerConfig("w", "q"), {"t": plain})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    await worker.close(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
