"""Asks a broker whether it lets somebody in: an AMQP handshake by hand, independent of the engine that is under test.

It opens a connection and closes it again; it must never declare, publish or consume anything.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["Refused", "connected", "handshake", "wait_for_close"]

HEADER = b"AMQP\x00\x00\x09\x01"
CONNECTION = 10
START, START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK, CLOSE, CLOSE_OK = 10, 11, 30, 31, 40, 41, 50, 51
FRAME_METHOD, FRAME_HEARTBEAT, FRAME_END = 1, 8, b"\xce"
VERSION_KEY = b"\x07versionS"


def short(text: bytes) -> bytes:
    return bytes((len(text),)) + text


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


PROPERTIES = long(short(b"capabilities") + b"F" + long(short(b"authentication_failure_close") + b"t\1"))
"""Without it, RabbitMQ cuts the connection of wrong credentials and says nothing."""


class Refused(Exception):
    """Somebody answered, but did not let us in: no AMQP 0-9-1, wrong credentials, or no such vhost."""


@contextmanager
def connected(
    host: str,
    port: int,
    *,
    user: str = "guest",
    password: str = "guest",
    vhost: str = "/",
    tls: ssl.SSLContext | None = None,
    timeout_seconds: float = 10.0,
) -> Iterator[tuple[socket.socket, str]]:
    """An open connection and the version of the RabbitMQ there. Raises `OSError` or `Refused`.

    `timeout_seconds` bounds each wait for the peer, not all of them together.
    """
    with ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection((host, port), timeout_seconds))
        peer = stack.enter_context(tls.wrap_socket(plain, server_hostname=host)) if tls else plain
        peer.sendall(HEADER)
        version = version_in(expect(peer, START))
        response = b"\0" + user.encode() + b"\0" + password.encode()
        send(peer, START_OK, PROPERTIES + short(b"PLAIN") + long(response) + short(b"en_US"))
        send(peer, TUNE_OK, expect(peer, TUNE))
        send(peer, OPEN, short(vhost.encode()) + short(b"") + b"\0")
        expect(peer, OPEN_OK)
        yield peer, version


def handshake(host: str, port: int, **how: Any) -> str:
    """The version of the RabbitMQ there, once it lets us in. Takes and raises what `connected` does."""
    with connected(host, port, **how) as (peer, version):
        send(peer, CLOSE, struct.pack(">H", 200) + short(b"") + bytes(4))
        expect(peer, CLOSE_OK)
    return version


def wait_for_close(peer: socket.socket) -> str:
    """The code and the reason with which the server closes that connection. Raises `OSError` where it does not."""
    try:
        expect(peer, CLOSE)
    except Refused as reason:
        return str(reason)
    raise AssertionError("unreachable: a close is told as Refused")


def version_in(properties: bytes) -> str:
    place = properties.find(VERSION_KEY)
    if place < 0:
        raise Refused("expected a RabbitMQ, which tells its version; this server tells none")
    at = place + len(VERSION_KEY)
    (length,) = struct.unpack_from(">I", properties, at)
    return properties[at + 4 : at + 4 + length].decode()


def send(peer: socket.socket, method: int, arguments: bytes) -> None:
    payload = struct.pack(">HH", CONNECTION, method) + arguments
    peer.sendall(struct.pack(">BHI", FRAME_METHOD, 0, len(payload)) + payload + FRAME_END)


def expect(peer: socket.socket, method: int) -> bytes:
    """The arguments of the next method, which must be that one."""
    kind = FRAME_HEARTBEAT
    while kind == FRAME_HEARTBEAT:
        head = read(peer, 7)
        if head[:4] == b"AMQP":
            raise Refused(f"expected AMQP 0-9-1, the server speaks {head[4:]!r}")
        kind, _, length = struct.unpack(">BHI", head)
        payload = read(peer, length + 1)[:-1]
    class_id, method_id = struct.unpack_from(">HH", payload)
    if (class_id, method_id) == (CONNECTION, CLOSE):
        (code,) = struct.unpack_from(">H", payload, 4)
        raise Refused(f"{code} {payload[7 : 7 + payload[6]].decode()}")
    if (class_id, method_id) != (CONNECTION, method):
        raise Refused(f"expected method {CONNECTION}.{method}, got {class_id}.{method_id}")
    return payload[4:]


def read(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = peer.recv(count - len(data))
        if not piece:
            raise Refused("the server ended the connection in the middle of the handshake")
        data += piece
    return data
