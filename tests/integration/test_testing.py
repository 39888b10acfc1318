"""`dispatcher.testing` as a user's test would use it, on the memory broker and on a file."""

from __future__ import annotations

import asyncio
import threading

import pytest
from server_bench import eventually

from dispatcher import Dispatcher, Queue, Reject, RetryPolicy, Task, current_task
from dispatcher.testing import DrainFailed, drain, waiting


async def dead(app: Dispatcher) -> int | None:
    return (await app.server.inspector.depth("default")).dead


async def test_drain_runs_what_waits(app: Dispatcher) -> None:
    """What was sent and what that sends in turn; what its sender delayed stays. No `async with` is needed around it."""
    seen: list[int] = []

    @app.task(queue="a")
    async def first(number: int) -> None:
        seen.append(number)
        if number < 3:
            await first.options(queue="b").send(number + 1)

    @app.task(queue="b")
    async def second() -> None: ...

    async with app:
        await first.send(1)
        await first.options(delay_seconds=3600).send(100)
    await drain(app)
    assert seen == [1, 2, 3]
    assert [task.args[0].value for task in await waiting(app)] == [100]


async def test_a_failure_comes_with_its_traceback(app: Dispatcher) -> None:
    """The first of them, with the task's name and uuid, and the line that raised."""

    @app.task
    async def divide(number: int) -> None:
        print(1 / number)

    @app.task
    async def fine() -> None: ...

    async with app:
        receipt = await divide.send(0)
        await fine.send()
        with pytest.raises(DrainFailed) as caught:
            await drain(app)
    text = str(caught.value)
    assert text.startswith(f"task 'divide' ({receipt.uuid}), failed: ")
    assert "ZeroDivisionError" in text and "print(1 / number)" in text


async def test_several_failures_are_counted(app: Dispatcher) -> None:
    """Whatever the reason, and dead letters of before are no news."""

    @app.task
    async def number(value: int) -> None:
        raise ValueError(value)

    async with app:
        await number.send(1)
        await drain(app, raise_failures=False)
        await eventually(lambda: dead(app), 1)
        await drain(app)
        await app.publish_many([Task("number"), number.bind(2)])
        with pytest.raises(
            DrainFailed, match=r"^2 tasks became dead letters; the first: task 'number' .*bad_arguments"
        ):
            await drain(app)


async def test_what_was_asked_for_is_no_failure(app: Dispatcher) -> None:
    """A `Reject`, and a task that succeeded at its second attempt."""

    @app.task
    async def refuses() -> None:
        raise Reject("no such customer")

    @app.task(retry=RetryPolicy(max_attempts=2, base_seconds=0))
    async def stumbles() -> None:
        if current_task().attempt == 1:
            raise OSError

    async with app:
        await refuses.send()
        await stumbles.send()
        await drain(app)
        await eventually(lambda: dead(app), 1)


async def test_the_deadline_ends_what_never_ends(app: Dispatcher) -> None:
    """It says what is left, and the task is handed back."""

    @app.task
    async def hangs() -> None:
        await asyncio.Event().wait()

    async with app:
        await hangs.send()
        with pytest.raises(DrainFailed, match=r"within 0.1 s, got default: [01] waiting(, 0 delayed)?;"):
            await drain(app, deadline_seconds=0.1)
    assert [task.name for task in await waiting(app)] == ["hangs"]


async def test_a_cancelled_drain_ends_its_worker(app: Dispatcher) -> None:
    """And is cancelled itself, which a worker that drains is not."""
    running = asyncio.Event()

    @app.task
    async def hangs() -> None:
        running.set()
        await asyncio.Event().wait()

    async with app:
        await hangs.send()
        draining = asyncio.create_task(drain(app))
        await asyncio.wait_for(running.wait(), 30)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
    assert [task.name for task in await waiting(app)] == ["hangs"]


async def test_waiting_shows_what_was_sent(app: Dispatcher) -> None:
    """Name, arguments, uuid, queue, headers and priority, queue by queue; looking takes nothing."""

    @app.task
    async def mail(to: str, copies: int = 1) -> None: ...

    @app.task(queue=Queue("pictures"))
    def resize(width: int) -> None: ...

    async with app:
        later = await resize.options(delay_seconds=3600).send(3)
        mailed = await mail.options(headers={"tenant": "x"}, priority=7).send("a@b.c", copies=2)
    for _ in range(2):
        first, second = await waiting(app)
        assert (first.name, first.uuid, first.routing_key) == ("mail", mailed.uuid, "default")
        assert (first.headers, first.priority) == ({"tenant": "x"}, 7)
        assert list(first.args) == list(mail.bind("a@b.c", 2).args)
        assert (second.name, second.uuid, second.headers) == ("resize", later.uuid, None)


async def test_a_plain_function_runs_beside_the_loop(app: Dispatcher) -> None:
    """In a thread, as in a worker."""
    threads: list[threading.Thread] = []

    @app.task
    def note() -> None:
        threads.append(threading.current_thread())

    async with app:
        await note.send()
        await drain(app)
    assert threads and threads[0] is not threading.main_thread()
