"""Dead letters as a collection: found by filter, counted, replayed, deleted. `app_dead_letters` and `ops` are its faces.

It sees messages through the broker's `Inspector` and never takes or settles a delivery. A replayed letter is published
first, and only once the broker has it is the letter removed: an interruption in between leaves a second copy, never
none. Memory stays bounded: no more than a handful of letters is held at a time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from ..brokers.base import Inspector, Message, Session
from ..errors import ArgumentError, ConfigError, DispatcherError, PublishError, TopologyMismatch, Unroutable
from ..model.codec import MAX_BODY_BYTES
from ..model.topology import dead_queue
from .dead_letter import DeadLetter, Edit, Filter, edited_message, letter_of, replayed_message

__all__ = [
    "LEAST_RATE",
    "Pace",
    "ReplayReport",
    "check_rate",
    "count",
    "dead_letters",
    "dead_total",
    "purge",
    "replay",
]

AT_ONCE = 256
"""How many letters are in hand at a time."""

PACED_SECONDS = 0.1
"""With a rate, how many seconds of it are in hand at a time."""

LATE_SECONDS = 0.02
"""How much of a delay is made up for: below 50 a second nothing, so that a pause is never followed by a burst."""

LEAST_RATE = 0.01

LOOK_SECONDS = 300.0
"""After so long a look begins anew: RabbitMQ ends a channel that holds messages for half an hour."""

Progress = Callable[[int], None]
"""Told how many more letters were looked at."""


class _Choice(Protocol):
    """Which letters are meant: a `Filter`, or a `Retention`."""

    def fits(self, letter: DeadLetter, newer: int) -> bool: ...


class _Found(msgspec.Struct, frozen=True):
    """A letter with the message that it is, and the message's name to the broker."""

    letter: DeadLetter
    message: Message
    key: int


class ReplayReport(msgspec.Struct):
    """What a replay did.

    `replayed`: letters that are in a queue again. `failed`: those that were not accepted and stay; `first_error` says why
    the first was not. `uuids`: of those that were asked for by uuid, the ones that were there.
    """

    replayed: int = 0
    failed: int = 0
    first_error: DispatcherError | None = None
    uuids: set[str] = msgspec.field(default_factory=set)


async def dead_letters(
    inspector: Inspector, queues: Iterable[str], wanted: _Choice
) -> AsyncGenerator[DeadLetter, None]:
    """The dead letters of `queues` that fit `wanted`, queue by queue, oldest first. Who leaves it early closes it."""
    for queue in queues:
        total = await dead_total(inspector, queue)
        seen = 0
        if total == 0:
            continue
        async with aclosing(inspector.browse(dead_queue(queue))) as browse:
            async for browsed in browse:
                seen += 1
                letter = letter_of(queue, browsed)
                if wanted.fits(letter, total - seen):
                    yield letter
                if seen >= total:
                    break


async def count(inspector: Inspector, queues: Iterable[str], wanted: _Choice) -> int:
    """How many dead letters of `queues` fit `wanted`."""
    found = 0
    async for _ in dead_letters(inspector, queues, wanted):
        found += 1
    return found


async def dead_total(inspector: Inspector, queue: str) -> int:
    """How many dead letters `queue` has; zero where it has no place for them."""
    try:
        return (await inspector.depth(dead_queue(queue))).ready
    except TopologyMismatch:
        return 0


def check_rate(rate: float | None) -> None:
    """`ConfigError` unless it is a number of letters per second, 0.01 or more, or None."""
    if rate is None:
        return
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not LEAST_RATE <= rate < math.inf:
        raise ConfigError(f"rate: expected a number of letters per second, {LEAST_RATE} or more, got {rate!r}")


class Pace:
    """Gives turns evenly, `rate` a second; None gives every turn at once. `clock` in seconds."""

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        check_rate(rate)
        self._gap_seconds = 0.0 if rate is None else 1 / rate
        self.at_once = AT_ONCE if rate is None else max(1, min(AT_ONCE, int(rate * PACED_SECONDS)))
        self._next = clock()
        self._clock = clock
        self._sleep = sleep

    async def turn(self) -> None:
        """Wait for the next turn."""
        if not self._gap_seconds:
            return
        now = self._clock()
        self._next = max(self._next, now - LATE_SECONDS)
        if self._next > now:
            await self._sleep(self._next - now)
        self._next += self._gap_seconds


async def replay(
    session: Session,
    queues: Iterable[str],
    wanted: Filter,
    *,
    to_queue: str | None = None,
    rate: float | None = None,
    edit: Edit | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    progress: Progress | None = None,
) -> ReplayReport:
    """Send the letters of `queues` that fit `wanted` to their queue again, or to `to_queue`.

    `rate`: letters per second, evenly, 0.01 or more; None is as fast as can be. `edit`: see `Edit`; a letter whose edit
    cannot travel (`ArgumentError`) stays and counts as failed, any other exception ends the replay. Raises `ConfigError`
    for the rate, `ConnectionLost` and `StorageError`.

    A letter keeps its uuid, headers and priority; its attempts start at 1, and an expiry that has passed is dropped. Only
    the letters that are there at the start are looked at, so one that dies again at once is not replayed twice. Those of
    `dispatcher.delay` are the ones whose queue was gone when their delay was over, of every app.
    Cancelled, it finishes the letters in hand first.
    """
    report = ReplayReport()
    pace = Pace(rate)
    present: dict[str, bool] = {}
    for queue in queues:
        async with aclosing(_chunks(session.inspector, queue, wanted, progress, pace.at_once)) as chunks:
            async for chunk in chunks:
                if wanted.uuids is not None:
                    report.uuids.update(found.letter.uuid for found in chunk)
                for target in {to_queue or found.letter.queue for found in chunk} - present.keys():
                    present[target] = await _is_present(session.inspector, target)
                prepared = _prepared(chunk, to_queue, present, edit, max_body_bytes)
                await pace.turn()
                removed = await _finished(_replay_chunk(session, queue, prepared, pace, report))
                chunk[:] = [found for found in chunk if found.key not in removed]
    return report


async def purge(
    inspector: Inspector, queues: Iterable[str], wanted: _Choice, *, progress: Progress | None = None
) -> int:
    """Delete the letters of `queues` that fit `wanted`, of those that are there at the start; how many there were."""
    gone = 0
    for queue in queues:
        async with aclosing(_chunks(inspector, queue, wanted, progress, AT_ONCE)) as chunks:
            async for chunk in chunks:
                gone += await _finished(_remove_all(inspector, queue, [found.key for found in chunk]))
                chunk.clear()
    return gone


async def _chunks(
    inspector: Inspector, queue: str, wanted: _Choice, progress: Progress | None, at_once: int
) -> AsyncGenerator[list[_Found], None]:
    """The letters that fit, by the handful. Who is given one takes out of it what is removed from the queue.

    The last handful, too, is given while the browse is open: RabbitMQ finds a message again only by looking through all.
    A look that begins anew passes over the letters that stayed, by their keys.
    """
    total = await dead_total(inspector, queue)
    stayed: set[int] = set()
    seen = 0
    look_again = total > 0
    while look_again:
        look_again = False
        ends_at = time.monotonic() + LOOK_SECONDS
        chunk: list[_Found] = []
        told = seen
        async with aclosing(inspector.browse(dead_queue(queue))) as browse:
            async for browsed in browse:
                if browsed.key in stayed:
                    continue
                seen += 1
                letter = letter_of(queue, browsed)
                if wanted.fits(letter, total - seen):
                    chunk.append(_Found(letter, browsed.message, browsed.key))
                else:
                    stayed.add(browsed.key)
                if len(chunk) >= at_once or (chunk and seen >= total):
                    yield chunk
                    stayed.update(found.key for found in chunk)
                    chunk = []
                    look_again = time.monotonic() > ends_at and seen < total
                if seen - told >= AT_ONCE:
                    _tell(progress, seen - told)
                    told = seen
                if seen >= total or look_again:
                    break
        if chunk:
            yield chunk
        _tell(progress, seen - told)


def _tell(progress: Progress | None, count: int) -> None:
    if progress is not None and count:
        progress(count)


async def _is_present(inspector: Inspector, queue: str) -> bool:
    """Whether there is such a queue, as far as this user may know: to one that was deleted the way may still stand."""
    try:
        await inspector.depth(queue)
    except TopologyMismatch:
        return False
    except ConfigError:
        return True  # it may not be looked at
    return True


def _prepared(
    chunk: list[_Found], to_queue: str | None, present: Mapping[str, bool], edit: Edit | None, max_body_bytes: int
) -> list[tuple[_Found, Message | DispatcherError]]:
    """What to publish for each letter, or why not. What else `edit` raises ends the replay before any of these is sent."""
    now_ms = int(time.time() * 1000)
    prepared: list[tuple[_Found, Message | DispatcherError]] = []
    for found in chunk:
        queue = to_queue or found.letter.queue
        if not present[queue]:
            text = f"queue {queue!r} does not exist; declare it, or name another"
            prepared.append((found, Unroutable(text, uuid=found.letter.uuid)))
            continue
        try:
            task = None if edit is None else edit(found.letter)
            message = found.message if task is None else edited_message(found.message, task, max_body_bytes)
        except ArgumentError as error:
            prepared.append((found, error))
        else:
            prepared.append((found, replayed_message(message, queue, now_ms)))
    return prepared


async def _replay_chunk(
    session: Session,
    queue: str,
    prepared: list[tuple[_Found, Message | DispatcherError]],
    pace: Pace,
    report: ReplayReport,
) -> set[int]:
    """Publish what can be, remove what was accepted, and say which that are."""
    published: list[tuple[_Found, asyncio.Future[None]]] = []
    for found, message in prepared:
        if isinstance(message, DispatcherError):
            report.failed += 1
            report.first_error = report.first_error or message
            continue
        if published:
            await pace.turn()  # the first one's was waited for where it can be cancelled
        published.append((found, session.publish(message)))
    results = await asyncio.gather(*(future for _, future in published), return_exceptions=True)
    accepted: set[int] = set()
    lost: BaseException | None = None
    for (found, _), result in zip(published, results, strict=True):
        if result is None:
            accepted.add(found.key)
        elif isinstance(result, PublishError):
            report.failed += 1
            report.first_error = report.first_error or result
        else:
            lost = lost or result
    await _remove_all(session.inspector, queue, accepted)
    report.replayed += len(accepted)
    if lost is not None:
        raise lost
    return accepted


async def _remove_all(inspector: Inspector, queue: str, keys: Iterable[int]) -> int:
    return sum(await asyncio.gather(*(inspector.remove(dead_queue(queue), key) for key in keys)))


async def _finished(work: Any) -> Any:
    """Await `work` to its end even when cancelled, and only then let the cancellation through."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
