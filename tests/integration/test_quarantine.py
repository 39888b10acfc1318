"""What its workers died with twice is run alone, and is the one that is parked: a real server, worker and child process."""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import quarantine_tasks as tasks
from server_bench import DEADLINE_SECONDS, Bench, Recorder, eventually

from dispatcher import CallNext, Receipt, RetryPolicy, Task, TaskArgument, TaskConfig, Worker, WorkerConfig
from dispatcher.observe.context import CurrentTask
from dispatcher.runtime.link import LostLinks

pytestmark = pytest.mark.timeout(120)

ANY = RetryPolicy(max_attempts=5, base_seconds=0, jitter=False)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "seen")


def seen(path: str) -> list[list[str]]:
    """What the tasks wrote: the process, then words."""
    try:
        return [line.split() for line in Path(path).read_text().splitlines()]
    except FileNotFoundError:
        return []


def string(text: str) -> TaskArgument:
    return TaskArgument("string", text)


def number(value: int) -> TaskArgument:
    return TaskArgument("int", value)


class Ward:
    """A worker with one slot that is taken while its session is lost, and with it what waits, as often as it is told."""

    def __init__(self, bench: Bench, recorder: Recorder) -> None:
        self.bench = bench
        self._recorder = recorder
        self._go_on = asyncio.Event()

    async def work(
        self, *, limit: int = 1, prefetch: int = 16, knows_its_links: bool = False, **configs: TaskConfig
    ) -> Worker:
        """`knows_its_links` False: the holders that are lost are others', as far as it can tell."""
        if not knows_its_links:
            self.bench.server._link.lost = LostLinks(count(step=3_600.0).__next__)
        config = WorkerConfig("w", "q", ("rk",), limit, prefetch)
        worker = await self.bench.server.new_worker(config, {"hold": TaskConfig(self._hold), **configs})
        await worker.start()
        for number in range(limit):
            await self.bench.server.publish(Task("hold", uuid=f"hold-{number}"))
        await self._recorder.wait_for("task.started", limit)
        return worker

    async def _hold(self) -> None:
        await self._go_on.wait()

    async def send(self, name: str, *args: TaskArgument, **options: Any) -> Receipt:
        return await self.bench.server.publish(Task(name, args, **options))

    async def lose(self, holding: int, times: int = 2) -> None:
        """The worker's session ends, and all that it held is redelivered."""
        for _ in range(times):
            await self.bench.becomes(0, holding)
            starts = len(self._recorder.named("worker.started"))
            await self.bench.lose(await self.bench.server.live_session())
            await self._recorder.wait_for("worker.started", starts + 1)
        await self.bench.becomes(0, holding)

    def go_on(self) -> None:
        """What takes the slots ends."""
        self._go_on.set()


@pytest.fixture
def ward(bench: Bench, recorder: Recorder) -> Ward:
    return Ward(bench, recorder)


async def test_a_suspect_that_returns_is_done_and_was_elsewhere(ward: Ward, recorder: Recorder, path: str) -> None:
    """Coroutine and plain function see the same task in a process of their own; then they are acked."""
    await ward.work(
        note=TaskConfig(tasks.note),
        plain=TaskConfig(tasks.note_plain),
        uuid=TaskConfig(tasks.note_uuid, task_uuid_as_first_arg=True),
    )
    await ward.send("note", string(path), string("coroutine"), uuid="u-1", headers={"mine": "kept"})
    await ward.send("plain", string(path), string("plain"), uuid="u-2")
    await ward.send("uuid", string(path), uuid="u-3")
    await ward.lose(4)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 4)
    await ward.bench.becomes(0, 0, 0, 0)
    pids, words = zip(*[(line[0], line[1:]) for line in seen(path)], strict=True)
    assert list(words) == [["coroutine", "u-1", "1", "True", "q", "kept"], ["plain", "u-2", "True"], ["u-3"]]
    assert len(set(pids)) == 3 and str(os.getpid()) not in pids
    quarantined = recorder.named("task.quarantined")
    assert [(event.uuid, event.holders_lost) for event in quarantined] == [("u-1", 2), ("u-2", 2), ("u-3", 2)]
    assert recorder.named("task.dead_lettered") == recorder.named("process.replaced") == []


async def test_links_that_the_worker_lost_itself_explain_as_much(ward: Ward, recorder: Recorder, path: str) -> None:
    """It lives, so it was the link: what its neighbours of a broker that was restarted held are no suspects."""
    await ward.work(note=TaskConfig(tasks.note), knows_its_links=True)
    await ward.send("note", string(path), string("again"))
    await ward.lose(2, times=3)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 2)
    assert seen(path)[0][0] == str(os.getpid())
    assert recorder.named("task.quarantined") == []


async def test_once_is_no_suspicion(ward: Ward, recorder: Recorder, path: str) -> None:
    """After one lost holder a task runs in its worker, as any restart has it."""
    await ward.work(note=TaskConfig(tasks.note))
    await ward.send("note", string(path), string("w"))
    await ward.lose(2, times=1)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 2)
    assert [line[0] for line in seen(path)] == [str(os.getpid())]
    assert recorder.named("task.quarantined") == []


async def test_suspects_run_one_at_a_time_and_others_beside_them(ward: Ward, recorder: Recorder, path: str) -> None:
    """Five suspects never meet, whatever the limit; what is no suspect takes the other slots."""
    ran: list[int] = []

    async def quick(number: int) -> None:
        ran.append(number)

    await ward.work(limit=4, alone=TaskConfig(tasks.note_alone), quick=TaskConfig(quick))
    for _ in range(5):
        await ward.send("alone", string(path))
    await ward.lose(9)
    ward.go_on()
    await recorder.wait_for("task.quarantined")
    for n in range(20):
        await ward.send("quick", number(n))
    await recorder.wait_for("task.succeeded", 29)
    order = [event.task for event in recorder.named("task.succeeded")]
    assert order.index("quick") < len(order) - 1 - order[::-1].index("alone")
    assert sorted(ran) == list(range(20))
    assert recorder.named("task.dead_lettered") == []


@pytest.mark.parametrize(
    ("task", "argument", "died"),
    [
        ("crash", signal.SIGKILL, "killed by SIGKILL"),
        ("crash", signal.SIGSEGV, "killed by SIGSEGV"),
        ("exit", 0, "exit code 0"),
    ],
)
async def test_a_suspect_whose_process_dies_is_parked_alone(
    ward: Ward, recorder: Recorder, path: str, task: str, argument: int, died: str
) -> None:
    """With the proof as its text, at once, whatever its retry policy says; the suspects around it are done."""
    await ward.work(
        crash=TaskConfig(tasks.crash, retry=ANY),
        exit=TaskConfig(tasks.exit_with, retry=ANY),
        note=TaskConfig(tasks.note, retry=ANY),
    )
    await ward.send("note", string(path), string("before"))
    await ward.send(task, string(path), number(argument), uuid="poison")
    await ward.send("note", string(path), string("after"))
    await ward.lose(4)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 3)
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert (dead.uuid, dead.reason, dead.attempt) == ("poison", "delivery_limit", 1)
    assert dead.text.startswith(f"it killed its worker 2 times, then died alone: {died}")
    (failed,) = recorder.named("task.failed")
    assert failed.uuid == "poison" and failed.error == dead.text
    headers = await ward.bench.dead_letter()
    assert (headers["x-dispatcher-reason"], headers["x-dispatcher-reason-text"]) == ("delivery_limit", dead.text)
    assert headers["x-dispatcher-error-type"].endswith("TaskProcessDied")
    assert [line[1] for line in seen(path)] == ["before", task, "after"]
    await ward.bench.becomes(0, 0, 0, 1)


async def test_a_suspect_that_raises_has_its_usual_fate(ward: Ward, recorder: Recorder, path: str) -> None:
    """It is retried by its policy. The retry is another message, and runs in the worker where the broker counts."""
    await ward.work(task=TaskConfig(tasks.raise_once, retry=ANY))
    await ward.send("task", string(path))
    await ward.lose(2)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 2)
    first, second = seen(path)
    assert (first[1:], second[1:]) == (["attempt", "1"], ["attempt", "2"])
    assert first[0] != str(os.getpid()) == second[0]


async def test_what_cannot_run_comes_to_no_process(ward: Ward, recorder: Recorder, path: str) -> None:
    """Suspects that are no task, unfit or expired have their fates, and stop nobody."""
    await ward.work(note=TaskConfig(tasks.note))
    await ward.send("note", string(path), number(1), uuid="unfit")
    await ward.send("note", string(path), string("stale"), uuid="expired", expires_seconds=0.001)
    await ward.send("note", string(path), string("fine"))
    await ward.lose(4)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 2)
    reasons = {event.uuid: event.reason for event in await recorder.wait_for("task.dead_lettered", 2)}
    assert reasons == {"unfit": "bad_arguments", "expired": "expired"}
    assert [line[1] for line in seen(path)] == ["fine"]


async def test_what_waits_its_turn_is_handed_back_at_drain(ward: Ward, recorder: Recorder, path: str) -> None:
    """And what runs alone is waited for, or cut short: handed back, too."""
    worker = await ward.work(sleeper=TaskConfig(tasks.sleeper), note=TaskConfig(tasks.note))
    await ward.send("sleeper", string(path))
    await ward.send("note", string(path), string("waits"))
    await ward.lose(3)
    ward.go_on()

    async def sleeps() -> bool:
        return len(seen(path)) == 1

    await eventually(sleeps, True)
    closing = asyncio.create_task(worker.close())
    await ward.bench.becomes(1, 1)
    assert not closing.done()
    await worker.runs.cut_short()
    await asyncio.wait_for(closing, DEADLINE_SECONDS)
    await ward.bench.becomes(2, 0, 0, 0)
    assert len(recorder.named("task.handed_back")) == 1


# --- what needs no more than one broker ------------------------------------------------------------------------------

in_memory = pytest.mark.parametrize("kind", ["memory"])


@in_memory
async def test_a_closure_runs_in_place_and_that_is_told_once(ward: Ward, recorder: Recorder) -> None:
    """No child can import it: the queue's delivery limit stays the net."""
    pids: list[int] = []

    async def closure() -> None:
        pids.append(os.getpid())

    await ward.work(closure=TaskConfig(closure))
    await ward.send("closure")
    await ward.send("closure")
    await ward.lose(3)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 3)
    assert pids == [os.getpid()] * 2
    (told,) = recorder.named("task.not_quarantined")
    assert told.task == "closure" and "inside another" in told.reason
    assert recorder.named("task.quarantined") == []


@in_memory
@pytest.mark.parametrize("function", ["only_in_the_worker", "only_in_the_worker_plain"])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_what_its_process_cannot_begin_runs_in_place(
    bench: Bench, ward: Ward, recorder: Recorder, path: str, function: str, wrapped: bool
) -> None:
    """The module is another one there: that is not the task's fault, and no attempt of its. Middleware is around it once."""
    around: list[str] = []

    async def middleware(task: CurrentTask, call_next: CallNext) -> None:
        tasks.SET_BY_MIDDLEWARE.set("set")
        await call_next()
        around.append(task.name)

    if wrapped:
        bench.server.config = msgspec.structs.replace(bench.server.config, middleware=[middleware])
    await ward.work(task=TaskConfig(getattr(tasks, function)))
    await ward.send("task", string(path))
    await ward.lose(2)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 2)
    assert seen(path) == [[str(os.getpid()), "in", "the", "worker", "set" if wrapped else "unset"]]
    (told,) = recorder.named("task.not_quarantined")
    assert "only_in_the_worker" in told.reason
    assert around.count("task") == wrapped
    assert recorder.named("task.failed") == []


@in_memory
async def test_a_task_of_the_process_executor_keeps_its_policy(ward: Ward, recorder: Recorder, path: str) -> None:
    """Its process dies without its worker anyway: a failure, as ever."""
    await ward.work(
        exit=TaskConfig(tasks.exit_with, executor="process", retry=RetryPolicy(max_attempts=2, base_seconds=0))
    )
    await ward.send("exit", string(path), number(3))
    await ward.lose(2)
    ward.go_on()
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.attempt) == ("failed", 2)
    assert recorder.named("task.quarantined") == []


@in_memory
async def test_who_was_asked_to_end_proves_nothing(ward: Ward, recorder: Recorder, path: str) -> None:
    """A service manager may send TERM to every process of a service: a failure like any other, retried by its policy."""
    await ward.work(crash=TaskConfig(tasks.crash))
    await ward.send("crash", string(path), number(signal.SIGTERM))
    await ward.lose(2)
    ward.go_on()
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert (dead.reason, dead.text.endswith("SIGTERM")) == ("failed", True)


@in_memory
@pytest.mark.parametrize(("name", "fate"), [("cancel", "task.failed"), ("release", "task.overran")])
async def test_a_suspect_past_its_timeout(ward: Ward, recorder: Recorder, path: str, name: str, fate: str) -> None:
    """`cancel` ends the process, a failure with TaskTimeout; `release` lets it go on, and the next suspect begin."""
    worker = await ward.work(
        limit=2,
        cancel=TaskConfig(tasks.sleeper, timeout_seconds=0.3, on_timeout="cancel"),
        release=TaskConfig(tasks.stuck, timeout_seconds=0.3),
        note=TaskConfig(tasks.note),
    )
    await ward.send(name, string(path))
    await ward.send("note", string(path), string("next"))
    await ward.lose(4)
    ward.go_on()
    await recorder.wait_for(fate)
    await recorder.wait_for("task.succeeded", 3)
    assert seen(path)[-1][1] == "next"
    if name == "cancel":
        assert recorder.named("task.dead_lettered")[0].reason == "failed"
        assert recorder.named("task.failed")[0].error_type.endswith("TaskTimeout")
    else:
        await worker.close(grace_seconds=0)
        await ward.bench.becomes(1, 0, 0, 0)


@in_memory
async def test_a_thread_left_behind_holds_nobody_up(ward: Ward, recorder: Recorder, path: str) -> None:
    """The process of a suspect ends with it, or is made to."""
    await ward.work(leaves=TaskConfig(tasks.leaves_a_thread))
    for _ in range(3):
        await ward.send("leaves", string(path))
    await ward.lose(4)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 4)
    assert recorder.named("task.failed") == []


@in_memory
@pytest.mark.parametrize("how", ["passes", "swallows", "turns"])
async def test_middleware_is_around_a_suspect_and_cannot_undo_the_proof(
    bench: Bench, ward: Ward, recorder: Recorder, path: str, how: str
) -> None:
    """It runs in the worker and sees the death as an exception; what it makes of it does not matter."""
    around: list[str] = []

    async def middleware(task: CurrentTask, call_next: CallNext) -> None:
        around.append(task.name)
        try:
            await call_next()
        except Exception as error:
            around.append(type(error).__name__)
            if how == "turns":
                raise ValueError("something else") from error
            if how == "passes":
                raise

    bench.server.config = msgspec.structs.replace(bench.server.config, middleware=[middleware])
    await ward.work(crash=TaskConfig(tasks.crash, retry=ANY))
    await ward.send("crash", string(path), number(signal.SIGKILL))
    await ward.lose(2)
    ward.go_on()
    (dead,) = await recorder.wait_for("task.dead_lettered")
    assert dead.reason == "delivery_limit"
    assert [name for name in around if name != "hold"] == ["crash", "FailedElsewhere"]


@pytest.mark.parametrize("kind", ["sqlite", "rabbitmq"])
async def test_a_suspect_may_send_as_ever(
    url: str, ward: Ward, recorder: Recorder, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`await task.send()` in a child has the connection of its worker not, and opens one of its own."""
    monkeypatch.setenv("DISPATCHER_URL", url)  # what the app of the module takes when the child imports it
    await ward.work(**{name: tasks.app.tasks[name].config for name in ("sender", "child_of_sender")})
    await ward.send("sender", string(path))
    await ward.lose(2)
    ward.go_on()
    await recorder.wait_for("task.succeeded", 5)
    assert sorted(line[1:] for line in seen(path)) == [["sender", "True"], ["sent"], ["sent"], ["sent"]]
