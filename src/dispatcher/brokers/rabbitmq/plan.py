"""What a topology is on RabbitMQ: every exchange, queue and binding, and the rights that three kinds of user need there.

It decides and returns, and talks to no broker: `declare` acts on it, tools show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from ...errors import ConfigError
from ...model.topology import (
    CANCEL_EXCHANGE,
    DEAD_EXCHANGE,
    DELAY_EXCHANGE,
    SCHEDULE_EXCHANGE,
    Queue,
    Topology,
    dead_queue,
)
from ..base import TopologyDiffers
from .cancels import cancel_stream
from .ladder import (
    HIGH_LANE,
    PLAIN_LANE,
    SERVICE_PREFIX,
    UNREACHABLE_DELIVERY_LIMIT,
    for_exchange,
    is_service,
    ladder,
    way_to_exchange,
    way_to_queue,
)
from .schedules import is_schedule, schedule_plan, schedule_queue
from .specs import BindingSpec, ExchangeSpec, Plan, QueueSpec, join
from .version import Features

__all__ = ["Rights", "definitions", "is_ours", "plan_of", "roles", "services"]


def plan_of(topology: Topology, features: Features, *, with_services: bool = True) -> Plan:
    """Everything that must exist for `topology`, in an order in which it can be created.

    `with_services` False: what all topologies of a vhost share is known to be there.

    A queue that is asked for and has the name of another one's dead letters is made as it is asked for. `ConfigError`
    for a name that is ours.
    """
    _check_not_ours("exchange", topology.exchange)
    for queue in topology.queues:
        _check_not_ours("queue", queue.name)
    exchanges = Plan((ExchangeSpec(topology.exchange, "direct"), ExchangeSpec(DEAD_EXCHANGE, "direct")))
    return join(
        [
            exchanges,
            services(features) if with_services else Plan(),
            way_to_exchange(topology.exchange),
            *(_queue(topology.exchange, queue, features) for queue in topology.queues),
            *(_dead_letters(queue) for queue in topology.queues),
            schedule_plan(topology.exchange, topology.schedules),
        ]
    )


def services(features: Features) -> Plan:
    """What all topologies of a vhost share: the ladder of delays, and the stream of cancels."""
    return join([ladder(features), cancel_stream()])


def is_ours(name: object) -> bool:
    """Whether an exchange or queue of that name is made and looked after by Dispatcher alone; dead letters are not."""
    return name == CANCEL_EXCHANGE or is_service(name)


def _check_not_ours(what: str, name: str) -> None:
    if name == DEAD_EXCHANGE or is_ours(name) or is_schedule(name):
        raise ConfigError(f"{what} name: expected one that Dispatcher does not use itself, got {name!r}")


def _queue(exchange: str, queue: Queue, features: Features) -> Plan:
    own = Plan(
        queues=(QueueSpec(queue.name, _quorum(queue) if queue.type == "quorum" else _classic(queue)),),
        bindings=tuple(BindingSpec(exchange, queue.name, key) for key in queue.binding_keys),
        notes=_notes(queue, features),
    )
    return join([own, way_to_queue(queue.name, exchange, queue.binding_keys)])


def _dead_letters(queue: Queue) -> Plan:
    name = dead_queue(queue.name)
    return Plan(
        queues=(QueueSpec(name, {"x-queue-type": "quorum", "x-delivery-limit": UNREACHABLE_DELIVERY_LIMIT}),),
        bindings=(BindingSpec(DEAD_EXCHANGE, name, queue.name),),
    )


def _quorum(queue: Queue) -> dict[str, str | int]:
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": queue.delivery_limit,
        "x-dead-letter-exchange": DEAD_EXCHANGE,
        "x-dead-letter-routing-key": queue.name,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # at-least-once exists with this only
    }
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    return arguments


def _classic(queue: Queue) -> dict[str, str | int]:
    """No argument that is not asked for: a Go program declares the same queue without any.

    Nor a dead-letter exchange: it would be at-most-once, the worker counts the redeliveries, and rejects nothing away.
    """
    arguments: dict[str, str | int] = {}
    if queue.max_priority is not None:
        arguments["x-max-priority"] = queue.max_priority
    if queue.max_length is not None:
        arguments |= {"x-max-length": queue.max_length, "x-overflow": "reject-publish"}
    return arguments


def _notes(queue: Queue, features: Features) -> tuple[TopologyDiffers, ...]:
    if queue.type != "quorum" or queue.max_priority is None or features.quorum_priorities == "strict":
        return ()
    found = "none" if features.quorum_priorities == "none" else "two levels, above 4 and the others"
    return (
        TopologyDiffers(
            f"order by priority of queue {queue.name!r}",
            "strict",
            f"{found} (RabbitMQ {features.version}; quorum queues order strictly from 4.3 on, type='classic' does always)",
        ),
    )


def definitions(plan: Plan, vhost: str) -> dict[str, Any]:
    """`plan` as RabbitMQ's definitions, to be written as JSON and imported there (rabbitmq.com/docs/definitions)."""
    durable = {"vhost": vhost, "durable": True, "auto_delete": False}
    return {
        "exchanges": [
            {"name": spec.name, **durable, "type": spec.type, "internal": False, "arguments": dict(spec.arguments)}
            for spec in plan.exchanges
        ],
        "queues": [{"name": spec.name, **durable, "arguments": dict(spec.arguments)} for spec in plan.queues],
        "bindings": [
            {
                "source": spec.source,
                "vhost": vhost,
                "destination": spec.destination,
                "destination_type": "exchange" if spec.to_exchange else "queue",
                "routing_key": spec.routing_key,
                "arguments": dict(spec.arguments),
            }
            for spec in plan.bindings
        ],
    }


class Rights(msgspec.Struct, frozen=True):
    """The three regular expressions that `rabbitmqctl set_permissions` takes (rabbitmq.com/docs/access-control)."""

    configure: str
    write: str
    read: str


def roles(topology: Topology) -> dict[str, Rights]:
    """What each of three kinds of user may do, and no more.

    `install` creates the topology, and looks after the dead letters. `publish` sends tasks, delayed ones included, and
    cancels them. `work` consumes the queues, hears of cancels, leads the schedules, and publishes tasks, retries and dead
    letters. Those two can create, delete and bind nothing.
    """
    exchange = re.escape(topology.exchange)
    queues = [re.escape(queue.name) for queue in topology.queues]
    dead = [re.escape(dead_queue(queue.name)) for queue in topology.queues]
    dead_exchange, delay_exchange, cancel = (
        re.escape(name) for name in (DEAD_EXCHANGE, DELAY_EXCHANGE, CANCEL_EXCHANGE)
    )
    delays = [f"{re.escape(lane)}[0-9]+" for lane in (PLAIN_LANE, HIGH_LANE)]
    delays.append(re.escape(for_exchange(topology.exchange)))  # to ask whether there is a way at the end of a delay
    schedules = [re.escape(schedule_queue(topology.exchange, name)) for name in topology.schedules]
    of_schedules = [re.escape(SCHEDULE_EXCHANGE)] if schedules else []
    # A binding takes write on the queue and read on the exchange; an argument that names an exchange takes write there,
    # and read on what has it. So who installs may consume, and write dead letters: RabbitMQ has no right for the one
    # without the other.
    of_all = [dead_exchange, delay_exchange, re.escape(SERVICE_PREFIX) + ".+", cancel, *of_schedules]
    ours = [*queues, *dead, *of_all, *schedules]
    everything = _one_of([exchange, *ours])
    nothing = "^$"
    return {
        "install": Rights(configure=everything, write=_one_of(ours), read=everything),
        "publish": Rights(configure=nothing, write=_one_of([exchange, *delays, cancel]), read=nothing),
        "work": Rights(
            configure=nothing,
            write=_one_of([exchange, dead_exchange, delay_exchange, *delays, cancel, *of_schedules]),
            read=_one_of([*queues, cancel, *schedules]),
        ),
    }


def _one_of(patterns: Iterable[str]) -> str:
    return f"^({'|'.join(patterns)})$"
