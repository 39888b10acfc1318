"""The guard of tests/conftest.py finds what a test leaves behind. Shown on tests that do, run by a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

LEAKY = """
import asyncio, os, threading
import conftest
import pytest

conftest.THREAD_GRACE_SECONDS = 0.1
kept = []

def test_descriptor():
    kept.append(open(os.devnull))

def test_thread():
    event = threading.Event()
    kept.append(event)
    threading.Thread(target=event.wait, daemon=True).start()

async def test_task():
    kept.append(asyncio.ensure_future(asyncio.sleep(1000)))

async def test_exception():
    async def fail():
        raise ValueError
    task = asyncio.ensure_future(fail())
    await asyncio.wait({task})

@pytest.fixture
def careless():
    kept.append(open(os.devnull))

def test_fixture(careless):
    pass
"""

TIDY = """
import asyncio, os, threading
import pytest

async def test_everything_ends():
    await asyncio.to_thread(int)
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()

def test_a_thread_that_was_told_to_end():
    thread = threading.Timer(0.05, int)
    thread.start()

@pytest.fixture(scope="module")
def wider():
    with open(os.devnull) as file:
        yield file

def test_first_user(wider): pass
def test_second_user(wider): pass
"""


def run_pytest(folder: Path, tests: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST.read_text("utf-8"), "utf-8")
    (folder / "test_it.py").write_text(tests, "utf-8")
    (folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n",
        "utf-8",
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rEA", "."],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(CONFTEST.parent)},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def leaky_report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_pytest(tmp_path_factory.mktemp("leaky"), LEAKY)


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        ("test_descriptor", "left behind: file descriptor"),
        ("test_thread", "left behind: thread"),
        ("test_task", "left asyncio tasks running"),
        ("test_exception", "asyncio had to report: Task exception was never retrieved: ValueError()"),
        ("test_fixture", "left behind: file descriptor"),
    ],
)
def test_a_leak_fails(leaky_report: str, test: str, complaint: str) -> None:
    """Each kind is an error of the test that leaked, and says what was left."""
    section = leaky_report.split(f"ERROR at teardown of {test} ")[1].split("ERROR at teardown")[0]
    assert complaint in section


def test_what_ends_in_time_passes(tmp_path: Path) -> None:
    """Executors, child processes, servers, late threads and fixtures of a wider scope are no leaks."""
    report = run_pytest(tmp_path, TIDY)
    assert "4 passed" in report, report
    assert "error" not in report.lower()
