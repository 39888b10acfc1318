"""What was read together with the end of a connection: it is heard, and counts for nothing that it cannot count for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dispatcher.amqp.channel import Channel
from dispatcher.amqp.channel_state import ChannelState
from dispatcher.amqp.connection import Connection
from dispatcher.amqp.errors import AmqpError, PeerLost, ReplyError
from dispatcher.amqp.events import ChannelClosed, Confirmed, Event, Returned


class Heard:
    """A `ConfirmListener` that ends the connection at the first message that comes back."""

    def __init__(self, connection: Any, channel: Channel) -> None:
        self.heard: list[tuple[str, Any]] = []
        self._connection = connection
        self._channel = channel

    def confirmed(self, waiters: Sequence[Any]) -> None:
        self.heard.append(("confirmed", list(waiters)))

    def refused(self, waiters: Sequence[Any]) -> None:
        self.heard.append(("refused", list(waiters)))

    def returned(self, waiter: Any, error: ReplyError) -> None:
        self._connection._channels = {}
        self._channel.ended(ChannelClosed(1, PeerLost("given up"), (), ("unanswered",)))

    def lost(self, waiters: Sequence[Any], error: AmqpError | None) -> None:
        self.heard.append(("lost", list(waiters)))


async def test_confirms_after_the_end_are_lost() -> None:
    """Who gave the connection up did so because no confirm can be trusted any more; nobody waits for ever either."""
    connection = Connection.__new__(Connection)
    channel = Channel(ChannelState(1, [], frame_max=4096, max_body_bytes=1), connection)
    connection._channels = {1: channel}
    channel._listener = listener = Heard(connection, channel)
    events: list[Event] = [
        Confirmed(1, ["before"], True),
        Returned(1, None, 312, "NO_ROUTE", "ex", "k"),
        Confirmed(1, ["after"], True),
        Confirmed(1, ["after too"], False),
    ]
    connection._dispatch(events)
    assert listener.heard == [
        ("confirmed", ["before"]),
        ("lost", ["unanswered"]),
        ("lost", ["after"]),
        ("lost", ["after too"]),
    ]
