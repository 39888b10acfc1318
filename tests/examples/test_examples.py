"""Every example runs as a reader runs it, in a process of its own, and prints what it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pages import ROOT, environment

EXAMPLES = ROOT / "examples"
STORY_SECONDS = 60
DEMO_SECONDS = 240

STORIES = {
    "burst": """\
        1000 tasks on disk
        sum of the squares: 332833500
    """,
    "cancel": """\
        waiting -> cancelled
        told to stop, current_task().cancelled is True
        running -> cancelled
        delayed -> cancelled
    """,
    "dead_letters": """\
        rejected: no address
        failed: OSError: too far away
        bad_arguments: task 'ship': expected 2 arguments (order, address), got 1
        replayed: 1
        order 1 is shipped to 12 Main Street
        older than a month: 0
        of ship: 2
        deleted: 2
    """,
    "delays": """\
        due in more than a day: 1
        first: priority 9
        second: no priority counts as 4
        third: priority 1
        soon
        later
        dead letters: 1, the one that expired
    """,
    "expiry": """\
        offered soup of the day
        dialling 555-1234
        expired on attempt 1
        expired on attempt 1
        expired on attempt 2
    """,
    "explicit": """\
        resize cat.png to 320 (its uuid has 36 characters)
        pictures_small
        closed: True
    """,
    "from_sync_code": """\
        status 202
        welcome, ada@example.org
        welcome, bob@example.org
    """,
    "middleware": """\
        invoice 1 for acme
        task.published       2
        task.started         3
        task.succeeded       1
        task.failed          2
        task.retried         1
        task.dead_lettered   1
    """,
    "periodic": """\
        after Friday noon the next good morning is on Monday at 07:00 UTC
        looking at the oven
        one second between any two: True
        led by one, then by the other: True
    """,
    "priority": """\
        priority: expected an integer from 0 to 9 or None, got 10
        password reset
        invoice
        receipt, as urgent as the invoice and after it
        newsletter
    """,
    "processes": """\
        bystander: done on attempt 1
        crash: done on attempt 2
        hang: done on attempt 2
    """,
    "quarantine": """\
        neighbours done: 10
        parked: delivery_limit
        it killed its worker 2 times, then died alone: killed by SIGKILL, perhaps for want of memory
    """,
    "retries": """\
        greet: nobody called Bob here
        push: attempt 1 said ServerBusy: mirror-1
        poll: order 7 is shipped
        wait_for_night: backup on attempt 1
        fetch: got http://example.org/a on attempt 3
        dead letters: 1
    """,
    "rolling_deploy": """\
        the old release does not know it: put off
        good day, Ada
    """,
}

SIDE_BY_SIDE = {"processes", "retries"}
"""Their tasks run at the same time, so the order of their lines is nobody's promise."""

TOLD_ELSEWHERE = {"demo", "demo_app", "demo_ledger", "quickstart"}


def test_no_example_is_left_out() -> None:
    """Each file of the folder is run by a test of this module."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(STORIES) | TOLD_ELSEWHERE


@pytest.mark.timeout(STORY_SECONDS + 30)
@pytest.mark.parametrize("name", sorted(STORIES))
def test_an_example_prints_its_story(name: str, tmp_path: Path) -> None:
    """It ends well, and its output is the one above."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=STORY_SECONDS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    expected = [line.strip() for line in STORIES[name].strip().splitlines()]
    lines = ran.stdout.splitlines()
    if name in SIDE_BY_SIDE:
        expected, lines = sorted(expected), sorted(lines)
    assert lines == expected, ran.stderr


@contextmanager
def killed_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.timeout(2 * STORY_SECONDS + 30)
def test_the_quickstart_is_sent_by_one_process_and_run_by_another(tmp_path: Path) -> None:
    """What the script sent, a worker started later runs, the delayed task too; TERM then drains it."""
    env = {**environment(tmp_path), "PYTHONUNBUFFERED": "1"}
    script = EXAMPLES / "quickstart.py"
    sent = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=STORY_SECONDS, check=False,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith("on disk: ")

    (tmp_path / script.name).write_text(script.read_text())
    command = [sys.executable, "-m", "dispatcher", "worker", "quickstart:app", "-p", "2", "-l", "error"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        with killed_after(worker, STORY_SECONDS):
            lines = [worker.stdout.readline(), worker.stdout.readline()]
            worker.send_signal(signal.SIGTERM)
            rest = worker.stdout.read()
            code = worker.wait()
    assert lines == ["to ada@example.org: welcome\n", "to ada@example.org: two seconds later\n"]
    assert rest == ""
    assert code == 0


@pytest.mark.timeout(DEMO_SECONDS + 30)
def test_the_demo_loses_nothing(tmp_path: Path) -> None:
    """`make demo`: every Python file a task, a worker killed half-way, none lost, totals equal; no file is left behind."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=DEMO_SECONDS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = {line[:14].strip(): line[14:].split() for line in ran.stdout.splitlines()}
    assert rows["lost"] == ["0"]
    assert rows["dead letters"][0] == "1"
    assert int(rows["redelivered"][0].replace(",", "")) >= 1
    assert list(tmp_path.iterdir()) == []


def processes_with(text: str) -> list[str]:
    """The ids of the processes whose environment has `text` in it. Linux only."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
        except OSError:
            continue  # it ended, or is another user's
    return found


@pytest.mark.timeout(DEMO_SECONDS + 30)
def test_the_demo_cleans_up_after_an_interrupt(tmp_path: Path) -> None:
    """^C in the middle: exit code 130, no process and no file left."""
    env = {**environment(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(EXAMPLES / "demo.py")]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        with killed_after(demo, DEMO_SECONDS):
            while not (line := demo.stdout.readline()).startswith("tasks "):
                assert line, "the demo ended before its first tasks were done"
            os.kill(demo.pid, signal.SIGINT)
            demo.stdout.read()
            code = demo.wait()
    assert code == 130
    assert list(tmp_path.iterdir()) == []
    assert processes_with(str(tmp_path)) == []
