"""Which tasks their senders have cancelled, as the broker tells it: asked before a task begins, and told to what runs.

One book in a server, for its exchange. It is filled by each session anew and never emptied but by age.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..brokers.base import Cancel, Session, oldest_cancel_ms
from ..errors import ConnectionLost, DispatcherError
from ..model import headers as names
from ..model.outcome import Cancelled
from ..observe.events import CancelsUnheard
from ..observe.hooks import EventHub

__all__ = ["CancelBook"]

WATCH_AGAIN_SECONDS = 1.0


class CancelBook:
    """The cancels of one exchange. `stop_running` is called with the uuid of each that is news."""

    def __init__(self, exchange: str, hub: EventHub, stop_running: Callable[[str], None]) -> None:
        self._exchange = exchange
        self._hub = hub
        self._stop_running = stop_running
        self._cancelled_at: dict[str, int] = {}
        self._session: Session | None = None
        self._watching: asyncio.Task[None] | None = None
        self._heard: asyncio.Future[None] | None = None
        self._unheard_because = ""

    def result_of(self, uuid: str, headers: Mapping[str, Any]) -> Cancelled | None:
        """What becomes of a message of task `uuid`: None if it may run."""
        at_ms = self._cancelled_at.get(uuid)
        if at_ms is None:
            return None
        replayed_at = headers.get(names.REPLAYED_AT)
        if type(replayed_at) is int and replayed_at > at_ms:
            return None  # somebody has sent it again since, from the dead letters
        return _result(at_ms)

    async def hear(self, session: Session) -> None:
        """Return once all that `session` has recorded is known here, or it is clear that it tells nothing.

        Raises `ConnectionLost` where the session is lost meanwhile.
        """
        if self._session is not session:
            self.close()
            self._session = session
            self._heard = asyncio.get_running_loop().create_future()
            self._watching = asyncio.create_task(self._watch(session, self._heard), name="dispatcher cancels")
        assert self._heard is not None
        await asyncio.shield(self._heard)

    async def _watch(self, session: Session, heard: asyncio.Future[None]) -> None:
        """Watch for as long as the session lives, and begin anew where the broker ends it."""
        while not session.closed.done():
            try:
                ended = await session.cancels.watch(self._note)
            except DispatcherError as error:
                if session.closed.done():
                    break
                self._tell_unheard(str(error))  # and tasks run without: a queue that stands still would be worse
                _resolve(heard, None)
            else:
                self._unheard_because = ""
                _resolve(heard, None)
                await asyncio.wait([ended, session.closed], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([session.closed], timeout=WATCH_AGAIN_SECONDS)
        _resolve(heard, ConnectionLost("the session has ended; connect again"))

    def _tell_unheard(self, because: str) -> None:
        if because != self._unheard_because:  # not every second
            self._unheard_because = because
            self._hub.emit(CancelsUnheard(because))

    def _note(self, cancel: Cancel) -> None:
        if cancel.exchange != self._exchange:
            return
        if cancel.cancelled_at_ms <= self._cancelled_at.get(cancel.uuid, -1):
            return  # told again
        self._cancelled_at.pop(cancel.uuid, None)  # so that the latest are the last, and age can be pruned
        self._cancelled_at[cancel.uuid] = cancel.cancelled_at_ms
        self._forget_old()
        self._stop_running(cancel.uuid)

    def _forget_old(self) -> None:
        oldest_ms = oldest_cancel_ms(int(time.time() * 1000))
        while self._cancelled_at:
            uuid, at_ms = next(iter(self._cancelled_at.items()))
            if at_ms >= oldest_ms:
                return
            del self._cancelled_at[uuid]

    def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()
        if self._heard is not None:
            _resolve(self._heard, ConnectionLost("the session has ended; connect again"))


def _result(at_ms: int) -> Cancelled:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ms / 1000))
    return Cancelled(f"cancelled by its sender at {at} UTC")


def _resolve(heard: asyncio.Future[None], error: ConnectionLost | None) -> None:
    if heard.done():
        return
    if error is None:
        heard.set_result(None)
    else:
        heard.set_exception(error)
        heard.exception()  # read: who waits for it has it besides, and nobody may be waiting
