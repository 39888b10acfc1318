"""Queues, exchanges and bindings as data: what a server wants to exist in its broker.

Nothing here talks to a broker. A session receives a `Topology` and creates, verifies or leaves alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from ..errors import ConfigError

__all__ = [
    "CANCEL_EXCHANGE",
    "DEAD_EXCHANGE",
    "DELAY_EXCHANGE",
    "SCHEDULE_EXCHANGE",
    "DeclareMode",
    "Queue",
    "QueueType",
    "Topology",
    "check_name",
    "dead_queue",
]

DEAD_EXCHANGE = "dispatcher.dead"
"""Dead letters of queue `q` are published here with routing key `q`, and end in `q.dead`."""

DELAY_EXCHANGE = "dispatcher.delay"
"""What is published here with routing key `q` comes to queue `q`, after its delay: retries and snoozes take this way."""

CANCEL_EXCHANGE = "dispatcher.cancel"
"""Cancels of tasks are published here on RabbitMQ, and kept in a stream of the same name."""

SCHEDULE_EXCHANGE = "dispatcher.schedule"
"""On RabbitMQ, what each schedule's leader keeps of it is published here: `brokers/rabbitmq/schedules.py`."""

DeclareMode = Literal["create", "verify", "never"]
QueueType = Literal["quorum", "classic"]

_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
MAX_SHORT_STRING = 255  # AMQP 0-9-1, section 4.2.5.3: a short string holds at most 255 bytes of UTF-8


def dead_queue(queue: str) -> str:
    """The name of the queue that holds the dead letters of `queue`."""
    return f"{queue}.dead"


def check_name(what: str, name: object, *, room: int = 0) -> str:
    """Return `name` if it can be an exchange, queue or routing key, else raise `ConfigError`.

    `room` is the number of bytes that must stay free for a suffix of ours.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{what}: expected a non-empty string, got {name!r}")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_SHORT_STRING - room:
        raise ConfigError(f"{what}: expected at most {MAX_SHORT_STRING - room} bytes of UTF-8, got {size}")
    if _UNFIT.search(name):
        raise ConfigError(f"{what}: expected no control characters or lone surrogates, got {name!r}")
    return name


class Queue(msgspec.Struct, frozen=True):
    """A queue and the routing keys it is bound to.

    `binding_keys`: keys on the server's exchange, kept as a tuple; none means the queue is bound to nothing there.
    `type`: `"quorum"` (replicated) or `"classic"`; the embedded broker has one kind and takes both.
    `max_priority`: asks RabbitMQ's classic queues to order by priority; None leaves it to the broker. The embedded
    broker always orders by priority.
    `max_length`: the most messages it may hold waiting, None for no bound; beyond it a publish is refused.
    `delivery_limit`: how many holders may die with a message before it becomes a dead letter.
    """

    name: str
    binding_keys: Sequence[str] = ()
    type: QueueType = "quorum"
    max_priority: int | None = None
    max_length: int | None = None
    delivery_limit: int = 20

    def __post_init__(self) -> None:
        check_name("queue name", self.name, room=len(".dead"))
        keys = self.binding_keys
        if isinstance(keys, str):
            raise ConfigError(
                f"binding_keys of queue {self.name!r}: expected a list of strings, got the string {keys!r}"
            )
        msgspec.structs.force_setattr(self, "binding_keys", tuple(check_name("binding key", key) for key in keys))
        if self.type not in ("quorum", "classic"):
            raise ConfigError(f"type of queue {self.name!r}: expected 'quorum' or 'classic', got {self.type!r}")
        if self.max_priority is not None and not 1 <= self.max_priority <= 9:
            raise ConfigError(
                f"max_priority of queue {self.name!r}: expected 1 to 9 or None, got {self.max_priority!r}"
            )
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(
                f"max_length of queue {self.name!r}: expected 1 or more, or None, got {self.max_length!r}"
            )
        if self.delivery_limit < 1:
            raise ConfigError(f"delivery_limit of queue {self.name!r}: expected 1 or more, got {self.delivery_limit!r}")


class Topology(msgspec.Struct, frozen=True):
    """One server's exchange and queues. Each queue `q` brings `q.dead` and its keys on our two service exchanges.

    `schedules`: the names of what fires on it periodically; each has a place in the broker that says who leads it.
    """

    exchange: str
    queues: tuple[Queue, ...] = ()
    declare: DeclareMode = "create"
    schedules: tuple[str, ...] = ()
