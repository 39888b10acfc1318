"""Publishing on one exchange: a channel in confirm mode, and what became of each publish.

Each exchange has a channel of its own, because a mistake with one (it does not exist, no permission) ends the channel
and with it the confirms of everything in flight there. What no answer came for, and is not to blame, is published again
on a new channel; where the broker blames nobody, one at a time, so that its next refusal says whom it means. A publish
whose caller gave up is not touched again.

What cannot be sent at all fails alone, before a byte of it is on its way.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from ...amqp.channel import Channel
from ...amqp.errors import AccessRefused, AmqpError, NotFound, ReplyError
from ...amqp.properties import PropertiesForm, encode_properties
from ...amqp.tables import encode_table
from ...errors import (
    ArgumentError,
    BrokerBlocked,
    ConnectionLost,
    DispatcherError,
    PublishError,
    PublishRefused,
    PublishUnknown,
    TopologyMissing,
    Unroutable,
)
from ...model import headers as names
from ..base import Headers, Message
from .ladder import is_service
from .translate import largest_body

__all__ = ["ExchangePublisher", "Limits", "Publish"]

MAX_TRIES = 3
"""How often a publish is sent that was alone on its channel when the broker closed it."""

BASIC_PUBLISH = (60, 40)
"""Class and method, as a refusal names what it refuses."""

_PERSISTENT = 2
_LENGTH = struct.Struct(">I")
_NUMBER_FIELD = encode_table({names.PUBLISH: 0})[4:-5]
"""The field in which a publish carries its number, without its type and value."""
_TAGGED_INT64 = struct.Struct(">cq")
_NUMBER_SIZE = len(_NUMBER_FIELD) + _TAGGED_INT64.size


class Publish:
    """One publish on its way: the message as bytes, and the future of who waits for it."""

    __slots__ = ("exchange", "fields", "future", "message", "priority", "tries", "uncertain")

    def __init__(
        self,
        exchange: str,
        message: Message,
        headers: Headers,
        future: asyncio.Future[None],
        default_priority: int | None,
    ) -> None:
        self.exchange = exchange
        self.message = message
        self.priority = default_priority if message.priority is None else message.priority
        self.fields = encode_table(headers)[4:]  # now: what the sender does to its mapping later changes no message
        self.future = future
        self.tries = 0
        self.uncertain = False  # an earlier try may have been accepted: what the broker says of a later one is not all

    def properties(self, number: int) -> bytes:
        fields, message = self.fields, self.message
        headers = b"%b%b%b%b" % (
            _LENGTH.pack(len(fields) + _NUMBER_SIZE),
            fields,
            _NUMBER_FIELD,
            _TAGGED_INT64.pack(b"l", number),
        )
        if message.uuid:
            return _form(message.content_type, self.priority).encode(headers, message.uuid)
        return encode_properties(
            content_type=message.content_type, headers=headers, delivery_mode=_PERSISTENT, priority=self.priority
        )

    def fail(self, error: DispatcherError) -> None:
        """End it with `error`, which says that it is in no queue, unless that is not known."""
        if self.future.done():
            return
        if self.uncertain and isinstance(error, PublishError):
            text = f"message {self.message.uuid!r:.100}: an earlier try may have been accepted; then: {error}"
            may_help = isinstance(error, BrokerBlocked) or (isinstance(error, PublishRefused) and not error.final)
            error = ConnectionLost(text) if may_help else PublishUnknown(text, uuid=self.message.uuid)
        self.future.set_exception(error)


@functools.lru_cache(maxsize=64)
def _form(content_type: str, priority: int | None) -> PropertiesForm:
    return PropertiesForm(content_type=content_type, delivery_mode=_PERSISTENT, priority=priority)


class Limits:
    """What the broker told a session of its bounds: it closes a channel at each larger message. None: nothing yet."""

    def __init__(self) -> None:
        self.largest_body: int | None = None


class ExchangePublisher:
    """The publishes to one exchange, or to those of the delay ladder. `give_up` ends the session."""

    def __init__(
        self,
        exchange: str,
        open_channel: Callable[[], Awaitable[Channel]],
        limits: Limits,
        give_up: Callable[[ConnectionLost], None],
    ) -> None:
        self._exchange = exchange
        self._open_channel = open_channel
        self._limits = limits
        self._give_up = give_up
        self._blocked = False
        self._emptied: asyncio.Event | None = None
        self._channel: Channel | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: deque[Publish] = deque()
        self._waits_for_room = False
        self._suspects = 0  # how many of the first that wait are to be sent one at a time
        self._is_shared = is_service(exchange)  # by all rungs of the ladder
        self._worked: set[str] = set()  # the exchanges that have accepted something on the present channel

    def publish(self, publish: Publish) -> None:
        """Send it, or keep it until the channel is open."""
        largest = self._limits.largest_body
        if largest is not None and len(publish.message.body) > largest:
            publish.fail(_too_large(publish, largest))
            return
        channel = self._channel
        if channel is None or not channel.is_open or self._waiting or not channel.has_room:
            self._waiting.append(publish)
            self._send_waiting()
        elif channel.paused:
            publish.fail(BrokerBlocked("the broker asked to pause publishing", uuid=publish.message.uuid))
        else:
            self._send(channel, publish)

    def _send_waiting(self) -> None:
        """Send what waits, as far as may be now."""
        channel = self._channel
        if channel is None or not channel.is_open:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open(), name=f"dispatcher publisher of {self._exchange}")
            return
        while self._waiting:
            if not channel.has_room:
                if not self._waits_for_room:
                    self._waits_for_room = True
                    channel.when_there_is_room(self._go_on)
                return
            if self._suspects:
                if channel.state.confirms:
                    return  # the one before has no answer yet
                self._suspects -= 1
            self._send(channel, self._waiting.popleft())
        self._note_answers()  # what waited may have been given up by its callers

    def _go_on(self) -> None:
        """The link has caught up. What was given up meanwhile is not even sent."""
        self._waits_for_room = False
        if self._waiting:
            self._send_waiting()

    def _send(self, channel: Channel, publish: Publish) -> None:
        if publish.future.done():
            return  # its caller gave up while it waited for the channel
        message = publish.message
        try:
            channel.publish(
                publish.exchange, message.routing_key, publish.properties(channel.next_publish), message.body, publish
            )
        except ArgumentError as error:
            publish.fail(ArgumentError(f"properties and headers of message {message.uuid!r:.100}: {error}"))

    async def _open(self) -> None:
        channel: Channel | None = None
        try:
            channel = await self._open_channel()
            await channel.select_confirms(self, return_header=names.PUBLISH)
        except AmqpError as error:
            if channel is not None:
                channel.let_go()
            if not self._blocked:  # then the broker reads nothing, and answers when it does again
                self._give_up(ConnectionLost(f"expected a channel for publishing: {error}"))
            return
        finally:
            self._opening = None
        self._channel = channel
        self._worked.clear()
        self._send_waiting()

    def block(self, reason: str | None) -> None:
        """The broker takes no messages now; None: it does again. What was not sent yet fails."""
        self._blocked = reason is not None
        while self._blocked and self._waiting:
            publish = self._waiting.popleft()
            self._suspects = 0
            publish.fail(BrokerBlocked(f"the broker takes no messages now: {reason}", uuid=publish.message.uuid))

    async def answered(self) -> None:
        """Wait until the broker has answered everything that was published, or the session has ended."""
        self._emptied = asyncio.Event()
        self._note_answers()
        await self._emptied.wait()

    def _note_answers(self) -> None:
        unanswered = self._channel.state.confirms if self._channel is not None else None
        if self._emptied is not None and not self._waiting and not unanswered:
            self._emptied.set()

    def end(self, error: DispatcherError) -> None:
        """The session has ended."""
        if self._opening is not None:
            self._opening.cancel()
        while self._waiting:
            self._waiting.popleft().fail(error)
        self._suspects = 0
        self._note_answers()

    # --- what the channel tells (ConfirmListener) ------------------------------------------------------------------

    def confirmed(self, waiters: Sequence[Publish]) -> None:
        if self._is_shared or not self._worked:
            self._worked.update([publish.exchange for publish in waiters])
        for publish in waiters:
            future = publish.future
            if not future.done():
                future.set_result(None)
        if self._waiting:
            self._send_waiting()
        if self._emptied is not None:
            self._note_answers()

    def refused(self, waiters: Sequence[Publish]) -> None:
        for publish in waiters:
            message = publish.message
            publish.fail(
                PublishRefused(
                    f"the broker refused a message to exchange {message.exchange!r} with key {message.routing_key!r};"
                    " a queue there may be at its maximum length",
                    uuid=message.uuid,
                )
            )
        if self._waiting:
            self._send_waiting()
        self._note_answers()

    def returned(self, waiter: Publish | None, error: ReplyError) -> None:
        if waiter is None:
            # Nobody can tell whose it was, and the ack that follows would count as accepted.
            self._give_up(ConnectionLost("a message came back that is none of this session's"))
            return
        message = waiter.message
        waiter.fail(
            Unroutable(
                f"no queue is bound to exchange {message.exchange!r} with key {message.routing_key!r}; declare one, or"
                " correct the routing key",
                uuid=message.uuid,
            )
        )

    def lost(self, waiters: Sequence[Publish], error: AmqpError | None) -> None:
        """The channel ended. A refusal answers those it is about; the others go out again."""
        if not isinstance(error, ReplyError) or not error.is_soft:
            self.end(reason := ConnectionLost(f"the connection ended before the broker answered: {error}"))
            for publish in waiters:
                publish.fail(reason)
            return
        largest = largest_body(error)
        if largest is not None:
            self._limits.largest_body = largest
        answers = [_answer(publish, error, largest) for publish in waiters]
        if not any(answers):
            self._suspect(waiters, error)
        for publish, answer in zip(waiters, answers, strict=True):
            # An exchange that was there, and writable, a moment ago may have taken it before it was not any more; not one
            # that was alone, for then it was this one that the broker refused.
            is_sudden = (
                isinstance(error, NotFound | AccessRefused) and publish.exchange in self._worked and len(waiters) > 1
            )
            if answer is not None and not is_sudden:
                publish.fail(answer)
                continue
            publish.uncertain = True
            if any(answers):
                self._waiting.append(publish)
        if self._waiting:
            self._send_waiting()
        self._note_answers()

    def _suspect(self, waiters: Sequence[Publish], error: ReplyError) -> None:
        """The broker closed the channel and said of no publish that it was the cause. One that was alone was."""
        if len(waiters) == 1:
            [alone] = waiters
            alone.tries += 1
            if alone.tries >= MAX_TRIES:
                self._fail_alone(alone, error)
                return
        self._waiting.extendleft(reversed(waiters))
        self._suspects += len(waiters)

    def _fail_alone(self, publish: Publish, error: ReplyError) -> None:
        message = publish.message
        text = (
            f"the broker closed the channel {publish.tries} times at message {message.uuid!r:.100} alone: {error.text}"
        )
        if (error.class_id, error.method_id) == BASIC_PUBLISH:
            publish.uncertain = False  # what the broker cannot read it did not accept before, either
            publish.fail(PublishRefused(text, uuid=message.uuid, final=True))
        else:  # it may have been accepted before
            reason = ConnectionLost(text)
            publish.fail(reason)
            self._give_up(reason)


def _answer(publish: Publish, error: ReplyError, largest: int | None) -> DispatcherError | None:
    """What the refusal that closed the channel says of one publish; None if it is about another."""
    message = publish.message
    # All rungs of the ladder share a channel, so there it matters which of them is missing or forbidden.
    is_about_it = not is_service(publish.exchange) or f"'{publish.exchange}'" in error.text
    if isinstance(error, NotFound) and is_about_it:
        return TopologyMissing(
            f"exchange {publish.exchange!r} does not exist; declare it (declare='create'), or correct its name",
            uuid=message.uuid,
        )
    if isinstance(error, AccessRefused) and is_about_it:
        return PublishRefused(
            f"exchange {publish.exchange!r}: expected the permission to write to it, this user has none; grant it"
            f" ({error.text})",
            uuid=message.uuid,
            final=True,
        )
    if largest is not None and len(message.body) > largest:
        return _too_large(publish, largest)
    return None


def _too_large(publish: Publish, largest: int) -> PublishRefused:
    message = publish.message
    return PublishRefused(
        f"the broker takes messages of at most {largest} bytes, this one has {len(message.body)}; make it smaller, or"
        " raise the broker's max_message_size",
        uuid=message.uuid,
        final=True,
    )
