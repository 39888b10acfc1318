"""Every end of a publish, against a session that the test plays."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from dispatcher.brokers.base import Message
from dispatcher.errors import (
    BrokerBlocked,
    BrokerUnavailable,
    ConnectionLost,
    PublishError,
    PublishManyError,
    PublishRefused,
    PublishUnknown,
    TopologyMissing,
    Unroutable,
)
from dispatcher.model.task import Task, TaskArgument
from dispatcher.observe.context import CURRENT_TASK, CurrentTask
from dispatcher.observe.hooks import EventHub
from dispatcher.observe.logs import LogObserver
from dispatcher.runtime import publisher as publisher_module
from dispatcher.runtime.publisher import PUBLISH_MANY_WINDOW, Publisher

TIMEOUT_SECONDS = 0.2


class Played:
    """A session source whose answers the test gives, one per publish; the last repeats. None never answers."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.messages: list[Message] = []
        self.up = True
        self.ended: Exception | None = None

    @property
    def session(self) -> Played | None:
        return self if self.up else None

    async def live_session(self) -> Played:
        while not self.up:
            if self.ended is not None:
                raise self.ended
            await asyncio.sleep(0.01)
        return self

    def publish(self, message: Message) -> asyncio.Future[None]:
        self.messages.append(message)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif answer is not None:
            future.set_result(None)
        return future


@pytest.fixture
async def publishers() -> AsyncIterator[list[Publisher]]:
    made: list[Publisher] = []
    yield made
    for publisher in made:
        publisher.close()


async def _cancel(uuid: str) -> None:
    """For receipts, which nobody cancels here."""


def publisher_of(source: Played, made: list[Publisher], timeout_seconds: float = TIMEOUT_SECONDS) -> Publisher:
    publisher = Publisher(
        source,  # type: ignore[arg-type]
        EventHub(LogObserver(logging.getLogger("test"))),
        exchange="ex",
        default_routing_key="rk",
        publish_timeout_seconds=timeout_seconds,
        max_body_bytes=1000,
        canceller=_cancel,
    )
    made.append(publisher)
    return publisher


OK = "accepted"


@pytest.mark.parametrize(
    "answers",
    [
        (OK,),
        (PublishRefused("full"), PublishRefused("full"), OK),
        (BrokerBlocked("alarm"), OK),
        (ConnectionLost("cut"), ConnectionLost("cut"), OK),
    ],
)
async def test_it_tries_again_within_its_deadline(answers: tuple[object, ...], publishers: list[Publisher]) -> None:
    """A refusal and a lost connection may pass: the same message goes out again, with the same uuid."""
    source = Played(*answers)
    receipt = await publisher_of(source, publishers).publish(Task("task", uuid="u"))
    assert receipt.uuid == "u"
    assert len(source.messages) == len(answers)
    assert {message.uuid for message in source.messages} == {"u"}


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ((Unroutable("nowhere"),), Unroutable),
        ((PublishRefused("full"),), PublishRefused),
        ((BrokerBlocked("alarm"),), BrokerBlocked),
        ((None,), PublishUnknown),
        ((ConnectionLost("cut"), PublishRefused("full")), PublishUnknown),
        ((ConnectionLost("cut"), Unroutable("the queue was deleted meanwhile")), PublishUnknown),
        ((ConnectionLost("cut"), TopologyMissing("so was the exchange")), PublishUnknown),
    ],
)
async def test_its_error_is_honest_and_names_the_task(
    answers: tuple[object, ...], error: type[PublishError], publishers: list[Publisher]
) -> None:
    """What may have been accepted is unknown; what certainly was not is said to be refused."""
    with pytest.raises(error) as caught:
        await publisher_of(Played(*answers), publishers).publish(Task("task", uuid="u"))
    assert type(caught.value) is error
    assert caught.value.uuid == "u"


async def test_a_publish_whose_time_is_over_is_not_sent_again(publishers: list[Publisher]) -> None:
    """Nobody answered: a second message would only be a duplicate."""
    source = Played(None)
    with pytest.raises(PublishUnknown):
        await publisher_of(source, publishers).publish(Task("task", uuid="u"))
    assert len(source.messages) == 1


async def test_a_final_refusal_is_told_at_once(publishers: list[Publisher]) -> None:
    """Nothing is gained by asking again for what is forbidden or too large."""
    source = Played(PublishRefused("forbidden", final=True), OK)
    with pytest.raises(PublishRefused) as caught:
        await publisher_of(source, publishers).publish(Task("task", uuid="u"))
    assert (caught.value.uuid, len(source.messages)) == ("u", 1)


async def test_a_final_refusal_after_a_lost_answer_is_unknown(publishers: list[Publisher]) -> None:
    """The first one may have been accepted before the permission was taken away."""
    source = Played(ConnectionLost("cut"), PublishRefused("forbidden", final=True))
    with pytest.raises(PublishUnknown):
        await publisher_of(source, publishers).publish(Task("task", uuid="u"))


async def test_without_a_connection_it_waits_to_its_deadline(publishers: list[Publisher]) -> None:
    """A reconnection within the deadline saves it; else the broker was unavailable."""
    source = Played(OK)
    source.up = False
    publisher = publisher_of(source, publishers)
    publishing = asyncio.create_task(publisher.publish(Task("task")))
    await asyncio.sleep(0)
    source.up = True
    await publishing
    source.up = False
    with pytest.raises(BrokerUnavailable) as caught:
        await publisher.publish(Task("task", uuid="u"))
    assert caught.value.uuid == "u"


async def test_a_server_that_gave_up_ends_the_wait(publishers: list[Publisher]) -> None:
    """Outside of a task that is BrokerUnavailable, or unknown; a running task learns of the lost link itself."""
    source = Played(ConnectionLost("cut"))
    source.up, source.ended = False, ConnectionLost("gave up")
    publisher = publisher_of(source, publishers)
    with pytest.raises(BrokerUnavailable):
        await publisher.publish(Task("task"))
    CURRENT_TASK.set(CurrentTask("u", "parent", 1, False, {}, "q"))
    with pytest.raises(ConnectionLost):
        await publisher.publish(Task("task"))


async def test_many_share_one_deadline(publishers: list[Publisher]) -> None:
    """Each task's deadline counts from its hand-over: fifty refusals last as long as one, not fifty times."""
    loop = asyncio.get_running_loop()
    publisher = publisher_of(Played(PublishRefused("full")), publishers)
    started = loop.time()
    with pytest.raises(PublishManyError) as caught:
        await publisher.publish_many(Task("task") for _ in range(50))
    assert len(caught.value.failed) == 50
    assert loop.time() - started < 10 * TIMEOUT_SECONDS


async def test_many_are_tried_again_at_the_same_time(publishers: list[Publisher]) -> None:
    """An alarm that is over: a thousand refusals are not worked off one by one, each after its pause."""
    source = Played(*[BrokerBlocked("alarm")] * 1000, OK)
    publisher = publisher_of(source, publishers, timeout_seconds=5.0)  # a tenth of what all pauses together would be
    receipts = await publisher.publish_many(Task("task", uuid=f"{n}") for n in range(1000))
    assert [receipt.uuid for receipt in receipts] == [f"{n}" for n in range(1000)]


async def test_an_iterable_that_takes_its_time_holds_nothing_up(publishers: list[Publisher]) -> None:
    """What it gave goes out while it makes the next: else its deadline would pass before anybody has seen it."""
    source = Played(OK)
    went_out: list[int] = []

    def tasks() -> Iterator[Task]:
        for _ in range(20):
            asyncio.get_running_loop().call_soon(lambda: went_out.append(len(source.messages)))
            time.sleep(TIMEOUT_SECONDS / 5)
            yield Task("task")

    await publisher_of(source, publishers).publish_many(tasks())
    assert went_out[:10] == list(range(10))


async def test_many_that_end_early_leave_nothing_behind(publishers: list[Publisher]) -> None:
    """The tasks raise while others are being tried again: those are given up, and nobody misses their errors."""
    source = Played(*[BrokerBlocked("alarm")] * (PUBLISH_MANY_WINDOW + 10), None)

    def tasks() -> Iterator[Task]:
        for _ in range(PUBLISH_MANY_WINDOW + 1):
            yield Task("task")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        await publisher_of(source, publishers).publish_many(tasks())


async def test_large_tasks_in_flight_are_bounded_by_their_size(
    publishers: list[Publisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a thousand of a megabyte each: what is on its way is held in memory."""
    monkeypatch.setattr(publisher_module, "PUBLISH_MANY_BYTES", 4_000)
    source = Played(None)
    large = Task("task", [TaskArgument("string", "x" * 900)])
    many = publisher_of(source, publishers).publish_many(large for _ in range(100))
    publishing = asyncio.create_task(many)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(source.messages) == 5
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_a_cancelled_caller_stops_waiting(publishers: list[Publisher]) -> None:
    """A publish whose caller was cancelled ends with CancelledError, not with an answer of its own."""
    publisher = publisher_of(Played(None), publishers)
    publishing = asyncio.create_task(publisher.publish(Task("task")))
    await asyncio.sleep(0)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_a_full_window_is_filled_again_once_it_is_half_empty(publishers: list[Publisher]) -> None:
    sent: list[asyncio.Future[None]] = []

    class Held(Played):
        def publish(self, message: Message) -> asyncio.Future[None]:
            sent.append(super().publish(message))
            return sent[-1]

    half = PUBLISH_MANY_WINDOW // 2
    publisher = publisher_of(Held(None), publishers, timeout_seconds=20.0)
    tasks = [Task("task") for _ in range(PUBLISH_MANY_WINDOW + half)]
    async with asyncio.timeout(20.0), asyncio.TaskGroup() as group:
        many = group.create_task(publisher.publish_many(tasks))
        while len(sent) < PUBLISH_MANY_WINDOW:
            await asyncio.sleep(0)
        for future in sent[: half - 1]:
            future.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(sent) == PUBLISH_MANY_WINDOW
        sent[half - 1].set_result(None)
        while len(sent) < len(tasks):
            await asyncio.sleep(0)
        for future in sent[half:]:
            future.set_result(None)
    assert [receipt.uuid for receipt in many.result()] == [task.uuid for task in tasks]
