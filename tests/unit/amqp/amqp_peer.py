"""The broker's end of a `Core`, built on another implementation of the protocol: what it reads and writes, pamqp does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from pamqp import base, body, commands, frame, header, heartbeat

from dispatcher.amqp.channel_state import ChannelState
from dispatcher.amqp.core import Core, Status
from dispatcher.amqp.events import Answered, Confirmed, ConnectionClosed, ConnectionOpened, Content, Event
from dispatcher.amqp.handshake import HandshakeSettings
from dispatcher.amqp.methods import BasicConsume, BasicQos

PeerFrame: TypeAlias = (
    base.Frame | body.ContentBody | header.ContentHeader | header.ProtocolHeader | heartbeat.Heartbeat
)

FRAME_MAX = 131_072
RETURN_HEADER = "x-publish"
PASSWORD = "a secret nobody may see"


def handshake_settings(
    *,
    mechanism: str = "PLAIN",
    response: bytes = b"\x00guest\x00" + PASSWORD.encode(),
    vhost: str = "/",
    heartbeat_seconds: int = 10,
    client_properties: dict[str, Any] | None = None,
) -> HandshakeSettings:
    return HandshakeSettings(
        mechanism=mechanism,
        response=response,
        vhost=vhost,
        heartbeat_seconds=heartbeat_seconds,
        client_properties=client_properties or {"product": "Dispatcher"},
    )


def start(mechanisms: str = "PLAIN AMQPLAIN") -> commands.Connection.Start:
    return commands.Connection.Start(
        server_properties={"product": "RabbitMQ", "version": "3.10.8", "capabilities": {"basic.nack": True}},
        mechanisms=mechanisms,
    )


def unmarshal(data: bytes) -> list[tuple[int, PeerFrame]]:
    """Every frame of `data`, which must be whole, with its channel."""
    frames = []
    while data:
        size, channel, one = frame.unmarshal(data)
        frames.append((channel, one))
        data = data[size:]
    return frames


def message(
    method: base.Frame,
    body_bytes: bytes,
    properties: commands.Basic.Properties | None = None,
    part: int = FRAME_MAX - 8,
) -> list[PeerFrame]:
    """The frames of a message that `method` announces, its body in frames of `part` bytes."""
    return [
        method,
        header.ContentHeader(body_size=len(body_bytes), properties=properties or commands.Basic.Properties()),
        *(body.ContentBody(body_bytes[at : at + part]) for at in range(0, len(body_bytes), part)),
    ]


def delivery(
    tag: int,
    body_bytes: bytes = b"a body",
    *,
    consumer: str = "c1",
    redelivered: bool = False,
    key: str = "key",
    properties: commands.Basic.Properties | None = None,
    part: int = FRAME_MAX - 8,
) -> list[PeerFrame]:
    return message(commands.Basic.Deliver(consumer, tag, redelivered, "exchange", key), body_bytes, properties, part)


def usual_properties(number: int = 1) -> commands.Basic.Properties:
    """What a task's message has."""
    return commands.Basic.Properties(
        content_type="application/json",
        headers={RETURN_HEADER: number, "x-text": "grün", "x-none": None},
        delivery_mode=2,
        priority=5,
        message_id="0190163d-8694-739b-aea5-966c26f8ad90",
        timestamp=datetime.fromtimestamp(1_764_000_000, UTC),
    )


def marshal(frames: Iterable[PeerFrame], channel: int = 1) -> bytes:
    return b"".join(frame.marshal(one, channel) for one in frames)


class Peer:
    """A core and its broker. `now` is the clock of both."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.now = 0.0

    def send(self, *frames: PeerFrame, channel: int = 1) -> list[Event]:
        """Let the core receive `frames`; what that brings."""
        return self.receive(marshal(frames, channel))

    def receive(self, data: bytes) -> list[Event]:
        return self.core.receive(data, self.now)

    def sent(self) -> list[tuple[int, PeerFrame]]:
        """What the core has sent since the last call."""
        return unmarshal(self.core.take_outgoing())

    def sent_names(self) -> list[str]:
        return [one.name for _, one in self.sent()]


def new_peer(settings: HandshakeSettings | None = None, **arguments: Any) -> Peer:
    """A core that has sent nothing yet."""
    return Peer(Core(settings or handshake_settings(), 0.0, **arguments))


def open_peer(
    *, channel_max: int = 2047, frame_max: int = FRAME_MAX, heartbeat_seconds: int = 10, **arguments: Any
) -> Peer:
    """A core whose connection is open."""
    peer = new_peer(**arguments)
    assert peer.send(start(), channel=0) == []
    assert peer.send(commands.Connection.Tune(channel_max, frame_max, heartbeat_seconds), channel=0) == []
    assert peer.send(commands.Connection.OpenOk(), channel=0) == [ConnectionOpened()]
    peer.core.take_outgoing()
    return peer


def open_channel(peer: Peer, *, confirms: bool = False, prefetch: int | None = None) -> ChannelState:
    """A channel that the broker has opened, in confirm mode or with a consumer if asked for."""
    waiter = object()
    channel = peer.core.open_channel(waiter)
    (answered,) = peer.send(commands.Channel.OpenOk(), channel=channel.number)
    assert isinstance(answered, Answered) and answered.waiter is waiter
    if confirms:
        channel.select_confirms(waiter, return_header=RETURN_HEADER)
        peer.send(commands.Confirm.SelectOk(), channel=channel.number)
    if prefetch is not None:
        channel.call(BasicQos(prefetch_count=prefetch), waiter)
        channel.call(BasicConsume(queue="queue", consumer_tag="c1"), waiter)
        peer.send(commands.Basic.QosOk(), commands.Basic.ConsumeOk("c1"), channel=channel.number)
    peer.core.take_outgoing()
    return channel


def error_of(events: Sequence[Event]) -> Exception | None:
    """Why the connection ended: the last event must say so, and no other."""
    assert [type(event) for event in events].count(ConnectionClosed) == 1
    last = events[-1]
    assert isinstance(last, ConnectionClosed)
    return last.error


def merged(events: Iterable[Event]) -> list[Event]:
    """`events` with confirms of one channel that follow one another in one: how many there are depends on the reads."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if (
            isinstance(event, Confirmed)
            and isinstance(last, Confirmed)
            and (event.channel, event.accepted) == (last.channel, last.accepted)
        ):
            result[-1] = Confirmed(event.channel, [*last.waiters, *event.waiters], event.accepted)
        else:
            result.append(event)
    return result


def contents(events: Iterable[Event]) -> list[Content]:
    return [event for event in events if isinstance(event, Content)]


def assert_clean_end(peer: Peer, events: Sequence[Event]) -> None:
    """A peer that broke the protocol on an open connection: one `ConnectionClosed` with an error, and a farewell."""
    assert error_of(events) is not None
    assert peer.core.status is Status.CLOSED
    assert peer.sent_names()[-1] == "Connection.Close"
    assert peer.receive(b"\x00" * 1000) == []
