"""Whether a queue can be reached from the delay ladder: what goes up there for one that cannot would not come back to it.

The ladder is above what can be returned to its sender, so it is asked before, once for each queue and session, with a
message that vanishes. Who declared the queue here, ladder and all, need not ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from ...errors import TopologyMissing, Unroutable
from ...model.topology import DELAY_EXCHANGE
from ..base import Message
from .ladder import way_key

__all__ = ["Ways"]


class Ways:
    """The ways back of one session. `publish` is the session's."""

    def __init__(self, publish: Callable[[Message], asyncio.Future[None]]) -> None:
        self._publish = publish
        self._sure: set[str] = set()
        self._asked: dict[str, asyncio.Future[None]] = {}

    def add(self, queues: Iterable[str]) -> None:
        """These are known to have one."""
        self._sure.update(queues)

    def is_sure(self, queue: str) -> bool:
        return queue in self._sure

    def ask(self, queue: str) -> asyncio.Future[None]:
        """Resolves once it is sure that `queue` has a way back; `TopologyMissing` if it has none, else as a publish fails."""
        asked = self._asked.get(queue)
        if asked is None:
            probe = self._publish(Message(DELAY_EXCHANGE, way_key(queue), b""))
            asked = self._asked[queue] = asyncio.get_running_loop().create_future()
            probe.add_done_callback(partial(self._answered, queue))
        return asked

    def _answered(self, queue: str, probe: asyncio.Future[None]) -> None:
        asked, error = self._asked.pop(queue), probe.exception()
        if isinstance(error, Unroutable):
            error = TopologyMissing(
                f"queue {queue!r}: expected a way back from the delays to it, there is none; declare it once with"
                " declare='create', as a user who may"
            )
        if error is None:
            self._sure.add(queue)
            asked.set_result(None)
        else:
            asked.set_exception(error)
            asked.exception()  # read: who asked has a callback
