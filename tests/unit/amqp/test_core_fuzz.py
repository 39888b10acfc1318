"""A hostile or broken broker: it gets events or one clean close, never an exception, and never memory without bound."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from amqp_peer import (
    FRAME_MAX,
    Peer,
    PeerFrame,
    assert_clean_end,
    contents,
    delivery,
    error_of,
    handshake_settings,
    marshal,
    message,
    new_peer,
    open_channel,
    open_peer,
    start,
    usual_properties,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import body, commands, header, heartbeat

from dispatcher.amqp.channel_state import ChannelState
from dispatcher.amqp.core import HEADER_SLACK_BYTES, Core, Status
from dispatcher.amqp.errors import ProtocolError
from dispatcher.amqp.events import Answered, ChannelClosed, Confirmed, ConnectionClosed, Event
from dispatcher.amqp.methods import BasicGet, QueueDeclare

MIB = 1024 * 1024
DELIVER = marshal(delivery(1)[:1])
HEADER = marshal(delivery(1)[1:2])
BODY = marshal(delivery(1)[2:3])
ACK = marshal([commands.Basic.Ack(1)])
WHOLE = DELIVER + HEADER + BODY


def raw(kind: int, channel: int, payload: bytes, end: int = 0xCE) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def content_header(size: int, *, class_id: int = 60, properties: bytes = b"\x00\x00") -> bytes:
    return raw(2, 1, struct.pack(">HHQ", class_id, 0, size) + properties)


def deliver(arguments: bytes) -> bytes:
    return raw(1, 1, b"\x00\x3c\x00\x3c" + arguments)


def consuming() -> Peer:
    """A channel with a consumer, and one publish to be confirmed."""
    peer = open_peer()
    open_channel(peer, prefetch=100, confirms=True).publish("exchange", "key", b"\x00\x00", b"", "waiter")
    peer.core.take_outgoing()
    return peer


@contextmanager
def memory_bound(limit: int) -> Iterator[None]:
    """At most `limit` bytes more are in use at any time of the block."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        used = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert used <= limit, f"{used} bytes"


BROKEN = {
    "a frame of 4 GiB": b"\x01\x00\x01\xff\xff\xff\xff\x00",
    "a frame larger than agreed": struct.pack(">BHI", 3, 1, FRAME_MAX - 7) + b"\x00",
    "a header larger than agreed": DELIVER
    + content_header(6, properties=b"\x00" * (FRAME_MAX + HEADER_SLACK_BYTES))
    + BODY,
    "a body frame larger than agreed": DELIVER + content_header(FRAME_MAX) + raw(3, 1, b"x" * FRAME_MAX),
    "a method with a wrong end": DELIVER[:-1] + b"\xcd" + HEADER + BODY,
    "a header with a wrong end": DELIVER + HEADER[:-1] + b"\xcd" + BODY,
    "a body with a wrong end": DELIVER + HEADER + BODY[:-1] + b"\xcd",
    "a confirm with a wrong end": raw(1, 1, b"\x00\x3c\x00\x50" + b"\x00" * 8 + b"\x01", end=0),
    "a second confirm with a wrong end": ACK + ACK[:-1] + b"\xcd",
    "a frame of no type": raw(4, 1, b"text"),
    "a frame of type zero": raw(0, 1, b"text"),
    "a method on no channel": marshal(delivery(1), 2),
    "an answer on no channel": marshal([commands.Queue.BindOk()], 65_535),
    "a header on no channel": DELIVER + marshal(delivery(1)[1:2], 2),
    "a body on no channel": DELIVER + HEADER + marshal(delivery(1)[2:3], 2),
    "content on channel 0": marshal(delivery(1)[1:2], 0),
    "a header without a method": HEADER,
    "a body without a method": BODY,
    "a body without a header": DELIVER + BODY,
    "a second header": DELIVER + content_header(100) + content_header(100),
    "a delivery in a message": DELIVER + HEADER + WHOLE,
    "a delivery before a header": DELIVER + WHOLE,
    "a confirm in a message": DELIVER + HEADER + ACK,
    "a method in a message": DELIVER + HEADER + marshal([commands.Basic.Cancel("c1")]),
    "a header of another class": DELIVER + content_header(6, class_id=50) + BODY,
    "a header that is cut": DELIVER + raw(2, 1, b"\x00\x3c\x00\x00"),
    "a header without flags": DELIVER + raw(2, 1, struct.pack(">HHQ", 60, 0, 6)) + BODY,
    "a body longer than said": DELIVER + content_header(5) + BODY,
    "a body longer than said, in parts": DELIVER + content_header(8) + BODY + BODY,
    "a body of more than 128 MiB": DELIVER + content_header(128 * MIB + 1),
    "a body without end": DELIVER + content_header(2**64 - 1),
    "a method of no class": raw(1, 1, b"\x00\x5a\x00\x0a"),
    "a method that is none": raw(1, 1, b"\x00\x3c\x03\xe7"),
    "a method that is empty": raw(1, 1, b""),
    "a method that is cut": raw(1, 1, b"\x00\x3c"),
    "a cut ack": raw(1, 1, b"\x00\x3c\x00\x50" + b"\x00" * 7 + b"\x01"),
    "an ack with more": raw(1, 1, b"\x00\x3c\x00\x50" + b"\x00" * 7 + b"\x01\x00\x00"),
    "a delivery of nothing": deliver(b""),
    "a delivery that is cut": deliver(b"\x02c1" + b"\x00" * 8),
    "a delivery of a cut tag": deliver(b"\xffc1" + b"\x00" * 7 + b"\x01\x00\x00\x00"),
    "a delivery of a cut exchange": deliver(b"\x02c1" + b"\x00" * 7 + b"\x01\x00\x09ex"),
    "a delivery of a cut key": deliver(b"\x02c1" + b"\x00" * 7 + b"\x01\x00\x02ex\x05k"),
    "a delivery with more": deliver(b"\x02c1" + b"\x00" * 7 + b"\x01\x00\x02ex\x01kk"),
    "a delivery that jumps": WHOLE + marshal(delivery(3)),
    "a delivery again": WHOLE + WHOLE,
    "a delivery that is none": marshal(delivery(0)),
    "an empty delivery that jumps": marshal(delivery(2, b"")),
    "a delivery that jumps, in parts": marshal(delivery(2, b"text", part=1)),
    "a return that is cut": raw(1, 1, b"\x00\x3c\x00\x32\x01\x38"),
    "a return of broken headers": raw(1, 1, b"\x00\x3c\x00\x32\x01\x38\x00\x00\x00")
    + content_header(0, properties=b"\x20\x00\x00\x00\x00\xff"),
    "a return of endless tables": raw(1, 1, b"\x00\x3c\x00\x32\x01\x38\x00\x00\x00")
    + content_header(
        0, properties=b"\x20\x00" + b"".join(struct.pack(">I", 6 * n) + b"\x00F" for n in range(15_000, 0, -1))
    ),
    "a heartbeat on a channel": raw(8, 1, b""),
    "a heartbeat with more": raw(8, 0, b"x"),
    "a message that was not asked for": marshal(message(commands.Basic.GetOk(1, False, "", "", 0), b"")),
    "the broker's refusal": b"AMQP\x00\x00\x09\x01",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a method of the other side": marshal([commands.Basic.Publish(exchange="x")]),
    "a channel's method on channel 0": marshal([commands.Channel.Flow(True)], 0),
    "a connection's method on a channel": marshal([commands.Connection.Unblocked()], 1),
    "a text that is endless": raw(1, 0, b"\x00\x0a\x00\x32" + b"\x01\x2c" + b"\xff" * 256),
}


@pytest.mark.parametrize("size", [1, 50, 10**9])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream(name: str, size: int) -> None:
    """However it is cut, it ends the connection with a reason and a farewell."""
    peer = consuming()
    stream = BROKEN[name]
    events = [event for at in range(0, len(stream), size) for event in peer.receive(stream[at : at + size])]
    assert isinstance(error_of(events), ProtocolError)
    assert peer.core.status is Status.CLOSED
    assert peer.sent_names() == ["Connection.Close"]
    assert peer.receive(WHOLE) == []


def test_what_came_before_the_fault_counts() -> None:
    """Whole messages before the broken one are delivered."""
    peer = consuming()
    events = peer.receive(WHOLE + marshal(delivery(2)) + b"\xff" * 100)
    assert [content.delivery_tag for content in contents(events)] == [1, 2]
    assert_clean_end(peer, events)


def test_a_fault_after_our_close() -> None:
    """It ends the connection without a second close."""
    peer = consuming()
    peer.core.close()
    events = peer.receive(b"\xff" * 100)
    assert isinstance(error_of(events), ProtocolError)
    assert peer.sent_names() == ["Connection.Close"]


def test_deep_tables_of_a_message() -> None:
    """They cost nothing until somebody looks, and then an error or a table: 60 deep is fine, without end is not."""
    peer = consuming()
    for tag, depth in ((1, 60), (2, 2_000)):
        nested = b""
        for _ in range(depth):
            nested = b"\x01tF" + struct.pack(">I", len(nested)) + nested
        table = struct.pack(">I", len(nested)) + nested
        stream = marshal(delivery(tag)[:1]) + content_header(6, properties=b"\x20\x00" + table) + BODY
        (content,) = contents(peer.receive(stream))
        if depth == 60:
            assert list(content.properties.headers) == ["t"]
        else:
            with pytest.raises(ProtocolError):
                _ = content.properties.headers


# --- memory and time --------------------------------------------------------------------------------------------------


def test_claims_allocate_nothing() -> None:
    """Sizes that are only claimed take no memory, neither of a frame nor of a body."""
    for claim in (
        b"\x03\x00\x01\xff\xff\xff\xff",
        DELIVER + content_header(128 * MIB),
        DELIVER + content_header(2**60),
    ):
        peer = consuming()
        with memory_bound(MIB // 4):
            peer.receive(claim)
            peer.receive(raw(3, 1, b"x" * 1000)[:500])


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(raw(3, 1, b""), id="empty parts of a body"),
        pytest.param(raw(3, 1, b"x"), id="a body byte by byte"),
        pytest.param(marshal([heartbeat.Heartbeat()], 0), id="heartbeats"),
    ],
)
def test_endless_frames_fill_no_memory(frame: bytes) -> None:
    """Fifty thousand frames of next to nothing are kept as next to nothing."""
    peer = consuming()
    peer.receive(DELIVER + content_header(10 * MIB))
    with memory_bound(MIB // 4):
        for _ in range(50):
            assert peer.receive(frame * 1000) == []


def test_a_large_body_is_kept_once() -> None:
    """What a message needs while it comes is its own size, once more when it is complete."""
    peer = consuming()
    part = raw(3, 1, b"x" * 65_536)
    with memory_bound(5 * 8 * MIB // 2):
        peer.receive(DELIVER + content_header(8 * MIB))
        events = [event for _ in range(8 * MIB // 65_536) for event in peer.receive(part)]
        assert [len(content.body) for content in contents(events)] == [8 * MIB]


class CountingCore(Core):
    """Counts how many bytes it looks at."""

    looked_at = 0

    def _slice(self, data: bytes, events: list[Event]) -> int:
        self.looked_at += len(data)
        return super()._slice(data, events)


def test_a_frame_byte_by_byte_is_looked_at_once() -> None:
    """The work is that of the bytes that came, not of their square."""
    core = CountingCore(handshake_settings(), 0.0)
    stream = marshal([start(), commands.Connection.Tune(0, 0, 0), commands.Connection.OpenOk()], 0)
    stream += raw(1, 0, b"\x00\x0a\x00\x3c" + b"x" * 100_000)
    events = [event for at in range(len(stream)) for event in core.receive(stream[at : at + 1], 0.0)]
    assert isinstance(error_of(events), ProtocolError)
    assert core.looked_at < 2 * len(stream)


def test_closing_drops_what_comes() -> None:
    """A channel that waits for its close-ok keeps nothing of the messages that come."""
    peer = open_peer()
    channel = open_channel(peer, prefetch=100)
    channel.close("close")
    stream = marshal(delivery(1, b"x" * 100_000)[:-1]) + raw(3, 1, b"x" * 100_000)
    with memory_bound(MIB):
        for _ in range(100):
            assert peer.receive(stream) == []


# --- garbage ----------------------------------------------------------------------------------------------------------


def busy() -> tuple[Peer, list[ChannelState]]:
    """A consumer on channel 1; publishes, calls and confirms on channel 2."""
    peer = open_peer(frame_max=4096)
    consumer = open_channel(peer, prefetch=5)
    publisher = open_channel(peer, confirms=True)
    for number in range(1, 11):
        publisher.publish("exchange", "key", b"\x00\x00", b"", number)
    publisher.call(QueueDeclare(queue="queue"), "declare")
    publisher.call(BasicGet(queue="queue"), "get")
    peer.core.take_outgoing()
    return peer, [consumer, publisher]


SESSION: list[tuple[int, Sequence[PeerFrame]]] = [
    (1, delivery(1)),
    (1, delivery(2, properties=usual_properties())),
    (1, delivery(3, b"x" * 5000, part=4088)),
    (2, [commands.Basic.Ack(1)]),
    (2, [commands.Basic.Ack(3, multiple=True)]),
    (2, message(commands.Basic.Return(312, "NO_ROUTE", "", "key"), b"text", usual_properties(4))),
    (2, [commands.Basic.Nack(4)]),
    (0, [heartbeat.Heartbeat()]),
    (1, delivery(4, b"")),
    (2, [commands.Queue.DeclareOk("queue", 0, 0)]),
    (2, message(commands.Basic.GetOk(1, False, "", "queue", 0), b"text")),
    (0, [commands.Connection.Blocked("memory"), commands.Connection.Unblocked()]),
    (1, [commands.Basic.Cancel("c1"), commands.Channel.Flow(False)]),
    (2, [commands.Channel.Close(404, "NOT_FOUND", 0, 0)]),
    (0, [commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0)]),
]
STREAM = b"".join(marshal(frames, channel) for channel, frames in SESSION)
FRAMES = [marshal([one], channel) for channel, frames in SESSION for one in frames] + [
    marshal([one], channel)
    for one in (
        header.ContentHeader(body_size=3),
        body.ContentBody(b"abc"),
        commands.Basic.Deliver("c1", 5, False, "", ""),
        commands.Channel.OpenOk(),
        commands.Channel.CloseOk(),
        commands.Basic.Ack(0, multiple=True),
    )
    for channel in (1, 2, 3)
]


def feed(peer: Peer, channels: list[ChannelState], stream: bytes, cuts: Sequence[int]) -> None:
    """Let `peer` receive `stream`, and hold what must hold whatever it is."""
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for at, end in zip(edges, edges[1:], strict=False):
        events += peer.receive(stream[at:end])
    closed = [event for event in events if isinstance(event, ConnectionClosed)]
    assert len(closed) == (peer.core.status is Status.CLOSED)
    sent = peer.sent_names()
    if closed:
        assert events[-1] is closed[0]
        assert closed[0].error is not None
        farewell = "Connection.Close" if isinstance(closed[0].error, ProtocolError) else "Connection.CloseOk"
        assert sent[-1] == farewell
        assert peer.core.lost("the socket ended") == []
    else:
        assert "Connection.Close" not in sent
        assert len(peer.core._rest) <= FRAME_MAX
    assert_ledger(events, channels)
    for content in contents(events):
        assert isinstance(content.exchange + content.routing_key, str)
        try:
            assert content.properties.content_type is None or content.properties.headers is not None
        except ProtocolError:
            pass  # only looking at it may say so


def assert_ledger(events: Sequence[Event], channels: list[ChannelState]) -> None:
    """Every publish and every call is answered or named as lost, once; deliveries count up."""
    calls: list[object] = [event.waiter for event in events if isinstance(event, Answered)]
    publishes: list[object] = []
    for event in events:
        if isinstance(event, Confirmed):
            publishes += event.waiters
        elif isinstance(event, ChannelClosed):
            publishes += event.publishes
            calls += event.calls
    for channel in channels:
        left, unanswered = channel.abandon()
        calls += left
        publishes += unanswered
    assert sorted(publishes, key=str) == sorted(range(1, 11), key=str)
    assert sorted(calls, key=str) == ["declare", "get"]
    tags = [content.delivery_tag for content in contents(events)]
    assert tags == list(range(1, len(tags) + 1))


positions = st.integers(0, len(STREAM) - 1)
mutations: list[st.SearchStrategy[Callable[[bytes], bytes]]] = [
    st.builds(lambda at, byte: lambda s: s[:at] + bytes([byte]) + s[at + 1 :], positions, st.integers(0, 255)),
    st.builds(lambda at, size: lambda s: s[:at] + s[at + size :], positions, st.integers(1, 50)),
    st.builds(lambda at, more: lambda s: s[:at] + more + s[at:], positions, st.binary(min_size=1, max_size=30)),
    st.builds(lambda at, size: lambda s: s[: at + size] + s[at:], positions, st.integers(1, 500)),
    st.builds(lambda at: lambda s: s[:at], positions),
    st.builds(
        lambda at, byte: lambda s: s[:at] + s[at:].replace(bytes([byte]), b"\xff", 1), positions, st.integers(0, 9)
    ),
]
cuts = st.lists(st.integers(0, 2**20), max_size=5)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(mutations), min_size=1, max_size=4), cuts)
def test_a_mutated_session(changes: list[Callable[[bytes], bytes]], at: list[int]) -> None:
    """A valid stream with bytes changed, lost, added or repeated."""
    stream = STREAM
    for change in changes:
        stream = change(stream)
    peer, channels = busy()
    feed(peer, channels, stream, at)


def test_every_byte_changed() -> None:
    """Every byte of the session in turn, to the least, the most and a neighbour."""
    for at in range(0, len(STREAM), 1 if len(STREAM) < 1500 else 9):
        peer, channels = busy()
        feed(peer, channels, STREAM[:at] + bytes([STREAM[at] ^ (1, 0x80, 0xFF)[at % 3]]) + STREAM[at + 1 :], [])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(FRAMES), max_size=12), cuts)
def test_frames_in_any_order(frames: list[bytes], at: list[int]) -> None:
    """Frames that are right, where they don't belong."""
    peer, channels = busy()
    feed(peer, channels, b"".join(frames), at)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            raw,
            st.sampled_from([1, 1, 1, 2, 3, 8, 0]),
            st.integers(0, 3),
            st.builds(
                lambda index, rest: index + rest,
                st.sampled_from(
                    [b"", b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x32", b"\x00\x14\x00\x28"]
                ),
                st.binary(max_size=40),
            ),
        ),
        max_size=4,
    ),
    cuts,
)
def test_frames_of_garbage(frames: list[bytes], at: list[int]) -> None:
    """Frames that are whole, of bytes that mean nothing."""
    peer, channels = busy()
    feed(peer, channels, b"".join(frames), at)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), cuts)
def test_garbage_instead_of_a_handshake(stream: bytes, at: list[int]) -> None:
    """Nothing but events comes out, and the password is sent to nobody who did not ask for it."""
    peer = new_peer()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in at), len(stream)]
    events = [event for begin, end in zip(edges, edges[1:], strict=False) for event in peer.receive(stream[begin:end])]
    assert [type(event) for event in events] == [ConnectionClosed] * (peer.core.status is Status.CLOSED)
    assert [name for name in peer.sent_names() if name == "Connection.StartOk"] == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutated_handshake(data: st.DataObject) -> None:
    """A handshake with one byte changed opens the connection or ends it, with no exception."""
    stream = marshal([start(), commands.Connection.Tune(2047, 131_072, 60), commands.Connection.OpenOk()], 0)
    at = data.draw(st.integers(0, len(stream) - 1))
    changed = stream[:at] + bytes([data.draw(st.integers(0, 255))]) + stream[at + 1 :]
    peer = new_peer()
    events = peer.receive(changed)
    assert sum(isinstance(event, ConnectionClosed) for event in events) == (peer.core.status is Status.CLOSED)
    peer.core.lost("the socket ended")
    assert peer.core.status is Status.CLOSED
