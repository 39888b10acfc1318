"""One channel through its whole life: calls, publishes, confirms, returns, consumers, and every way it ends."""

from __future__ import annotations

import pytest
from amqp_peer import (
    RETURN_HEADER,
    Peer,
    assert_clean_end,
    contents,
    delivery,
    marshal,
    message,
    open_channel,
    open_peer,
    usual_properties,
)
from pamqp import base, body, commands, header

from dispatcher.amqp.channel_state import MAX_CACHED_ROUTES, WINDOWS, ChannelState, ChannelStatus
from dispatcher.amqp.core import Status
from dispatcher.amqp.errors import ChannelGone, NotFound, PreconditionFailed
from dispatcher.amqp.events import (
    Answered,
    ChannelClosed,
    Confirmed,
    ConsumerCancelled,
    FlowChanged,
    Returned,
)
from dispatcher.amqp.methods import (
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicQos,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
    QueueDeclareOk,
)
from dispatcher.amqp.properties import encode_properties
from dispatcher.amqp.tables import encode_table
from dispatcher.errors import ArgumentError


@pytest.fixture
def peer() -> Peer:
    return open_peer()


def publishes(channel: ChannelState, count: int) -> list[str]:
    """Publish `count` messages, each with its number in the header that returns are matched by."""
    assert channel.confirms is not None
    waiters = []
    for _ in range(count):
        number = channel.confirms.last + 1
        waiters.append(f"waiter {number}")
        raw = encode_properties(headers=encode_table({RETURN_HEADER: number}), delivery_mode=2)
        assert channel.publish("exchange", "key", raw, b"a body", waiters[-1]) == number
    return waiters


# --- calls ------------------------------------------------------------------------------------------------------------


def test_calls_are_pipelined_and_answered_in_order(peer: Peer) -> None:
    """Commands may follow the opening of a channel at once; each answer goes to who asked."""
    channel = peer.core.open_channel("open")
    channel.call(ExchangeDeclare(exchange="exchange", durable=True), "exchange")
    channel.call(QueueDeclare(queue="queue", durable=True, arguments={"x-queue-type": "quorum"}), "queue")
    channel.call(QueueBind(queue="queue", exchange="exchange", routing_key="key"), "bind")
    sent = peer.sent()
    assert [number for number, _ in sent] == [1, 1, 1, 1]
    assert [frame.name for _, frame in sent] == ["Channel.Open", "Exchange.Declare", "Queue.Declare", "Queue.Bind"]
    declare = sent[2][1]
    assert isinstance(declare, commands.Queue.Declare)
    assert (declare.queue, declare.durable, declare.passive) == ("queue", True, False)
    assert declare.arguments == {"x-queue-type": "quorum"}
    events = peer.send(
        commands.Channel.OpenOk(),
        commands.Exchange.DeclareOk(),
        commands.Queue.DeclareOk("queue", 7, 2),
        commands.Queue.BindOk(),
    )
    answers = [event for event in events if isinstance(event, Answered)]
    assert [answer.waiter for answer in answers] == ["open", "exchange", "queue", "bind"]
    assert answers[2].method == QueueDeclareOk("queue", 7, 2)


@pytest.mark.parametrize(
    "answer",
    [
        commands.Queue.BindOk(),
        commands.Basic.ConsumeOk("c1"),
        commands.Channel.OpenOk(),
        commands.Channel.CloseOk(),
        commands.Queue.Declare(queue="queue"),
        commands.Connection.OpenOk(),
    ],
)
def test_the_wrong_answer(peer: Peer, answer: base.Frame) -> None:
    """An answer to what was not asked ends the connection."""
    open_channel(peer).call(QueueDeclare(queue="queue"), "queue")
    peer.core.take_outgoing()
    assert_clean_end(peer, peer.send(answer))


def test_an_answer_to_nothing(peer: Peer) -> None:
    """An answer nobody waits for ends the connection."""
    open_channel(peer)
    assert_clean_end(peer, peer.send(commands.Queue.DeclareOk("queue", 0, 0)))


def test_get(peer: Peer) -> None:
    """A message that was got comes with the answer, and is numbered with the deliveries."""
    channel = open_channel(peer)
    for waiter in ("full", "empty", "again"):
        channel.call(BasicGet(queue="queue"), waiter)
    events = peer.send(
        *message(commands.Basic.GetOk(1, True, "exchange", "key", 3), b"text", usual_properties()),
        commands.Basic.GetEmpty(),
        *message(commands.Basic.GetOk(2, False, "", "queue", 0), b""),
    )
    full, empty, again = [event for event in events if isinstance(event, Answered)]
    assert (full.waiter, empty.waiter, again.waiter) == ("full", "empty", "again")
    assert full.content is not None and again.content is not None and empty.content is None
    assert (full.content.delivery_tag, full.content.redelivered, full.content.body) == (1, True, b"text")
    assert (full.content.exchange, full.content.routing_key, full.content.consumer_tag) == ("exchange", "key", b"")
    assert full.content.route == b"\x08exchange\x03key"
    assert full.content.properties.message_id == usual_properties().message_id
    assert (again.content.delivery_tag, again.content.body, again.content.routing_key) == (2, b"", "queue")
    peer.core.take_outgoing()
    channel.acks.ack(1)
    channel.acks.ack(2)
    channel.flush_settlements()
    ((_, ack),) = peer.sent()
    assert isinstance(ack, commands.Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (2, True)


def test_get_with_names_that_are_no_text(peer: Peer) -> None:
    """Names of a stranger that are not UTF-8 cost nothing but their letters."""
    channel = open_channel(peer)
    channel.call(BasicGet(queue="queue"), "waiter")
    stream = marshal(message(commands.Basic.GetOk(1, False, "e" * 127, "k" * 255, 3), b"text"))
    stream = stream.replace(b"e" * 127, b"\xff" * 127).replace(b"k" * 255, b"\xfe" * 255)
    (answered,) = peer.receive(stream)
    assert isinstance(answered, Answered) and answered.content is not None
    assert answered.content.exchange == "\ufffd" * 127 and answered.content.routing_key == "\ufffd" * 255


def test_a_command_larger_than_a_frame(peer: Peer) -> None:
    """Arguments that no frame holds are refused before a byte is sent."""
    channel = open_channel(peer)
    with pytest.raises(ArgumentError, match="QueueDeclare"):
        channel.call(QueueDeclare(queue="queue", arguments={"x": "y" * 131_072}), "waiter")
    assert peer.sent() == []
    channel.call(QueueDeclare(queue="queue"), "waiter")
    assert peer.send(commands.Queue.DeclareOk("queue", 0, 0)) != []


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_publish(peer: Peer) -> None:
    """It is mandatory, and its body is cut into frames of the agreed size."""
    peer = open_peer(frame_max=4096)
    channel = open_channel(peer, confirms=True)
    raw = encode_properties(content_type="text", headers=encode_table({RETURN_HEADER: 1}), delivery_mode=2, priority=3)
    assert channel.publish("exchange", "key", raw, b"x" * 10_000, "waiter") == 1
    (_, publish), (_, head), *parts = peer.sent()
    assert isinstance(publish, commands.Basic.Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory, publish.immediate) == (
        "exchange",
        "key",
        True,
        False,
    )
    assert isinstance(head, header.ContentHeader)
    assert (head.body_size, head.properties.content_type, head.properties.headers) == (
        10_000,
        "text",
        {RETURN_HEADER: 1},
    )
    assert [len(part.value) for _, part in parts if isinstance(part, body.ContentBody)] == [4088, 4088, 1824]


def test_many_ways(peer: Peer) -> None:
    """The method frame is that of the publish's own way, however many there were before."""
    channel = open_channel(peer, confirms=True)
    for number in range(2_500):
        channel.publish("exchange", f"key {number % 1_250}", b"\x00\x00", b"", "waiter")
    sent = [frame for _, frame in peer.sent() if isinstance(frame, commands.Basic.Publish)]
    assert len(channel._routes) <= MAX_CACHED_ROUTES
    assert [frame.routing_key for frame in sent] == [f"key {number % 1_250}" for number in range(2_500)]


def test_headers_larger_than_a_frame(peer: Peer) -> None:
    """Properties that no frame holds would cost the connection: they are refused, and no number is used up."""
    channel = open_channel(peer, confirms=True)
    with pytest.raises(ArgumentError, match="properties and headers of at most 131052 bytes"):
        channel.publish("exchange", "key", encode_properties(headers=encode_table({"x": "y" * 131_072})), b"", "waiter")
    assert peer.sent() == []
    room = 131_072 - 8 - 12 - len(encode_properties(headers=encode_table({"x": ""})))
    assert channel.publish("exchange", "key", encode_properties(headers=encode_table({"x": "y" * room})), b"", "w") == 1
    assert max(len(data) for data in channel._outbox) <= 131_072


def confirmed(events: list[object]) -> list[tuple[bool, list[str]]]:
    return [(event.accepted, list(event.waiters)) for event in events if isinstance(event, Confirmed)]


def test_confirms_in_every_form(peer: Peer) -> None:
    """Single, multiple, out of order, nacks and the tag zero: every publish is answered once."""
    channel = open_channel(peer, confirms=True)
    w = publishes(channel, 12)
    assert confirmed([*peer.send(commands.Basic.Ack(2))]) == [(True, [w[1]])]
    assert confirmed([*peer.send(commands.Basic.Ack(4, multiple=True))]) == [(True, [w[0], w[2], w[3]])]
    assert confirmed([*peer.send(commands.Basic.Nack(6))]) == [(False, [w[5]])]
    assert confirmed([*peer.send(commands.Basic.Nack(8, multiple=True))]) == [(False, [w[4], w[6], w[7]])]
    assert confirmed([*peer.send(commands.Basic.Ack(10), commands.Basic.Ack(9))]) == [(True, [w[9], w[8]])]
    assert confirmed([*peer.send(commands.Basic.Ack(9), commands.Basic.Nack(10, multiple=True))]) == []
    assert confirmed([*peer.send(commands.Basic.Nack(0, multiple=True))]) == [(False, [w[10], w[11]])]
    assert channel.confirms is not None and len(channel.confirms) == 0


def test_acks_and_nacks_keep_their_order(peer: Peer) -> None:
    """Between answers of one kind stands one of the other."""
    w = publishes(open_channel(peer, confirms=True), 5)
    events = peer.send(*[commands.Basic.Nack(n) if n == 3 else commands.Basic.Ack(n) for n in range(1, 6)])
    assert confirmed([*events]) == [(True, w[:2]), (False, [w[2]]), (True, w[3:])]


@pytest.mark.parametrize("number", [0, 4, 2**63 - 1])
@pytest.mark.parametrize("method", [commands.Basic.Ack, commands.Basic.Nack])
def test_a_confirm_of_nothing(peer: Peer, method: type[commands.Basic.Ack], number: int) -> None:
    """A number that no publish has ends the connection; what was answered before counts."""
    w = publishes(open_channel(peer, confirms=True), 3)
    peer.core.take_outgoing()
    events = peer.send(commands.Basic.Ack(1), commands.Basic.Ack(2), method(number))
    assert confirmed([*events]) == [(True, w[:2])]
    assert_clean_end(peer, events)


@pytest.mark.parametrize("method", [commands.Basic.Ack(1), commands.Basic.Nack(1)])
def test_a_confirm_without_confirm_mode(peer: Peer, method: base.Frame) -> None:
    """A channel that publishes nothing gets no confirms."""
    open_channel(peer)
    assert_clean_end(peer, peer.send(method))


def returned(number: object, text: bytes = b"a body") -> list[object]:
    properties = commands.Basic.Properties(headers={RETURN_HEADER: number, "other": "x"})  # type: ignore[dict-item]
    return [*message(commands.Basic.Return(312, "NO_ROUTE", "exchange", "key"), text, properties)]


def test_returns_are_matched_by_their_header(peer: Peer) -> None:
    """A message that no queue took is told before its confirm, with the publish that it was, whatever the order."""
    channel = open_channel(peer, confirms=True)
    w = publishes(channel, 3)
    events = peer.send(*returned(3), *returned(1, b""), commands.Basic.Ack(3, multiple=True))  # type: ignore[arg-type]
    assert events == [
        Returned(1, w[2], 312, "NO_ROUTE", "exchange", "key"),
        Returned(1, w[0], 312, "NO_ROUTE", "exchange", "key"),
        Confirmed(1, w, True),
    ]


@pytest.mark.parametrize("number", [2, 0, -1, "1", True, None, 1.0, [1]])
def test_a_return_that_cannot_be_matched(peer: Peer, number: object) -> None:
    """It blames no publish."""
    publishes(open_channel(peer, confirms=True), 1)
    assert peer.send(*returned(number)) == [Returned(1, None, 312, "NO_ROUTE", "exchange", "key")]  # type: ignore[arg-type]


def test_a_return_without_headers(peer: Peer) -> None:
    """Nor does one whose properties are gone, or on a channel without confirms."""
    frames = message(commands.Basic.Return(312, "NO_ROUTE", "exchange", "key"), b"x" * 10)
    publishes(open_channel(peer, confirms=True), 1)
    open_channel(peer)
    for number in (1, 2):
        assert peer.send(*frames, channel=number) == [Returned(number, None, 312, "NO_ROUTE", "exchange", "key")]


# --- consuming --------------------------------------------------------------------------------------------------------


def test_consume_and_cancel(peer: Peer) -> None:
    """What the broker had sent before it heard of the cancel is delivered."""
    channel = open_channel(peer, prefetch=10)
    channel.call(BasicCancel(consumer_tag="c1"), "cancel")
    events = peer.send(*delivery(1), *delivery(2), commands.Basic.CancelOk("c1"))
    assert [content.delivery_tag for content in contents(events)] == [1, 2]
    assert isinstance(events[-1], Answered) and events[-1].waiter == "cancel"


@pytest.mark.parametrize("nowait", [True, False])
def test_the_broker_cancels(peer: Peer, nowait: bool) -> None:
    """A consumer's end is told with its tag, as it came, and answered where an answer is wanted."""
    open_channel(peer, prefetch=10)
    assert peer.send(commands.Basic.Cancel("c1", nowait)) == [ConsumerCancelled(1, b"c1")]
    assert peer.sent_names() == ([] if nowait else ["Basic.CancelOk"])
    strange = marshal([commands.Basic.Cancel("x" * 255, nowait)]).replace(b"x" * 255, b"\xff" * 255)
    assert peer.receive(strange) == [ConsumerCancelled(1, b"\xff" * 255)]
    assert (b"\xff" * 255 in peer.core.take_outgoing()) is not nowait


def test_settling(peer: Peer) -> None:
    """Acks and nacks go out when they are flushed, together."""
    channel = open_channel(peer, prefetch=10)
    peer.send(*[frame for tag in range(1, 6) for frame in delivery(tag)])
    for tag in (1, 2, 4):
        channel.acks.ack(tag)
    channel.acks.nack(3)
    assert peer.sent() == []
    channel.flush_settlements()
    assert peer.sent_names() == ["Basic.Nack", "Basic.Ack"]
    channel.hand_back_all()
    ((_, nack),) = peer.sent()
    assert isinstance(nack, commands.Basic.Nack)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (5, True, True)


def test_a_broker_that_ignores_the_prefetch(peer: Peer) -> None:
    """Many windows at once are taken, for a cluster may do that; without bound they are not."""
    open_channel(peer, prefetch=3)
    for tag in range(1, 3 * WINDOWS + 1):
        assert len(peer.send(*delivery(tag))) == 1
    assert_clean_end(peer, peer.send(*delivery(3 * WINDOWS + 1))[-1:])


def test_the_bound_of_deliveries(peer: Peer) -> None:
    """What is settled, what was got and what a second consumer brings does not count as beyond the prefetch."""
    channel = open_channel(peer, prefetch=2)
    channel.call(BasicQos(prefetch_count=1), "qos")
    channel.call(BasicConsume(queue="other", consumer_tag="c2"), "consume")
    peer.send(commands.Basic.QosOk(), commands.Basic.ConsumeOk("c2"))
    for tag in range(1, 21):
        channel.call(BasicGet(queue="queue"), "get")
        peer.send(*message(commands.Basic.GetOk(tag, False, "", "queue", 0), b"text"))
    for tag in range(21, 21 + 2 * 2 * WINDOWS):
        assert len(contents(peer.send(*delivery(tag, consumer="c2")))) == 1
    channel.acks.ack(tag)
    channel.flush_settlements()
    assert len(contents(peer.send(*delivery(tag + 1)))) == 1
    peer.core.take_outgoing()
    assert_clean_end(peer, peer.send(*delivery(tag + 2))[-1:])


def test_consumers_that_ended_widen_no_bound(peer: Peer) -> None:
    """However often a consumer is ended and started again, by us or by the broker, one is one."""
    channel = open_channel(peer, prefetch=1)
    for _ in range(20):
        channel.call(BasicCancel(consumer_tag="c1"), "cancel")
        for _ in range(2):
            channel.call(BasicConsume(queue="queue", consumer_tag="c1"), "consume")
        consumed = commands.Basic.ConsumeOk("c1")
        peer.send(commands.Basic.CancelOk("c1"), consumed, consumed, commands.Basic.Cancel("c1", nowait=True))
    for tag in range(1, WINDOWS + 1):
        assert len(peer.send(*delivery(tag))) == 1
    peer.core.take_outgoing()
    assert_clean_end(peer, peer.send(*delivery(WINDOWS + 1))[-1:])


def test_no_prefetch_no_bound(peer: Peer) -> None:
    """Who asks for no prefetch gets what comes."""
    open_channel(peer)
    assert len(contents(peer.send(*[one for tag in range(1, 1001) for one in delivery(tag)]))) == 1000


def test_flow(peer: Peer) -> None:
    """A pause is told and answered, and so is its end."""
    open_channel(peer)
    for active in (False, True):
        assert peer.send(commands.Channel.Flow(active)) == [FlowChanged(1, active)]
        ((_, ok),) = peer.sent()
        assert isinstance(ok, commands.Channel.FlowOk)
        assert ok.active is active


# --- the end ----------------------------------------------------------------------------------------------------------


def test_close(peer: Peer) -> None:
    """Settlements go before the close; what comes after it is dropped; the number is free once it is answered."""
    channel = open_channel(peer, confirms=True, prefetch=10)
    waiters = publishes(channel, 2)
    channel.call(QueueDeclare(queue="queue"), "declare")
    peer.send(*delivery(1))
    channel.acks.ack(1)
    peer.core.take_outgoing()
    channel.close("close")
    assert peer.sent_names() == ["Basic.Ack", "Channel.Close"]
    late: list[object] = [
        *delivery(2),
        commands.Basic.Ack(1),
        *returned(2),
        commands.Queue.DeclareOk("queue", 0, 0),
        commands.Basic.Cancel("c1"),
        commands.Channel.Flow(False),
    ]
    assert peer.send(*late) == []  # type: ignore[arg-type]
    assert peer.sent() == []
    assert peer.send(commands.Channel.CloseOk()) == [ChannelClosed(1, None, ["declare", "close"], waiters)]
    assert channel.status is ChannelStatus.CLOSED
    assert peer.sent() == []


@pytest.mark.parametrize("cut", range(4))
def test_close_within_a_message(peer: Peer, cut: int) -> None:
    """The rest of a message that was coming is dropped."""
    channel = open_channel(peer, prefetch=10)
    frames = delivery(1, b"x" * 100, part=50)
    assert peer.send(*frames[:cut]) == []
    channel.close("close")
    assert channel.incoming is None
    assert peer.send(*frames[cut:], *delivery(2)) == []
    assert peer.send(commands.Channel.CloseOk()) == [ChannelClosed(1, None, ["close"], [])]


def test_the_broker_closes(peer: Peer) -> None:
    """Its reason is an error class; who waits is told; it is answered once, and nothing else goes out afterwards."""
    channel = open_channel(peer, confirms=True, prefetch=10)
    waiters = publishes(channel, 2)
    channel.call(QueueDeclare(queue="queue"), "declare")
    peer.send(*delivery(1))
    peer.core.take_outgoing()
    (event,) = peer.send(commands.Channel.Close(404, "NOT_FOUND - no queue", 50, 10))
    assert isinstance(event, ChannelClosed)
    assert isinstance(event.error, NotFound)
    assert (event.error.class_id, event.error.method_id) == (50, 10)
    assert (event.calls, event.publishes) == (["declare"], waiters)
    assert peer.sent_names() == ["Channel.CloseOk"]
    channel.acks.ack(1)
    channel.flush_settlements()
    channel.hand_back_all()
    assert peer.sent() == []
    for command in (
        lambda: channel.call(QueueDeclare(queue="queue"), "waiter"),
        lambda: channel.publish("exchange", "key", b"\x00\x00", b"", "waiter"),
        lambda: channel.close("waiter"),
        lambda: channel.select_confirms("waiter", return_header=RETURN_HEADER),
    ):
        with pytest.raises(ChannelGone):
            command()
    assert peer.core.status is Status.OPEN


def test_the_broker_closes_within_a_message(peer: Peer) -> None:
    """It may end a channel at any time but within a message: that is a broken stream."""
    open_channel(peer, prefetch=10)
    peer.send(*delivery(1)[:2])
    assert_clean_end(peer, peer.send(commands.Channel.Close(406, "PRECONDITION_FAILED", 60, 80)))


def test_both_close(peer: Peer) -> None:
    """Closes that cross are each answered, and the channel ends with ours."""
    channel = open_channel(peer)
    channel.close("close")
    assert peer.send(commands.Channel.Close(406, "PRECONDITION_FAILED", 60, 80)) == []
    assert peer.sent_names() == ["Channel.Close", "Channel.CloseOk"]
    assert peer.send(commands.Channel.CloseOk()) == [ChannelClosed(1, None, ["close"], [])]
    assert channel.status is ChannelStatus.CLOSED


def test_opening_is_refused(peer: Peer) -> None:
    """A channel that the broker closes instead of opening it tells who asked, and whoever asked more."""
    channel = peer.core.open_channel("open")
    channel.select_confirms("select", return_header=RETURN_HEADER)
    waiters = publishes(channel, 1)
    (event,) = peer.send(commands.Channel.Close(406, "PRECONDITION_FAILED", 0, 0))
    assert isinstance(event, ChannelClosed)
    assert isinstance(event.error, PreconditionFailed)
    assert (event.calls, event.publishes) == (["open", "select"], waiters)


def test_abandoned_with_the_connection(peer: Peer) -> None:
    """Whoever waits on a channel whose connection is gone is named, once."""
    channel = open_channel(peer, confirms=True)
    waiters = publishes(channel, 2)
    channel.call(QueueDeclare(queue="queue"), "declare")
    assert channel.abandon() == (["declare"], waiters)
    assert channel.abandon() == ([], [])
