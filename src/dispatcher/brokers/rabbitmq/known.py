"""What the sessions of one broker object have in common: what they declared, and what they told. Data only."""

from __future__ import annotations

from ...errors import ArgumentError, ConfigError
from ...model.topology import DELAY_EXCHANGE, Queue, Topology, check_name
from ..base import DEFAULT_PRIORITY, TopologyDiffers

__all__ = ["Known"]

MAX_ROUTES = 10_000


class Known:
    """Outlives every session. `ladder`: the levels of the ladder that was made, none if it was not.

    `priorities`: what a message without a priority is sent with, for each exchange and routing key that was used.
    """

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.told: set[TopologyDiffers] = set()
        self.ladder: tuple[str, ...] = ()
        self.priorities: dict[tuple[str, str], int | None] = {}
        self._ordered: dict[tuple[str, str], bool] = {}  # by route: whether a queue there has priorities

    def add(self, topology: Topology) -> None:
        """Note what was declared."""
        for queue in topology.queues:
            self.queues[queue.name] = queue
            has_priorities = queue.max_priority is not None
            for route in [(DELAY_EXCHANGE, queue.name), *((topology.exchange, key) for key in queue.binding_keys)]:
                self._ordered[route] = has_priorities or self._ordered.get(route, False)
        self.priorities.clear()

    def add_route(self, exchange: str, routing_key: str) -> int | None:
        """The priority of a message without one; `ArgumentError` for a route that cannot travel.

        That would end the channel, and with it the publishes of others. In a queue with priorities a message without
        one would be the lowest: where nothing is known of the queue, the number does no harm.
        """
        try:
            check_name("exchange", exchange)
            check_name("routing key", routing_key)
        except ConfigError as error:
            raise ArgumentError(str(error)) from None
        if len(self.priorities) >= MAX_ROUTES:
            self.priorities.clear()
        priority = DEFAULT_PRIORITY if self._ordered.get((exchange, routing_key), True) else None
        self.priorities[exchange, routing_key] = priority
        return priority
