"""The dead letters of an app from its programs: `app.dead_letters`, on every broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Unpack

import pytest
from server_bench import DEADLINE_SECONDS, eventually

from dispatcher import (
    ArgumentError,
    ConfigError,
    DeadLetter,
    Dispatcher,
    Reject,
    Task,
    TaskArgument,
    TopologyMismatch,
    Unroutable,
)
from dispatcher.brokers.base import Message
from dispatcher.brokers.rabbitmq import browsing
from dispatcher.model import headers as names
from dispatcher.model.codec import encode_body
from dispatcher.model.topology import DEAD_EXCHANGE
from dispatcher.runtime import dead_letters as module
from dispatcher.runtime.app_dead_letters import Chosen

HOUR_MS = 3_600_000


@pytest.fixture
async def shop(app: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dispatcher]:
    """An app that is connected, with a queue `orders` and a queue `mails`."""
    monkeypatch.setattr(browsing, "RETURN_SECONDS", DEADLINE_SECONDS)  # on a busy machine what is given back comes late

    @app.task(queue="orders")
    async def ship(order: int, address: str) -> None:
        raise Reject("no address") if not address else OSError("the printer is on fire")

    @app.task(queue="mails")
    async def send_email(to: str) -> None: ...

    async with app, asyncio.timeout(DEADLINE_SECONDS):
        yield app


async def bury(
    app: Dispatcher,
    *uuids: str,
    queue: str = "orders",
    hours: float | None = None,
    body: bytes | None = None,
    **notes: Any,
) -> None:
    """Park letters that died `hours` ago, None at a time that nobody noted, as a worker does it."""
    headers = {names.REASON: "failed", names.REASON_TEXT: "because", names.ERROR_TYPE: "OSError", names.ERROR: "Lost"}
    if hours is not None:
        headers[names.DEAD_AT] = int(time.time() * 1000 - hours * HOUR_MS)  # type: ignore[assignment]
    args = (TaskArgument("int", 1), TaskArgument("string", "here"))
    session = await app.server.live_session()
    before = await ready(app, f"{queue}.dead")
    for uuid in uuids:
        letter = encode_body(uuid, "ship", args) if body is None else body
        await session.publish(Message(DEAD_EXCHANGE, queue, letter, uuid, {**headers, **notes}))
    await counted(app, f"{queue}.dead", before + len(uuids))


async def ready(app: Dispatcher, queue: str) -> int:
    return (await app.server.inspector.depth(queue)).ready


async def counted(app: Dispatcher, queue: str, count: int) -> None:
    """Wait until the queue shows so many: RabbitMQ confirms a message a little before it counts it."""
    await eventually(lambda: ready(app, queue), count)


async def found(app: Dispatcher, **chosen: Unpack[Chosen]) -> list[str]:
    return [letter.uuid async for letter in app.dead_letters.list(**chosen)]


async def waiting(app: Dispatcher, queue: str, count: int) -> list[Message]:
    await counted(app, queue, count)
    return [seen.message async for seen in app.server.inspector.browse(queue)]


async def test_a_letter_says_where_it_came_from_and_what_became_of_it(shop: Dispatcher) -> None:
    """First published, died, exchange and routing key; arguments as they are on the wire; headers, ours included."""
    before_ms = int(time.time() * 1000)
    task = Task(
        "ship", [TaskArgument("int", 7), TaskArgument("string", "x")], routing_key="orders", headers={"mine": 1}
    )
    await shop.publish(task)
    await shop.run_worker(burst=True)
    await counted(shop, "orders.dead", 1)
    (letter,) = [letter async for letter in shop.dead_letters.list()]
    assert (letter.uuid, letter.task, letter.queue, letter.attempt) == (task.uuid, "ship", "orders", 1)
    assert (letter.reason, letter.text) == ("failed", "OSError: the printer is on fire")
    assert (letter.error_type, letter.error) == ("OSError", "the printer is on fire")
    assert "Traceback" in letter.traceback
    assert (letter.exchange, letter.routing_key) == ("dispatcher", "orders")
    assert letter.first_published_at_ms is not None and letter.dead_at_ms is not None
    assert before_ms <= letter.first_published_at_ms <= letter.dead_at_ms <= time.time() * 1000
    assert letter.args == (TaskArgument("int", 7), TaskArgument("string", "x"))
    assert letter.headers["mine"] == 1 and letter.headers[names.REASON] == "failed"
    assert letter.replayed_at_ms is None


async def test_a_letter_of_a_stranger_says_what_it_can(shop: Dispatcher) -> None:
    """A Go sender notes no time of publishing; a body that is no task has no arguments."""
    session = await shop.server.live_session()
    await session.publish(Message("dispatcher", "orders", b"{}"))
    await session.publish(Message("dispatcher", "orders", b'{"uuid":"go","name":"ship","args":null}'))
    await shop.run_worker(burst=True, limit=1)
    await counted(shop, "orders.dead", 2)
    broken, short = [letter async for letter in shop.dead_letters.list()]
    assert (broken.uuid, broken.task, broken.args, broken.body, broken.reason) == ("", "", None, b"{}", "undecodable")
    assert (short.uuid, short.args, short.reason, short.error_type) == ("go", (), "bad_arguments", "")
    for letter in (broken, short):
        assert (letter.first_published_at_ms, letter.exchange, letter.routing_key) == (None, "dispatcher", "orders")


async def test_every_filter(shop: Dispatcher) -> None:
    """Everything given must fit; error texts in any case; a letter of unknown age is neither old nor new."""
    await bury(shop, "new", hours=0)
    await bury(shop, "old", hours=48, **{names.ERROR: "Übel"})
    await bury(shop, "ageless", **{names.ERROR_TYPE: "", names.ERROR: "", names.REASON_TEXT: "No Address"})
    await bury(shop, "mail", queue="mails", hours=1, **{names.REASON: "rejected"})
    assert await found(shop) == ["mail", "new", "old", "ageless"]
    assert await found(shop, queue="orders", task="ship") == ["new", "old", "ageless"]
    assert await found(shop, task="nothing") == []
    assert await found(shop, reason="rejected") == ["mail"]
    assert await found(shop, error="ÜBEL") == ["old"]
    assert await found(shop, error="oserror: l") == ["mail", "new"]
    assert await found(shop, error="no add") == ["ageless"]
    assert await found(shop, error="oserror: x") == []
    assert await found(shop, error=":") == ["mail", "new", "old"]
    assert await found(shop, older_than_seconds=3 * 3600) == ["old"]
    assert await found(shop, newer_than_seconds=3 * 3600) == ["mail", "new"]
    assert await found(shop, older_than_seconds=1800, newer_than_seconds=7200) == ["mail"]
    assert await found(shop, uuids=["old", "mail"], error="lost") == ["mail"]
    assert await shop.dead_letters.count(reason="failed") == 3
    assert await shop.dead_letters.count(queue="mails") == 1


async def test_what_is_out_of_bounds_is_refused(shop: Dispatcher) -> None:
    """In words that say what was expected; nothing is deleted or sent."""
    await bury(shop, "a", hours=0)
    letters = shop.dead_letters
    wrong: list[tuple[Any, str]] = [
        (letters.purge(reason="tired"), "expected one of failed, rejected"),  # type: ignore[arg-type]
        (letters.purge(uuids="abc"), "got the text 'abc'"),
        (letters.purge(older_than_seconds=-1), "older_than_seconds: expected a number of seconds, 0 or more, got -1"),
        (letters.purge(newer_than_seconds=float("nan")), "newer_than_seconds"),
        (letters.purge(oldr_than_seconds=3), "expected some of"),  # type: ignore[call-arg]
        (letters.replay(rate=0), "rate: expected"),
        (letters.replay(rate=float("inf")), "rate: expected"),
        (letters.retention(older_than_seconds=0, keep=-1), "keep: expected"),
        (letters.retention(older_than_seconds=float("inf")), "older_than_seconds"),
    ]
    for call, message in wrong:
        with pytest.raises(ConfigError, match=message):
            await call
    with pytest.raises(TopologyMismatch, match="'ordres'"):
        await letters.purge(queue="ordres")
    assert await found(shop) == ["a"]


async def test_outside_of_the_app_there_is_nothing_to_look_at(app: Dispatcher) -> None:
    """And it says what to do."""
    with pytest.raises(ConfigError, match="async with app"):
        await app.dead_letters.count()


async def test_a_replay_starts_again_and_is_noted(shop: Dispatcher) -> None:
    """At its first attempt, with its own headers; when it was replayed stays with it, if it dies again too."""
    await bury(shop, "a", "b", hours=2, mine="x", **{names.FIRST_PUBLISHED_AT: 5, names.EXCHANGE: "dispatcher"})
    before_ms = int(time.time() * 1000)
    report = await shop.dead_letters.replay(uuids={"a", "nobody"})
    assert (report.replayed, report.failed, report.first_error, report.uuids) == (1, 0, None, {"a"})
    (message,) = await waiting(shop, "orders", 1)
    headers = dict(message.headers or {})
    assert before_ms <= headers.pop(names.REPLAYED_AT) <= time.time() * 1000
    assert headers == {"mine": "x", names.FIRST_PUBLISHED_AT: 5, names.EXCHANGE: "dispatcher"}
    await shop.run_worker(burst=True)
    await counted(shop, "orders.dead", 2)
    (again,) = [letter async for letter in shop.dead_letters.list(uuids=["a"])]
    assert again.replayed_at_ms is not None and again.replayed_at_ms >= before_ms
    assert (again.first_published_at_ms, again.attempt) == (5, 1)


async def test_a_replay_to_another_queue(shop: Dispatcher) -> None:
    """To one that does not exist nothing goes, and every letter stays."""
    await bury(shop, "a", "b", hours=0)
    report = await shop.dead_letters.replay(to_queue="nowhere")
    assert (report.replayed, report.failed) == (0, 2) and isinstance(report.first_error, Unroutable)
    assert (await shop.dead_letters.replay(to_queue="mails", rate=1000)).replayed == 2
    assert [message.uuid for message in await waiting(shop, "mails", 2)] == ["a", "b"]
    assert await found(shop) == []


async def test_edited_letters(shop: Dispatcher) -> None:
    """Name and arguments are the edit's, all else the letter's; what cannot travel stays; None changes nothing."""
    await bury(shop, "a", "b", "c", hours=0, mine="x")

    def edit(letter: DeadLetter) -> Task | None:
        if letter.uuid == "b":
            return Task("ship", [TaskArgument("int8", 300)])
        return Task("send_email", [TaskArgument("string", "é")], headers={"other": 1}) if letter.uuid == "a" else None

    report = await shop.dead_letters.replay(edit=edit)
    assert (report.replayed, report.failed) == (2, 1) and isinstance(report.first_error, ArgumentError)
    first, second = await waiting(shop, "orders", 2)
    assert first.body == encode_body("a", "send_email", (TaskArgument("string", "é"),))
    assert (first.uuid, (first.headers or {})["mine"], "other" in (first.headers or {})) == ("a", "x", False)
    assert second.body == encode_body("c", "ship", (TaskArgument("int", 1), TaskArgument("string", "here")))
    assert await found(shop) == ["b"]


async def test_an_edit_that_raises_loses_nothing(shop: Dispatcher) -> None:
    """The replay ends with it, and the letter is where it was."""
    await bury(shop, "a", hours=0)

    def edit(letter: DeadLetter) -> Task:
        raise LookupError("what was the address?")

    with pytest.raises(LookupError):
        await shop.dead_letters.replay(edit=edit)
    with pytest.raises(ConfigError, match="outside"):
        await shop.dead_letters.replay(edit=lambda letter: (_ for _ in ()).throw(ConfigError("outside")))
    report = await shop.dead_letters.replay(edit=lambda letter: letter)  # type: ignore[arg-type,return-value]
    assert (report.replayed, report.failed) == (0, 1) and "expected a Task" in str(report.first_error)
    assert await found(shop) == ["a"] and await waiting(shop, "orders", 0) == []


async def test_a_body_that_is_no_task_can_be_made_one(shop: Dispatcher) -> None:
    """With the letter's uuid, or a new one where it has none."""
    await bury(shop, "a", hours=0, body=b"not a task")
    session = await shop.server.live_session()
    await session.publish(Message(DEAD_EXCHANGE, "orders", b"nor this"))
    await counted(shop, "orders.dead", 2)
    mended = Task("ship", [], uuid="mended")
    assert (await shop.dead_letters.replay(edit=lambda letter: mended)).replayed == 2
    messages = await waiting(shop, "orders", 2)
    assert [message.uuid for message in messages] == ["a", "mended"]
    assert [message.body for message in messages] == [encode_body(uuid, "ship", ()) for uuid in ("a", "mended")]


async def test_purge_deletes_what_fits(shop: Dispatcher) -> None:
    """And says how many; all without a filter, in the app's queues only."""
    await bury(shop, "a", "b", hours=0)
    await bury(shop, "old", hours=48)
    await bury(shop, "mail", queue="mails", hours=0)
    assert await shop.dead_letters.purge(older_than_seconds=3600) == 1
    assert await shop.dead_letters.purge(queue="mails") == 1
    assert await found(shop) == ["a", "b"]
    assert await shop.dead_letters.purge() == 2
    assert await found(shop) == []


async def test_retention(shop: Dispatcher) -> None:
    """What is older goes; with `keep` all but the newest of each queue, those of unknown age too."""
    await bury(shop, "old", hours=48)
    await bury(shop, "ageless")
    await bury(shop, "a", "b", hours=1)
    await bury(shop, "m1", "m2", queue="mails", hours=1)
    assert await shop.dead_letters.retention(older_than_seconds=24 * 3600) == 1
    assert await found(shop) == ["m1", "m2", "ageless", "a", "b"]
    assert await shop.dead_letters.retention(older_than_seconds=24 * 3600, keep=1, queue="orders") == 2
    assert await found(shop) == ["m1", "m2", "b"]
    assert await shop.dead_letters.retention(older_than_seconds=24 * 3600, keep=1) == 1
    assert await found(shop) == ["m2", "b"]
    assert await shop.dead_letters.retention(older_than_seconds=24 * 3600, keep=0) == 2
    assert await found(shop) == []


async def test_a_list_that_is_left_early_takes_nothing(shop: Dispatcher) -> None:
    """Closed, it hides no letter from a replay."""
    await bury(shop, "a", "b", "c", hours=0)
    async with aclosing(shop.dead_letters.list()) as letters:
        async for letter in letters:
            assert letter.uuid == "a"
            break
    assert await found(shop) == ["a", "b", "c"]
    assert (await shop.dead_letters.replay()).replayed == 3


@pytest.mark.parametrize("at_once", [1, 7])
async def test_a_look_that_begins_anew_meets_each_letter_once(
    shop: Dispatcher, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """What stayed is passed over, also what an edit refused; what did not fit is not counted twice."""
    monkeypatch.setattr(module, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    uuids = [f"u{number}" for number in range(30)]
    for number, uuid in enumerate(uuids):
        await bury(shop, uuid, hours=48 if number % 3 else 0)

    def edit(letter: DeadLetter) -> Task:
        return Task("ship", [TaskArgument("string" if letter.uuid == "u4" else "int", 1)])

    report = await shop.dead_letters.replay(older_than_seconds=3600, edit=edit)
    assert (report.replayed, report.failed) == (19, 1)
    left = ["u0", "u3", "u4", *(f"u{number}" for number in range(6, 30, 3))]
    assert await found(shop) == left
    assert [message.uuid for message in await waiting(shop, "orders", 19)] == [
        uuid for uuid in uuids if uuid not in left
    ]
    assert await shop.dead_letters.purge(uuids=["u0", "u27"]) == 2
    assert await shop.dead_letters.purge() == 9
