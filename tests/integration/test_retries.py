"""Retries through a real worker: the history that travels, rules of one's own, defaults for an app."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest
from server_bench import Bench, Recorder

from dispatcher import (
    Dispatcher,
    FailedAttempt,
    Reject,
    Retry,
    RetryPolicy,
    Snooze,
    Task,
    TaskConfig,
    current_task,
)
from dispatcher.brokers.base import Message
from dispatcher.model.history import history_of
from dispatcher.model.retry import Failure

QUICK = RetryPolicy(max_attempts=3, backoff="constant", base_seconds=0.02, jitter=False)
HERE = f"{socket.gethostname()}:{os.getpid()}/w"


def summary(history: tuple[FailedAttempt, ...]) -> list[tuple[int, str, str, str]]:
    return [(entry.attempt, entry.where, entry.error_type, entry.error) for entry in history]


def look_back() -> None:
    """Fails for the number of attempts behind it, and says which those were."""
    history = current_task().history
    if len(history) < 2:
        raise ValueError(f"after {len(history)}")
    raise Reject(", ".join(f"{entry.attempt} {entry.error}" for entry in history))


async def test_the_history_travels_with_the_task(bench: Bench, recorder: Recorder) -> None:
    """Each attempt sees those before it, a snooze keeps them, and the dead letter has them all: when, where, what."""
    seen: list[list[tuple[int, str, str, str]]] = []

    async def task() -> None:
        history = current_task().history
        seen.append(summary(history))
        if len(seen) == 2:
            raise Snooze(0.02)
        raise LookupError(f"failure {len(history) + 1}")

    before_ms = int(time.time() * 1000)
    await bench.worker(task=TaskConfig(task, retry=QUICK))
    await bench.server.publish(Task("task"))
    await recorder.wait_for("task.dead_lettered")
    entries = [(n, HERE, "LookupError", f"failure {n}") for n in (1, 2, 3)]
    assert seen == [[], entries[:1], entries[:1], entries[:2]]
    history = history_of(await bench.dead_letter())
    assert summary(history) == entries
    times = [entry.at_ms for entry in history]
    assert [before_ms, *times, int(time.time() * 1000)] == sorted([before_ms, *times, int(time.time() * 1000)])


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_the_history_is_seen_wherever_the_task_runs(bench: Bench, recorder: Recorder, executor: Any) -> None:
    """In a thread and in a process of its own."""
    await bench.worker(task=TaskConfig(look_back, retry=QUICK, executor=executor))
    await bench.server.publish(Task("task"))
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.text) == ("rejected", "1 after 0, 2 after 1")


async def test_a_stranger_s_history_is_none(bench: Bench, recorder: Recorder) -> None:
    """Whatever is in that header, the task runs, its retry counts, and its own history takes the place."""
    seen: list[int] = []

    async def task() -> None:
        seen.append(len(current_task().history))
        raise LookupError("no")

    await bench.worker(task=TaskConfig(task, retry=QUICK))
    session = await bench.server.live_session()
    for garbage in ("[" * 1_000, [{"attempt": 1}], 7):
        body = b'{"uuid":"u","name":"task","args":null}'
        await session.publish(Message("ex", "rk", body, headers={"x-dispatcher-history": garbage}))
    await recorder.wait_for("task.dead_lettered", 3)
    assert sorted(seen) == sorted([0, 1, 2] * 3)
    assert [len(history_of(letter.headers or {})) for letter in await bench.dead_letters()] == [3, 3, 3]


async def test_a_long_history_with_large_headers_still_travels(bench: Bench, recorder: Recorder) -> None:
    """A sender that fills its headers, and fifteen failures with long texts: the first and the latest nine stay."""

    async def task() -> None:
        raise ValueError(f"{current_task().attempt} " + "\N{COLLISION SYMBOL}" * 100_000)

    policy = RetryPolicy(max_attempts=15, backoff="constant", base_seconds=0, jitter=False)
    await bench.worker(task=TaskConfig(task, retry=policy))
    await bench.server.publish(Task("task", headers={f"mine-{n}": "v" * 1_000 for n in range(40)}))
    await recorder.wait_for("task.dead_lettered")
    headers = await bench.dead_letter()
    history = history_of(headers)
    assert [entry.attempt for entry in history] == [1, *range(7, 16)]
    assert all(entry.error.startswith(f"{entry.attempt} ") for entry in history)
    assert len(headers["x-dispatcher-history"].encode()) <= 4_096
    assert headers["mine-39"] == "v" * 1_000


class ByError:
    """A rule of one's own: what was refused is given up, what timed out waits as long as it took attempts."""

    jitter = False

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, str]] = []

    def delay_seconds(self, attempt: int, failure: Failure, /) -> float | None:
        self.asked.append((attempt, failure.type, failure.message))
        if failure.is_a((OSError,)) and not failure.is_a((TimeoutError,)):
            return None
        return attempt / 100


async def test_a_rule_of_one_s_own_decides(bench: Bench, recorder: Recorder) -> None:
    """It is asked after each failure, with the attempt and the exception; its seconds are waited, its None ends it."""
    rule = ByError()

    async def task() -> None:
        raise TimeoutError("slow") if current_task().attempt < 3 else ConnectionRefusedError("shut")

    await bench.worker(task=TaskConfig(task, retry=rule))
    await bench.server.publish(Task("task"))
    [dead] = await recorder.wait_for("task.dead_lettered")
    assert rule.asked == [
        (1, "TimeoutError", "slow"),
        (2, "TimeoutError", "slow"),
        (3, "ConnectionRefusedError", "shut"),
    ]
    assert [event.delay_seconds for event in recorder.named("task.retried")] == [0.01, 0.02]
    assert (dead.reason, dead.attempt) == ("failed", 3)


@pytest.mark.parametrize("default", [RetryPolicy(max_attempts=2, base_seconds=0), ByError()], ids=["policy", "rule"])
async def test_an_app_s_default_gives_way_to_a_task_s_own(url: str, recorder: Recorder, default: Any) -> None:
    """The default may be any rule. A task with its own, that of no retries included, has nothing of it."""
    app = Dispatcher(url, retry=default, observers=[recorder])

    @app.task
    async def by_default() -> None:
        raise TimeoutError if current_task().attempt == 1 else ConnectionError

    @app.task(retry=RetryPolicy(max_attempts=3, base_seconds=0))
    async def its_own() -> None:
        raise ConnectionError

    @app.task(retry=RetryPolicy(max_attempts=1))
    async def never() -> None:
        raise TimeoutError

    async with app:
        for task in (by_default, its_own, never):
            await task.send()
        await app.run_worker(burst=True)
    ended = {event.task: event.attempt for event in recorder.named("task.dead_lettered")}
    assert ended == {"by_default": 2, "its_own": 3, "never": 1}


async def test_after_seconds_is_what_the_server_asked_for(bench: Bench, recorder: Recorder) -> None:
    """Neither the policy's jitter nor its longest wait change it; only its attempts bound it."""

    async def task() -> None:
        raise Retry(after_seconds=0.25, message="429")

    policy = RetryPolicy(max_attempts=2, base_seconds=0.01, max_seconds=0.02, retry_on=(OSError,))
    await bench.worker(task=TaskConfig(task, retry=policy))
    await bench.server.publish(Task("task"))
    await recorder.wait_for("task.dead_lettered")
    assert [event.delay_seconds for event in recorder.named("task.retried")] == [0.25]
    assert [entry.error for entry in history_of(await bench.dead_letter())] == ["429", "429"]
