"""The delay ladder, walked without a broker: every delay ends at its target, after its time and hardly later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.brokers.delays import MAX_DELAY_MS
from dispatcher.brokers.rabbitmq.ladder import (
    LOST_QUEUE,
    UNREACHABLE_DELIVERY_LIMIT,
    detour,
    for_exchange,
    ladder,
    level_names,
    level_seconds,
    strip,
    way_key,
)
from dispatcher.brokers.rabbitmq.plan import plan_of
from dispatcher.brokers.rabbitmq.specs import Plan
from dispatcher.brokers.rabbitmq.version import Features, ServerVersion, features_of
from dispatcher.errors import ConfigError
from dispatcher.model import headers as names
from dispatcher.model.topology import DELAY_EXCHANGE, Queue, Topology

V310, V41, V43 = (features_of(ServerVersion(*version)) for version in ((3, 10, 8), (4, 1, 0), (4, 3, 6)))
TOPOLOGY = Topology("ex", (Queue("q", binding_keys=("k",)), Queue("full", max_length=1)))
PLANS = {features: plan_of(TOPOLOGY, features) for features in (V310, V41, V43)}


def route(plan: Plan, exchange: str, key: str, headers: Mapping[str, Any]) -> list[str]:
    """The queues that RabbitMQ would lead a message to."""
    spec = next(spec for spec in plan.exchanges if spec.name == exchange)
    found: list[str] = []
    matched = False
    for binding in plan.bindings:
        if binding.source == exchange:
            wanted = {name: value for name, value in binding.arguments.items() if name != "x-match"}
            if {
                "direct": binding.routing_key == key,
                "fanout": True,
                "headers": all(headers.get(name) == value for name, value in wanted.items()),
            }[spec.type]:
                matched = True
                found += (
                    route(plan, binding.destination, key, headers) if binding.to_exchange else [binding.destination]
                )
    if not matched and "alternate-exchange" in spec.arguments:
        return route(plan, str(spec.arguments["alternate-exchange"]), key, headers)
    return found


def walk(plan: Plan, exchange: str, key: str, headers: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Each queue on a message's way, with the milliseconds it has waited when it gets there."""
    waited = 0
    while True:
        queues = route(plan, exchange, key, headers)
        if not queues:
            return  # it stays where it is
        [queue] = queues
        yield queue, waited
        arguments = next(spec.arguments for spec in plan.queues if spec.name == queue)
        if "x-message-ttl" not in arguments:
            return
        waited += int(arguments["x-message-ttl"])
        exchange = str(arguments["x-dead-letter-exchange"])


@given(
    st.one_of(st.integers(1, 10_000), st.integers(1, MAX_DELAY_MS)),
    st.sampled_from(
        [("ex", "k", ["dispatcher.delay.back.q", "q"]), (DELAY_EXCHANGE, "q", ["dispatcher.delay.back.q", "q"])]
        + [("ex", "strange", [LOST_QUEUE]), ("another", "k", [LOST_QUEUE]), (DELAY_EXCHANGE, "gone", [LOST_QUEUE])]
    ),
    st.sampled_from([V310, V41, V43]),
    st.integers(0, 9),
)
@example(1, (DELAY_EXCHANGE, "q", ["dispatcher.delay.back.q", "q"]), V310, 4)
@example(MAX_DELAY_MS, ("ex", "k", ["dispatcher.delay.back.q", "q"]), V310, 4)
def test_every_delay_ends_at_its_target_in_time(
    delay_ms: int, target: tuple[str, str, list[str]], features: Features, priority: int
) -> None:
    """Never early, less than a step and the hops late, and no queue twice: RabbitMQ would take it for a cycle."""
    exchange, key, ends = target
    way = detour(delay_ms, exchange, due_at_ms=0, priority=priority, features=features)
    stops = list(walk(PLANS[features], way.exchange, key, way.headers))
    queues = [queue for queue, _ in stops]
    assert queues[-len(ends) :] == ends
    assert len(set(queues)) == len(queues)
    assert delay_ms <= stops[-1][1] < delay_ms + 100 + len(stops)


def test_a_message_enters_at_its_highest_level() -> None:
    """So that it passes no exchange in vain; the headers name its levels and nothing else."""
    way = detour(1100, DELAY_EXCHANGE, due_at_ms=77, priority=4, features=V310)
    assert way.exchange == "dispatcher.delay.3"
    assert way.headers == {
        "x-dispatcher-delay-0": True,
        "x-dispatcher-delay-1": True,
        "x-dispatcher-delay-3": True,
        "x-dispatcher-delay-ladder": True,
        "x-dispatcher-delay-due": 77,
    }
    way = detour(1, "ex", due_at_ms=77, priority=4, features=V310)
    assert way.exchange == "dispatcher.delay.0"
    assert way.headers[names.DELAY_TO] == "ex"


def test_more_than_ten_years_is_refused() -> None:
    """Though the levels would reach further."""
    with pytest.raises(ConfigError, match="ten years"):
        detour(MAX_DELAY_MS + 1, "ex", due_at_ms=0, priority=4, features=V310)


def test_a_level_says_how_long_a_message_there_has_to_wait_at_most() -> None:
    """Whatever delay brought it there: the rest of its digit, and all lower ones."""
    for features in (V310, V41):
        for delay_ms in (1, 100, 101, 6_300, 6_400, MAX_DELAY_MS):
            way = detour(delay_ms, "ex", due_at_ms=0, priority=9, features=features)
            stops = [queue for queue, _ in walk(PLANS[features], way.exchange, "k", way.headers)]
            assert stops[0] in level_names(features)
            assert level_seconds(stops[0]) / 2 <= -(-delay_ms // 100) / 10 < level_seconds(stops[0])


@pytest.mark.parametrize(
    ("features", "priority", "exchange"),
    [
        (V310, 9, "dispatcher.delay.0"),
        (V41, 4, "dispatcher.delay.0"),
        (V41, 5, "dispatcher.delay.high.0"),
        (V43, 9, "dispatcher.delay.0"),
    ],
)
def test_high_priorities_wait_apart_where_they_would_hide_others(
    features: Features, priority: int, exchange: str
) -> None:
    """From 4.0 to 4.2; before and after, one ladder is enough."""
    assert detour(100, "ex", due_at_ms=0, priority=priority, features=features).exchange == exchange
    assert (len(level_names(features)), exchange in level_names(features)) == (64 if features is V41 else 32, True)


def test_a_priority_changes_nothing_but_the_lane() -> None:
    """Both ladders meet at the same end, and share nothing before."""
    way = detour(6300, "ex", due_at_ms=0, priority=9, features=V41)
    stops = [queue for queue, _ in walk(PLANS[V41], way.exchange, "k", way.headers)]
    assert stops == [f"dispatcher.delay.high.{n}" for n in range(5, -1, -1)] + ["dispatcher.delay.back.q", "q"]


def test_every_queue_of_the_ladder_is_safe() -> None:
    """Replicated, at-least-once, and none of them drops what it holds."""
    lost, probe, *levels = ladder(V41).queues
    assert [queue.name for queue in levels] == list(level_names(V41))
    assert lost.name == LOST_QUEUE
    assert "x-message-ttl" not in lost.arguments
    assert probe.arguments == {"x-queue-type": "quorum", "x-message-ttl": 0}
    for queue in (lost, *levels):
        assert queue.arguments["x-queue-type"] == "quorum"
        assert queue.arguments["x-delivery-limit"] == UNREACHABLE_DELIVERY_LIMIT
    for queue in levels:
        assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
        assert queue.arguments["x-overflow"] == "reject-publish"
        assert "x-dead-letter-routing-key" not in queue.arguments


@pytest.mark.parametrize(
    ("exchange", "key", "found"),
    [
        (DELAY_EXCHANGE, "q", ["dispatcher.delay.back.q"]),
        (DELAY_EXCHANGE, "gone", []),
        (DELAY_EXCHANGE, way_key("q"), ["dispatcher.delay.probe"]),
        (DELAY_EXCHANGE, way_key("gone"), []),
        (for_exchange("ex"), way_key("k"), ["dispatcher.delay.probe"]),
        (for_exchange("ex"), way_key("strange"), []),
    ],
)
def test_what_is_not_delayed_is_returned_where_it_has_no_way(exchange: str, key: str, found: list[str]) -> None:
    """It is not kept among the dead letters of the delays; and so a way can be asked for without going there."""
    assert route(PLANS[V310], exchange, key, {}) == found


def test_a_queue_that_is_deleted_meanwhile() -> None:
    """What was delayed becomes a dead letter; a copy without a delay waits until it is declared again."""
    plan = msgspec.structs.replace(
        PLANS[V310], bindings=tuple(binding for binding in PLANS[V310].bindings if binding.destination != "q")
    )
    way = detour(100, "ex", due_at_ms=0, priority=4, features=V310)
    assert [queue for queue, _ in walk(plan, way.exchange, "k", way.headers)][-2:] == [
        "dispatcher.delay.back.q",
        LOST_QUEUE,
    ]
    assert [queue for queue, _ in walk(plan, DELAY_EXCHANGE, "q", {})] == ["dispatcher.delay.back.q"]


def test_two_queues_of_one_key_get_one_each() -> None:
    """As they do without a delay."""
    topology = Topology("ex", (Queue("a", binding_keys=("k",)), Queue("b", binding_keys=("k", "l"))))
    plan = plan_of(topology, V310)
    assert route(plan, for_exchange("ex"), "k", {}) == ["dispatcher.delay.back.a", "dispatcher.delay.back.b"]
    assert route(plan, for_exchange("ex"), way_key("k"), {}) == ["dispatcher.delay.probe"]
    assert route(plan, for_exchange("ex"), "l", {}) == ["dispatcher.delay.back.b"]


def death(queue: str, reason: str = "expired") -> dict[str, Any]:
    return {"queue": queue, "reason": reason, "count": 1}


def first_and_last(first: str, last: str) -> dict[str, str]:
    return {
        "x-first-death-queue": first,
        "x-first-death-reason": "r",
        "x-first-death-exchange": "e",
        "x-last-death-queue": last,
        "x-last-death-reason": "r",
        "x-last-death-exchange": "e",
    }


def test_nothing_of_the_way_is_left() -> None:
    """The sender's headers come out as they went in."""
    way = detour(12_700, "ex", due_at_ms=5, priority=4, features=V310)
    deaths = {
        "x-death": [death("dispatcher.delay.back.q"), death("dispatcher.delay.0"), death("dispatcher.delay.high.1")]
    }
    came = {"a": 1} | way.headers | deaths | first_and_last("dispatcher.delay.5", "dispatcher.delay.0")
    came |= {names.PUBLISH: 7, names.ATTEMPT: 2}
    assert strip(came) == {"a": 1, names.ATTEMPT: 2}
    assert "x-death" in came


def test_a_death_elsewhere_stays() -> None:
    """What the broker parked after its delivery limit says so, whatever delay it had before."""
    parked = death("q", "delivery_limit")
    came = {"x-death": [parked, death("dispatcher.delay.0")]} | first_and_last("dispatcher.delay.0", "q")
    kept = strip(came)
    assert kept["x-death"] == [parked]
    assert {name for name in kept if "death-" in name} == {
        "x-last-death-queue",
        "x-last-death-reason",
        "x-last-death-exchange",
    }


@pytest.mark.parametrize("odd", ["text", 3, None, [], ["text"], [{"no": "queue"}], [{"queue": 7}]])
def test_death_headers_that_anybody_made_up(odd: object) -> None:
    """Headers are attacker data: nothing is raised, and at most an empty list is dropped."""
    assert strip({"x-death": odd, "x-first-death-queue": odd}).get("x-death", odd) == odd
