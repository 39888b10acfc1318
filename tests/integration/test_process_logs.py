"""What a task in a child process logs: shown as a thread's lines are, by a real `dispatcher worker`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_run import Cli, Running

pytestmark = pytest.mark.timeout(120)

TASKS = """
import logging
from dispatcher import Dispatcher

app = Dispatcher()
log = logging.getLogger("images")

@app.task(executor="process")
def resize(width: int) -> None:
    log.debug("hidden")
    log.info("resized to %d", width)

@app.task(executor="process")
async def crop(width: int) -> None:
    log.info("cropped to %d", width)
"""

OWN_LOGGING = """
import sys
from dispatcher.observe.logs import TaskContextFilter

handler = logging.StreamHandler(sys.stderr)
handler.addFilter(TaskContextFilter())
logging.basicConfig(level=logging.INFO, format="mine %(levelname)s [%(task_name)s %(task_uuid)s] %(message)s",
                    handlers=[handler])
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.write("tasks.py", TASKS)
    yield cli
    cli.close()


def burst(cli: Cli, *options: str) -> Running:
    """Run what waits; its lines are all there when this returns."""
    worker = cli.start("worker", "tasks:app", "--burst", *options)
    assert worker.exit_code() == 0
    worker.wait_until_all_gone()
    return worker


def send(cli: Cli, task: str, width: int) -> str:
    """Its uuid."""
    receipt: dict[str, Any] = json.loads(cli.ok("send", "tasks:app", task, str(width), "--json"))
    uuid: str = receipt["uuid"]
    return uuid


def test_on_the_console(cli: Cli) -> None:
    """A line names its task and uuid, for plain and coroutine functions, once, and the level counts there too."""
    resized, cropped = send(cli, "resize", 3), send(cli, "crop", 4)
    worker = burst(cli)
    lines = sorted(worker.matches(r"INFO     (\[.*\] images: .*)"))
    assert lines == [f"[crop {cropped}] images: cropped to 4", f"[resize {resized}] images: resized to 3"]
    assert "hidden" not in worker.text


@pytest.mark.parametrize("processes", ["1", "2"])
def test_for_programs(cli: Cli, processes: str) -> None:
    """In JSON too: every line of the worker and its children is an object, and the task's has its task and uuid."""
    uuid = send(cli, "resize", 3)
    worker = burst(cli, "--log-format", "json", "-p", processes)
    lines = [json.loads(line) for line in worker.text.splitlines()]
    (line,) = [line for line in lines if line["logger"] == "images"]
    assert (line["uuid"], line["task"], line["message"], line["level"]) == (uuid, "resize", "resized to 3", "info")


def test_a_level_is_handed_on(cli: Cli) -> None:
    """`-l debug` shows what a child logs at DEBUG."""
    send(cli, "resize", 3)
    assert burst(cli, "-l", "debug").matches(r"DEBUG    \[resize \S+\] images: hidden")


def test_the_users_own_logging_stays(cli: Cli) -> None:
    """Configured in the application's module it holds in the child as in the worker, which says that the format does not."""
    cli.write("tasks.py", TASKS + OWN_LOGGING)
    uuid = send(cli, "resize", 3)
    worker = burst(cli, "--log-format", "json")
    lines = worker.text.splitlines()
    assert all(line.startswith("mine ") for line in lines), worker.text
    assert [line for line in lines if "resized" in line] == [f"mine INFO [resize {uuid}] resized to 3"]
    assert worker.matches(r"mine WARNING \[ \] (log_format\.ignored log_format=json)")


def test_who_asked_for_no_format_is_told_nothing(cli: Cli) -> None:
    """The default format has no effect on the user's logging either, and that is no news."""
    cli.write("tasks.py", TASKS + OWN_LOGGING)
    assert "log_format.ignored" not in burst(cli).text
