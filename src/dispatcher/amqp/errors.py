"""What can go wrong between an AMQP client and its broker, the reply codes of AMQP 0-9-1 and RabbitMQ included.

    AmqpError
    ├── ProtocolError          a peer broke the protocol: the connection is closed with `.code`
    ├── PeerLost               the connection ended, was reset, or fell silent
    ├── HandshakeError         what listens there is no AMQP 0-9-1 broker, or says nothing
    │   └── MechanismNotOffered    it is one, and does not take the login mechanism that was asked for
    ├── ChannelGone            a command on a channel that is closed or closing
    │   └── ChannelsExhausted      as many channels are open as the broker allows on one connection
    └── ReplyError             the broker refused something and said why: `.code`, `.text`
        └── one class for each reply code below

Names and sentences only: nothing here decides what is done about an error, and no error ever holds a password.
Codes and meanings: AMQP 0-9-1, section 1.2 of the reference; rabbitmq.com/docs/channels#error-handling.
"""

from __future__ import annotations

from typing import ClassVar

from ..errors import DispatcherError

__all__ = [
    "AccessRefused",
    "AmqpError",
    "ChannelGone",
    "ChannelNotOpen",
    "ChannelsExhausted",
    "CommandInvalid",
    "ConnectionForced",
    "ContentTooLarge",
    "FrameInvalid",
    "HandshakeError",
    "InternalError",
    "InvalidPath",
    "MechanismNotOffered",
    "NoConsumers",
    "NoRoute",
    "NotAllowed",
    "NotFound",
    "NotSupported",
    "PeerLost",
    "PreconditionFailed",
    "ProtocolError",
    "ReplyError",
    "ResourceLocked",
    "ResourcesExhausted",
    "SyntaxInvalid",
    "UnexpectedFrame",
    "reply_error",
]

SOFT = frozenset({311, 312, 313, 403, 404, 405, 406})
"""The codes of errors that end a channel; all others end the connection (AMQP 0-9-1, section 1.2 of the reference)."""

MAX_TEXT = 500
"""How many characters of what the broker says are kept."""


class AmqpError(DispatcherError):
    """The base of every error of the AMQP client."""


class PeerLost(AmqpError):
    """The connection to the broker ended, was reset, or nothing came from it for two heartbeats."""


class HandshakeError(AmqpError):
    """What listens there does not speak AMQP 0-9-1, or did not speak in time."""


class MechanismNotOffered(HandshakeError):
    """The broker does not offer the SASL mechanism that is to be used, EXTERNAL for instance."""


class ChannelGone(AmqpError):
    """A command was given to a channel that is closed or closing. The broker has not seen it."""


class ChannelsExhausted(ChannelGone):
    """As many channels are open as both sides agreed on for one connection (`channel_max`)."""


class ProtocolError(AmqpError):
    """A peer broke the protocol. `.code` is the reply code that the connection is closed with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ReplyError(AmqpError):
    """The broker refused a command and closed the channel, or the whole connection.

    `.code`: the reply code. `.text`: what the broker says, with control characters escaped, at most 500 characters.
    `.class_id` and `.method_id`: the method that it refused, both 0 where it was none. `.is_soft`: it ends a channel, no more.
    """

    code: int = 0
    sentence: ClassVar[str] = "The broker refused a command for a reason that AMQP 0-9-1 does not list."

    def __init__(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        self.code = code
        self.text = _harmless(text)
        self.class_id = class_id
        self.method_id = method_id
        self.is_soft = code in SOFT
        about = f"{code}, method {class_id}.{method_id}" if class_id else str(code)
        super().__init__(f"{self.sentence} The broker said ({about}): {self.text or 'nothing more'}")


class ContentTooLarge(ReplyError):
    code = 311
    sentence = __doc__ = (
        "The message is larger than the broker or the consumer takes: make it smaller, or raise the broker's"
        " `max_message_size`."
    )


class NoRoute(ReplyError):
    code = 312
    sentence = __doc__ = (
        "No queue is bound to the exchange with that routing key: declare and bind the queue, or correct the key."
    )


class NoConsumers(ReplyError):
    code = 313
    sentence = __doc__ = "No consumer was ready for a message that had to be delivered at once: start a worker first."


class ConnectionForced(ReplyError):
    code = 320
    sentence = __doc__ = (
        "An operator closed the connection, or the broker is shutting down or out of resources: connect again later."
    )


class InvalidPath(ReplyError):
    code = 402
    sentence = __doc__ = "The broker does not know that virtual host: correct the path of the URL, or create it."


class AccessRefused(ReplyError):
    code = 403
    sentence = __doc__ = (
        "The broker refused the login, or this user may not do that: check user and password, and the user's"
        " permissions in the virtual host (rabbitmqctl list_permissions)."
    )


class NotFound(ReplyError):
    code = 404
    sentence = __doc__ = (
        "The queue or exchange does not exist, or the node that holds it is down: declare it, or wait for the node."
    )


class ResourceLocked(ReplyError):
    code = 405
    sentence = __doc__ = (
        "The queue belongs to another connection alone (exclusive), or has a consumer that shares it with none:"
        " use another queue, or end that connection."
    )


class PreconditionFailed(ReplyError):
    code = 406
    sentence = __doc__ = (
        "What was asked for does not fit what is there: a queue or exchange of another type or other arguments,"
        " a delivery that is settled already, or a value that the broker does not take."
    )


class FrameInvalid(ReplyError):
    code = 501
    sentence = __doc__ = (
        "The broker could not read a frame: something between it and us alters bytes, or one of both has a fault."
    )


class SyntaxInvalid(ReplyError):
    code = 502
    sentence = __doc__ = (
        "The broker found a field with an impossible value in a frame: this is a fault, please report it."
    )


class CommandInvalid(ReplyError):
    code = 503
    sentence = __doc__ = (
        "The broker does not take that command at this point, for instance a publish to an exchange for internal use."
    )


class ChannelNotOpen(ReplyError):
    code = 504
    sentence = __doc__ = "A command went to a channel that is not open: this is a fault, please report it."


class UnexpectedFrame(ReplyError):
    code = 505
    sentence = __doc__ = "The broker expected another frame than the one that came: this is a fault, please report it."


class ResourcesExhausted(ReplyError):
    code = 506
    sentence = __doc__ = (
        "The broker lacks memory, disk or another resource for that command: free some, then try again."
    )


class NotAllowed(ReplyError):
    code = 530
    sentence = __doc__ = (
        "The broker forbids that: the virtual host does not exist or this user may not enter it, or a limit of"
        " connections, channels or queues is reached."
    )


class NotSupported(ReplyError):
    code = 540
    sentence = __doc__ = (
        "The broker does not have that function, or has it switched off: a newer broker, or a setting, may help."
    )


class InternalError(ReplyError):
    code = 541
    sentence = __doc__ = "The broker failed inside: its log says why. Connect again later."


_BY_CODE: dict[int, type[ReplyError]] = {cls.code: cls for cls in ReplyError.__subclasses__()}


def reply_error(code: int, text: str, class_id: int = 0, method_id: int = 0) -> ReplyError:
    """The error of that reply code, a plain `ReplyError` where no class is known for it.

    `text` is the broker's; `class_id` and `method_id` name the method that it refused, 0 for none.
    """
    return _BY_CODE.get(code, ReplyError)(code, text, class_id, method_id)


def _harmless(text: str) -> str:
    """`text` fit for a terminal and a log: what would steer either is shown as its escape sequence."""
    cut = text[:MAX_TEXT]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return cut if len(cut) <= MAX_TEXT else cut[:MAX_TEXT]
