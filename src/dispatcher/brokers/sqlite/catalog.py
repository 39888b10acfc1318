"""What exists: exchanges, queues, bindings, sessions and consumers, as read from the file at one epoch.

Reading and changing both run inside a transaction of the writer thread. Whatever changes something here raises the
epoch, so that every other session reads again before it next relies on its picture.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import TopologyMismatch
from ...model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE, Queue, Topology, dead_queue
from ..base import TopologyDiffers
from ..differences import mismatch, queue_differences

__all__ = ["Catalog", "QueueInfo", "SessionInfo", "declare", "load"]


class QueueInfo(msgspec.Struct, frozen=True):
    """A queue. None for a limit means there is none; `dead` is the id of its dead letters, None if it holds such."""

    id: int
    name: str
    delivery_limit: int | None
    max_length: int | None
    dead: int | None


class SessionInfo(msgspec.Struct, frozen=True):
    """A session of any process. `seen_ms` is as old as the epoch: read it again before relying on it."""

    id: int
    token: str
    boot_id: str
    seen_ms: int


class Catalog(msgspec.Struct, frozen=True):
    """Everything above. `consumers` maps a queue's id to the session of each of its consumers, with repetition."""

    epoch: int
    exchanges: frozenset[str]
    queues: dict[int, QueueInfo]
    by_name: dict[str, QueueInfo]
    routes: dict[tuple[str, str], tuple[QueueInfo, ...]]
    sessions: dict[int, SessionInfo]
    consumers: dict[int, tuple[int, ...]]

    def queue(self, name: str) -> QueueInfo:
        """The queue of that name; `TopologyMismatch` if it does not exist."""
        found = self.by_name.get(name)
        if found is None:
            raise TopologyMismatch(f"expected a queue that exists, got {name!r}; declare it first")
        return found

    def with_consumer(self, queue_id: int, session: int) -> Catalog:
        """What `load` gives once `session` has a consumer more there; for who knows that nothing else changed."""
        there = (*self.consumers.get(queue_id, ()), session)
        return msgspec.structs.replace(self, consumers={**self.consumers, queue_id: there})

    def without_consumer(self, queue_id: int, session: int) -> Catalog:
        """The same once `session` has a consumer less there."""
        there = list(self.consumers[queue_id])
        there.remove(session)
        return msgspec.structs.replace(self, consumers={**self.consumers, queue_id: tuple(there)})


def load(connection: Any, epoch: int) -> Catalog:
    """Read the catalog; `epoch` was read in the same transaction."""
    execute = connection.execute
    queues = {
        row[0]: QueueInfo(*row) for row in execute("SELECT id, name, delivery_limit, max_length, dead FROM queues")
    }
    routes: dict[tuple[str, str], tuple[QueueInfo, ...]] = {}
    for exchange, key, queue_id in execute("SELECT exchange, routing_key, queue_id FROM bindings"):
        routes[exchange, key] = (*routes.get((exchange, key), ()), queues[queue_id])
    consumers: dict[int, tuple[int, ...]] = {}
    for queue_id, session in execute("SELECT queue_id, session FROM consumers ORDER BY id"):
        consumers[queue_id] = (*consumers.get(queue_id, ()), session)
    return Catalog(
        epoch=epoch,
        exchanges=frozenset(row[0] for row in execute("SELECT name FROM exchanges")),
        queues=queues,
        by_name={queue.name: queue for queue in queues.values()},
        routes=routes,
        sessions={row[0]: SessionInfo(*row) for row in execute("SELECT id, token, boot_id, seen_ms FROM sessions")},
        consumers=consumers,
    )


def declare(connection: Any, catalog: Catalog, topology: Topology) -> tuple[list[TopologyDiffers], bool]:
    """Make `topology` true: what exists otherwise than asked for, and whether anything was created.

    `TopologyMismatch` in mode `verify` where something is absent or different; nothing is changed then.
    """
    if topology.declare == "never":
        return [], False
    differs = [difference for queue in topology.queues for difference in _differences(catalog, queue)]
    if topology.declare == "verify":
        absent = _absent(catalog, topology)
        if absent or differs:
            raise mismatch("the file's topology", absent, differs)
        return [], False
    before = connection.total_changes
    for exchange in (topology.exchange, DEAD_EXCHANGE, DELAY_EXCHANGE):
        connection.execute("INSERT OR IGNORE INTO exchanges VALUES (?)", (exchange,))
    for queue in topology.queues:
        _create(connection, topology.exchange, queue)
    return differs, connection.total_changes > before


def _create(connection: Any, exchange: str, queue: Queue) -> None:
    # Dead letters have nowhere to go from there: whoever looks at them may die as often as it likes.
    dead = _queue_id(connection, dead_queue(queue.name), None, None, None)
    own = _queue_id(connection, queue.name, queue.delivery_limit, queue.max_length, dead)
    bindings = [(DEAD_EXCHANGE, queue.name, dead), (DELAY_EXCHANGE, queue.name, own)]
    bindings += [(exchange, key, own) for key in queue.binding_keys]
    for binding in bindings:
        connection.execute("INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)", binding)


def _queue_id(connection: Any, name: str, delivery_limit: int | None, max_length: int | None, dead: int | None) -> int:
    connection.execute(
        "INSERT INTO queues (name, delivery_limit, max_length, dead) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
        (name, delivery_limit, max_length, dead),
    )
    return int(connection.execute("SELECT id FROM queues WHERE name = ?", (name,)).fetchone()[0])


def _differences(catalog: Catalog, queue: Queue) -> list[TopologyDiffers]:
    found = catalog.by_name.get(queue.name)
    if found is None:
        return []
    return queue_differences(queue, delivery_limit=found.delivery_limit, max_length=found.max_length)


def _absent(catalog: Catalog, topology: Topology) -> list[str]:
    names = (topology.exchange, *((DEAD_EXCHANGE, DELAY_EXCHANGE) if topology.queues else ()))
    wrong = [f"exchange {name!r} does not exist" for name in names if name not in catalog.exchanges]
    for queue in topology.queues:
        for name in (queue.name, dead_queue(queue.name)):
            if name not in catalog.by_name:
                wrong.append(f"queue {name!r} does not exist")
        keys = [(topology.exchange, key, queue.name) for key in queue.binding_keys]
        keys += [(DEAD_EXCHANGE, queue.name, dead_queue(queue.name)), (DELAY_EXCHANGE, queue.name, queue.name)]
        for exchange, key, name in keys:
            bound = {found.name for found in catalog.routes.get((exchange, key), ())}
            if name in catalog.by_name and name not in bound:
                wrong.append(f"queue {name!r} is not bound to {key!r} on exchange {exchange!r}")
    return wrong
