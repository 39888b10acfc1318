"""`dispatcher doctor` on real brokers, right ones and every kind of wrong one: what it says, how it ends, what it leaves."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from amqp_wire import Wire, as_user, wire
from cli_run import Cli
from rabbitmq_admin import Admin
from rabbitmq_node import PrivateNode
from rabbitmq_url import RabbitMq
from tcp_proxy import TcpProxy, free_port
from tls_certificates import Certificates

from dispatcher.amqp.methods import ExchangeDeclare, QueueDeclare, QueueDelete, QueueUnbind
from dispatcher.brokers.rabbitmq.plan import roles
from dispatcher.model.topology import DELAY_EXCHANGE, Queue, Topology

pytestmark = pytest.mark.timeout(180)

TOPOLOGY = Topology("shop", (Queue("emails", ("emails",)), Queue("reports", ("reports",))))
APP = """
from dispatcher import Dispatcher
app = Dispatcher(exchange="shop", {settings})
@app.task(queue="emails", timeout_seconds=30)
def send(to: str) -> None: ...
@app.task(queue="reports")
def report() -> None: ...
"""

Findings = dict[str, dict[str, str]]


def write_app(cli: Cli, settings: str = "") -> None:
    cli.write("shop.py", APP.format(settings=settings))


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    write_app(cli)
    yield cli
    cli.close()


def examined(cli: Cli, *words: str) -> tuple[int, Findings]:
    """The exit code and the findings by what was looked at."""
    done = cli.run("doctor", *words, "--json")
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {line["check"]: line for line in lines}
    assert len(found) == len(lines)
    return done.returncode, found


def statuses(found: Findings, *wanted: str) -> set[str]:
    """The checks whose status is one of those wanted."""
    return {check for check, finding in found.items() if finding["status"] in wanted}


def on(url: str, do: Callable[[Wire], Awaitable[Any]]) -> None:
    """Do something to the broker from outside."""

    async def run() -> None:
        async with wire(url) as broker:
            await do(broker)

    asyncio.run(run())


def declared(url: str, topology: Topology = TOPOLOGY) -> None:
    on(url, lambda broker: broker.declare(topology))


def url_at(port: int, more: str = "") -> str:
    return f"amqp://someone:canary@127.0.0.1:{port}/{more}"


# --- what is right --------------------------------------------------------------------------------------------------


def test_a_broker_alone(cli: Cli, vhost_url: str, vhost: str, rabbitmq: RabbitMq) -> None:
    """Without an app: link, version, confirms, a round trip, the clock; nothing is left there."""
    code, found = examined(cli, vhost_url)
    assert code == 0
    assert statuses(found, "wrong", "warning") == set()
    assert statuses(found, "ok") >= {"version", "heartbeat", "confirms", "round trip", "clock"}
    assert found["version"]["text"].startswith(f"RabbitMQ {rabbitmq.version}")
    assert found["delays"]["text"] == "the ladder does not exist"
    assert rabbitmq.admin.list_queues(vhost) == {}


def test_everything_is_right_for_an_app(cli: Cli, vhost_url: str, vhost: str, rabbitmq: RabbitMq) -> None:
    """Its exchange is used for the round trip; a task that waits is neither taken nor touched."""
    declared(vhost_url)
    on(vhost_url, lambda broker: broker.publish("shop", "emails", b"{}"))
    before = rabbitmq.admin.list_queues(vhost)
    code, found = examined(cli, vhost_url, "shop:app")
    assert code == 0
    assert statuses(found, "wrong") == set()
    assert statuses(found, "warning") <= {"long tasks", "queue 'emails'"}
    assert statuses(found, "ok") >= {
        "exchange 'shop'", "exchange 'dispatcher.dead'", "queue 'reports'", "queue 'emails.dead'", "delays",
        "right to install", "right to publish", "right to work", "confirms", "round trip", "clock",
    }  # fmt: skip
    assert "exchange 'shop'" in found["round trip"]["text"]
    assert "1 waiting, 0 consumers" in found["queue 'emails'"]["text"]
    assert found["queue 'emails'"]["advice"] == "start a worker: dispatcher worker shop:app"
    assert rabbitmq.admin.list_queues(vhost) == before
    on(vhost_url, lambda broker: _is_untouched(broker, "emails"))


def test_schedules_are_looked_at(cli: Cli, vhost_url: str, vhost: str, rabbitmq: RabbitMq) -> None:
    """Their exchange and queues are part of the app's; the state in a queue is neither taken nor called a dead letter."""
    cli.write("shop.py", APP.format(settings="") + "app.periodic('@daily', name='nightly')(report)\n")
    queue = "dispatcher.schedule.shop/nightly"
    declared(vhost_url)
    code, found = examined(cli, vhost_url, "shop:app")
    assert code == 0
    assert "the app makes it when it connects" in found[f"queue '{queue}'"]["advice"]
    declared(vhost_url, Topology("shop", TOPOLOGY.queues, schedules=("nightly",)))
    on(vhost_url, lambda broker: broker.publish("dispatcher.schedule", queue, b'{"since_ms": 1}'))
    before = rabbitmq.admin.list_queues(vhost)
    code, found = examined(cli, vhost_url, "shop:app")
    assert code == 0
    assert found[f"queue '{queue}'"]["text"] == "as asked for; 0 workers lead it or wait to"
    assert statuses(found, "ok") >= {"exchange 'dispatcher.schedule'", "right to install", "right to work"}
    assert rabbitmq.admin.list_queues(vhost) == before


async def _is_untouched(broker: Wire, queue: str) -> None:
    """One message waits there, and was never delivered before."""
    channel = await broker.connection.open_channel()
    content = await channel.get(queue)
    assert content is not None and not content.redelivered
    assert await channel.get(queue) is None
    await channel.close()


def test_for_people(cli: Cli, vhost_url: str) -> None:
    """One line for each finding, one for what to do, and a last one that sums up."""
    declared(vhost_url)
    lines = cli.ok("doctor", vhost_url, "shop:app").splitlines()
    assert "ok       exchange 'shop'            as asked for" in lines
    assert lines[-1].startswith("nothing is wrong")
    assert "guest:guest" not in "\n".join(lines)


def test_the_url_of_the_environment_and_of_the_app(cli: Cli, vhost_url: str) -> None:
    """Without a URL it is the app's, or that of the environment."""
    cli.env["DISPATCHER_URL"] = vhost_url
    code, found = examined(cli, "shop:app")
    assert (code, found["topology"]["status"]) == (0, "warning")
    code, found = examined(cli)
    assert (code, "topology" in found, found["round trip"]["status"]) == (0, False, "ok")


# --- topology -------------------------------------------------------------------------------------------------------


def test_an_empty_vhost(cli: Cli, vhost_url: str, vhost: str, rabbitmq: RabbitMq) -> None:
    """The app will make what is absent: a warning, and the doctor makes nothing."""
    code, found = examined(cli, vhost_url, "shop:app")
    assert code == 0
    assert "nothing of it exists yet" in found["topology"]["text"]
    assert statuses(found, "warning") >= {"topology", "delays"}
    assert found["round trip"]["status"] == "ok"
    assert rabbitmq.admin.list_queues(vhost) == {}


@pytest.mark.parametrize("mode", ["verify", "never"])
def test_an_empty_vhost_where_nothing_may_be_created(cli: Cli, vhost_url: str, mode: str) -> None:
    """With the other modes that is wrong, and it is said who can help."""
    write_app(cli, f"declare={mode!r}")
    code, found = examined(cli, vhost_url, "shop:app")
    assert code == 78
    assert statuses(found, "wrong") == {"topology", "delays"}
    assert "dispatcher plan shop:app --json" in found["topology"]["advice"]


def test_a_queue_that_differs(cli: Cli, vhost_url: str) -> None:
    """Told with what is there and what was expected: a warning, and wrong with declare="verify"."""
    declared(vhost_url, Topology("shop", (Queue("emails", ("emails",), max_length=5), TOPOLOGY.queues[1])))
    code, found = examined(cli, vhost_url, "shop:app")
    assert code == 0
    assert found["queue 'emails'"]["status"] == "warning"
    assert found["queue 'emails'"]["text"].startswith("max_length is 5, expected None")
    write_app(cli, "declare='verify'")
    code, found = examined(cli, vhost_url, "shop:app")
    assert (code, statuses(found, "wrong")) == (78, {"queue 'emails'"})


def test_an_exchange_of_another_type(cli: Cli, vhost_url: str) -> None:
    """Wrong in every mode; nothing is published to it."""
    declared(vhost_url, Topology("other", TOPOLOGY.queues))
    on(vhost_url, lambda broker: broker.call(ExchangeDeclare(exchange="shop", type="topic", durable=True)))
    code, found = examined(cli, vhost_url, "shop:app")
    assert (code, statuses(found, "wrong")) == (78, {"exchange 'shop'"})
    assert "expected one of type direct, got topic" in found["exchange 'shop'"]["text"]
    assert "'shop'" not in found["round trip"]["text"]


def test_a_missing_queue_and_missing_dead_letters(cli: Cli, vhost_url: str) -> None:
    """Each is named."""
    declared(vhost_url)
    on(vhost_url, lambda broker: broker.call(QueueDelete(queue="emails"), QueueDelete(queue="reports.dead")))
    write_app(cli, "declare='verify'")
    code, found = examined(cli, vhost_url, "shop:app")
    assert (code, statuses(found, "wrong")) == (78, {"queue 'emails'", "queue 'reports.dead'"})


def test_a_ladder_with_a_missing_level(cli: Cli, vhost_url: str) -> None:
    """The level is named."""
    declared(vhost_url)
    on(vhost_url, lambda broker: broker.call(QueueDelete(queue="dispatcher.delay.3")))
    code, found = examined(cli, vhost_url, "shop:app")
    assert (code, found["delays"]["status"]) == (0, "warning")
    assert "the ladder lacks queue 'dispatcher.delay.3'" in found["delays"]["text"]


def test_a_ladder_of_somebody_else(cli: Cli, vhost_url: str) -> None:
    """A level that keeps messages for another time is wrong."""
    declared(vhost_url)

    async def replace(broker: Wire) -> None:
        await broker.call(QueueDelete(queue="dispatcher.delay.3"))
        await broker.call(QueueDeclare(queue="dispatcher.delay.3", durable=True))

    on(vhost_url, replace)
    code, found = examined(cli, vhost_url, "shop:app")
    assert (code, found["delays"]["status"]) == (78, "wrong")
    assert "'dispatcher.delay.3'" in found["delays"]["text"]


def test_delayed_messages_that_nobody_wants(cli: Cli, vhost_url: str) -> None:
    """Their queue was deleted: they are counted, with what to do."""
    declared(vhost_url)

    async def two_come_due(broker: Wire) -> None:
        await broker.publish_delayed(1, DELAY_EXCHANGE, "deleted", b"1", b"2")
        while await broker.count("dispatcher.delay.dead") < 2:
            await asyncio.sleep(0.05)

    on(vhost_url, two_come_due)
    code, found = examined(cli, vhost_url, "shop:app")
    assert (code, found["queue 'dispatcher.delay.dead'"]["status"]) == (0, "warning")
    assert found["queue 'dispatcher.delay.dead'"]["text"].startswith("2 delayed messages")


@pytest.mark.parametrize(("mode", "code", "status"), [("create", 0, "warning"), ("verify", 78, "wrong")])
def test_a_queue_that_no_retry_comes_back_to(cli: Cli, vhost_url: str, mode: str, code: int, status: str) -> None:
    """It is there, and bound to the exchange; the delays do not lead to it."""
    declared(vhost_url)
    way = QueueUnbind(
        queue="dispatcher.delay.probe",
        exchange="dispatcher.delay",
        routing_key="dispatcher.delay.way.reports",
    )
    write_app(cli, f"declare={mode!r}")
    assert examined(cli, vhost_url, "shop:app")[1]["ways back"]["status"] == "ok"
    on(vhost_url, lambda broker: broker.call(way))
    exit_code, found = examined(cli, vhost_url, "shop:app")
    assert (exit_code, found["ways back"]["status"]) == (code, status)
    assert "'reports'" in found["ways back"]["text"] and "'emails'" not in found["ways back"]["text"]


def test_tasks_that_run_longer_than_the_broker_waits(cli: Cli, vhost_url: str, rabbitmq: RabbitMq) -> None:
    """Those without a timeout are named, where the release takes deliveries back."""
    declared(vhost_url)
    _, found = examined(cli, vhost_url, "shop:app")
    if tuple(map(int, rabbitmq.version.split(".")[:2])) >= (4, 3):
        assert found["long tasks"]["status"] == "ok"
    else:
        assert found["long tasks"]["status"] == "warning"
        assert found["long tasks"]["text"].endswith("have: report")


# --- rights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["install", "publish", "work"])
def test_a_user_of_each_kind(cli: Cli, vhost_url: str, vhost: str, broker_admin: Admin, role: str) -> None:
    """Its own right is there; the others are named, without a warning, with the command that gives them."""
    declared(vhost_url)
    rights = roles(TOPOLOGY)[role]
    user = f"{role}-{vhost}"
    broker_admin.add_user(user, "canary", vhost, (rights.configure, rights.write, rights.read))
    code, found = examined(cli, as_user(vhost_url, user, "canary"), "shop:app")
    assert code == 0
    assert statuses(found, "warning", "wrong") <= {"long tasks"}
    has = {"install": {"install"}, "publish": {"publish"}, "work": {"publish", "work"}}[role]
    for other in ("install", "publish", "work"):
        finding = found[f"right to {other}"]
        assert finding["status"] == ("ok" if other in has else "note")
        assert (f"rabbitmqctl set_permissions -p {vhost} {user} " in finding["advice"]) is (other not in has)
    if role != "install":
        assert found["confirms"]["status"] == "ok" and "'shop'" in found["confirms"]["text"]
    assert found["round trip"]["status"] == "note"
    assert "canary" not in json.dumps(found)


def test_a_user_without_any_right(cli: Cli, vhost_url: str, vhost: str, broker_admin: Admin) -> None:
    """Wrong: who may enter the vhost and do nothing there is of no use."""
    declared(vhost_url)
    broker_admin.add_user(f"nothing-{vhost}", "canary", vhost, ("^$", "^$", "^$"))
    code, found = examined(cli, as_user(vhost_url, f"nothing-{vhost}", "canary"), "shop:app")
    assert code == 78
    assert statuses(found, "wrong") == {"rights"}


def test_a_right_that_was_forgotten(cli: Cli, vhost_url: str, vhost: str, broker_admin: Admin) -> None:
    """A user who may consume, and may not write dead letters, nor hear of cancels: a warning that names what is missing."""
    declared(vhost_url)
    write, read = r"^(shop|dispatcher\.delay.*|dispatcher\.cancel)$", "^(emails|reports)$"
    broker_admin.add_user(f"half-{vhost}", "canary", vhost, ("^$", write, read))
    code, found = examined(cli, as_user(vhost_url, f"half-{vhost}", "canary"), "shop:app")
    assert (code, found["right to work"]["status"], found["right to publish"]["status"]) == (0, "warning", "ok")
    assert found["right to work"]["text"].endswith("it may not consume 'dispatcher.cancel', write 'dispatcher.dead'")


def test_absent_and_not_allowed_to_create(cli: Cli, vhost_url: str, vhost: str, broker_admin: Admin) -> None:
    """An app that is to create what it may not create cannot start."""
    rights = roles(TOPOLOGY)["publish"]
    user = f"publish-{vhost}"
    broker_admin.add_user(user, "canary", vhost, (rights.configure, rights.write, rights.read))
    code, found = examined(cli, as_user(vhost_url, user, "canary"), "shop:app")
    assert code == 78
    assert any("this user may not create it" in finding["text"] for finding in found.values())


# --- who does not let us in -----------------------------------------------------------------------------------------


def test_a_wrong_password(cli: Cli, vhost_url: str) -> None:
    """78, and the password is not repeated."""
    code, found = examined(cli, as_user(vhost_url, "guest", "canary"), "shop:app")
    assert code == 78
    (finding,) = found.values()
    assert finding["status"] == "wrong" and "login of user 'guest'" in finding["text"]
    assert "canary" not in json.dumps(found)


def test_a_missing_vhost(cli: Cli, vhost_url: str) -> None:
    """78, and the vhost is named."""
    code, found = examined(cli, f"{vhost_url}-gone")
    assert code == 78
    (finding,) = found.values()
    assert "-gone" in finding["text"]


def test_a_port_on_which_nothing_listens(cli: Cli) -> None:
    """69, with what to do."""
    code, found = examined(cli, url_at(port := free_port()))
    assert code == 69
    assert "refused" in found[f"127.0.0.1:{port}"]["text"]
    assert found[f"127.0.0.1:{port}"]["advice"] == "start RabbitMQ there, or correct host and port"


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """The port of something that says `answer` to the first bytes that come, or nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                if answer is not None:
                    connection.sendall(answer)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_a_port_that_says_nothing(cli: Cli) -> None:
    """69 after the URL's own deadline."""
    with answering(None) as port:
        code, found = examined(cli, url_at(port, "?connection_timeout=300"))
    assert code == 69
    (finding,) = found.values()
    assert "expected the AMQP handshake within 0.3 s" in finding["text"]
    assert "connection_timeout" in finding["advice"]


def test_a_port_that_speaks_another_language(cli: Cli) -> None:
    """69, and what it said."""
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        code, found = examined(cli, url_at(port))
    assert code == 69
    (finding,) = found.values()
    assert "HTTP/1.1" in finding["text"] and "5672" in finding["advice"]


def test_several_hosts(cli: Cli, vhost_url: str) -> None:
    """One that is down is a warning as long as another lets us in."""
    scheme, _, place = vhost_url.rpartition("@")
    port = free_port()
    code, found = examined(cli, f"{scheme}@127.0.0.1:{port},{place}")
    assert code == 0
    assert statuses(found, "warning") == {f"127.0.0.1:{port}"}
    assert found["round trip"]["status"] == "ok"


def test_a_link_that_breaks_in_the_midst(cli: Cli, vhost_url: str) -> None:
    """69, in one line; what was told before stays told."""
    declared(vhost_url)
    login, _, place = vhost_url.rpartition("@")
    address, _, vhost = place.partition("/")
    host, _, port = address.partition(":")
    with TcpProxy(host, int(port or 5672)) as proxy:
        proxy.cut_after(2_500, "to_client")
        code, found = examined(cli, f"{login}@127.0.0.1:{proxy.port}/{vhost}", "shop:app")
        proxy.wait(lambda: proxy.cuts == 1)
    assert code == 69
    assert statuses(found, "wrong") == {"connection"}
    assert found["version"]["status"] == "ok"


# --- a node of our own ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def node(certificates: Certificates, tls_port: int) -> Iterator[PrivateNode]:
    """It speaks TLS, too, and has everything that the app asks for."""
    with PrivateNode() as node:
        pair = certificates.server()
        node.start(
            f"listeners.ssl.1 = 127.0.0.1:{tls_port}\n"
            f"ssl_options.cacertfile = {node.put('ca.pem', certificates.cacertfile.read_bytes())}\n"
            f"ssl_options.certfile = {node.put('server.pem', pair.certfile.read_bytes())}\n"
            f"ssl_options.keyfile = {node.put('server.key', pair.keyfile.read_bytes())}\n"
        )
        declared(node.url())
        yield node


def things(node: PrivateNode) -> str:
    """Every exchange, binding and queue of the node."""
    listed = node.eval(
        '{lists:sort([element(2, X) || X <- rabbit_exchange:list(<<"/">>)]), lists:sort(rabbit_binding:list(<<"/">>))}'
    )
    return f"{listed} {sorted(node.admin.list_queues('/'))}"


def test_nothing_is_left_behind(cli: Cli, node: PrivateNode) -> None:
    """No exchange, no binding and no queue, with an app and without."""
    before = things(node)
    assert "shop" in before and "emails.dead" in before
    for words in (("shop:app",), ()):
        _, found = examined(cli, node.url(), *words)
        assert found["clock"]["status"] == "ok"
    assert things(node) == before


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_an_alarm(cli: Cli, node: PrivateNode, what: Any) -> None:
    """69, with the resource that is short; what publishes nothing was looked at all the same."""
    node.alarm(what)
    try:
        code, found = examined(cli, node.url(), "shop:app")
    finally:
        node.clear_alarm()
    assert code == 69
    assert statuses(found, "wrong") == {"alarm"}
    assert f"low on {what}" in found["alarm"]["text"]
    assert found["queue 'emails'"]["status"] == "ok"


@pytest.mark.parametrize(("asked", "status"), [(0, "ok"), (2, "warning"), (20, "ok"), (100, "ok")])
def test_heartbeats(cli: Cli, node: PrivateNode, asked: int, status: str) -> None:
    """What was agreed upon with a broker that asks for 60 s."""
    _, found = examined(cli, f"{node.url()}?heartbeat={asked}")
    assert found["heartbeat"]["status"] == status
    assert found["heartbeat"]["text"].startswith(f"every {min(asked or 60, 60)} s")


def test_tls(cli: Cli, node: PrivateNode, tls_port: int, certificates: Certificates) -> None:
    """The protocol's version, that the broker is who it says, and until when its certificate is valid."""
    url = f"amqps://guest:guest@localhost:{tls_port}/?cacertfile={certificates.cacertfile}"
    code, found = examined(cli, url)
    assert code == 0
    assert "TLSv1.3, verified" in found[f"localhost:{tls_port}"]["text"]
    assert found[f"certificate of localhost:{tls_port}"]["status"] == "ok"


def test_tls_that_is_not_trusted(cli: Cli, node: PrivateNode, tls_port: int) -> None:
    """78: a certificate of an authority that nobody here knows."""
    code, found = examined(cli, f"amqps://guest:guest@localhost:{tls_port}/")
    assert code == 78
    assert "not trusted here" in found[f"localhost:{tls_port}"]["text"]


def test_tls_that_is_not_verified(cli: Cli, node: PrivateNode, tls_port: int) -> None:
    """An app that does not look whom it talks to is warned."""
    write_app(cli, "insecure_skip_verify=True")
    cli.env["DISPATCHER_URL"] = f"amqps://guest:guest@localhost:{tls_port}/"
    code, found = examined(cli, "shop:app")
    assert code == 0
    assert "not verified" in found[f"localhost:{tls_port}"]["text"]
    assert found["encryption"]["status"] == "warning"


def test_tls_where_plain_was_meant(cli: Cli, node: PrivateNode, tls_port: int) -> None:
    """A plain URL at the port for TLS says which to write."""
    code, found = examined(cli, f"amqp://guest:guest@localhost:{tls_port}/")
    assert code == 69
    assert "amqps://" in json.dumps(found)


# --- files and memory -----------------------------------------------------------------------------------------------


def test_a_file_that_does_not_exist_yet(cli: Cli) -> None:
    """Nothing is wrong, and the doctor does not make it."""
    code, found = examined(cli)
    assert (code, found["file"]["status"]) == (0, "note")
    assert not cli.broker.exists()


def test_a_file_that_is_right(cli: Cli) -> None:
    """It opens, is whole, and has what the app asks for."""
    cli.ok("send", "shop:app", "send", "ada@example.org")
    code, found = examined(cli, "shop:app")
    assert code == 0
    assert statuses(found, "ok") == {"sqlite", "space", "file", "integrity", "topology"}
    assert json.loads(cli.ok("queues", "--json").splitlines()[0])["ready"] == 1


def test_a_file_without_what_the_app_needs(cli: Cli) -> None:
    """A warning where the app makes it, wrong where it may not."""
    cli.ok("send", "tasks:app", "note", "x")
    code, found = examined(cli, "shop:app")
    assert (code, found["topology"]["status"]) == (0, "warning")
    assert "'emails' does not exist" in found["topology"]["text"]
    write_app(cli, "declare='verify'")
    code, found = examined(cli, "shop:app")
    assert (code, found["topology"]["status"]) == (78, "wrong")


def test_a_file_of_another_program(cli: Cli) -> None:
    """74, and it is left as it is."""
    cli.broker.write_bytes(b"not a database" * 1000)
    code, found = examined(cli)
    assert (code, found["file"]["status"]) == (74, "wrong")
    assert cli.broker.read_bytes() == b"not a database" * 1000


def test_a_file_that_is_damaged(cli: Cli) -> None:
    """74: SQLite's own check tells of a page that does not fit."""
    cli.ok("send", "tasks:app", "note", "x")
    with closing(sqlite3.connect(cli.broker)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (page,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()
        (size,) = file.execute("PRAGMA page_size").fetchone()
    with cli.broker.open("r+b") as raw:
        raw.seek((page - 1) * size + 8)  # behind the page's header: where its rows are said to begin
        raw.write(b"\xff\xff")
    code, found = examined(cli)
    assert (code, statuses(found, "wrong")) == (74, {"integrity"})
    assert "damaged" in found["integrity"]["text"]


def test_a_folder_that_does_not_exist(cli: Cli) -> None:
    """74, with the folder."""
    code, found = examined(cli, "sqlite:///nowhere/broker.db")
    assert code == 74
    assert "there is no folder" in found["file"]["text"]


def test_memory_has_nothing_to_examine(cli: Cli) -> None:
    """It is said plainly."""
    code, found = examined(cli, "memory://")
    assert code == 0
    assert "nothing to examine" in found["memory"]["text"]


# --- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [(("memory://", "memory://"), 2), (("a:b", "c:d"), 2), (("amqp://host:1:2/",), 78), (("no_such:app",), 78)],
)
def test_usage(cli: Cli, words: tuple[str, ...], code: int) -> None:
    """What cannot be meant is one error, before anything is connected to."""
    done = cli.run("doctor", *words)
    assert done.returncode == code
    assert done.stderr.startswith("dispatcher: error: ") and "Traceback" not in done.stderr
