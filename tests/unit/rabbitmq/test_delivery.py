"""A delivery as data: headers, counts and routes as the worker sees them, from what RabbitMQ puts in a message."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher.amqp.events import Content
from dispatcher.amqp.properties import encode_properties
from dispatcher.amqp.tables import encode_table
from dispatcher.brokers.rabbitmq.delivery import RabbitDelivery
from dispatcher.errors import DeliveryLost
from dispatcher.model import headers as names
from dispatcher.model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE


class FakeConsumer:
    """A consumer whose channel is a list."""

    def __init__(self, queue: str = "q") -> None:
        self.queue = queue
        self.is_alive = True
        self.settled: list[tuple[str, int]] = []
        self.noted = 0

    def note_settled(self) -> bool:
        self.noted += self.is_alive
        return self.is_alive

    def ack(self, tag: int) -> None:
        self.settled.append(("ack", tag))

    def nack(self, tag: int) -> None:
        self.settled.append(("nack", tag))


def delivery(
    headers: dict[str, Any] | None = None,
    *,
    exchange: str = "ex",
    key: str = "k",
    queue: str = "q",
    redelivered: bool = False,
    **properties: Any,
) -> RabbitDelivery:
    raw = encode_properties(headers=None if headers is None else encode_table(headers), **properties)
    route = b"".join(bytes((len(name),)) + name for name in (exchange.encode(), key.encode()))
    return RabbitDelivery(FakeConsumer(queue), Content(1, b"c1", 7, redelivered, route, raw, b"body"))


def test_a_message_without_any_properties() -> None:
    """As the Go package sends them: nothing is None that may not be."""
    got = delivery()
    assert (got.exchange, got.routing_key, got.queue, got.body) == ("ex", "k", "q", b"body")
    assert (got.uuid, got.headers, got.priority, got.delivery_count) == ("", {}, None, 0)


def test_headers_of_the_way_are_not_shown() -> None:
    """Neither the publisher's number, nor the ladder's, nor the broker's counters."""
    got = delivery(
        {
            "mine": 1,
            names.PUBLISH: 9,
            names.DELAY_TO: "ex",
            names.DELAY_DUE: 5,
            f"{names.DELAY_PREFIX}3": True,
            "x-delivery-count": 2,
            "x-acquired-count": 3,
        },
        redelivered=True,
    )
    assert got.headers == {"mine": 1}
    assert got.headers is got.headers
    assert got.delivery_count == 2


@pytest.mark.parametrize(
    ("headers", "redelivered", "count"),
    [
        ({}, False, 0),
        ({"x-delivery-count": 3}, True, 3),
        ({"x-acquired-count": 3}, True, 0),  # 4.3: only ever handed back
        ({"x-acquired-count": 4, "x-delivery-count": 1}, True, 1),
        ({}, True, None),  # a classic queue
        ({names.REDELIVERIES: 2}, False, 2),  # the worker's own count of it, in the copy
        ({names.REDELIVERIES: 2}, True, None),
        ({names.REDELIVERIES: "two"}, False, 0),
    ],
)
def test_how_many_holders_were_lost(headers: dict[str, Any], redelivered: bool, count: int | None) -> None:
    """None where the broker says that there was one, and does not count."""
    assert delivery(headers, redelivered=redelivered).delivery_count == count


@pytest.mark.parametrize("exchange", [DELAY_EXCHANGE, f"{DELAY_EXCHANGE}.queues", f"{DELAY_EXCHANGE}.due"])
def test_whichever_end_of_the_ladder_it_came_by(exchange: str) -> None:
    """It is the delay exchange, as on every other broker."""
    assert delivery(exchange=exchange).exchange == DELAY_EXCHANGE


def test_it_is_settled_once() -> None:
    """The second time raises, and nothing is sent."""
    for settle, told in ((RabbitDelivery.ack, "ack"), (RabbitDelivery.reject, "nack")):
        got = delivery()
        settle(got)
        for again in (got.ack, got.reject):
            with pytest.raises(DeliveryLost, match="already"):
                again()
        assert got._consumer.settled == [(told, 7)]
        assert got._consumer.noted == 1


def test_nothing_is_settled_on_a_channel_that_ended() -> None:
    """The broker has taken it back, and its tag may be another's."""
    got = delivery()
    got._consumer.is_alive = False
    with pytest.raises(DeliveryLost, match="ended"):
        got.ack()
    assert got._consumer.settled == []


# --- dead letters that the broker made --------------------------------------------------------------------------------


def death(reason: str, *, queue: str = "q", exchange: str = "ex", key: str = "k") -> dict[str, Any]:
    """An entry of `x-death` as RabbitMQ writes it."""
    return {
        "count": 1,
        "reason": reason,
        "queue": queue,
        "time": datetime(2026, 11, 24, tzinfo=UTC),
        "exchange": exchange,
        "routing-keys": [key],
    }


def dead_letter(*deaths: dict[str, Any], **headers: Any) -> dict[str, Any]:
    table = {"x-death": list(deaths), **headers}
    return delivery(table, exchange=DEAD_EXCHANGE, key="q", queue="q.dead").headers


def test_a_dead_letter_of_the_broker_looks_like_one_of_ours() -> None:
    """Reason, queue, route and time, from its notes."""
    got = dead_letter(death("delivery_limit"), mine=1)
    assert got["mine"] == 1
    assert (got[names.REASON], got[names.QUEUE]) == ("delivery_limit", "q")
    assert (got[names.EXCHANGE], got[names.ROUTING_KEY]) == ("ex", "k")
    assert got[names.DEAD_AT] == int(datetime(2026, 11, 24, tzinfo=UTC).timestamp() * 1000)


def test_the_route_it_first_came_by_is_kept() -> None:
    """A retry died: it came to the queue by the delay, and to the delay from elsewhere."""
    route = {names.EXCHANGE: "first", names.ROUTING_KEY: "key"}
    got = dead_letter(death("delivery_limit", exchange=f"{DELAY_EXCHANGE}.queues", key="q"), **route)
    assert (got[names.EXCHANGE], got[names.ROUTING_KEY]) == ("first", "key")


@pytest.mark.parametrize("reason", ["expired", "maxlen", "rejected"])
def test_other_deaths_are_told_as_they_are(reason: str) -> None:
    """By a policy that is not ours: the closed list has a word for it, the text has RabbitMQ's."""
    got = dead_letter(death(reason))
    assert got[names.REASON] == "rejected"
    assert reason in got[names.REASON_TEXT]


def test_a_dead_letter_of_ours_keeps_its_reason() -> None:
    """Ours have no notes of the broker. Where there are some, a reason is what its sender wrote into it."""
    assert dead_letter(**{names.REASON: "failed"})[names.REASON] == "failed"
    assert dead_letter(death("delivery_limit"), **{names.REASON: "made up"})[names.REASON] == "delivery_limit"


def test_the_end_of_a_delay_is_no_death() -> None:
    """Its hops leave notes, too."""
    hop = death("expired", queue=f"{DELAY_EXCHANGE}.3", exchange=f"{DELAY_EXCHANGE}.3")
    assert dead_letter(hop) == {}
    assert delivery({"x-death": [hop], "mine": 1}).headers == {"mine": 1}


@pytest.mark.parametrize("deaths", ["text", [], ["text"], [{}], [{"queue": 5, "time": "soon", "routing-keys": 7}]])
def test_notes_that_a_stranger_made_up_do_no_harm(deaths: Any) -> None:
    """Whatever stands there, a dead letter can be looked at."""
    delivery({"x-death": deaths}, queue="q.dead").headers  # noqa: B018
