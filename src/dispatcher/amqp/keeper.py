"""A thread that does one small thing from time to time, whatever the event loop is busy with.

It holds its owner weakly and ends with it. It never blocks for longer than the beat that it is given does, and a forked
child has none: threads do not survive a fork.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable

__all__ = ["Keeper"]

Beat = Callable[[], float | None]


class Keeper:
    """Calls `beat`, a bound method, after `seconds`, and then again after as many seconds as it returns; None ends it."""

    def __init__(self, beat: Beat, seconds: float, *, name: str) -> None:
        # A SimpleQueue and no condition: its put may be called by the garbage collector in the middle of anything.
        self._stop: queue.SimpleQueue[None] = queue.SimpleQueue()
        stop = self._stop
        reference = weakref.WeakMethod(beat, lambda _: stop.put(None))
        self._thread = threading.Thread(target=_keep, args=(reference, stop, seconds), name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end, without waiting for it: it may be in a beat, which must know by itself that it is late."""
        self._stop.put(None)


def _keep(reference: weakref.WeakMethod[Beat], stop: queue.SimpleQueue[None], seconds: float) -> None:
    wait: float | None = seconds
    while wait is not None:
        try:
            stop.get(timeout=wait)
        except queue.Empty:
            pass
        else:
            return
        beat = reference()
        if beat is None:
            return
        wait = beat()
        del beat  # not while asleep: this may have been the last reference
