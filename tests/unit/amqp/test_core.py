"""The connection without I/O against a scripted broker: deliveries in every cut, many channels, time, and its end."""

from __future__ import annotations

import random

import pytest
from amqp_peer import (
    FRAME_MAX,
    RETURN_HEADER,
    PeerFrame,
    assert_clean_end,
    contents,
    delivery,
    error_of,
    marshal,
    merged,
    message,
    open_channel,
    open_peer,
    usual_properties,
)
from pamqp import commands, heartbeat

from dispatcher.amqp.core import HEADER_SLACK_BYTES, LEAST_BYTES_PER_SECOND, Status
from dispatcher.amqp.errors import ChannelGone, ConnectionForced, PeerLost
from dispatcher.amqp.events import (
    Answered,
    Blocked,
    ChannelClosed,
    Confirmed,
    ConnectionClosed,
    ConsumerCancelled,
    Content,
    Event,
    FlowChanged,
    Returned,
    Unblocked,
)
from dispatcher.amqp.methods import BasicGet, QueueDeclare

# --- deliveries -------------------------------------------------------------------------------------------------------


def test_a_delivery() -> None:
    """Everything about it is there, decoded when it is asked for."""
    peer = open_peer()
    open_channel(peer, prefetch=10)
    (content,) = peer.send(*delivery(1, b"text", redelivered=True, properties=usual_properties(42)))
    assert isinstance(content, Content)
    assert (content.channel, content.consumer_tag, content.delivery_tag) == (1, b"c1", 1)
    assert (content.redelivered, content.body, content.exchange, content.routing_key) == (
        True,
        b"text",
        "exchange",
        "key",
    )
    properties, expected = content.properties, usual_properties(42)
    assert properties.headers == expected.headers
    assert (properties.content_type, properties.message_id) == (expected.content_type, expected.message_id)
    assert (properties.delivery_mode, properties.priority, properties.timestamp) == (2, 5, 1_764_000_000)


def test_a_delivery_of_names_that_are_no_text() -> None:
    """Names of a stranger that are not UTF-8 cost nothing but their letters."""
    peer = open_peer()
    open_channel(peer, prefetch=10)
    (content,) = peer.receive(marshal(delivery(1, key="k" * 200)).replace(b"k" * 200, b"\xff" * 200))
    assert isinstance(content, Content)
    assert content.routing_key == "\ufffd" * 200


SMALL = [b"x", b"xy" * 5, b"", b"\xce" * 9]
LARGE = [b"x" * 100, b"", bytes(range(256)) * 15, b"x" * 4088, b"x" * 4089, b"x" * 20_000]


def life(bodies: list[bytes]) -> bytes:
    """All that a broker sends on two open channels."""
    ways = [("c1", "key"), ("c1", "another key"), ("c1", "similar key"), ("c2", "key"), ("c1", "")]
    one: list[PeerFrame] = []
    for tag in range(1, 25):
        consumer, key = ways[tag // 2 % len(ways)]
        text = bodies[tag % len(bodies)] if tag > 8 else b"x" * tag
        properties = usual_properties(tag) if tag % 3 else commands.Basic.Properties()
        one += delivery(
            tag, text, consumer=consumer, key=key, redelivered=tag % 5 == 0, properties=properties, part=4088
        )
    back = message(commands.Basic.Return(312, "NO_ROUTE", "exchange", "key"), b"text", usual_properties(3))
    two: list[PeerFrame] = [
        *[commands.Basic.Ack(number) for number in (2, 1)],
        *back,
        commands.Basic.Ack(4, multiple=True),
        commands.Basic.Nack(5),
        *[commands.Basic.Ack(number) for number in range(6, 12)],
        commands.Queue.DeclareOk("queue", 1, 2),
        *message(commands.Basic.GetOk(1, False, "exchange", "key", 0), bodies[-1], part=4088),
        commands.Basic.Cancel("c1"),
        commands.Channel.Flow(False),
        commands.Basic.Ack(12),
        commands.Channel.Close(406, "PRECONDITION_FAILED - timeout", 0, 0),
    ]
    stream = marshal(one[:20], 1)
    for at in range(max(len(one) - 20, len(two))):  # frame by frame in turn: messages of two channels interleave
        stream += marshal(one[20 + at : 21 + at], 1) + marshal(two[at : at + 1], 2)
        if at % 7 == 0:
            stream += marshal([heartbeat.Heartbeat()], 0)
    stream += marshal([commands.Connection.Blocked("memory"), commands.Connection.Unblocked()], 0)
    return stream + marshal([commands.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)], 0)


def events_of(stream: bytes, cuts: list[int]) -> tuple[list[Event], bytes]:
    """What a core makes of `stream` if it comes in pieces that end at `cuts`, and what it answers."""
    peer = open_peer(frame_max=4096)
    open_channel(peer, prefetch=100)
    channel = open_channel(peer, confirms=True)
    for number in range(1, 15):
        channel.publish("exchange", "key", b"\x00\x00", b"", number)
    channel.call(QueueDeclare(queue="queue"), "declare")
    channel.call(BasicGet(queue="queue"), "get")
    peer.core.take_outgoing()
    events: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += peer.receive(stream[start:end])
    last = events[-1]
    assert isinstance(last, ConnectionClosed) and isinstance(last.error, ConnectionForced)
    closed = [event for event in events if isinstance(event, ChannelClosed)]
    assert [str(event.error) for event in closed if event.error] and closed[0].publishes == [13, 14]
    told: list[Event] = [event for event in events if not isinstance(event, ChannelClosed | ConnectionClosed)]
    return merged(told), peer.core.take_outgoing()


def assert_equal_in_every_cut(stream: bytes, cuts: list[list[int]]) -> None:
    whole, answers = events_of(stream, [])
    assert len(contents(whole)) == 24
    assert Returned(2, 3, 312, "NO_ROUTE", "exchange", "key") in whole
    expected = {Confirmed, Returned, Answered, ConsumerCancelled, FlowChanged, Blocked, Unblocked}
    assert {type(event) for event in whole} == {Content, *expected}
    for one in cuts:
        assert events_of(stream, one) == (whole, answers), one


def test_every_cut_of_the_stream_brings_the_same() -> None:
    """Cut in two at every byte: the same events and the same answers."""
    stream = life(SMALL)
    assert_equal_in_every_cut(stream, [[cut] for cut in range(1, len(stream))])


@pytest.mark.parametrize("bodies", [SMALL, LARGE])
def test_pieces_of_every_size_bring_the_same(bodies: list[bytes]) -> None:
    """In equal pieces and at random: the same events and the same answers."""
    stream, generator = life(bodies), random.Random(1)
    sizes = [1, 2, 3, 7, 8, 9, 21, 100, 4095, 4096, 4097]
    cuts = [list(range(size, len(stream), size)) for size in sizes]
    cuts += [sorted(generator.sample(range(1, len(stream)), 30)) for _ in range(50)]
    assert_equal_in_every_cut(stream, cuts)


def test_channels_interleave() -> None:
    """Messages of several channels may come frame by frame in turn."""
    peer = open_peer()
    channels = [open_channel(peer, prefetch=10) for _ in range(5)]
    texts = {channel.number: bytes([channel.number]) * 1000 for channel in channels}
    streams = [[marshal([one], number) for one in delivery(1, text, part=100)] for number, text in texts.items()]
    events = peer.receive(b"".join(b"".join(frames) for frames in zip(*streams, strict=True)))
    assert {content.channel: content.body for content in contents(events)} == texts


def test_a_large_body() -> None:
    """Over many frames, whatever they come with."""
    peer = open_peer()
    open_channel(peer, prefetch=10)
    text = random.Random(1).randbytes(3_000_000)
    assert [content.body for content in contents(peer.send(*delivery(1, text)))] == [text]
    assert [content.body for content in contents(peer.send(*delivery(2, text, part=999)))] == [text]


def test_bodies_keep_nothing_else_in_memory() -> None:
    """A body is bytes of its own, not a view of what it came with."""
    peer = open_peer()
    open_channel(peer, prefetch=10)
    for frames in (delivery(1, b"x"), delivery(2, b"xy", part=1)):
        (content,) = contents(peer.send(*frames))
        assert type(content.body) is bytes and type(content.raw_properties) is bytes


# --- channels ---------------------------------------------------------------------------------------------------------


def test_numbers_of_channels() -> None:
    """A number is taken again only after all others, and no more are taken than agreed."""
    peer = open_peer(channel_max=3)
    one, two = open_channel(peer), open_channel(peer)
    one.close("close")
    peer.send(commands.Channel.CloseOk(), channel=1)
    assert (one.number, two.number, open_channel(peer).number, open_channel(peer).number) == (1, 2, 3, 1)
    with pytest.raises(ChannelGone, match="at most 3 channels"):
        peer.core.open_channel("waiter")
    peer.send(commands.Channel.Close(404, "NOT_FOUND", 0, 0), channel=2)
    assert open_channel(peer).number == 2


def test_no_channel_on_a_connection_that_is_not_open() -> None:
    """Before the handshake, while closing and after the end."""
    peer = open_peer()
    peer.core.close()
    for _ in range(2):
        with pytest.raises(ChannelGone):
            peer.core.open_channel("waiter")
        peer.core.lost("the socket ended")


# --- blocked ----------------------------------------------------------------------------------------------------------


def test_blocked_and_unblocked() -> None:
    """An alarm of the broker's is told with its reason, and its end."""
    peer = open_peer()
    assert peer.send(commands.Connection.Blocked("low on memory"), channel=0) == [Blocked("low on memory")]
    assert peer.send(commands.Connection.Unblocked(), channel=0) == [Unblocked()]


# --- time -------------------------------------------------------------------------------------------------------------


def test_silence_of_two_heartbeats_ends_the_connection() -> None:
    """Any byte is a sign of life; more than two intervals without one end it, once."""
    peer = open_peer(heartbeat_seconds=5)
    for peer.now in (5.0, 10.0):
        assert peer.core.tick(peer.now) == []
    peer.send(heartbeat.Heartbeat(), channel=0)
    peer.now = 19.0
    peer.receive(marshal(delivery(1))[:3])
    peer.now = 29.0
    assert peer.core.tick(peer.now) == []
    error = error_of(peer.core.tick(29.01))
    assert type(error) is PeerLost
    assert "within 10 s" in str(error)
    assert peer.core.tick(100.0) == []
    assert peer.core.lost("the socket ended") == []


def test_a_frame_that_never_ends_is_no_sign_of_life() -> None:
    """One altered byte of a size, and all heartbeats that follow are taken for its content: that is noticed."""
    peer = open_peer(heartbeat_seconds=5)
    open_channel(peer, prefetch=10)
    frame = bytearray(marshal(delivery(1))[:21])
    frame[5] ^= 0x80  # 32 KiB more
    peer.receive(bytes(frame))
    size = int.from_bytes(frame[3:7], "big") + 8
    while peer.now + 5 < 10 + size / LEAST_BYTES_PER_SECOND:
        peer.now += 5
        assert peer.send(heartbeat.Heartbeat(), channel=0) == []
        assert peer.core.tick(peer.now) == []
    peer.now += 5
    peer.send(heartbeat.Heartbeat(), channel=0)
    error = error_of(peer.core.tick(peer.now))
    assert type(error) is PeerLost and f"a frame of {size} bytes" in str(error)


def test_a_large_frame_over_a_slow_link_has_its_time() -> None:
    """As long as it is not slower than a kilobyte a second."""
    peer = open_peer(heartbeat_seconds=1)
    open_channel(peer, prefetch=10)
    stream = marshal(delivery(1, b"x" * 100_000))
    for at in range(0, len(stream), 1024):
        assert peer.core.tick(peer.now) == []
        events = peer.receive(stream[at : at + 1024])
        peer.now += 1
    assert len(contents(events)) == 1


def test_no_heartbeat_no_silence() -> None:
    """Where none were agreed on, silence says nothing; nor does it while closing, which has a deadline of its own."""
    peer = open_peer(heartbeat_seconds=0, settings=None)
    peer.core.close()
    assert peer.core.tick(1_000_000.0) == []


# --- the end ----------------------------------------------------------------------------------------------------------


def test_we_close() -> None:
    """Settlements go before the goodbye; answers that were on their way still count; the end is no error."""
    peer = open_peer()
    channel = open_channel(peer, confirms=True, prefetch=10)
    peer.send(*delivery(1), *delivery(2))
    channel.publish("exchange", "key", b"\x00\x00", b"", "waiter")
    channel.acks.ack(1)
    channel.acks.ack(2)
    peer.core.take_outgoing()
    peer.core.close()
    peer.core.close()
    assert peer.sent_names() == ["Basic.Ack", "Connection.Close"]
    assert peer.core.status is Status.CLOSING
    assert peer.send(commands.Basic.Ack(1), *delivery(3))[0] == Confirmed(1, ["waiter"], True)
    assert peer.send(commands.Connection.CloseOk(), channel=0) == [ConnectionClosed(None)]
    assert peer.core.status is Status.CLOSED
    assert peer.send(commands.Basic.Ack(1)) == []
    assert peer.sent() == []


def test_the_socket_ends_while_closing() -> None:
    """Some brokers just close: that is the end that was asked for."""
    peer = open_peer()
    peer.core.close()
    assert peer.core.lost("the socket ended") == [ConnectionClosed(None)]


def test_both_close() -> None:
    """Closes that cross are an end without an error, and the broker's is answered."""
    peer = open_peer()
    peer.core.close()
    assert peer.send(commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0), channel=0) == [ConnectionClosed(None)]
    assert peer.sent_names() == ["Connection.Close", "Connection.CloseOk"]


def test_the_broker_closes() -> None:
    """Its reason is an error class, it is answered, and what came before it in the same bytes counts."""
    peer = open_peer()
    open_channel(peer, prefetch=10)
    stream = marshal(delivery(1)) + marshal([commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0)], 0)
    content, closed = peer.receive(stream + marshal(delivery(2)))
    assert isinstance(content, Content) and isinstance(closed, ConnectionClosed)
    assert isinstance(closed.error, ConnectionForced)
    assert peer.sent_names() == ["Connection.CloseOk"]
    assert peer.core.lost("the socket ended") == []
    assert peer.core.tick(1_000_000.0) == []


def test_the_socket_ends() -> None:
    """The reason is told, once."""
    peer = open_peer()
    assert str(error_of(peer.core.lost("connection reset by peer"))) == "connection reset by peer"
    assert peer.core.lost("again") == []


def test_a_close_that_nobody_asked_for_is_no_close_ok() -> None:
    """A close-ok without a close ends the connection as any broken peer's."""
    peer = open_peer()
    assert_clean_end(peer, peer.send(commands.Connection.CloseOk(), channel=0))


def test_outgoing_is_taken_once() -> None:
    """Bytes are handed out in order and once."""
    peer = open_peer()
    open_channel(peer).call(QueueDeclare(queue="queue"), "waiter")
    assert peer.sent_names() == ["Queue.Declare"]
    assert peer.core.take_outgoing() == b""


def test_the_largest_frame() -> None:
    """A frame of exactly the agreed size is taken."""
    peer = open_peer()
    open_channel(peer, prefetch=10)
    assert len(contents(peer.send(*delivery(1, b"x" * (FRAME_MAX - 8))))) == 1
    properties = commands.Basic.Properties(headers={RETURN_HEADER: "x" * (FRAME_MAX - 8 - 12 - 2 - 4 - 15)})
    frames = delivery(2, b"x", properties=properties)
    assert len(marshal(frames[1:2])) == FRAME_MAX
    assert len(contents(peer.send(*frames))) == 1


@pytest.mark.parametrize(("more", "taken"), [(HEADER_SLACK_BYTES, True), (HEADER_SLACK_BYTES + 1, False)])
def test_a_header_frame_may_have_grown_on_the_way(more: int, taken: bool) -> None:
    """RabbitMQ adds its notes to headers that filled a frame when they were sent. Within bounds: it is kept whole."""
    for size in (7, 8, 200_000):
        peer = open_peer()
        open_channel(peer, prefetch=10)
        text = "x" * (FRAME_MAX - 8 - 12 - 2 - 4 - 15 + more)
        frames = delivery(1, b"x", properties=commands.Basic.Properties(headers={RETURN_HEADER: text}))
        method, header, body = (marshal(frames[at : at + 1]) for at in range(3))
        assert len(header) == FRAME_MAX + more
        events = peer.receive(method) + peer.receive(header[:size])
        if taken:
            [content] = contents(events + peer.receive(header[size:] + body))
            assert content.properties.headers == {RETURN_HEADER: text}
        else:
            assert_clean_end(peer, events)


@pytest.mark.parametrize("kind", [1, 3])
def test_no_other_frame_may_be_larger(kind: int) -> None:
    """It is refused as soon as its size is known, before a byte of it has come."""
    for claimed in (FRAME_MAX - 8 + 1, 2**32 - 1):
        for extra in (b"", b"x"):
            peer = open_peer()
            open_channel(peer, prefetch=10)
            head = bytes([kind]) + (1).to_bytes(2, "big") + claimed.to_bytes(4, "big")
            assert_clean_end(peer, peer.receive(head + extra))
            assert peer.receive(b"x" * 1000) == []
