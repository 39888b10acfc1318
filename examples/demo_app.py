"""The app of `make demo`: one task that reads a file, and a ledger of every run. What is done with them is in demo.py.

Each process appends to a ledger file of its own, one `write` a line, so that a `kill -9` loses no line and tears at
most the last one.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from functools import cache
from pathlib import Path

from dispatcher import Dispatcher, RetryPolicy, current_task

__all__ = ["LEDGER_FOLDER", "FailedOnPurpose", "app", "fails_first", "measure", "scan"]

LEDGER_FOLDER = "DISPATCHER_DEMO_LEDGER"
"""The environment variable that names the folder of the ledger files."""

app = Dispatcher()  # demo.py sets $DISPATCHER_URL


class FailedOnPurpose(Exception):
    """So that there is something to retry."""


def fails_first(path: str) -> bool:
    """Whether the task of this file fails on its first attempt: about one in fifty."""
    return zlib.crc32(path.encode()) % 50 == 0


def measure(path: str) -> tuple[int, int, int, str]:
    """Lines, words and bytes of a file, and its SHA-256."""
    data = Path(path).read_bytes()
    return data.count(b"\n"), len(data.split()), len(data), hashlib.sha256(data).hexdigest()


@app.task(queue="files", retry=RetryPolicy(max_attempts=3, backoff="constant", base_seconds=0.2))
def scan(path: str) -> None:
    task = current_task()
    note("start", task.uuid, task.attempt, int(task.redelivered))
    try:
        if task.attempt == 1 and fails_first(path):
            raise FailedOnPurpose(path)
        figures = measure(path)
    except BaseException:
        note("failed", task.uuid)
        raise
    note("done", task.uuid, *figures)


def note(*words: object) -> None:
    os.write(_ledger(), (" ".join(str(word) for word in words) + "\n").encode())


@cache
def _ledger() -> int:
    path = Path(os.environ[LEDGER_FOLDER], f"{os.getpid()}.ledger")
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
