"""What an AMQP error means to Dispatcher. No I/O, and no word of a secret: the broker's texts name users, never passwords."""

from __future__ import annotations

import re
from typing import TypeGuard

from ...amqp.errors import (
    AccessRefused,
    AmqpError,
    MechanismNotOffered,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from ...amqp.url import AmqpUrl
from ...errors import AuthenticationError, ConnectionLost, DispatcherError, TopologyMismatch

__all__ = ["connect_error", "is_down", "largest_body", "lost", "refusal"]

_HEALS = re.compile(r"(limit|is down|not alive)[^']*$", re.IGNORECASE)
"""A refusal (530) with such a text is of the moment: too many connections, a virtual host that is being started.

After the last quotation mark: before it are names of virtual hosts and users, which may hold any word.
"""

_TOO_LARGE = re.compile(r"PRECONDITION_FAILED - message size \d+ [^']*max size (\d+)")


def connect_error(error: AmqpError, peer: str, url: AmqpUrl) -> DispatcherError:
    """Why a connection could not be opened: `AuthenticationError` where trying again will not help."""
    external = url.mechanism == "EXTERNAL"  # then the broker takes the user from the certificate, and we know no name
    user = "the user that our certificate names" if external else f"user {url.login.user!r}"
    if isinstance(error, AccessRefused):
        what = "that user's name there, and ssl_cert_login_from" if external else "user name and password"
        return AuthenticationError(f"{peer}: the broker refused the login of {user}; check {what} ({error.text})")
    if isinstance(error, NotAllowed) and not _HEALS.search(error.text):
        return AuthenticationError(
            f"{peer}: the broker refused {user} the virtual host {url.vhost!r}; does it exist, and has the user"
            f" permissions there? ({error.text})"
        )
    if isinstance(error, MechanismNotOffered):
        enable = "enable the plugin rabbitmq_auth_mechanism_ssl there" if external else "see auth_mechanisms there"
        return AuthenticationError(_at(peer, f"{error}; {enable}, or choose another with auth_mechanism= in the URL"))
    return ConnectionLost(_at(peer, error))


def lost(error: BaseException | None, peer: str) -> ConnectionLost:
    """How a session says that its connection ended."""
    return ConnectionLost(_at(peer, error or "the connection was closed"))


def _at(peer: str, error: object) -> str:
    """What happened and where; what the socket says begins with that itself."""
    text = str(error)
    return text if text.startswith(f"{peer}: ") else f"{peer}: {text}"


def refusal(error: AmqpError, what: str, permission: str = "to do that") -> TopologyMismatch | ConnectionLost:
    """What became of something that was asked of a queue or exchange: refused for good, or never answered.

    `permission`: which one it takes. The broker names it from 4.0 on only.
    """
    if is_down(error):
        return ConnectionLost(f"{what}: the node that holds it is down ({error.text})")
    if isinstance(error, NotFound):
        return TopologyMismatch(f"{what}: expected one that exists; declare it, or correct its name ({error.text})")
    if isinstance(error, AccessRefused):
        return TopologyMismatch(
            f"{what}: expected the permission {permission}, this user has none; grant it ({error.text})"
        )
    if isinstance(error, PreconditionFailed | ResourceLocked):
        return TopologyMismatch(f"{what}: {error}")
    return ConnectionLost(f"{what}: {error}")


def is_down(error: object) -> TypeGuard[NotFound]:
    """Whether a queue exists, and its node is away. RabbitMQ has one code for that and for a queue that does not exist."""
    return isinstance(error, NotFound) and "is down" in error.text


def largest_body(error: AmqpError) -> int | None:
    """The broker's largest message in bytes, if `error` is its refusal of one that is larger."""
    found = _TOO_LARGE.match(error.text) if isinstance(error, PreconditionFailed) else None
    return int(found[1]) if found else None
