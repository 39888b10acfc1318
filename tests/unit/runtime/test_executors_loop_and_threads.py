"""The executors of the worker's own process: coroutines on its loop, plain functions in threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextvars import ContextVar

import executor_tasks as tasks
import pytest

from dispatcher.errors import ConfigError, TaskTimeout
from dispatcher.model.outcome import RETURNED, CutShort, Raised, Result, Returned
from dispatcher.observe.context import CURRENT_TASK, CurrentTask, current_task
from dispatcher.runtime.executors import Call, CoroutineExecutor, Executor, ThreadExecutor, coroutines, result_of

CURRENT = CurrentTask("u", "t", 1, False, {}, "q")
TIMED_OUT = result_of(TaskTimeout("too long"))
COLOUR: ContextVar[str] = ContextVar("colour", default="none")


def type_of(result: Result) -> str:
    assert isinstance(result, Raised), result
    return result.failure.type


# --- coroutines ---------------------------------------------------------------------------------------------------


async def test_a_coroutine_runs_in_its_own_context() -> None:
    """current_task() is right before and after each suspension, for tasks that run at once."""
    executor = CoroutineExecutor()
    seen: list[tuple[str, str]] = []

    async def look(name: str) -> None:
        before = current_task().uuid
        await asyncio.sleep(0)
        seen.append((name, before + current_task().uuid))

    runs = [executor.submit(Call(look, (n,), CurrentTask(n, "t", 1, False, {}, "q"))) for n in "abc"]
    assert await asyncio.gather(*runs) == [RETURNED] * 3
    assert seen == [("a", "aa"), ("b", "bb"), ("c", "cc")]
    assert CURRENT_TASK.get() is None


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"])
async def test_what_a_coroutine_raises_stays_its_own(kind: str) -> None:
    """SystemExit out of a coroutine would otherwise end the loop and cancel everything on it."""
    assert type_of(await CoroutineExecutor().submit(Call(tasks.raises_async, (kind,), CURRENT))) == kind


async def test_stop_cancels_and_promises_its_result() -> None:
    """A coroutine that is stopped ends with the result that stop was given."""
    executor = CoroutineExecutor()
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    call = Call(hang, (), CURRENT)
    run = executor.submit(call)
    await started.wait()
    assert executor.stop(call, TIMED_OUT)
    assert await run == TIMED_OUT
    assert not executor.stop(call, CutShort())


async def test_stop_before_the_first_step() -> None:
    """Stopped at once, it never starts, and its future still resolves."""
    executor = CoroutineExecutor()
    ran: list[int] = []

    async def note() -> None:
        await asyncio.sleep(0)
        ran.append(1)

    call = Call(note, (), CURRENT)
    run = executor.submit(call)
    assert executor.stop(call, TIMED_OUT)
    assert await run == TIMED_OUT
    assert ran == []


async def test_a_swallowed_cancellation_is_still_a_stop() -> None:
    """A function that catches its cancellation and returns has not done its work."""
    executor = CoroutineExecutor()
    started = asyncio.Event()

    async def swallow() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    call = Call(swallow, (), CURRENT)
    run = executor.submit(call)
    await started.wait()
    executor.stop(call, TIMED_OUT)
    assert await run == TIMED_OUT


async def test_a_run_that_was_given_up_tells_its_own_end() -> None:
    """Who gives up waiting for a stop takes the promise back: the run's own result counts again."""
    executor = CoroutineExecutor()
    started, cancelled, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def ignore() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
        await go_on.wait()

    call = Call(ignore, (), CURRENT)
    run = executor.submit(call)
    await started.wait()
    executor.stop(call, TIMED_OUT)
    await cancelled.wait()
    call.stopped = None
    go_on.set()
    assert await run == RETURNED


async def test_a_cancellation_of_its_own_is_a_failure() -> None:
    """A task that raises CancelledError, or cancels itself, failed; handing it back would run it in a loop."""
    executor = CoroutineExecutor()

    async def raises() -> None:
        raise asyncio.CancelledError

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    for function in (raises, cancels_itself):
        assert type_of(await executor.submit(Call(function, (), CURRENT))) == "asyncio.exceptions.CancelledError"


@pytest.mark.parametrize("turns", [0, 3])
async def test_a_cancellation_from_elsewhere_cuts_it_short(turns: int) -> None:
    """The loop is torn down, or a waiter was cancelled: no attempt may be counted."""

    async def hang() -> None:
        await asyncio.Event().wait()

    run = CoroutineExecutor().submit(Call(hang, (), CURRENT))
    for _ in range(turns):
        await asyncio.sleep(0)
    run.cancel()
    assert await run == CutShort()


async def test_timeouts_inside_a_coroutine_work() -> None:
    """asyncio.timeout cancels the task it is in; that is the task's own business."""

    async def slow() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    assert type_of(await CoroutineExecutor().submit(Call(slow, (), CURRENT))) == "TimeoutError"


async def test_closing_the_loop_executor_cuts_short_what_runs() -> None:
    """After close every future is resolved, and new calls are refused."""
    executor = CoroutineExecutor()

    async def hang() -> None:
        await asyncio.Event().wait()

    runs = [executor.submit(Call(hang, (), CURRENT)) for _ in range(3)]
    assert await executor.close() == 0
    assert [run.result() for run in runs] == [CutShort()] * 3
    assert await executor.submit(Call(hang, (), CURRENT)) == CutShort()
    assert await executor.close() == 0


async def test_closing_waits_for_its_grace() -> None:
    """What ends within the grace ends by itself."""
    executor = CoroutineExecutor()
    run = executor.submit(Call(tasks.nothing_async, (), CURRENT))
    assert await executor.close(30) == 0
    assert run.result() == RETURNED


async def ignore_cancellation(go_on: asyncio.Event) -> None:
    while not go_on.is_set():
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            pass


async def test_closing_does_not_wait_again_for_what_was_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coroutine that ignores its stop has had its time before close; a close with no grace is immediate then."""
    monkeypatch.setattr(coroutines, "STOP_SECONDS", 1e6)
    executor = CoroutineExecutor()
    go_on = asyncio.Event()
    call = Call(ignore_cancellation, (go_on,), CURRENT)
    run = executor.submit(call)
    await asyncio.sleep(0)
    assert executor.stop(call, TIMED_OUT)
    call.stopped = None  # as who gave up waiting leaves it
    assert await executor.close() == 1
    assert await executor.close() == 1
    go_on.set()
    assert await run == CutShort()


async def test_closing_gives_what_it_tells_to_stop_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ignored a stop before does not take it from the others."""
    monkeypatch.setattr(coroutines, "STOP_SECONDS", 1e6)
    executor = CoroutineExecutor()
    go_on = asyncio.Event()

    async def clean_up_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(50):
                await asyncio.sleep(0)

    stubborn = Call(ignore_cancellation, (go_on,), CURRENT)
    runs = [executor.submit(stubborn), executor.submit(Call(clean_up_slowly, (), CURRENT))]
    await asyncio.sleep(0)
    executor.stop(stubborn, TIMED_OUT)
    assert await executor.close() == 1
    assert runs[1].result() == CutShort()
    go_on.set()
    assert await runs[0] == CutShort()


async def test_what_was_told_to_stop_just_before_close_may_still_end() -> None:
    """One turn of the loop is given to it: a well-behaved coroutine is not counted as left."""
    executor = CoroutineExecutor()
    call = Call(asyncio.Event().wait, (), CURRENT)
    run = executor.submit(call)
    await asyncio.sleep(0)
    executor.stop(call, TIMED_OUT)
    assert await executor.close() == 0
    assert run.result() == TIMED_OUT


# --- threads ------------------------------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_daemon_thread_with_its_context() -> None:
    """It sees its task and the caller's context variables, and leaves nothing in them."""
    executor = ThreadExecutor(1)
    COLOUR.set("red")
    seen: list[tuple[str, str, bool, bool]] = []

    def look() -> None:
        thread = threading.current_thread()
        seen.append((current_task().uuid, COLOUR.get(), thread.daemon, thread is threading.main_thread()))
        COLOUR.set("blue")

    for _ in range(2):
        assert await executor.submit(Call(look, (), CURRENT)) == RETURNED
    assert seen == [("u", "red", True, False)] * 2
    assert COLOUR.get() == "red"
    assert await executor.close() == 0


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"])
async def test_what_a_function_raises_stays_in_its_thread(kind: str) -> None:
    """The thread serves on."""
    executor = ThreadExecutor(1)
    assert type_of(await executor.submit(Call(tasks.raises, (kind,), CURRENT))) == kind
    assert await executor.submit(Call(tasks.nothing, (), CURRENT)) == RETURNED
    await executor.close()


async def test_threads_are_started_when_needed_and_never_more_than_the_maximum() -> None:
    """One thread for calls one after the other; as many as allowed for calls at once; the rest waits."""
    executor = ThreadExecutor(3)
    names: set[str] = set()
    gate = threading.Event()
    at_work = threading.Semaphore(0)

    def note() -> None:
        names.add(threading.current_thread().name)

    def wait() -> None:
        note()
        at_work.release()
        gate.wait()

    for _ in range(20):
        await executor.submit(Call(note, (), CURRENT))
    assert len(names) == 1
    runs = [executor.submit(Call(wait, (), CURRENT)) for _ in range(10)]
    for _ in range(3):
        await asyncio.to_thread(at_work.acquire)
    gate.set()
    assert await asyncio.gather(*runs) == [RETURNED] * 10
    assert len(names) == 3
    await executor.close()


async def test_every_result_arrives_from_many_threads() -> None:
    """Results are gathered in batches; none is left lying when threads end at the same moment."""
    executor = ThreadExecutor(8)
    for _ in range(20):
        runs = [executor.submit(Call(tasks.nothing, (), CURRENT)) for _ in range(100)]
        assert await asyncio.gather(*runs) == [RETURNED] * 100
    await executor.close()


async def test_functions_that_wait_for_each_other_meet() -> None:
    """As many as there may be threads run at once, whether submitted together, one by one, or behind others that end."""
    executor = ThreadExecutor(8)
    for round_number in range(6):
        barrier = threading.Barrier(8)
        before = [executor.submit(Call(tasks.nothing, (), CURRENT)) for _ in range(round_number)]
        meeting = [executor.submit(Call(barrier.wait, (), CURRENT)) for _ in range(4)]
        await asyncio.sleep(0)
        meeting += [executor.submit(Call(barrier.wait, (), CURRENT)) for _ in range(4)]
        assert {type(result) for result in await asyncio.gather(*before, *meeting)} == {Returned}
    await executor.close()


async def test_results_come_while_a_function_of_the_same_thread_blocks() -> None:
    """What has ended is told before the thread begins what may never end."""
    executor = ThreadExecutor(1)
    gate = threading.Event()
    ended = [executor.submit(Call(tasks.nothing, (), CURRENT)) for _ in range(5)]
    blocked = executor.submit(Call(gate.wait, (), CURRENT))
    assert await asyncio.gather(*ended) == [RETURNED] * 5
    assert not blocked.done()
    gate.set()
    await blocked
    await executor.close()


async def test_functions_that_end_at_once_share_threads() -> None:
    """A thread for each would cost more than the functions: a hundred that end at once need a few."""
    executor = ThreadExecutor(100)
    names: set[str] = set()
    runs = [executor.submit(Call(lambda: names.add(threading.current_thread().name), (), CURRENT)) for _ in range(100)]
    assert await asyncio.gather(*runs) == [RETURNED] * 100
    assert len(names) < 50
    await executor.close()


async def test_threads_end_with_their_executor() -> None:
    """Those that had nothing to do at close, and those that had, once they are done."""
    executor = ThreadExecutor(4)
    gate, at_work, barrier = threading.Event(), threading.Event(), threading.Barrier(4)
    threads: set[threading.Thread] = set()

    def hold() -> None:
        at_work.set()
        gate.wait()

    def meet() -> None:
        threads.add(threading.current_thread())
        barrier.wait()

    await asyncio.gather(*(executor.submit(Call(meet, (), CURRENT)) for _ in range(4)))
    run = executor.submit(Call(hold, (), CURRENT))
    await asyncio.to_thread(at_work.wait)
    assert await executor.close() == 1
    gate.set()
    assert run.result() == CutShort()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(threads) == 4


async def test_a_thread_that_never_ends_holds_up_nobody() -> None:
    """Others run beside it; close abandons it, says so, and resolves its future."""
    executor: Executor = ThreadExecutor(2)
    gate = threading.Event()
    stuck = Call(gate.wait, (), CURRENT)
    run = executor.submit(stuck)
    assert await executor.submit(Call(tasks.nothing, (), CURRENT)) == RETURNED
    assert not executor.stop(stuck, TIMED_OUT)
    assert await executor.close() == 1
    assert run.result() == CutShort()
    assert await executor.submit(Call(tasks.nothing, (), CURRENT)) == CutShort()
    gate.set()


async def test_calls_that_wait_for_a_thread_are_cut_short_at_close() -> None:
    """What had not started never starts."""
    executor = ThreadExecutor(1)
    gate, at_work = threading.Event(), threading.Event()
    ran: list[int] = []

    def hold() -> None:
        at_work.set()
        gate.wait()

    first = executor.submit(Call(hold, (), CURRENT))
    second = executor.submit(Call(lambda: ran.append(1), (), CURRENT))
    await asyncio.to_thread(at_work.wait)
    assert await executor.close() == 1
    gate.set()
    assert (first.result(), second.result(), ran) == (CutShort(), CutShort(), [])


async def test_closing_waits_for_threads_within_the_grace() -> None:
    """A function that ends in time counts with its own result."""
    executor = ThreadExecutor(1)
    run = executor.submit(Call(tasks.nothing, (), CURRENT))
    assert await executor.close(30) == 0
    assert run.result() == RETURNED


async def test_no_more_threads_is_the_calls_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread, the task failed; the worker lives, and tries again with the next one."""
    executor = ThreadExecutor(1)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        result = await executor.submit(Call(tasks.nothing, (), CURRENT))
    assert isinstance(result, Raised)
    assert "can't start new thread" in result.failure.message
    assert await executor.submit(Call(tasks.nothing, (), CURRENT)) == RETURNED
    await executor.close()


async def test_no_second_thread_is_the_failure_of_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs already goes on, and who comes when a thread is free again runs."""
    executor = ThreadExecutor(2)
    gate, at_work = threading.Event(), threading.Event()
    start = threading.Thread.start

    def hold() -> None:
        at_work.set()
        gate.wait()

    def start_one(self: threading.Thread) -> None:
        if not self.name.endswith("-1"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    first, second = (executor.submit(Call(hold, (), CURRENT)) for _ in range(2))
    assert type_of(await second) == "dispatcher.errors.TaskError"
    while not at_work.is_set():
        await asyncio.sleep(0)
    assert not first.done()
    gate.set()
    assert await first == RETURNED
    assert await executor.submit(Call(tasks.nothing, (), CURRENT)) == RETURNED
    await executor.close()


async def test_a_maximum_below_one_is_refused() -> None:
    """It would run nothing, for ever."""
    with pytest.raises(ConfigError, match="1 or more"):
        ThreadExecutor(0)


def test_a_thread_that_never_ends_does_not_keep_the_program() -> None:
    """The interpreter ends although a task's function does not, and although nobody closed the executor."""
    program = """
import asyncio, threading
from dispatcher.observe.context import CurrentTask
from dispatcher.runtime.executors import Call, ThreadExecutor

async def main():
    started = threading.Event()
    def hang():
        started.set()
        threading.Event().wait()
    ThreadExecutor(1).submit(Call(hang, (), CurrentTask("u", "t", 1, False, {}, "q")))
    started.wait()

asyncio.run(main())
print("the end")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "the end\n", "")
