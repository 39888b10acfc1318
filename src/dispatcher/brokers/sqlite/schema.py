"""The tables of the embedded broker's file. SQL text only: nothing here opens or changes a file.

A message is one row of `messages`, written once; where it stands is which of three narrow tables holds its id:
`delayed` (not due yet), `ready` (waiting) or `held` (with a session). So a publish is two inserts, a claim moves a key
from `ready` to `held`, an ack is two deletes, and no body is ever rewritten. `ready` and `delayed` are their own
indexes, which keeps each step at the same cost whether a thousand messages wait or a million.
"""

from __future__ import annotations

__all__ = ["APPLICATION_ID", "PRIORITIES", "SCHEMA_VERSION", "STEPS"]

APPLICATION_ID = 0x44535043  # "DSPC", in bytes 68 to 71 of the file: what tells our file from another's
PRIORITIES = 10  # 0 to 9; `rank` is 9 - priority, so that the natural order of the key is the order of delivery

_FIRST = (
    # epoch: raised by everything that outdates a session's picture of queues, bindings, consumers and sessions.
    # next_id: ids are never used twice, or a browsed key could come to name another message.
    "CREATE TABLE state (epoch INTEGER NOT NULL, next_id INTEGER NOT NULL) STRICT",
    "INSERT INTO state VALUES (1, 1)",
    "CREATE TABLE exchanges (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    # waiting: how many are in ready and delayed, kept for queues with a max_length only.
    # dead: the queue of its dead letters; NULL for one that holds dead letters itself.
    "CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, delivery_limit INTEGER, max_length INTEGER,"
    " waiting INTEGER NOT NULL DEFAULT 0, dead INTEGER REFERENCES queues) STRICT",
    "CREATE TABLE bindings (exchange TEXT NOT NULL REFERENCES exchanges, routing_key TEXT NOT NULL,"
    " queue_id INTEGER NOT NULL REFERENCES queues, PRIMARY KEY (exchange, routing_key, queue_id)) STRICT, WITHOUT ROWID",
    # deliveries: how many holders died with it.
    "CREATE TABLE messages (id INTEGER PRIMARY KEY, queue_id INTEGER NOT NULL, rank INTEGER NOT NULL,"
    " deliveries INTEGER NOT NULL DEFAULT 0, published_at_ms INTEGER NOT NULL, priority INTEGER, exchange TEXT NOT NULL,"
    " routing_key TEXT NOT NULL, uuid TEXT NOT NULL, content_type TEXT, headers BLOB, body BLOB NOT NULL) STRICT",
    # again: it was with a consumer before.
    "CREATE TABLE ready (queue_id INTEGER NOT NULL, rank INTEGER NOT NULL, id INTEGER NOT NULL,"
    " again INTEGER NOT NULL, PRIMARY KEY (queue_id, rank, id)) STRICT, WITHOUT ROWID",
    "CREATE TABLE delayed (queue_id INTEGER NOT NULL, ready_at_ms INTEGER NOT NULL, id INTEGER NOT NULL,"
    " rank INTEGER NOT NULL, PRIMARY KEY (queue_id, ready_at_ms, id)) STRICT, WITHOUT ROWID",
    # No index on session: the table never has more rows than all prefetch windows together.
    "CREATE TABLE held (id INTEGER PRIMARY KEY, session INTEGER NOT NULL) STRICT",
    # AUTOINCREMENT: a session id that came back would let a stale holder settle its successor's messages.
    "CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE, pid INTEGER NOT NULL,"
    " boot_id TEXT NOT NULL, seen_ms INTEGER NOT NULL, name TEXT NOT NULL) STRICT",
    "CREATE TABLE consumers (id INTEGER PRIMARY KEY, session INTEGER NOT NULL REFERENCES sessions,"
    " queue_id INTEGER NOT NULL REFERENCES queues) STRICT",
)

_SECOND = (
    # since_ms: when the schedule was first led. What was due since then and has no firing yet is owed by the next leader.
    # A schedule is one exchange's: two apps may have one of the same name each.
    "CREATE TABLE schedules (exchange TEXT NOT NULL, name TEXT NOT NULL, session INTEGER, since_ms INTEGER NOT NULL,"
    " fired_ms INTEGER, PRIMARY KEY (exchange, name)) STRICT, WITHOUT ROWID",
    # cancels: what must not run any more. AUTOINCREMENT: a reader asks for what came after the last that it has seen.
    "CREATE TABLE cancels (id INTEGER PRIMARY KEY AUTOINCREMENT, exchange TEXT NOT NULL, uuid TEXT NOT NULL,"
    " cancelled_at_ms INTEGER NOT NULL) STRICT",
)

STEPS = (_FIRST, _SECOND)
"""What makes each version of the file from the one before; the first from an empty file."""

SCHEMA_VERSION = len(STEPS)
