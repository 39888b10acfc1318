"""What becomes of a delivery: every row of the table of fates, through a real server and worker."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import slow_import
from rabbitmq_admin import Admin
from server_bench import DEADLINE_SECONDS, Bench, Recorder, eventually

from dispatcher import (
    ConnectionLost,
    Discard,
    Queue,
    Receipt,
    Reject,
    Retry,
    RetryPolicy,
    Server,
    ServerConfig,
    Snooze,
    Task,
    TaskArgument,
    TaskConfig,
    WorkerConfig,
    current_task,
)
from dispatcher.brokers.base import Message
from dispatcher.model import outcome
from dispatcher.model.topology import QueueType

QUICK = RetryPolicy(max_attempts=3, base_seconds=0.02, jitter=False)


@pytest.fixture(params=["memory", "sqlite", "rabbitmq", "rabbitmq-classic", "rabbitmq-work-role"])
def kind(request: pytest.FixtureRequest) -> str:
    """Every broker, RabbitMQ with both types of queue, and as a user who may only work."""
    return str(request.param)


def sleep_for(seconds: int) -> None:
    time.sleep(seconds)


async def publish(server: Server, name: str, *args: TaskArgument, **options: Any) -> Receipt:
    return await server.publish(Task(name, list(args), **options))


async def test_returned_is_acked(bench: Bench, recorder: Recorder) -> None:
    """A function that returned is done with: nothing is left in the queue or in the dead letters."""
    seen: list[tuple[str, int]] = []

    async def task(text: str, number: int) -> None:
        seen.append((text, number))

    await bench.worker(task=TaskConfig(task))
    await publish(bench.server, "task", TaskArgument("string", "a"), TaskArgument("int", 1))
    await recorder.wait_for("task.succeeded")
    await bench.server.get_worker_by_name("w").close()
    assert seen == [("a", 1)]
    await bench.becomes(0, 0, 0, 0)


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseExceptionGroup("g", [SystemExit()])],
)
@pytest.mark.parametrize("how", ["coroutine", "plain"])
async def test_raised_without_policy_is_a_dead_letter(
    bench: Bench, recorder: Recorder, error: BaseException, how: str
) -> None:
    """Whatever a task raises is its own failure: the worker lives, the dead letter tells the error and its traceback."""

    async def coroutine() -> None:
        raise error

    def plain() -> None:
        raise error

    async def fine() -> None: ...

    task = TaskConfig(coroutine if how == "coroutine" else plain)
    await bench.worker(task=task, fine=TaskConfig(fine))
    receipt = await publish(bench.server, "task")
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert (dead.uuid, dead.reason, dead.attempt) == (receipt.uuid, "failed", 1)
    headers = await bench.dead_letter()
    assert headers["x-dispatcher-reason"] == "failed"
    assert headers["x-dispatcher-error-type"].endswith(type(error).__qualname__)
    assert f"in {how}" in headers["x-dispatcher-traceback"]
    await publish(bench.server, "fine")
    await recorder.wait_for("task.succeeded")


async def test_raised_with_attempts_left_is_retried_with_its_delay(bench: Bench, recorder: Recorder) -> None:
    """Each retry has the same uuid and the next attempt, and comes no earlier than its delay."""
    attempts: list[tuple[str, int, float]] = []

    async def task() -> None:
        now = current_task()
        attempts.append((now.uuid, now.attempt, time.time()))
        if now.attempt < 3:
            raise ValueError("again")

    policy = RetryPolicy(max_attempts=5, backoff=[0.15, 0.05], jitter=False)
    await bench.worker(task=TaskConfig(task, retry=policy))
    receipt = await publish(bench.server, "task")
    await recorder.wait_for("task.succeeded")
    assert [(uuid, attempt) for uuid, attempt, _ in attempts] == [(receipt.uuid, n) for n in (1, 2, 3)]
    assert attempts[1][2] - attempts[0][2] >= 0.149
    assert attempts[2][2] - attempts[1][2] >= 0.049
    await bench.server.get_worker_by_name("w").close()
    await bench.becomes(0, 0, 0, 0)


async def test_attempts_used_up_is_a_dead_letter(bench: Bench, recorder: Recorder) -> None:
    """The last attempt's failure ends in the dead letters, with the attempts it had and where it came from."""

    async def task() -> None:
        raise LookupError("never")

    await bench.worker(task=TaskConfig(task, retry=QUICK))
    await publish(bench.server, "task", headers={"mine": "kept"})
    await recorder.wait_for("task.dead_lettered")
    headers = await bench.dead_letter()
    assert headers["x-dispatcher-attempt"] == 3
    assert headers["x-dispatcher-queue"] == "q"
    assert (headers["x-dispatcher-exchange"], headers["x-dispatcher-routing-key"]) == ("ex", "rk")
    assert headers["mine"] == "kept"
    assert len(recorder.named("task.failed")) == 3
    assert len(recorder.named("task.retried")) == 2


async def test_retry_without_policy_is_bounded(bench: Bench, recorder: Recorder) -> None:
    """`Retry(after_seconds=…)` waits as asked, and without a policy is a dead letter after three attempts."""

    async def task() -> None:
        raise Retry(after_seconds=0.02)

    await bench.worker(task=TaskConfig(task))
    await publish(bench.server, "task")
    await recorder.wait_for("task.dead_lettered")
    assert [event.delay_seconds for event in recorder.named("task.retried")] == [0.02, 0.02]
    assert (await bench.dead_letter())["x-dispatcher-attempt"] == 3


async def test_snooze_does_not_count(bench: Bench, recorder: Recorder) -> None:
    """A snoozed task comes again with the same attempt, however often."""
    seen: list[tuple[int, int]] = []

    async def task() -> None:
        now = current_task()
        seen.append((now.attempt, now.headers.get("x-dispatcher-snoozes", 0)))
        if len(seen) < 6:
            raise Snooze(0.01)

    await bench.worker(task=TaskConfig(task))
    await publish(bench.server, "task")
    await recorder.wait_for("task.succeeded")
    assert seen == [(1, n) for n in range(6)]


async def test_reject_is_a_dead_letter_now(bench: Bench, recorder: Recorder) -> None:
    """`Reject` parks at once, with its text, whatever attempts are left."""

    async def task() -> None:
        raise Reject("the account is closed")

    await bench.worker(task=TaskConfig(task, retry=QUICK))
    await publish(bench.server, "task")
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.text) == ("rejected", "the account is closed")
    assert (await bench.dead_letter())["x-dispatcher-reason-text"] == "the account is closed"


async def test_discard_is_acked_and_told(bench: Bench, recorder: Recorder) -> None:
    """`Discard` leaves nothing behind but an event."""

    async def task() -> None:
        raise Discard("stale")

    await bench.worker(task=TaskConfig(task))
    await publish(bench.server, "task")
    (event,) = await recorder.wait_for("task.discarded")
    assert event.text == "stale"
    await bench.server.get_worker_by_name("w").close()
    await bench.becomes(0, 0, 0, 0)


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[1]", b'{"uuid":"","name":"task","args":null}', b"[" * 5000, b"\xff\xfe"]
)
async def test_undecodable_is_a_dead_letter(bench: Bench, recorder: Recorder, body: bytes) -> None:
    """A body that is not a task is parked with its bytes as they came, and the next task runs."""

    async def task() -> None: ...

    await bench.worker(task=TaskConfig(task))
    session = await bench.server.live_session()
    await session.publish(Message("ex", "rk", body, uuid="stranger"))
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert dead.reason == "undecodable"
    assert [(letter.body, letter.uuid) for letter in await bench.dead_letters()] == [(body, "stranger")]
    await publish(bench.server, "task")
    await recorder.wait_for("task.succeeded")


async def test_too_large_is_undecodable(bench: Bench, recorder: Recorder) -> None:
    """A body over the limit is parked, not parsed."""

    async def task(text: str) -> None: ...

    await bench.worker(task=TaskConfig(task))
    session = await bench.server.live_session()
    body = b'{"uuid":"u","name":"task","args":[{"type":"string","value":"' + b"x" * 2_200_000 + b'"}]}'
    await session.publish(Message("ex", "rk", body))
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert dead.reason == "undecodable"


@pytest.mark.parametrize(
    "args",
    [
        [],
        [TaskArgument("int", 1), TaskArgument("int", 2)],
        [TaskArgument("string", "1")],
        [TaskArgument("bool", True)],
    ],
)
async def test_bad_arguments_are_a_dead_letter(bench: Bench, recorder: Recorder, args: list[TaskArgument]) -> None:
    """Arguments that do not fit the function's signature never reach it."""
    ran: list[int] = []

    async def task(number: int) -> None:
        ran.append(number)

    await bench.worker(task=TaskConfig(task, retry=QUICK))
    await publish(bench.server, "task", *args)
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert dead.reason == "bad_arguments"
    assert ran == []


async def test_unknown_task_is_offered_again_then_parked(
    bench: Bench, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task nobody knows is not a hot loop: it waits, comes again, and after its time is parked."""
    monkeypatch.setattr(outcome, "UNKNOWN_TASK_SECONDS", 1.5)
    await bench.worker()
    await publish(bench.server, "who")
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.task, dead.attempt) == ("unknown_task", "who", 1)
    assert 1 <= len(recorder.named("task.unknown")) <= 3


async def test_unknown_task_runs_where_it_is_known_later(bench: Bench, recorder: Recorder) -> None:
    """In a rolling deploy the next release knows the task that this one did not."""

    async def task() -> None: ...

    old = await bench.worker(name="old")
    await publish(bench.server, "task")
    await recorder.wait_for("task.unknown")
    await old.close()
    await bench.worker(name="new", task=TaskConfig(task))
    await recorder.wait_for("task.succeeded")


async def test_expired_before_it_started_is_a_dead_letter(bench: Bench, recorder: Recorder) -> None:
    """What expired while it waited does not run."""
    ran: list[int] = []

    async def task() -> None:
        ran.append(1)

    worker = await bench.worker(start=False, task=TaskConfig(task))
    await publish(bench.server, "task", expires_seconds=0.01)
    await publish(bench.server, "task", expires_seconds=60)
    deadline = time.time() + 0.02
    while time.time() < deadline:
        await asyncio.sleep(0)
    await worker.start()
    (dead,) = await recorder.wait_for("task.dead_lettered")
    await recorder.wait_for("task.succeeded")
    assert dead.reason == "expired"
    assert ran == [1]


async def test_timeout_release_frees_the_slot_and_settles_at_the_end(bench: Bench, recorder: Recorder) -> None:
    """The Go rule: past its timeout a function runs on, the next task is taken, and its own end still settles it."""
    go_on = threading.Event()
    seen: list[str] = []

    def slow() -> None:
        go_on.wait(30)
        seen.append("slow")

    async def quick() -> None:
        seen.append("quick")

    async def busy() -> None:
        await all_done.wait()

    all_done = asyncio.Event()
    tasks = {"slow": TaskConfig(slow, timeout_seconds=0.05), "quick": TaskConfig(quick), "busy": TaskConfig(busy)}
    await bench.worker(limit=2, **tasks)
    await publish(bench.server, "busy")
    slow_task = await publish(bench.server, "slow")
    await recorder.wait_for("task.overran")
    await publish(bench.server, "quick")
    await recorder.wait_for("task.succeeded")
    assert seen == ["quick"]
    await bench.becomes(0, 2)  # the quick one's ack takes a moment; the overrunning one stays unacked
    go_on.set()
    done = await recorder.wait_for("task.succeeded", 2)
    assert done[1].uuid == slow_task.uuid
    all_done.set()
    await bench.server.get_worker_by_name("w").close()
    await bench.becomes(0, 0, 0, 0)


async def test_timeout_cancel_is_a_failure(bench: Bench, recorder: Recorder) -> None:
    """A coroutine past its timeout is cancelled, and that is a failure with TaskTimeout, retried by its policy."""
    cancelled: list[int] = []

    async def task() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(current_task().attempt)
            raise

    policy = RetryPolicy(max_attempts=2, base_seconds=0.01)
    await bench.worker(task=TaskConfig(task, timeout_seconds=0.05, on_timeout="cancel", retry=policy))
    await publish(bench.server, "task")
    await recorder.wait_for("task.dead_lettered")
    assert cancelled == [1, 2]
    assert (await bench.dead_letter())["x-dispatcher-error-type"].endswith("TaskTimeout")


async def test_timeout_kill_is_a_failure(bench: Bench, recorder: Recorder) -> None:
    """A function in a process past its timeout is killed, and that is a failure with TaskTimeout."""
    await bench.worker(task=TaskConfig(sleep_for, timeout_seconds=1.0, on_timeout="kill", executor="process"))
    await publish(bench.server, "task", TaskArgument("int", 600))
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert dead.reason == "failed"
    assert (await bench.dead_letter())["x-dispatcher-error-type"].endswith("TaskTimeout")


async def test_own_cancelled_error_is_a_failure(bench: Bench, recorder: Recorder) -> None:
    """A task that raises CancelledError itself failed; it is not taken for a drain."""

    async def task() -> None:
        raise asyncio.CancelledError

    await bench.worker(task=TaskConfig(task))
    await publish(bench.server, "task")
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert dead.reason == "failed"


async def test_run_cut_short_is_handed_back(bench: Bench, recorder: Recorder) -> None:
    """Grace over: what runs is cancelled and handed back without an attempt; the next worker starts it afresh."""
    starts: list[tuple[int, bool]] = []
    started = asyncio.Event()

    async def task() -> None:
        starts.append((current_task().attempt, current_task().redelivered))
        started.set()
        if len(starts) == 1:
            await asyncio.Event().wait()

    first = await bench.worker(name="first", task=TaskConfig(task, retry=QUICK))
    await publish(bench.server, "task")
    await started.wait()
    await first.close(grace_seconds=0.05)
    await recorder.wait_for("task.handed_back")
    await bench.worker(name="second", task=TaskConfig(task, retry=QUICK))
    await recorder.wait_for("task.succeeded")
    assert starts == [(1, False), (1, True)]


async def test_unstarted_deliveries_are_handed_back_at_drain(bench: Bench) -> None:
    """A drain waits for what runs, and gives back at once what had not started."""
    go_on, started = asyncio.Event(), asyncio.Event()

    async def task() -> None:
        started.set()
        await go_on.wait()

    worker = await bench.worker(limit=1, task=TaskConfig(task))
    for _ in range(5):
        await publish(bench.server, "task")
    await started.wait()
    closing = asyncio.create_task(worker.close())
    await bench.becomes(4)
    assert not closing.done()
    go_on.set()
    await closing
    await bench.becomes(4, 0)


async def test_a_retry_rule_that_raises_parks_the_task(bench: Bench, recorder: Recorder) -> None:
    """A user's own retry rule may be broken; the task still gets a fate."""

    class Broken:
        jitter = False

        def delay_seconds(self, attempt: int, failure: object) -> float | None:
            raise RuntimeError("rule")

    async def task() -> None:
        raise ValueError("first")

    await bench.worker(task=TaskConfig(task, retry=Broken()))
    await publish(bench.server, "task")
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert dead.reason == "failed"
    assert "RuntimeError: rule" in dead.text


async def test_an_exception_returned_is_warned_of_once(bench: Bench, recorder: Recorder) -> None:
    """Failure is raising: a returned exception counts as success, and is told once per task."""

    async def task() -> Exception:
        return ValueError("not raised")

    await bench.worker(task=TaskConfig(task))
    await publish(bench.server, "task")
    await publish(bench.server, "task")
    await recorder.wait_for("task.succeeded", 2)
    assert len(recorder.named("task.returned_error")) == 1


async def test_the_clock_of_a_process_task_starts_with_its_function(bench: Bench, recorder: Recorder) -> None:
    """Making the process and importing its modules is not the function's time: else a slow import could never succeed."""
    await bench.worker(task=TaskConfig(slow_import.quick, timeout_seconds=0.5, on_timeout="kill", executor="process"))
    await publish(bench.server, "task")
    (done,) = await recorder.wait_for("task.succeeded")
    assert done.attempt == 1
    assert recorder.named("task.failed") == []


@pytest.mark.parametrize("type_", ["classic", "quorum"])
async def test_beyond_the_delivery_limit_is_a_dead_letter(
    vhost: str, vhost_url: str, broker_admin: Admin, recorder: Recorder, type_: QueueType
) -> None:
    """On RabbitMQ the broker of a quorum queue counts the holders that were lost, and on a classic queue the workers do."""
    running = asyncio.Event()
    seen: list[tuple[int, bool]] = []

    async def poison() -> None:
        seen.append((current_task().attempt, current_task().redelivered))
        running.set()
        await asyncio.Event().wait()

    queue = Queue("q", ("rk",), type=type_, delivery_limit=2)
    config = ServerConfig(
        url=vhost_url,
        exchange="ex",
        default_routing_key="rk",
        init_queues=[queue],
        observers=[recorder],
        reconnection_retries=0,
    )

    async def held() -> tuple[int, int]:
        """Ready and unacked."""
        return (await asyncio.to_thread(broker_admin.counts, vhost))["q"]

    async def a_life(server: Server) -> None:
        worker = await server.new_worker(WorkerConfig("w", "q"), {"poison": TaskConfig(poison)})
        await worker.start()

    for _ in range(3):
        running.clear()
        server = await Server.connect(config)
        await a_life(server)
        if not seen:
            await server.publish(Task("poison", uuid="u"))
        await asyncio.wait_for(running.wait(), DEADLINE_SECONDS)
        await eventually(held, (0, 1))  # the copy alone: what it is a copy of is acked
        await asyncio.to_thread(broker_admin.close_all_connections, vhost)
        await recorder.wait_for("worker.draining", len(seen))
        await server.cut_short()
        with pytest.raises(ConnectionLost):
            await server.wait_closed()
    async with await Server.connect(config) as server:
        await a_life(server)

        async def dead() -> list[tuple[str, Any, Any]]:
            return [
                (found.message.uuid, headers.get("x-dispatcher-reason"), headers.get("x-dispatcher-queue"))
                async for found in server.inspector.browse("q.dead")
                for headers in [found.message.headers or {}]
            ]

        await eventually(dead, [("u", "delivery_limit", "q")])
    assert seen == [(1, False), (1, True), (1, True)]
    assert len(recorder.named("task.redelivery_counted")) == (2 if type_ == "classic" else 0)
