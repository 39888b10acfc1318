"""Reads RabbitMQ's refusals to declare what exists otherwise: the one place where it says what is there.

    inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received '77' but current is '1000'
    inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but current is the value '9' of type 'signedint'

Seen alike from 3.10.8 to 4.3.6. Pure; what it cannot read is left to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ...amqp.methods import ExchangeDeclare, QueueDeclare
from ..base import TopologyDiffers
from ..differences import differences

__all__ = ["Declaration", "Found", "differences_of", "read_refusal"]

Declaration = ExchangeDeclare | QueueDeclare

_REFUSAL = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?:queue|exchange) '.*' in vhost '.*': "
    r"received (?P<received>.+) but current is (?P<current>.+)",
    re.DOTALL,
)
_VALUES = (
    re.compile(r"the value '(?P<text>.*)' of type '(?P<kind>\w+)'", re.DOTALL),
    re.compile(r"'(?P<text>.*)'(?P<kind>)", re.DOTALL),
)
_INTEGERS = frozenset(
    {"byte", "signedint", "unsignedbyte", "unsignedint", "unsignedshort", "short", "long", "timestamp"}
)
_FLAGS = frozenset({"durable", "exclusive", "auto_delete"})
_OURS = {
    "x-delivery-limit": "delivery_limit",
    "x-max-length": "max_length",
    "x-max-priority": "max_priority",
    "x-queue-type": "type",
}
"""The arguments that a `Queue` has a word of its own for."""


class Found(msgspec.Struct, frozen=True):
    """One property that differs, None where it is not set. `kind`: the AMQP type of `current`, None if it was not told."""

    name: str
    received: str | None
    current: str | None
    kind: str | None

    def applied_to(self, declared: Declaration) -> Declaration | None:
        """`declared` with the property as it is; None where that cannot be written down."""
        if self.name in _FLAGS:
            return msgspec.structs.replace(declared, **{self.name: self.current == "true"})
        arguments = dict(declared.arguments)
        if self.current is None:
            arguments.pop(self.name, None)
        elif self.kind in _INTEGERS or (self.kind is None and type(arguments.get(self.name)) is int):
            if not self.current.lstrip("-").isdecimal():
                return None
            arguments[self.name] = int(self.current)
        elif self.kind in (None, "longstr"):
            arguments[self.name] = self.current
        else:
            return None
        return msgspec.structs.replace(declared, arguments=arguments)


def read_refusal(text: str) -> Found | None:
    """What a 406 tells; None if it is about something else, or was cut off by the 255 bytes that AMQP gives it."""
    refusal = _REFUSAL.search(text)
    if refusal is None:
        return None
    received, current = _value(refusal["received"]), _value(refusal["current"])
    if received is None or current is None:
        return None
    return Found(refusal["name"], received[0], current[0], current[1])


def _value(text: str) -> tuple[str | None, str | None] | None:
    """A value and its type, (None, None) for "none", None for what is neither."""
    if text == "none":
        return None, None
    for pattern in _VALUES:
        if value := pattern.fullmatch(text):
            return value["text"], value["kind"] or None
    return None


def differences_of(what: str, found: Sequence[Found]) -> list[TopologyDiffers]:
    """The same as differences. Of a queue of another type that alone is told: the other arguments come with the type."""
    told = [one for one in found if one.name == "x-queue-type"] or found
    return differences(
        what,
        {_OURS.get(one.name, one.name): _plain(one.name, one.received) for one in told},
        {_OURS.get(one.name, one.name): _plain(one.name, one.current) for one in told},
    )


def _plain(name: str, text: str | None) -> object:
    if name == "x-queue-type":
        return text or "classic"
    if name in _FLAGS:
        return text == "true"
    return int(text) if text is not None and text.isdecimal() else text
