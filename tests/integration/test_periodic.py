"""`@app.periodic` through real workers, on every broker: what is fired, as what, by whom, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from server_bench import DEADLINE_SECONDS, Hands, Recorder

from dispatcher import ArgumentError, ConfigError, Dispatcher, RetryPolicy, current_task
from dispatcher.model.schedule import firing_uuid


@asynccontextmanager
async def working(app: Dispatcher, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    worker = asyncio.create_task(app.run_worker(**options))
    try:
        yield worker
    finally:
        worker.cancel()
        await asyncio.wait_for(asyncio.wait([worker]), DEADLINE_SECONDS)


async def test_a_periodic_task_runs_again_and_again(app: Dispatcher, recorder: Recorder) -> None:
    """With its arguments and uuid, every instant in turn, and the task knows for which it runs."""
    seen: list[tuple[str, int, str, Mapping[str, Any]]] = []

    @app.periodic(every_seconds=1, args=("nightly", 3))
    @app.task(queue="reports")
    async def report(kind: str, number: int) -> None:
        seen.append((kind, number, current_task().uuid, current_task().headers))

    async with working(app):
        await recorder.wait_for("schedule.fired", 3)
    instants = [headers["x-dispatcher-scheduled-at"] for *_, headers in seen]
    assert len(instants) >= 2
    assert instants == list(range(instants[0], instants[0] + 1000 * len(instants), 1000))
    assert {headers["x-dispatcher-schedule"] for *_, headers in seen} == {"report"}
    assert [uuid for _, _, uuid, _ in seen] == [firing_uuid("report", at) for at in instants]
    assert {(kind, number) for kind, number, _, _ in seen} == {("nightly", 3)}
    assert len(recorder.named("schedule.leading")) == 1
    assert not any(event.possibly_doubled for event in recorder.named("schedule.fired"))


async def test_a_retry_of_a_firing_is_still_that_firing(app: Dispatcher, recorder: Recorder) -> None:
    """The task's retry applies, and the copy has uuid and headers of the first attempt."""
    seen: list[tuple[int, str, Any]] = []

    @app.periodic(timedelta(seconds=1), name="often")
    @app.task(retry=RetryPolicy(max_attempts=2, base_seconds=0.01, jitter=False))
    async def flaky() -> None:
        now = current_task()
        seen.append((now.attempt, now.uuid, now.headers.get("x-dispatcher-scheduled-at")))
        raise ValueError("again")

    async with working(app):
        await recorder.wait_for("task.dead_lettered")
    first = [(uuid, at) for attempt, uuid, at in seen if attempt == 1]
    second = [(uuid, at) for attempt, uuid, at in seen if attempt == 2]
    assert second[0] in first
    assert second[0][0] == firing_uuid("often", second[0][1])


async def test_it_fires_while_every_slot_is_taken(app: Dispatcher, recorder: Recorder) -> None:
    """Who is busy fires all the same: others may have room."""
    release = asyncio.Event()

    @app.periodic(every_seconds=1)
    async def slow() -> None:
        await release.wait()

    async with working(app, limit=1):
        await recorder.wait_for("schedule.fired", 3)
        release.set()


async def test_of_several_workers_one_fires(url: str, recorder: Recorder, app: Dispatcher) -> None:
    """Two run in one program, and a third where the broker can be shared; a drain hands on at once."""
    ran: list[int] = []

    @app.periodic(every_seconds=1)
    async def tick() -> None:
        ran.append(current_task().headers["x-dispatcher-scheduled-at"])

    async with working(app), working(app):
        await recorder.wait_for("schedule.fired", 3)
        assert len(recorder.named("schedule.leading")) == 1
    fired = [event.scheduled_at_ms for event in recorder.named("schedule.fired")]
    assert len(fired) == len(set(fired))


async def test_a_drain_hands_the_lead_to_another_at_once(app: Dispatcher, recorder: Recorder) -> None:
    """Although its own task still runs: no instant is left out, and none is doubtful."""
    begun, release = asyncio.Event(), asyncio.Event()

    @app.task(queue="slow")
    async def slow() -> None:
        begun.set()
        await release.wait()

    @app.periodic(every_seconds=1)
    async def tick() -> None: ...

    async with working(app, queues=["slow"]) as first:
        async with app:
            await slow.send()
        await asyncio.wait_for(begun.wait(), DEADLINE_SECONDS)
        await recorder.wait_for("schedule.fired", 1)
        async with working(app, queues=["default"]):
            first.cancel()
            await recorder.wait_for("schedule.leading", 2)
            fired = len(recorder.named("schedule.fired"))
            await recorder.wait_for("schedule.fired", fired + 2)
            assert not first.done()
            release.set()
    events = recorder.named("schedule.fired")
    instants = [event.scheduled_at_ms for event in events]
    assert instants == list(range(instants[0], instants[0] + 1000 * len(instants), 1000))
    assert not any(event.possibly_doubled for event in events)


async def test_a_lost_session_loses_no_firing(app: Dispatcher, recorder: Recorder, hands: Hands) -> None:
    """On the next session it is led again, from where the last firing left it."""

    @app.periodic(every_seconds=1, misfire="all")
    async def tick() -> None: ...

    async with app, working(app):
        await recorder.wait_for("schedule.fired", 2)
        session = app.server.session
        assert session is not None
        await hands.cut(app.server, session)
        await recorder.wait_for("schedule.leading", 2)
        fired = len(recorder.named("schedule.fired"))
        await recorder.wait_for("schedule.fired", fired + 2)
    instants = sorted({event.scheduled_at_ms for event in recorder.named("schedule.fired")})
    assert instants == list(range(instants[0], instants[-1] + 1000, 1000))


async def test_a_burst_fires_nothing(app: Dispatcher, recorder: Recorder) -> None:
    """It ends when the queues are empty, which a schedule would fill."""

    @app.periodic(every_seconds=1)
    async def tick() -> None: ...

    await asyncio.wait_for(app.run_worker(burst=True), DEADLINE_SECONDS)
    assert recorder.named("schedule.leading") == []


# --- declaring ----------------------------------------------------------------------------------------------------


@pytest.fixture
def memory_app() -> Dispatcher:
    return Dispatcher("memory://")


def test_a_plain_function_becomes_a_task(memory_app: Dispatcher) -> None:
    """With the options of a task; it can still be called and sent."""

    @memory_app.periodic("0 3 * * *", timezone="Europe/Berlin", queue="nights", timeout_seconds=60)
    def clean_up(days: int = 7) -> int:
        return days

    assert (clean_up.queue, clean_up.config.timeout_seconds, clean_up(3)) == ("nights", 60, 3)
    one = memory_app.schedules["clean_up"]
    assert (one.task, one.routing_key, one.args) == ("clean_up", "nights", ())
    assert memory_app.tasks["clean_up"] is clean_up


def test_a_task_may_have_several_schedules(memory_app: Dispatcher) -> None:
    """Each with a name and arguments of its own."""

    @memory_app.periodic("0 3 * * *", args=(30,), name="monthly")
    @memory_app.periodic("@hourly", args=(1,))
    @memory_app.task(queue="reports")
    def report(days: int) -> None: ...

    assert {name: [arg.value for arg in one.args] for name, one in memory_app.schedules.items()} == {
        "report": [1], "monthly": [30],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="schedule 'report' exists already, for task 'report'; give it a name="):
        memory_app.periodic("@daily", args=(2,))(report)


def test_what_cannot_work_is_refused_where_it_is_written(memory_app: Dispatcher) -> None:
    """And leaves nothing behind."""
    app = memory_app

    def job(number: int) -> None: ...

    with pytest.raises(ConfigError, match="expected when it fires"):
        app.periodic()
    with pytest.raises(ConfigError, match="expected when it fires"):
        app.periodic("@daily", every_seconds=3)
    with pytest.raises(ConfigError, match="expected five fields"):
        app.periodic("daily")
    with pytest.raises(ConfigError, match="expected a cron expression, a timedelta or seconds, got <function"):
        app.periodic(job)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected args as a tuple or list, got 'x'"):
        app.periodic("@daily", args="x")
    with pytest.raises(ConfigError, match="schedule name: expected"):
        app.periodic("@daily", name="every day")
    with pytest.raises(ConfigError, match="'colour' is none of its options"):
        app.periodic("@daily", colour="red")  # type: ignore[call-arg]
    assert dict(app.tasks) == {}
    task = app.task(job)
    with pytest.raises(ArgumentError, match="expected 1 argument"):
        app.periodic("@daily")(task)
    with pytest.raises(ArgumentError):
        app.periodic("@daily", args=("three",))(task)
    with pytest.raises(ConfigError, match=r"task 'job' has its options from @app.task; put \['queue'\] there"):
        app.periodic("@daily", args=(3,), queue="q")(task)
    assert dict(app.schedules) == {}
    with pytest.raises(ConfigError, match=r"write @app.periodic\(…\) above @app.task\(…\)"):
        app.task(app.periodic("@daily", args=(3,), name="other")(lambda_named()))


def lambda_named() -> Any:
    def another(number: int) -> None: ...

    return another
