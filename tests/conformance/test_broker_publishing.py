"""What every broker promises a publisher."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from brokers_under_test import EXCHANGE, Rig, message, publish, soon, take, take_bodies, waiting

from dispatcher.errors import ArgumentError, ConnectionLost, PublishRefused, TopologyMissing, Unroutable
from dispatcher.model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE, Queue

Q = Queue("q", binding_keys=("q",))

FIELDS: dict[str, Any] = {
    "text": "späte Grüße ☃ \U0001f40d",
    "empty": "",
    "yes": True,
    "no": False,
    "zero": 0,
    "large": 2**63 - 1,
    "small": -(2**63),
    "float": 0.1,
    "whole float": 3.0,
    "none": None,
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "list": [1, "two", None, [3.5, {"deep": [b"\x00", True]}]],
    "table": {"inner": {"innermost": [], "bytes": b"\xff"}, "": 1},
}


async def test_a_message_whose_publish_resolved_is_there_for_a_later_session(rig: Rig) -> None:
    """The promise: it outlives the session that published it."""
    session = await rig.connect(Q)
    await publish(session, b"kept")
    await session.close()
    assert await waiting(rig, "q") == [b"kept"]


async def test_everything_about_a_message_arrives(rig: Rig) -> None:
    """Body, uuid, exchange, routing key, priority and headers are what was sent."""
    session = await rig.connect(Q)
    sent = message(b"body", uuid="the-uuid", priority=7, headers={"a": "b"})
    await soon(session.publish(sent))
    [got] = await take(await session.consume("q", prefetch=1), 1)
    assert (got.body, got.uuid, got.queue, got.exchange) == (b"body", "the-uuid", "q", EXCHANGE)
    assert (got.routing_key, got.priority, got.headers) == ("q", 7, {"a": "b"})
    assert (got.redelivered, got.delivery_count) == (False, 0)


async def test_no_headers_arrive_as_an_empty_mapping(rig: Rig) -> None:
    """`headers` is never None."""
    session = await rig.connect(Q)
    await publish(session, b"1")
    await publish(session, b"2", headers={})
    assert [d.headers for d in await take(await session.consume("q", prefetch=2), 2)] == [{}, {}]


@pytest.mark.parametrize("name", FIELDS)
async def test_headers_of_every_field_type_survive(rig: Rig, name: str) -> None:
    """A header comes back equal and of the same type, however deep it sits."""
    session = await rig.connect(Q)
    await publish(session, b"", headers={name: FIELDS[name], "deep": {"list": [FIELDS[name]]}})
    [got] = await take(await session.consume("q", prefetch=1), 1)
    assert repr(got.headers[name]) == repr(FIELDS[name])
    assert repr(got.headers["deep"]) == repr({"list": [FIELDS[name]]})


async def test_headers_are_a_snapshot(rig: Rig) -> None:
    """What sender or receiver do to their mapping afterwards changes no message."""
    session = await rig.connect(Q)
    mine: dict[str, Any] = {"list": [1]}
    published = session.publish(message(b"", headers=mine))
    mine["list"].append(2)
    await soon(published)
    consumer = await session.consume("q", prefetch=1)
    [got] = await take(consumer, 1)
    assert got.headers == {"list": [1]}
    got.headers["list"].append(3)
    got.reject()
    [again] = await take(consumer, 1)
    assert again.headers == {"list": [1]}


@pytest.mark.parametrize(
    "value",
    [{1}, object(), 2**64, [{"deep": {1}}], "\ud800", float("nan"), float("-inf")],
    ids=lambda value: repr(value)[:12],
)
async def test_a_header_that_cannot_travel_is_refused(rig: Rig, value: object) -> None:
    """With an `ArgumentError`, alone: the publishes beside it are not harmed."""
    session = await rig.connect(Q)
    before, bad, after = (
        session.publish(message(body, headers=headers))
        for body, headers in ((b"1", {}), (b"2", {"h": value}), (b"3", {}))
    )
    with pytest.raises(ArgumentError, match="headers"):
        await soon(bad)
    await soon(asyncio.gather(before, after))
    assert await waiting(rig, "q") == [b"1", b"3"]


@pytest.mark.parametrize(
    "body", [b"", bytes(range(256)) * 3, b"\x00", "naïve ☃".encode(), b"\xff" * (1 << 20)], ids=lambda b: f"{len(b)}B"
)
async def test_a_body_is_any_bytes(rig: Rig, body: bytes) -> None:
    """Empty, binary and 1 MiB bodies arrive unchanged."""
    session = await rig.connect(Q)
    await publish(session, body)
    assert await take_bodies(await session.consume("q", prefetch=1), 1) == [body]


async def test_each_binding_key_routes(rig: Rig) -> None:
    """A queue with several keys gets the messages of each, and of no other."""
    session = await rig.connect(Queue("a", binding_keys=("k1", "k2")), Queue("b", binding_keys=("k3", "b")))
    await publish(session, b"1", key="k1")
    await publish(session, b"2", key="k2")
    await publish(session, b"3", key="k3")
    assert await take_bodies(await session.consume("a", prefetch=5), 2) == [b"1", b"2"]
    assert await waiting(rig, "b") == [b"3"]


async def test_queues_that_share_a_key_get_a_copy_each(rig: Rig) -> None:
    """Copies are settled apart: acking one leaves the other."""
    session = await rig.connect(Queue("a", binding_keys=("both", "a")), Queue("b", binding_keys=("both", "b")))
    await publish(session, b"copy", key="both")
    assert await take_bodies(await session.consume("a", prefetch=1), 1) == [b"copy"]
    await session.close()
    assert await waiting(rig, "b") == [b"copy"]
    assert await waiting(rig, "a") == []


async def test_a_key_bound_twice_delivers_once(rig: Rig) -> None:
    """Declaring a binding again makes no second copy."""
    session = await rig.connect(Queue("q", binding_keys=("q", "q")))
    await rig.connect(Queue("q", binding_keys=("q",)))
    await publish(session, b"once")
    assert await waiting(rig, "q") == [b"once"]


async def test_a_routing_key_without_a_queue_is_unroutable(rig: Rig) -> None:
    """Nothing is dropped in silence; the error names the uuid, and neighbours in flight are not harmed."""
    session = await rig.connect(Q)
    good, lost, also_good = (
        session.publish(message(b, key)) for b, key in ((b"1", "q"), (b"2", "nowhere"), (b"3", "q"))
    )
    await soon(good)
    with pytest.raises(Unroutable) as caught:
        await soon(lost)
    assert caught.value.uuid == message(b"2").uuid
    await soon(also_good)
    assert await waiting(rig, "q") == [b"1", b"3"]


async def test_keys_are_compared_exactly(rig: Rig) -> None:
    """A direct exchange knows no wildcards, no prefixes and no letter case."""
    session = await rig.connect(Queue("q", binding_keys=("a.*", "B", "é")))
    for key in ("a.b", "b", "a.", "é "):
        with pytest.raises(Unroutable):
            await soon(session.publish(message(b"", key)))
    await publish(session, b"hit", key="a.*")
    await publish(session, b"hit", key="é")


async def test_an_unknown_exchange_is_missing_topology(rig: Rig) -> None:
    """The session lives on after it."""
    session = await rig.connect(Q)
    with pytest.raises(TopologyMissing if rig.may_do_everything else PublishRefused):
        await soon(session.publish(message(b"", exchange="nobody declared this")))
    await publish(session, b"fine")
    assert await waiting(rig, "q") == [b"fine"]


async def test_dead_letters_have_their_route(rig: Rig) -> None:
    """What is published to the dead-letter exchange with a queue's name ends in its `.dead` queue, and only there."""
    session = await rig.connect(Q)
    await soon(session.publish(message(b"dead", "q", exchange=DEAD_EXCHANGE)))
    assert await take_bodies(await (await rig.connect_operator()).consume("q.dead", prefetch=1), 1) == [b"dead"]
    assert await waiting(rig, "q") == []


async def test_the_delay_exchange_leads_to_the_queue_by_its_name(rig: Rig) -> None:
    """Retries and snoozes come back to their own queue, whatever it is bound to."""
    session = await rig.connect(Queue("q"))
    await soon(session.publish(message(b"again", "q", exchange=DELAY_EXCHANGE)))
    assert await take_bodies(await session.consume("q", prefetch=1), 1) == [b"again"]


async def test_a_full_queue_refuses(rig: Rig) -> None:
    """Beyond `max_length` waiting messages a publish is refused, and room made by an ack is used again."""
    session = await rig.connect(Queue("q", binding_keys=("q",), type="classic", max_length=3))
    await publish(session, b"1", b"2", b"3")
    with pytest.raises(PublishRefused) as caught:
        await soon(session.publish(message(b"4")))
    assert caught.value.uuid == message(b"4").uuid
    consumer = await session.consume("q", prefetch=1)
    assert await take_bodies(consumer, 1) == [b"1"]
    await consumer.stop()
    await session.close()
    session = await rig.connect()
    await publish(session, b"5")
    with pytest.raises(PublishRefused):
        await soon(session.publish(message(b"6")))
    other = await rig.connect()
    assert await take_bodies(await other.consume("q", prefetch=5), 3) == [b"2", b"3", b"5"]


async def test_one_uuid_twice_is_two_messages(rig: Rig) -> None:
    """A uuid is never unique in a broker."""
    session = await rig.connect(Q)
    await publish(session, b"1", b"2", uuid="same")
    assert [d.uuid for d in await take(await session.consume("q", prefetch=2), 2)] == ["same", "same"]


async def test_a_publish_whose_caller_gave_up_does_no_harm(rig: Rig) -> None:
    """Cancelling the future may or may not stop the message; the session and its other publishes go on."""
    session = await rig.connect(Q)
    before, dropped, after = (session.publish(message(body)) for body in (b"before", b"dropped", b"after"))
    dropped.cancel()
    await soon(asyncio.gather(before, after))
    assert [body for body in await waiting(rig, "q") if body != b"dropped"] == [b"before", b"after"]
    assert not session.closed.done()


async def test_publishes_of_two_sessions_at_once_all_arrive_in_their_order(rig: Rig) -> None:
    """Each session's own messages keep their order."""
    sessions = [await rig.connect(Q), await rig.connect(Q)]
    sent = [[b"%d-%04d" % (who, n) for n in range(300)] for who in range(2)]
    await asyncio.gather(*[publish(session, *bodies) for session, bodies in zip(sessions, sent, strict=True)])
    got = await take_bodies(await sessions[0].consume("q", prefetch=100), 600)
    assert [[body for body in got if body.startswith(b"%d-" % who)] for who in range(2)] == sent


async def test_publishing_on_an_ended_session_is_connection_lost(rig: Rig) -> None:
    """After `close` and after a loss alike, as the future's exception."""
    closed, lost = await rig.connect(Q), await rig.connect()
    await closed.close()
    await rig.lose(lost)
    for session in (closed, lost):
        with pytest.raises(ConnectionLost):
            await soon(session.publish(message(b"")))
    assert await waiting(rig, "q") == []
