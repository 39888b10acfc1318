"""The command line on a real RabbitMQ: what it does there, and what differs from a file. The rest is told by the others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp_wire import wire
from cli_run import Cli
from rabbitmq_url import RabbitMq

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cli(tmp_path: Path, vhost_url: str) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.env["DISPATCHER_URL"] = vhost_url
    yield cli
    cli.close()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def depths(cli: Cli, queue: str = "default") -> dict[str, Any]:
    return next(line for line in objects(cli.ok("queues", "tasks:app", "--json")) if line["name"] == queue)


def test_a_task_is_sent_and_run(cli: Cli) -> None:
    """By two processes: the sender's, which declared the queue, and a worker's that ends when it is empty."""
    uuid = cli.ok("send", "tasks:app", "note", "hello", "-3").strip()
    assert depths(cli)["ready"] == 1
    worker = cli.start("worker", "tasks:app", "--burst", "-l", "debug")
    assert worker.exit_code() == 0
    worker.wait_for(f"task.started uuid={uuid} task=note")
    worker.wait_for("note hello -3\n")
    assert (depths(cli)["ready"], depths(cli)["dead"]) == (0, 0)


def test_a_worker_says_where_it_works_without_its_password(cli: Cli, rabbitmq: RabbitMq) -> None:
    """Broker and vhost are named at the start; user and password are nowhere."""
    worker = cli.worker()
    (line,) = [line for line in worker.text.splitlines() if "app.started" in line]
    assert "amqp://***@" in line
    assert ":guest" not in worker.text and "guest:" not in worker.text
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


def test_the_first_signal_drains(cli: Cli) -> None:
    """The running task ends, nothing new is taken, the exit code is 0."""
    worker = cli.worker("-c", "1")
    cli.ok("send", "tasks:app", "hold", str(cli.folder / "go"))
    worker.wait_for("holding")
    cli.ok("send", "tasks:app", "note", "later")
    worker.signal(signal.SIGTERM)
    worker.wait_for(r"worker\.stopped worker=\S+/other")
    (cli.folder / "go").touch()
    assert worker.exit_code() == 0
    assert worker.matches("let go") and not worker.matches("note later")
    assert depths(cli)["ready"] == 1


def test_the_second_signal_cuts_short_and_hands_back(cli: Cli) -> None:
    """The task is waiting again in the broker when the process has ended."""
    worker = cli.worker()
    cli.ok("send", "tasks:app", "hold", "never")
    worker.wait_for("holding")
    worker.signal(signal.SIGINT)
    worker.wait_for(r"worker\.draining")
    worker.signal(signal.SIGINT)
    assert worker.exit_code() == 130
    assert not worker.matches("let go") and "Traceback" not in worker.text
    assert depths(cli)["ready"] == 1


def test_a_killed_child_is_replaced(cli: Cli) -> None:
    """And what it held is run by another, at once: its connection died with it."""
    worker = cli.worker("-p", "2")
    worker.wait_for(r"worker\.started worker=\S+/default", count=2)
    cli.ok("send", "tasks:app", "hold", str(cli.folder / "go"))
    (holder,) = worker.wait_for(r"holding (\d+)")
    os.kill(int(holder), signal.SIGKILL)
    worker.wait_for("worker_process.ended .*ended=SIGKILL")
    worker.wait_for("holding", count=2)
    (cli.folder / "go").touch()
    worker.wait_for("let go")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


def test_dead_letters_are_listed_shown_replayed_and_deleted(cli: Cli) -> None:
    """The whole round."""
    for uuid, task in (("one", "fail"), ("two", "fail"), ("three", "interrupt")):
        cli.ok("send", "tasks:app", task, "--uuid", uuid)
    assert cli.start("worker", "tasks:app", "--burst", "-c", "1").exit_code() == 0

    def dead(*filters: str) -> list[dict[str, Any]]:
        return objects(cli.ok("dead", "list", "tasks:app", "--json", *filters))

    assert [(letter["uuid"], letter["task"], letter["reason"]) for letter in dead()] == [
        ("one", "fail", "failed"),
        ("two", "fail", "failed"),
        ("three", "interrupt", "failed"),
    ]
    assert [letter["uuid"] for letter in dead("--task", "interrupt")] == ["three"]
    shown = cli.ok("dead", "show", "tasks:app", "two")
    assert "ValueError" in shown and "Traceback" in shown and "tasks.py" in shown
    done = cli.run("dead", "replay", "tasks:app", "two", "nobody")
    assert (done.returncode, done.stdout) == (2, "replayed 1\n")
    assert "no dead letter nobody" in done.stderr
    assert [letter["uuid"] for letter in dead()] == ["one", "three"]
    assert depths(cli)["ready"] == 1
    assert cli.ok("dead", "purge", "tasks:app", "--yes") == "deleted 2\n"
    assert dead() == []


def test_a_list_that_is_left_early_changes_nothing(cli: Cli, vhost_url: str) -> None:
    """By its limit, or by who reads it: no error, and the letters are where they were, in their order."""
    cli.ok("send", "tasks:app", "note", "x")

    async def park() -> None:
        async with wire(vhost_url) as broker:
            await broker.publish("dispatcher.dead", "default", *[b"letter %04d" % n for n in range(700)])

    asyncio.run(park())
    bodies = [f"letter {n:04}" for n in range(700)]
    for _ in range(2):
        done = cli.run("dead", "list", "tasks:app", "--json", "--limit", "5")
        assert [letter["body"] for letter in objects(done.stdout)] == bodies[:5]
        assert done.returncode == 0 and done.stderr.count("\n") == 1
    command = cli.words("dead", "list", "tasks:app", "--json", "--limit", "1000")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=cli.folder, env=cli.env, **pipes) as reading:
        assert reading.stdout is not None and reading.stderr is not None
        reading.stdout.readline()
        reading.stdout.close()
        assert "Traceback" not in reading.stderr.read().decode()
    everything = cli.ok("dead", "list", "tasks:app", "--json", "--limit", "1000")
    assert [letter["body"] for letter in objects(everything)] == bodies


def test_what_waits_is_shown_by_level(cli: Cli) -> None:
    """Without an app, since all share the ladder; before there is one, nothing waits; nobody knows for which queue."""
    assert cli.ok("delayed").split() == ["QUEUE", "DUE", "MESSAGES"]
    for delay in ("3000", "3100", str(9 * 365 * 86_400)):
        cli.ok("send", "tasks:app", "note", "x", "--delay", delay)
    rows = [line.split() for line in cli.ok("delayed", "tasks:app").splitlines()[1:]]
    assert rows == [["-", "within", "54.6", "min", "2"], ["-", "within", "13.6", "y", "1"]]
    assert objects(cli.ok("delayed", "--json"))[0] == {
        "from_seconds": 0.0, "to_seconds": 3276.8, "messages": 2, "queue": None,
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["login", "vhost"])
@pytest.mark.parametrize(
    "words", [("worker", "tasks:app"), ("send", "tasks:app", "note", "x"), ("queues", "tasks:app")]
)
def test_a_wrong_login_is_one_line(cli: Cli, vhost_url: str, words: tuple[str, ...], wrong: str) -> None:
    """Exit code 78, at once, and the password is not repeated."""
    scheme, _, rest = vhost_url.partition("://")
    login, _, place = rest.rpartition("@")
    url = {"login": f"{scheme}://nobody:canary@{place}", "vhost": f"{scheme}://{login}@{place}-that-is-not-there"}[
        wrong
    ]
    done = cli.run(*words, DISPATCHER_URL=url)
    assert done.returncode == 78
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dispatcher: error: ")]
    assert "Traceback" not in done.stderr and "canary" not in done.stderr
    assert {"login": "password", "vhost": "-that-is-not-there"}[wrong] in line


@pytest.mark.parametrize("words", [("queues",), ("dead", "list"), ("dead", "purge", "--yes")])
def test_a_look_without_an_app_says_what_is_missing(cli: Cli, words: tuple[str, ...]) -> None:
    """RabbitMQ does not tell over AMQP which queues it has."""
    done = cli.run(*words)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert "RabbitMQ does not tell which queues it has" in first and "tasks:app" in second


def test_looking_never_creates_anything(cli: Cli, rabbitmq: RabbitMq, vhost: str) -> None:
    """A queue that is not there is told, with what makes it."""
    done = cli.run("queues", "tasks:app")
    assert done.returncode == 78, done.stderr
    assert "'default'" in done.stderr
    assert rabbitmq.admin.list_queues(vhost) == {}


def test_a_cancel_needs_no_app(cli: Cli) -> None:
    """It is about no queue; `--exchange` names another than the usual one."""
    uuid = cli.ok("send", "tasks:app", "note", "x").strip()
    assert cli.ok("cancel", uuid) == "cancelled 1\n"
    worker = cli.start("worker", "tasks:app", "--burst")
    assert worker.exit_code() == 0
    assert (depths(cli)["ready"], depths(cli)["dead"]) == (0, 1)
