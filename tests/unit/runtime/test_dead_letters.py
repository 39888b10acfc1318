"""Dead letters on the memory broker: found, replayed without loss, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.brokers.base import BrowsedMessage, Inspector, Message, QueueDepth, Session
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.errors import ArgumentError, ConfigError, ConnectionLost, Unroutable
from dispatcher.model import headers as names
from dispatcher.model.codec import encode_body
from dispatcher.model.task import TaskArgument
from dispatcher.model.topology import DEAD_EXCHANGE, Queue, Topology
from dispatcher.runtime import dead_letters as module
from dispatcher.runtime.dead_letter import DeadLetter, Filter, letter_of, replayed_message, with_arguments
from dispatcher.runtime.dead_letters import Pace, dead_letters, dead_total, purge, replay

EVERYTHING = Filter()


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    session = await MemoryBroker().connect(name="test", on_event=lambda event: None)
    await session.declare(Topology("ex", (Queue("q", ("q",)), Queue("other", ("other",)))))
    yield session
    await session.close()


async def bury(session: Session, uuid: str, *, task: str = "work", reason: str = "failed", **headers: Any) -> None:
    """Park a message as `settle` does."""
    body = encode_body(uuid, task, (TaskArgument("int", 1),))
    notes = {names.REASON: reason, names.REASON_TEXT: "because", names.DEAD_AT: 1000, names.ATTEMPT: 3, **headers}
    await session.publish(Message(DEAD_EXCHANGE, "q", body, uuid, notes))


async def uuids_in(session: Session, queue: str) -> list[str]:
    return [seen.message.uuid async for seen in session.inspector.browse(queue)]


async def test_letters_are_found_by_every_filter(session: Session) -> None:
    """All that is given must fit."""
    await bury(session, "a")
    await bury(session, "b", task="mail")
    await bury(session, "c", reason="expired")

    async def found(wanted: Filter) -> list[str]:
        return [letter.uuid async for letter in dead_letters(session.inspector, ["q"], wanted)]

    assert await found(EVERYTHING) == ["a", "b", "c"]
    assert await found(Filter(task="mail")) == ["b"]
    assert await found(Filter(reason="expired")) == ["c"]
    assert await found(Filter(uuids={"a", "c"})) == ["a", "c"]
    assert await found(Filter(uuids={"a"}, reason="expired")) == []
    assert await dead_total(session.inspector, "q") == 3


async def test_a_letter_says_what_its_headers_say(session: Session) -> None:
    """A body that is no task has no task name, and headers of a stranger's making do no harm."""
    await bury(session, "a", **{names.ERROR_TYPE: "ValueError", names.ERROR: "no", names.TRACEBACK: "tb"})
    await session.publish(Message(DEAD_EXCHANGE, "q", b"\xff", "", {names.REASON: 7, names.ATTEMPT: "x"}))
    first, second = [letter async for letter in dead_letters(session.inspector, ["q"], EVERYTHING)]
    assert (first.task, first.queue, first.reason, first.text, first.attempt) == ("work", "q", "failed", "because", 3)
    assert (first.dead_at_ms, first.error_type, first.error, first.traceback) == (1000, "ValueError", "no", "tb")
    assert (second.uuid, second.task, second.reason, second.attempt, second.dead_at_ms) == ("", "", "", 1, None)


async def test_a_replayed_letter_is_in_its_queue_and_no_longer_dead(session: Session) -> None:
    """Uuid, body and the user's headers are kept; it starts again at its first attempt."""
    await bury(session, "a", tenant="x", **{names.ERROR: "no", "x-death": [{"count": 1}], names.FIRST_PUBLISHED_AT: 5})
    report = await replay(session, ["q"], EVERYTHING)
    assert (report.replayed, report.failed) == (1, 0)
    assert await uuids_in(session, "q.dead") == []
    (seen,) = [seen async for seen in session.inspector.browse("q")]
    assert seen.message.uuid == "a" and seen.message.routing_key == "q"
    headers = dict(seen.message.headers or {})
    assert type(headers.pop(names.REPLAYED_AT)) is int
    assert headers == {"tenant": "x", names.FIRST_PUBLISHED_AT: 5}


async def test_a_letter_may_be_replayed_to_another_queue(session: Session) -> None:
    """Only the letters that fit are moved."""
    await bury(session, "a")
    await bury(session, "b", task="mail")
    await replay(session, ["q"], Filter(task="mail"), to_queue="other")
    assert await uuids_in(session, "other") == ["b"]
    assert await uuids_in(session, "q.dead") == ["a"]


async def test_a_letter_that_is_not_accepted_stays(session: Session) -> None:
    """Nothing is removed that was not confirmed."""
    await bury(session, "a")
    report = await replay(session, ["q"], EVERYTHING, to_queue="nowhere")
    assert (report.replayed, report.failed) == (0, 1)
    assert isinstance(report.first_error, Unroutable)
    assert await uuids_in(session, "q.dead") == ["a"]


async def test_thousands_are_replayed_a_handful_at_a_time(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exactly once, in order, and the progress adds up."""
    monkeypatch.setattr(module, "AT_ONCE", 7)
    expected = [f"u{number}" for number in range(100)]
    for uuid in expected:
        await bury(session, uuid)
    steps: list[int] = []
    report = await replay(session, ["q"], EVERYTHING, progress=steps.append)
    assert report.replayed == 100 and sum(steps) == 100
    assert await uuids_in(session, "q") == expected
    assert await uuids_in(session, "q.dead") == []


async def test_letters_that_die_again_at_once_are_not_replayed_twice(session: Session) -> None:
    """A task that always fails must not make the replay endless."""
    await bury(session, "a")
    await bury(session, "b")
    inspector = session.inspector

    class Failing:
        """A session whose workers put every replayed task back into the dead letters at once."""

        @property
        def inspector(self) -> Inspector:
            return inspector

        def publish(self, message: Message) -> asyncio.Future[None]:
            asyncio.ensure_future(bury(session, message.uuid))  # noqa: RUF006 - it ends before its future does
            return session.publish(message)

    report = await asyncio.wait_for(replay(Failing(), ["q"], EVERYTHING), 30)  # type: ignore[arg-type]
    assert report.replayed == 2
    assert sorted(await uuids_in(session, "q.dead")) == ["a", "b"]


async def test_a_cancelled_replay_leaves_no_letter_both_sent_and_dead(session: Session) -> None:
    """What was sent is removed before the cancellation goes on; the rest stays."""
    for number in range(10):
        await bury(session, f"u{number}")
    entered = asyncio.Event()
    let_go = asyncio.Event()
    inner = session.inspector

    class Slow:
        """An inspector whose removals wait."""

        async def depth(self, queue: str) -> QueueDepth:
            return await inner.depth(queue)

        def browse(self, queue: str) -> AsyncIterator[BrowsedMessage]:
            return inner.browse(queue)

        async def remove(self, queue: str, key: int) -> bool:
            entered.set()
            await let_go.wait()
            return await inner.remove(queue, key)

    class SlowSession:
        inspector = Slow()
        publish = session.publish

    running = asyncio.ensure_future(replay(SlowSession(), ["q"], EVERYTHING))  # type: ignore[arg-type]
    await entered.wait()
    running.cancel()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    sent, dead = await uuids_in(session, "q"), await uuids_in(session, "q.dead")
    assert not set(sent) & set(dead) and len(sent) + len(dead) == 10


async def test_a_lost_connection_is_an_error_and_loses_nothing(session: Session) -> None:
    """What was accepted is removed, the rest stays dead."""
    await bury(session, "a")

    class Lost:
        inspector = session.inspector

        def publish(self, message: Message) -> asyncio.Future[None]:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(ConnectionLost("gone"))
            return future

    with pytest.raises(ConnectionLost):
        await replay(Lost(), ["q"], EVERYTHING)  # type: ignore[arg-type]
    assert await uuids_in(session, "q.dead") == ["a"]


async def test_purge_deletes_what_fits_and_nothing_else(session: Session) -> None:
    """And says how many."""
    await bury(session, "a")
    await bury(session, "b", reason="expired")
    assert await purge(session.inspector, ["q"], Filter(reason="expired")) == 1
    assert await uuids_in(session, "q.dead") == ["a"]
    assert await purge(session.inspector, ["q"], EVERYTHING) == 1
    assert await uuids_in(session, "q.dead") == []


def test_an_expiry_that_passed_is_dropped_and_one_to_come_is_kept() -> None:
    """A letter that died of its expiry would only die again."""
    message = Message("e", "k", b"", "u", {names.EXPIRES_AT: 100, names.ETA: 50})
    assert replayed_message(message, "q", 100).headers == {names.REPLAYED_AT: 100}
    assert replayed_message(message, "q", 99).headers == {names.EXPIRES_AT: 100, names.REPLAYED_AT: 99}


class Clock:
    """Time that passes while somebody sleeps, and when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_turns_come_evenly_and_a_pause_is_followed_by_no_burst() -> None:
    """Not all at once at the start, nor after the broker was slow."""
    clock = Clock()
    pace = Pace(10, clock=clock, sleep=clock.sleep)
    turns = []
    for number in range(6):
        if number == 3:
            clock.now += 5
        await pace.turn()
        turns.append(round(clock.now - 100, 6))
    assert turns[:4] == [0.0, 0.1, 0.2, 5.2]
    assert turns[4:] == [5.28, 5.38]  # what a sleep is late by is made up for, a pause is not
    assert [Pace(rate).at_once for rate in (None, 0.01, 10, 100, 1e9)] == [module.AT_ONCE, 1, 1, 10, module.AT_ONCE]


@pytest.mark.parametrize("rate", [0, -1, 0.001, float("nan"), float("inf"), True, "5"])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    """With what was expected."""
    with pytest.raises(ConfigError, match="rate: expected a number of letters per second, 0.01 or more"):
        Pace(rate)


async def test_a_slow_replay_can_be_cancelled_between_two_letters(session: Session) -> None:
    """It does not wait for a turn that is a minute away."""
    for uuid in ("a", "b", "c"):
        await bury(session, uuid)
    first = asyncio.Event()
    running = asyncio.ensure_future(
        replay(session, ["q"], EVERYTHING, rate=0.01, edit=lambda letter: first.set() if letter.uuid == "b" else None)
    )
    await asyncio.wait_for(first.wait(), 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 30)
    assert (await uuids_in(session, "q"), await uuids_in(session, "q.dead")) == (["a"], ["b", "c"])


def letter_with(*args: TaskArgument) -> DeadLetter:
    message = Message(DEAD_EXCHANGE, "q", encode_body("u", "work", args), "u")
    return letter_of("q", BrowsedMessage(1, message, 0, None))


def test_arguments_are_given_other_values_of_their_own_types() -> None:
    """What the type on the wire does not hold is refused, as is an argument that is not there."""
    letter = letter_with(TaskArgument("int8", 1), TaskArgument("string", "a"), TaskArgument("json", [1]))
    task = with_arguments(letter, [(0, -128), (2, {"x": None})])
    assert task.name == "work"
    assert task.args == (TaskArgument("int8", -128), TaskArgument("string", "a"), TaskArgument("json", {"x": None}))
    for values, message in (
        ([(0, 128)], "argument 1: .*int8"),
        ([(0, 1.0)], "argument 1"),
        ([(0, True)], "argument 1"),
        ([(1, None)], "argument 2"),
        ([(3, 1)], "index, 0 to 2, got 3"),
    ):
        with pytest.raises(ArgumentError, match=message):
            with_arguments(letter, values)
    with pytest.raises(ArgumentError, match="it has no arguments"):
        with_arguments(letter_with(), [(0, 1)])
    with pytest.raises(ArgumentError, match="not a task"):
        with_arguments(letter_of("q", BrowsedMessage(1, Message("e", "k", b"x"), 0, None)), [(0, 1)])
