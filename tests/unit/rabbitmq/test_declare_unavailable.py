"""Declaring while the node of a queue is away: RabbitMQ answers as if the queue did not exist, and it does."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.amqp.errors import ReplyError, reply_error
from dispatcher.amqp.methods import QueueBind, QueueDeclare
from dispatcher.brokers.base import TopologyDiffers
from dispatcher.brokers.rabbitmq.declare import declare
from dispatcher.brokers.rabbitmq.translate import refusal
from dispatcher.brokers.rabbitmq.version import ServerVersion, features_of
from dispatcher.errors import ConnectionLost, TopologyMismatch
from dispatcher.model.topology import DeclareMode, Queue, Topology

DOWN = "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible"
ABSENT = "NOT_FOUND - no queue 'q' in vhost '/'"


class Broker:
    """Answers what is asked on its channels: everything is there, and as asked for, but what is to be done with queue `q`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.done: list[Any] = []

    async def open_channel(self) -> Any:
        return self

    def ask(self, method: Any) -> Any:
        return method

    async def answer(self, method: Any) -> Any:
        if isinstance(method, QueueDeclare | QueueBind) and method.queue == "q":
            raise reply_error(404, self.text)
        self.done.append(method)

    async def close(self) -> None: ...


async def declared(broker: Broker, mode: DeclareMode) -> list[TopologyDiffers]:
    told: list[TopologyDiffers] = []
    topology = Topology("ex", (Queue("q", ("k",)), Queue("other", ("o",))), mode)
    await declare(broker.open_channel, topology, features_of(ServerVersion(3, 10, 8)), told.append)
    return told


async def test_a_queue_whose_node_is_down_is_there() -> None:
    """It is told, and all else is declared."""
    broker = Broker(DOWN)
    [told] = await declared(broker, "create")
    assert "'q'" in told.what and "rabbit@b" in told.found
    bound = [method.queue for method in broker.done if isinstance(method, QueueBind)]
    assert "other" in bound and "dispatcher.delay.back.q" in bound


async def test_verifying_does_not_miss_it() -> None:
    """It was declared once; whether it differs cannot be told now."""
    assert await declared(Broker(DOWN), "verify") == []
    with pytest.raises(TopologyMismatch, match="'q' does not exist"):
        await declared(Broker(ABSENT), "verify")


@pytest.mark.parametrize(("text", "kind"), [(DOWN, ConnectionLost), (ABSENT, TopologyMismatch)])
def test_what_is_away_may_come_back(text: str, kind: type[Exception]) -> None:
    """Nobody ends for it as for a fault of the configuration."""
    error: ReplyError = reply_error(404, text)
    assert type(refusal(error, "looking at queue 'q'")) is kind
