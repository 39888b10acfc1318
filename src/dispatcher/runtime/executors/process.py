"""One child process seen from the worker: starting it, sending it a frame, hearing from it, and seeing it die.

It knows nothing of tasks: frames go in, frames and one exit come out. Never blocks the event loop on the child.
A child logs like the worker: where that shows its lines through the stand-in handler, so does the child.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

from ...errors import DecodeError
from ...observe.log_output import stand_in_setup
from . import child
from .pipe import FrameBuffer

__all__ = ["ChildProcess", "say_exit"]

RECEIVE_BYTES = 65_536
POLL_SECONDS = 0.01  # only where the kernel cannot report the death of a process by itself

_spawn = multiprocessing.get_context("spawn")  # fork copies locks that threads of the worker hold


class ChildProcess:
    """A child with its socket. The callbacks come on the loop; `on_exit` once, as the last.

    `on_frame(process, frame)`: the child said something. `on_exit(process, exit_code)`: it is gone; minus the signal's
    number where a signal ended it, None where someone else has reaped it. Starting raises `OSError`, and what
    multiprocessing raises where processes cannot be started.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[ChildProcess, bytes], None],
        on_exit: Callable[[ChildProcess, int | None], None],
    ) -> None:
        self._loop = loop
        self._on_frame = on_frame
        self._on_exit = on_exit
        self._frames = FrameBuffer()
        self._unsent = b""
        self._socket, theirs = socket.socketpair()
        self._process = _spawn.Process(target=child.main, args=(theirs, stand_in_setup()), name="dispatcher-process")
        try:
            _start_without_interrupts(self._process)
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._socket.setblocking(False)
        self._socket_open = True
        self._exit_fd = _exit_fd(self.pid)
        loop.add_reader(self._socket, self._receive)
        loop.add_reader(self._watched_fd, self._exited)

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def send(self, frame: bytes) -> None:
        """Send as much as the child takes now and the rest when it takes more. A dead child's exit comes as ever."""
        if self._unsent:
            self._unsent += frame
            return
        try:
            sent = self._socket.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is dying: on_exit follows
        if sent < len(frame):
            self._unsent = frame[sent:]
            self._loop.add_writer(self._socket, self._send_rest)

    def hang_up(self) -> None:
        """Close the socket: an idle child then ends by itself."""
        if self._socket_open:
            self._socket_open = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def kill(self) -> None:
        """End it and the programs that it started, now."""
        if not self.alive:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it has not made its group yet; macOS says so with EPERM for a group of zombies
        self._process.kill()

    @property
    def _watched_fd(self) -> int:
        return self._process.sentinel if self._exit_fd is None else self._exit_fd

    def _send_rest(self) -> None:
        self._loop.remove_writer(self._socket)
        unsent, self._unsent = self._unsent, b""
        self.send(unsent)

    def _receive(self) -> bool:
        """Take what is there; False when nothing more will come."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket)  # its exit follows
            return False
        try:
            frames = self._frames.feed(data)
        except DecodeError:
            self.kill()
            return False
        for frame in frames:
            self._on_frame(self, frame)
        return True

    def _exited(self) -> None:
        self._loop.remove_reader(self._watched_fd)
        exit_code = self._process.exitcode
        if exit_code is None and self._exit_fd is None and _exists(self.pid):
            # A closed sentinel is not yet a death: the task may have closed it, or the kernel is not done.
            self._loop.call_later(POLL_SECONDS, self._exited)
            return
        while self._socket_open and self._receive():
            pass  # it may have finished its task and died afterwards
        self.hang_up()
        if self._exit_fd is not None:
            os.close(self._exit_fd)
        if exit_code is not None:
            self._process.close()
        self._on_exit(self, exit_code)


def _start_without_interrupts(process: SpawnProcess) -> None:
    """Start with SIGINT blocked, which the child inherits: a Ctrl-C must not hit it before it is ready to ignore it."""
    resource_tracker.ensure_running()  # which start() would do, and unblock SIGINT by it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _exit_fd(pid: int) -> int | None:
    """A descriptor that becomes readable when `pid` has died; None where the system has none (macOS, old Linux).

    The sentinel of multiprocessing is only a pipe: programs that the child forked can hold it open after its death.
    """
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def say_exit(exit_code: int | None) -> str:
    """An exit code in words: `exit code 3`, `killed by SIGSEGV`."""
    if exit_code is None:
        return "exit code unknown: something else in the worker waits for child processes"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
