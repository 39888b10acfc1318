"""Carrying out a fate: the only module that acks, hands back or republishes a delivery. It runs no user code.

The order that makes it safe: a copy (retry, snooze, dead letter) is published and confirmed first, and only then is
the delivery acked. A crash between the two leaves a duplicate, never a loss. A copy that is not confirmed is tried
again with back-off for as long as the delivery's session lives; when it dies the broker redelivers.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from ..brokers.base import Delivery, Message, Session
from ..errors import ConnectionLost, DeliveryLost, DispatcherError
from ..model import headers as names
from ..model.outcome import Ack, CountRedelivery, DeadLetter, HandBack, OfferAgain, Outcome, RetryLater, SnoozeLater
from ..model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE
from ..observe.events import (
    DeadLettered,
    RedeliveryCounted,
    SettleFailed,
    TaskDiscarded,
    TaskHandedBack,
    TaskOffered,
    TaskRetried,
    TaskSettledElsewhere,
    TaskSnoozed,
)
from ..observe.hooks import EventHub

__all__ = ["Settler", "Unsettled"]

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
MAX_HEADER_TEXT = 8_000


class Unsettled:
    """A delivery on its way to its fate, with what is known of its task (empty strings where the body was unreadable)."""

    __slots__ = ("attempt", "delivery", "session", "task", "uuid")

    def __init__(self, delivery: Delivery, session: Session, uuid: str, task: str, attempt: int) -> None:
        self.delivery = delivery
        self.session = session
        self.uuid = uuid
        self.task = task
        self.attempt = attempt


class Settler:
    """Settles the deliveries of one worker. `publish_timeout_seconds` bounds each try of a copy."""

    def __init__(self, hub: EventHub, *, publish_timeout_seconds: float) -> None:
        self._hub = hub
        self._timeout_seconds = publish_timeout_seconds

    def settle_now(self, item: Unsettled, outcome: Outcome) -> bool:
        """Carry out an outcome that needs no copy. False where `settle_with_copy` must be awaited instead."""
        if not isinstance(outcome, Ack | HandBack):
            return False
        try:
            if isinstance(outcome, Ack):
                item.delivery.ack()
            else:
                item.delivery.reject()
        except DeliveryLost:
            self._emit(TaskSettledElsewhere, item)
            return True
        if isinstance(outcome, HandBack):
            self._emit(TaskHandedBack, item)
        elif outcome.discarded is not None:
            self._emit(TaskDiscarded, item, outcome.discarded)
        return True

    def hand_back(self, delivery: Delivery) -> None:
        """Give back a delivery that was never started."""
        try:
            delivery.reject()
        except DeliveryLost:
            pass  # its session is gone: the broker has taken it back already

    async def settle_with_copy(self, item: Unsettled, outcome: Outcome) -> None:
        """Publish the copy that `outcome` asks for, wait for the confirm, then ack. Returns when settled or lost."""
        now = time.time()
        copy, delay_seconds = _copy(item, outcome, now)
        pause_seconds = FIRST_PAUSE_SECONDS
        while not item.session.closed.done():
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await item.session.publish(copy)
                item.delivery.ack()
            except (ConnectionLost, DeliveryLost):
                break
            except (DispatcherError, TimeoutError) as error:
                text = f"{type(error).__name__}: {error}"
                self._emit(SettleFailed, item, text, pause_seconds)
                await _pause(item.session, pause_seconds)
                pause_seconds = min(LONGEST_PAUSE_SECONDS, pause_seconds * 2)
            else:
                self._settled(item, outcome, delay_seconds)
                return
        self._emit(TaskSettledElsewhere, item)

    def _settled(self, item: Unsettled, outcome: Outcome, delay_seconds: float) -> None:
        match outcome:
            case RetryLater():
                self._emit(TaskRetried, item, delay_seconds)
            case SnoozeLater():
                self._emit(TaskSnoozed, item, delay_seconds)
            case OfferAgain():
                self._emit(TaskOffered, item, delay_seconds)
            case CountRedelivery(redeliveries=redeliveries):
                self._emit(RedeliveryCounted, item, redeliveries)
            case DeadLetter(reason=reason, text=text):
                self._emit(DeadLettered, item, reason, text)

    def _emit(self, event: Any, item: Unsettled, *fields: Any) -> None:
        self._hub.emit(event(item.uuid, item.task, item.delivery.queue, item.attempt, *fields))


async def _pause(session: Session, seconds: float) -> None:
    """Wait, but not beyond the session's end."""
    await asyncio.wait([session.closed], timeout=seconds)


def _copy(item: Unsettled, outcome: Outcome, now: float) -> tuple[Message, float]:
    """The copy that `outcome` asks for, and the delay it carries."""
    headers = _kept_headers(item.delivery)
    delay_seconds = 0.0
    match outcome:
        case RetryLater(delay_seconds=delay_seconds, jitter=jitter, failure=failure):
            if jitter:
                delay_seconds *= random.uniform(0.5, 1.0)
            headers[names.ATTEMPT] = item.attempt + 1
            headers[names.ERROR_TYPE] = _sendable(failure.type)
            headers[names.ERROR] = _sendable(failure.message)
        case SnoozeLater(delay_seconds=delay_seconds):
            headers[names.SNOOZES] = _count(headers.get(names.SNOOZES)) + 1
        case OfferAgain(delay_seconds=delay_seconds):
            headers.setdefault(names.UNKNOWN_SINCE, int(now * 1000))
        case CountRedelivery(redeliveries=redeliveries):
            headers[names.REDELIVERIES] = redeliveries
            return _message(item, DELAY_EXCHANGE, headers, None), 0.0
        case DeadLetter():
            return _dead_copy(item, outcome, headers, now), 0.0
        case _:
            raise AssertionError(f"{outcome!r} asks for no copy")
    return _message(item, DELAY_EXCHANGE, headers, int((now + delay_seconds) * 1000)), delay_seconds


def _dead_copy(item: Unsettled, outcome: DeadLetter, headers: dict[str, Any], now: float) -> Message:
    delivery = item.delivery
    headers[names.REASON] = outcome.reason
    headers[names.REASON_TEXT] = _sendable(outcome.text)
    headers[names.DEAD_AT] = int(now * 1000)
    headers[names.ATTEMPT] = item.attempt
    headers[names.QUEUE] = delivery.queue
    if outcome.failure is not None:
        headers[names.ERROR_TYPE] = _sendable(outcome.failure.type)
        headers[names.ERROR] = _sendable(outcome.failure.message)
        headers[names.TRACEBACK] = _sendable(outcome.failure.traceback)
    return _message(item, DEAD_EXCHANGE, headers, None)


def _kept_headers(delivery: Delivery) -> dict[str, Any]:
    """The delivery's headers without the broker's death notes, and with the route it first came by."""
    headers = {key: value for key, value in delivery.headers.items() if key not in names.BROKER_DEATH_HEADERS}
    headers.setdefault(names.EXCHANGE, delivery.exchange)
    headers.setdefault(names.ROUTING_KEY, delivery.routing_key)
    return headers


def _message(item: Unsettled, exchange: str, headers: dict[str, Any], ready_at_ms: int | None) -> Message:
    delivery = item.delivery
    return Message(
        exchange, delivery.queue, delivery.body, item.uuid or delivery.uuid, headers, delivery.priority, ready_at_ms
    )


def _sendable(text: str) -> str:
    """Text as a header can carry it: valid UTF-8 and bounded, whatever an exception said."""
    return text[:MAX_HEADER_TEXT].encode("utf-8", "backslashreplace").decode()


def _count(value: object) -> int:
    """A counter header; what a stranger put there instead of a number counts as zero."""
    return value if type(value) is int and value >= 0 else 0
