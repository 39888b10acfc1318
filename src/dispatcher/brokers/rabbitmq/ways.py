"""Whether there is a way at the end of a delay: what goes up the ladder without one would not come to its queue.

What is on the ladder cannot be returned to its sender, so the broker is asked before, once for each target and session,
with a message that vanishes. Who declared the queue here, ladder and all, need not ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from ...errors import TopologyMissing, Unroutable
from ...model.topology import DELAY_EXCHANGE, Topology
from ..base import Message
from .ladder import for_exchange, way_key

__all__ = ["Ways"]


class Ways:
    """The ways of one session, by exchange and routing key; `DELAY_EXCHANGE` leads to queues by name. `publish` is its own."""

    def __init__(self, publish: Callable[[Message], asyncio.Future[None]]) -> None:
        self._publish = publish
        self._sure: set[tuple[str, str]] = set()
        self._asked: dict[tuple[str, str], asyncio.Future[None]] = {}

    def add(self, topology: Topology) -> None:
        """All of it was declared, ladder and ways included."""
        for queue in topology.queues:
            self._sure.add((DELAY_EXCHANGE, queue.name))
            self._sure.update((topology.exchange, key) for key in queue.binding_keys)

    def is_sure(self, exchange: str, key: str) -> bool:
        return (exchange, key) in self._sure

    def ask(self, exchange: str, key: str) -> asyncio.Future[None]:
        """Resolves once it is sure that there is a way.

        `Unroutable` if none leads to a key of an exchange, `TopologyMissing` if none leads back to a queue, or there is no
        ladder; else it fails as a publish does.
        """
        target = exchange, key
        asked = self._asked.get(target)
        if asked is None:
            end = exchange if exchange == DELAY_EXCHANGE else for_exchange(exchange)
            probe = self._publish(Message(end, way_key(key), b""))
            asked = self._asked[target] = asyncio.get_running_loop().create_future()
            probe.add_done_callback(partial(self._answered, target))
        return asked

    def _answered(self, target: tuple[str, str], probe: asyncio.Future[None]) -> None:
        asked, error = self._asked.pop(target), probe.exception()
        if error is None:
            self._sure.add(target)
            asked.set_result(None)
        else:
            asked.set_exception(_no_way(*target) if isinstance(error, Unroutable) else error)
            asked.exception()  # read: who asked has a callback


def _no_way(exchange: str, key: str) -> Unroutable | TopologyMissing:
    if exchange == DELAY_EXCHANGE:
        return TopologyMissing(
            f"queue {key!r}: expected a way back from the delays to it, there is none; declare it once with"
            " declare='create', as a user who may"
        )
    return Unroutable(
        f"no queue was declared with key {key!r} on exchange {exchange!r}, so that a delay would lead nowhere; declare the"
        " queue, which is used as it is if another program made it, or correct the routing key"
    )
