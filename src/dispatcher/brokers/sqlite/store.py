"""What one transaction does to the messages: insert, settle, hand back, claim. Runs in the writer thread only.

It neither begins nor commits, and it remembers nothing that a rollback would make untrue but in `Work`, which the
caller throws away then. Everything it does is fenced: `refresh` raises before anything is written if this session was
found dead by another one.

Statements carry many rows each instead of `executemany`: SQLite's module gives up the interpreter lock at every step,
and with a busy event loop beside it, getting it back is what takes long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from ...errors import ConnectionLost, PublishError, PublishRefused, TopologyMissing, Unroutable
from ...model.topology import DELAY_EXCHANGE
from ..base import DEFAULT_PRIORITY, Message
from .catalog import Catalog, QueueInfo, load
from .entries import MESSAGE_COLUMNS, Publish, Row, Settled, Window
from .file import Database
from .schema import PRIORITIES
from .statements import CHUNKS, chunks, insert_messages, marks, runs

__all__ = ["Store", "Work", "wall_clock_ms"]

CLAIM_MAX = 1000
PROMOTE_MAX = 1000
PAGE_BYTES = 4096

USUAL = ("id", "queue_id", "rank", "published_at_ms", "exchange", "routing_key", "uuid", "headers", "body")
"""The columns of a message without a priority and with the plain content type: nearly every one."""
FULL = (*USUAL, "priority", "content_type")
LOOK = (
    "SELECT max(EXISTS (SELECT 1 FROM ready WHERE queue_id = w.column1)),"
    " min((SELECT ready_at_ms FROM delayed WHERE queue_id = w.column1 ORDER BY ready_at_ms LIMIT 1)) FROM (VALUES "
)
"""Whether anything is ready in some queues, and when the first of their delayed messages is due."""

PLAIN_CONTENT = "application/json"
"""Stored as NULL: nearly every message has it."""

USUAL_RANK = PRIORITIES - 1 - DEFAULT_PRIORITY

_New: TypeAlias = tuple[Any, ...]
"""What a new message has in the columns after its id: those of `USUAL`, or of `FULL`."""


def wall_clock_ms() -> int:
    """Now, in whole Unix milliseconds that are over: what is due at `n` is never handed out before `n`."""
    return time.time_ns() // 1_000_000


class Work:
    """What one transaction has done so far, for the accounts that are only settled after its commit."""

    __slots__ = (
        "changed_catalog",
        "claimed",
        "freed",
        "kicks",
        "limited",
        "more",
        "next_id",
        "pages",
        "timers",
        "waiting",
    )

    def __init__(self, next_id: int) -> None:
        self.next_id = next_id
        self.freed: dict[Window, int] = {}
        self.claimed: list[tuple[Window, list[Row]]] = []
        self.waiting: dict[int, int] = {}
        """The count of each bounded queue that was touched."""
        self.kicks: set[int] = set()
        """Queues in which something may wait for others."""
        self.timers: set[int] = set()
        """Queues that got something delayed: each of their consumers must know when it is due."""
        self.changed_catalog = False
        self.more = False
        """A bound was reached: go on at once."""
        self.limited = False
        """Something was left for other consumers: look again soon."""
        self.pages = 4


class Store:
    """The statements of one session. `session` is its row; `catalog` what it last read; `now_ms` the wall clock."""

    def __init__(self, database: Database, session: int, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self.connection = database.connection
        self._execute = database.execute
        self.session = session
        self.now_ms = now_ms
        self.catalog: Catalog = self._snapshot(0)
        self.windows: list[Window] = []
        self.next_due_ms: int | None = None
        self._inserts = {
            (columns, size): insert_messages(columns, size) for columns in (USUAL, FULL) for size in CHUNKS
        }

    # --- the catalog --------------------------------------------------------------------------------------------

    def refresh(self) -> Work:
        """Start a transaction's work. `ConnectionLost` if this session's row is gone."""
        epoch, next_id = self._execute("SELECT epoch, next_id FROM state").fetchone()
        if epoch != self.catalog.epoch:
            self._reload(epoch)
        return Work(next_id)

    def look(self) -> None:
        """Bring the catalog up to date outside of a transaction. Raises like `refresh`."""
        (epoch,) = self._execute("SELECT epoch FROM state").fetchone()
        if epoch != self.catalog.epoch:
            self._execute("BEGIN")  # one snapshot for all its queries
            try:
                (epoch,) = self._execute("SELECT epoch FROM state").fetchone()
                self._reload(epoch)
            finally:
                self._execute("COMMIT")

    def _snapshot(self, epoch: int) -> Catalog:
        """The catalog as it is at one moment: others may be declaring."""
        self._execute("BEGIN")
        try:
            return load(self.connection, epoch)
        finally:
            self._execute("COMMIT")

    def _reload(self, epoch: int) -> None:
        self.catalog = load(self.connection, epoch)
        if self.session not in self.catalog.sessions:
            raise ConnectionLost(
                "this session was taken for dead by another process, because it had not been heard of for too long;"
                " what it held was handed to others. Connect again"
            )

    def changed_catalog(self, work: Work, known: Catalog | None = None) -> None:
        """Something in the catalog was written: every session must read it again, this one at once.

        `known`: what it is now but for its epoch, where this session can tell. To read 200 queues takes a millisecond,
        and whoever works on 200 would read them 200 times.
        """
        epoch = self.catalog.epoch + 1
        self._execute("UPDATE state SET epoch = ?", (epoch,))
        self.catalog = load(self.connection, epoch) if known is None else msgspec.structs.replace(known, epoch=epoch)
        work.changed_catalog = True

    def forget_catalog(self) -> None:
        """A rollback may have undone a change of the catalog: read it again at the next transaction."""
        self.catalog = msgspec.structs.replace(self.catalog, epoch=0)

    # --- publish ------------------------------------------------------------------------------------------------

    def insert(self, publishes: Sequence[Publish], work: Work) -> list[PublishError | None]:
        """Store each message in every queue it routes to, or in none; says which error each met."""
        now_ms = self.now_ms()
        routes = self.catalog.routes
        ready: list[_New] = []
        delayed: list[tuple[int, _New]] = []
        errors: list[PublishError | None] = []
        for message, headers, _ in publishes:
            exchange, routing_key, priority = message.exchange, message.routing_key, message.priority
            queues = routes.get((exchange, routing_key))
            if queues is None:
                errors.append(self._no_route(message))
                continue
            refused = None
            for queue in queues:
                if queue.max_length is not None:
                    refused = self._take_room(queues, message, work)
                    break
            errors.append(refused)
            if refused is not None:
                continue
            rank = USUAL_RANK if priority is None else PRIORITIES - 1 - min(PRIORITIES - 1, max(0, priority))
            # As bytearray: what is bytes, or None, is first offered to every adapter that a program may have registered.
            blob = None if headers is None else bytearray(headers)
            new: _New = (rank, now_ms, exchange, routing_key, message.uuid, blob, bytearray(message.body))
            if priority is not None or message.content_type != PLAIN_CONTENT:
                new += (priority, None if message.content_type == PLAIN_CONTENT else message.content_type)
            due_ms = message.ready_at_ms
            for queue in queues:
                if due_ms is None or due_ms <= now_ms:
                    work.kicks.add(queue.id)
                    ready.append((queue.id, *new))
                else:
                    work.timers.add(queue.id)
                    delayed.append((due_ms, (queue.id, *new)))
        self._insert_rows(ready, delayed, work)
        return errors

    def _no_route(self, message: Message) -> PublishError:
        if message.exchange not in self.catalog.exchanges:
            return TopologyMissing(
                f"expected an exchange that exists, got {message.exchange!r}; declare it first", uuid=message.uuid
            )
        return Unroutable(
            f"no queue is bound to routing key {message.routing_key!r} of exchange {message.exchange!r};"
            " declare a queue with that binding key",
            uuid=message.uuid,
        )

    def _take_room(self, queues: Iterable[QueueInfo], message: Message, work: Work) -> PublishError | None:
        bounded = [queue for queue in queues if queue.max_length is not None]
        # A retry has had its place already: refused by its own backlog, it would keep the slot that works it off.
        returns = message.exchange == DELAY_EXCHANGE
        for queue in bounded:
            waiting = self._waiting(queue, work)
            if not returns and waiting >= (queue.max_length or 0):
                return PublishRefused(
                    f"queue {queue.name!r} is at its maximum length of {queue.max_length}", uuid=message.uuid
                )
        for queue in bounded:
            work.waiting[queue.id] += 1
        return None

    def _waiting(self, queue: QueueInfo, work: Work) -> int:
        found = work.waiting.get(queue.id)
        if found is None:
            found = int(self._execute("SELECT waiting FROM queues WHERE id = ?", (queue.id,)).fetchone()[0])
            work.waiting[queue.id] = found
        return found

    def count(self, queue_id: int, change: int, work: Work) -> None:
        """Note that `change` messages came to wait in a queue, or left it."""
        queue = self.catalog.queues[queue_id]
        if queue.max_length is not None:
            work.waiting[queue_id] = self._waiting(queue, work) + change

    def _insert_rows(self, ready: list[_New], delayed: list[tuple[int, _New]], work: Work) -> None:
        if not ready and not delayed:
            return
        first = id = work.next_id
        split = first + len(ready)
        rows = ready + [row for _, row in delayed]
        size = 0
        for part in chunks(rows):
            columns = USUAL if max(map(len, part)) < len(USUAL) else FULL
            values: list[Any] = []
            for row in part:
                values.append(id)
                values += row
                if columns is FULL and len(row) < len(USUAL):
                    values += (None, None)
                size += len(row[6] or b"") + len(row[7])
                id += 1
            self._execute(self._inserts[columns, len(part)], values)
        if ready:
            self._execute(
                "INSERT INTO ready SELECT queue_id, rank, id, 0 FROM messages WHERE id >= ? AND id < ?", (first, split)
            )
        for late, (due_ms, row) in enumerate(delayed, split):
            self._execute("INSERT INTO delayed VALUES (?, ?, ?, ?)", (row[0], due_ms, late, row[1]))
        work.next_id = id
        self._execute("UPDATE state SET next_id = ?", (id,))
        # Each row's overhead is some 100 bytes, its key in `ready` some 20.
        work.pages += (size + 120 * len(rows)) // PAGE_BYTES

    # --- settle -------------------------------------------------------------------------------------------------

    def ack(self, settled: Sequence[Settled], work: Work) -> None:
        """Forget messages that this session holds."""
        ids = self._free(settled, work)
        removed = 0
        in_a_row, singles = runs(ids)
        for run in in_a_row:
            removed += self._execute(
                "DELETE FROM held WHERE id BETWEEN ? AND ? AND session = ?", (*run, self.session)
            ).rowcount
            self._execute("DELETE FROM messages WHERE id BETWEEN ? AND ?", run)
        for part in chunks(singles):
            places = marks(len(part))
            removed += self._execute(
                f"DELETE FROM held WHERE id IN ({places}) AND session = ?", (*part, self.session)
            ).rowcount
            self._execute(f"DELETE FROM messages WHERE id IN ({places})", part)
        self._check_fence(removed, len(ids))
        work.pages += 4 + len(ids) // 8

    def hand_back(self, settled: Sequence[Settled], work: Work) -> None:
        """Make messages that this session holds ready again, each in its old place. Counts no death."""
        ids = self._free(settled, work)
        removed = 0
        for part in chunks(ids):
            places = marks(len(part))
            self._execute(f"INSERT INTO ready SELECT queue_id, rank, id, 1 FROM messages WHERE id IN ({places})", part)
            removed += self._execute(
                f"DELETE FROM held WHERE id IN ({places}) AND session = ?", (*part, self.session)
            ).rowcount
        self._check_fence(removed, len(ids))
        for _, window in settled:
            work.kicks.add(window.queue_id)
            self.count(window.queue_id, 1, work)

    def _free(self, settled: Sequence[Settled], work: Work) -> list[int]:
        freed = work.freed
        for _, window in settled:
            freed[window] = freed.get(window, 0) + 1
        return sorted([id for id, _ in settled])

    def _check_fence(self, found: int, expected: int) -> None:
        if found != expected:
            raise ConnectionLost(
                f"expected to hold {expected} messages that were settled, held {found} of them:"
                " the file was changed by something else than Dispatcher. Connect again"
            )

    # --- claim --------------------------------------------------------------------------------------------------

    def claim(self, work: Work) -> None:
        """Fill the windows of this session's consumers."""
        due: list[int] = []
        for window in self.windows:
            room = window.prefetch - window.held + work.freed.get(window, 0)
            if room <= 0:
                continue
            due_ms = self._promote(window.queue_id, work)
            if due_ms is not None:
                due.append(due_ms)
            rows = self._take(window.queue_id, min(room, CLAIM_MAX), work)
            if rows:
                work.claimed.append((window, rows))
                work.more = work.more or (len(rows) == CLAIM_MAX and room > CLAIM_MAX)
        self.next_due_ms = min(due, default=None)
        if work.claimed and len(self.windows) > 1:
            # In turn: else one worker would get every single message, also one that the other alone can run.
            self.windows = self.windows[1:] + self.windows[:1]

    def _take(self, queue_id: int, room: int, work: Work) -> list[Row]:
        sharers = len(self.catalog.consumers.get(queue_id, ()))
        wanted, left = room, False
        if sharers > 1:
            available = self._available(queue_id, room * sharers)
            wanted = min(room, -(-available // sharers))
            left = available > wanted
            work.limited = work.limited or (left and wanted < room)
        rows: list[Row] = []
        if wanted:
            rows = self._execute(
                f"SELECT r.rank, r.again, {MESSAGE_COLUMNS} FROM ready r CROSS JOIN messages m ON m.id = r.id"
                " WHERE r.queue_id = ? ORDER BY r.rank, r.id LIMIT ?",
                (queue_id, wanted),
            ).fetchall()
        if not left and len(rows) < room:
            work.kicks.discard(queue_id)  # it is empty now: nothing is there for others
        if rows:
            self._hold(queue_id, rows)
            self.count(queue_id, -len(rows), work)
            work.pages += 2 + len(rows) // 64
        return rows

    def _available(self, queue_id: int, most: int) -> int:
        query = "SELECT count(*) FROM (SELECT 1 FROM ready WHERE queue_id = ? LIMIT ?)"
        return int(self._execute(query, (queue_id, most)).fetchone()[0])

    def _hold(self, queue_id: int, rows: list[Row]) -> None:
        # The rows are the first of the queue in the order of its key: within a rank, everything up to the last id.
        last = {row[0]: row[2] for row in rows}
        moved = 0
        for rank, id in last.items():
            key = (queue_id, rank, id)
            self._execute(
                "INSERT INTO held SELECT id, ? FROM ready WHERE queue_id = ? AND rank = ? AND id <= ?",
                (self.session, *key),
            )
            moved += self._execute("DELETE FROM ready WHERE queue_id = ? AND rank = ? AND id <= ?", key).rowcount
        self._check_fence(moved, len(rows))

    def _promote(self, queue_id: int, work: Work) -> int | None:
        """Make ready what is due in a queue; says when the next of it is due."""
        first = self._first_due(queue_id)
        now_ms = self.now_ms()
        if first is None or first > now_ms:
            return first
        rows = self._execute(
            "SELECT ready_at_ms, id FROM delayed WHERE queue_id = ? AND ready_at_ms <= ? ORDER BY ready_at_ms, id LIMIT ?",
            (queue_id, now_ms, PROMOTE_MAX),
        ).fetchall()
        bound = (queue_id, *rows[-1])
        where = "FROM delayed WHERE queue_id = ? AND (ready_at_ms, id) <= (?, ?)"
        self._execute(f"INSERT INTO ready SELECT queue_id, rank, id, 0 {where}", bound)
        self._execute(f"DELETE {where}", bound)
        work.kicks.add(queue_id)
        work.pages += len(rows) // 16
        work.more = work.more or len(rows) == PROMOTE_MAX
        return self._first_due(queue_id)

    def _first_due(self, queue_id: int) -> int | None:
        query = "SELECT ready_at_ms FROM delayed WHERE queue_id = ? ORDER BY ready_at_ms LIMIT 1"
        row = self._execute(query, (queue_id,)).fetchone()
        return None if row is None else int(row[0])

    # --- between transactions -----------------------------------------------------------------------------------

    def finish(self, work: Work) -> None:
        """The last statements of a transaction."""
        for queue_id, waiting in work.waiting.items():
            self._execute("UPDATE queues SET waiting = ? WHERE id = ?", (waiting, queue_id))

    def committed(self, work: Work) -> None:
        """The transaction is safe: settle the windows' accounts."""
        for window, freed in work.freed.items():
            window.held -= freed
        for window, rows in work.claimed:
            window.held += len(rows)

    def worth_claiming(self) -> bool:
        """Whether a claim would find something: a plain read, so that a wake-up in vain takes no lock."""
        queues = [window.queue_id for window in self.windows if window.held < window.prefetch]
        self.next_due_ms = None
        if not queues:
            return False
        # One statement for all: at four looks a second, two for each of 200 queues cost an idle worker 0.5 % of a core.
        found, self.next_due_ms = self._execute(LOOK + ", ".join(["(?)"] * len(queues)) + ") AS w", queues).fetchone()
        return bool(found) or (self.next_due_ms is not None and self.next_due_ms <= self.now_ms())
