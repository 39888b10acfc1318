"""The embedded broker: an SQLite file that any number of processes of one machine share.

    __init__    SqliteBroker: a path, and how to open a session on it
    session     the asyncio face: sessions, consumers, deliveries
    inspector   looking around, for tools
    writer      the thread of a session, between its event loop and ...
    engine      ... what it does in the file, turn by turn
    store       one transaction's work on messages
    members     sessions as members of the file: joining, leaving, releasing the dead
    catalog     exchanges, queues, bindings, consumers
    file        connections, transactions, checkpoints
    space       the brake and the ballast for a full disk
    entries, schema, faults, place, liveness, wake, failpoints

Nothing here is weaker than RabbitMQ but its reach: a publish resolves after its COMMIT has been synced to the disk.
"""

from __future__ import annotations

from pathlib import Path

from ..base import OnEvent, TopologyDiffers
from .faults import sqlite
from .place import Place
from .session import SqliteSession

__all__ = ["SqliteBroker", "SqliteSession"]


class SqliteBroker:
    """Messages in the SQLite file at `path`, which is created (mode 0600) with a folder `<path>-dispatcher` beside it."""

    def __init__(self, path: str | Path) -> None:
        """`ConfigError` where `path` cannot name a file. Nothing is opened yet."""
        self._path = str(path)
        self._told: set[TopologyDiffers] = set()
        Place(path)

    @property
    def path(self) -> str:
        """The path as it was given."""
        return self._path

    def __repr__(self) -> str:
        return f"SqliteBroker({self._path!r})"

    async def connect(self, *, name: str, on_event: OnEvent) -> SqliteSession:
        """Open a session on the running event loop. `name` is kept in the file for those who look into it.

        Raises `ConfigError` for an SQLite that is too old, a `StorageError` for a file that cannot be used, and
        `ConnectionLost` where another process held the file's lock for half a minute.
        """
        sqlite()  # here, because the thread could not even tell SQLite's errors from others without one
        session = SqliteSession(Place(self._path), name, on_event, self._told)
        await session.open()
        return session
