"""The open database file: its two connections, its transactions and its checkpoints. Belongs to the writer thread.

All writing in all processes goes through `begin`, which first takes a kernel lock beside the file: waiting there is
fair and costs nothing, while SQLite's own busy handler sleeps and tries again. Nothing here may checkpoint in any
other way than `checkpoint` does, see there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import StorageCorrupt, StorageUnsupported
from .failpoints import failpoint
from .faults import sqlite, storage_error
from .liveness import FileLock, Inheritance
from .place import WRITE_LOCK, Place
from .schema import APPLICATION_ID, SCHEMA_VERSION, STEPS

__all__ = ["Database", "connect"]

BUSY_SECONDS = 5.0
JOURNAL_LIMIT_BYTES = 64 * 1024 * 1024
PAGE_BYTES = 4096
CHECKPOINT_PAGES = 1024
"""A checkpoint is due after about this many pages were logged: 4 MiB, SQLite's own default."""

VACUUM_PAGES = 256
VACUUM_ABOVE_PAGES = 4096
"""Free pages are given back to the disk beyond 16 MiB of them: below that they will be needed again."""


def connect(path: str) -> Any:
    """A new connection to the existing file at `path`, with every setting that the file's safety rests on."""
    library = sqlite()
    connection = library.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=256)
    try:
        for pragma in (
            "trusted_schema = OFF",
            "foreign_keys = ON",
            "synchronous = FULL",
            "wal_autocheckpoint = 0",
            f"journal_size_limit = {JOURNAL_LIMIT_BYTES}",
            "mmap_size = 0",
            "secure_delete = OFF",
            "temp_store = MEMORY",
        ):
            connection.execute("PRAGMA " + pragma).fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


class Database:
    """One session's hold on the file. `execute` runs the statements of every transaction, on one cursor of `connection`.

    Each must have given its last row before the next is run; what takes rows one by one uses the connection.
    """

    def __init__(self, place: Place, inheritance: Inheritance, checkpoint_pages: int = CHECKPOINT_PAGES) -> None:
        """Open, create the tables if the file is empty, check them if it is not. Raises `StorageError`s only."""
        self.place = place
        self._checkpoint_pages = checkpoint_pages
        self._logged_pages = 0
        self.relaxed = False
        self._lock = inheritance.lock(FileLock(place.inside(WRITE_LOCK)))
        self._locked = False
        self._checkpointer: Any = None
        self.connection: Any = None
        self.execute: Callable[..., Any]
        try:
            self.connection = connect(place.path)
            inheritance.connection(self.connection)
            cursor = self.connection.cursor()  # one for all: to make one costs a third of what a short statement does
            inheritance.connection(cursor)
            self.execute = cursor.execute
            self._adopt()
            self._checkpointer = connect(place.path)
            inheritance.connection(self._checkpointer)
            self._checkpointer.execute("SELECT * FROM state").fetchall()
            place.remember()
        except sqlite().Error as error:
            self.close()
            raise storage_error(error, place.path) from error
        except BaseException:
            self.close()
            raise

    def _adopt(self) -> None:
        """Make sure that the file is ours and of this version or made so, and write nothing into one that is not."""
        self._take_lock()
        try:
            version = self._version()
            execute = self.connection.execute
            if version == 0:
                execute(f"PRAGMA page_size = {PAGE_BYTES}")
                execute("PRAGMA auto_vacuum = INCREMENTAL")
            if execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StorageUnsupported(
                    f"{self.place.path}: its file system cannot keep a write-ahead log; put the file on another",
                    path=self.place.path,
                )
            if version == SCHEMA_VERSION:
                return
            execute("BEGIN IMMEDIATE")
            for step in STEPS[version:]:
                for statement in step:
                    execute(statement)
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            execute("COMMIT")
        finally:
            self._drop_lock()

    def _version(self) -> int:
        """The version of our tables in the file; 0 where it is empty, an error for anything else."""
        execute, path = self.connection.execute, self.place.path
        application, version, tables = (
            int(execute(query).fetchone()[0])
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if application != APPLICATION_ID:
            if tables or application or version:
                raise StorageCorrupt(
                    f"{path}: expected a Dispatcher file, got an SQLite file of another program;"
                    " it was left as it is. Choose another path",
                    path=path,
                )
            return 0
        if not 1 <= version <= SCHEMA_VERSION:
            raise StorageUnsupported(
                f"{path}: expected schema version 1 to {SCHEMA_VERSION}, got {version}, written by another"
                " Dispatcher, a newer one; drain it with that, or choose another path",
                path=path,
            )
        return version

    def begin(self, *, relaxed: bool = False) -> None:
        """Start a write transaction.

        `relaxed`: its commit need not survive a power cut. True for what such a cut undoes anyway, a claim or a
        heartbeat: the next full commit syncs the one log that they share.
        """
        self._take_lock()
        try:
            if relaxed is not self.relaxed:
                self.execute("PRAGMA synchronous = " + ("NORMAL" if relaxed else "FULL"))
                self.relaxed = relaxed
            self.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._drop_lock()
            raise

    def commit(self, pages: int) -> None:
        """Commit about `pages` changed pages. Raises like any statement; call `rollback` then."""
        self.execute("COMMIT")
        self._logged_pages += pages
        self._drop_lock()

    def rollback(self) -> None:
        """End the transaction, if there is one, without a trace."""
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        finally:
            self._drop_lock()

    def checkpoint_if_due(self) -> None:
        """Checkpoint, if this session has logged enough since the last time. Raises like any statement."""
        if self._logged_pages >= self._checkpoint_pages:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Copy the log into the file now, so that the next writer uses the log again from its start."""
        # SQLite 3.7.0 to 3.51.2 can corrupt the file when a writer starts the log anew while another connection is
        # about to checkpoint (sqlite.org/wal.html, section 11). Holding the write lock while the second connection
        # copies excludes every such writer; PASSIVE itself never starts the log anew.
        self._logged_pages = 0
        self.begin(relaxed=self.relaxed)
        try:
            failpoint("checkpoint")
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            self.rollback()

    def vacuum(self, *, eager: bool = False) -> None:
        """Give a slice of the free pages back to the disk, if there are very many; `eager`: if there are any."""
        execute = self.connection.execute
        free, total = (execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
        if free == 0 or (not eager and (free <= VACUUM_ABOVE_PAGES or free * 2 < total)):
            return
        # A slice is written to the log before it shrinks the file: on a small disk it must be a small one.
        pages = min(VACUUM_PAGES, self._checkpoint_pages)
        self.begin()
        try:
            for _ in range(min(pages, free)):
                execute("PRAGMA incremental_vacuum(1)").fetchall()  # Python's module stops after one page of several
            self.commit(2 * pages)
        except BaseException:
            self.rollback()
            raise
        if eager:
            self.checkpoint()  # the file shrinks only now

    def close(self) -> None:
        """Close both connections and the lock."""
        for connection in (self._checkpointer, self.connection):
            if connection is not None:
                connection.close()
        self._lock.close()

    def _take_lock(self) -> None:
        self._lock.acquire()
        self._locked = True

    def _drop_lock(self) -> None:
        if self._locked:
            self._locked = False
            self._lock.release()
