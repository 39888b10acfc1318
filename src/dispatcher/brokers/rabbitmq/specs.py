"""Exchanges, queues and bindings as RabbitMQ knows them: names, types, arguments. Data only.

Everything is durable and not exclusive; nothing is ever deleted by itself. That is not said anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from ..base import TopologyDiffers

__all__ = ["Arguments", "BindingSpec", "ExchangeSpec", "ExchangeType", "Plan", "QueueSpec", "join"]

ExchangeType = Literal["direct", "fanout", "headers"]

Arguments: TypeAlias = Mapping[str, str | int | bool]
"""An AMQP field table of the few types that RabbitMQ's own arguments have."""


class ExchangeSpec(msgspec.Struct, frozen=True):
    """A durable exchange."""

    name: str
    type: ExchangeType
    arguments: Arguments = {}


class QueueSpec(msgspec.Struct, frozen=True):
    """A durable queue. Its type is an argument: none means classic."""

    name: str
    arguments: Arguments = {}


class BindingSpec(msgspec.Struct, frozen=True):
    """What exchange `source` hands on to queue `destination`, or to an exchange of that name.

    Source, destination and key tell two of ours apart.
    """

    source: str
    destination: str
    routing_key: str = ""
    arguments: Arguments = {}
    to_exchange: bool = False


class Plan(msgspec.Struct, frozen=True):
    """What is to exist: exchanges first, then queues, then bindings is an order in which they can be created.

    `notes`: what this broker cannot do of what was asked for, whatever exists.
    """

    exchanges: tuple[ExchangeSpec, ...] = ()
    queues: tuple[QueueSpec, ...] = ()
    bindings: tuple[BindingSpec, ...] = ()
    notes: tuple[TopologyDiffers, ...] = ()


def join(plans: Iterable[Plan]) -> Plan:
    """All of them, in order. Of two exchanges or two queues of one name the first is kept, of equal bindings one."""
    exchanges: dict[str, ExchangeSpec] = {}
    queues: dict[str, QueueSpec] = {}
    bindings: dict[tuple[str, str, str], BindingSpec] = {}
    notes: list[TopologyDiffers] = []
    for plan in plans:
        for exchange in plan.exchanges:
            exchanges.setdefault(exchange.name, exchange)
        for queue in plan.queues:
            queues.setdefault(queue.name, queue)
        for binding in plan.bindings:
            bindings.setdefault((binding.source, binding.destination, binding.routing_key), binding)
        notes += plan.notes
    return Plan(tuple(exchanges.values()), tuple(queues.values()), tuple(bindings.values()), tuple(notes))
