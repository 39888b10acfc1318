"""A connection on the event loop: a `Core`, a `Stream`, and between them one write per turn of the loop.

One host, one attempt: who has several hosts, or wants to try again, decides that above. Nothing here knows what a task is.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

from .channel import Channel
from .channel_state import ChannelState
from .connect import open_stream
from .core import Core, Status
from .errors import AmqpError, ChannelGone, HandshakeError
from .events import (
    Answered,
    Blocked,
    ChannelClosed,
    Confirmed,
    ConnectionClosed,
    ConnectionOpened,
    ConsumerCancelled,
    Content,
    Event,
    FlowChanged,
    Returned,
    Unblocked,
)
from .frames import HEARTBEAT_FRAME
from .handshake import HandshakeSettings
from .stream import Stream
from .url import AmqpUrl

__all__ = ["Connection", "open_connection"]

VERSION = "0.1.0"
"""Dispatcher's own; a test holds it equal to `dispatcher.__version__`, which nothing below the face may import."""

HIGH_WATER_BYTES = 256 * 1024
"""How much may wait for the kernel before no more publishes should be given to it: what waits here cannot be taken back, and
the next one comes behind it."""

CLOSE_SECONDS = 5.0
"""How long a close waits for the broker's answer. While an alarm blocks the connection there is none."""


async def open_connection(
    url: AmqpUrl,
    *,
    host: tuple[str, int],
    context: ssl.SSLContext | None,
    name: str,
    on_blocked: Callable[[str], None],
    on_unblocked: Callable[[], None],
) -> Connection:
    """Connect to `host`, one of the URL's, within `url.connect_timeout_seconds`. `context` None is plain TCP.

    Raises `PeerLost` and `HandshakeError` where another try or host may help, the reply's error class for a refused login
    or virtual host (403, 530), and `ConfigError` for a TLS verification that failed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + url.connect_timeout_seconds
    stream = await open_stream(
        host[0],
        host[1],
        context=context,
        server_hostname=url.server_name_indication or host[0] if context is not None else None,
        timeout_seconds=url.connect_timeout_seconds,
    )
    settings = HandshakeSettings(
        mechanism=url.mechanism,
        response=url.login.sasl_response(url.mechanism),
        vhost=url.vhost,
        heartbeat_seconds=url.heartbeat_seconds,
        client_properties=_client_properties(name),
    )
    connection = Connection(stream, settings, on_blocked, on_unblocked)
    try:
        async with asyncio.timeout_at(deadline):
            await connection.opened
    except TimeoutError:
        connection.abort()
        raise HandshakeError(
            f"{stream.peer}: expected the AMQP handshake within {url.connect_timeout_seconds:g} s; is it a RabbitMQ?"
        ) from None
    except BaseException:
        connection.abort()
        if stream.failure is not None:  # with TLS 1.3 a broker refuses our certificate only now
            raise stream.failure from None
        raise
    return connection


def _client_properties(name: str) -> dict[str, str]:
    """What the broker's tools show of us; nothing secret."""
    return {
        "product": "Dispatcher",
        "version": VERSION,
        "platform": f"{platform.python_implementation()} {platform.python_version()}, {sys.platform}",
        "connection_name": f"{name}@{socket.gethostname()}:{os.getpid()}",
    }


class Connection:
    """Made by `open_connection`. `closed` resolves with None after `close()`, else with the `AmqpError` that ended it."""

    def __init__(
        self,
        stream: Stream,
        settings: HandshakeSettings,
        on_blocked: Callable[[str], None],
        on_unblocked: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._core = Core(settings, self._loop.time())
        self._on_blocked = on_blocked
        self._on_unblocked = on_unblocked
        self._channels: dict[int, Channel] = {}
        self._settled: list[ChannelState] = []
        self._flushing = False
        self._unflushed = 0  # bytes of publishes that wait for the end of this turn of the loop
        self._waiting_for_room: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        stream.on_sent = self._look_for_room
        stream.start(self._received, self._lost)
        self._flush()

    def __repr__(self) -> str:
        return f"<Connection to {self.peer}, {self._core.status.name.lower()}, {len(self._channels)} channels>"

    @property
    def peer(self) -> str:
        """The broker's address, as `host:port`."""
        return self._stream.peer

    @property
    def tls(self) -> tuple[str, dict[str, Any]] | None:
        """The version of TLS and the broker's certificate (`SSLSocket.getpeercert`: empty if unverified); None without TLS."""
        return self._stream.tls

    @property
    def server_properties(self) -> dict[str, Any]:
        """What the broker says of itself: `product`, `version`, `capabilities`, …"""
        return self._core.server_properties

    @property
    def heartbeat_seconds(self) -> int:
        """The interval that was agreed on; zero: none."""
        return self._core.tuned.heartbeat_seconds

    @property
    def is_open(self) -> bool:
        return self._core.status is Status.OPEN

    @property
    def silent_seconds(self) -> float:
        """For how long the broker has said nothing while it owes answers; zero if it owes none."""
        return self._core.silence(self._loop.time())

    async def open_channel(self) -> Channel:
        """Open a channel. Raises the `AmqpError` that ended the connection, or `ChannelGone`."""
        asked: asyncio.Future[Answered] = self._loop.create_future()
        if not self.is_open:
            raise self._reason()
        channel = Channel(self._core.open_channel(asked), self)
        self._channels[channel.state.number] = channel
        self.wake()
        try:
            await channel.answer(asked)
        except BaseException:
            channel.let_go()  # nobody has it who could close it
            raise
        return channel

    async def close(self) -> None:
        """Send what is to be sent, say goodbye, and end; bounded to 5 s, twice is fine."""
        if not self.closed.done():
            if self.is_open:
                self._core.close()
                self._flush()
            await asyncio.wait([self.closed], timeout=CLOSE_SECONDS)
        self.abort()

    def abort(self) -> None:
        """End it at once, without a word."""
        self._dispatch(self._core.lost("the connection was given up"))
        self._end_io()

    def _reason(self) -> AmqpError:
        if self.closed.done() and isinstance(error := self.closed.exception(), AmqpError):
            return error
        return ChannelGone("the connection is closed")

    # --- out -------------------------------------------------------------------------------------------------------

    def note_published(self, size: int) -> None:
        """A publish of that many bytes was given to the core."""
        self._unflushed += size
        if not self._flushing:
            self.wake()

    @property
    def has_room(self) -> bool:
        """Whether the link keeps up with what it is given."""
        return self._unflushed + self._stream.unsent < HIGH_WATER_BYTES and not self._stream.is_behind

    def when_there_is_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the link has caught up; never if the connection ends before."""
        self._waiting_for_room.append(callback)

    def _look_for_room(self) -> None:
        if self._waiting_for_room and self.has_room:
            waiting, self._waiting_for_room = self._waiting_for_room, []
            for callback in waiting:
                callback()

    def wake(self) -> None:
        """Have what is to be sent sent at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def note_settled(self, channel: ChannelState) -> None:
        """The channel has something to tell the broker of what was settled."""
        self._settled.append(channel)
        self.wake()

    def _flush(self) -> None:
        self._flushing = False
        if self._settled:
            for channel in self._settled:
                channel.flush_settlements()
            self._settled.clear()
        data = self._core.take_outgoing()
        self._unflushed = 0
        if data:
            self._stream.send(data)
        if self._waiting_for_room:
            self._look_for_room()

    # --- in --------------------------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        self._dispatch(self._core.receive(data, self._loop.time()))
        if not self._flushing:  # what the core itself has to say: an answer to the broker
            self._flush()

    def _lost(self, reason: str) -> None:
        self._dispatch(self._core.lost(reason))

    def _tick(self) -> None:
        """Twice per heartbeat. Everything that came while the loop was busy is read before the peer is judged."""
        self._stream.read_now()
        self._dispatch(self._core.tick(self._loop.time()))
        self._set_timer()

    def _set_timer(self) -> None:
        if self.is_open and self.heartbeat_seconds:
            self._timer = self._loop.call_later(self.heartbeat_seconds / 2, self._tick)

    def _dispatch(self, events: list[Event]) -> None:
        channels = self._channels  # those of now: who hears of one event may end the connection before the next
        for event in events:
            if type(event) is Content:
                channels[event.channel].delivered(event)
            elif type(event) is Confirmed:
                channels[event.channel].answered_publishes(event)
            else:
                self._happened(event, channels)

    def _happened(self, event: Event, channels: dict[int, Channel]) -> None:
        match event:
            case Answered(waiter=asked):
                if asked is not None and not asked.done():
                    asked.set_result(event)
            case Returned():
                channels[event.channel].returned(event)
            case ConsumerCancelled():
                channels[event.channel].cancelled(event)
            case FlowChanged():
                channels[event.channel].flow_changed(event)
            case ChannelClosed():
                channels.pop(event.channel).ended(event)
            case ConnectionOpened():
                self._opened()
            case Blocked(reason=reason):
                self._on_blocked(reason)
            case Unblocked():
                self._on_unblocked()
            case ConnectionClosed(error=error):
                self._closed(error)

    def _opened(self) -> None:
        if self.heartbeat_seconds:
            self._stream.keep_alive(HEARTBEAT_FRAME, self.heartbeat_seconds / 2)
            self._set_timer()
        if not self.opened.done():
            self.opened.set_result(None)

    def _closed(self, error: AmqpError | None) -> None:
        if self.closed.done():
            return
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error)
            self.closed.exception()  # read: nobody need await it
        if not self.opened.done():
            self.opened.set_exception(self._reason())
            self.opened.exception()
        self._flush()  # the last words: a close, or the answer to one
        ended, self._channels = self._channels, {}
        for number, channel in list(ended.items()):
            calls, publishes = channel.state.abandon()
            channel.ended(ChannelClosed(number, error or ChannelGone("the connection was closed"), calls, publishes))
        self._end_io()

    def _end_io(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stream.close()
