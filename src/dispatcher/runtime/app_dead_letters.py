"""The dead letters of an app as its programs see them: `app.dead_letters`. What is done with them is said in `dead_letters`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing
from typing import TypedDict, Unpack

from ..brokers.base import Session
from ..errors import ConfigError, ConnectionLost
from ..model.outcome import Reason
from ..model.topology import DELAY_EXCHANGE
from .dead_letter import DeadLetter, Edit, Filter, Retention
from .dead_letters import ReplayReport, count, dead_letters, purge, replay
from .server import Server

__all__ = ["Chosen", "DeadLetters"]


class Chosen(TypedDict, total=False):
    """Which letters are meant: those that fit everything given. None, as not given, means all.

    `queue`: the one they died in. `error`: a part of the error's type or message, or of the reason's text; case does not
    matter. `older_than_seconds`, `newer_than_seconds`: since they died; a letter whose time of death is not known is
    neither.
    """

    queue: str | None
    task: str | None
    reason: Reason | None
    error: str | None
    older_than_seconds: float | None
    newer_than_seconds: float | None
    uuids: Collection[str] | None


class DeadLetters:
    """The dead letters of an app, inside `async with app`: those of its queues, or of the one that is named.

    Every method raises `ConfigError` outside of `async with app`, for a filter out of its bounds, and for a user who may
    not look into the dead letters; `TopologyMismatch` for a queue that does not exist; `ConnectionLost` and
    `StorageError` where the broker is away. The keywords are those of `Chosen`.
    """

    def __init__(self, server: Callable[[], Server], queues: Callable[[], Iterable[str]]) -> None:
        self._server = server
        self._queues = queues

    async def list(self, **chosen: Unpack[Chosen]) -> AsyncGenerator[DeadLetter, None]:
        """The letters that fit, oldest first, queue by queue.

        On RabbitMQ those that were looked at are hidden from every other look, a replay's too, until the iteration ends:
        collect their uuids first, and replay then. Who leaves it early closes it (`contextlib.aclosing`).
        """
        session = await self._session()
        queues = await self._meant(session, chosen)
        async with aclosing(dead_letters(session.inspector, queues, _filter(chosen))) as letters:
            async for letter in letters:
                yield letter

    async def count(self, **chosen: Unpack[Chosen]) -> int:
        """How many letters fit."""
        session = await self._session()
        return await count(session.inspector, await self._meant(session, chosen), _filter(chosen))

    async def replay(
        self,
        *,
        to_queue: str | None = None,
        rate: float | None = None,
        edit: Edit | None = None,
        **chosen: Unpack[Chosen],
    ) -> ReplayReport:
        """Send the letters that fit to their queue again, or to `to_queue`; each is removed once the broker has its task.

        `rate`: letters per second, evenly, 0.01 or more; None is as fast as can be. `edit`: see `Edit`; a letter whose
        edit cannot travel (`ArgumentError`) stays and counts as failed, any other exception ends the replay.
        A letter keeps its uuid, headers and priority; its attempts start at 1, and an expiry that has passed is dropped.
        Only letters that are there at the start are looked at. Interrupted at any point, no letter is lost. Two replays at
        the same time may send a letter twice.
        """
        session = await self._session()
        return await replay(
            session,
            await self._meant(session, chosen),
            _filter(chosen),
            to_queue=to_queue,
            rate=rate,
            edit=edit,
            max_body_bytes=self._server().config.max_body_bytes,
        )

    async def purge(self, **chosen: Unpack[Chosen]) -> int:
        """Delete the letters that fit for good, all if nothing is given, and say how many there were."""
        session = await self._session()
        return await purge(session.inspector, await self._meant(session, chosen), _filter(chosen))

    async def retention(self, *, older_than_seconds: float, keep: int | None = None, queue: str | None = None) -> int:
        """Delete the letters that died longer ago, and all but the newest `keep` of each queue; say how many there were.

        `keep`: None bounds no number, zero leaves none. To be called again and again: nothing here does that by itself.
        """
        wanted = Retention(dead_before_ms=_moment_ms("older_than_seconds", older_than_seconds), keep=keep)
        session = await self._session()
        return await purge(session.inspector, await self._meant(session, {"queue": queue}), wanted)

    async def _session(self) -> Session:
        server = self._server()
        seconds = server.config.publish_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await server.live_session()
        except TimeoutError:
            raise ConnectionLost(f"no connection to the broker within {seconds:g} s") from None

    async def _meant(self, session: Session, chosen: Chosen) -> Collection[str]:
        queue = chosen.get("queue")
        if queue is None:
            return sorted(self._queues())
        if queue != DELAY_EXCHANGE:
            await session.inspector.depth(queue)  # a name that no queue has must not look like one without dead letters
        return [queue]


def _filter(chosen: Chosen) -> Filter:
    unknown = chosen.keys() - Chosen.__optional_keys__
    if unknown:
        raise ConfigError(f"dead letters: expected some of {sorted(Chosen.__optional_keys__)}, got {sorted(unknown)}")
    older, newer = chosen.get("older_than_seconds"), chosen.get("newer_than_seconds")
    return Filter(
        task=chosen.get("task"),
        reason=chosen.get("reason"),
        error=chosen.get("error"),
        dead_before_ms=None if older is None else _moment_ms("older_than_seconds", older),
        dead_after_ms=None if newer is None else _moment_ms("newer_than_seconds", newer),
        uuids=chosen.get("uuids"),
    )


def _moment_ms(what: str, seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ConfigError(f"{what}: expected a number of seconds, 0 or more, got {seconds!r}")
    return int((time.time() - seconds) * 1000)
