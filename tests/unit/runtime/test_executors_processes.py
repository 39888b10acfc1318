"""The process executor, with real processes: what one of them does costs its own task one attempt and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TextIO

import executor_tasks as tasks
import pytest

from dispatcher.errors import ConfigError, TaskProcessDied, TaskTimeout
from dispatcher.model.codec import encode_body
from dispatcher.model.outcome import RETURNED, BadArguments, CutShort, Discarded, Raised, Rejected, Result, Snoozed
from dispatcher.model.signature import Signature
from dispatcher.model.task import TaskArgument
from dispatcher.observe.context import CurrentTask
from dispatcher.runtime.executors import Call, ProcessExecutor, check_process_target, load_target, result_of
from dispatcher.runtime.executors.process import ChildProcess, say_exit

CURRENT = CurrentTask("uuid-1", "t", 2, False, {"h": "header"}, "q")
TIMED_OUT = result_of(TaskTimeout("too long"))


def call_of(function: Callable[..., Any], *args: Any, uuid_first: bool = False) -> Call:
    """What `execution` makes of a delivery."""
    bound = Signature.of(function, skip_first=uuid_first, name="t").bind(args, {})
    body = encode_body(CURRENT.uuid, "t", bound)
    return Call(function, (), CURRENT, body=body, target=check_process_target(function), uuid_first=uuid_first)


def message_of(result: Result, error: type[BaseException] = TaskProcessDied) -> str:
    assert isinstance(result, Raised), result
    assert result.failure.is_a([error]), result
    return result.failure.message


class Deaths(list[tuple[int, int | None]]):
    """What `on_replaced` was told; `seen` is set by each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = asyncio.Event()

    def note(self, pid: int, exit_code: int | None) -> None:
        self.append((pid, exit_code))
        self.seen.set()


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture
async def executor(deaths: Deaths) -> AsyncIterator[ProcessExecutor]:
    executor = ProcessExecutor(1, on_replaced=deaths.note)
    yield executor
    await executor.close()


@pytest.fixture
async def four() -> AsyncIterator[ProcessExecutor]:
    executor = ProcessExecutor(4)
    yield executor
    await executor.close()


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


def open_and_read_line(path: str) -> tuple[TextIO, int]:
    file = open(path)  # waits for the writer
    return file, int(file.readline())


# --- what comes back ------------------------------------------------------------------------------------------------


async def test_a_function_runs_in_one_warm_process(executor: ProcessExecutor, tmp_path: Path) -> None:
    """Task after task goes to the same child, which is not the worker."""
    pids = set()
    for n in range(3):
        path = tmp_path / str(n)
        assert await executor.submit(call_of(tasks.writes_pid, str(path))) == RETURNED
        pids.add(int(path.read_text()))
    assert len(pids) == 1
    assert os.getpid() not in pids


@pytest.mark.parametrize("function", [tasks.sees_context, tasks.sees_context_plain])
async def test_current_task_is_known_there(executor: ProcessExecutor, tmp_path: Path, function: Any) -> None:
    """current_task() tells the same in a child, for plain and coroutine functions."""
    path = tmp_path / "out"
    assert await executor.submit(call_of(function, str(path))) == RETURNED
    assert path.read_text() == "uuid-1 t 2 q header"


async def test_arguments_are_bound_from_the_body(executor: ProcessExecutor, tmp_path: Path) -> None:
    """Exact integers, the uuid first where it was asked for, and nothing pickled."""
    path = tmp_path / "out"
    assert await executor.submit(call_of(tasks.writes_two, str(path), 2**63 - 1, uuid_first=True)) == RETURNED
    assert path.read_text() == f"uuid-1 {2**63 - 1}"


async def test_arguments_that_do_not_fit_there(executor: ProcessExecutor) -> None:
    """A child that binds otherwise (its module changed on disk) says so, instead of running the function."""
    call = call_of(tasks.nothing)
    call.body = encode_body("u", "t", [TaskArgument("int", 1)])
    assert isinstance(await executor.submit(call), BadArguments)


async def test_a_decorated_function_is_found_inside_its_task_object(executor: ProcessExecutor, tmp_path: Path) -> None:
    """@app.task puts an object with the attribute `function` in the function's place."""
    path = tmp_path / "out"
    call = call_of(tasks.writes_pid, str(path))
    call.target = "executor_tasks:decorated"
    assert await executor.submit(call) == RETURNED
    assert path.read_text() == "inner"


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"])
@pytest.mark.parametrize("function", [tasks.raises, tasks.raises_async])
async def test_exceptions_come_back_in_words(
    executor: ProcessExecutor, deaths: Deaths, function: Any, kind: str
) -> None:
    """Type, lineage and a traceback that starts at the function; the child lives on."""
    result = await executor.submit(call_of(function, kind))
    assert isinstance(result, Raised)
    assert result.failure.type == kind
    assert result.failure.lineage[0] == f"builtins.{kind}"
    assert "executor_tasks.py" in result.failure.traceback.splitlines()[1]
    assert await executor.submit(call_of(tasks.nothing)) == RETURNED
    assert deaths == []


async def test_a_task_says_its_own_fate_from_there(executor: ProcessExecutor) -> None:
    """Retry, Snooze, Reject and Discard cross the border."""
    results = [await executor.submit(call_of(tasks.raises, kind)) for kind in ("Retry", "Snooze", "Reject", "Discard")]
    assert isinstance(results[0], Raised)
    assert (results[0].after_seconds, results[0].failure.asked) == (7, True)
    assert results[1:] == [Snoozed(9.0), Rejected("no good"), Discarded("never mind")]


async def test_exit_in_a_task_of_a_task(executor: ProcessExecutor, deaths: Deaths) -> None:
    """SystemExit in an asyncio task that the function made is its failure as well."""
    result = await executor.submit(call_of(tasks.exits_in_a_task_of_its_own))
    assert isinstance(result, Raised)
    assert result.failure.type == "SystemExit"
    assert deaths == []


async def test_huge_and_broken_texts_cross(executor: ProcessExecutor) -> None:
    """Results are bounded and valid UTF-8; a returned exception object is noted."""
    assert len(message_of(await executor.submit(call_of(tasks.raises, "huge")), ValueError)) == 2_000
    assert message_of(await executor.submit(call_of(tasks.raises, "surrogate")), ValueError) == "a\\udcffb"
    call = call_of(tasks.returns_an_error)
    assert await executor.submit(call) == RETURNED
    assert call.returned_error == "ValueError"


async def test_a_body_larger_than_a_pipe_holds(executor: ProcessExecutor) -> None:
    """It is sent in pieces, while the loop goes on."""
    assert await executor.submit(call_of(tasks.takes_text, "é" * 300_000)) == RETURNED


async def test_a_function_that_cannot_be_found(executor: ProcessExecutor) -> None:
    """Its name leads nowhere in the child: a failure that says what to do, never silence."""
    call = call_of(tasks.nothing)
    call.target = "executor_tasks:no_such_function"
    assert "no_such_function" in message_of(await executor.submit(call), ConfigError)
    call = call_of(tasks.nothing)
    call.target = "no_such_module:nothing"
    assert "no_such_module" in message_of(await executor.submit(call), ModuleNotFoundError)


# --- deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "args", "exit_code", "words"),
    [
        (tasks.segfaults, (), -signal.SIGSEGV, "killed by SIGSEGV"),
        (tasks.exits_at_once, (3,), 3, "exit code 3"),
        (tasks.exits_at_once, (0,), 0, "exit code 0"),
        (tasks.kills_itself, (), -signal.SIGKILL, "killed by SIGKILL, perhaps for want of memory"),
    ],
)
async def test_a_death_costs_one_attempt_and_no_more(
    executor: ProcessExecutor, deaths: Deaths, function: Any, args: tuple[Any, ...], exit_code: int, words: str
) -> None:
    """The task failed with how its process died; the next one runs in a new process."""
    assert words in message_of(await executor.submit(call_of(function, *args)))
    assert [code for _, code in deaths] == [exit_code]
    assert await executor.submit(call_of(tasks.nothing)) == RETURNED


async def test_out_of_memory_is_an_ordinary_failure(executor: ProcessExecutor, deaths: Deaths) -> None:
    """MemoryError is raised, told, and survived."""
    message_of(await executor.submit(call_of(tasks.runs_out_of_memory)), MemoryError)
    assert await executor.submit(call_of(tasks.nothing)) == RETURNED
    assert deaths == []


async def test_killed_from_outside_in_the_middle(executor: ProcessExecutor, fifo: str) -> None:
    """The kernel's or an operator's SIGKILL is that task's failure."""
    run = executor.submit(call_of(tasks.says_pid_and_hangs, fifo))
    file, pid = await asyncio.to_thread(open_and_read_line, fifo)
    with file:
        os.kill(pid, signal.SIGKILL)
        assert "SIGKILL" in message_of(await run)


async def test_killed_from_outside_while_idle(executor: ProcessExecutor, deaths: Deaths, tmp_path: Path) -> None:
    """No task pays for a child that died between tasks, whether its death was noticed yet or not."""
    path = tmp_path / "pid"
    for noticed in (False, True):
        await executor.submit(call_of(tasks.writes_pid, str(path)))
        pid = int(path.read_text())
        deaths.seen.clear()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if noticed:
            await deaths.seen.wait()
        assert await executor.submit(call_of(tasks.nothing)) == RETURNED
    await deaths.seen.wait()
    assert len(deaths) == 2


async def test_a_grandchild_that_holds_every_descriptor(executor: ProcessExecutor, tmp_path: Path) -> None:
    """A death is noticed although a forked program keeps the pipes of the dead open."""
    path = tmp_path / "pid"
    try:
        assert "exit code 9" in message_of(await executor.submit(call_of(tasks.forks_and_dies, str(path))))
    finally:
        os.kill(int(path.read_text()), signal.SIGKILL)


async def test_one_of_fifty_segfaults(four: ProcessExecutor) -> None:
    """Forty-nine neighbours, before, beside and after it, return."""
    runs = [four.submit(call_of(tasks.segfaults_if, n == 17)) for n in range(50)]
    results = await asyncio.gather(*runs)
    assert [n for n, result in enumerate(results) if result != RETURNED] == [17]
    assert "SIGSEGV" in message_of(results[17])


@pytest.mark.parametrize("function", [tasks.speaks_out_of_turn, tasks.closes_every_descriptor])
async def test_meddling_with_descriptors_is_a_death(executor: ProcessExecutor, function: Any) -> None:
    """A task that writes into, or closes, what is not its own loses its process, and nothing else."""
    message_of(await executor.submit(call_of(function)))
    assert await executor.submit(call_of(tasks.nothing)) == RETURNED


async def test_an_interrupt_from_the_terminal_is_the_workers_business(executor: ProcessExecutor) -> None:
    """Ctrl-C reaches the whole group; children ignore it."""
    assert await executor.submit(call_of(tasks.interrupts_itself)) == RETURNED


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_stop_kills_a_function_that_hangs(executor: ProcessExecutor, deaths: Deaths, fifo: str) -> None:
    """The run ends with what stop promised; the process is gone, and the next task has a new one."""
    call = call_of(tasks.says_pid_and_hangs, fifo)
    run = executor.submit(call)
    file, pid = await asyncio.to_thread(open_and_read_line, fifo)
    assert executor.stop(call, TIMED_OUT)
    assert await run == TIMED_OUT
    assert await asyncio.to_thread(file.read) == ""
    file.close()
    assert deaths == [(pid, -signal.SIGKILL)]
    assert not executor.stop(call, TIMED_OUT)
    assert await executor.submit(call_of(tasks.nothing)) == RETURNED


async def test_stop_kills_programs_that_the_task_started(executor: ProcessExecutor, fifo: str) -> None:
    """A timeout that left the real work running would be none."""
    call = call_of(tasks.starts_a_program_and_hangs, fifo)
    run = executor.submit(call)
    file, _ = await asyncio.to_thread(open_and_read_line, fifo)
    executor.stop(call, TIMED_OUT)
    assert await run == TIMED_OUT
    assert await asyncio.to_thread(file.read) == ""
    file.close()


async def test_stop_while_waiting_for_a_process(executor: ProcessExecutor, fifo: str) -> None:
    """It never starts, and what runs is not touched."""
    running = call_of(tasks.says_pid_and_hangs, fifo)
    first = executor.submit(running)
    waiting = call_of(tasks.nothing)
    second = executor.submit(waiting)
    assert executor.stop(waiting, TIMED_OUT)
    assert await second == TIMED_OUT
    assert not first.done()
    executor.stop(running, TIMED_OUT)
    assert await first == TIMED_OUT


async def test_stop_before_the_process_is_up(executor: ProcessExecutor) -> None:
    """A child that is still importing can be killed as well."""
    call = call_of(tasks.nothing)
    run = executor.submit(call)
    executor.stop(call, TIMED_OUT)
    assert await run == TIMED_OUT


async def test_close_cuts_short_and_leaves_nothing(deaths: Deaths, fifo: str) -> None:
    """What runs is killed, what waits never starts, idle children end; close can be called again."""
    executor = ProcessExecutor(2, on_replaced=deaths.note)
    assert await executor.submit(call_of(tasks.nothing)) == RETURNED
    runs = [executor.submit(call_of(tasks.says_pid_and_hangs, fifo))]
    file, pid = await asyncio.to_thread(open_and_read_line, fifo)
    assert await executor.close() == 0
    with file:
        assert file.read() == ""
    runs.append(executor.submit(call_of(tasks.nothing)))
    assert [await run for run in runs] == [CutShort()] * 2
    assert await executor.close() == 0
    assert deaths == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_close_waits_for_its_grace() -> None:
    """What ends within the grace counts with its own result."""
    executor = ProcessExecutor(1)
    run = executor.submit(call_of(tasks.nothing))
    assert await executor.close(50) == 0
    assert await run == RETURNED


async def test_no_process_to_be_had(executor: ProcessExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no process, the task failed; the worker lives, and no descriptor is lost."""

    def refuse(self: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.process.BaseProcess.start", refuse)
        result = await executor.submit(call_of(tasks.nothing))
    assert isinstance(result, Raised)
    assert "Resource temporarily unavailable" in result.failure.message
    assert await executor.submit(call_of(tasks.nothing)) == RETURNED


async def test_without_pidfd_deaths_are_seen_too(
    executor: ProcessExecutor, deaths: Deaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS and old kernels have only the sentinel."""
    monkeypatch.setattr("dispatcher.runtime.executors.process._exit_fd", lambda pid: None)
    assert "SIGSEGV" in message_of(await executor.submit(call_of(tasks.segfaults)))
    message_of(await executor.submit(call_of(tasks.closes_every_descriptor)))
    assert await executor.submit(call_of(tasks.nothing)) == RETURNED
    assert len(deaths) == 2


async def test_a_maximum_below_one_is_refused() -> None:
    """It would run nothing, for ever."""
    with pytest.raises(ConfigError, match="1 or more"):
        ProcessExecutor(0)


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [(3, "exit code 3"), (-11, "killed by SIGSEGV"), (-63, "killed by signal 63"), (None, "exit code unknown")],
)
def test_exit_codes_in_words(exit_code: int | None, words: str) -> None:
    """Signals by their name where they have one."""
    assert words in say_exit(exit_code)


# --- which functions ------------------------------------------------------------------------------------------------


def test_functions_that_have_a_name_to_be_imported_by() -> None:
    """Functions, static and class methods, and what other modules define."""
    assert check_process_target(tasks.nothing) == "executor_tasks:nothing"
    assert check_process_target(tasks.Holder.static) == "executor_tasks:Holder.static"
    assert check_process_target(tasks.Holder.of_class) == "executor_tasks:Holder.of_class"
    assert load_target("executor_tasks:Holder.static") is tasks.Holder.static
    assert load_target("executor_tasks:decorated") is tasks.decorated.function


def test_functions_without_such_a_name() -> None:
    """Refused at registration, with what to do about it."""

    def nested() -> None:
        pass

    class Callable:
        def __call__(self) -> None:
            pass

    for function, words in (
        (nested, "inside another"),
        (lambda: None, "a lambda"),
        (tasks.Holder().method, "a method of"),
        (Callable(), "defined with def"),
        (tasks.Holder, "defined with def"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_process_target(function)


def run_program(program: str, path: Path | None, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `program` as a script at `path`, or as text of no file."""
    command = ["-c", program]
    if path is not None:
        path.write_text(program)
        command = [str(path)]
    return subprocess.run([sys.executable, *command, *args], capture_output=True, text=True, timeout=55)


SCRIPT = """
import asyncio, sys
from dispatcher.model.codec import encode_body
from dispatcher.model.outcome import Raised
from dispatcher.observe.context import CurrentTask
from dispatcher.runtime.executors import Call, ProcessExecutor, check_process_target

class Mine(Exception): pass

def task():
    print("in", __name__)
    raise Mine("mine")

async def main():
    executor = ProcessExecutor(1)
    target = check_process_target(task)
    body = encode_body("u", "t", ())
    call = Call(task, (), CurrentTask("u", "t", 1, False, {}, "q"), body=body, target=target)
    result = await executor.submit(call)
    print(result.failure.lineage[0], result.failure.message)
    if "no close" not in sys.argv:
        await executor.close()
"""


@pytest.mark.parametrize("close", ["close", "no close"])
def test_functions_of_the_main_script(tmp_path: Path, close: str) -> None:
    """They run in a child under one name with the worker's, and the program ends also if nobody closes the executor."""
    program = SCRIPT + 'if __name__ == "__main__":\n    asyncio.run(main())\n'
    ended = run_program(program, tmp_path / "script.py", close)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "in __mp_main__\n__main__.Mine mine\n", "")


def test_a_main_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """A child that would start a second worker dies instead, and the task's failure says why."""
    ended = run_program(SCRIPT + "asyncio.run(main())\n", tmp_path / "script.py")
    assert ended.returncode == 0
    assert "before it could begin: exit code 1" in ended.stdout
    assert "a child process that imports it did so too" in ended.stderr


def test_functions_of_an_interactive_session_are_refused() -> None:
    """There is no file that a child could import."""
    ended = run_program(SCRIPT + "asyncio.run(main())\n", None)
    assert ended.returncode == 1
    assert "interactive session" in ended.stderr


@pytest.mark.parametrize("function", ["says_pid_and_hangs", "says_pid_and_holds_the_gil", "starts_a_program_and_hangs"])
def test_children_end_when_their_worker_is_killed(tmp_path: Path, fifo: str, function: str) -> None:
    """kill -9 of the worker ends its children at once, in the middle of a task, also while C code holds the GIL."""
    if function != "says_pid_and_hangs" and sys.platform != "linux":
        function = "says_pid_and_hangs"  # only Linux's kernel does it without the child's help
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(tasks.__file__).parent)!r})
import executor_tasks
from dispatcher.model.codec import encode_body
from dispatcher.model.task import TaskArgument
from dispatcher.observe.context import CurrentTask
from dispatcher.runtime.executors import Call, ProcessExecutor

async def main():
    body = encode_body("u", "t", [TaskArgument("string", {fifo!r})])
    current = CurrentTask("u", "t", 1, False, {{}}, "q")
    await ProcessExecutor(1).submit(Call(print, (), current, body=body, target="executor_tasks:{function}"))

if __name__ == "__main__":
    asyncio.run(main())
"""
    (tmp_path / "script.py").write_text(program)
    with subprocess.Popen([sys.executable, str(tmp_path / "script.py")]) as worker:
        file, _ = open_and_read_line(fifo)
        worker.kill()
        with file:
            assert file.read() == ""


async def test_a_child_process_alone_reports_its_exit() -> None:
    """Hanging up on an idle child ends it, with exit code 0."""
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    ready: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    child = ChildProcess(
        asyncio.get_running_loop(), lambda _, frame: ready.set_result(frame), lambda _, code: ended.set_result(code)
    )
    assert await ready == b""
    child.hang_up()
    assert await ended == 0
