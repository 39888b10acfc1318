"""From the first byte to an open connection, and every way in which that fails."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_peer import (
    PASSWORD,
    Peer,
    assert_clean_end,
    error_of,
    handshake_settings,
    marshal,
    new_peer,
    open_peer,
    start,
)
from pamqp import base, commands, header

from dispatcher.amqp.core import Core, Status
from dispatcher.amqp.errors import (
    AccessRefused,
    AmqpError,
    HandshakeError,
    MechanismNotOffered,
    NotAllowed,
    PeerLost,
    ProtocolError,
)
from dispatcher.amqp.events import ConnectionClosed, ConnectionOpened
from dispatcher.amqp.handshake import Tuned
from dispatcher.errors import ArgumentError


def test_the_whole_handshake() -> None:
    """Header, login, tuning and virtual host, in that order and nothing else."""
    peer = new_peer(handshake_settings(vhost="prod"))
    ((_, first),) = peer.sent()
    assert isinstance(first, header.ProtocolHeader)
    assert (first.major_version, first.minor_version, first.revision) == (0, 9, 1)

    assert peer.send(start(), channel=0) == []
    ((channel, ok),) = peer.sent()
    assert isinstance(ok, commands.Connection.StartOk)
    assert (channel, ok.mechanism, ok.response, ok.locale) == (0, "PLAIN", "\0guest\0" + PASSWORD, "en_US")
    assert ok.client_properties["product"] == "Dispatcher"
    assert ok.client_properties["capabilities"] == {
        "authentication_failure_close": True,
        "basic.nack": True,
        "connection.blocked": True,
        "consumer_cancel_notify": True,
        "exchange_exchange_bindings": True,
        "publisher_confirms": True,
    }
    assert peer.core.server_properties["version"] == "3.10.8"

    assert peer.send(commands.Connection.Tune(2047, 131_072, 60), channel=0) == []
    (_, tune_ok), (_, open_) = peer.sent()
    assert isinstance(tune_ok, commands.Connection.TuneOk)
    assert isinstance(open_, commands.Connection.Open)
    assert (tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat, open_.virtual_host) == (
        2047,
        131_072,
        10,
        "prod",
    )
    assert peer.core.status is Status.HANDSHAKE

    assert peer.send(commands.Connection.OpenOk(), channel=0) == [ConnectionOpened()]
    assert peer.core.status is Status.OPEN
    assert peer.sent() == []


@pytest.mark.parametrize(
    ("tune", "ours", "expected"),
    [
        ((2047, 131_072, 60), 10, Tuned(2047, 131_072, 10)),
        ((2047, 131_072, 5), 10, Tuned(2047, 131_072, 5)),
        ((0, 0, 0), 10, Tuned(2047, 131_072, 10)),  # zero: no limit, no wish
        ((0, 0, 0), 0, Tuned(2047, 131_072, 0)),
        ((10, 4096, 60), 0, Tuned(10, 4096, 60)),
        ((65_535, 4_294_967_295, 65_535), 10, Tuned(2047, 131_072, 10)),
    ],
)
def test_tuning(tune: tuple[int, int, int], ours: int, expected: Tuned) -> None:
    """The smaller of both wins, and a zero leaves it to the other."""
    settings = handshake_settings(heartbeat_seconds=ours)
    peer = open_peer(channel_max=tune[0], frame_max=tune[1], heartbeat_seconds=tune[2], settings=settings)
    assert peer.core.tuned == expected


def test_a_frame_max_below_the_least() -> None:
    """The specification's 4096 bytes are the least that a peer may ask for."""
    peer = new_peer()
    peer.send(start(), channel=0)
    events = peer.send(commands.Connection.Tune(0, 4095, 0), channel=0)
    assert isinstance(error_of(events), ProtocolError)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"AMQP\x00\x00\x09\x01", "offers protocol version 0.0.9.1"),
        (b"AMQP\x03\x01\x00\x00", "offers protocol version 3.1.0.0"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400 Bad"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "amqps://"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0"),
        (b"\x01\x00\x01\x00\x00\x00\x00\xce", "expected an AMQP 0-9-1 broker"),
        (b"\x00", "expected an AMQP 0-9-1 broker"),
    ],
)
def test_no_amqp_broker(answer: bytes, said: str) -> None:
    """What is no broker is told from the first bytes, and is sent nothing more."""
    for size in (len(answer), 1):
        peer = new_peer()
        peer.core.take_outgoing()
        events = [event for at in range(0, len(answer), size) for event in peer.receive(answer[at : at + size])]
        error = error_of(events)
        assert type(error) is HandshakeError
        assert said in str(error) or size == 1
        assert peer.sent() == []


def refused(peer: Peer, code: int, text: str) -> AmqpError:
    events = peer.send(commands.Connection.Close(code, text, 0, 0), channel=0)
    assert peer.sent_names()[-1] == "Connection.CloseOk"
    error = error_of(events)
    assert isinstance(error, AmqpError)
    return error


def test_a_refused_login() -> None:
    """403 with the broker's reason, without the password."""
    peer = new_peer()
    peer.send(start(), channel=0)
    error = refused(peer, 403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.")
    assert isinstance(error, AccessRefused)
    assert PASSWORD not in str(error)


def test_a_virtual_host_that_is_none() -> None:
    """530 comes as its error class."""
    peer = new_peer(handshake_settings(vhost="nowhere"))
    peer.send(start(), channel=0)
    peer.send(commands.Connection.Tune(2047, 131_072, 60), channel=0)
    assert isinstance(refused(peer, 530, "NOT_ALLOWED - vhost nowhere not found"), NotAllowed)


def test_no_mechanism_in_common() -> None:
    """Both sides' mechanisms are told."""
    peer = new_peer(handshake_settings(mechanism="EXTERNAL", response=b""))
    error = error_of(peer.send(start("PLAIN AMQPLAIN"), channel=0))
    assert type(error) is MechanismNotOffered
    assert "EXTERNAL" in str(error) and "PLAIN AMQPLAIN" in str(error)


def test_many_mechanisms_make_no_long_message() -> None:
    """A list without end is cut."""
    peer = new_peer()
    assert len(str(error_of(peer.send(start("PLAIN-" * 20_000), channel=0)))) < 500


@pytest.mark.parametrize(
    ("steps", "kind"),
    [(0, HandshakeError), (1, PeerLost), (2, PeerLost)],
)
def test_the_socket_ends_in_the_handshake(steps: int, kind: type[AmqpError]) -> None:
    """A broker that went away is no refused login: another try may help."""
    peer = new_peer()
    for one in (start(), commands.Connection.Tune(0, 0, 0))[:steps]:
        peer.send(one, channel=0)
    (event,) = peer.core.lost("connection reset by peer")
    assert isinstance(event, ConnectionClosed)
    assert type(event.error) is kind
    assert "connection reset by peer" in str(event.error)
    assert peer.core.lost("again") == []


def test_closed_before_it_was_open() -> None:
    """A close in the handshake is at once, and nothing is read any more."""
    peer = new_peer()
    peer.core.close()
    assert peer.core.status is Status.CLOSED
    assert peer.send(start(), channel=0) == []
    assert peer.core.lost("the socket ended") == []


out_of_order: list[tuple[int, base.Frame]] = [
    (0, commands.Connection.Tune(0, 0, 0)),
    (0, commands.Connection.OpenOk()),
    (1, commands.Connection.OpenOk()),
    (1, start()),
    (1, commands.Connection.Secure("challenge")),
    (1, commands.Connection.Blocked("memory")),
    (2, start()),
    (2, commands.Connection.Tune(0, 0, 0)),
    (2, commands.Connection.CloseOk()),
]


@pytest.mark.parametrize(("steps", "method"), out_of_order)
def test_methods_out_of_order(steps: int, method: base.Frame) -> None:
    """Each step takes the one method that belongs there."""
    peer = new_peer()
    for one in (start(), commands.Connection.Tune(0, 0, 0))[:steps]:
        peer.send(one, channel=0)
    assert isinstance(error_of(peer.send(method, channel=0)), ProtocolError)


def test_a_channel_before_the_connection_is_open() -> None:
    """Frames of channels have no place in the handshake."""
    peer = new_peer()
    peer.send(start(), channel=0)
    assert isinstance(error_of(peer.send(commands.Channel.OpenOk(), channel=1)), ProtocolError)


def test_a_handshake_after_the_handshake() -> None:
    """A second start on an open connection ends it."""
    peer = open_peer()
    assert_clean_end(peer, peer.send(start(), channel=0))


def test_every_cut_of_the_handshake() -> None:
    """The stream may come in pieces of any size."""
    stream = marshal([start(), commands.Connection.Tune(0, 0, 0), commands.Connection.OpenOk()], 0)
    for size in range(1, len(stream)):
        peer = new_peer()
        events = [event for at in range(0, len(stream), size) for event in peer.receive(stream[at : at + size])]
        assert events == [ConnectionOpened()]


@pytest.mark.parametrize(
    "arguments",
    [
        {"vhost": "v" * 256},
        {"vhost": "ü" * 128},
        {"mechanism": "M" * 256},
        {"client_properties": {"n" * 256: "x"}},
    ],
)
def test_settings_that_do_not_fit(arguments: dict[str, Any]) -> None:
    """What no frame takes is refused when the connection is made, not when the broker asks for it."""
    with pytest.raises(ArgumentError):
        Core(handshake_settings(**arguments), 0.0)


def test_no_secret_in_a_repr() -> None:
    """Neither the settings nor the method show the password."""
    peer = new_peer()
    peer.send(start(), channel=0)
    assert PASSWORD.encode() in peer.core.take_outgoing()
    for shown in (handshake_settings(), peer.core, peer.core._handshake):
        assert PASSWORD not in repr(shown) + str(shown)
