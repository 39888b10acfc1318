"""SQLite's errors as ours, and which SQLite library is used. Decides only; opens nothing."""

from __future__ import annotations

import errno
import sqlite3
from types import ModuleType
from typing import Any

try:  # the `sqlite` extra: a wheel that carries a newer SQLite than the system's
    import pysqlite3
except ImportError:
    pysqlite3 = None

from ...errors import (
    ConfigError,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageGone,
    StorageReadOnly,
    StorageUnsupported,
)

__all__ = ["MINIMUM_VERSION", "choose_library", "is_busy", "is_full", "os_error", "sqlite", "storage_error"]

MINIMUM_VERSION = (3, 37, 0)  # STRICT tables (sqlite.org/stricttables.html)

FULL, BUSY, LOCKED, READONLY, IOERR, CORRUPT, CANTOPEN, PROTOCOL, NOTADB = 13, 5, 6, 8, 10, 11, 14, 15, 26
IOERR_SHMSIZE = IOERR | 19 << 8  # the shared memory could not grow: SQLite's other way to say that the disk is full


def choose_library(*candidates: ModuleType | None) -> ModuleType | None:
    """The first of `candidates` that is new enough, or None."""
    for module in candidates:
        if module is not None and module.sqlite_version_info >= MINIMUM_VERSION:
            return module
    return None


_LIBRARY = choose_library(sqlite3, pysqlite3)


def sqlite() -> Any:
    """The SQLite module in use: the standard library's, unless it is too old and the extra's is not.

    `ConfigError` where neither is new enough.
    """
    if _LIBRARY is None:
        raise ConfigError(
            f"the embedded broker: expected SQLite {'.'.join(map(str, MINIMUM_VERSION))} or newer,"
            f" got {sqlite3.sqlite_version}; install dispatcher-queue[sqlite], which brings its own"
        )
    return _LIBRARY


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", None) or 0)


def is_busy(error: Exception) -> bool:
    """Whether another connection was in the way: nothing happened, and trying again may help."""
    return _code(error) & 0xFF in (BUSY, LOCKED, PROTOCOL)


def is_full(error: Exception) -> bool:
    """Whether there was no space for it."""
    code = _code(error)
    return code & 0xFF == FULL or code == IOERR_SHMSIZE


def storage_error(error: Exception, path: str) -> StorageError:
    """The `StorageError` that says what SQLite's `error` means for the file at `path`, and what to do."""
    code = _code(error) & 0xFF
    text = f"{path}: {error}"
    if is_full(error):
        return StorageFull(f"{text}; make room on its disk", path=path)
    if code in (CORRUPT, NOTADB):
        return StorageCorrupt(
            f"{text}; it is damaged, or not a Dispatcher file. It was left as it is:"
            " move it away, or restore a copy of it together with its -wal",
            path=path,
        )
    if code == READONLY:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_DBMOVED":
            return StorageGone(f"{text}; the file was deleted or replaced while it was open", path=path)
        return StorageReadOnly(f"{text}; make the file, its folder and its disk writable", path=path)
    if code in (BUSY, LOCKED, PROTOCOL):
        return StorageUnsupported(f"{text}; another program holds the file for itself: end it", path=path)
    if code == CANTOPEN:
        return StorageError(f"{text}; check that its folder exists and may be written", path=path)
    return StorageError(f"{text} ({getattr(error, 'sqlite_errorname', type(error).__name__)})", path=path)


def os_error(error: OSError, path: str) -> StorageError:
    """The `StorageError` that says what the operating system's `error` means for the file at `path`, and what to do."""
    text = f"{path}: {error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"{text}; make room on its disk", path=path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageReadOnly(
            f"{path}: expected a file and a folder beside it that can be written, got: {error};"
            " check the owner, the rights and the mount",
            path=path,
        )
    if error.errno == errno.ENOENT:
        return StorageGone(f"{text}; the file or its companion folder was deleted while it was in use", path=path)
    return StorageError(f"{text} ({type(error).__name__})", path=path)
