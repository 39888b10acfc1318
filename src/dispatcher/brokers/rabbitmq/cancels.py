"""The cancels on RabbitMQ: a stream, which keeps them for whoever comes later, and is read from its start by who runs tasks.

A stream and no queue, because everybody reads all of it and nobody takes anything away (rabbitmq.com/docs/streams). It
confirms what a majority of its replicas has, and leaves the writing to disk to the system.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

from ...amqp.channel import Channel
from ...amqp.errors import AmqpError
from ...amqp.events import Content
from ...errors import BrokerBlocked, ConnectionLost, TopologyMismatch, TopologyMissing, Unroutable
from ...model import headers as names
from ...model.topology import CANCEL_EXCHANGE
from ..base import CANCEL_DAYS, Cancel, Message
from .delivery import raw_headers
from .specs import BindingSpec, ExchangeSpec, Plan, QueueSpec
from .translate import is_down, refusal

__all__ = ["RabbitCancels", "cancel_stream"]

KEY = "cancel"
SEGMENT_BYTES = 1_000_000
"""A stream forgets whole segments, once they are full and all in them is too old: small ones, since a cancel is small."""

PREFETCH = 1000
SILENCE_SECONDS = 10.0
"""How long nothing may come of what is still to be read."""

DOWN_SECONDS = 10.0
"""How long the stream may be down before tasks run without knowing what was cancelled."""

LOOK_AGAIN_SECONDS = 0.2
QUIET_SECONDS = 0.5
"""While an alarm lets no mark through, what has been quiet for so long was read to its end."""

Tell = Callable[[Cancel], None]


def cancel_stream() -> Plan:
    """The exchange that takes cancels, and the stream that keeps them."""
    arguments: dict[str, str | int] = {
        "x-queue-type": "stream",
        "x-max-age": f"{CANCEL_DAYS}D",
        "x-stream-max-segment-size-bytes": SEGMENT_BYTES,
    }
    return Plan(
        (ExchangeSpec(CANCEL_EXCHANGE, "direct"),),
        (QueueSpec(CANCEL_EXCHANGE, arguments),),
        (BindingSpec(CANCEL_EXCHANGE, CANCEL_EXCHANGE, KEY),),
    )


class RabbitCancels:
    """See `brokers.base.Cancels`. `publish` is the session's own."""

    def __init__(
        self, publish: Callable[[Message], asyncio.Future[None]], open_channel: Callable[[], Awaitable[Channel]]
    ) -> None:
        self._publish = publish
        self._open_channel = open_channel

    async def add(self, cancel: Cancel) -> None:
        headers = {names.CANCEL_EXCHANGE: cancel.exchange, names.CANCELLED_AT: cancel.cancelled_at_ms}
        try:
            await self._publish(Message(CANCEL_EXCHANGE, KEY, b"", cancel.uuid, headers))
        except Unroutable as error:
            raise TopologyMissing(
                f"stream {CANCEL_EXCHANGE!r}: expected it to keep the cancel, there is none; have it declared once with"
                " declare='create', by a user who may",
                uuid=cancel.uuid,
            ) from error

    async def watch(self, on_cancel: Tell) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + DOWN_SECONDS
        while True:
            try:
                return await self._watch(on_cancel)
            except AmqpError as error:
                if not is_down(error) or loop.time() > patient_until:
                    raise refusal(error, f"reading stream {CANCEL_EXCHANGE!r}", "to read it") from error
            await asyncio.sleep(LOOK_AGAIN_SECONDS)  # a broker that has just started: its streams come last

    async def _watch(self, on_cancel: Tell) -> asyncio.Future[None]:
        channel = await self._open_channel()
        reader = _Reader(channel, on_cancel)
        try:
            await reader.start()
            await self._read_to_end(reader)
        except BaseException:
            channel.let_go()
            raise
        return reader.ended

    async def _read_to_end(self, reader: _Reader) -> None:
        """Return once all that was recorded before was told: when a mark comes back that was put at the end."""
        mark = Message(CANCEL_EXCHANGE, KEY, b"", "", {names.CANCEL_MARK: reader.mark})
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._publish(mark)
        except BrokerBlocked:
            await reader.quiet(QUIET_SECONDS)
        except Unroutable as error:
            raise TopologyMismatch(f"stream {CANCEL_EXCHANGE!r} is not bound to its exchange") from error
        except TimeoutError:
            raise ConnectionLost(f"expected the broker to confirm within {SILENCE_SECONDS:.0f} s") from None
        else:
            await reader.wait_mark()


class _Reader:
    """Reads the stream from its start on a channel of its own. `ended` resolves when nothing more will come."""

    def __init__(self, channel: Channel, on_cancel: Tell) -> None:
        self._channel = channel
        self._on_cancel = on_cancel
        self._loop = asyncio.get_running_loop()
        self._seen_mark: asyncio.Future[None] = self._loop.create_future()
        self._last_at = self._loop.time()
        self.mark = uuid4().hex
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def start(self) -> None:
        await self._channel.consume(
            CANCEL_EXCHANGE,
            prefetch=PREFETCH,
            on_delivery=self._read,
            on_cancel=self._end,
            arguments={"x-stream-offset": "first"},
        )
        self._channel.closed.add_done_callback(self._end)

    async def wait_mark(self) -> None:
        while not (self._seen_mark.done() or self.ended.done()):
            left = self._last_at + SILENCE_SECONDS - self._loop.time()
            if left <= 0:
                raise ConnectionLost(f"stream {CANCEL_EXCHANGE!r}: nothing came for {SILENCE_SECONDS:.0f} s")
            await asyncio.wait([self._seen_mark, self.ended], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not self._seen_mark.done():
            raise ConnectionLost(f"the broker ended the reading of stream {CANCEL_EXCHANGE!r}")

    async def quiet(self, seconds: float) -> None:
        """Wait until nothing has come for so long."""
        quiet_at = self._last_at + seconds
        while quiet_at > self._loop.time() and not self.ended.done():
            await asyncio.wait([self.ended], timeout=quiet_at - self._loop.time())
            quiet_at = self._last_at + seconds

    def _read(self, content: Content) -> None:
        self._last_at = self._loop.time()
        self._channel.ack(content.delivery_tag)
        headers, uuid = raw_headers(content.properties), content.properties.message_id
        exchange, at_ms = headers.get(names.CANCEL_EXCHANGE), headers.get(names.CANCELLED_AT)
        if uuid and isinstance(exchange, str) and type(at_ms) is int:
            self._on_cancel(Cancel(exchange, uuid, at_ms))
        elif headers.get(names.CANCEL_MARK) == self.mark and not self._seen_mark.done():
            self._seen_mark.set_result(None)

    def _end(self, *_: object) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
            self._channel.let_go()
