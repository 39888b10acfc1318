"""Functions for the executors' tests. They live in a module of their own, as a child process must import them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from dispatcher.model.outcome import Discard, Reject, Retry, Snooze
from dispatcher.observe.context import current_task

LEFT_BEHIND: list[str] = []


def nothing() -> None:
    pass


async def nothing_async() -> None:
    pass


async def sees_context(path: str) -> None:
    await asyncio.sleep(0)
    sees_context_plain(path)


def sees_context_plain(path: str) -> None:
    task = current_task()
    Path(path).write_text(f"{task.uuid} {task.name} {task.attempt} {task.queue} {task.headers['h']}")


def writes_arguments(path: str, *values: int) -> None:
    Path(path).write_text(repr(values))


def writes_two(uuid: str, path: str, number: int) -> None:
    Path(path).write_text(f"{uuid} {number!r}")


def writes_pid(path: str) -> None:
    Path(path).write_text(str(os.getpid()))


def says_pid_and_hangs(fifo: str) -> None:
    """The reader of `fifo` gets the pid, and the end of the file once this process is gone."""
    with open(fifo, "w") as out:
        out.write(f"{os.getpid()}\n")
        out.flush()
        time.sleep(600)


def says_pid_and_holds_the_gil(fifo: str) -> None:
    with open(fifo, "w") as out:
        out.write(f"{os.getpid()}\n")
        out.flush()
        ctypes.PyDLL(None).sleep(600)


def starts_a_program_and_hangs(fifo: str) -> None:
    """The end of the file comes once the program is gone, too."""
    with open(fifo, "w") as out:
        program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=out)
        out.write(f"{program.pid}\n")
        out.flush()
        program.wait()


def forks_and_dies(path: str) -> None:
    """The grandchild keeps every descriptor of its parent open."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    Path(path).write_text(str(pid))
    os._exit(9)


def raises(kind: str) -> None:
    errors: dict[str, BaseException] = {
        "ValueError": ValueError("boom"),
        "SystemExit": SystemExit(5),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "GeneratorExit": GeneratorExit(),
        "Retry": Retry(after_seconds=7),
        "Snooze": Snooze(9),
        "Reject": Reject("no good"),
        "Discard": Discard("never mind"),
        "huge": ValueError("x" * 10_000_000),
        "surrogate": ValueError("a\udcffb"),
    }
    raise errors[kind]


async def raises_async(kind: str) -> None:
    await asyncio.sleep(0)
    raises(kind)


async def exits_in_a_task_of_its_own() -> None:
    await asyncio.create_task(raises_async("SystemExit"))


def segfaults() -> None:
    ctypes.string_at(0)


def exits_at_once(code: int) -> None:
    os._exit(code)


def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def runs_out_of_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, hard))
    try:
        bytearray(2 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def segfaults_if(really: bool) -> None:
    if really:
        segfaults()


def interrupts_itself() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def returns_an_error() -> object:
    return ValueError("returned")


def leaves_something_behind(path: str) -> None:
    Path(path).write_text(",".join(LEFT_BEHIND))
    LEFT_BEHIND.append("x")


def speaks_out_of_turn() -> None:
    """A task that writes nonsense to every socket it finds."""
    for fd in range(3, 64):
        try:
            os.write(fd, b"\xff\xff\xff\xff nonsense")
        except OSError:
            pass
    time.sleep(600)


def closes_every_descriptor() -> None:
    os.closerange(3, 256)


def takes_text(text: str) -> None:
    assert len(text) == 300_000


def _inner(path: str) -> None:
    Path(path).write_text("inner")


decorated = SimpleNamespace(function=_inner)
"""What a decorator leaves: an object with the function inside."""


class Holder:
    @staticmethod
    def static() -> None:
        pass

    @classmethod
    def of_class(cls) -> None:
        pass

    def method(self) -> None:
        pass
