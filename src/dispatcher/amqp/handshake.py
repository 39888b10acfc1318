"""From the first byte to an open connection (AMQP 0-9-1, section 2.2.4): start, tune, open. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .errors import AmqpError, HandshakeError, MechanismNotOffered, PeerLost, ProtocolError
from .frames import MAX_FRAME, PROTOCOL_HEADER
from .methods import (
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    Method,
    encode_method,
)

__all__ = ["Handshake", "HandshakeSettings", "Tuned"]

MAX_CHANNELS = 2047  # RabbitMQ's own default

TLS_ALERT = 0x15
"""The first byte of what a TLS server answers to a client that speaks plain AMQP."""

CAPABILITIES = {
    "authentication_failure_close": True,  # without it a refused login is a closed socket, and no reason
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "exchange_exchange_bindings": True,
    "publisher_confirms": True,
}


class HandshakeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are. `heartbeat_seconds` zero leaves heartbeats to the broker. `response` is the SASL response: a secret."""

    mechanism: str
    response: bytes
    vhost: str
    heartbeat_seconds: int
    client_properties: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"HandshakeSettings(mechanism={self.mechanism!r}, vhost={self.vhost!r}, …)"


class Tuned(msgspec.Struct, frozen=True):
    """What both sides agreed on. `heartbeat_seconds` zero means none."""

    channel_max: int
    frame_max: int
    heartbeat_seconds: int


class Handshake:
    """The client's side of it."""

    def __init__(self, settings: HandshakeSettings) -> None:
        """`ArgumentError` for a virtual host or another setting that does not fit into its frame."""
        self._settings = settings
        for method in (self._start_ok(), self._open()):
            encode_method(method)  # now, not when the broker asks for it
        self._tuned: Tuned | None = None
        self._expects: type[Method] = ConnectionStart
        self.server_properties: dict[str, Any] = {}

    def check_first_bytes(self, data: bytes) -> None:
        """Refuse at once what is no AMQP 0-9-1 broker: another protocol would be read as a frame of absurd size."""
        if self._expects is not ConnectionStart or data[:3] == b"\x01\x00\x00"[: len(data)]:
            return
        if data[:4] == b"AMQP"[: len(data)]:
            if len(data) < len(PROTOCOL_HEADER):
                return
            version = ".".join(str(byte) for byte in data[4:8])
            raise HandshakeError(f"the broker refuses AMQP 0-9-1 and offers protocol version {version}")
        if data[0] == TLS_ALERT:
            raise HandshakeError("what listens there expects TLS: use amqps:// (RabbitMQ: port 5671)")
        raise HandshakeError(
            f"expected an AMQP 0-9-1 broker, but what listens there begins with {data[:16]!r};"
            " is the port right (RabbitMQ: 5672, with TLS 5671)?"
        )

    def step(self, method: Method) -> Sequence[Method] | Tuned:
        """The methods to answer with, or the outcome once the connection is open."""
        if not isinstance(method, self._expects):
            raise ProtocolError(505, f"expected {self._expects.__name__}, got {type(method).__name__}")
        match method:
            case ConnectionStart():
                return [self._start(method)]
            case ConnectionTune():
                return self._tune(method)
            case ConnectionOpenOk():
                assert self._tuned is not None
                return self._tuned
            case _:
                raise ProtocolError(505, f"expected no {type(method).__name__} in the handshake")

    def _start(self, start: ConnectionStart) -> ConnectionStartOk:
        self.server_properties = dict(start.server_properties)
        offered = start.mechanisms.decode("utf-8", "replace").split()
        mechanism = self._settings.mechanism
        if mechanism not in offered:
            raise MechanismNotOffered(
                f"expected the broker to offer the login mechanism {mechanism}, it offers {' '.join(offered)!r:.200}"
            )
        self._expects = ConnectionTune
        return self._start_ok()

    def _start_ok(self) -> ConnectionStartOk:
        return ConnectionStartOk(
            client_properties={**self._settings.client_properties, "capabilities": CAPABILITIES},
            mechanism=self._settings.mechanism,
            response=self._settings.response,
            locale="en_US",
        )

    def _open(self) -> ConnectionOpen:
        return ConnectionOpen(virtual_host=self._settings.vhost)

    def _tune(self, tune: ConnectionTune) -> Sequence[Method]:
        ours, theirs = self._settings.heartbeat_seconds, tune.heartbeat
        tuned = self._tuned = Tuned(
            channel_max=min(tune.channel_max or MAX_CHANNELS, MAX_CHANNELS),
            frame_max=min(tune.frame_max or MAX_FRAME, MAX_FRAME),
            heartbeat_seconds=min(ours, theirs) if ours and theirs else max(ours, theirs),
        )
        if tuned.frame_max < 4096:
            raise ProtocolError(501, f"expected a largest frame of 4096 bytes or more, got {tuned.frame_max}")
        self._expects = ConnectionOpenOk
        return [
            ConnectionTuneOk(tuned.channel_max, tuned.frame_max, tuned.heartbeat_seconds),
            self._open(),
        ]

    def ended(self, reason: str) -> AmqpError:
        """The socket ended before the connection was open: what that means depends on how far it had come."""
        if self._expects is ConnectionTune:
            # A RabbitMQ that refuses the login says so (authentication_failure_close): this is a broker that went away.
            return PeerLost(f"the connection ended during the login: {reason}")
        if self._expects is ConnectionStart:
            return HandshakeError(f"no AMQP broker answered: {reason}")
        return PeerLost(reason)
