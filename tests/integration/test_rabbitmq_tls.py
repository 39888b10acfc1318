"""TLS to a real RabbitMQ: whom we trust, whom it trusts, and what is said where either does not.

All tests share a node. What differs between them (certificate, client certificates, versions) belongs to a TLS listener
of each test's own, which is there within milliseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

import pytest
from rabbitmq_node import PrivateNode
from tcp_proxy import free_port
from tls_certificates import Certificates, KeyPair

from dispatcher import Dispatcher, Server, ServerConfig
from dispatcher.brokers import TlsSettings, open_broker
from dispatcher.brokers.base import BrokerEvent, Insecure, Message, Session
from dispatcher.errors import AuthenticationError, BrokerUnavailable, ConfigError, ConnectionLost
from dispatcher.model.topology import Queue, Topology

pytestmark = pytest.mark.timeout(300)  # a start takes ten seconds where two processors are busy

T = TypeVar("T")

DEADLINE_SECONDS = 60.0
MEBIBYTE = 2**20
LARGE_MESSAGES = 128
SMALL_MESSAGES = 5_000
CANARY = "canary-in-the-password"
VERSIONS = ("tlsv1.2", "tlsv1.3")
EXTERNAL_USER = "external-user"
CONFIG = """\
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = EXTERNAL
ssl_cert_login_from = common_name
ssl_options.verify = verify_peer
"""
"""The last line lets certificates log in; the listeners bring options of their own."""
IN_FLIGHT = 16
CONNECT_SECONDS = 2.0
ATTEMPTS = 10
"""A refusal that comes with the end of the connection must be read each time, whichever comes first."""

ConnectServer = Callable[..., Awaitable[Server]]


async def soon(what: Awaitable[T]) -> T:
    """The result of `what`, which must come within a deadline that is far beyond what it takes."""
    return await asyncio.wait_for(what, DEADLINE_SECONDS)


@dataclass
class TlsNode:
    """A node, the authority of its certificates, and the port of its latest TLS listener."""

    node: PrivateNode
    certificates: Certificates
    port: int = 0

    def listen(
        self, pair: KeyPair | None = None, *, client_certificate: bool = False, versions: tuple[str, ...] = VERSIONS
    ) -> None:
        """Start a listener with these settings. None: a right certificate."""
        pair = pair or self.certificates.server()
        spoken = ", ".join(f"'{version}'" for version in versions)
        settings = [
            f'{{certfile, "{self.node.put(pair.certfile.name, pair.certfile.read_bytes())}"}}',
            f'{{keyfile, "{self.node.put(pair.keyfile.name, pair.keyfile.read_bytes())}"}}',
            f'{{cacertfile, "{self.node.put("ca.pem", self.certificates.cacertfile.read_bytes())}"}}',
            f"{{versions, [{spoken}]}}",
            f"{{verify, {'verify_peer' if client_certificate else 'verify_none'}}}",
            f"{{fail_if_no_peer_cert, {'true' if client_certificate else 'false'}}}",
        ]
        self.port = free_port()
        self.node.eval(
            f'rabbit_networking:start_ssl_listener({{"127.0.0.1", {self.port}}}, [{", ".join(settings)}], 2)'
        )

    def url(self, login: str = "guest:guest@", host: str = "localhost", **parameters: object) -> str:
        """An amqps:// URL of it that trusts its authority, unless another `cacertfile` (None: none) is given."""
        given = {"cacertfile": self.certificates.cacertfile, **parameters}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        return f"amqps://{login}{host}:{self.port}{f'?{query}' if query else ''}"

    def client(self, pair: KeyPair) -> dict[str, object]:
        """The parameters of an URL with that client certificate."""
        return {"certfile": pair.certfile, "keyfile": pair.keyfile}

    def connections(self) -> list[str]:
        """The protocol of each connection that stands, as the broker knows it: `tlsv1.3`, or `none` without TLS."""
        told = self.node.eval(
            "[case rabbit_reader:info(P, [ssl, ssl_protocol]) of [{ssl, true}, {_, V}] -> V; _ -> none end"
            " || P <- rabbit_networking:local_connections()]"
        )
        return [word.strip("'") for word in told.strip("[]").split(",") if word]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsNode]:
    with PrivateNode() as node:
        node.start(
            CONFIG,
            plugins=["rabbitmq_auth_mechanism_ssl"],
        )
        node.eval("rabbit_networking:ensure_ssl()")
        yield TlsNode(node, Certificates(tmp_path_factory.mktemp("certificates")))


@pytest.fixture
async def connect() -> AsyncIterator[ConnectServer]:
    """Connects servers, which are closed after the test."""
    opened: list[Server] = []

    async def connect(url: str, **settings: object) -> Server:
        config = ServerConfig(url=url, exchange="tls", default_routing_key="q", **settings)  # type: ignore[arg-type]
        opened.append(await soon(Server.connect(config)))
        return opened[-1]

    yield connect
    for server in opened:
        await soon(server.close())


async def refused(connect: ConnectServer, url: str, **settings: object) -> str:
    """What a server says that may not connect at once, which must hold no secret."""
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        await connect(url, **settings)
    print(f"refused after {time.monotonic() - begun:.3f} s: {caught.value}")
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    return str(caught.value)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- whom we trust --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_right_certificate(
    tls: TlsNode, connect: ConnectServer, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an authority named by `cacertfile`: nothing is warned of, and the link is what the broker was told to speak."""
    tls.listen(versions=(version,))
    await connect(tls.url())
    assert tls.connections() == [version]
    assert warnings_of(caplog) == []


async def test_a_context_of_the_users_own(tls: TlsNode, connect: ConnectServer) -> None:
    """`tls_config` says whom to trust, and is used by the server and by the app."""
    tls.listen()
    context = ssl.create_default_context(cafile=tls.certificates.cacertfile)
    await connect(tls.url(cacertfile=None), tls_config=context)
    async with Dispatcher(tls.url(cacertfile=None), tls_config=context):
        assert len(tls.connections()) == 2


async def test_secure_connection_makes_tls_of_amqp(tls: TlsNode, connect: ConnectServer) -> None:
    """For the server and for the app; without a port in the URL it is that of TLS."""
    tls.listen()
    url = tls.url().replace("amqps://", "amqp://")
    await connect(url, secure_connection=True)
    async with Dispatcher(url, secure_connection=True):
        assert "none" not in tls.connections() and len(tls.connections()) == 2
    assert "localhost:5671" in repr(open_broker("amqp://localhost", TlsSettings(secure_connection=True)))


WRONG = {
    "another host": (lambda made: made.server("rabbit.example"), "for another host"),
    "expired": (lambda made: made.expired(), "has expired"),
    "not yet valid": (lambda made: made.not_yet_valid(), "not valid yet"),
    "self-signed": (lambda made: made.self_signed(), "self-signed|authority that is not trusted"),
    "of an unknown authority": (lambda made: made.of_unknown_authority(), "authority that is not trusted"),
}
"""Certificates that may not be trusted, and what is said of each."""


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_certificate_is_refused_at_once(tls: TlsNode, connect: ConnectServer, kind: str) -> None:
    """What cannot be verified is told as such; nothing is tried again, and the password is not sent."""
    make, expected = WRONG[kind]
    tls.listen(make(tls.certificates))
    said = await refused(connect, tls.url(f"guest:{CANARY}@"))
    assert re.search(expected, said), said
    assert f"localhost:{tls.port}" in said
    assert tls.connections() == []


async def test_an_authority_that_the_system_does_not_know(tls: TlsNode, connect: ConnectServer) -> None:
    """Without `cacertfile` the system's authorities count, and there is a hint."""
    tls.listen()
    said = await refused(connect, tls.url(cacertfile=None))
    assert "not trusted" in said and "cacertfile" in said


async def test_the_name_to_expect_can_be_said(tls: TlsNode, connect: ConnectServer) -> None:
    """`server_name_indication`, for a broker that is reached by another name than its certificate bears."""
    tls.listen(tls.certificates.server("rabbit.example"))
    await connect(tls.url(server_name_indication="rabbit.example"))
    assert len(tls.connections()) == 1


async def test_without_verification_it_connects_and_warns_once(
    tls: TlsNode, connect: ConnectServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`insecure_skip_verify=True`: one warning a server, also when it connects anew."""
    caplog.set_level(logging.INFO, "dispatcher")
    tls.listen(tls.certificates.expired())
    server = await connect(tls.url(cacertfile=None), insecure_skip_verify=True, reconnection_interval_seconds=0.01)
    lost = server.session
    assert lost is not None
    tls.node.admin.close_all_connections("/")
    await soon(asyncio.wait([lost.closed]))
    await soon(server.live_session())
    told = [record.getMessage() for record in caplog.records if "broker.insecure" in record.getMessage()]
    assert len(told) == 1 and "insecure_skip_verify" in told[0] and f"localhost:{tls.port}" in told[0]
    assert len([record for record in caplog.records if "broker.connected" in record.getMessage()]) == 2


async def test_an_app_without_verification_warns_once(tls: TlsNode, caplog: pytest.LogCaptureFixture) -> None:
    """Also when it is connected twice."""
    tls.listen(tls.certificates.self_signed())
    app = Dispatcher(tls.url(cacertfile=None), insecure_skip_verify=True)
    for _ in range(2):
        async with app:
            pass
    assert len(warnings_of(caplog)) == 1


async def test_a_password_in_the_clear_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On the way to another machine, before it is sent; the warning does not hold it."""

    def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", free_port()))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    broker = open_broker(f"amqp://me:{CANARY}@rabbit.example")
    events: list[BrokerEvent] = []
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            await soon(broker.connect(name="test", on_event=events.append))
    (event,) = events
    assert isinstance(event, Insecure)
    assert "unencrypted" in event.text and event.peer == "rabbit.example:5672" and CANARY not in str(event)


# --- whom it trusts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_certificate_that_is_required(tls: TlsNode, connect: ConnectServer, version: str) -> None:
    """By files, in one file, and in a context of the user's own."""
    tls.listen(client_certificate=True, versions=(version,))
    pair = tls.certificates.client("anybody")
    await connect(tls.url(**tls.client(pair)))
    await connect(tls.url(certfile=tls.certificates.in_one_file(pair)))
    context = ssl.create_default_context(cafile=tls.certificates.cacertfile)
    context.load_cert_chain(pair.certfile, pair.keyfile)
    await connect(tls.url(cacertfile=None), tls_config=context)
    assert tls.connections() == [version] * 3


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_certificate_that_is_missing(tls: TlsNode, connect: ConnectServer, version: str) -> None:
    """It is told at once what is wanted, though with TLS 1.3 only after the handshake; each time."""
    tls.listen(client_certificate=True, versions=(version,))
    for _ in range(ATTEMPTS):
        said = await refused(connect, tls.url(f"guest:{CANARY}@"))
        assert "expects a client certificate" in said and "certfile" in said


REFUSED = {
    "expired": lambda made: made.expired(),
    "self-signed": lambda made: made.self_signed(),
    "of an unknown authority": lambda made: made.of_unknown_authority(),
}
"""Client certificates that the broker does not take."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", REFUSED)
async def test_a_client_certificate_that_is_refused(
    tls: TlsNode, connect: ConnectServer, kind: str, version: str
) -> None:
    """It is told at once that ours was refused; each time."""
    tls.listen(client_certificate=True, versions=(version,))
    pair = REFUSED[kind](tls.certificates)
    for _ in range(ATTEMPTS):
        assert "refused our certificate" in await refused(connect, tls.url(f"guest:{CANARY}@", **tls.client(pair)))


@pytest.fixture
def external_user(tls: TlsNode) -> Iterator[str]:
    """A user that a certificate may name."""
    tls.node.admin.add_user(EXTERNAL_USER, CANARY, "/")
    yield EXTERNAL_USER
    tls.node.admin.delete_user(EXTERNAL_USER)


async def test_a_certificate_logs_in(tls: TlsNode, connect: ConnectServer, external_user: str) -> None:
    """EXTERNAL: the user is the certificate's name, no password is known."""
    tls.listen(client_certificate=True)
    pair = tls.certificates.client(external_user)
    await connect(tls.url("", auth_mechanism="external", **tls.client(pair)))
    users = tls.node.eval("[rabbit_reader:info(P, [user]) || P <- rabbit_networking:local_connections()]")
    assert users == f'[[{{user,<<"{external_user}">>}}]]'


async def test_a_certificate_that_names_no_user(tls: TlsNode, connect: ConnectServer) -> None:
    """The login is refused, and no password is blamed."""
    tls.listen(client_certificate=True)
    url = tls.url("", auth_mechanism="external", **tls.client(tls.certificates.client("nobody-of-that-name")))
    with pytest.raises(AuthenticationError, match="certificate") as caught:
        await connect(url)
    assert "password" not in str(caught.value) and "guest" not in str(caught.value)


# --- what is no TLS, and what is nothing else -------------------------------------------------------------------------


async def test_tls_to_a_plain_port(tls: TlsNode, connect: ConnectServer) -> None:
    """It is told at once which port is meant."""
    said = await refused(connect, tls.url(f"guest:{CANARY}@").replace(f":{tls.port}", f":{tls.node.port}"))
    assert "does not speak it" in said and "5671" in said


async def test_plain_amqp_to_a_tls_port(tls: TlsNode, connect: ConnectServer) -> None:
    """It is told what listens there."""
    tls.listen()
    with pytest.raises(BrokerUnavailable, match="expects TLS: use amqps://"):
        await connect(f"amqp://guest:guest@127.0.0.1:{tls.port}", connect_timeout_seconds=CONNECT_SECONDS)


# --- load -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_large_and_small_messages(tls: TlsNode, version: str) -> None:
    """All come, whole and in order, while others are published."""
    tls.listen(versions=(version,))
    session = await soon(open_broker(tls.url()).connect(name="test", on_event=lambda event: None))
    try:
        await soon(session.declare(Topology("tls", (Queue("load", binding_keys=("load",)),))))
        for bodies in (
            [bytes([number % 251]) * MEBIBYTE for number in range(LARGE_MESSAGES)],
            [b"%d" % number for number in range(SMALL_MESSAGES)],
        ):
            receiving = asyncio.create_task(receive(session, len(bodies)))
            await soon(publish(session, bodies))
            assert await soon(receiving) == [hashlib.sha256(body).digest() for body in bodies]
        await soon(session.inspector.purge("load"))
    finally:
        await soon(session.close())


async def publish(session: Session, bodies: list[bytes]) -> None:
    waiting: set[asyncio.Future[None]] = set()
    for body in bodies:
        waiting.add(session.publish(Message(exchange="tls", routing_key="load", body=body)))
        if len(waiting) == IN_FLIGHT:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
    await asyncio.gather(*waiting)


async def receive(session: Session, count: int) -> list[bytes]:
    """The digests of that many bodies, in the order in which they came."""
    consumer = await session.consume("load", prefetch=IN_FLIGHT)
    digests = []
    async for delivery in consumer:
        digests.append(hashlib.sha256(delivery.body).digest())
        delivery.ack()
        if len(digests) == count:
            break
    await consumer.stop()
    return digests
