"""`dispatcher worker` in real processes: signals, restarts, exit codes, bursts, reload."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_run import DEADLINE_SECONDS, Cli

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.close()


def depths(cli: Cli, queue: str = "default") -> dict[str, int]:
    lines = [json.loads(line) for line in cli.ok("queues", "--json").splitlines()]
    return next(line for line in lines if line["name"] == queue)


def test_it_says_at_start_what_it_is(cli: Cli) -> None:
    """App, broker, queues, limit, pid and tasks with their timeouts, in one line."""
    worker = cli.worker("-c", "7")
    (line,) = [line for line in worker.text.splitlines() if "app.started" in line]
    for part in ("app=tasks:app", str(cli.broker), "queues=default,other", "limit=7", f"pid={worker.pid}"):
        assert part in line
    assert "note (no timeout)" in line and "never_ends (0.1 s, then release)" in line
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(cli: Cli, signum: signal.Signals) -> None:
    """The running task ends, nothing new is taken, the exit code is 0."""
    worker = cli.worker("-c", "1")
    cli.ok("send", "tasks:app", "hold", str(cli.folder / "go"))
    worker.wait_for("holding")
    cli.ok("send", "tasks:app", "note", "later")
    worker.signal(signum)
    worker.wait_for(r"worker\.stopped worker=\S+/other")
    (cli.folder / "go").touch()
    assert worker.exit_code() == 0
    assert worker.matches("let go") and not worker.matches("note later")
    assert depths(cli)["ready"] == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_cuts_short_and_hands_back(cli: Cli, signum: signal.Signals, code: int) -> None:
    """The task is waiting again in the broker when the process has ended."""
    worker = cli.worker()
    cli.ok("send", "tasks:app", "hold", "never")
    worker.wait_for("holding")
    worker.signal(signum)
    worker.wait_for(r"worker\.draining")
    worker.signal(signum)
    assert worker.exit_code() == code
    assert not worker.matches("let go") and "Traceback" not in worker.text
    assert (depths(cli)["ready"], depths(cli)["unacked"]) == (1, 0)


def test_the_third_signal_exits_at_once_even_if_the_loop_is_blocked(cli: Cli) -> None:
    """Three different ones, since equal ones may reach a process as one."""
    worker = cli.worker()
    cli.ok("send", "tasks:app", "block")
    worker.wait_for("blocking")
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        worker.signal(signum)
    assert worker.exit_code() in (129, 130, 143)


def test_usr1_shows_where_it_hangs(cli: Cli) -> None:
    """The stacks of all threads come to standard error, and the worker goes on."""
    worker = cli.worker()
    cli.ok("send", "tasks:app", "block")
    worker.wait_for("blocking")
    worker.signal(signal.SIGUSR1)
    worker.wait_for(r"tasks\.py.* in block")
    assert worker.process.poll() is None


def test_a_grace_bounds_the_drain(cli: Cli) -> None:
    """What still runs is handed back."""
    worker = cli.worker("--grace", "0.1")
    cli.ok("send", "tasks:app", "hold", "never")
    worker.wait_for("holding")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert depths(cli)["ready"] == 1


def test_a_keyboard_interrupt_of_a_task_is_not_a_signal(cli: Cli) -> None:
    """It is that task's failure; the worker goes on to the next."""
    cli.ok("send", "tasks:app", "interrupt")
    cli.ok("send", "tasks:app", "note", "after")
    worker = cli.start("worker", "tasks:app", "--burst", "-c", "1")
    assert worker.exit_code() == 0
    worker.wait_for("note after")
    assert depths(cli)["dead"] == 1


def test_a_burst_ends_when_the_queues_are_empty(cli: Cli) -> None:
    """All that waited was run."""
    for number in range(3):
        cli.ok("send", "tasks:app", "note", "burst", str(number))
    worker = cli.start("worker", "tasks:app", "--burst", "-Q", "default")
    assert worker.exit_code() == 0
    worker.wait_until_all_gone()
    assert sorted(worker.matches(r"note burst (\d)")) == ["0", "1", "2"]


def test_a_process_full_of_functions_that_never_end_starts_itself_anew(cli: Cli) -> None:
    """The same pid begins again, and the task that hangs is redelivered to it."""
    worker = cli.worker("-c", "1")
    cli.ok("send", "tasks:app", "never_ends")
    worker.wait_for(r"app\.started .*pid=" + str(worker.pid), count=2)
    worker.wait_for("never ending", count=2)


@pytest.mark.parametrize("words", [("-p", "2"), ("-p", "2", "--burst")])
def test_processes_cannot_share_a_broker_in_memory(cli: Cli, words: tuple[str, ...]) -> None:
    """Each would have one of its own: exit code 2, said once."""
    cli.env["DISPATCHER_URL"] = "memory://"
    worker = cli.start("worker", "tasks:app", *words)
    assert worker.exit_code() == 2
    worker.wait_until_all_gone()
    assert len(worker.matches("dispatcher: error: .* inside its own process")) == 1


def test_reload_refuses_a_broker_in_memory(cli: Cli) -> None:
    """It would be empty after every change; the next change, of the app's URL, is tried."""
    cli.env["DISPATCHER_URL"] = "memory://"
    worker = cli.start("worker", "tasks:app", "--reload")
    worker.wait_for("dispatcher: error: .* inside its own process")
    worker.wait_for("worker_process.resting number=1 seconds=none")
    worker.signal(signal.SIGTERM)
    worker.exit_code()


@pytest.mark.parametrize("redirect", ["<&-", ">&-", "<&- >&-"])
def test_closed_standard_descriptors_do_not_matter(cli: Cli, redirect: str) -> None:
    """The supervisor's pipes must not get the numbers that a child uses for its standard ones."""
    cli.ok("send", "tasks:app", "note", "closed")
    worker = cli.start("worker", "tasks:app", "-p", "2", "--burst", redirect=redirect)
    assert worker.exit_code() == 0
    worker.wait_until_all_gone()
    assert worker.matches("note closed") and not worker.matches("worker_process.ended|supervisor.lost")


@pytest.mark.parametrize("processes", [(), ("-p", "2")])
def test_the_prefetch_reaches_every_worker(cli: Cli, processes: tuple[str, ...]) -> None:
    """It is held apart from the limit, and passed on by a supervisor."""
    worker = cli.worker("-c", "1", "--prefetch", "3", *processes)
    worker.wait_for("worker.started.* limit=1 prefetch=3")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--grace", "nan"), "expected a number of seconds, 0 or more, got 'nan'"),
        (("--grace", "-1"), "expected a number of seconds, 0 or more, got '-1'"),
        (("-c", "many"), "expected a whole number, 1 to 65535, got 'many'"),
        (("-c", "0"), "expected a whole number, 1 to 65535, got '0'"),
        (("--prefetch", "0"), "expected a whole number, 1 to 65535, got '0'"),
        (("-p", "513"), "expected a whole number, 1 to 512, got '513'"),
    ],
)
def test_a_wrong_number_is_refused_in_plain_words(cli: Cli, words: tuple[str, ...], message: str) -> None:
    """Exit code 2, a line and a hint."""
    done = cli.run("worker", "tasks:app", *words)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert message in first and second.startswith("hint: ")


def test_a_killed_child_is_replaced(cli: Cli) -> None:
    """And what it held is run by another."""
    worker = cli.worker("-p", "2")
    first, second = worker.wait_for(r"worker_process\.started number=\d pid=(\d+)", count=2)
    worker.wait_for(r"app\.started", count=2)
    cli.ok("send", "tasks:app", "hold", str(cli.folder / "go"))
    (holder,) = worker.wait_for(r"holding (\d+)")
    assert holder in (first, second)
    os.kill(int(holder), signal.SIGKILL)
    worker.wait_for("worker_process.ended .*ended=SIGKILL")
    worker.wait_for(r"worker_process\.started number=\d pid=(\d+)", count=3)
    worker.wait_for("holding", count=2)
    (cli.folder / "go").touch()
    worker.wait_for("let go")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


def test_children_end_with_a_supervisor_that_was_killed(cli: Cli) -> None:
    """`kill -9` leaves it no time to tell them: the life-line does."""
    worker = cli.worker("-p", "2")
    worker.wait_for(r"worker\.started", count=4)
    worker.signal(signal.SIGKILL)
    worker.wait_until_all_gone()
    assert len(worker.matches("supervisor.lost")) == 2
    assert len(worker.matches(r"app\.stopped .*exit_code=0")) == 2


def test_a_terminals_interrupt_reaches_the_children_once(cli: Cli) -> None:
    """^C goes to the whole foreground group; twice would cut the running task short."""
    worker = cli.worker("-p", "2")
    worker.wait_for(r"worker\.started worker=\S+/default", count=2)
    cli.ok("send", "tasks:app", "hold", str(cli.folder / "go"))
    worker.wait_for("holding")
    os.killpg(worker.pid, signal.SIGINT)
    worker.wait_for(r"worker\.draining worker=\S+/default", count=2)
    (cli.folder / "go").touch()
    assert worker.exit_code() == 0
    assert worker.matches("let go")


def test_the_second_and_third_signal_reach_the_children(cli: Cli) -> None:
    """The second cuts short with its exit code; a child whose loop is blocked is killed by the third."""
    worker = cli.worker("-p", "2")
    worker.wait_for(r"worker\.started worker=\S+/default", count=2)
    cli.ok("send", "tasks:app", "block")
    worker.wait_for("blocking")
    worker.signal(signal.SIGINT)
    worker.wait_for("signal.taken signal=SIGINT effect=.draining")
    worker.signal(signal.SIGINT)
    worker.wait_for("signal.taken signal=SIGINT effect=.cancelling")
    worker.signal(signal.SIGINT)
    assert worker.exit_code() == 130
    worker.wait_until_all_gone()


def test_a_supervised_burst_ends_with_its_children(cli: Cli) -> None:
    """Exit code 0, everything run."""
    for number in range(4):
        cli.ok("send", "tasks:app", "note", "burst", str(number))
    worker = cli.start("worker", "tasks:app", "-p", "2", "--burst")
    assert worker.exit_code() == 0
    worker.wait_until_all_gone()
    assert sorted(worker.matches(r"note burst (\d)")) == ["0", "1", "2", "3"]


def test_a_supervisor_gives_up_what_cannot_start(cli: Cli) -> None:
    """With the child's own exit code, and its message once."""
    worker = cli.start("worker", "taks:app", "-p", "3")
    assert worker.exit_code() == 78
    worker.wait_until_all_gone()
    assert len(worker.matches("no module 'taks'")) == 1


def test_a_corrupt_broker_file_is_exit_74(cli: Cli) -> None:
    """It is said, and the file is left as it was."""
    cli.broker.write_bytes(b"this is no database" * 1000)
    worker = cli.start("worker", "tasks:app")
    assert worker.exit_code() == 74
    worker.wait_until_all_gone()
    assert worker.matches("dispatcher: error: ") and "Traceback" not in worker.text
    assert cli.broker.read_bytes() == b"this is no database" * 1000


def test_reload_replaces_the_process_when_a_file_changes(cli: Cli) -> None:
    """The new code runs, and the old process has drained."""
    worker = cli.start("worker", "tasks:app", "--reload")
    worker.wait_for(r"worker\.started worker=\S+/default")
    text = (cli.folder / "tasks.py").read_text()
    worker.wait_for("source.watched")
    cli.write("tasks.py", text.replace('say("note"', 'say("changed note"'))
    worker.wait_for(r"source\.changed .*tasks\.py")
    worker.wait_for(r"app\.stopped .*exit_code=0")
    worker.wait_for(r"worker\.started worker=\S+/default", count=2)
    cli.ok("send", "tasks:app", "note", "x")
    worker.wait_for("changed note x")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


def test_reload_survives_a_broken_file(cli: Cli) -> None:
    """The error is shown, and the next change is tried."""
    text = (cli.folder / "tasks.py").read_text()
    cli.write("tasks.py", "def broken(:\n")
    worker = cli.start("worker", "tasks:app", "--reload")
    worker.wait_for("SyntaxError")
    worker.wait_for("worker_process.resting number=1 seconds=none")
    worker.wait_for("source.watched")
    cli.write("tasks.py", text)
    worker.wait_for(r"worker\.started worker=\S+/default")
    worker.signal(signal.SIGINT)
    assert worker.exit_code() == 0


def test_logs_for_programs_are_one_object_a_line(cli: Cli) -> None:
    """The supervisor's and the children's alike."""
    worker = cli.start("worker", "tasks:app", "-p", "2", "--burst", "--log-format", "json")
    assert worker.exit_code() == 0
    worker.wait_until_all_gone()
    events = [json.loads(line)["event"] for line in worker.text.splitlines()]
    assert {"supervisor.started", "app.started", "app.stopped", "supervisor.stopped"} <= set(events)


def test_a_closed_standard_output_and_error_do_not_matter(cli: Cli) -> None:
    """Whoever read them is gone: the tasks run on, and the exit code is clean."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        cli.words("worker", "tasks:app"),
        cwd=cli.folder,
        env=cli.env,
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as stream:
        seen = b""
        while b"worker.started" not in seen:
            chunk = stream.read(4096)
            assert chunk, seen
            seen += chunk
    cli.ok("send", "tasks:app", "fail")  # its failure is logged into the closed pipe
    while not depths(cli)["dead"]:
        pass  # each look is a process of its own, so this does not spin
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("ConnectionLost('no connection after 3 retries')", 69),
        ("StorageFull('the disk is full')", 74),
        ("AuthenticationError('the broker refused the login')", 78),
        ("RuntimeError('a fault of ours')", 70),
    ],
)
def test_every_end_of_a_worker_has_its_exit_code(cli: Cli, error: str, code: int) -> None:
    """Said in one line; only a fault of Dispatcher itself comes with a traceback."""
    cli.write(
        "broken.py",
        "from dispatcher import Dispatcher\nfrom dispatcher.errors import *\n"
        f"class Broken(Dispatcher):\n    async def run_worker(self, *args, **kwargs): raise {error}\n"
        "app = Broken()\n",
    )
    done = cli.run("worker", "broken:app")
    assert done.returncode == code
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dispatcher: error: ")]
    assert error.split("'")[1] in line
    assert ("Traceback" in done.stderr) == (code == 70)


def test_a_supervisor_ends_with_the_code_of_a_broker_given_up(cli: Cli) -> None:
    """When every child has given up, restarting would not help."""
    cli.write(
        "broken.py",
        "from dispatcher import Dispatcher\nfrom dispatcher.errors import ConnectionLost\n"
        "class Broken(Dispatcher):\n    async def run_worker(self, *args, **kwargs): raise ConnectionLost('gone')\n"
        "app = Broken()\n",
    )
    worker = cli.start("worker", "broken:app", "-p", "2")
    assert worker.exit_code() == 69
    worker.wait_until_all_gone()
