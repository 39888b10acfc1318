"""What RabbitMQ, or the way to it, refuses: told at once at the start, once a change later, and never with a secret."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import TypeVar
from urllib.parse import quote, urlsplit

import pytest
from amqp_wire import as_user, wire
from cli_run import Cli
from rabbitmq_admin import Admin
from server_bench import Recorder
from tcp_proxy import TcpProxy, free_port
from tls_certificates import Certificates

from dispatcher import Dispatcher, Server, ServerConfig, Task
from dispatcher.amqp.methods import ExchangeDeclare, ExchangeDelete
from dispatcher.brokers import open_broker
from dispatcher.brokers.base import Connected, Disconnected
from dispatcher.brokers.rabbitmq import RabbitSession
from dispatcher.errors import AuthenticationError, BrokerUnavailable, ConfigError, TopologyMismatch
from dispatcher.model.topology import Queue

pytestmark = pytest.mark.timeout(300)

T = TypeVar("T")

DEADLINE_SECONDS = 50.0
"""Ten times as long as a refusal may take."""
CANARY = "canary+Pa55/word@of:a?test"
SECRETS = (CANARY, quote(CANARY, safe=""), "canary", "Pa55")
"""The password as it is, as a URL has it, and the pieces that a wrong split of the URL would leave."""
EXCHANGE = "dispatcher"
TRIES = 4
"""How many attempts to connect anew are waited for."""

QUICK = """
from dispatcher import Dispatcher

app = Dispatcher(connect_timeout_seconds=1.0)

@app.task
def note(text: str) -> None: ...
"""


async def soon(what: Awaitable[T]) -> T:
    """The result of `what`, which must come within a deadline that is far beyond what it takes."""
    return await asyncio.wait_for(what, DEADLINE_SECONDS)


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert not [secret for secret in SECRETS if secret in text], text


def everything_told(error: BaseException) -> str:
    """An error with its causes, each with its traceback and the variables of each frame, as crash reporters show them."""
    told = []
    while error is not None:
        told += traceback.TracebackException.from_exception(error, capture_locals=True).format(chain=False)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return "".join(told)


@pytest.fixture
def user(broker_admin: Admin, vhost: str) -> str:
    """A user whose password is the canary, and who may do everything in `vhost`."""
    name = f"user-{token_hex(6)}"
    broker_admin.add_user(name, CANARY, vhost)
    return name


@pytest.fixture
def user_url(user: str, vhost_url: str) -> str:
    return as_user(vhost_url, user, CANARY)


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on which each connection is given to `answer`, and closed when that returns."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:  # it was shut down: the test is over
                    return
                with sock:
                    sock.settimeout(DEADLINE_SECONDS)
                    try:
                        answer(sock)
                    except OSError:
                        pass  # the client did not like it, as it should not

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE_SECONDS)


@pytest.fixture
def untrusted_port(tmp_path: Path) -> Iterator[int]:
    """A port that speaks TLS with a certificate that nobody trusts."""
    pair = Certificates(tmp_path).self_signed()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certfile, pair.keyfile)
    with answering(lambda sock: context.wrap_socket(sock, server_side=True).close()) as port:
        yield port


def speak_http(sock: socket.socket) -> None:
    sock.recv(1024)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


# --- at the start ---------------------------------------------------------------------------------------------------

REFUSALS = {
    "wrong password": (AuthenticationError, "refused the login"),
    "unknown user": (AuthenticationError, "refused the login"),
    "missing vhost": (AuthenticationError, "does it exist"),
    "vhost without permission": (AuthenticationError, "permissions there"),
    "failed TLS verification": (ConfigError, "certificate"),
    "wrong exchange type": (TopologyMismatch, "fanout"),
}
"""What may be refused, with the error and words of it."""


@pytest.fixture(params=REFUSALS)
async def refusal(request: pytest.FixtureRequest, user: str, user_url: str, vhost_url: str) -> tuple[str, str]:
    """A URL, with the canary in it, whose broker refuses that, and which refusal it is."""
    kind: str = request.param
    parts = urlsplit(user_url)
    match kind:
        case "wrong password":
            return kind, as_user(vhost_url, "guest", CANARY)
        case "unknown user":
            return kind, as_user(vhost_url, "nobody-of-that-name", CANARY)
        case "missing vhost":
            return kind, f"{user_url}-that-is-not-there"
        case "vhost without permission":
            return kind, parts._replace(path="/%2F").geturl()
        case "failed TLS verification":
            port = request.getfixturevalue("untrusted_port")
            login = parts.netloc.rpartition("@")[0]
            return kind, f"amqps://{login}@127.0.0.1:{port}{parts.path}"
        case _:
            async with wire(vhost_url) as broker:
                await broker.call(ExchangeDeclare(exchange=EXCHANGE, type="fanout", durable=True))
            return kind, user_url


async def test_a_server_says_at_once_what_is_wrong(refusal: tuple[str, str]) -> None:
    """The error, its causes, its tracebacks and the variables in them hold no password."""
    kind, url = refusal
    config = ServerConfig(url=url, exchange=EXCHANGE, default_routing_key="q")
    error, words = REFUSALS[kind]
    begun = time.monotonic()
    caught = await soon(_refused(config))
    print(f"{kind}: {time.monotonic() - begun:.3f} s: {caught}")
    assert type(caught) is error and words in str(caught)
    assert_no_secret(str(caught), everything_told(caught), repr(config))


async def _refused(config: ServerConfig) -> ConfigError:
    """In a function of its own, whose frame knows no URL."""
    with pytest.raises(ConfigError) as caught:
        await Server.connect(config)
    return caught.value


@pytest.mark.parametrize(
    "words",
    [
        ("worker", "tasks:app"),
        ("worker", "tasks:app", "-p", "2"),
        ("worker", "tasks:app", "--log-format", "json", "-l", "debug"),
        ("send", "tasks:app", "note", "x"),
    ],
    ids=["worker", "two processes", "json", "send"],
)
def test_a_command_says_so_in_one_line(refusal: tuple[str, str], words: tuple[str, ...], cli: Cli) -> None:
    """Exit code 78, at once; the password is in nothing that it writes."""
    kind, url = refusal
    begun = time.monotonic()
    done = cli.run(*words, DISPATCHER_URL=url)
    print(f"{kind}, {' '.join(words)}: exit {done.returncode} after {time.monotonic() - begun:.2f} s\n{done.stderr}")
    assert done.returncode == 78
    told = [line for line in done.stderr.splitlines() if line.startswith("dispatcher: error: ")]
    assert len(told) in ((1, 2) if "-p" in words else (1,)) and all(REFUSALS[kind][1] in line for line in told)
    assert "Traceback" not in done.stderr
    assert_no_secret(done.stdout, done.stderr)
    rest = [line for line in done.stderr.splitlines() if not line.startswith(("dispatcher: error: ", "hint: "))]
    if words[0] == "send":
        assert rest == []
    if "json" in words:
        assert rest and all(json.loads(line) for line in rest)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.write("quick.py", QUICK)
    yield cli
    cli.close()


# --- secrets --------------------------------------------------------------------------------------------------------


async def test_nothing_that_works_shows_a_password(
    user_url: str, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The reprs of config, server, app, broker and session, every event and every log line."""
    caplog.set_level("DEBUG")
    broker = open_broker(user_url)
    app = Dispatcher(user_url, observers=[recorder], init_queues=[Queue("q", binding_keys=("q",))])
    async with app:
        await app.publish(Task("t", routing_key="q"))
        server = app.server
        assert isinstance(server.session, RabbitSession)
        shown = [*map(repr, (app, app.config, broker, server, server.session)), repr(vars(broker))]
        shown.append(repr(vars(server.session)))  # its connections among them
    assert_no_secret(*shown, str(app.config), caplog.text, repr(recorder.events))


def test_a_password_of_the_environment_is_in_no_command_line(cli: Cli, user_url: str) -> None:
    """Neither in the supervisor's nor in its workers'; and a worker that works tells it nowhere."""
    cli.env["DISPATCHER_URL"] = user_url
    worker = cli.start("worker", "tasks:app", "-p", "2", "-l", "debug")
    worker.wait_for(r"worker\.started worker=\S+/default", count=2)
    pids = [worker.pid, *map(int, worker.matches(r"worker_process\.started number=\d+ pid=(\d+)"))]
    assert len(pids) == 3
    told = subprocess.run(
        ["ps", "-o", "args=", "-p", ",".join(map(str, pids))], capture_output=True, text=True, check=True
    ).stdout
    assert len(told.splitlines()) == 3
    worker.signal(15)
    assert worker.exit_code() == 0
    assert_no_secret(told, worker.text)


# --- a broker that is not there -------------------------------------------------------------------------------------


@pytest.fixture(params=["refused", "mute", "http"])
def absent(request: pytest.FixtureRequest, vhost_url: str) -> Iterator[tuple[str, str]]:
    """How a port is no broker, and a URL to it."""
    parts = urlsplit(vhost_url)
    login = parts.netloc.rpartition("@")[0]
    match request.param:
        case "refused":
            yield request.param, f"amqp://{login}@127.0.0.1:{free_port()}"
        case "mute":
            with TcpProxy(parts.hostname or "", parts.port or 5672) as proxy:
                proxy.mute()
                yield request.param, f"amqp://{login}@127.0.0.1:{proxy.port}"
        case _:
            with answering(speak_http) as port:
                yield request.param, f"amqp://{login}@127.0.0.1:{port}"


SAID = {"refused": "connection refused", "mute": "is it running at that URL?", "http": "HTTP/1.1 400 Bad"}


async def test_a_server_waits_for_a_broker_as_long_as_it_was_told(absent: tuple[str, str]) -> None:
    """Then it says what the last attempt failed with."""
    kind, url = absent
    config = ServerConfig(url=url, exchange=EXCHANGE, default_routing_key="q", connect_timeout_seconds=1.0)
    with pytest.raises(BrokerUnavailable) as caught:
        await soon(Server.connect(config))
    assert SAID[kind] in str(caught.value) and "within 1 s" in str(caught.value)


def test_send_gives_up_after_its_connect_timeout(absent: tuple[str, str], cli: Cli) -> None:
    """With exit code 69 and one line."""
    kind, url = absent
    done = cli.run("send", "quick:app", "note", "x", DISPATCHER_URL=url)
    assert done.returncode == 69, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("dispatcher: error: ")]
    assert len(told) == 1 and SAID[kind] in told[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["refused", "mute"])
def test_a_worker_waits_for_its_broker_for_ever(cli: Cli, vhost_url: str, kind: str) -> None:
    """Beyond the connect timeout, and starts when the broker comes up."""
    parts = urlsplit(vhost_url)
    with TcpProxy(parts.hostname or "", parts.port or 5672) as proxy:
        (proxy.mute if kind == "mute" else proxy.refuse)()
        login = parts.netloc.rpartition("@")[0]
        cli.env["DISPATCHER_URL"] = f"amqp://{login}@127.0.0.1:{proxy.port}{parts.path}"
        worker = cli.start("worker", "quick:app")
        if kind == "mute":
            proxy.wait(lambda: proxy.accepted >= 3)  # one attempt fills a connect timeout
        else:
            worker.wait_for(r"broker\.disconnected .*connection refused", count=3)  # it is told once a connect timeout
        proxy.resume()
        worker.wait_for(r"worker\.started")
        worker.signal(15)
        assert worker.exit_code() == 0


# --- after a first success ------------------------------------------------------------------------------------------


class Changes:
    """What an observer hears of the connection."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._news = asyncio.Event()

    def on_event(self, event: object) -> None:
        match event:
            case Connected():
                self.told.append("connected")
            case Disconnected(error=error):
                self.told.append(error)
        self._news.set()

    async def wait_for(self, words: str, after: int = 0) -> None:
        while not any(words in text for text in self.told[after:]):
            self._news.clear()
            await soon(self._news.wait())


@pytest.fixture
def proxy(vhost_url: str) -> Iterator[TcpProxy]:
    parts = urlsplit(vhost_url)
    with TcpProxy(parts.hostname or "", parts.port or 5672) as proxy:
        yield proxy


async def attempts(proxy: TcpProxy) -> None:
    """Wait until as many attempts to connect came in as make a flood visible."""
    seen = proxy.accepted
    await asyncio.to_thread(proxy.wait, lambda: proxy.accepted >= seen + TRIES)


def config_by(proxy: TcpProxy, url: str, changes: Changes) -> ServerConfig:
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return ServerConfig(
        url=f"amqp://{login}@127.0.0.1:{proxy.port}{parts.path}",
        exchange=EXCHANGE,
        default_routing_key="q",
        init_queues=[Queue("q", binding_keys=("q",))],
        reconnection_interval_seconds=0.01,
        reconnection_max_interval_seconds=0.02,
        observers=[changes],
    )


async def test_a_password_that_changes_is_tried_on_and_told_once(
    proxy: TcpProxy, broker_admin: Admin, vhost: str, user: str, user_url: str
) -> None:
    """So is each other reason after it; when it is right again the server works as before."""
    changes = Changes()
    async with await soon(Server.connect(config_by(proxy, user_url, changes))) as server:
        broker_admin.delete_user(user)
        broker_admin.add_user(user, "another password", vhost)
        proxy.cut()
        await changes.wait_for("refused the login")
        await attempts(proxy)
        assert len(changes.told) == 3, changes.told
        proxy.refuse()
        await changes.wait_for("connection refused")
        broker_admin.delete_user(user)
        broker_admin.add_user(user, CANARY, vhost)
        proxy.accept()
        await changes.wait_for("connected", after=1)
        await soon(server.publish(Task("t", routing_key="q")))
    first, lost, *others = changes.told
    assert (first, others.pop()) == ("connected", "connected")
    assert "refused the login" not in lost
    assert ["refused the login" in text for text in others] == [True, False] and "connection refused" in others[1]
    assert_no_secret(*changes.told)


async def test_a_topology_that_does_not_fit_any_more_is_told_once(
    proxy: TcpProxy, broker_admin: Admin, vhost: str, vhost_url: str
) -> None:
    """And a session that it forbids is not told as connected."""
    changes = Changes()
    async with await soon(Server.connect(config_by(proxy, vhost_url, changes))) as server:
        proxy.refuse()
        proxy.cut()
        await changes.wait_for("connection refused")
        broker_admin.delete_vhost(vhost)
        broker_admin.add_vhost(vhost)
        async with wire(vhost_url) as broker:
            await broker.call(ExchangeDeclare(exchange=EXCHANGE, type="fanout", durable=True))
        proxy.accept()
        await changes.wait_for("fanout")
        await attempts(proxy)
        assert changes.told.count("connected") == 1
        assert len([text for text in changes.told if "fanout" in text]) == 1
        async with wire(vhost_url) as broker:
            await broker.call(ExchangeDelete(exchange=EXCHANGE))
        await changes.wait_for("connected", after=1)
        await soon(server.publish(Task("t", routing_key="q")))
    assert changes.told.count("connected") == 2
