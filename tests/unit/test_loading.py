"""What Dispatcher loads, and what it leaves until it is named: held by the loaded modules, not by a clock (decision 0024)."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dispatcher

DEADLINE_SECONDS = 50.0

AMQP = {"dispatcher.amqp", "dispatcher.brokers.rabbitmq"}  # a quarter of what an app on an SQLite file would load
SQLITE = {"dispatcher.brokers.sqlite", "sqlite3", "ctypes"}
SCHEDULES = {"cronsim", "zoneinfo"}  # only who fires something periodically asks what a cron expression means
METADATA = {"importlib.metadata", "email"}  # a parser of mail, for `--version`
ENGINE = {"asyncio", "msgspec", "ssl", "multiprocessing", "dispatcher.runtime", "dispatcher.brokers"}  # runs tasks
COMMANDS = {"dispatcher.ops.worker", "dispatcher.ops.doctor"}

HELP = """
from dispatcher.ops.cli import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
"""
COMPLETE = """
import os
os.environ.update(_DISPATCHER_COMPLETE="bash_complete", COMP_WORDS="dispatcher do", COMP_CWORD="1")
from dispatcher.ops.cli import cli
try:
    cli.main([], complete_var="_DISPATCHER_COMPLETE")
except SystemExit:
    pass
"""
WORKER = """
import asyncio, os, pathlib
os.chdir({folder!r})
pathlib.Path("tasks.py").write_text('''
from dispatcher import Dispatcher
app = Dispatcher("sqlite:///broker.db")
@app.task
async def noop() -> None: ...
''')
from dispatcher.ops.cli import cli
try:
    cli.main(["worker", "tasks:app", "--burst"])
except SystemExit as end:
    assert not end.code, end.code
"""


def loaded_by(code: str, *, cwd: Path) -> tuple[set[str], str]:
    """The modules that are loaded after `code` ran in a Python of its own, and what it printed."""
    end = "\nimport sys\nsys.stdout.flush()\nprint('MODULES', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code + end], cwd=cwd, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    printed, _, modules = done.stdout.rpartition("MODULES ")
    return set(modules.split()), printed


@pytest.mark.parametrize(
    ("code", "never"),
    [
        pytest.param("import dispatcher", ENGINE | AMQP | SQLITE | SCHEDULES | METADATA, id="the package"),
        pytest.param("from dispatcher import Dispatcher", AMQP | SQLITE | SCHEDULES | METADATA, id="an app's class"),
        pytest.param(
            "from dispatcher import Dispatcher; Dispatcher('amqp://localhost')",
            SQLITE | SCHEDULES | METADATA,
            id="an app on RabbitMQ",
        ),
        pytest.param(HELP, ENGINE | AMQP | SQLITE | SCHEDULES | METADATA | COMMANDS, id="help"),
        pytest.param(WORKER, AMQP | SCHEDULES | METADATA | {"dispatcher.ops.doctor"}, id="a worker on SQLite"),
    ],
)
def test_nothing_is_loaded_that_is_not_used(code: str, never: set[str], tmp_path: Path) -> None:
    """None of the modules that cost much and serve something else is loaded."""
    loaded, _ = loaded_by(code.replace("{folder!r}", repr(str(tmp_path))), cwd=tmp_path)
    assert "dispatcher" in loaded
    assert sorted(never & loaded) == []


def test_help_and_completion_show_every_command(tmp_path: Path) -> None:
    """The commands are listed with their lines, though help loads none; a shell's TAB finds them by their beginning."""
    _, text = loaded_by(HELP, cwd=tmp_path)
    assert "worker " in text and "Run the tasks of an app." in text and "doctor " in text
    _, text = loaded_by(COMPLETE, cwd=tmp_path)
    assert "doctor" in text and "worker" not in text


def test_every_public_name_is_where_the_type_checkers_see_it() -> None:
    """What is loaded on demand is what the imports for type checkers say, each name, and nothing else."""
    tree = ast.parse(Path(dispatcher.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.name: f".{node.module}" for node in block.body if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }  # fmt: skip
    assert seen == dispatcher._HOMES  # type: ignore[attr-defined]
    for name, home in seen.items():
        assert getattr(dispatcher, name) is getattr(importlib.import_module(home, "dispatcher"), name)
    assert all(hasattr(dispatcher, name) for name in dispatcher.__all__)
    assert set(dispatcher.__all__) <= set(dir(dispatcher))


def test_a_name_that_is_not_there_is_said_to_be_missing() -> None:
    """A name that the package has not is an error as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Dispatchr'"):
        _ = dispatcher.Dispatchr  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'Dispatchr'"):
        exec("from dispatcher import Dispatchr")
