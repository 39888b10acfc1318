"""`dispatcher schedule`: what is next, in the schedule's zone and in UTC, and when it last fired where that can be told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_run import Cli
from tcp_proxy import free_port

from dispatcher.brokers.sqlite.file import connect

APP = """
from dispatcher import Dispatcher
app = Dispatcher({url})
@app.periodic("30 2 * * *", timezone="Europe/Berlin", name="nightly", misfire="skip")
@app.periodic(every_seconds=10)
@app.task(queue="reports")
def report() -> None: ...
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.write("jobs.py", APP.format(url='"sqlite:///jobs.db"'))
    yield cli
    cli.close()


def test_the_table(cli: Cli, tmp_path: Path) -> None:
    """One line for each, or as many as were asked for; looking makes no file."""
    lines = [line.split() for line in cli.ok("schedule", "jobs:app").splitlines()]
    assert [line[0] for line in lines] == ["SCHEDULE", "nightly", "report"]
    assert lines[1][1:8] == ["report", "30", "2", "*", "*", "*", "Europe/Berlin"]
    assert lines[1][-1] == "-"
    assert lines[2][1:6] == ["report", "every", "10", "s", "UTC"]
    assert len(cli.ok("schedule", "jobs:app", "--next", "3").splitlines()) == 7
    assert not (tmp_path / "jobs.db").exists()


def test_json_is_for_programs(cli: Cli, tmp_path: Path) -> None:
    """Instants in both forms, and the last firing once there is one."""
    nightly, report = (
        json.loads(line) for line in cli.ok("schedule", "jobs:app", "--json", "--next", "2").splitlines()
    )
    assert nightly["name"] == "nightly" and nightly["misfire"] == "skip" and nightly["last"] is None
    assert [moment[10:19] for moment in nightly["next"]] == ["T02:30:00", "T02:30:00"]
    assert all(moment.endswith("Z") for moment in nightly["next_utc"])
    assert (report["task"], report["when"], len(report["next"])) == ("report", "every 10 s", 2)
    cli.ok("worker", "jobs:app", "--burst")
    connection = connect(str(tmp_path / "jobs.db"))
    connection.execute("INSERT INTO schedules VALUES ('dispatcher', 'report', NULL, 0, 1767225600000)")
    connection.close()
    last = {one["name"]: one["last"] for one in map(json.loads, cli.ok("schedule", "jobs:app", "--json").splitlines())}
    assert last == {"nightly": None, "report": "2026-01-01T00:00:00Z"}


def test_no_broker_is_needed(cli: Cli) -> None:
    """On RabbitMQ the leader holds the last firing: nobody is asked. An app without schedules says so."""
    cli.write("remote.py", APP.format(url=f'"amqp://127.0.0.1:{free_port()}/"'))
    assert cli.ok("schedule", "remote:app").count("\n") == 3
    cli.write("none.py", 'from dispatcher import Dispatcher\napp = Dispatcher("memory://")\n')
    assert "no schedules; declare one with @app.periodic" in cli.ok("schedule", "none:app")
