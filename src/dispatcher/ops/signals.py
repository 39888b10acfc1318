"""What signals do to a worker process: the first drains, the second cancels what runs, the third exits at once.

A task's own KeyboardInterrupt is never taken for one: ^C comes to a handler of this module. It must work while the event
loop is blocked, and while the kernel hands a signal to some other thread than the one that sleeps: a thread of its own
reads each signal's number from a socket that Python's handler in C writes to. That thread wakes the loop, and counts to
three; everything else is done on the main thread.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import NoReturn

from ..observe.hooks import Observer
from .notices import SignalTaken
from .terminal import SHOW_CURSOR

__all__ = ["DRAINING", "Signals"]

DRAINING = "draining: again cancels what runs"
CANCELLING = "cancelling what runs: again exits at once"


class Signals:
    """The signals of one worker process. `count`: how many were taken; `last`: the last one's number, zero for none."""

    def __init__(self, log: Observer, *, with_bar: bool) -> None:
        self._log = log
        self._with_bar = with_bar
        self._run: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._taken: set[int] = set()
        self._over = False
        self._wake, self._waker = socket.socketpair()
        self.count = 0
        self.last = 0

    def install(self) -> None:
        """Take INT, TERM and HUP from now on; USR1 writes the stacks of all threads to standard error."""
        names = ["SIGINT", "SIGTERM"]
        hangup = getattr(signal, "SIGHUP", None)  # Unix only, like SIGUSR1
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # `nohup` means it when it ignores it
            names.append("SIGHUP")
        self._taken = {getattr(signal, name) for name in names}
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._count_to_three, name="dispatcher signals", daemon=True).start()
        for signum in self._taken:
            signal.signal(signum, self._on_signal)
        if hasattr(signal, "SIGUSR1") and sys.stderr is not None:
            faulthandler.register(signal.SIGUSR1, all_threads=True)

    def attach(self, run: asyncio.Task[None]) -> None:
        """From now on signals end this run; so do those that came before."""
        self._loop, self._run = run.get_loop(), run
        for _ in range(min(self.count, 2)):
            run.cancel()

    def detach(self) -> None:
        """The run is over: one more signal ends the process, whatever still keeps it."""
        self._run = None
        self._over = True

    def drain(self) -> None:
        """Drain without a signal, unless one came before."""
        if self.count == 0:
            self.count, self.last = 1, signal.SIGTERM
            if self._run is not None:
                self._run.cancel()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        self.last = signum
        if self.count >= 3 or self._over:
            self._exit(signum)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel, signum, self.count)

    def _cancel(self, signum: int, count: int) -> None:
        self._log.on_event(SignalTaken(signal.Signals(signum).name, DRAINING if count == 1 else CANCELLING))
        if self._run is not None:
            self._run.cancel()

    def _count_to_three(self) -> None:
        count = 0
        while numbers := self._wake.recv(64):
            for signum in numbers:
                if signum in self._taken:
                    count += 1
                    if count >= 3:
                        self._exit(signum)
            self._wake_loop()

    def _wake_loop(self) -> None:
        """Let the main thread run its handler, in case the signal interrupted another thread."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(_nothing)
            except RuntimeError:
                pass  # the loop is closed: the main thread is on its way out

    def _exit(self, signum: int) -> NoReturn:
        if self._with_bar and sys.stderr is not None:
            os.write(sys.stderr.fileno(), SHOW_CURSOR)
        os._exit(128 + signum)


def _nothing() -> None:
    """Called for the loop's turn alone."""
