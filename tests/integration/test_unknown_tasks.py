"""A rolling deploy: workers of two releases on one queue, and a task that only the new one knows."""

from __future__ import annotations

import time

import pytest
from server_bench import Bench, Recorder

from dispatcher import Task, TaskArgument, TaskConfig
from dispatcher.brokers.base import Message
from dispatcher.model import outcome
from dispatcher.model.codec import encode_body

COUNT = 4


async def test_two_releases_share_a_queue(bench: Bench, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of the new release are run by its worker, whoever got them first; none is parked, and nobody spins."""
    monkeypatch.setattr(outcome, "UNKNOWN_TASK_MAX_DELAY_SECONDS", 1.0)  # else bad luck takes 1, 1, 2, 4, … s
    ran: list[tuple[str, str]] = []

    async def new_task(number: int) -> None:
        ran.append(("new", str(number)))

    async def old_task(number: int) -> None:
        ran.append(("old", str(number)))

    async def publish(name: str) -> None:
        for number in range(COUNT):
            await bench.server.publish(Task(name, [TaskArgument("int", number)]))

    began_at = time.monotonic()
    await bench.worker(name="old release", old=TaskConfig(old_task))
    await publish("new")
    await recorder.wait_for("task.unknown", COUNT)
    await bench.worker(name="new release", old=TaskConfig(old_task), new=TaskConfig(new_task))
    await publish("old")
    await recorder.wait_for("task.succeeded", 2 * COUNT)
    seconds = time.monotonic() - began_at
    assert sorted(ran) == sorted([(name, str(n)) for name in ("old", "new") for n in range(COUNT)])
    offers = recorder.named("task.unknown")
    assert {offer.delay_seconds for offer in offers} == {1.0}
    assert len(offers) <= COUNT * (seconds + 1)
    assert recorder.named("task.dead_lettered") == []
    await bench.becomes(0, 0, 0, 0)


@pytest.mark.parametrize(("known_for_seconds", "delay_seconds"), [(0, 1.0), (9, 9.0), (290, 30.0), (301, None)])
async def test_what_nobody_knows_for_five_minutes_is_parked(
    bench: Bench, recorder: Recorder, known_for_seconds: float, delay_seconds: float | None
) -> None:
    """The clock is in the message: it says since when workers have not known it, and how it waits follows."""
    await bench.worker()
    since = {"x-dispatcher-unknown-since": int((time.time() - known_for_seconds) * 1000)}
    session = await bench.server.live_session()
    body = encode_body("u", "who", [])
    await session.publish(Message("ex", "rk", body, uuid="u", headers=since if known_for_seconds else None))
    if delay_seconds is None:
        (dead,) = await recorder.wait_for("task.dead_lettered")
        assert (dead.uuid, dead.task, dead.reason) == ("u", "who", "unknown_task")
        assert recorder.named("task.unknown") == []
    else:
        (offer,) = await recorder.wait_for("task.unknown")
        assert offer.delay_seconds == pytest.approx(delay_seconds, abs=5)
        assert recorder.named("task.dead_lettered") == []
