"""The ledger test's stage on an SQLite file: what is in it, and who holds what. It only reads beside the processes."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from dispatcher.brokers.sqlite.file import connect
from dispatcher.brokers.sqlite.liveness import FileLock

__all__ = ["SqliteGround"]

LOCK_SECONDS = 0.5

HELD_BY = "SELECT m.uuid FROM sessions s JOIN held h ON h.session = s.id JOIN messages m ON m.id = h.id WHERE s.pid = ?"
WAITING = "SELECT count(*) FROM messages m JOIN queues q ON q.id = m.queue_id WHERE q.dead IS NOT NULL"


class SqliteGround:
    """A file in `folder`. See `ledger_rig.Ground`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "broker.db"
        self.companion = folder / "broker.db-dispatcher"
        self.url = self.own_url = f"sqlite:///{self.file}"

    def read(self, query: str, *values: Any) -> list[Any]:
        """Rows of the broker's file, read beside it."""
        if not self.file.exists():
            return []
        with closing(connect(str(self.file))) as connection:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return []
            rows: list[Any] = connection.execute(query, values).fetchall()
            return rows

    def is_ready(self) -> bool:
        # A process stopped while it creates the tables would bar the file to those who want to look into it.
        return bool(self.read("SELECT * FROM state"))

    def held_by(self, pid: int) -> list[str]:
        return [row[0] for row in self.read(HELD_BY, pid)]

    def unfinished(self) -> int:
        rows = self.read(WAITING)
        return int(rows[0][0]) if rows else 0

    def is_locked(self) -> bool:
        """Whether the file's lock stays taken for longer than any transaction of a running process lasts."""
        path = self.companion / "write.lock"
        if not path.exists():
            return True  # nobody has got that far: there is nothing to disturb yet
        lock = FileLock(str(path))
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while not lock.try_acquire():
                if time.monotonic() > deadline:
                    return True
                time.sleep(0.001)
            return False
        finally:
            lock.close()

    def harm(self, what: str, progress: float) -> None:
        raise AssertionError(f"nobody can do {what!r} to a file")

    def heal(self) -> None:
        """Nothing was done to it."""

    def state(self) -> str:
        return str(self.read("SELECT * FROM sessions"))
