"""The examination of an embedded broker's file: its place, its space, whether it is whole, what an app needs there.

It never creates the file that it looks at, and opens it only as every session does.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from ...brokers.base import BrokerEvent
from ...brokers.sqlite import SqliteBroker
from ...brokers.sqlite.faults import sqlite
from ...brokers.sqlite.file import connect
from ...brokers.sqlite.space import disk_space
from ...errors import ConnectionLost, StorageError, TopologyMismatch
from ...model.topology import Topology
from ..failures import EXIT_CONFIG, EXIT_STORAGE, EXIT_UNAVAILABLE
from .findings import Finding, Tell, note, ok, warning, wrong
from .subject import Subject

__all__ = ["examine_file"]

QUICK_CHECK_SECONDS = 60.0
LITTLE_BYTES = 256 * 1024 * 1024
NONE_BYTES = 16 * 1024 * 1024
"""With less than its reserve free, the broker takes no messages."""


async def examine_file(broker: SqliteBroker, subject: Subject | None, tell: Tell) -> None:
    """Tell everything that can be told of the file, and of what `subject` needs there; None: of no app."""
    path = Path(broker.path)
    tell(ok("sqlite", f"SQLite {sqlite().sqlite_version}"))
    if not path.parent.is_dir():
        tell(_not_usable("file", f"there is no folder {path.parent}", "create it, or correct the URL"))
        return
    tell(_space(path.parent))
    absent = _absent(path)
    if absent is not None:
        tell(absent)
    else:
        await _examine(broker, path, subject, tell)


def _absent(path: Path) -> Finding | None:
    """Why there is no file to open; None where there is one."""
    try:
        path.stat()
    except FileNotFoundError:
        if os.access(path.parent, os.W_OK | os.X_OK):
            return note("file", f"{path} does not exist yet; the first publish or worker makes it")
        return _not_usable("file", f"{path} does not exist, and this user may not create it", "give it the right to")
    except OSError as error:
        return _not_usable(
            "file", f"{path}: {error.strerror}", "check the path, and that this user may enter its folders"
        )
    return None


def _not_usable(check: str, text: str, advice: str) -> Finding:
    return wrong(check, text, advice, exit_code=EXIT_STORAGE)


def _space(folder: Path) -> Finding:
    total, free = disk_space(str(folder))
    text = f"{free / 2**30:.1f} GiB of {total / 2**30:.1f} GiB free where the file lies"
    if free < NONE_BYTES:
        return _not_usable("space", f"{text}: the broker takes no messages", "free some")
    if free < LITTLE_BYTES:
        return warning("space", text, "free some: with less than 16 MiB the broker takes no messages")
    return ok("space", text)


async def _examine(broker: SqliteBroker, path: Path, subject: Subject | None, tell: Tell) -> None:
    events: list[BrokerEvent] = []
    try:
        session = await broker.connect(name="dispatcher doctor", on_event=events.append)
    except StorageError as error:
        tell(_not_usable("file", str(error), ""))
        return
    except ConnectionLost as error:
        tell(wrong("file", str(error), "see which process holds it", exit_code=EXIT_UNAVAILABLE))
        return
    try:
        tell(ok("file", f"{path} opens"))
        tell(await asyncio.to_thread(_whole, str(path)))
        if subject is not None:
            verify = Topology(subject.topology.exchange, subject.topology.queues, "verify")
            try:
                await session.declare(verify)
                tell(ok("topology", f"exchange and queues of {subject.target} are there, as asked for"))
            except TopologyMismatch as error:
                tell(_topology(error, subject))
    finally:
        await session.close()


def _whole(path: str) -> Finding:
    """SQLite's own check. Bounded: of a very large file it takes minutes."""
    check = "integrity"
    connection: Any = connect(path)
    try:
        deadline = time.monotonic() + QUICK_CHECK_SECONDS
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
        rows = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite().OperationalError as error:
        if "interrupt" not in str(error):
            raise
        return note(check, f"not known: the check was not over after {QUICK_CHECK_SECONDS:.0f} s")
    except sqlite().DatabaseError as error:
        return _not_usable(check, f"the file is damaged: {error}", "stop everything that uses it, and restore a backup")
    finally:
        connection.close()
    if rows == ["ok"]:
        return ok(check, "the file is whole (quick_check)")
    return _not_usable(
        check, f"the file is damaged: {'; '.join(rows)}", "stop everything that uses it, and restore a backup"
    )


def _topology(error: TopologyMismatch, subject: Subject) -> Finding:
    if subject.topology.declare == "create":
        return warning(
            "topology", str(error), f"what is absent the app makes when it connects: dispatcher worker {subject.target}"
        )
    return Finding("topology", "wrong", str(error), "", EXIT_CONFIG)
