"""When a function begins, what may happen before, and how long that may take: `Call.on_began`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import executor_tasks as tasks
import pytest

from dispatcher.errors import TaskProcessDied, TaskTimeout
from dispatcher.model.codec import encode_body
from dispatcher.model.outcome import RETURNED, BadArguments, CutShort, Raised, Result
from dispatcher.model.task import TaskArgument
from dispatcher.observe.context import CurrentTask, current_task
from dispatcher.runtime.executors import Call, ProcessExecutor, ThreadExecutor, processes, result_of

CURRENT = CurrentTask("u", "t", 1, False, {}, "q")
TIMED_OUT = result_of(TaskTimeout("too long"))

SLOW_MODULE = """
import os
from dispatcher import current_task

open(os.environ["SLOW_IMPORT"]).read()  # waits for the test

def hold():
    open(os.environ["SLOW_CALL"]).read()

def write_deadline(path):
    with open(path, "w") as out:
        out.write(repr(current_task().deadline_at))
"""


class Began:
    """What `on_began` did: in which threads, and the event that it sets."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.threads.append(threading.get_ident())
        self.event.set()


class SlowModule:
    """A module whose import, and then the call of `hold`, wait until the test lets them go on."""

    def __init__(self, folder: Path) -> None:
        (folder / "slow_module.py").write_text(SLOW_MODULE)
        self.import_fifo = folder / "import"
        self.call_fifo = folder / "call"
        os.mkfifo(self.import_fifo)
        os.mkfifo(self.call_fifo)

    async def until_importing(self) -> Callable[[], None]:
        """Wait until a child imports it; what is returned lets it go on."""
        return (await asyncio.to_thread(open, self.import_fifo, "w")).close

    async def until_called(self) -> Callable[[], None]:
        return (await asyncio.to_thread(open, self.call_fifo, "w")).close


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowModule:
    module = SlowModule(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # children get the search path of their worker
    monkeypatch.setenv("SLOW_IMPORT", str(module.import_fifo))
    monkeypatch.setenv("SLOW_CALL", str(module.call_fifo))
    return module


@pytest.fixture
async def executor() -> AsyncIterator[ProcessExecutor]:
    executor = ProcessExecutor(1)
    yield executor
    await executor.close()


def call_of(target: str, *args: str, current: CurrentTask = CURRENT, on_began: Any = None) -> Call:
    body = encode_body("u", "t", [TaskArgument("string", value) for value in args])
    return Call(tasks.nothing, (), current, body=body, target=target, on_began=on_began)


def message_of(result: Result) -> str:
    assert isinstance(result, Raised), result
    assert result.failure.is_a([TaskProcessDied]), result
    return result.failure.message


# --- processes ----------------------------------------------------------------------------------------------------


async def test_a_function_in_a_process_begins_after_its_import(executor: ProcessExecutor, slow: SlowModule) -> None:
    """What a cold child imports is no part of the task's time: it began when the function is called, on the loop."""
    began = Began()
    run = executor.submit(call_of("slow_module:hold", on_began=began))
    go_on = await slow.until_importing()
    assert began.threads == []
    go_on()
    end = await slow.until_called()
    await began.event.wait()
    assert not run.done()
    end()
    assert await run == RETURNED
    assert began.threads == [threading.get_ident()]


async def test_a_warm_process_says_that_it_began_as_well(executor: ProcessExecutor) -> None:
    """Once for every call, before its result."""
    for _ in range(3):
        began = Began()
        assert await executor.submit(call_of("executor_tasks:nothing", on_began=began)) == RETURNED
        assert len(began.threads) == 1


async def test_a_process_that_knows_a_function_begins_it_when_it_is_handed_over(executor: ProcessExecutor) -> None:
    """Nothing has to be imported first, and to hear of it would cost every task a wake-up of the loop."""
    assert await executor.submit(call_of("executor_tasks:nothing")) == RETURNED
    known, unknown = Began(), Began()
    run = executor.submit(call_of("executor_tasks:nothing", on_began=known))
    assert known.threads == [threading.get_ident()]
    assert await run == RETURNED
    run = executor.submit(call_of("executor_tasks:raises", "ValueError", on_began=unknown))
    assert unknown.threads == []
    assert isinstance(await run, Raised)
    assert (len(known.threads), len(unknown.threads)) == (1, 1)


async def test_what_is_never_called_never_began(executor: ProcessExecutor) -> None:
    """Arguments that do not fit, a module that is not there: a result without a beginning."""
    began = Began()
    assert isinstance(await executor.submit(call_of("executor_tasks:nothing", "x", on_began=began)), BadArguments)
    assert isinstance(await executor.submit(call_of("no_such_module:nothing", on_began=began)), Raised)
    assert began.threads == []


async def test_stopped_while_it_imports_it_never_began(executor: ProcessExecutor, slow: SlowModule) -> None:
    """Nobody arms a timer for a run that was told to stop."""
    began = Began()
    call = call_of("slow_module:hold", on_began=began)
    run = executor.submit(call)
    go_on = await slow.until_importing()
    assert executor.stop(call, TIMED_OUT)
    go_on()
    assert await run == TIMED_OUT
    assert began.threads == []


async def test_stopped_before_its_beginning_was_heard(executor: ProcessExecutor, slow: SlowModule) -> None:
    """What a child said before it was killed arms no timer either."""
    began = Began()
    call = call_of("slow_module:hold", on_began=began)
    run = executor.submit(call)
    (await slow.until_importing())()
    with open(slow.call_fifo, "w"):  # blocks the loop until the function runs: its beginning is said, and not yet read
        assert executor.stop(call, TIMED_OUT)
        assert await run == TIMED_OUT
    assert began.threads == []


async def test_the_deadline_in_a_process_counts_from_its_beginning(
    executor: ProcessExecutor, slow: SlowModule, tmp_path: Path
) -> None:
    """current_task().deadline agrees with the clock that on_began starts."""
    path = tmp_path / "deadline"
    before = time.time()
    current = CurrentTask("u", "t", 1, False, {}, "q", before + 1_000)
    run = executor.submit(call_of("slow_module:write_deadline", str(path), current=current, on_began=Began()))
    submitted = time.time()
    go_on = await slow.until_importing()
    imported_after = time.time()
    go_on()
    assert await run == RETURNED
    assert float(path.read_text()) - 1_000 >= imported_after - (submitted - before)


async def test_without_on_began_the_deadline_is_left_alone(executor: ProcessExecutor, slow: SlowModule) -> None:
    """Who measures from the submit shows the function that deadline."""
    path = slow.call_fifo.with_name("deadline")
    current = CurrentTask("u", "t", 1, False, {}, "q", 4e9)
    run = executor.submit(call_of("slow_module:write_deadline", str(path), current=current))
    (await slow.until_importing())()
    assert await run == RETURNED
    assert float(path.read_text()) == 4e9


async def test_an_import_that_never_ends_is_a_failure(
    executor: ProcessExecutor, slow: SlowModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a limit of its own, and the message names the module; the next task has a new process."""
    assert await executor.submit(call_of("executor_tasks:nothing")) == RETURNED
    began = Began()
    with monkeypatch.context() as patch:
        patch.setattr(processes, "READY_SECONDS", 0.01)
        run = executor.submit(call_of("slow_module:hold", on_began=began))
    message = message_of(await run)
    assert "did not get ready within" in message
    assert "importing slow_module took too long" in message
    assert began.threads == []
    assert await executor.submit(call_of("executor_tasks:nothing")) == RETURNED


async def test_a_process_that_never_comes_up_is_a_failure(
    executor: ProcessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time to get ready holds the start of the process as well."""
    with monkeypatch.context() as patch:
        patch.setattr(processes, "READY_SECONDS", 0.0)
        run = executor.submit(call_of("executor_tasks:nothing"))
    assert "importing the main script took too long" in message_of(await run)
    assert await executor.submit(call_of("executor_tasks:nothing")) == RETURNED


async def test_the_time_to_get_ready_ends_when_it_began(
    executor: ProcessExecutor, slow: SlowModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function without a timeout may run for hours."""
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    patience: list[asyncio.TimerHandle] = []

    def noted(delay: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        handle = call_later(delay, *args, **kwargs)
        if delay == processes.READY_SECONDS:
            patience.append(handle)
        return handle

    monkeypatch.setattr(processes, "READY_SECONDS", 61.25)
    monkeypatch.setattr(loop, "call_later", noted)
    began = Began()
    run = executor.submit(call_of("slow_module:hold", on_began=began))
    go_on = await slow.until_importing()
    assert [handle.cancelled() for handle in patience] == [False]
    go_on()
    await began.event.wait()
    assert [handle.cancelled() for handle in patience] == [True]
    (await slow.until_called())()
    assert await run == RETURNED


# --- threads ------------------------------------------------------------------------------------------------------


async def test_a_function_with_a_free_thread_begins_in_submit() -> None:
    """Nothing has to be told by the thread: that would cost every task a wake-up of the loop."""
    executor = ThreadExecutor(2)
    for _ in range(3):
        began = Began()
        run = executor.submit(Call(tasks.nothing, (), CURRENT, on_began=began))
        assert began.threads == [threading.get_ident()]
        assert await run == RETURNED
        assert len(began.threads) == 1
    await executor.close()


async def test_a_function_that_waits_for_a_thread_begins_when_it_has_one() -> None:
    """In the order they came, and with the deadline put off by the wait."""
    executor = ThreadExecutor(1)
    gates = [threading.Event(), threading.Event()]
    deadlines: list[float | None] = []

    def look() -> None:
        deadlines.append(current_task().deadline_at)
        gates[1].wait()

    before = time.time()
    current = CurrentTask("u", "t", 1, False, {}, "q", before + 1_000)
    first = executor.submit(Call(gates[0].wait, (), CURRENT))
    began = [Began(), Began()]
    second = executor.submit(Call(look, (), current, on_began=began[0]))
    submitted = time.time()
    third = executor.submit(Call(tasks.nothing, (), CURRENT, on_began=began[1]))
    await asyncio.sleep(0)
    assert began[0].threads == began[1].threads == []
    freed_after = time.time()
    gates[0].set()
    await began[0].event.wait()
    assert began[1].threads == []
    assert not second.done()
    gates[1].set()
    assert {await run for run in (first, second, third)} == {RETURNED}
    assert [one.threads for one in began] == [[threading.get_ident()]] * 2
    assert deadlines[0] is not None
    assert deadlines[0] - 1_000 >= freed_after - (submitted - before)
    await executor.close()


async def test_what_waits_for_a_thread_at_close_never_began() -> None:
    """It was cut short before."""
    executor = ThreadExecutor(1)
    at_work, gate = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []
    began = Began()

    def hold() -> None:
        threads.append(threading.current_thread())
        at_work.set()
        gate.wait()

    first = executor.submit(Call(hold, (), CURRENT))
    second = executor.submit(Call(tasks.nothing, (), CURRENT, on_began=began))
    await asyncio.to_thread(at_work.wait)
    assert await executor.close() == 1
    gate.set()
    await asyncio.to_thread(threads[0].join)  # what it hands over comes to the loop before the end of this wait
    assert (first.result(), second.result()) == (CutShort(), CutShort())
    assert began.threads == []
