"""Tasks that a child process can import: for the tests of what is run alone. Each writes into a file what it was."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from dispatcher import Dispatcher, current_task

NEVER_SECONDS = 3600

app = Dispatcher()

SET_BY_MIDDLEWARE = ContextVar("set_by_middleware", default="unset")


def write(path: str, *words: Any) -> None:
    with open(path, "a") as file:
        file.write(" ".join(map(str, [os.getpid(), *words])) + "\n")


async def note(path: str, word: str) -> None:
    now = current_task()
    write(path, word, now.uuid, now.attempt, now.redelivered, now.queue, now.headers.get("mine"))


def note_plain(path: str, word: str) -> None:
    write(path, word, current_task().uuid, threading.current_thread() is threading.main_thread())


async def note_uuid(uuid: str, path: str) -> None:
    write(path, uuid)


def note_alone(path: str) -> None:
    """Fails if it is run beside another."""
    lock = Path(path + ".lock")
    lock.touch(exist_ok=False)
    time.sleep(0.05)
    lock.unlink()
    write(path, "alone")


async def crash(path: str, signum: int) -> None:
    write(path, "crash")
    os.kill(os.getpid(), signum)
    await asyncio.sleep(NEVER_SECONDS)


def exit_with(path: str, code: int) -> None:
    write(path, "exit")
    os._exit(code)


async def raise_once(path: str) -> None:
    write(path, "attempt", current_task().attempt)
    if current_task().attempt == 1:
        raise ValueError("once")


async def sleeper(path: str) -> None:
    write(path, "sleeps")
    await asyncio.sleep(NEVER_SECONDS)


def stuck(path: str) -> None:
    write(path, "stuck")
    time.sleep(NEVER_SECONDS)


def leaves_a_thread(path: str) -> None:
    write(path, "leaves")
    threading.Thread(target=time.sleep, args=(NEVER_SECONDS,)).start()


@app.task(queue="q")
async def child_of_sender(path: str) -> None:
    write(path, "sent")


@app.task(queue="q")
async def sender(path: str) -> None:
    await child_of_sender.send(path)
    await app.publish_many([child_of_sender.bind(path), child_of_sender.bind(path)])
    write(path, "sender", multiprocessing.parent_process() is not None)


if multiprocessing.parent_process() is None:

    async def only_in_the_worker(path: str) -> None:
        write(path, "in the worker", SET_BY_MIDDLEWARE.get())

    def only_in_the_worker_plain(path: str) -> None:
        write(path, "in the worker", SET_BY_MIDDLEWARE.get())
