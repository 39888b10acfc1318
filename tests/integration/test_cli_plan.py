"""`dispatcher plan`: what it prints is what RabbitMQ takes, and what an app then finds as it asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_run import Cli
from rabbitmq_node import PrivateNode
from tcp_proxy import free_port

from dispatcher.brokers.rabbitmq.plan import roles
from dispatcher.model.topology import Queue, Topology

pytestmark = pytest.mark.timeout(180)

APP = """
from dispatcher import Dispatcher, Queue
app = Dispatcher({url!r}, exchange="shop", declare="verify")
@app.task(queue=Queue("emails", max_priority=9))
def send(to: str) -> None: ...
@app.task(queue=Queue("reports", type="classic", max_priority=9, max_length=10))
def report() -> None: ...
"""
TOPOLOGY = Topology("shop", (Queue("emails"), Queue("reports")))


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.write("shop.py", APP.format(url=f"amqp://shop:canary@127.0.0.1:{free_port()}/my%2Fshop"))
    yield cli
    cli.close()


def test_the_table(cli: Cli) -> None:
    """Everything that would be there, the ladder in one line of each kind; no broker need be there."""
    shown = cli.ok("plan", "shop:app")
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "On RabbitMQ 4.3, in vhost 'my/shop'; everything is durable."
    for line in (
        "shop direct",
        "dispatcher.delay.N headers alternate-exchange=that of N-1",
        "reports classic x-max-priority=9 x-max-length=10 x-overflow=reject-publish",
        "emails.dead quorum x-delivery-limit=1000000000",
        "shop emails queue emails",
        "dispatcher.dead reports queue reports.dead",
        "dispatcher.delay.due - exchange dispatcher.delay.for.shop",
        "N: from 0 to 31, the levels of the ladder of delays.",
    ):
        assert lines.count(line) == 1, shown
    for name, rights in roles(TOPOLOGY).items():
        for right in ("configure", "write", "read"):
            assert f"{name} {right} {getattr(rights, right)}" in lines
    assert "canary" not in shown and "order by priority" not in shown


def test_what_a_release_cannot_do(cli: Cli) -> None:
    """It is noted below the table, and 4.0 to 4.2 have a second ladder."""
    assert "order by priority of queue 'emails': expected strict, got none" in cli.ok(
        "plan", "shop:app", "--rabbitmq", "3.13"
    )
    names = {queue["name"] for queue in json.loads(cli.ok("plan", "shop:app", "--json", "--rabbitmq", "4.1"))["queues"]}
    assert {"dispatcher.delay.31", "dispatcher.delay.high.31"} <= names
    shown = cli.ok("plan", "shop:app", "--rabbitmq", "4.1")
    assert "dispatcher.delay.high.N" in shown and "N: from 0 to 31" in shown


def test_the_definitions_can_be_imported(cli: Cli) -> None:
    """Then an app that only verifies finds everything as it asks for it, and the doctor nothing wrong."""
    with PrivateNode() as node:
        node.start()
        node.admin.add_vhost("my/shop")
        printed = cli.ok("plan", "shop:app", "--json", "--rabbitmq", node.version)
        node.ctl("import_definitions", node.put("definitions.json", printed))
        cli.write("shop.py", APP.format(url=node.url(vhost="my/shop")))
        findings = [json.loads(line) for line in cli.ok("doctor", "shop:app", "--json").splitlines()]
        found = {finding["check"]: finding["text"] for finding in findings}
        assert found["queue 'reports'"].startswith("as asked for")
        assert found["delays"] == "the ladder is complete, and as it should be"
        # Bindings cannot be asked for: they are tried.
        assert cli.ok("send", "shop:app", "send", "ada@example.org", "--delay", "0.2")
        assert cli.ok("send", "shop:app", "report")
        worker = cli.start("worker", "shop:app", "--burst")
        assert worker.exit_code() == 0, worker.text


def test_an_app_without_rabbitmq(cli: Cli) -> None:
    """It is planned for all the same, in the vhost `/`."""
    vhosts = {one["vhost"] for one in json.loads(cli.ok("plan", "tasks:app", "--json"))["queues"]}
    assert vhosts == {"/"}


@pytest.mark.parametrize(
    ("words", "code"),
    [((), 2), (("shop:app", "--rabbitmq", "3.9"), 2), (("shop:app", "--rabbitmq", "new"), 2), (("no_such:app",), 78)],
)
def test_usage(cli: Cli, words: tuple[str, ...], code: int) -> None:
    """A mistake is one error and its hint."""
    done = cli.run("plan", *words)
    assert done.returncode == code
    assert done.stderr.startswith("dispatcher: error: ") and "Traceback" not in done.stderr
