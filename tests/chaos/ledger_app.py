"""The app of the ledger test: tasks that note in a ledger when they start and how they end.

What is to become of a task follows from the number in its uuid, so that the publisher, the task and the checker agree
without talking. Must stay importable by name: the children of the process executor find their functions here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dispatcher import AppTask, Dispatcher, Reject, RetryPolicy, Task, current_task
from dispatcher.brokers.base import Connected, Disconnected
from dispatcher.observe.events import TaskStarted, WorkerStarted
from dispatcher.observe.hooks import AnyEvent

__all__ = ["KINDS", "MAX_BACKOFF_SECONDS", "Ledger", "app", "is_doomed", "task_of", "uuid_of"]

KINDS = {
    "mixed": ("on_loop",) * 9 + ("in_thread",) * 6 + ("flaky_on_loop", "flaky_in_thread", "flaky_twice", "doomed", "rejected"),
    "process": ("in_process",) * 9 + ("flaky_in_process",),
}  # fmt: skip
"""For each kind of run, what its tasks are, in turn."""

DOOMED = ("doomed", "rejected")
RUN_SECONDS = 0.03
MAX_BACKOFF_SECONDS = 5.0
AGAIN_SOON = RetryPolicy(max_attempts=3, backoff="constant", base_seconds=0.1)

# Failures and dead letters are wanted here: a log of thousands would hide the one line that matters.
quiet = logging.getLogger("dispatcher.ledger")
quiet.setLevel(logging.CRITICAL)


class Ledger:
    """An append-only file of this process, new for each process: nobody goes on after a line that a kill cut short."""

    def __init__(self, name: str) -> None:
        path = Path(os.environ["LEDGER_FOLDER"], f"{name}-{os.getpid()}.ledger")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *lines: str, sync: bool = False) -> None:
        os.write(self._fd, "".join(f"{line}\n" for line in lines).encode())
        if sync:
            os.fsync(self._fd)


class Sessions:
    """Notes which session brought each delivery, and when each ended: what a duplicate is explained by.

    For brokers that do not tell who holds what. A session is named by its number in this process.
    """

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._number = 0
        self._is_up = False

    def on_event(self, event: AnyEvent) -> None:
        match event:
            case TaskStarted():
                self._note("taken", event.uuid, event.attempt, "redelivered" if event.redelivered else "")
            case WorkerStarted():
                self._note("consuming", event.queue)
            case Connected():
                self._is_up = True
                self._number += 1
            case Disconnected() if self._is_up:  # else an attempt to connect failed
                self._is_up = False
                self._note("lost", text=event.error)

    def _note(self, what: str, which: str = "-", attempt: int = 0, text: str = "") -> None:
        if self._ledger is None:
            self._ledger = Ledger("sessions")
        self._ledger.write(
            f"{what} {os.getpid()} {self._number} {time.monotonic():.6f} {which} {attempt} {text}".rstrip()
        )


app = Dispatcher(
    default_queue="loop",
    logger=quiet,
    observers=[Sessions()] if os.environ.get("DISPATCHER_URL", "").startswith("amqp") else [],
    reconnection_max_interval_seconds=MAX_BACKOFF_SECONDS,
    publish_timeout_seconds=60.0,
)


def uuid_of(kind: str, publisher: str, number: int) -> str:
    """The uuid of the task with that number: it tells which function runs it."""
    kinds = KINDS[kind]
    return f"{kinds[number % len(kinds)]}.{publisher}.{number:05d}"


def is_doomed(uuid: str) -> bool:
    """Whether the task is to end as a dead letter."""
    return uuid.partition(".")[0] in DOOMED


def digest_of(uuid: str) -> str:
    return hashlib.sha256(uuid.encode()).hexdigest()


def task_of(uuid: str) -> Task:
    """The task with that uuid, to publish."""
    task: AppTask[[str], [str], object] = app.tasks[uuid.partition(".")[0]]
    return task.options(uuid=uuid).bind(digest_of(uuid))


_runs: Ledger | None = None


def _note(what: str) -> None:
    global _runs
    if _runs is None:
        _runs = Ledger("runs")
    task = current_task()
    _runs.write(f"{what} {task.uuid} {task.attempt} {int(task.redelivered)} {os.getpid()} {time.monotonic():.6f}")


@contextmanager
def noted(digest: str) -> Iterator[int]:
    """Around the body of every task; yields the attempt."""
    _note("start")
    task = current_task()
    if digest != digest_of(task.uuid):
        _note("mixed_up")
    try:
        yield task.attempt
    except Exception:
        _note("raised")
        raise
    _note("ok")


@app.task
async def on_loop(digest: str) -> None:
    with noted(digest):
        await asyncio.sleep(RUN_SECONDS)


@app.task(queue="threads")
def in_thread(digest: str) -> None:
    with noted(digest):
        time.sleep(RUN_SECONDS)


@app.task(queue="processes", executor="process")
def in_process(digest: str) -> None:
    with noted(digest):
        time.sleep(RUN_SECONDS)


@app.task(retry=AGAIN_SOON)
async def flaky_on_loop(digest: str) -> None:
    with noted(digest) as attempt:
        await asyncio.sleep(RUN_SECONDS)
        if attempt < 2:
            raise ConnectionResetError("fails once")


@app.task(queue="threads", retry=AGAIN_SOON)
def flaky_in_thread(digest: str) -> None:
    with noted(digest) as attempt:
        if attempt < 2:
            raise ConnectionResetError("fails once")


@app.task(retry=RetryPolicy(max_attempts=3, backoff="constant", base_seconds=0.7))  # several steps of a delay ladder
async def flaky_twice(digest: str) -> None:
    with noted(digest) as attempt:
        if attempt < 3:
            raise ConnectionResetError("fails twice")


@app.task(queue="processes", executor="process", retry=AGAIN_SOON)
def flaky_in_process(digest: str) -> None:
    with noted(digest) as attempt:
        if attempt < 2:
            raise ConnectionResetError("fails once")


@app.task(retry=RetryPolicy(max_attempts=2, backoff="constant", base_seconds=0.1))
async def doomed(digest: str) -> None:
    with noted(digest):
        raise ConnectionResetError("fails every time")


@app.task(queue="threads")
def rejected(digest: str) -> None:
    with noted(digest):
        raise Reject("as it was published for")
