"""The one thread of a session that touches the file: it takes what the event loop asks, has it committed, and answers.

Whatever has gathered while one transaction was on its way to the disk goes into the next: that is the group commit,
and nothing ever waits for company. It must never run on an event loop, and it calls nothing of a user's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ...errors import ConnectionLost, DispatcherError, StorageError
from .engine import Engine
from .entries import Batch, Results
from .faults import os_error, sqlite, storage_error
from .place import Place

__all__ = ["Writer"]

BATCH_MAX = 1000


class _LoopGone(Exception):
    """The event loop was closed before its session: there is nobody left to tell anything."""


class Writer:
    """The thread. `start`, `submit`, `stop` and `join` are the event loop's side; `tell` is called on the loop."""

    def __init__(
        self, place: Place, name: str, loop: asyncio.AbstractEventLoop, tell: Callable[[Results], None]
    ) -> None:
        self._place = place
        self._name = name
        self._loop = loop
        self._tell = tell
        self._guard = threading.Lock()
        self._inbox = Batch()
        self._asleep = False
        self._stopping = False
        self._over = False
        self._current = Batch()
        self._engine: Engine | None = None
        self._thread = threading.Thread(target=self._run, name=f"dispatcher-sqlite {name}", daemon=True)

    # --- the event loop's side ----------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """What `Call`s run on, in the thread; there from the moment the session is open."""
        assert self._engine is not None, "the session is not open yet"
        return self._engine

    def start(self, opened: asyncio.Future[None]) -> None:
        """Start the thread; `opened` resolves once the session is in the file."""
        self._current.calls.append((lambda: None, opened))
        self._thread.start()

    def submit(self, batch: Batch) -> bool:
        """Hand over `batch`; False once the thread takes nothing any more."""
        with self._guard:
            if self._over:
                return False
            self._inbox.take(batch)
            self._rouse()
        return True

    def stop(self) -> None:
        """Do what was submitted, hand back what is held, end."""
        with self._guard:
            self._stopping = True
            self._rouse()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end."""
        self._thread.join(seconds)

    def _rouse(self) -> None:
        if self._asleep and self._engine is not None:
            self._asleep = False
            self._engine.waker.kick()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException = ConnectionLost("this session was closed")
        try:
            engine = self._engine = Engine(self._place, self._name)
            self._open(engine)
            self._work(engine)
            results = Results()
            try:
                engine.leave(results)
            finally:
                self._post(results)
        except _LoopGone:
            error = self._leave_quietly()
        except sqlite().Error as fault:
            error = storage_error(fault, self._place.path)
        except OSError as fault:  # many of our own errors are such, too
            error = fault if isinstance(fault, DispatcherError) else os_error(fault, self._place.path)
        except BaseException as fault:  # whatever it is, the event loop is told: a thread has nobody else to tell
            error = fault
        if self._engine is not None:
            self._engine.close()
        self._give_up(error)

    def _open(self, engine: Engine) -> None:
        results = Results()
        engine.begin(results)
        results.answers.append((self._current.calls.pop()[1], None, None))
        self._post(results)

    def _work(self, engine: Engine) -> None:
        while True:
            batch = self._current = self._next(engine)
            if not batch and self._stopping:
                return
            if not batch and self._loop.is_closed():  # with nothing to tell, it would never notice
                raise _LoopGone
            results = Results()
            try:
                engine.turn(batch, results)
            finally:
                self._post(results)
            engine.tidy()

    def _next(self, engine: Engine) -> Batch:
        """What has gathered; sleeps while there is nothing to do."""
        with self._guard:
            self._asleep = not self._inbox and not self._stopping
            if not self._asleep:
                return self._take()
        engine.wait()
        with self._guard:
            self._asleep = False
            return self._take()

    def _take(self) -> Batch:
        batch, self._inbox = self._inbox, Batch()
        if len(batch.publishes) > BATCH_MAX:
            # The rest goes into the next transaction, so that the first of many do not wait for the last.
            self._inbox.publishes = batch.publishes[BATCH_MAX:]
            batch.publishes = batch.publishes[:BATCH_MAX]
        return batch

    def _post(self, results: Results) -> None:
        if not results:
            return
        try:
            self._loop.call_soon_threadsafe(self._tell, results)
        except RuntimeError as error:
            raise _LoopGone from error

    def _leave_quietly(self) -> BaseException:
        """Nobody closed the session and nobody can any more: hand back what it holds, if the file lets us."""
        try:
            self.engine.leave(Results())
        except (sqlite().Error, OSError) as error:
            return error
        return ConnectionLost("the event loop of this session was closed")

    def _give_up(self, error: BaseException) -> None:
        """Take nothing more, and tell of everything that was not done why it was not."""
        with self._guard:
            self._over = True
            left, inbox = self._current, self._inbox
            left.take(inbox)
            self._inbox = Batch()
        results = Results()
        if self._engine is not None:
            left.take(self._engine.kept)
        futures: list[asyncio.Future[Any]] = [publish[2] for publish in left.publishes] + [
            call[1] for call in left.calls
        ]
        results.answers += [(future, None, _again(error)) for future in futures]
        results.ended = error
        try:
            self._post(results)
        except _LoopGone:
            pass  # then nobody waits for these answers either


def _again(error: BaseException) -> Exception:
    """The same error for one more waiter: a shared one would gather every waiter's traceback."""
    if isinstance(error, StorageError):
        return type(error)(str(error), path=error.path)
    if isinstance(error, DispatcherError):
        return type(error)(str(error))
    unknown = DispatcherError(f"the session's thread failed: {type(error).__name__}: {error}")
    unknown.__cause__ = error
    return unknown
