"""The inside of a child process: takes one task at a time from its socket, runs it, says what happened.

It ends itself when its worker is gone, even in the middle of a task. It knows no broker and never settles anything.
"""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from ...errors import ArgumentError
from ...model.codec import decode_body
from ...model.outcome import BadArguments, Result
from ...model.signature import Signature
from ...observe.context import CANCEL_PROBE
from ...observe.log_output import LogSetup, configure_logging
from .call import Call, run_coroutine, run_plain
from .failures import result_of
from .pipe import BEGAN_FRAME, LENGTH, READY, Request, decode_request, encode_reply
from .targets import load_target

if sys.platform == "linux":
    import fcntl

__all__ = ["main"]


def main(connection: socket.socket, logs: LogSetup | None) -> None:
    """Serve `connection` until the worker closes it. Runs as the target of a spawned `multiprocessing.Process`.

    `logs`: how to show log lines where the user's code configures nothing; None leaves logging alone.
    """
    _stand_alone()
    connection.setblocking(True)
    runner = _Runner(logs)
    with connection:
        CANCEL_PROBE.set(_arrival(connection))
        began = partial(connection.sendall, BEGAN_FRAME)
        try:
            connection.sendall(READY)
            while (frame := _read_frame(connection)) is not None:
                if frame:  # else it is the cancel of a task that has ended meanwhile
                    connection.sendall(runner.run(decode_request(frame), began))
                    _flush()
        except ConnectionError:
            pass  # the worker is gone, and with it whoever could be told


def _arrival(connection: socket.socket) -> Callable[[], bool]:
    """Whether anything has come, without taking it. While a task runs that is its cancel, or the worker's end."""

    def look() -> bool:
        poll = select.poll()  # for each look its own: two threads of a task may not share one
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))

    return look


def _read_frame(connection: socket.socket) -> bytes | None:
    """The next frame, and not a byte of the one after it; None at the end, also in the middle of one."""
    head = _read(connection, LENGTH.size)
    if head is None:
        return None
    (size,) = LENGTH.unpack(head)
    return _read(connection, size)


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


class _Runner:
    """Finds, binds and runs. Functions and their signatures are looked up once."""

    def __init__(self, logs: LogSetup | None) -> None:
        self._known: dict[tuple[str, bool], tuple[Callable[..., Any], Signature]] = {}
        self._begun: set[tuple[str, bool]] = set()
        self._logs = logs

    def run(self, request: Request, began: Callable[[], None]) -> bytes:
        """The reply to `request`: whatever the task does, short of ending the process, there is one.

        `began` is called when the function is for the first time: what that imports is no part of the task's time.
        """
        try:
            call = self._bind(request)
        except ArgumentError as error:
            return encode_reply(BadArguments(str(error)), None)
        except BaseException as error:  # importing the module runs user code: a missing library, sys.exit()
            return encode_reply(result_of(error), None)
        if request.timeout_seconds is not None:
            call.current = msgspec.structs.replace(call.current, deadline_at=time.time() + request.timeout_seconds)
        if (what := (request.target, request.uuid_first)) not in self._begun:
            self._begun.add(what)
            began()
        # A copy: what the task sets in its context must not be seen by the next one.
        return encode_reply(copy_context().run(_run, call), call.returned_error)

    def _bind(self, request: Request) -> Call:
        key = request.target, request.uuid_first
        current = request.current
        if key not in self._known:
            function = load_target(request.target)
            self._configure_logging()
            self._known[key] = function, Signature.of(function, skip_first=request.uuid_first, name=current.name)
        function, signature = self._known[key]
        # The worker has held the body to its limits already.
        args = signature.check(decode_body(request.body, max_bytes=len(request.body)).args)
        return Call(function, [current.uuid, *args] if request.uuid_first else args, current)

    def _configure_logging(self) -> None:
        """Once, and after a module of the user's was imported: what that configures must win, as in the worker."""
        logs, self._logs = self._logs, None
        if logs is not None:
            configure_logging(logs.level, format=logs.format, color=logs.color)


def _run(call: Call) -> Result:
    function = call.function
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        try:
            return asyncio.run(run_coroutine(call))
        except BaseException as error:  # SystemExit in a task that the function started ends the loop itself
            return result_of(error)
    return run_plain(call)


def _flush() -> None:
    """A process is killed without warning: what earlier tasks printed must not wait in a buffer for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # closed, or a pipe whose reader went away: printing is the task's own affair


def _stand_alone() -> None:
    """Deaf to the terminal, in a process group of its own, and gone when the worker is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everyone in the terminal; the worker decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the worker started us with it blocked
    # The group, so that a kill ends the programs that a task started as well.
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        # The kernel kills the group when the parent's end of this pipe closes, also while C code holds the GIL.
        lifeline = parent.sentinel
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_end_with, args=(parent,), name="dispatcher-lifeline", daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """For where the kernel does not do it, and for a parent that died before it was asked to."""
    parent.join()
    os.killpg(0, signal.SIGKILL)
