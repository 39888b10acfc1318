"""The supervisor of `dispatcher worker -p N` and `--reload`: processes, signals and pipes. What to do is `roster`'s to decide.

It never imports the user's application: whatever that does to a process, this one stays alive to start the next.

Two pipes join it to its children. The life-line carries nothing: it reaches its end when this process is gone,
`kill -9` included, and the children drain and end. On the other each child says when it goes to work. The children have
process groups of their own, so that a terminal's ^C comes here only and is passed on once. Unix only.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..observe.hooks import Observer
from .notices import (
    ProcessEnded,
    ProcessResting,
    ProcessStarted,
    SignalTaken,
    SourceChanged,
    SupervisorStarted,
    SupervisorStopped,
)
from .roster import Action, Finish, Pause, Roster, Send, Start

__all__ = ["Supervisor", "Watch", "describe_exit"]

Watch = Callable[[Callable[[str], None]], None]
"""Watches source files for ever, in a thread of its own, and calls what it is given with the names of those that changed."""

EFFECTS = ("draining: again cancels what runs", "cancelling what runs: again kills", "killing")


class Supervisor:
    """Runs `count` children; `words(fds)` makes the command line of one from the two descriptors and its number."""

    def __init__(
        self,
        count: int,
        words: Callable[[int, int, int], Sequence[str]],
        observer: Observer,
        *,
        burst: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self._roster = Roster(count, burst=burst, reload=watch is not None)
        self._words = words
        self._log = observer
        self._watch = watch
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._signals: deque[int] = deque()
        self._changes: deque[str] = deque()
        self._exit_code: int | None = None
        self._lifeline, self._lifeline_held = os.pipe()
        self._ready, self._ready_given = os.pipe()
        os.set_blocking(self._ready, False)
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)

    def run(self) -> int:
        """Keep the children running until told to end; the exit code."""
        self._log.on_event(SupervisorStarted(os.getpid(), self._roster.count))
        with self._signals_taken():
            if self._watch is not None:
                threading.Thread(target=self._watch, args=(self._on_change,), daemon=True).start()
            self._act(self._roster.begin(time.monotonic()))
            while self._exit_code is None:
                self._wait()
                self._look()
        self._log.on_event(SupervisorStopped(self._exit_code))
        return self._exit_code

    def close(self) -> None:
        """Release the pipes; children that still run see the end of the life-line."""
        for descriptor in (self._lifeline, self._lifeline_held, self._ready, self._ready_given):
            os.close(descriptor)
        self._wake.close()
        self._waker.close()

    @contextmanager
    def _signals_taken(self) -> Iterator[None]:
        """Signals go to a queue and wake the loop; the handlers that were there before come back at the end."""
        wanted = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` has it ignored, and means it
            wanted.append(signal.SIGHUP)
        before = {signum: signal.signal(signum, self._on_signal) for signum in wanted}
        descriptor_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor_before)
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGCHLD:  # that one only has to wake the loop
            self._signals.append(signum)

    def _on_change(self, files: str) -> None:
        self._changes.append(files)
        try:
            self._waker.send(b"c")
        except BlockingIOError:
            pass  # it is full of wake-ups already

    def _wait(self) -> None:
        next_at = self._roster.next_start_at
        seconds = None if next_at is None else max(0.0, next_at - time.monotonic())
        select.select([self._wake.fileno(), self._ready], [], [], seconds)
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            pass  # drained

    def _look(self) -> None:
        """Hand everything that happened to the roster; readiness before ends, since a burst may be over at once."""
        for number in self._said_ready():
            self._act(self._roster.ready(number, time.monotonic()))
        for number, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                del self._children[number]
                if not self._roster.expects(number, code):
                    self._log.on_event(ProcessEnded(number + 1, child.pid, describe_exit(code)))
                self._act(self._roster.exited(number, code, time.monotonic()))
        while self._signals:
            signum = self._signals.popleft()
            effect = EFFECTS[min(self._roster.signals, len(EFFECTS) - 1)]
            self._log.on_event(SignalTaken(signal.Signals(signum).name, effect))
            self._act(self._roster.signalled(signum))
        if self._changes:
            files = ", ".join(sorted(set(self._changes)))
            self._changes.clear()
            if not self._roster.stopping:
                self._log.on_event(SourceChanged(files))
            self._act(self._roster.changed(time.monotonic()))
        self._act(self._roster.due(time.monotonic()))

    def _said_ready(self) -> list[int]:
        try:
            data = os.read(self._ready, 65_536)
        except BlockingIOError:
            return []
        return [int(line) for line in data.split()]

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Start(slot=number):
                    self._start(number)
                case Send(slot=number, signum=signum):
                    if number in self._children:
                        self._children[number].send_signal(signum)
                case Pause(slot=number, seconds=seconds):
                    self._log.on_event(ProcessResting(number + 1, seconds))
                case Finish(exit_code=code):
                    self._exit_code = code

    def _start(self, number: int) -> None:
        words = [sys.executable, *_flags(), "-m", "dispatcher", *self._words(self._lifeline, self._ready_given, number)]
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, pass_fds=(self._lifeline, self._ready_given), process_group=0
        )
        self._children[number] = child
        self._log.on_event(ProcessStarted(number + 1, child.pid))


def _flags() -> list[str]:
    """`-P` keeps a `dispatcher.py` in the current folder from being taken for this package, unless the package is there."""
    home = Path(__file__).resolve().parent.parent.parent
    return [] if home == Path.cwd().resolve() else ["-P"]


def describe_exit(code: int) -> str:
    """An exit status for people: `exit code 70`, `SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
