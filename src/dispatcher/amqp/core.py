"""The connection without I/O: bytes in, events out; commands in, bytes out; time is an argument.

It never reads a clock, opens a socket or waits. What the peer sends wrong ends in a clean close: `ConnectionClosed`
with the reason, after a `connection.close` to the peer. The path of deliveries and confirms is written by hand.
"""

from __future__ import annotations

import enum
from typing import Any

from .bulk import take_confirms, take_deliveries
from .channel_state import ChannelState, ChannelStatus
from .errors import AmqpError, ChannelGone, ChannelsExhausted, PeerLost, ProtocolError, reply_error
from .events import Blocked, ConnectionClosed, ConnectionOpened, Event, Unblocked
from .frames import (
    BODY,
    FRAME_END,
    FRAME_HEAD,
    FRAME_OVERHEAD,
    HEADER,
    HEARTBEAT,
    MAX_FRAME,
    METHOD,
    PROTOCOL_HEADER,
    method_frame,
)
from .handshake import Handshake, HandshakeSettings, Tuned
from .methods import (
    ConnectionBlocked,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionUnblocked,
    Method,
    decode_method,
    encode_method,
)

__all__ = ["Core", "Status"]

_DELIVER = b"\x00\x3c\x00\x3c"
_ACK = b"\x00\x3c\x00\x50"
_BASIC_CLASS = b"\x00\x3c"
_HEADER_START = 12  # class, weight and body size: what stands before the properties

MAX_BODY_BYTES = 128 * 1024 * 1024
"""The largest message any RabbitMQ carries by default (3.x: 128 MiB, from 4.0 on 16 MiB)."""

HEADER_SLACK_BYTES = 64 * 1024
"""How much larger than was agreed a content header may be: RabbitMQ adds notes to what was sent (`x-death`, counts), and
sends the whole in one frame, however large that has become."""

LEAST_BYTES_PER_SECOND = 1024
"""A frame that comes more slowly is none: its size was altered on the way, and it swallows all that follows."""


class Status(enum.Enum):
    """Where a connection is in its life. A closed one may have last words to send, and reads nothing more."""

    HANDSHAKE = 1
    OPEN = 2
    CLOSING = 3
    CLOSED = 4


_CLOSED, _CHANNEL_OPEN = Status.CLOSED, ChannelStatus.OPEN  # looked up once, see `channel_state`


class Core:
    """One connection. `now` is any monotonic clock in seconds, the same in every call."""

    def __init__(self, settings: HandshakeSettings, now: float, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.status = Status.HANDSHAKE
        self.tuned = Tuned(channel_max=0, frame_max=MAX_FRAME, heartbeat_seconds=0)
        self._handshake = Handshake(settings)
        self._max_body_bytes = max_body_bytes
        self._outbox: list[bytes] = [PROTOCOL_HEADER]
        self._rest = bytearray()  # the beginning of a frame that is not whole
        self._needed = 0  # how many bytes of it are worth a look
        self._begun = now  # when the first byte of it came
        self._channels: dict[int, ChannelState] = {}
        self._last_number = 0
        self._last_received = now

    @property
    def server_properties(self) -> dict[str, Any]:
        """What the broker says of itself; empty before it did."""
        return self._handshake.server_properties

    # --- commands --------------------------------------------------------------------------------------------------

    def open_channel(self, waiter: Any) -> ChannelState:
        """Open a channel; `Answered` tells `waiter`. Commands may follow at once."""
        if self.status is not Status.OPEN:
            raise ChannelGone("the connection is not open")
        channel = ChannelState(
            self._free_number(), self._outbox, frame_max=self.tuned.frame_max, max_body_bytes=self._max_body_bytes
        )
        self._channels[channel.number] = channel
        channel.open(waiter)
        return channel

    def _free_number(self) -> int:
        """The next number that no channel has; those just freed come last, so that late frames meet no new channel."""
        for _ in range(self.tuned.channel_max):
            self._last_number = self._last_number % self.tuned.channel_max + 1
            if self._last_number not in self._channels:
                return self._last_number
        raise ChannelsExhausted(
            f"expected at most {self.tuned.channel_max} channels on one connection, asked for one more"
        )

    def close(self) -> None:
        """Ask the broker to end the connection; `ConnectionClosed` follows. Before the handshake is done, at once."""
        if self.status is Status.OPEN:
            for channel in self._channels.values():
                channel.flush_settlements()
            self._send(ConnectionClose(reply_code=200, reply_text="done"))
            self.status = Status.CLOSING
        elif self.status is Status.HANDSHAKE:
            self.status = Status.CLOSED

    def take_outgoing(self) -> bytes:
        """The bytes to send; empty if there are none."""
        if not self._outbox:
            return b""
        data = b"".join(self._outbox)
        self._outbox.clear()
        return data

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Event]:
        """To be called about twice per heartbeat: notices a silent peer (section 4.2.7: two intervals of silence end it).

        Who calls has read everything that had come before. Sending heartbeats is the edge's business: they must go out
        while nothing calls this, too.
        """
        seconds = self.tuned.heartbeat_seconds
        if not seconds or self.status is not Status.OPEN:
            return []
        if now - self._last_received > 2 * seconds:
            return self.lost(f"expected a sign of life within {2 * seconds} s, got none")
        patience = 2 * seconds + self._needed / LEAST_BYTES_PER_SECOND
        if self._rest and now - self._begun > patience:
            return self.lost(
                f"expected the end of a frame of {self._needed} bytes within {patience:.0f} s, got a part of it"
            )
        return []

    def silence(self, now: float) -> float:
        """For how many seconds the peer has said nothing while it owes answers; zero if it owes none."""
        owes = any(channel.is_unanswered for channel in self._channels.values())
        return now - self._last_received if owes else 0.0

    def lost(self, reason: str) -> list[Event]:
        """The socket has ended, or is given up."""
        if self.status is Status.CLOSED:
            return []
        error: AmqpError | None = PeerLost(reason)
        if self.status is Status.CLOSING:
            error = None
        elif self.status is Status.HANDSHAKE:
            error = self._handshake.ended(reason)
        self.status = Status.CLOSED
        return [ConnectionClosed(error)]

    # --- bytes from the broker -------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What `data`, the next bytes of the stream, brings. Raises nothing: a broken peer ends in `ConnectionClosed`."""
        self._last_received = now
        events: list[Event] = []
        if self.status is _CLOSED:
            return events
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:  # no look at each byte of a large frame that comes byte by byte
                return events
            data = bytes(self._rest)
        try:
            self._keep(data, self._slice(data, events), now)
        except ProtocolError as error:
            self._refuse(error, events)
        except AmqpError as error:  # the handshake's: it is no use to say more to this peer
            self.status = Status.CLOSED
            events.append(ConnectionClosed(error))
        return events

    def _keep(self, data: bytes, offset: int, now: float) -> None:
        """Keep what is left of `data` from `offset` on until its frame is whole."""
        if offset or not self._rest:
            self._begun = now  # else it is still the frame that had begun before
        self._rest = bytearray(data[offset:])
        self._needed = FRAME_OVERHEAD
        if len(self._rest) >= FRAME_HEAD.size:
            kind, _, size = FRAME_HEAD.unpack_from(self._rest)
            self._check_size(kind, size)
            self._needed += size

    def _check_size(self, kind: int, size: int) -> None:
        """Refuse a frame that is too large, before anything is kept of it."""
        largest = self.tuned.frame_max - FRAME_OVERHEAD
        if size > largest and (kind != HEADER or size > largest + HEADER_SLACK_BYTES):
            raise ProtocolError(501, f"expected a frame of at most {largest} bytes, got one of {size}")

    def _refuse(self, error: ProtocolError, events: list[Event]) -> None:
        """Say goodbye to a peer that broke the protocol, without waiting for its answer."""
        if self.status is Status.OPEN:
            text = str(error).encode("ascii", "replace")[:255].decode("ascii")
            self._send(ConnectionClose(reply_code=error.code, reply_text=text))
        self.status = Status.CLOSED
        self._rest.clear()
        events.append(ConnectionClosed(error))

    def _slice(self, data: bytes, events: list[Event]) -> int:
        """Take every whole frame out of `data`, and return where the first that is not whole begins."""
        offset, end = 0, len(data)
        largest = self.tuned.frame_max - FRAME_OVERHEAD
        channels = self._channels
        if self.status is Status.HANDSHAKE:
            self._handshake.check_first_bytes(data)
        while end - offset >= FRAME_OVERHEAD:
            kind, number, size = FRAME_HEAD.unpack_from(data, offset)
            if size > largest:
                self._check_size(kind, size)
            start = offset + 7
            stop = start + size
            if stop >= end:
                break
            if data[stop] != FRAME_END:
                raise ProtocolError(501, f"expected the end of a frame, got the byte {data[stop]:#04x}")
            offset = stop + 1
            if kind == METHOD:
                index = data[start : start + 4]
                channel = channels.get(number)
                if channel is None:
                    self._no_channel(number, data[start:stop], events)
                elif index == _DELIVER:
                    if channel.status is _CHANNEL_OPEN:
                        offset = take_deliveries(channel, data, start - 7, stop, largest, events)
                elif index == _ACK and size == 13 and channel.status is _CHANNEL_OPEN:
                    offset = take_confirms(channel, data, start - 7, events)
                else:
                    channel.method_arrived(data[start:stop], events)
                    if channel.status is ChannelStatus.CLOSED:
                        del channels[number]
            elif kind == HEARTBEAT:
                if number or size:
                    raise ProtocolError(501, "expected an empty heartbeat on channel 0")
            else:
                self._content(kind, number, data[start:stop], events)
            if self.status is _CLOSED:
                return end
        return offset

    def _content(self, kind: int, number: int, payload: bytes, events: list[Event]) -> None:
        channel = self._channels.get(number)
        if kind not in (HEADER, BODY) or channel is None:
            raise ProtocolError(501, f"expected a frame of a type and channel in use, got type {kind} on {number}")
        if kind == BODY:
            channel.body_arrived(payload, events)
            return
        if len(payload) < _HEADER_START + 2 or payload[:2] != _BASIC_CLASS:
            raise ProtocolError(502, "expected a whole content header of the class basic, got something else")
        channel.header_arrived(int.from_bytes(payload[4:12], "big"), payload[_HEADER_START:], events)

    def _no_channel(self, number: int, payload: bytes, events: list[Event]) -> None:
        """A method on channel 0, or on a channel that is none."""
        if number:
            raise ProtocolError(504, f"expected a channel that is open, got {number}")
        method = decode_method(payload)
        if self.status is Status.HANDSHAKE and not isinstance(method, ConnectionClose):
            answer = self._handshake.step(method)
            if isinstance(answer, Tuned):
                self.tuned = answer
                self.status = Status.OPEN
                events.append(ConnectionOpened())
            else:
                for one in answer:
                    self._send(one)
            return
        match method:
            case ConnectionClose():
                self._send(ConnectionCloseOk())
                error = reply_error(method.reply_code, method.reply_text, method.class_id, method.method_id)
                events.append(ConnectionClosed(None if self.status is Status.CLOSING else error))
                self.status = Status.CLOSED
            case ConnectionCloseOk() if self.status is Status.CLOSING:
                self.status = Status.CLOSED
                events.append(ConnectionClosed(None))
            case ConnectionBlocked(reason=reason):
                events.append(Blocked(reason))
            case ConnectionUnblocked():
                events.append(Unblocked())
            case _:
                raise ProtocolError(505, f"expected a method of an open connection, got {type(method).__name__}")

    def _send(self, method: Method) -> None:
        self._outbox.append(method_frame(0, encode_method(method)))
