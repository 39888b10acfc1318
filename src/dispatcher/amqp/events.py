"""What comes out of the core: messages, answers, and what became of channels and the connection. Data only.

`waiter` is the object that was handed in with the command it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from .errors import AmqpError
from .methods import Method
from .properties import Properties

__all__ = [
    "Answered",
    "Blocked",
    "ChannelClosed",
    "Confirmed",
    "ConnectionClosed",
    "ConnectionOpened",
    "ConsumerCancelled",
    "Content",
    "Event",
    "FlowChanged",
    "Returned",
    "Unblocked",
]


class Content(msgspec.Struct, gc=False):
    """A message that the broker delivered, or that was got. What is not asked for is not decoded.

    `redelivered`: the broker says that it may have been delivered before. `consumer_tag` is empty for one that was got.
    """

    channel: int
    consumer_tag: bytes
    delivery_tag: int
    redelivered: bool
    route: bytes  # two short strings: exchange and routing key
    raw_properties: bytes
    body: bytes

    @property
    def exchange(self) -> str:
        route = self.route
        return route[1 : 1 + route[0]].decode("utf-8", "replace")

    @property
    def routing_key(self) -> str:
        route = self.route
        start = 2 + route[0]
        return route[start : start + route[start - 1]].decode("utf-8", "replace")

    @property
    def properties(self) -> Properties:
        return Properties(self.raw_properties)


class Confirmed(msgspec.Struct):
    """The broker answered publishes: `accepted`, or refused."""

    channel: int
    waiters: Sequence[Any]
    accepted: bool


class Returned(msgspec.Struct):
    """A mandatory message that no queue took came back; the confirm that follows says nothing about a queue.

    `waiter` is None if it cannot be told which publish it was.
    """

    channel: int
    waiter: Any
    code: int
    text: str
    exchange: str
    routing_key: str


class Answered(msgspec.Struct):
    """The answer to a `call`; a message that was got comes with its `content`."""

    waiter: Any
    method: Method
    content: Content | None = None


class ConsumerCancelled(msgspec.Struct):
    """The broker ended a consumer: its queue was deleted, or is not available any more."""

    channel: int
    consumer_tag: bytes


class FlowChanged(msgspec.Struct):
    """The broker asks to pause publishing on a channel, or to go on."""

    channel: int
    active: bool


class ChannelClosed(msgspec.Struct):
    """A channel is closed. `error` is None where we asked for it. The waiters get no other answer any more."""

    channel: int
    error: AmqpError | None
    calls: Sequence[Any]
    publishes: Sequence[Any]


class ConnectionOpened(msgspec.Struct):
    """The handshake is done."""


class Blocked(msgspec.Struct):
    """The broker takes no publishes on this connection (connection.blocked): an alarm of memory or disk."""

    reason: str


class Unblocked(msgspec.Struct):
    """The broker takes publishes again."""


class ConnectionClosed(msgspec.Struct):
    """The connection has ended. `error` is None after a close that we asked for. Nothing follows."""

    error: AmqpError | None


Event: TypeAlias = (
    Content
    | Confirmed
    | Returned
    | Answered
    | ConsumerCancelled
    | FlowChanged
    | ChannelClosed
    | ConnectionOpened
    | Blocked
    | Unblocked
    | ConnectionClosed
)
