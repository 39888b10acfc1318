"""The tests' own RabbitMQ: nodes live, die and come back as told, each test gets an empty vhost, a missing broker is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rabbitmq_node
import rabbitmq_url
from amqp_probe import Refused, connected, handshake, wait_for_close
from rabbitmq_admin import Admin, AdminError, HttpAdmin
from rabbitmq_node import NodeError, PrivateNode
from rabbitmq_url import NoRabbitMq, RabbitMq
from tcp_proxy import free_port

pytestmark = pytest.mark.timeout(300)  # a start takes ten seconds where two processors are busy

HERE = Path(__file__).resolve().parent
DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.05
SHORT_SECONDS = 1.0

CHILD = """
import time
from rabbitmq_node import PrivateNode

with PrivateNode() as node:
    node.start()
    print(node.folder, node.pid, node._epmd.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    with PrivateNode() as node:
        node.start(management(node), plugins=["rabbitmq_management"])
        yield node


def management(node: PrivateNode) -> str:
    return f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {node.port + rabbitmq_url.MANAGEMENT_OFFSET}\n"


def http_admin(node: PrivateNode) -> HttpAdmin:
    return HttpAdmin("127.0.0.1", node.port + rabbitmq_url.MANAGEMENT_OFFSET, "guest", "guest")


@pytest.fixture(params=["erlang", "http"])
def admin(request: pytest.FixtureRequest, node: PrivateNode) -> Iterator[Admin]:
    admin: Admin = node.admin if request.param == "erlang" else http_admin(node)
    admin.add_vhost("a vhost/ü")
    yield admin
    admin.delete_vhost("a vhost/ü")


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


def declare(node: PrivateNode, vhost: str, queue: str) -> None:
    """A durable quorum queue; through the node, so that these tests need no client of ours."""
    node.eval(
        f'N = rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>), A = [{{<<"x-queue-type">>, longstr, <<"quorum">>}}], '
        '{new, _} = rabbit_amqqueue:declare(N, true, false, A, none, <<"test">>)'
    )


def test_admin_lists_and_deletes_queues(node: PrivateNode, admin: Admin) -> None:
    """A new vhost has no queue; one that is declared is listed with its type until it is deleted."""
    admin.add_vhost("plain")
    assert admin.list_queues("plain") == {}
    declare(node, "plain", "q")
    assert admin.list_queues("plain") == {"q": "quorum"}
    admin.delete_queue("plain", "q")
    assert admin.list_queues("plain") == {}
    with pytest.raises(AdminError):
        admin.delete_queue("plain", "q")
    admin.delete_vhost("plain")
    admin.delete_vhost("plain")  # what is gone may be deleted


def test_admin_adds_users_with_their_permissions(node: PrivateNode, admin: Admin) -> None:
    """A user that is added gets into its vhost only; one that is deleted, nowhere."""
    admin.add_user('né "q"', "pa\\ss'", "a vhost/ü", ("^c$", "^w$", "^r$"))
    assert admin.added_users == {'né "q"'}
    assert handshake("127.0.0.1", node.port, user='né "q"', password="pa\\ss'", vhost="a vhost/ü") == node.version
    with pytest.raises(Refused, match="530"):
        handshake("127.0.0.1", node.port, user='né "q"', password="pa\\ss'", vhost="/")
    assert "^c$\t^w$\t^r$" in node.ctl("list_permissions", "--vhost", "a vhost/ü")
    admin.delete_user('né "q"')
    assert admin.added_users == set()
    with pytest.raises(Refused, match="403 ACCESS_REFUSED"):
        handshake("127.0.0.1", node.port, user='né "q"', password="pa\\ss'", vhost="a vhost/ü")


def test_admin_sets_policies(node: PrivateNode, admin: Admin) -> None:
    """A policy is there as it was given; a wrong one is an error."""
    admin.set_policy("a vhost/ü", "short", "^q", {"max-length": 3, "overflow": "reject-publish"})
    table = node.ctl("list_policies", "--vhost", "a vhost/ü")
    assert "short\t^q\tqueues" in table
    assert '"max-length":3' in table
    with pytest.raises(AdminError, match="not a valid maximum length"):
        admin.set_policy("a vhost/ü", "wrong", "^q", {"max-length": "three"})


def test_admin_closes_the_connections_of_one_vhost(node: PrivateNode, admin: Admin) -> None:
    """Every connection to that vhost is closed with a reason, one to another vhost is not."""
    with (
        connected("127.0.0.1", node.port, vhost="a vhost/ü") as (ours, _),
        connected("127.0.0.1", node.port) as (other, _),
    ):
        assert admin.close_all_connections("a vhost/ü") == 1
        assert wait_for_close(ours) == "320 CONNECTION_FORCED - closed by a test"
        other.settimeout(SHORT_SECONDS)
        with pytest.raises(TimeoutError):
            wait_for_close(other)


def test_eval_tells_values_and_errors(node: PrivateNode) -> None:
    """An expression's value comes as Erlang prints it; what throws and what is no Erlang is an error."""
    assert node.eval('A = 1, {A + 1, "x", [<<"y">>]}') == '{2,"x",[<<"y">>]}'
    with pytest.raises(AdminError, match="badarith"):
        node.eval("1 / 0")
    with pytest.raises(AdminError, match="syntax error"):
        node.eval("no erlang(")


def test_alarms_are_raised_and_cleared(node: PrivateNode) -> None:
    """Both alarms can be raised, and all of them cleared."""
    node.alarm("memory")
    node.alarm("disk")
    alarms = node.eval("rabbit_alarm:get_alarms()")
    assert "memory" in alarms
    assert "disk" in alarms
    node.clear_alarm()
    assert node.eval("rabbit_alarm:get_alarms()") == "[]"


def test_a_paused_node_is_there_and_mute(node: PrivateNode) -> None:
    """While it is paused, its port takes connections and nobody answers; afterwards it goes on."""
    node.pause()
    with pytest.raises(TimeoutError):
        handshake("127.0.0.1", node.port, timeout_seconds=SHORT_SECONDS)
    node.resume()
    assert handshake("127.0.0.1", node.port) == node.version


def test_killed_and_restarted_it_keeps_port_data_and_settings(node: PrivateNode) -> None:
    """After `kill -9` nobody listens; started again and then restarted in order, it has its queues and its plugin."""
    declare(node, "/", "kept")
    pid = node.pid
    node.kill()
    with pytest.raises(ConnectionRefusedError):
        handshake("127.0.0.1", node.port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(NodeError, match="does not run"):
        node.pause()
    node.start()
    assert node.admin.list_queues("/") == {"kept": "quorum"}
    with connected("127.0.0.1", node.port) as (peer, _):
        node.restart()
        assert wait_for_close(peer).startswith("320 CONNECTION_FORCED")  # told, so it was no kill
    assert node.admin.list_queues("/") == {"kept": "quorum"}
    assert http_admin(node).version() == node.version
    node.admin.delete_queue("/", "kept")


def test_a_node_that_cannot_start_says_why() -> None:
    """The error of a start has the server's last words, and nothing is left of it."""
    with PrivateNode() as node:
        with pytest.raises(NodeError, match="nonsense_setting"):
            node.start("nonsense_setting = 1\n")
        with pytest.raises(NodeError, match="does not run"):
            node.stop()
        folder = node.folder
    assert not folder.exists()


def test_a_node_ends_with_the_process_that_started_it() -> None:
    """After `kill -9` of its owner neither the broker nor its port mapper is left."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    with child:
        assert child.stdout is not None
        folder, *pids = child.stdout.readline().split()
        child.kill()
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_alive, pids)))
    shutil.rmtree(folder)


def is_alive(pid: str) -> bool:
    """A dead process whom nobody has waited for counts as gone."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout
    return not state.startswith("Z") and state != ""


def test_each_test_has_an_empty_vhost(rabbitmq: RabbitMq, vhost: str, vhost_url: str, broker_admin: Admin) -> None:
    """The vhost of a test exists, holds nothing, and its URL names it."""
    assert broker_admin.list_queues(vhost) == {}
    assert vhost_url == rabbitmq.url_of(vhost)
    assert vhost_url.endswith(f"/{vhost}")


def test_a_named_broker_is_administered_over_http(node: PrivateNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker whose cookie we have not is used if its management API lets us make vhosts."""
    monkeypatch.delenv(rabbitmq_node.ROOT_VARIABLE, raising=False)
    monkeypatch.setenv(rabbitmq_url.URL_VARIABLE, node.url())
    with rabbitmq_url.find() as found:
        assert isinstance(found.admin, HttpAdmin)
        assert (found.version, found.private) == (node.version, False)
        found.admin.add_vhost("named")
        assert found.url_of("named") == node.url(vhost="named")
        assert handshake("127.0.0.1", node.port, vhost="named") == node.version
        found.admin.delete_vhost("named")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"amqp://me:geheim@127.0.0.1:{free_port()}/", "Connection refused"),
        ("http://me:geheim@127.0.0.1/", "expected amqp:// or amqps://, got http://"),
    ],
)
def test_a_named_broker_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, url: str, told: str) -> None:
    """What the variable names is used or told to be missing, without the password; nothing else is tried."""
    monkeypatch.delenv(rabbitmq_node.ROOT_VARIABLE, raising=False)
    monkeypatch.setenv(rabbitmq_url.URL_VARIABLE, url)
    with pytest.raises(NoRabbitMq, match=told) as error, rabbitmq_url.find():
        pass
    assert "geheim" not in str(error.value)


def test_without_any_broker_the_error_says_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, nobody on localhost, nothing installed: one error with all that, and with what to do."""
    monkeypatch.delenv(rabbitmq_url.URL_VARIABLE, raising=False)
    monkeypatch.delenv(rabbitmq_node.ROOT_VARIABLE, raising=False)
    monkeypatch.setattr(rabbitmq_url, "LOCAL_URL", f"amqp://guest:guest@localhost:{free_port()}/")
    monkeypatch.setattr(rabbitmq_node, "FOLDERS", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoRabbitMq, match="localhost.*\n.*no rabbitmq-server.*\n.*Do one of these"), rabbitmq_url.find():
        pass
