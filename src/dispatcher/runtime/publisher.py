"""Publishing: from a task to the broker's promise, within a deadline, whatever happens to the connection meanwhile.

Keeps nothing in memory that pretends to be safe: a publish has returned only when the broker said yes. What is
uncertain (the link broke before the answer) is published again with the same uuid until the deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeAlias

from ..brokers.base import Cancel, Message, Session
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
from ..observe.context import CURRENT_TASK
from ..observe.events import TaskPublished
from ..observe.hooks import EventHub
from .deadlines import Deadlines

__all__ = ["PUBLISH_MANY_WINDOW", "Publisher", "SessionSource", "message_of"]

PUBLISH_MANY_WINDOW = 1000
PUBLISH_MANY_BYTES = 16 * 1024 * 1024
TURN_SECONDS = 0.02
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0


_Sent: TypeAlias = asyncio.Future[None] | None


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
    """Publishes for one server, and cancels what was published. `canceller` is what its receipts cancel with."""

    def __init__(
        self,
        source: SessionSource,
        hub: EventHub,
        *,
        exchange: str,
        default_routing_key: str,
        publish_timeout_seconds: float,
        max_body_bytes: int,
        canceller: Callable[[str], Awaitable[None]],
    ) -> None:
        self._source = source
        self._canceller = canceller
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
        sent, deadline = self._send(message)
        if sent is not None:
            try:  # its usual end, awaited here: every coroutine in between is paid for by each publish
                await sent
            except (DispatcherError, TimeoutError):
                pass  # it is looked at again by who tries on
            else:
                return self._accepted(task, message)
        await self._until_accepted(message, sent, deadline)
        return self._accepted(task, message)

    async def publish_many(self, tasks: Iterable[Task]) -> list[Receipt]:
        """Publish all of `tasks`, taken lazily, up to 1,000 or 16 MiB in flight. `PublishManyError` if any was not accepted.

        A full window is emptied by half before it is filled again: one half is made while the broker stores the other.
        """
        window: deque[_InFlight] = deque()
        window_bytes = 0
        receipts: list[Receipt] = []
        failed: list[tuple[Task, Exception]] = []

        async def settle_oldest() -> None:
            nonlocal window_bytes
            oldest = window[0]
            if not await oldest.accepted_at_once():
                # Those behind it hardly fare better: all are tried again at the same time, not one after the other.
                for one in window:
                    one.try_on(self._until_accepted)
            try:
                await oldest.accepted()
            except DispatcherError as error:
                failed.append((oldest.task, error))
            else:
                receipts.append(self._accepted(oldest.task, oldest.message))
            window.popleft()
            window_bytes -= len(oldest.message.body)

        last_turn = self._loop.time()
        try:
            for task in tasks:
                if self._loop.time() > last_turn + TURN_SECONDS:
                    await asyncio.sleep(
                        0
                    )  # the iterable takes its time: without a turn of the loop nothing goes out meanwhile
                    last_turn = self._loop.time()
                try:
                    message = self._message_of(task)
                except ArgumentError as error:
                    failed.append((task, error))
                    continue
                window.append(_InFlight(task, message, *self._send(message)))
                window_bytes += len(message.body)
                if len(window) >= PUBLISH_MANY_WINDOW or window_bytes >= PUBLISH_MANY_BYTES:
                    while len(window) > PUBLISH_MANY_WINDOW // 2 or window_bytes > PUBLISH_MANY_BYTES // 2:
                        await settle_oldest()
                    last_turn = self._loop.time()
            while window:
                await settle_oldest()
        finally:
            # Left early (the iterable raised, or we were cancelled): nobody waits for these any more.
            for one in window:
                one.cancel()
        if failed:
            raise PublishManyError(receipts, failed)
        return receipts

    def _send(self, message: Message) -> tuple[_Sent, float]:
        """Hand the message over, if there is a session; the future fails at the deadline, which is returned too."""
        session = self._source.session
        if session is None:
            return None, self._loop.time() + self._timeout_seconds
        sent = session.publish(message)
        return sent, self._deadlines.watch(sent)

    def _accepted(self, task: Task, message: Message) -> Receipt:
        if self._hub.busy:
            self._hub.emit(TaskPublished(message.uuid, task.name, message.routing_key))
        return Receipt(message.uuid, self._canceller)

    async def cancel(self, uuid: str) -> None:
        """Record that task `uuid` is cancelled. Raises like a publish."""
        cancel = Cancel(self._exchange, uuid, int(time.time() * 1000))
        deadline = self._loop.time() + self._timeout_seconds
        await self._until_kept(uuid, lambda session: session.cancels.add(cancel), None, deadline)

    def _until_accepted(self, message: Message, sent: _Sent, deadline: float) -> Coroutine[Any, Any, None]:
        """To be awaited until accepted; `sent` is its first publish. That this succeeds is its usual end, and costs no timer."""
        return self._until_kept(message.uuid, lambda session: session.publish(message), sent, deadline)

    async def _until_kept(
        self, uuid: str, send: Callable[[Session], Awaitable[None]], sent: _Sent, deadline: float
    ) -> None:
        """Send it on one session after the other until the broker keeps it; `sent` is its first try, if there was one."""
        attempts = _Attempts(uuid)
        if sent is not None and await attempts.accepted(sent):
            return
        try:
            async with asyncio.timeout_at(deadline):
                while self._loop.time() < deadline:  # the timer's turn comes after ours: one more would go out
                    await attempts.pause()
                    session = self._source.session or await self._source.live_session()
                    if await attempts.accepted(send(session)):
                        return
                raise TimeoutError
        except (TimeoutError, ConnectionLost) as error:
            raise attempts.last_error(self._timeout_seconds, error) from None


class _InFlight:
    """One task of a `publish_many`: its first publish, and the task that sees to it where that was not accepted."""

    __slots__ = ("_deadline", "_sent", "_trying", "message", "task")

    def __init__(self, task: Task, message: Message, sent: _Sent, deadline: float) -> None:
        self.task = task
        self.message = message
        self._sent = sent
        self._deadline = deadline
        self._trying: asyncio.Task[None] | None = None

    async def accepted_at_once(self) -> bool:
        """Whether the first publish was accepted, once that is known."""
        if self._sent is None or self._trying is not None:
            return False
        try:
            await self._sent
        except (DispatcherError, TimeoutError):
            return False  # it is looked at again by who tries on
        return True

    def try_on(self, until_accepted: Callable[[Message, _Sent, float], Coroutine[Any, Any, None]]) -> None:
        if self._trying is None:
            self._trying = asyncio.create_task(
                until_accepted(self.message, self._sent, self._deadline), name="dispatcher publish again"
            )
            self._trying.add_done_callback(_read)

    async def accepted(self) -> None:
        """Return once it is accepted; raises like `Publisher.publish`."""
        if self._trying is not None:
            await self._trying

    def cancel(self) -> None:
        if self._trying is not None:
            self._trying.cancel()
        if self._sent is not None:
            self._sent.cancel()


def _read(done: asyncio.Task[None]) -> None:
    """Nobody need ask how it ended: who published many may have left early."""
    if not done.cancelled():
        done.exception()


class _Attempts:
    """What is known of one message's publishes so far, or a cancel's, so that its last error is an honest one."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._maybe_accepted = False
        self._refusal: PublishError | None = None
        self._tries = 0
        self._pause_seconds = 0.0

    async def accepted(self, sent: Awaitable[None]) -> bool:
        """Wait for one publish. False where another may help; raises where none will."""
        before, self._maybe_accepted = self._maybe_accepted, True  # until the broker has answered
        try:
            await sent
        except (PublishRefused, BrokerBlocked) as refusal:
            self._maybe_accepted = before
            self._refusal = refusal
            if isinstance(refusal, PublishRefused) and refusal.final and not before:
                refusal.uuid = self._uuid
                raise
        except (ConnectionLost, TimeoutError):
            pass  # nobody knows whether it came through
        except PublishError as error:
            error.uuid = self._uuid
            if before:
                raise self._unknown(f"an earlier try may have been accepted; then: {error}") from error
            raise
        else:
            return True
        return False

    async def pause(self) -> None:
        """Before another try: not at all after one lost connection, else longer and longer."""
        self._tries += 1
        if self._refusal is not None or self._tries > 1:
            self._pause_seconds = min(LONGEST_PAUSE_SECONDS, self._pause_seconds * 2 or FIRST_PAUSE_SECONDS)
            await asyncio.sleep(self._pause_seconds)

    def _unknown(self, because: str) -> PublishUnknown:
        return PublishUnknown(f"task {self._uuid}: {because}", uuid=self._uuid)

    def last_error(self, timeout_seconds: float, cause: Exception) -> Exception:
        uuid = self._uuid
        if self._maybe_accepted:
            return self._unknown(f"no answer from the broker within {timeout_seconds:g} s; it may have been accepted")
        if isinstance(cause, ConnectionLost):
            if CURRENT_TASK.get() is not None:
                return cause  # a running task learns at once that its server's link is gone for good
            return BrokerUnavailable(f"task {uuid}: {cause}", uuid=uuid)
        if self._refusal is not None:
            self._refusal.uuid = uuid
            return self._refusal
        return BrokerUnavailable(f"task {uuid}: no connection to the broker within {timeout_seconds:g} s", uuid=uuid)
