"""Dead letters as a collection: found by filter, shown, replayed, deleted. An async API; `dead` is its face on the command line.

It sees messages through the broker's `Inspector` and never takes or settles a delivery. A replayed letter is published
first, and only once the broker has it is the letter removed: an interruption in between leaves a second copy, never
none. Memory stays bounded, whatever the number of letters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from ..brokers.base import BrowsedMessage, Inspector, Message, Session
from ..errors import ConfigError, DecodeError, PublishError, TopologyMismatch, Unroutable
from ..model import headers as names
from ..model.codec import decode_body
from ..model.outcome import Reason
from ..model.topology import DELAY_EXCHANGE, dead_queue

__all__ = [
    "DeadLetter",
    "Filter",
    "ReplayReport",
    "dead_letters",
    "dead_total",
    "purge",
    "queue_names",
    "replay",
    "replayed_message",
]

AT_ONCE = 256
"""How many letters are in hand at a time."""

DEATH_NOTES = frozenset(
    {
        names.ATTEMPT,
        names.SNOOZES,
        names.UNKNOWN_SINCE,
        names.REDELIVERIES,
        names.ERROR_TYPE,
        names.ERROR,
        names.TRACEBACK,
        names.HISTORY,
        names.REASON,
        names.REASON_TEXT,
        names.DEAD_AT,
        names.QUEUE,
        names.ETA,
        *names.NOT_COPIED,
    }
)
"""Headers a replayed letter leaves behind: it starts again at its first attempt, at once."""

Progress = Callable[[int], None]
"""Told how many more letters were looked at."""


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead letter. `queue` is the one it died in, or on its way to.

    `task` is empty where the body is not a task; times are Unix milliseconds, None if not known.
    """

    uuid: str
    task: str
    queue: str
    reason: str
    text: str
    attempt: int
    dead_at_ms: int | None
    error_type: str
    error: str
    traceback: str
    message: Message
    key: int


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant: those that fit everything given. None given means all."""

    task: str | None = None
    reason: Reason | None = None
    uuids: Collection[str] | None = None

    def fits(self, letter: DeadLetter) -> bool:
        if self.uuids is not None and letter.uuid not in self.uuids:
            return False
        if self.task is not None and letter.task != self.task:
            return False
        return self.reason is None or letter.reason == self.reason


class ReplayReport(msgspec.Struct):
    """What a replay did. `failed` letters were not accepted and stay; `first_error` says why the first was not.

    `uuids`: of those that were asked for by uuid, the ones that are there.
    """

    replayed: int = 0
    failed: int = 0
    first_error: PublishError | None = None
    uuids: set[str] = msgspec.field(default_factory=set)


async def queue_names(inspector: Inspector) -> list[str]:
    """The queues that may have dead letters, by name."""
    return sorted(depth.name for depth in await inspector.queues())


async def dead_letters(inspector: Inspector, queue: str, wanted: Filter) -> AsyncGenerator[DeadLetter, None]:
    """The dead letters of `queue` that fit `wanted`, oldest first."""
    async with aclosing(_letters(inspector, queue, await dead_total(inspector, queue))) as letters:
        async for letter in letters:
            if wanted.fits(letter):
                yield letter


async def dead_total(inspector: Inspector, queue: str) -> int:
    """How many dead letters `queue` has; zero where it has no place for them."""
    try:
        return (await inspector.depth(dead_queue(queue))).ready
    except TopologyMismatch:
        return 0


async def replay(
    session: Session, queue: str, wanted: Filter, *, to_queue: str | None = None, progress: Progress | None = None
) -> ReplayReport:
    """Send the letters of `queue` that fit `wanted` to their queue again, or to `to_queue`.

    The dead letters of `dispatcher.delay` are those whose queue was gone when their delay was over, of every app.

    A letter keeps its uuid, body and headers; its attempts start at 1, and an expiry that has passed is dropped. Only
    the letters that are there at the start are looked at, so one that dies again at once is not replayed twice.
    Cancelled, it finishes the letters in hand first. Raises `ConnectionLost` and `StorageError`.
    """
    report = ReplayReport()
    inspector = session.inspector
    present: dict[str, bool] = {}
    async with aclosing(_chunks(inspector, queue, wanted, progress)) as chunks:
        async for chunk in chunks:
            if wanted.uuids is not None:
                report.uuids.update(letter.uuid for letter in chunk)
            for target in {to_queue or letter.queue for letter in chunk} - present.keys():
                present[target] = await _is_present(inspector, target)
            await _finished(_replay_chunk(session, queue, to_queue, chunk, present, report))
    return report


async def purge(inspector: Inspector, queue: str, wanted: Filter, *, progress: Progress | None = None) -> int:
    """Delete the letters of `queue` that fit `wanted`, of those that are there at the start; how many there were."""
    count = 0
    async with aclosing(_chunks(inspector, queue, wanted, progress)) as chunks:
        async for chunk in chunks:
            gone = await _finished(_remove_all(inspector, queue, chunk))
            count += gone
    return count


def replayed_message(message: Message, queue: str, now_ms: int) -> Message:
    """`message` of a dead letter as it is published to `queue` again."""
    kept = {key: value for key, value in (message.headers or {}).items() if key not in DEATH_NOTES}
    expires_at = kept.get(names.EXPIRES_AT)
    if isinstance(expires_at, int) and expires_at <= now_ms:
        del kept[names.EXPIRES_AT]  # it would only die of it again
    return msgspec.structs.replace(
        message, exchange=DELAY_EXCHANGE, routing_key=queue, headers=kept or None, ready_at_ms=None
    )


async def _letters(inspector: Inspector, queue: str, total: int) -> AsyncGenerator[DeadLetter, None]:
    if total == 0:
        return
    seen = 0
    async with aclosing(inspector.browse(dead_queue(queue))) as browse:
        async for browsed in browse:
            yield _letter(queue, browsed)
            seen += 1
            if seen >= total:
                return


async def _chunks(
    inspector: Inspector, queue: str, wanted: Filter, progress: Progress | None
) -> AsyncGenerator[list[DeadLetter], None]:
    """The letters that fit, by the handful. They may be removed while this goes on: what follows has later keys.

    The last handful, too, is given while the browse is open: RabbitMQ finds a message again only by looking through all.
    """
    chunk: list[DeadLetter] = []
    looked_at = seen = 0
    total = await dead_total(inspector, queue)
    async with aclosing(_letters(inspector, queue, total)) as letters:
        async for letter in letters:
            looked_at += 1
            seen += 1
            if wanted.fits(letter):
                chunk.append(letter)
            if len(chunk) >= AT_ONCE or (chunk and seen == total):
                yield chunk
                chunk = []
            if looked_at >= AT_ONCE:
                _tell(progress, looked_at)
                looked_at = 0
    if chunk:
        yield chunk
    _tell(progress, looked_at)


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


async def _replay_chunk(
    session: Session,
    queue: str,
    to_queue: str | None,
    chunk: list[DeadLetter],
    present: Mapping[str, bool],
    report: ReplayReport,
) -> None:
    now_ms = int(time.time() * 1000)
    published = []
    for letter in chunk:
        target = to_queue or letter.queue
        if present[target]:
            published.append(session.publish(replayed_message(letter.message, target, now_ms)))
        else:
            published.append(_refused(letter, target))
    results = await asyncio.gather(*published, return_exceptions=True)
    accepted = []
    lost: BaseException | None = None
    for letter, result in zip(chunk, results, strict=True):
        if result is None:
            accepted.append(letter)
        elif isinstance(result, PublishError):
            report.failed += 1
            report.first_error = report.first_error or result
        else:
            lost = lost or result
    await _remove_all(session.inspector, queue, accepted)
    report.replayed += len(accepted)
    if lost is not None:
        raise lost


def _refused(letter: DeadLetter, queue: str) -> asyncio.Future[None]:
    refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    refused.set_exception(Unroutable(f"queue {queue!r} does not exist; declare it, or name another", uuid=letter.uuid))
    return refused


async def _remove_all(inspector: Inspector, queue: str, letters: list[DeadLetter]) -> int:
    removed = await asyncio.gather(*(inspector.remove(dead_queue(queue), letter.key) for letter in letters))
    return sum(removed)


async def _finished(work: Any) -> Any:
    """Await `work` to its end even when cancelled, and only then let the cancellation through."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _letter(queue: str, browsed: BrowsedMessage) -> DeadLetter:
    message = browsed.message
    headers = message.headers or {}
    try:
        task = decode_body(message.body, max_bytes=len(message.body))
        uuid, name = task.uuid, task.name
    except DecodeError:
        uuid, name = message.uuid, ""  # that is why it died; its reason says so
    return DeadLetter(
        uuid=message.uuid or uuid,
        task=name,
        queue=_text(headers, names.QUEUE) if queue == DELAY_EXCHANGE else queue,
        reason=_text(headers, names.REASON),
        text=_text(headers, names.REASON_TEXT),
        attempt=_number(headers, names.ATTEMPT) or 1,
        dead_at_ms=_number(headers, names.DEAD_AT),
        error_type=_text(headers, names.ERROR_TYPE),
        error=_text(headers, names.ERROR),
        traceback=_text(headers, names.TRACEBACK),
        message=message,
        key=browsed.key,
    )


def _text(headers: Any, name: str) -> str:
    value = headers.get(name)
    return value if isinstance(value, str) else ""


def _number(headers: Any, name: str) -> int | None:
    value = headers.get(name)
    return value if type(value) is int else None
