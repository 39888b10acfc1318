"""The examples that show the two levels of the API, run as they stand, and checked by mypy and pyright besides.

The one thing put in is the broker: a server's URL, or `$DISPATCHER_URL` for an app that names none.
"""

from __future__ import annotations

import asyncio
from threading import Thread

import pytest

from dispatcher import (
    Dispatcher,
    Queue,
    Receipt,
    RetryPolicy,
    Server,
    ServerConfig,
    Task,
    TaskArgument,
    TaskConfig,
    WorkerConfig,
)
from dispatcher.testing import waiting

DEADLINE_SECONDS = 30.0


async def test_the_explicit_level(url: str) -> None:
    """Connect, publish, work, close: the task ran with its arguments, and `wait_closed` returned after the close."""
    ran: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    server = await Server.connect(ServerConfig(
        url=url,
        exchange="dispatcher_example",
        default_routing_key="dispatcher_rk",
        init_queues=[Queue("queue_1", binding_keys=["dispatcher_rk"])],
    ))  # fmt: skip
    await server.publish(
        Task(name="task_1", args=[TaskArgument("string", "simple string"), TaskArgument("int", 1)])
    )  # fmt: skip

    def task_1(text: str, number: int) -> None:
        loop.call_soon_threadsafe(ran.put_nowait, (text, number))

    worker = await server.new_worker(
        WorkerConfig(name="worker_1", queue="queue_1", limit=3),
        {"task_1": TaskConfig(function=task_1, timeout_seconds=60)},
    )
    await worker.start()
    assert server.get_worker_by_name("worker_1") is worker

    async def close_when_done() -> tuple[str, int]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            arguments = await ran.get()
        await server.close()  # graceful
        return arguments

    closing = asyncio.create_task(close_when_done())
    async with asyncio.timeout(2 * DEADLINE_SECONDS):
        await server.wait_closed()  # returns after close()
        assert await closing == ("simple string", 1)


async def test_a_server_closes_with_its_block(url: str) -> None:
    """`async with await Server.connect(cfg) as server:` closes at the end."""
    cfg = ServerConfig(url=url, exchange="dispatcher_example", default_routing_key="dispatcher_rk")
    async with await Server.connect(cfg) as server:
        assert not server.closed
    await server.wait_closed()
    assert server.closed


async def test_the_everyday_level(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent in every way that is shown, then run by a worker; the delayed one waits in the broker."""
    monkeypatch.setenv("DISPATCHER_URL", shared_url)
    addresses = [f"{number}@b.c" for number in range(10)]
    sent: list[tuple[str, str]] = []
    from_synchronous_code: list[Receipt] = []

    app = Dispatcher()  # $DISPATCHER_URL, else the embedded broker

    @app.task(queue="emails", timeout_seconds=30, on_timeout="cancel", retry=RetryPolicy(max_attempts=5))
    async def send_email(to: str, subject: str) -> None:
        sent.append((to, subject))

    async with app:
        receipt = await send_email.send("a@b.c", subject="hi")
        await send_email.options(delay_seconds=60, priority=5).send("a@b.c", "later")
        receipts = await app.publish_many(send_email.bind(a, "hi") for a in addresses)
    assert len({receipt.uuid, *(each.uuid for each in receipts)}) == 11

    def a_script() -> None:
        from_synchronous_code.append(send_email.send_sync("a@b.c", "hi"))

    script = Thread(target=a_script)
    script.start()
    await asyncio.to_thread(script.join, DEADLINE_SECONDS)
    app.close_sync()
    assert len(from_synchronous_code) == 1

    await send_email("a@b.c", "hi")  # just calls the function
    assert sent == [("a@b.c", "hi")]
    async with asyncio.timeout(DEADLINE_SECONDS):
        await app.run_worker(burst=True)
    assert sorted(sent) == sorted([(address, "hi") for address in addresses] + [("a@b.c", "hi")] * 3)
    assert [task.args[1].value for task in await waiting(app)] == ["later"]
