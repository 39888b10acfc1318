"""A message there and back: confirms, returns, latency, and the broker's clock. It leaves nothing behind.

What it makes has a random name, is exclusive to the connection or deleted with its last binding, and is deleted besides.
No message of it can come to a queue of anybody else: its keys are random.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from secrets import token_hex

from ...amqp.channel import Channel
from ...amqp.errors import AccessRefused, AmqpError, NotFound, ReplyError
from ...amqp.events import Content
from ...amqp.methods import ExchangeDeclare, ExchangeDelete, Method, QueueBind, QueueDeclare, QueueDelete
from ..failures import EXIT_UNAVAILABLE
from .findings import Finding, Tell, note, ok, warning, wrong
from .link import Link

__all__ = ["check_roundtrip", "clock_finding"]

PREFIX = "dispatcher.doctor."
GETS = 200
GET_SECONDS = 0.02
SKEW_SECONDS = 2.0
"""Up to here clocks are taken for equal: the broker tells whole seconds."""


async def check_roundtrip(link: Link, exchange: str | None, *, bind: bool, tell: Tell) -> None:
    """Publish to `exchange`, or to one made for it (None). `bind`: whether a queue of ours may be bound there meanwhile."""
    name = PREFIX + token_hex(8)
    try:
        made = await _did(
            link,
            ExchangeDeclare(exchange=name, auto_delete=True),
            QueueDeclare(queue=name, exclusive=True),
            QueueBind(queue=name, exchange=name, routing_key=name),
        )
        if exchange is not None or made:
            tell(await _unroutable(link, exchange or name))
        if not made:
            tell(note("round trip", "not tried: this user may not create a queue for it"))
            return
        bound = exchange is not None and bind and await _did(link, _bind(name, exchange))
        tell(await _there_and_back(link, exchange if exchange is not None and bound else name, name))
        tell(await _clock(link, name))
    finally:
        await _remove(link, name)


def _bind(queue: str, exchange: str) -> Method:
    return QueueBind(queue=queue, exchange=exchange, routing_key=queue)


async def _did(link: Link, *methods: Method) -> bool:
    """Do all; False where this user may not do one of them."""
    refusals = [answer for answer in await link.ask(methods) if isinstance(answer, ReplyError)]
    for refusal in refusals:
        # 404 follows from a 403: what could not be made is not there.
        if not isinstance(refusal, AccessRefused | NotFound):
            raise refusal
    return not refusals


async def _remove(link: Link, name: str) -> None:
    methods: Sequence[Method] = (QueueDelete(queue=name), QueueDelete(queue=_late(name)), ExchangeDelete(exchange=name))
    try:
        await link.ask(methods)
    except AmqpError:
        pass  # the connection is gone, and all of it with that


def _late(name: str) -> str:
    return f"{name}.late"


async def _unroutable(link: Link, exchange: str) -> Finding:
    check = "confirms"
    published = await link.publish(exchange, token_hex(8))
    milliseconds = published.seconds * 1000
    match published.outcome:
        case "returned":
            return ok(
                check, f"a message that no queue takes came back from exchange {exchange!r} in {milliseconds:.1f} ms"
            )
        case "confirmed":
            return warning(
                check,
                f"exchange {exchange!r} took a message whose key no queue is bound with: a slip in a routing key will not"
                " be noticed",
                "look for an alternate exchange of it (an argument, or a policy)",
            )
        case _:
            return wrong(
                check, f"exchange {exchange!r} refused a message", "see the broker's log", exit_code=EXIT_UNAVAILABLE
            )


async def _there_and_back(link: Link, exchange: str, queue: str) -> Finding:
    check = "round trip"
    body = token_hex(16).encode()
    channel = await link.open_channel()
    try:
        began = time.monotonic()
        published = await link.publish(exchange, queue, body=body)
        content = await _take(link, channel, queue) if published.outcome == "confirmed" else None
        back = time.monotonic() - began
    finally:
        await channel.close()
    if content is None or content.body != body:
        text = f"a message to exchange {exchange!r} was {published.outcome}, and did not come back"
        return wrong(check, text, "see the broker's log", exit_code=EXIT_UNAVAILABLE)
    text = f"by exchange {exchange!r} and a queue for the occasion: confirmed in {published.seconds * 1000:.1f} ms, back in"
    return ok(check, f"{text} {back * 1000:.1f} ms")


async def _take(link: Link, channel: Channel, queue: str) -> Content | None:
    """The message that is on its way to `queue`; None if it does not come."""
    for _ in range(GETS):
        if content := await link.get(channel, queue):
            return content
        await asyncio.sleep(GET_SECONDS)
    return None


async def _clock(link: Link, name: str) -> Finding:
    """The broker notes when a message expired: the one time of its own that it tells."""
    late = _late(name)
    arguments = {"x-message-ttl": 0, "x-dead-letter-exchange": name, "x-dead-letter-routing-key": name}
    made = await _did(
        link,
        QueueDeclare(queue=late, exclusive=True, arguments=arguments),
        QueueBind(queue=late, exchange=name, routing_key=late),
    )
    if not made:
        return note("clock", "cannot be told: this user may not create a queue with dead letters")
    channel = await link.open_channel()
    try:
        began = time.time()
        await link.publish(name, late)
        content = await _take(link, channel, name)
    finally:
        await channel.close()
    deaths = content.properties.headers.get("x-death") if content is not None else None
    told = deaths[0].get("time") if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else None
    return clock_finding(told, began, time.time())


def clock_finding(told: object, began: float, ended: float) -> Finding:
    """What it means that the broker told `told`, a moment cut to whole seconds, between two moments here (Unix seconds)."""
    check = "clock"
    if not isinstance(told, datetime):
        return note(check, "cannot be told: the broker did not say when a message expired")
    second = told.timestamp()
    ahead, behind = second - ended, began - (second + 1)
    skew = max(ahead, behind)
    if skew <= SKEW_SECONDS:
        return ok(check, "the broker's is the same as here, to a second or two")
    return warning(
        check,
        f"the broker's is {skew:.0f} s {'ahead of' if ahead > behind else 'behind'} the one here",
        "let all machines ask a time server: eta and expiry compare the sender's clock with the worker's",
    )
