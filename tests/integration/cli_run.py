"""Running the real command line in real processes, on a real SQLite file in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

__all__ = ["Cli", "Running"]

DEADLINE_SECONDS = 50.0
SOURCE = Path(__file__).resolve().parents[2] / "src"

TASKS = """
import asyncio, os, sys, time
from dispatcher import Dispatcher

app = Dispatcher()

def say(*words):
    os.write(2, (" ".join(map(str, words)) + "\\n").encode())  # one write: threads do not mix their lines

@app.task
def note(text: str, number: int = 0) -> None:
    say("note", text, number)

@app.task
async def hold(path: str) -> None:
    say("holding", os.getpid())
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    say("let go")

@app.task
async def block() -> None:
    say("blocking")
    time.sleep(3600)

@app.task(timeout_seconds=0.1)
def never_ends() -> None:
    say("never ending")
    time.sleep(3600)

@app.task
def fail(text: str = "as asked") -> None:
    raise ValueError(text)

@app.task
def interrupt() -> None:
    raise KeyboardInterrupt

@app.task(queue="other")
def elsewhere() -> None: ...
"""


class Running:
    """A command that runs. Its standard error is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        for raw in stream:
            with self._news:
                self._lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def text(self) -> str:
        with self._news:
            return "\n".join(self._lines)

    def matches(self, pattern: str) -> list[str]:
        """What `pattern` found so far: its group, or the whole match."""
        return re.findall(pattern, self.text)

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until `pattern` was found `count` times in standard error."""
        with self._news:
            found = self._news.wait_for(
                lambda: len(re.findall(pattern, "\n".join(self._lines))) >= count, DEADLINE_SECONDS
            )
        assert found, f"{pattern!r} did not come {count} times; what came:\n{self.text}"
        return self.matches(pattern)

    def wait_until_all_gone(self) -> None:
        """Wait until no process, children's children included, holds standard error any more."""
        with self._news:
            assert self._news.wait_for(lambda: self._ended, DEADLINE_SECONDS), f"still held; what came:\n{self.text}"

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def exit_code(self) -> int:
        """Wait for its end."""
        try:
            return self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; what came:\n{self.text}") from None

    def close(self) -> None:
        """Kill what still runs, its children included, and release what was opened."""
        for pid in {int(pid) for pid in self.matches(r"worker_process\.started number=\d+ pid=(\d+)")}:
            _kill(pid) if not self._ended else None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE_SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself


class Cli:
    """The command `dispatcher` in `folder`, which holds a `tasks.py` with an app."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = folder / "broker.db"
        self.env = {
            **{name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")},
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DISPATCHER_URL": f"sqlite:///{self.broker}",
            "TERM": "xterm",
        }
        self._running: list[Running] = []
        self.write("tasks.py", TASKS)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "dispatcher", *words]

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run to the end, without a terminal."""
        return subprocess.run(
            self.words(*words),
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )

    def ok(self, *words: str, **env: str) -> str:
        """Run, expect success, return what it printed."""
        done = self.run(*words, **env)
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, *words: str) -> None:
        """Run a file of the folder to the end, and expect success."""
        subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, check=True,
            timeout=DEADLINE_SECONDS,
        )  # fmt: skip

    def start(self, *words: str, redirect: str = "") -> Running:
        """Start and go on. The command leads a process group of its own, as it would in a terminal.

        `redirect`: what a shell is to do with its descriptors, such as `<&-`.
        """
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", *self.words(*words)] if redirect else self.words(*words),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        running = Running(process)
        self._running.append(running)
        return running

    def worker(self, *words: str) -> Running:
        """Start a worker, and wait until it works."""
        running = self.start("worker", "tasks:app", *words)
        running.wait_for(r"worker\.started")
        return running

    def close(self) -> None:
        for running in self._running:
            running.close()
