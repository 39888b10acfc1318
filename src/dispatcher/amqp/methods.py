"""The methods of AMQP 0-9-1 and RabbitMQ's extensions of it as data, and as the payload of a method frame.

Names and fields are those of the specification (rabbitmq.com/amqp-0-9-1-reference), where their meaning is told;
reserved fields are left out, long strings are bytes, and every field has a default. `layout` gives the fields' kinds as
`Layout` reads them. Methods that we neither send nor take are missing. Nothing here knows what a channel is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .connection_methods import (
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelFlowOk,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionBlocked,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionSecure,
    ConnectionSecureOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    ConnectionUnblocked,
    ConnectionUpdateSecret,
    ConnectionUpdateSecretOk,
    Method,
)
from .errors import ProtocolError
from .layout import Layout

__all__ = [
    "BasicAck",
    "BasicCancel",
    "BasicCancelOk",
    "BasicConsume",
    "BasicConsumeOk",
    "BasicDeliver",
    "BasicGet",
    "BasicGetEmpty",
    "BasicGetOk",
    "BasicNack",
    "BasicPublish",
    "BasicQos",
    "BasicQosOk",
    "BasicReject",
    "BasicReturn",
    "ChannelClose",
    "ChannelCloseOk",
    "ChannelFlow",
    "ChannelFlowOk",
    "ChannelOpen",
    "ChannelOpenOk",
    "ConfirmSelect",
    "ConfirmSelectOk",
    "ConnectionBlocked",
    "ConnectionClose",
    "ConnectionCloseOk",
    "ConnectionOpen",
    "ConnectionOpenOk",
    "ConnectionSecure",
    "ConnectionSecureOk",
    "ConnectionStart",
    "ConnectionStartOk",
    "ConnectionTune",
    "ConnectionTuneOk",
    "ConnectionUnblocked",
    "ConnectionUpdateSecret",
    "ConnectionUpdateSecretOk",
    "ExchangeBind",
    "ExchangeBindOk",
    "ExchangeDeclare",
    "ExchangeDeclareOk",
    "ExchangeDelete",
    "ExchangeDeleteOk",
    "ExchangeUnbind",
    "ExchangeUnbindOk",
    "Method",
    "QueueBind",
    "QueueBindOk",
    "QueueDeclare",
    "QueueDeclareOk",
    "QueueDelete",
    "QueueDeleteOk",
    "QueuePurge",
    "QueuePurgeOk",
    "QueueUnbind",
    "QueueUnbindOk",
    "decode_method",
    "encode_method",
]

NOT_IMPLEMENTED = 540


# --- exchange ---------------------------------------------------------------------------------------------------------


class ExchangeDeclare(Method, frozen=True):
    index, layout = (40, 10), "(short) shortstr shortstr bit bit bit bit bit table"
    exchange: str = ""
    type: str = "direct"
    passive: bool = False
    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    no_wait: bool = False
    arguments: Mapping[str, Any] = {}


class ExchangeDeclareOk(Method, frozen=True):
    index = (40, 11)


class ExchangeDelete(Method, frozen=True):
    index, layout = (40, 20), "(short) shortstr bit bit"
    exchange: str = ""
    if_unused: bool = False
    no_wait: bool = False


class ExchangeDeleteOk(Method, frozen=True):
    index = (40, 21)


class ExchangeBind(Method, frozen=True):
    index, layout = (40, 30), "(short) shortstr shortstr shortstr bit table"
    destination: str = ""
    source: str = ""
    routing_key: str = ""
    no_wait: bool = False
    arguments: Mapping[str, Any] = {}


class ExchangeBindOk(Method, frozen=True):
    index = (40, 31)


class ExchangeUnbind(Method, frozen=True):
    index, layout = (40, 40), "(short) shortstr shortstr shortstr bit table"
    destination: str = ""
    source: str = ""
    routing_key: str = ""
    no_wait: bool = False
    arguments: Mapping[str, Any] = {}


class ExchangeUnbindOk(Method, frozen=True):
    index = (40, 51)  # not 41: RabbitMQ's definition has it so


# --- queue ------------------------------------------------------------------------------------------------------------


class QueueDeclare(Method, frozen=True):
    index, layout = (50, 10), "(short) shortstr bit bit bit bit bit table"
    queue: str = ""
    passive: bool = False
    durable: bool = False
    exclusive: bool = False
    auto_delete: bool = False
    no_wait: bool = False
    arguments: Mapping[str, Any] = {}


class QueueDeclareOk(Method, frozen=True):
    index, layout = (50, 11), "shortstr long long"
    queue: str = ""
    message_count: int = 0
    consumer_count: int = 0


class QueueBind(Method, frozen=True):
    index, layout = (50, 20), "(short) shortstr shortstr shortstr bit table"
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    no_wait: bool = False
    arguments: Mapping[str, Any] = {}


class QueueBindOk(Method, frozen=True):
    index = (50, 21)


class QueuePurge(Method, frozen=True):
    index, layout = (50, 30), "(short) shortstr bit"
    queue: str = ""
    no_wait: bool = False


class QueuePurgeOk(Method, frozen=True):
    index, layout = (50, 31), "long"
    message_count: int = 0


class QueueDelete(Method, frozen=True):
    index, layout = (50, 40), "(short) shortstr bit bit bit"
    queue: str = ""
    if_unused: bool = False
    if_empty: bool = False
    no_wait: bool = False


class QueueDeleteOk(Method, frozen=True):
    index, layout = (50, 41), "long"
    message_count: int = 0


class QueueUnbind(Method, frozen=True):
    index, layout = (50, 50), "(short) shortstr shortstr shortstr table"
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    arguments: Mapping[str, Any] = {}


class QueueUnbindOk(Method, frozen=True):
    index = (50, 51)


# --- basic ------------------------------------------------------------------------------------------------------------


class BasicQos(Method, frozen=True):
    index, layout = (60, 10), "long short bit"
    prefetch_size: int = 0
    prefetch_count: int = 0
    global_: bool = False


class BasicQosOk(Method, frozen=True):
    index = (60, 11)


class BasicConsume(Method, frozen=True):
    index, layout = (60, 20), "(short) shortstr shortstr bit bit bit bit table"
    queue: str = ""
    consumer_tag: str = ""
    no_local: bool = False
    no_ack: bool = False
    exclusive: bool = False
    no_wait: bool = False
    arguments: Mapping[str, Any] = {}


class BasicConsumeOk(Method, frozen=True):
    index, layout = (60, 21), "shortstr"
    consumer_tag: str = ""


class BasicCancel(Method, frozen=True):
    index, layout = (60, 30), "shortstr bit"
    consumer_tag: str = ""
    no_wait: bool = False


class BasicCancelOk(Method, frozen=True):
    index, layout = (60, 31), "shortstr"
    consumer_tag: str = ""


class BasicPublish(Method, frozen=True):
    index, layout = (60, 40), "(short) shortstr shortstr bit bit"
    exchange: str = ""
    routing_key: str = ""
    mandatory: bool = False
    immediate: bool = False


class BasicReturn(Method, frozen=True):
    index, layout = (60, 50), "short shortstr shortstr shortstr"
    reply_code: int = 0
    reply_text: str = ""
    exchange: str = ""
    routing_key: str = ""


class BasicDeliver(Method, frozen=True):
    index, layout = (60, 60), "shortstr longlong bit shortstr shortstr"
    consumer_tag: str = ""
    delivery_tag: int = 0
    redelivered: bool = False
    exchange: str = ""
    routing_key: str = ""


class BasicGet(Method, frozen=True):
    index, layout = (60, 70), "(short) shortstr bit"
    queue: str = ""
    no_ack: bool = False


class BasicGetOk(Method, frozen=True):
    index, layout = (60, 71), "longlong bit shortstr shortstr long"
    delivery_tag: int = 0
    redelivered: bool = False
    exchange: str = ""
    routing_key: str = ""
    message_count: int = 0


class BasicGetEmpty(Method, frozen=True):
    index, layout = (60, 72), "(shortstr)"


class BasicAck(Method, frozen=True):
    index, layout = (60, 80), "longlong bit"
    delivery_tag: int = 0
    multiple: bool = False


class BasicReject(Method, frozen=True):
    index, layout = (60, 90), "longlong bit"
    delivery_tag: int = 0
    requeue: bool = False


class BasicNack(Method, frozen=True):
    index, layout = (60, 120), "longlong bit bit"
    delivery_tag: int = 0
    multiple: bool = False
    requeue: bool = False


# --- confirm ----------------------------------------------------------------------------------------------------------


class ConfirmSelect(Method, frozen=True):
    index, layout = (85, 10), "bit"
    no_wait: bool = False


class ConfirmSelectOk(Method, frozen=True):
    index = (85, 11)


# --- as bytes ---------------------------------------------------------------------------------------------------------

_LAYOUTS = {cls: Layout(cls.__name__, cls.layout, cls.__struct_fields__) for cls in Method.__subclasses__()}
_INDEXES = {cls: cls.index[0].to_bytes(2, "big") + cls.index[1].to_bytes(2, "big") for cls in _LAYOUTS}
_METHODS = {index: (cls, _LAYOUTS[cls]) for cls, index in _INDEXES.items()}


def encode_method(method: Method) -> bytes:
    """The payload of `method`'s frame. `ArgumentError`, naming the field, for a value that does not fit."""
    cls = type(method)
    return _INDEXES[cls] + _LAYOUTS[cls].encode(method)


def decode_method(payload: bytes) -> Method:
    """The method in the payload of a method frame. `ProtocolError`: 540 for one that we don't know, 502 for a broken one.

    Text that is not UTF-8 is shown with question marks: it is names, and explanations for people.
    """
    known = _METHODS.get(payload[:4])
    if known is None:
        raise ProtocolError(
            NOT_IMPLEMENTED, f"expected a method of AMQP 0-9-1, got one that begins {payload[:4].hex()!r}"
        )
    cls, layout = known
    return cls(*layout.decode(payload, 4))
