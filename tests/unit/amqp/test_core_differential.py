"""Messages and commands through the core, against another implementation at the other end: random values, both ways.

Single methods, tables and properties are compared in the tests of those modules; here are the frames around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from unittest import mock

from amqp_peer import PeerFrame, contents, marshal, message, open_channel, open_peer, unmarshal
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import base, body, commands, header
from table_values import in_bytes, short_texts

from dispatcher.amqp.events import Answered, Confirmed, Content
from dispatcher.amqp.methods import (
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicQos,
    BasicQosOk,
    ExchangeBind,
    ExchangeBindOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    ExchangeDelete,
    ExchangeDeleteOk,
    ExchangeUnbind,
    ExchangeUnbindOk,
    Method,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
    QueueUnbind,
    QueueUnbindOk,
)
from dispatcher.amqp.properties import encode_properties
from dispatcher.amqp.tables import encode_table

FRAME_MAX = 4096
ROOM = FRAME_MAX - 8

exchanges = st.from_regex(r"[A-Za-z0-9_.:@#,/ -]{0,127}", fullmatch=True)  # pamqp takes no others
keys = short_texts
bodies = st.binary(max_size=300) | st.integers(0, 3 * ROOM + 2).map(lambda size: b"\xce" * size)
tables = st.dictionaries(
    st.text(min_size=1, max_size=10),
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20) | st.lists(st.integers(0, 9)),
    max_size=4,
)
TEXTS = ("content_type", "correlation_id", "reply_to", "expiration", "message_id", "type", "user_id", "app_id")
NUMBERS = ("delivery_mode", "priority", "timestamp")
OURS = {"message_type": "type"}
properties = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(TEXTS, st.text(max_size=40)),
        "headers": tables,
        "delivery_mode": st.integers(1, 2),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(1, 2**32 - 1),
    },
)


def theirs(values: dict[str, Any]) -> commands.Basic.Properties:
    named = {{"type": "message_type"}.get(name, name): value for name, value in values.items()}
    if "timestamp" in named:
        named["timestamp"] = datetime.fromtimestamp(named["timestamp"], UTC)
    return commands.Basic.Properties(**named)


def read_by_us(content: Content) -> dict[str, Any]:
    found = {name: getattr(content.properties, name) for name in (*TEXTS, *NUMBERS)}
    return {name: value for name, value in found.items() if value not in (None, "")}


def read_by_them(head: header.ContentHeader) -> dict[str, Any]:
    found = {OURS.get(name, name): value for name, value in head.properties if value not in (None, "", {})}
    if "timestamp" in found:
        found["timestamp"] = int(found["timestamp"].timestamp())
    return {name: in_bytes(value) for name, value in found.items()}


def present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ("", {})}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(short_texts, st.booleans(), exchanges, keys, properties, bodies, st.integers(1, ROOM)), max_size=5
    ),
    st.integers(0, 4),
)
def test_what_they_deliver(messages: list[tuple[Any, ...]], repeat: int) -> None:
    """Deliveries that the other implementation writes are read as they were meant, one after the other or repeated."""
    peer = open_peer(frame_max=FRAME_MAX)
    open_channel(peer)
    expected = [one for one in messages for _ in range(repeat + 1)]
    stream = b""
    for tag, (consumer, redelivered, exchange, key, values, text, part) in enumerate(expected, start=1):
        part = max(part, len(text) // 50 + 1)
        deliver = commands.Basic.Deliver(consumer, tag, redelivered, exchange, key)
        stream += marshal(message(deliver, text, theirs(values), part))
    found = contents(peer.receive(stream))
    assert len(found) == len(expected)
    for tag, (content, sent) in enumerate(zip(found, expected, strict=True), start=1):
        consumer, redelivered, exchange, key, values, text, _ = sent
        assert content.consumer_tag == consumer.encode()
        assert (content.delivery_tag, content.redelivered, content.body) == (tag, redelivered, text)
        assert (content.exchange, content.routing_key) == (exchange, key)
        headers = values.get("headers", {})
        assert {**read_by_us(content), "headers": content.properties.headers} == {**present(values), "headers": headers}


def read_publish(frames: Sequence[tuple[int, PeerFrame]]) -> tuple[commands.Basic.Publish, header.ContentHeader, bytes]:
    (_, publish), (_, head), *parts = frames
    assert isinstance(publish, commands.Basic.Publish) and isinstance(head, header.ContentHeader)
    values = [part.value for _, part in parts if isinstance(part, body.ContentBody)]
    assert len(values) == len(parts) and all(0 < len(value) <= ROOM for value in values)
    return publish, head, b"".join(values)


@settings(max_examples=150, deadline=None)
@given(exchanges, keys, properties, bodies)
def test_what_we_publish(exchange: str, key: str, values: dict[str, Any], text: bytes) -> None:
    """A publish is read by the other implementation as it was meant."""
    peer = open_peer(frame_max=FRAME_MAX)
    channel = open_channel(peer, confirms=True)
    ours = {**values, "headers": encode_table(values["headers"])} if "headers" in values else values
    channel.publish(exchange, key, encode_properties(**ours), text, "waiter")
    publish, head, found = read_publish(peer.sent())
    assert (publish.exchange, publish.routing_key, publish.mandatory, publish.immediate) == (exchange, key, True, False)
    assert (head.body_size, found) == (len(text), text)
    assert read_by_them(head) == present(values)
    assert peer.send(commands.Basic.Ack(1)) == [Confirmed(1, ["waiter"], True)]


calls: list[tuple[st.SearchStrategy[Method], type[Method], st.SearchStrategy[base.Frame]]] = [
    (
        st.builds(
            QueueDeclare,
            queue=exchanges,
            passive=st.booleans(),
            durable=st.booleans(),
            exclusive=st.booleans(),
            auto_delete=st.booleans(),
            arguments=tables,
        ),
        QueueDeclareOk,
        st.builds(commands.Queue.DeclareOk, exchanges, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    ),
    (
        st.builds(
            ExchangeDeclare,
            exchange=exchanges,
            type=keys,
            passive=st.booleans(),
            durable=st.booleans(),
            auto_delete=st.booleans(),
            internal=st.booleans(),
            arguments=tables,
        ),
        ExchangeDeclareOk,
        st.builds(commands.Exchange.DeclareOk),
    ),
    (
        st.builds(QueueBind, queue=exchanges, exchange=exchanges, routing_key=keys, arguments=tables),
        QueueBindOk,
        st.builds(commands.Queue.BindOk),
    ),
    (
        st.builds(QueueUnbind, queue=exchanges, exchange=exchanges, routing_key=keys, arguments=tables),
        QueueUnbindOk,
        st.builds(commands.Queue.UnbindOk),
    ),
    (
        st.builds(ExchangeBind, destination=exchanges, source=exchanges, routing_key=keys, arguments=tables),
        ExchangeBindOk,
        st.builds(commands.Exchange.BindOk),
    ),
    (
        st.builds(ExchangeUnbind, destination=exchanges, source=exchanges, routing_key=keys, arguments=tables),
        ExchangeUnbindOk,
        st.builds(commands.Exchange.UnbindOk),
    ),
    (
        st.builds(QueuePurge, queue=exchanges),
        QueuePurgeOk,
        st.builds(commands.Queue.PurgeOk, st.integers(0, 2**32 - 1)),
    ),
    (
        st.builds(QueueDelete, queue=exchanges, if_unused=st.booleans(), if_empty=st.booleans()),
        QueueDeleteOk,
        st.builds(commands.Queue.DeleteOk, st.integers(0, 2**32 - 1)),
    ),
    (
        st.builds(ExchangeDelete, exchange=exchanges, if_unused=st.booleans()),
        ExchangeDeleteOk,
        st.builds(commands.Exchange.DeleteOk),
    ),
    (st.builds(BasicQos, prefetch_count=st.integers(0, 65_535)), BasicQosOk, st.builds(commands.Basic.QosOk)),
    (
        st.builds(BasicConsume, queue=exchanges, consumer_tag=keys, exclusive=st.booleans(), arguments=tables),
        BasicConsumeOk,
        st.builds(commands.Basic.ConsumeOk, keys),
    ),
    (st.builds(BasicCancel, consumer_tag=keys), BasicCancelOk, st.builds(commands.Basic.CancelOk, keys)),
]
one_call = st.one_of([st.tuples(asked, st.just(answer), reply) for asked, answer, reply in calls])

PAMQPS_NAMES = {"no_wait": "nowait", "type": "exchange_type"}


def assert_same(ours: Method, other: base.Frame) -> None:
    """Every field has one value in both."""
    assert type(ours).__name__ == other.name.replace(".", "")
    for name in ours.__struct_fields__:
        assert getattr(ours, name) == in_bytes(getattr(other, PAMQPS_NAMES.get(name, name))), name


@settings(max_examples=100, deadline=None)
@given(st.lists(one_call, min_size=1, max_size=4))
def test_calls_and_answers(asked: list[tuple[Method, type[Method], base.Frame]]) -> None:
    """Pipelined commands are read by the other implementation, and its answers by ours, as they were meant."""
    peer = open_peer()
    channel = open_channel(peer)
    for number, (method, _, _) in enumerate(asked):
        channel.call(method, number)
    with mock.patch.object(commands.Exchange.Declare, "validate", lambda self: None):  # it wants a type that it knows
        sent = unmarshal(peer.core.take_outgoing())
    for (method, _, _), (_, frame) in zip(asked, sent, strict=True):
        assert isinstance(frame, base.Frame)
        assert_same(method, frame)
    events = peer.send(*[reply for _, _, reply in asked])
    for number, ((_, kind, reply), event) in enumerate(zip(asked, events, strict=True)):
        assert isinstance(event, Answered) and type(event.method) is kind
        assert event.waiter == number
        assert_same(event.method, reply)


settlements = st.lists(st.tuples(st.integers(1, 20), st.sampled_from(["ack", "nack"])), max_size=20)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2047), settlements)
def test_what_we_settle(number: int, settled: list[tuple[int, str]]) -> None:
    """Acks and nacks are read by the other implementation on their channel, and nacks hand back."""
    peer = open_peer()
    peer.core._last_number = number - 1
    channel = open_channel(peer, prefetch=20)
    assert channel.number == number
    for tag in range(1, 21):
        peer.send(*message(commands.Basic.Deliver("c1", tag, False, "", "key"), b""), channel=number)
    for tag, how in settled:
        channel.acks.ack(tag) if how == "ack" else channel.acks.nack(tag)
    channel.flush_settlements()
    for on, frame in peer.sent():
        assert on == number
        assert isinstance(frame, commands.Basic.Ack) or (isinstance(frame, commands.Basic.Nack) and frame.requeue)
