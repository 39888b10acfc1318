"""Sessions of all processes as members of one file: joining, leaving, finding the dead and releasing what they held.

A member is alive while it holds the lock on `<token>.lock`, which the kernel lets go when its process ends, however
it ends. A member that is stopped keeps its lock; its lease, renewed in its row, tells then. Releasing the dead is
fenced: the row goes in the same transaction, and a session without a row can settle nothing any more.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import msgspec

from ...model import headers as names
from ...model.topology import DEAD_EXCHANGE
from ..headers import decode_headers, encode_headers
from .catalog import SessionInfo
from .file import Database
from .liveness import FileLock, Inheritance, boot_id, monotonic_ms
from .place import WRITE_LOCK, Place
from .store import Store, Work

__all__ = [
    "LEASE_MS",
    "Dead",
    "Member",
    "Released",
    "drop_files",
    "fifo_name",
    "find_dead",
    "join",
    "leave",
    "release",
    "renew",
]

LEASE_MS = 60_000
"""How long a member whose lock is held may be unheard of: a stopped process loses what it holds after a minute."""


class Member(msgspec.Struct, frozen=True):
    """This session as the others see it."""

    id: int
    token: str
    lock: FileLock


class Dead(msgspec.Struct, frozen=True):
    """A session found dead, and its lock, held by the finder; None where something else tells that it is dead.

    `by_lease`: only its lease tells so.
    """

    session: SessionInfo
    lock: FileLock | None
    by_lease: bool


class Released(msgspec.Struct, frozen=True):
    """How many messages a dead session held, and how many of them became dead letters. `consumed`: it had consumers."""

    messages: int
    dead_letters: int
    consumed: bool


def fifo_name(token: str) -> str:
    """The file by which the session is woken."""
    return f"{token}.fifo"


def join(database: Database, inheritance: Inheritance, name: str) -> Member:
    """Enter a new session into the file. Runs its own transaction."""
    place, execute = database.place, database.connection.execute
    token = os.urandom(8).hex()
    database.begin()
    lock: FileLock | None = None
    try:
        _sweep(place, {row[0] for row in execute("SELECT token FROM sessions")})
        # Under the write lock, so that no sweeper meets the file between its creation and its lock.
        lock = inheritance.lock(FileLock(place.inside(f"{token}.lock")))
        lock.acquire()
        row = execute(
            "INSERT INTO sessions (token, pid, boot_id, seen_ms, name) VALUES (?, ?, ?, ?, ?)",
            (token, os.getpid(), boot_id(), monotonic_ms(), name),
        )
        execute("UPDATE state SET epoch = epoch + 1")
        database.commit(4)
    except BaseException:
        if lock is not None:
            drop_files(place, token)
            lock.close()
        database.rollback()
        raise
    return Member(row.lastrowid, token, lock)


def _sweep(place: Place, known: set[str]) -> None:
    """Delete what sessions left behind that were killed before they had a row or after they had lost it."""
    for name in os.listdir(place.companion):
        token, extension = os.path.splitext(name)
        if extension == ".lock" and token not in known and name != WRITE_LOCK:
            lock = _take(place.inside(name))
            if lock is not None:
                drop_files(place, token)
                lock.close()


def leave(store: Store, work: Work) -> None:
    """Hand back what this session holds, counting no death, and delete its rows."""
    _to_ready(store, store.session, work)
    _delete_rows(store, store.session, work)


def find_dead(place: Place, store: Store, me: Member, *, by_lease: bool) -> list[Dead]:
    """Which sessions of the catalog are dead. Their locks are held by the caller from now on.

    `by_lease`: whether those count whose lock is held but whose lease is over.
    """
    boot, now_ms = boot_id(), monotonic_ms()
    dead = []
    for session in store.catalog.sessions.values():
        if session.id == me.id:
            continue
        lock = _take(place.inside(f"{session.token}.lock"))
        certain = lock is not None or session.boot_id != boot
        if certain or (by_lease and _lease_over(store, session, now_ms)):
            dead.append(Dead(session, lock, by_lease=not certain))
    return dead


def _lease_over(store: Store, session: SessionInfo, now_ms: int) -> bool:
    if 0 <= now_ms - session.seen_ms <= LEASE_MS:
        return False
    row = store.connection.execute("SELECT seen_ms FROM sessions WHERE id = ?", (session.id,)).fetchone()
    # Seen in the future: the clock started anew, so it is another boot's.
    return row is not None and not 0 <= now_ms - row[0] <= LEASE_MS


def _take(path: str) -> FileLock | None:
    """The lock at `path` if nobody holds it. A missing file tells nothing: somebody cleaned up too much."""
    try:
        lock = FileLock(path, create=False)
    except OSError:
        return None
    if lock.try_acquire():
        return lock
    lock.close()
    return None


def release(store: Store, dead: Dead, work: Work) -> Released | None:
    """Give what a dead session held to others, each message with one death more.

    None if another was faster, or if the session renewed its lease after it was found.

    A message that more holders died with than its queue's `delivery_limit` allows becomes a dead letter.
    """
    execute, session = store.connection.execute, dead.session.id
    if session not in store.catalog.sessions:
        return None
    if dead.by_lease and not _lease_over(store, dead.session, monotonic_ms()):
        return None
    held = "SELECT id FROM held WHERE session = ?"
    execute(f"UPDATE messages SET deliveries = deliveries + 1 WHERE id IN ({held})", (session,))
    doomed = execute(
        "SELECT m.id FROM messages m JOIN queues q ON q.id = m.queue_id"
        f" WHERE m.id IN ({held}) AND m.deliveries > q.delivery_limit AND q.dead IS NOT NULL",
        (session,),
    ).fetchall()
    for (id,) in doomed:
        _park(store, id, work)
    messages = _to_ready(store, session, work) + len(doomed)
    consumed = any(session in sessions for sessions in store.catalog.consumers.values())
    _delete_rows(store, session, work)
    return Released(messages, len(doomed), consumed)


def _park(store: Store, id: int, work: Work) -> None:
    execute = store.connection.execute
    queue_id, rank, deaths, exchange, routing_key, uuid, raw = execute(
        "SELECT queue_id, rank, deliveries, exchange, routing_key, uuid, headers FROM messages WHERE id = ?", (id,)
    ).fetchone()
    queue = store.catalog.queues[queue_id]
    now_ms = store.now_ms()
    headers = decode_headers(raw)
    headers.setdefault(names.EXCHANGE, exchange)
    headers.setdefault(names.ROUTING_KEY, routing_key)
    headers[names.REASON] = "delivery_limit"
    headers[names.REASON_TEXT] = f"{deaths} holders died with it; the limit is {queue.delivery_limit}"
    headers[names.REDELIVERIES] = deaths
    headers[names.DEAD_AT] = now_ms
    headers[names.QUEUE] = queue.name
    execute(
        "UPDATE messages SET queue_id = ?, deliveries = 0, published_at_ms = ?, exchange = ?, routing_key = ?, headers = ?"
        " WHERE id = ?",
        (queue.dead, now_ms, DEAD_EXCHANGE, queue.name, encode_headers(headers, uuid), id),
    )
    execute("DELETE FROM held WHERE id = ?", (id,))
    execute("INSERT INTO ready VALUES (?, ?, ?, 0)", (queue.dead, rank, id))
    work.kicks.add(queue.dead or 0)


def _to_ready(store: Store, session: int, work: Work) -> int:
    execute = store.connection.execute
    found = "FROM held h CROSS JOIN messages m ON m.id = h.id WHERE h.session = ?"
    total = 0
    for queue_id, count in execute(f"SELECT m.queue_id, count(*) {found} GROUP BY m.queue_id", (session,)).fetchall():
        store.count(queue_id, count, work)
        work.kicks.add(queue_id)
        total += count
    execute(f"INSERT INTO ready SELECT m.queue_id, m.rank, m.id, 1 {found}", (session,))
    execute("DELETE FROM held WHERE session = ?", (session,))
    work.pages += total // 8
    return total


def _delete_rows(store: Store, session: int, work: Work) -> None:
    store.connection.execute("DELETE FROM consumers WHERE session = ?", (session,))
    store.connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
    store.changed_catalog(work)


def drop_files(place: Place, token: str) -> None:
    """Delete a session's files, once its row is gone or nobody can hold its lock."""
    for name in (fifo_name(token), f"{token}.lock"):
        with contextlib.suppress(OSError):  # a file too many harms nobody, and the next one to join sweeps
            os.unlink(place.inside(name))


def renew(connection: Any, me: Member) -> None:
    """Say that this session is alive. Runs inside a transaction."""
    connection.execute("UPDATE sessions SET seen_ms = ? WHERE id = ?", (monotonic_ms(), me.id))
