"""Carrying out a fate: the only module that acks, hands back or republishes a delivery. It runs no user code.

The order that makes it safe: a copy (retry, snooze, dead letter) is published and confirmed first, and only then is
the delivery acked. A crash between the two leaves a duplicate, never a loss. A copy that is not confirmed is tried
again with back-off for as long as the delivery's session lives; when it dies the broker redelivers. At the end of a
worker it is handed back instead.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ..brokers.base import Delivery, Session
from ..errors import ArgumentError, DeliveryLost, DispatcherError, TopologyMissing, Unroutable
from ..model.outcome import (
    HAND_BACK,
    Ack,
    CountRedelivery,
    DeadLetter,
    HandBack,
    OfferAgain,
    Outcome,
    RetryLater,
    SnoozeLater,
)
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
from .copies import Copy, copies_of

__all__ = ["Settler", "Unsettled"]

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Unsettled:
    """A delivery on its way to its fate, with what is known of its task (empty strings where the body was unreadable)."""

    __slots__ = ("attempt", "delivery", "session", "task", "uuid")

    def __init__(self, delivery: Delivery, session: Session, uuid: str, task: str, attempt: int) -> None:
        self.delivery = delivery
        self.session = session
        self.uuid = uuid
        self.task = task
        self.attempt = attempt

    def brought_by(self, delivery: Delivery, session: Session) -> Unsettled:
        """The same task, delivered again."""
        return Unsettled(delivery, session, self.uuid, self.task, self.attempt)


class Settler:
    """Settles the deliveries of one worker. `publish_timeout_seconds` bounds each try of a copy.

    `where` is what the history of a task calls this worker.
    """

    def __init__(self, hub: EventHub, *, publish_timeout_seconds: float, where: str) -> None:
        self._hub = hub
        self._where = where
        self._timeout_seconds = publish_timeout_seconds
        self._draining: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle_now(self, item: Unsettled, outcome: Outcome) -> bool:
        """Carry out an outcome that needs no copy. False where `settle_with_copy` must be awaited instead."""
        try:
            if isinstance(outcome, Ack):
                item.delivery.ack()
                if outcome.discarded is not None:
                    self._emit(TaskDiscarded, item, outcome.discarded)
            elif isinstance(outcome, HandBack):
                item.delivery.reject()
                self._emit(TaskHandedBack, item)
            else:
                return False
        except DeliveryLost:
            self._emit(TaskSettledElsewhere, item)
        return True

    def hand_back(self, delivery: Delivery) -> None:
        """Give back a delivery that was never started."""
        try:
            delivery.reject()
        except DeliveryLost:
            pass  # its session is gone: the broker has taken it back already

    def drain(self) -> None:
        """From now on hand back what cannot be settled at the first try: a close must not wait for a broker to get well."""
        if not self._draining.done():
            self._draining.set_result(None)

    async def settle_with_copy(self, item: Unsettled, outcome: Outcome) -> bool:
        """Publish the copy that `outcome` asks for, wait for the confirm, then ack. Returns when settled, handed back or lost.

        False, and the delivery is still held, if it is a redelivery that cannot be counted because no copy would come back.
        """
        copies = copies_of(item.delivery, item.uuid, item.attempt, outcome, time.time(), self._where)
        copy = next(copies)
        pause_seconds = FIRST_PAUSE_SECONDS
        while not item.session.closed.done():
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await item.session.publish(copy.message)
                item.delivery.ack()
            except DeliveryLost:
                break
            except (DispatcherError, TimeoutError) as error:
                if item.session.closed.done():
                    break
                if isinstance(error, ArgumentError) and (smaller := next(copies, None)) is not None:
                    copy = smaller  # it was too large to travel, and would be for ever
                    continue
                is_uncountable = isinstance(outcome, CountRedelivery) and isinstance(
                    error, TopologyMissing | Unroutable
                )
                if not is_uncountable:
                    self._emit(SettleFailed, item, f"{type(error).__name__}: {error}", pause_seconds)
                    await self._pause(item.session, pause_seconds)
                if self._draining.done():
                    return self.settle_now(item, HAND_BACK)
                if is_uncountable:
                    return False
                pause_seconds = min(LONGEST_PAUSE_SECONDS, pause_seconds * 2)
            else:
                self._settled(item, copy)
                return True
        self._emit(TaskSettledElsewhere, item)
        return True

    async def _pause(self, session: Session, seconds: float) -> None:
        """Wait, but not beyond the session's end, nor into a drain."""
        await asyncio.wait([session.closed, self._draining], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    def _settled(self, item: Unsettled, copy: Copy) -> None:
        match copy.outcome:
            case RetryLater():
                self._emit(TaskRetried, item, copy.delay_seconds)
            case SnoozeLater():
                self._emit(TaskSnoozed, item, copy.delay_seconds)
            case OfferAgain():
                self._emit(TaskOffered, item, copy.delay_seconds)
            case CountRedelivery(redeliveries=redeliveries):
                self._emit(RedeliveryCounted, item, redeliveries)
            case DeadLetter(reason=reason, text=text):
                self._emit(DeadLettered, item, reason, text)

    def _emit(self, event: Any, item: Unsettled, *fields: Any) -> None:
        self._hub.emit(event(item.uuid, item.task, item.delivery.queue, item.attempt, *fields))
