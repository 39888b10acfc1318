"""Publishing: from a task to the broker's promise, within a deadline, whatever happens to the connection meanwhile.

Keeps nothing in memory that pretends to be safe: a publish has returned only when the broker said yes. What is
uncertain (the link broke before the answer) is published again with the same uuid until the deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from ..brokers.base import Message, Session
from ..errors import (
    ArgumentError,
    BrokerBlocked,
    BrokerUnavailable,
    ConnectionLost,
    DispatcherError,
    PublishError,
    PublishManyError,
    PublishRefused,
    PublishUnknown,
)
from ..model import headers as names
from ..model.codec import encode_body
from ..model.task import Receipt, Task
from ..observe.events import TaskPublished
from ..observe.hooks import EventHub
from .deadlines import Deadlines

__all__ = ["PUBLISH_MANY_WINDOW", "Publisher", "SessionSource", "message_of"]

PUBLISH_MANY_WINDOW = 1000
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0


class SessionSource(Protocol):
    """Where the live session comes from: the server."""

    @property
    def session(self) -> Session | None:
        """The live session, None while disconnected."""
        ...

    async def live_session(self) -> Session:
        """Wait for a live session. `ConnectionLost` once the server gave up or is closed."""
        ...


def message_of(task: Task, exchange: str, default_routing_key: str, max_body_bytes: int, now: float) -> Message:
    """The message that carries `task`; `now` is Unix seconds. `ArgumentError` if it cannot be sent."""
    body = encode_body(task.id, task.name, task.args, max_bytes=max_body_bytes)
    now_ms = int(now * 1000)
    headers: dict[str, Any] = dict(task.headers) if task.headers else {}
    headers[names.FIRST_PUBLISHED_AT] = now_ms
    ready_at_ms = None
    if task.expires_seconds is not None:
        headers[names.EXPIRES_AT] = int((now + task.expires_seconds) * 1000)
    if task.delay_seconds:
        ready_at_ms = int((now + task.delay_seconds) * 1000)
    elif task.eta is not None:
        ready_at_ms = headers[names.ETA] = int(task.eta.timestamp() * 1000)
    return Message(
        exchange, task.routing_key or default_routing_key, body, task.id, headers, task.priority, ready_at_ms
    )


class Publisher:
    """Publishes for one server."""

    def __init__(
        self,
        source: SessionSource,
        hub: EventHub,
        *,
        exchange: str,
        default_routing_key: str,
        publish_timeout_seconds: float,
        max_body_bytes: int,
    ) -> None:
        self._source = source
        self._hub = hub
        self._exchange = exchange
        self._default_routing_key = default_routing_key
        self._timeout_seconds = publish_timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(publish_timeout_seconds)
        self._max_body_bytes = max_body_bytes

    def close(self) -> None:
        """Keep no timer any more."""
        self._deadlines.close()

    def _message_of(self, task: Task) -> Message:
        if not isinstance(task, Task):
            raise ArgumentError(f"publish: expected a Task, got {task!r:.200}; a task function's .bind(…) makes one")
        return message_of(task, self._exchange, self._default_routing_key, self._max_body_bytes, time.time())

    async def publish(self, task: Task) -> Receipt:
        """Publish one task. Raises `ArgumentError` before anything is sent, else a `PublishError`."""
        message = self._message_of(task)
        session = self._source.session
        if session is None:
            await self._until_accepted(message, None, self._timeout_seconds)
            return self._accepted(task, message)
        started_at = self._loop.time()
        sent = session.publish(message)
        self._deadlines.watch(sent)
        try:
            await sent
        except (DispatcherError, TimeoutError):
            left_seconds = self._timeout_seconds - (self._loop.time() - started_at)
            await self._until_accepted(message, sent, left_seconds)
        return self._accepted(task, message)

    async def publish_many(self, tasks: Iterable[Task]) -> list[Receipt]:
        """Publish all of `tasks`, taken lazily, at most 1,000 in flight. `PublishManyError` if any was not accepted."""
        window: deque[tuple[Task, Message, asyncio.Future[None] | None]] = deque()
        receipts: list[Receipt] = []
        failed: list[tuple[Task, Exception]] = []

        async def settle_oldest() -> None:
            task, message, first = window.popleft()
            try:
                await self._until_accepted(message, first, self._timeout_seconds)
            except DispatcherError as error:
                failed.append((task, error))
            else:
                receipts.append(self._accepted(task, message))

        try:
            for task in tasks:
                try:
                    message = self._message_of(task)
                except ArgumentError as error:
                    failed.append((task, error))
                    continue
                session = self._source.session
                window.append((task, message, session.publish(message) if session is not None else None))
                if len(window) >= PUBLISH_MANY_WINDOW:
                    await settle_oldest()
            while window:
                await settle_oldest()
        finally:
            # Left early (the iterable raised, or we were cancelled): nobody waits for these any more.
            for _, _, sent in window:
                if sent is not None:
                    sent.cancel()
        if failed:
            raise PublishManyError(receipts, failed)
        return receipts

    def _accepted(self, task: Task, message: Message) -> Receipt:
        if self._hub.busy:
            self._hub.emit(TaskPublished(message.uuid, task.name, message.routing_key))
        return Receipt(message.uuid)

    async def _until_accepted(self, message: Message, first: asyncio.Future[None] | None, left_seconds: float) -> None:
        """Return once accepted; `first` is a publish of it that is on its way or has failed already."""
        if first is not None and first.done() and first.exception() is None:
            return
        attempts = _Attempts(message)
        try:
            async with asyncio.timeout(left_seconds):
                while not await attempts.succeeded(self._source, first):
                    first = None
        except TimeoutError:
            raise attempts.error_at_deadline(self._timeout_seconds) from None


class _Attempts:
    """What is known of one message's publishes so far, so that its last error is an honest one."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._maybe_accepted = False
        self._in_flight = False
        self._refusal: PublishError | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS

    async def succeeded(self, source: SessionSource, sent: asyncio.Future[None] | None) -> bool:
        """One try. False where another may help, after a pause where the broker said no."""
        if sent is None:
            session = source.session or await source.live_session()
            sent = session.publish(self._message)
        self._in_flight = True
        try:
            await sent
        except (PublishRefused, BrokerBlocked) as refusal:
            self._in_flight = False
            self._refusal = refusal
        except ConnectionLost:
            self._in_flight = False
            self._maybe_accepted = True
            self._refusal = None
            return False
        except PublishError as error:
            error.uuid = self._message.uuid
            raise
        else:
            return True
        await asyncio.sleep(self._pause_seconds)
        self._pause_seconds = min(LONGEST_PAUSE_SECONDS, self._pause_seconds * 2)
        return False

    def error_at_deadline(self, timeout_seconds: float) -> PublishError:
        uuid = self._message.uuid
        if self._in_flight or self._maybe_accepted:
            return PublishUnknown(
                f"task {uuid}: no answer from the broker within {timeout_seconds:g} s; it may have been accepted",
                uuid=uuid,
            )
        if self._refusal is not None:
            self._refusal.uuid = uuid
            return self._refusal
        return BrokerUnavailable(f"task {uuid}: no connection to the broker within {timeout_seconds:g} s", uuid=uuid)
