"""Connecting: several addresses, one deadline, and what is said when nothing answers."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from stream_peer import SECONDS, Peer, connect
from tcp_proxy import free_port
from tls_certificates import Certificates

from dispatcher.amqp.connect import open_stream
from dispatcher.amqp.errors import PeerLost
from dispatcher.amqp.stream import Stream
from dispatcher.errors import ConfigError


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        yield listener


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def client(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.cacertfile)


def addresses_are(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Have every name resolve to these ports of the loopback address."""

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", one)) for one in ports]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def open_plain(host: str, port: int, timeout_seconds: float = SECONDS) -> Stream:
    return await open_stream(host, port, context=None, server_hostname=None, timeout_seconds=timeout_seconds)


async def test_takes_the_first_address_that_answers(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses costs nothing."""
    addresses_are(monkeypatch, free_port(), listener.getsockname()[1])
    stream = await open_plain("rabbit.example", 5672)
    assert stream.peer == "rabbit.example:5672"
    peer = Peer(listener.accept()[0])
    stream.send(b"here")
    assert await peer.receive(4) == b"here"
    stream.close()
    peer.socket.close()


async def test_a_silent_address_takes_its_share_of_the_time_only(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, certificates: Certificates, client: ssl.SSLContext
) -> None:
    """The first takes the connection and says no word of TLS: the second still has its turn."""
    pair = certificates.server()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certfile, pair.keyfile)
    with socket.create_server(("127.0.0.1", 0)) as speaking:
        speaking.settimeout(SECONDS)

        def accept() -> ssl.SSLSocket:
            return server.wrap_socket(speaking.accept()[0], server_side=True)

        accepting = asyncio.create_task(asyncio.to_thread(accept))
        addresses_are(monkeypatch, listener.getsockname()[1], speaking.getsockname()[1])
        stream = await open_stream(
            "rabbit.example", 5671, context=client, server_hostname="localhost", timeout_seconds=SECONDS / 10
        )
        peer = Peer(await accepting)
    stream.send(b"here")
    assert await peer.receive(4) == b"here"
    stream.close()
    peer.socket.close()


async def test_tells_what_became_of_each_address(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers: the error lists all that was tried."""
    addresses_are(monkeypatch, free_port(), free_port())
    with pytest.raises(PeerLost) as caught:
        await open_plain("rabbit.example", 5672)
    assert str(caught.value) == (
        "rabbit.example:5672: expected a connection, got none: 127.0.0.1: connection refused; 127.0.0.1: connection refused"
    )


async def test_a_mute_tls_port_ends_within_the_deadline(listener: socket.socket, client: ssl.SSLContext) -> None:
    """Nothing hangs, and no socket stays behind."""
    with pytest.raises(PeerLost, match="no answer within"):
        await open_stream(
            "127.0.0.1",
            listener.getsockname()[1],
            context=client,
            server_hostname="localhost",
            timeout_seconds=0.2,
        )


async def test_a_peer_that_ends_the_tls_handshake_may_come_back(
    listener: socket.socket, client: ssl.SSLContext
) -> None:
    """A broker that restarts at this moment is no fault of the settings."""

    def hang_up() -> None:
        sock, _ = listener.accept()
        sock.recv(1)
        Peer(sock).reset()

    hanging_up = asyncio.create_task(asyncio.to_thread(hang_up))
    with pytest.raises(PeerLost, match="the other side (closed|reset) the connection"):
        await open_stream(
            "127.0.0.1",
            listener.getsockname()[1],
            context=client,
            server_hostname="localhost",
            timeout_seconds=SECONDS,
        )
    await hanging_up


async def test_a_certificate_that_is_not_trusted_is_a_fault_of_the_settings(certificates: Certificates) -> None:
    """It is told at once, as what must be changed."""
    pair = certificates.of_unknown_authority()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certfile, pair.keyfile)
    with pytest.raises(ConfigError, match="authority that is not trusted"):
        await connect(server, ssl.create_default_context(cafile=certificates.cacertfile))


async def test_a_name_without_an_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's words are kept."""

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(PeerLost, match="rabbit.example:5672: expected a host that has an address: Name or service"):
        await open_plain("rabbit.example", 5672)


async def test_a_resolver_that_does_not_answer_costs_the_deadline_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It blocks neither the loop nor the connecting."""
    release = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        release.wait(SECONDS)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(PeerLost, match="the resolver did not answer"):
        await open_plain("rabbit.example", 5672, 0.05)
    release.set()


async def test_can_be_cancelled(listener: socket.socket, client: ssl.SSLContext) -> None:
    """In the middle of a handshake: no socket stays behind."""
    opening = asyncio.create_task(
        open_stream(
            "127.0.0.1",
            listener.getsockname()[1],
            context=client,
            server_hostname="localhost",
            timeout_seconds=SECONDS,
        )
    )
    sock, _ = await asyncio.to_thread(listener.accept)
    with sock:
        await asyncio.to_thread(sock.recv, 1, socket.MSG_PEEK)  # the client's first word of TLS has come
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening


async def test_writes_ipv6_addresses_with_brackets() -> None:
    """As in a URL."""
    with pytest.raises(PeerLost, match=r"^\[::1\]:1: expected a connection, got none: ::1: "):
        await open_plain("::1", 1)
