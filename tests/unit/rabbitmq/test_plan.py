"""`plan_of`, `definitions` and `roles`: what a topology is on RabbitMQ, and who may do what with it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dispatcher.brokers.rabbitmq.plan import definitions, is_ours, plan_of, roles
from dispatcher.brokers.rabbitmq.schedules import is_schedule, schedule_queue
from dispatcher.brokers.rabbitmq.specs import BindingSpec, ExchangeSpec, Plan
from dispatcher.brokers.rabbitmq.version import Features, ServerVersion, features_of
from dispatcher.errors import ConfigError
from dispatcher.model.topology import DeclareMode, Queue, Topology

V310, V40, V43 = (features_of(ServerVersion(*version)) for version in ((3, 10, 8), (4, 0, 5), (4, 3, 6)))
QUORUM = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": "dispatcher.dead",
    "x-dead-letter-routing-key": "q",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
DEAD = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}


def plan(*queues: Queue, features: Features = V310) -> Plan:
    return plan_of(Topology("ex", queues), features)


def arguments(plan: Plan) -> dict[str, dict[str, Any]]:
    """The arguments of each queue that is not the ladder's, nor the stream of cancels."""
    return {spec.name: dict(spec.arguments) for spec in plan.queues if not is_ours(spec.name)}


def routes(plan: Plan) -> set[tuple[str, str, str]]:
    """Each binding of an exchange that is not a level of the ladder."""
    return {
        (b.source, b.routing_key, b.destination)
        for b in plan.bindings
        if not b.arguments and b.routing_key not in ("", "cancel")
    }


def test_a_quorum_queue() -> None:
    """It has its limit and its dead letters, at least once; these have neither TTL nor dead letters of their own."""
    made = plan(Queue("q", binding_keys=("a", "b")))
    assert arguments(made) == {"q": QUORUM, "q.dead": DEAD}
    assert routes(made) == {
        ("ex", "a", "q"),
        ("ex", "b", "q"),
        ("dispatcher.dead", "q", "q.dead"),
        ("dispatcher.delay", "q", "dispatcher.delay.back.q"),
        ("dispatcher.delay", "dispatcher.delay.way.q", "dispatcher.delay.probe"),
        ("dispatcher.delay.for.ex", "a", "dispatcher.delay.back.q"),
        ("dispatcher.delay.for.ex", "b", "dispatcher.delay.back.q"),
        ("dispatcher.delay.for.ex", "dispatcher.delay.way.a", "dispatcher.delay.probe"),
        ("dispatcher.delay.for.ex", "dispatcher.delay.way.b", "dispatcher.delay.probe"),
    }


def test_a_classic_queue_is_as_a_go_program_declares_it() -> None:
    """Without any argument; its dead letters are a quorum queue all the same."""
    assert arguments(plan(Queue("q", type="classic"))) == {"q": {}, "q.dead": DEAD}


def test_a_classic_queue_with_all_that_can_be_asked_for() -> None:
    """Priorities and a length, beyond which a publish is refused."""
    assert arguments(plan(Queue("q", type="classic", max_priority=9, max_length=5)))["q"] == {
        "x-max-priority": 9,
        "x-max-length": 5,
        "x-overflow": "reject-publish",
    }


def test_a_bounded_queue_is_refused_beyond_its_bound() -> None:
    """And has its own delivery limit; the way back to it does not fill."""
    made = plan(Queue("q", max_length=5, delivery_limit=3))
    assert arguments(made)["q"] == QUORUM | {"x-max-length": 5, "x-delivery-limit": 3}
    back = next(spec for spec in made.queues if spec.name == "dispatcher.delay.back.q")
    assert back.arguments["x-dead-letter-exchange"] == "dispatcher.delay.back.q"
    assert "x-max-length" not in back.arguments


@pytest.mark.parametrize(
    ("queue", "features", "found"),
    [
        (Queue("q", max_priority=9), V310, "none"),
        (Queue("q", max_priority=9), V40, "two levels"),
        (Queue("q", max_priority=9), V43, None),
        (Queue("q"), V310, None),
        (Queue("q", type="classic", max_priority=9), V310, None),
    ],
)
def test_priorities_are_never_an_argument_of_a_quorum_queue(
    queue: Queue, features: Features, found: str | None
) -> None:
    """It is refused on every version; where the queue cannot order, that is noted."""
    made = plan(queue, features=features)
    assert queue.type == "classic" or "x-max-priority" not in arguments(made)["q"]
    assert [note.found.partition(" (")[0].partition(",")[0] for note in made.notes] == ([found] if found else [])


def test_the_servers_exchange_is_direct_without_arguments_and_comes_first() -> None:
    """As a Go program declares it. No queue, no dead letters; the ladder is there for delayed tasks."""
    made = plan()
    assert made.exchanges[:2] == (ExchangeSpec("ex", "direct"), ExchangeSpec("dispatcher.dead", "direct"))
    assert all(is_ours(spec.name) for spec in made.queues)


def test_cancels_are_kept_in_a_stream() -> None:
    """For thirty days, in segments small enough to be forgotten in time, and reached by an exchange of their own."""
    made = plan()
    [stream] = [spec for spec in made.queues if spec.name == "dispatcher.cancel"]
    assert stream.arguments == {
        "x-queue-type": "stream",
        "x-max-age": "30D",
        "x-stream-max-segment-size-bytes": 1_000_000,
    }
    assert ExchangeSpec("dispatcher.cancel", "direct") in made.exchanges
    assert BindingSpec("dispatcher.cancel", "dispatcher.cancel", "cancel") in made.bindings


def test_nothing_is_there_twice() -> None:
    """Names are unique, whatever a topology repeats."""
    made = plan(Queue("q", binding_keys=("q", "q")), Queue("q", binding_keys=("q",)), Queue("r"))
    for names in ([spec.name for spec in made.exchanges], [spec.name for spec in made.queues]):
        assert len(names) == len(set(names))
    keys = [(b.source, b.destination, b.routing_key) for b in made.bindings]
    assert len(keys) == len(set(keys))


def test_dead_letters_that_are_asked_for_as_a_queue() -> None:
    """They are made as they are asked for, and still get the dead letters."""
    made = plan(Queue("q"), Queue("q.dead", delivery_limit=3))
    assert arguments(made)["q.dead"]["x-delivery-limit"] == 3
    assert ("dispatcher.dead", "q", "q.dead") in routes(made)
    assert "q.dead.dead" in arguments(made)


@pytest.mark.parametrize(
    "name",
    [
        "dispatcher.dead",
        "dispatcher.delay",
        "dispatcher.delay.3",
        "dispatcher.delay.x",
        "dispatcher.schedule",
        "dispatcher.schedule.ex/nightly",
    ],
)
def test_our_own_names_are_refused(name: str) -> None:
    """For an exchange and for a queue."""
    with pytest.raises(ConfigError, match=name):
        plan_of(Topology(name), V310)
    with pytest.raises(ConfigError, match=name):
        plan(Queue(name))


def test_names_as_long_as_they_may_be() -> None:
    """Names made of them that would pass 255 bytes have a digest instead, and none is like another."""
    made = plan_of(
        Topology("é" * 127, (Queue("q" * 250, ("k" * 255,)), Queue("q" * 249 + "p", ("k" * 254 + "l",)))), V310
    )
    names = [spec.name for spec in (*made.exchanges, *made.queues)]
    keys = [binding.routing_key for binding in made.bindings]
    assert max(len(name.encode()) for name in (*names, *keys)) == 255
    assert len([name for name in names if name.startswith("dispatcher.delay.back.")]) == 4
    assert len({key for key in keys if key.startswith("dispatcher.delay.way.")}) == 4


def test_a_schedule_has_a_queue_with_one_active_consumer() -> None:
    """Nothing ever drops what is in it, and it is reached by its own name on an exchange that only schedules have."""
    made = plan_of(Topology("ex", schedules=("nightly",)), V310)
    name = "dispatcher.schedule.ex/nightly"
    assert arguments(made)[name] == {
        "x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": 1_000_000_000,
    }  # fmt: skip
    assert ExchangeSpec("dispatcher.schedule", "direct") in made.exchanges
    assert ("dispatcher.schedule", name, name) in routes(made)
    assert not any(is_schedule(spec.name) for spec in plan(Queue("q")).exchanges)


def test_no_two_schedules_share_a_queue() -> None:
    """Whatever dots are in the names, and however long they are."""
    names = [("a", "b.c"), ("a.b", "c"), ("e" * 240, "s"), ("e" * 239, "s"), ("e" * 240, "t"), ("ex", "s" * 200)]
    queues = [schedule_queue(*pair) for pair in names]
    assert len(set(queues)) == len(names)
    assert all(len(queue.encode()) <= 255 and is_schedule(queue) for queue in queues)


def test_the_rights_for_schedules() -> None:
    """Who works leads them; who publishes has nothing to do with them. Without schedules nobody gets a right for them."""
    with_schedule = roles(Topology("ex", (Queue("q"),), schedules=("nightly",)))
    name = "dispatcher.schedule.ex/nightly"
    work = with_schedule["work"]
    assert re.fullmatch(work.read, name) and re.fullmatch(work.write, "dispatcher.schedule")
    assert not re.fullmatch(work.write, name) and not re.fullmatch(work.read, "dispatcher.schedule.ex/other")
    install = with_schedule["install"]
    for right in (install.configure, install.write, install.read):
        assert re.fullmatch(right, name) and re.fullmatch(right, "dispatcher.schedule")
    assert with_schedule["publish"] == roles(Topology("ex", (Queue("q"),)))["publish"]
    assert "schedule" not in str(roles(Topology("ex", (Queue("q"),))))


def test_the_mode_changes_nothing() -> None:
    """What is planned is what `create` would make, in every mode."""
    modes: tuple[DeclareMode, ...] = ("create", "verify", "never")
    plans = [plan_of(Topology("ex", (Queue("q"),), mode), V310) for mode in modes]
    assert plans[0] == plans[1] == plans[2]


def test_definitions_are_json_and_complete() -> None:
    """Everything durable, in the vhost that is asked for."""
    made = plan(Queue("q", binding_keys=("k",), max_length=2))
    read = json.loads(json.dumps(definitions(made, "v")))
    assert [len(read[kind]) for kind in ("exchanges", "queues", "bindings")] == [
        len(made.exchanges),
        len(made.queues),
        len(made.bindings),
    ]
    everything = [one for kind in read.values() for one in kind]
    assert all(one["vhost"] == "v" for one in everything)
    assert all(one["durable"] and not one["auto_delete"] for one in read["exchanges"] + read["queues"])
    assert {
        "source": "ex",
        "vhost": "v",
        "destination": "q",
        "destination_type": "queue",
        "routing_key": "k",
        "arguments": {},
    } in read["bindings"]


def test_roles() -> None:
    """Each may touch what it needs. Names are taken literally."""
    rights = roles(Topology("e.x", (Queue("a+b"), Queue("c"))))
    may = {
        (role, verb): {name for name in NAMES if re.search(getattr(right, verb), name)}
        for role, right in rights.items()
        for verb in ("configure", "write", "read")
    }
    installed = NAMES - {"exx", "aab", "c.deadly", "dispatcher.delays", "dispatcher", "amq.default", "other"}
    assert may["install", "configure"] == may["install", "read"] == installed
    assert may["install", "write"] == installed - {"e.x"}
    assert may["publish", "configure"] == may["publish", "read"] == may["work", "configure"] == set()
    levels = {"dispatcher.delay.0", "dispatcher.delay.31", "dispatcher.delay.high.7", "dispatcher.delay.for.e.x"}
    assert may["publish", "write"] == {"e.x"} | levels
    assert may["work", "write"] == {"e.x", "dispatcher.dead", "dispatcher.delay"} | levels
    assert may["work", "read"] == {"a+b", "c"}


NAMES = {
    "e.x",
    "dispatcher.delay.for.e.x",
    "exx",
    "a+b",
    "aab",
    "c",
    "a+b.dead",
    "c.dead",
    "c.deadly",
    "dispatcher.dead",
    "dispatcher.delay",
    "dispatcher.delay.0",
    "dispatcher.delay.31",
    "dispatcher.delay.high.7",
    "dispatcher.delay.due",
    "dispatcher.delay.back.a+b",
    "dispatcher.delays",
    "dispatcher",
    "amq.default",
    "other",
}


def test_a_worker_without_queues_reads_nothing() -> None:
    """An empty list is no pattern that fits everything."""
    assert not re.search(roles(Topology("ex"))["work"].read, "q")
