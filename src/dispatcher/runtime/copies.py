"""The copy of a message that a fate asks for: a retry, a snooze, an offer, a count, a dead letter. Pure, but for jitter.

It travels as any other message. `settle` publishes it, and only then gives up the delivery that it is a copy of.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from ..brokers.base import Delivery, Message
from ..model import headers as names
from ..model.history import MAX_BYTES, MIN_BYTES, FailedAttempt, history_of, history_text
from ..model.outcome import CountRedelivery, DeadLetter, OfferAgain, Outcome, RetryLater, SnoozeLater
from ..model.retry import Failure
from ..model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE

__all__ = ["Copy", "copies_of"]

TEXT_LENGTH = 8_000
SHORT_TEXT_LENGTH = 200
SHORTEST_TEXT_LENGTH = 50
"""How many characters of an error, a traceback or a reason travel; fewer where they would not fit."""
HISTORY_BYTES = {TEXT_LENGTH: MAX_BYTES, SHORT_TEXT_LENGTH: MIN_BYTES, SHORTEST_TEXT_LENGTH: 0}
"""How large the history beside those may be. The sender's headers are worth more: where they leave no room, there is none."""


class Copy(msgspec.Struct, frozen=True):
    """A message to publish, the fate that it carries out, and the delay in it."""

    outcome: Outcome
    message: Message
    delay_seconds: float


def copies_of(delivery: Delivery, uuid: str, attempt: int, outcome: Outcome, now: float, where: str) -> Iterator[Copy]:
    """The copy that `outcome` asks for, then others for where it is too large: all headers of a message are one frame.

    The next have hardly any text, and then no history. The last is a dead letter without the headers of its sender:
    those may have filled a frame before we added ours. It fits into 4 KiB, the smallest frame there is.

    `uuid` and `attempt` are the task's, `now` is Unix seconds, `where` names host, process and worker.
    """
    jitter = random.uniform(0.5, 1.0) if isinstance(outcome, RetryLater) and outcome.jitter else 1.0
    kept = _kept_headers(delivery)
    for length in HISTORY_BYTES:
        yield _Copier(delivery, uuid, attempt, now, where, jitter, length).copy(outcome, dict(kept))
    parked = _parked(outcome, sum(len(key) + len(str(value)) for key, value in kept.items()))
    last = _Copier(delivery, uuid, attempt, now, where, jitter, SHORTEST_TEXT_LENGTH)
    yield last.copy(parked, _route_of(delivery, kept))


def _parked(outcome: Outcome, size: int) -> DeadLetter:
    """What is left to do with a message whose headers have no room for what we have to say."""
    text = f"its headers ({size} characters) were left out"
    match outcome:
        case DeadLetter(reason=reason, text=before, failure=failure):
            return DeadLetter(reason, f"{text}. {before}", failure)
        case RetryLater(failure=failure):
            return DeadLetter("failed", f"{text}. {failure.type}: {failure.message}", failure)
        case _:
            return DeadLetter("undecodable", text)


class _Copier:
    """Writes the headers of one copy. `length` bounds each text in it."""

    def __init__(
        self, delivery: Delivery, uuid: str, attempt: int, now: float, where: str, jitter: float, length: int
    ) -> None:
        self._delivery = delivery
        self._uuid = uuid
        self._attempt = attempt
        self._now = now
        self._where = where
        self._jitter = jitter
        self._length = length

    def copy(self, outcome: Outcome, headers: dict[str, Any]) -> Copy:
        delay_seconds = 0.0
        self._note_history(outcome, headers)
        match outcome:
            case RetryLater(delay_seconds=seconds, failure=failure):
                delay_seconds = seconds * self._jitter
                headers[names.ATTEMPT] = self._attempt + 1
                self._note_failure(failure, headers)
                # It ran to an end, and its worker lives: as with brokers that count.
                headers.pop(names.REDELIVERIES, None)
            case SnoozeLater(delay_seconds=delay_seconds):
                headers.pop(names.REDELIVERIES, None)
                headers[names.SNOOZES] = _count(headers.get(names.SNOOZES)) + 1
            case OfferAgain(delay_seconds=delay_seconds):
                headers.setdefault(names.UNKNOWN_SINCE, int(self._now * 1000))
            case CountRedelivery(redeliveries=redeliveries):
                headers[names.REDELIVERIES] = redeliveries
                return Copy(outcome, self._message(DELAY_EXCHANGE, headers, None), 0.0)
            case DeadLetter():
                self._note_death(outcome, headers)
                return Copy(outcome, self._message(DEAD_EXCHANGE, headers, None), 0.0)
            case _:
                raise AssertionError(f"{outcome!r} asks for no copy")
        ready_at_ms = int((self._now + delay_seconds) * 1000)
        return Copy(outcome, self._message(DELAY_EXCHANGE, headers, ready_at_ms), delay_seconds)

    def _note_history(self, outcome: Outcome, headers: dict[str, Any]) -> None:
        """Add the attempt that failed now, if one did. What a stranger wrote there instead is left out."""
        max_bytes = HISTORY_BYTES[self._length]
        history = history_of(headers)
        if isinstance(outcome, RetryLater | DeadLetter) and (failure := outcome.failure) is not None:
            now_ms = int(self._now * 1000)
            history += (FailedAttempt(self._attempt, now_ms, self._where, failure.type, failure.message),)
        if history and max_bytes:
            headers[names.HISTORY] = history_text(history, max_bytes=max_bytes)
        else:
            headers.pop(names.HISTORY, None)

    def _note_death(self, outcome: DeadLetter, headers: dict[str, Any]) -> None:
        headers[names.REASON] = outcome.reason
        headers[names.REASON_TEXT] = self._text(outcome.text)
        headers[names.DEAD_AT] = int(self._now * 1000)
        headers[names.ATTEMPT] = self._attempt
        headers[names.QUEUE] = self._delivery.queue
        if outcome.failure is not None:
            self._note_failure(outcome.failure, headers)
            headers[names.TRACEBACK] = self._text(outcome.failure.traceback)

    def _note_failure(self, failure: Failure, headers: dict[str, Any]) -> None:
        headers[names.ERROR_TYPE] = self._text(failure.type)
        headers[names.ERROR] = self._text(failure.message)

    def _message(self, exchange: str, headers: dict[str, Any], ready_at_ms: int | None) -> Message:
        delivery = self._delivery
        return Message(
            exchange,
            delivery.queue,
            delivery.body,
            self._uuid or delivery.uuid,
            headers,
            delivery.priority,
            ready_at_ms,
        )

    def _text(self, text: str) -> str:
        return names.header_text(text, self._length)


def _kept_headers(delivery: Delivery) -> dict[str, Any]:
    """The delivery's headers with the route it first came by, and without what would change where a copy goes."""
    headers = {key: value for key, value in delivery.headers.items() if key not in names.NOT_COPIED}
    headers.setdefault(names.EXCHANGE, delivery.exchange)
    headers.setdefault(names.ROUTING_KEY, delivery.routing_key)
    return headers


def _route_of(delivery: Delivery, kept: dict[str, Any]) -> dict[str, Any]:
    """Of the kept headers those that say where it came from, as far as they are ours."""
    return {
        name: value if isinstance(value := kept[name], str) and len(value) <= 255 else given
        for name, given in ((names.EXCHANGE, delivery.exchange), (names.ROUTING_KEY, delivery.routing_key))
    }


def _count(value: object) -> int:
    """A counter header; what a stranger put there instead of a number counts as zero."""
    return value if type(value) is int and value >= 0 else 0
