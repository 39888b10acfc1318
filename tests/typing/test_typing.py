"""Runs mypy and pyright, both strict and as pyproject.toml configures them, over the public API's typing tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # a first run has no cache

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHECKED = [str(HERE), str(ROOT / "tests/integration/test_design_examples.py")]

CHECKERS = {
    "mypy": ["--no-error-summary", "--no-pretty", "--hide-error-context"],
    "pyright": ["--pythonpath", sys.executable],
}

FAULTY = """
from dispatcher import Dispatcher

app = Dispatcher()

@app.task
def task(number: int) -> None: ...

task.bind("1")
task.bind(2)  # {ignore}
"""

IGNORES = {"mypy": "type: ignore[arg-type]", "pyright": "pyright: ignore[reportArgumentType]"}


def check(checker: str, *paths: str) -> tuple[int, list[str]]:
    """The exit code and the errors that it found."""
    done = subprocess.run(
        [sys.executable, "-m", checker, *CHECKERS[checker], *paths],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode in (0, 1), f"{checker} did not run: {done.stdout}{done.stderr}"
    return done.returncode, [line for line in done.stdout.splitlines() if "error:" in line]


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_public_api_is_typed(checker: str) -> None:
    """What is right passes, what is wrong is reported where it says so, and nothing else is."""
    code, errors = check(checker, *CHECKED)
    assert (code, "\n".join(errors)) == (0, "")


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_check_can_fail(checker: str, tmp_path: Path) -> None:
    """Both a wrong call and an ignore on a line that is right are errors: the latter stands for a call let pass."""
    faulty = tmp_path / "faulty.py"
    faulty.write_text(FAULTY.replace("{ignore}", IGNORES[checker]))
    code, errors = check(checker, str(faulty))
    assert code == 1
    lines = [int(line.split("faulty.py:")[1].split(":")[0]) for line in errors]
    assert lines == [9, 10], errors
