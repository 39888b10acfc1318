"""Which functions may run in a child process though nobody asked for it: those whose import can do no harm."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import executor_tasks as tasks
import pytest

from dispatcher import Dispatcher
from dispatcher.errors import ConfigError
from dispatcher.runtime.executors import find_process_target

app = Dispatcher("memory://")


@app.task
def decorated() -> None: ...


def changed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def around() -> None: ...

    return around


class Called:
    def __call__(self) -> None: ...

    @classmethod
    def of_class(cls) -> None: ...


def test_what_its_name_leads_to_is_found() -> None:
    """A function of a module, one that a task took the place of, and a class method."""
    assert find_process_target(tasks.nothing) == "executor_tasks:nothing"
    assert find_process_target(decorated.function) == f"{__name__}:decorated"
    assert find_process_target(Called.of_class) == f"{__name__}:Called.of_class"


@pytest.mark.parametrize(
    "function",
    [lambda: None, changed(tasks.nothing), Called(), functools.partial(tasks.nothing), Called().__call__],
    ids=["lambda", "another under its name", "object", "partial", "method"],
)
def test_what_its_name_does_not_lead_to_is_refused(function: Callable[..., Any]) -> None:
    """A child would run something else, or nothing."""
    with pytest.raises(ConfigError, match="expected"):
        find_process_target(function)


@pytest.mark.parametrize(
    ("end", "found"),
    [
        ('if __name__ == "__main__":\n    main()', "__main__:task"),
        ("main()", "refused"),
    ],
)
def test_a_main_script_that_would_begin_anew_is_not_imported(tmp_path: Path, end: str, found: str) -> None:
    """Every child imports the main script: one without a guard would send its tasks a second time."""
    script = tmp_path / "script.py"
    script.write_text(
        "from dispatcher.errors import ConfigError\n"
        "from dispatcher.runtime.executors import find_process_target\n"
        "def task(): ...\n"
        "def main():\n"
        "    try:\n        print(find_process_target(task))\n"
        "    except ConfigError as error:\n        print('refused', error)\n" + end
    )
    printed = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == found
