"""The everyday level as type checkers see it. Never run: mypy and pyright read it, both in strict mode.

What is right must pass, and the types that come out are asserted. A line that is wrong on purpose carries an ignore for
each of the two; an ignore that silences nothing is an error, so a wrong call that one of them lets pass fails the check.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from dispatcher import (
    CurrentTask,
    DeadLetter,
    DeadLetters,
    Discard,
    Dispatcher,
    FailedAttempt,
    PublishError,
    Queue,
    Receipt,
    Reject,
    ReplayReport,
    Retry,
    RetryPolicy,
    Server,
    Snooze,
    Task,
    TaskArgument,
    current_task,
)
from dispatcher.types import Int8

app = Dispatcher()


# --- declaring ------------------------------------------------------------------------------------------------------


@app.task
async def bare(to: str, subject: str) -> None: ...


@app.task
def plain(number: int, factor: float = 1.0) -> float:
    return number * factor


@app.task(
    name="mails.send",
    queue="emails",
    timeout_seconds=30,
    on_timeout="cancel",
    retry=RetryPolicy(max_attempts=5, backoff=[1, 5, 60.0], retry_on=(OSError,), give_up_on=(ValueError,)),
)
async def with_options(to: str, copies: int = 1) -> None: ...


@app.periodic("*/5 * * * *", timezone="Europe/Berlin", misfire="all", args=(3,))
@app.task(queue="reports")
def periodic_task(number: int) -> float:
    return float(number)


@app.periodic(every_seconds=30, name="often", queue=Queue("reports"), timeout_seconds=5)
async def periodic_function(number: int = 1) -> None: ...


@app.periodic(timedelta(hours=1), timezone=None)
def hourly() -> None: ...


app.periodic("@daily", misfire="twice")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.periodic("@daily", colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def periodic_tasks_are_typed() -> None:
    assert_type(periodic_task(3), float)
    assert_type(await periodic_task.send(3), Receipt)
    assert_type(await periodic_function.send(), Receipt)
    periodic_task.bind("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await periodic_function.send("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.task(executor="process", on_timeout="kill", timeout_seconds=0.5, queue=Queue("heavy", binding_keys=["h"]))
def in_process(level: Int8) -> int:
    return level


@app.task(executor="thread", task_uuid_as_first_arg=False, queue=None)
def in_thread() -> None: ...


@app.task(task_uuid_as_first_arg=True)
async def knows_its_uuid(uuid: str, number: int) -> None: ...


@app.task(task_uuid_as_first_arg=True, queue="emails", retry=RetryPolicy())
def knows_its_uuid_too(uuid: str, number: int) -> bool:
    return bool(uuid) and number > 0


@app.task(task_uuid_as_first_arg=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def has_no_place_for_its_uuid() -> None: ...


app.task(queue=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
app.task(on_timeout="stop")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
app.task(executor="greenlet")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
app.task(retry=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
app.task(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# --- calling the function itself ------------------------------------------------------------------------------------


async def calls() -> None:
    await bare("a@b.c", "hi")
    assert_type(plain(2), float)
    assert_type(plain(2, factor=0.5), float)
    await knows_its_uuid("uuid", 1)
    assert_type(knows_its_uuid_too("uuid", number=1), bool)

    await bare("a@b.c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain("2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await knows_its_uuid(1)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]


# --- sending --------------------------------------------------------------------------------------------------------


async def sends() -> None:
    receipt = await bare.send("a@b.c", subject="hi")
    assert_type(receipt, Receipt)
    assert_type(receipt.uuid, str)
    await plain.send(1)
    await plain.send(1, factor=2)
    await with_options.send("a@b.c", copies=2)
    await in_process.send(7)
    await in_thread.send()
    await knows_its_uuid.send(1)
    await knows_its_uuid_too.send(number=1)

    await bare.send("a@b.c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bare.send("a@b.c", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bare.send("a@b.c", "hi", "there")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bare.send("a@b.c", title="hi")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await plain.send(1, factor="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await in_thread.send(None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await in_process.send("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # The worker puts the uuid there, not the sender.
    await knows_its_uuid.send("uuid", 1)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await knows_its_uuid.send(uuid="uuid", number=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def sends_from_synchronous_code() -> None:
    assert_type(bare.send_sync("a@b.c", subject="hi"), Receipt)
    assert_type(knows_its_uuid.send_sync(1).uuid, str)
    assert_type(bare.options(delay_seconds=1).send_sync("a@b.c", "hi"), Receipt)
    app.close_sync()

    bare.send_sync("a@b.c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain.send_sync("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def sends_with_options(later: datetime, headers: Mapping[str, Any]) -> None:
    delayed = bare.options(delay_seconds=60, priority=5)
    assert_type(await delayed.send("a@b.c", "later"), Receipt)
    await bare.options(eta=later, expires_seconds=3600.0, uuid="u", headers=headers, queue="q").send("a@b.c", "later")
    await bare.options(eta=datetime.now(UTC), delay_seconds=None).send("a@b.c", subject="later")
    assert_type(knows_its_uuid.options(priority=9).bind(1), Task)

    await delayed.send("a@b.c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await delayed.send(1, "later")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.options(60)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    bare.options(countdown=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bare.options(eta="tomorrow")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def sends_many(addresses: Iterable[str]) -> None:
    assert_type(bare.bind("a@b.c", "hi"), Task)
    receipts = await app.publish_many(bare.bind(address, "hi") for address in addresses)
    assert_type(receipts, list[Receipt])
    await app.publish_many([plain.bind(1), knows_its_uuid.bind(2), Task("of.another.app")])
    await app.publish_many({bare.bind("a@b.c", "hi")})
    assert_type(await app.publish(plain.bind(1)), Receipt)

    bare.bind(1, "hi")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    knows_its_uuid.bind()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await app.publish(bare)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await app.publish_many(bare.bind("a@b.c", "hi"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await app.publish_many(["task"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


# --- the app, and inside a task -------------------------------------------------------------------------------------


async def the_app() -> None:
    async with app as entered:
        assert_type(entered, Dispatcher)
        assert_type(app.server, Server)
    for task in app.tasks.values():
        assert_type(task.name, str)
    assert_type(app.queues, tuple[Queue, ...])
    await app.run_worker(queues=None, limit=32, burst=False)
    await app.run_worker(["emails"], name="w", grace_seconds=None, prefetch=64)

    await app.run_worker(limit="32")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await app.run_worker(queue="emails")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def apps(settings: dict[str, Any]) -> None:
    Dispatcher(**settings)
    Dispatcher("memory://", exchange="e", default_queue="d", retry=RetryPolicy())
    Dispatcher(url=None, init_queues=[Queue("q")], publish_timeout_seconds=5, logger=logging.getLogger("mine"))

    Dispatcher(publish_timeout_seconds="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Dispatcher(declare="perhaps")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Dispatcher(init_queues=["q"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Dispatcher(default_routing_key="rk")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Dispatcher(middlewares=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Dispatcher(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Dispatcher(retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.task
def decides_its_fate(kind: str) -> None:
    task = current_task()
    assert_type(task, CurrentTask)
    assert_type(task.uuid, str)
    assert_type(task.name, str)
    assert_type(task.attempt, int)
    assert_type(task.redelivered, bool)
    assert_type(task.headers, Mapping[str, Any])
    assert_type(task.history, tuple[FailedAttempt, ...])
    assert_type(task.queue, str)
    assert_type(task.deadline, datetime | None)
    match kind:
        case "retry":
            raise Retry(after_seconds=1.5)
        case "snooze":
            raise Snooze(60)
        case "reject":
            raise Reject("no such customer")
        case _:
            raise Discard("seen before")


async def dead_letters() -> None:
    letters = app.dead_letters
    assert_type(letters, DeadLetters)
    assert_type(letters.list(queue="q"), AsyncGenerator[DeadLetter, None])
    async for letter in letters.list(task="t", reason="failed", error="no", older_than_seconds=60, uuids={"a"}):
        assert_type(letter.uuid, str)
        assert_type(letter.args, tuple[TaskArgument, ...] | None)
        assert_type(letter.first_published_at_ms, int | None)
        assert_type(letter.exchange, str | None)
        assert_type(letter.headers, Mapping[str, Any])
        letter.uuid = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert_type(await letters.count(newer_than_seconds=0.5), int)
    assert_type(await letters.purge(), int)
    assert_type(await letters.retention(older_than_seconds=86_400, keep=100, queue="q"), int)
    assert_type(await letters.replay(), ReplayReport)
    report = await letters.replay(to_queue="q", rate=5, edit=lambda letter: plain.bind(1), uuids=["a"])
    assert_type(report.replayed, int)
    await letters.replay(edit=lambda letter: None)
    await letters.replay(edit=lambda letter: 3)  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]
    await letters.purge(reason="tired")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await letters.count(ques="q")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await letters.retention(keep=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def errors() -> None:
    try:
        await plain.send(1)
    except PublishError as error:
        assert_type(error.uuid, str | None)


def fates_are_asked_for_rightly() -> None:
    Retry(after_seconds="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Snooze()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryPolicy(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryPolicy(backoff="fibonacci")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    current_task().attempt = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
