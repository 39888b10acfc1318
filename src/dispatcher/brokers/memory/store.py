"""What the memory broker holds: exchanges, bindings, queues and their messages, under one lock.

It decides and returns; it never waits and never touches an event loop. Every public method takes the lock; those that
may have handed something to a consumer return the windows whose owners are to be woken, after the lock is free again.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from ...errors import PublishRefused, TopologyMismatch, TopologyMissing, Unroutable
from ...model import headers as names
from ...model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE, Queue, Topology, dead_queue
from ..base import BrowsedMessage, DelayBand, Message, QueueDepth, TopologyDiffers
from ..delays import bands_of, check_delay
from ..differences import mismatch, queue_differences
from ..headers import decode_headers, encode_headers
from .cancels import CancelLog
from .entries import DELAYED, GONE, HELD, READY, Entry, QueueState, Window

__all__ = ["Store", "Woken", "wall_clock_ms"]


def wall_clock_ms() -> int:
    """Now, in whole Unix milliseconds that are over: what is due at `n` is never handed out before `n`."""
    return time.time_ns() // 1_000_000


Woken: TypeAlias = Iterable[Window]
"""Consumers whose owners are to be woken, once the lock is free."""


class Store:
    """All exchanges, bindings and queues of one memory broker."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self._lock = threading.Lock()
        self._last_key = 0
        self._bindings: dict[str, dict[str, list[QueueState]]] = {}
        self._queues: dict[str, QueueState] = {}
        self.cancels = CancelLog(now_ms)

    # --- topology -----------------------------------------------------------------------------------------------

    def declare(self, topology: Topology) -> list[TopologyDiffers]:
        """Make `topology` true; returns what exists otherwise than asked for. `TopologyMismatch` as its mode says."""
        if topology.declare == "never":
            return []
        with self._lock:
            differs = [difference for queue in topology.queues for difference in self._differences(queue)]
            if topology.declare == "verify":
                absent = self._absent(topology)
                if absent or differs:
                    raise mismatch("the memory broker", absent, differs)
                return []
            for exchange in (topology.exchange, DEAD_EXCHANGE, DELAY_EXCHANGE):
                self._bindings.setdefault(exchange, {})
            for queue in topology.queues:
                self._create(topology.exchange, queue)
            return differs

    def _create(self, exchange: str, spec: Queue) -> None:
        queue = self._queues.get(spec.name)
        if queue is None:
            queue = QueueState(spec.name, delivery_limit=spec.delivery_limit, max_length=spec.max_length)
            self._queues[spec.name] = queue
        name = dead_queue(spec.name)
        # Dead letters have nowhere to go from there: whoever looks at them may die as often as it likes.
        dead = self._queues.setdefault(name, QueueState(name, delivery_limit=None, max_length=None))
        self._bind(DEAD_EXCHANGE, spec.name, dead)
        self._bind(DELAY_EXCHANGE, spec.name, queue)
        for key in spec.binding_keys:
            self._bind(exchange, key, queue)

    def _bind(self, exchange: str, key: str, queue: QueueState) -> None:
        bound = self._bindings[exchange].setdefault(key, [])
        if queue not in bound:
            bound.append(queue)

    def _absent(self, topology: Topology) -> list[str]:
        wrong = []
        bindings = self._bindings.get(topology.exchange)
        if bindings is None:
            wrong.append(f"exchange {topology.exchange!r} does not exist")
        for spec in topology.queues:
            queue = self._queues.get(spec.name)
            if queue is None:
                wrong.append(f"queue {spec.name!r} does not exist")
                continue
            missing = [key for key in spec.binding_keys if queue not in (bindings or {}).get(key, [])]
            wrong += [f"queue {spec.name!r} is not bound to {key!r}" for key in missing]
        return wrong

    def _differences(self, spec: Queue) -> list[TopologyDiffers]:
        queue = self._queues.get(spec.name)
        if queue is None:
            return []
        return queue_differences(spec, delivery_limit=queue.delivery_limit, max_length=queue.max_length)

    def queue(self, name: str) -> QueueState:
        """The queue of that name; `TopologyMismatch` if it does not exist."""
        queue = self._queues.get(name)
        if queue is None:
            raise TopologyMismatch(f"expected a queue that exists, got {name!r}; declare it first")
        return queue

    # --- messages -----------------------------------------------------------------------------------------------

    def publish(self, message: Message) -> Woken:
        """Put `message` into every queue it routes to, or into none and raise a `PublishError`."""
        headers = encode_headers(message.headers, message.uuid)
        with self._lock:
            queues = self._route(message)
            for queue in queues:
                self._check_room(queue, message)
            now_ms = self.now_ms()
            check_delay((message.ready_at_ms or 0) - now_ms)
            if len(queues) == 1:
                return self._put(queues[0], message, headers, now_ms)
            return [window for queue in queues for window in self._put(queue, message, headers, now_ms)]

    def _route(self, message: Message) -> list[QueueState]:
        bindings = self._bindings.get(message.exchange)
        if bindings is None:
            raise TopologyMissing(
                f"expected an exchange that exists, got {message.exchange!r}; declare it first", uuid=message.uuid
            )
        queues = bindings.get(message.routing_key)
        if queues is None:
            raise Unroutable(
                f"no queue is bound to routing key {message.routing_key!r} of exchange {message.exchange!r};"
                " declare a queue with that binding key",
                uuid=message.uuid,
            )
        return queues

    def _check_room(self, queue: QueueState, message: Message) -> None:
        # A retry has had its place already: refused by its own backlog, it would keep the slot that works it off.
        if queue.max_length is None or message.exchange == DELAY_EXCHANGE or queue.waiting < queue.max_length:
            return
        raise PublishRefused(f"queue {queue.name!r} is at its maximum length of {queue.max_length}", uuid=message.uuid)

    def _put(self, queue: QueueState, message: Message, headers: bytes | None, now_ms: int) -> Woken:
        self._last_key += 1
        entry = Entry(self._last_key, queue, message, headers, now_ms)
        queue.entries[entry.key] = entry
        due_ms = message.ready_at_ms
        if due_ms is not None and due_ms > now_ms:
            entry.state = DELAYED
            heapq.heappush(queue.delayed, (due_ms, entry.key, entry))
            return tuple(queue.windows)  # each session with a consumer here sets its timer
        heapq.heappush(queue.ready, (entry.rank, entry.key, entry))
        return self._pump(queue)

    def _pump(self, queue: QueueState) -> list[Window]:
        """Hand what is ready to the windows that have room, in turn."""
        woken: list[Window] = []
        ready, windows = queue.ready, queue.windows
        full = 0
        while ready and full < len(windows):
            window = windows[0]
            windows.rotate(-1)
            if window.unsettled >= window.prefetch:
                full += 1
                continue
            full = 0
            entry = heapq.heappop(ready)[2]
            if entry.state != READY:
                continue
            entry.state = HELD
            queue.held += 1
            entry.window = window
            window.unsettled += 1
            window.held[entry.key] = entry
            window.arrived.append(entry)
            woken.append(window)
        return woken

    def settle(self, entry: Entry) -> Woken:
        """Forget a held entry."""
        with self._lock:
            del entry.queue.entries[entry.key]
            entry.state = GONE
            self._let_go(entry)
            return self._pump(entry.queue)

    def hand_back(self, entries: Iterable[Entry]) -> Woken:
        """Make held entries ready again, each in its old place. Counts no death."""
        with self._lock:
            return self._hand_back(entries)

    def _hand_back(self, entries: Iterable[Entry]) -> list[Window]:
        queues: dict[str, QueueState] = {}
        for entry in entries:
            self._let_go(entry)
            entry.redelivered = True
            entry.state = READY
            heapq.heappush(entry.queue.ready, (entry.rank, entry.key, entry))
            queues[entry.queue.name] = entry.queue
        return [window for queue in queues.values() for window in self._pump(queue)]

    def _let_go(self, entry: Entry) -> None:
        window = entry.window
        assert window is not None, "only a held entry can be settled or handed back"
        entry.window = None
        entry.queue.held -= 1
        window.unsettled -= 1
        del window.held[entry.key]

    # --- consumers ----------------------------------------------------------------------------------------------

    def add_window(self, window: Window) -> Woken:
        """Start to hand messages of its queue to `window`."""
        with self._lock:
            window.queue.windows.append(window)
            return (*self._promote(window.queue), *self._pump(window.queue), window)

    def remove_window(self, window: Window) -> Woken:
        """Hand nothing more to `window`, and hand back what its owner has not taken out of `arrived`."""
        with self._lock:
            if window in window.queue.windows:
                window.queue.windows.remove(window)
            unseen = list(window.arrived)
            window.arrived.clear()
            return self._hand_back(unseen)

    def release(self, windows: Iterable[Window], held: dict[int, Entry], *, died: bool) -> tuple[Woken, int, int]:
        """End a session: hand back what it held; `died` counts a death each and parks those beyond the limit.

        Returns the windows to wake, how many messages were handed back or parked, and how many of them were parked.
        """
        with self._lock:
            for window in windows:
                if window in window.queue.windows:
                    window.queue.windows.remove(window)
                window.arrived.clear()
            entries = list(held.values())
            parked: list[Entry] = []
            if died:
                for entry in entries:
                    entry.deaths += 1
                    limit = entry.queue.delivery_limit
                    if limit is not None and entry.deaths > limit:
                        parked.append(entry)
            woken: list[Window] = []
            for entry in parked:
                woken += self._park(entry)
            woken += self._hand_back(list(held.values()))
            return woken, len(entries), len(parked)

    def _park(self, entry: Entry) -> Woken:
        now_ms = self.now_ms()
        message = entry.message
        headers = dict(decode_headers(entry.headers))
        headers.setdefault(names.EXCHANGE, message.exchange)
        headers.setdefault(names.ROUTING_KEY, message.routing_key)
        headers[names.REASON] = "delivery_limit"
        headers[names.REASON_TEXT] = f"{entry.deaths} holders died with it; the limit is {entry.queue.delivery_limit}"
        headers[names.REDELIVERIES] = entry.deaths
        headers[names.DEAD_AT] = now_ms
        headers[names.QUEUE] = entry.queue.name
        copy = msgspec.structs.replace(
            message, exchange=DEAD_EXCHANGE, routing_key=entry.queue.name, headers=None, ready_at_ms=None
        )
        del entry.queue.entries[entry.key]
        entry.state = GONE
        self._let_go(entry)
        dead = self._queues[dead_queue(entry.queue.name)]
        return self._put(dead, copy, encode_headers(headers, message.uuid), now_ms)

    def promote(self, queues: Iterable[QueueState]) -> Woken:
        """Make ready what has become due in `queues`."""
        with self._lock:
            return [window for queue in queues for window in self._promote(queue)]

    def _promote(self, queue: QueueState) -> list[Window]:
        now_ms = self.now_ms()
        while queue.delayed and queue.delayed[0][0] <= now_ms:
            entry = heapq.heappop(queue.delayed)[2]
            if entry.state == DELAYED:
                entry.state = READY
                heapq.heappush(queue.ready, (entry.rank, entry.key, entry))
        return self._pump(queue)

    def next_due_ms(self, queues: Iterable[QueueState]) -> int | None:
        """When the earliest delayed message of `queues` is due; None where none waits."""
        with self._lock:
            dues = []
            for queue in queues:
                while queue.delayed and queue.delayed[0][2].state == GONE:
                    heapq.heappop(queue.delayed)
                if queue.delayed:
                    dues.append(queue.delayed[0][0])
            return min(dues, default=None)

    # --- looking around -----------------------------------------------------------------------------------------

    def depths(self) -> list[QueueDepth]:
        """The depth of every queue that is not another one's dead letters, by name."""
        with self._lock:
            dead = {dead_queue(name) for name in self._queues}
            return [self._depth(queue) for name, queue in sorted(self._queues.items()) if name not in dead]

    def depth(self, name: str) -> QueueDepth:
        """The depth of one queue. What is due counts as ready, moved or not."""
        with self._lock:
            return self._depth(self.queue(name))

    def _depth(self, queue: QueueState) -> QueueDepth:
        now_ms = self.now_ms()
        delayed = sum(due_ms > now_ms and entry.state == DELAYED for due_ms, _, entry in queue.delayed)
        dead = self._queues.get(dead_queue(queue.name))
        return QueueDepth(
            queue.name,
            ready=queue.waiting - delayed,
            unacked=queue.held,
            delayed=delayed,
            consumers=len(queue.windows),
            dead=None if dead is None else len(dead.entries),
        )

    def delayed(self) -> list[DelayBand]:
        """The bands of every queue, by name."""
        with self._lock:
            now_ms = self.now_ms()
            bands: list[DelayBand] = []
            for name, queue in sorted(self._queues.items()):
                waiting = (due_ms - now_ms for due_ms, _, entry in queue.delayed if entry.state == DELAYED)
                bands += bands_of(name, (remaining for remaining in waiting if remaining > 0))
            return bands

    def browse(self, name: str, after_key: int, limit: int) -> list[BrowsedMessage]:
        """The next `limit` waiting messages of a queue in order of arrival."""
        with self._lock:
            found: list[BrowsedMessage] = []
            for key, entry in self.queue(name).entries.items():
                if key <= after_key or entry.state == HELD:
                    continue
                message = msgspec.structs.replace(entry.message, headers=decode_headers(entry.headers))
                found.append(BrowsedMessage(key, message, entry.deaths, entry.published_at_ms))
                if len(found) == limit:
                    break
            return found

    def remove(self, name: str, key: int) -> bool:
        """Delete one waiting message; False if it is gone or held."""
        with self._lock:
            queue = self.queue(name)
            entry = queue.entries.get(key)
            if entry is None or entry.state == HELD:
                return False
            del queue.entries[key]
            entry.state = GONE
            return True

    def purge(self, name: str) -> int:
        """Delete every waiting message of a queue and say how many there were."""
        with self._lock:
            queue = self.queue(name)
            waiting = [entry for entry in queue.entries.values() if entry.state != HELD]
            for entry in waiting:
                del queue.entries[entry.key]
            queue.ready.clear()
            queue.delayed.clear()
            return len(waiting)
