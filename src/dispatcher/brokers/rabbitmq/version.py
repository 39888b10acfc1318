"""What the broker at the other end can do, by the version it says it is.

Never found out by trying: an old broker accepts arguments that it does not know, and ignores them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

__all__ = ["Features", "PriorityOrder", "ServerVersion", "features_of", "server_version"]

PriorityOrder = Literal["none", "two levels", "strict"]
"""How a quorum queue orders: not at all, priorities above 4 before the others two to one, or one by one."""

_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?!\d)")


class ServerVersion(NamedTuple):
    """A release. All zero where it is not known: older than anything, so that nothing is taken for granted."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}" if any(self) else "unknown"


class Features(msgspec.Struct, frozen=True):
    """What of RabbitMQ's history makes a difference here.

    `quorum_priorities`: a quorum queue refuses `x-max-priority` on every version, and orders by itself since 4.0.
    `nack_is_free`: `basic.nack` counts no delivery; before, it counts one as the end of a channel does.
    `consumer_timeout_argument`: `x-consumer-timeout` of `basic.consume` is heeded; before, it is ignored in silence.

    Source: RabbitMQ's release notes of 4.0.1 and 4.3.0; each was tried on 3.10.8 and 4.3.6.
    """

    version: ServerVersion
    quorum_priorities: PriorityOrder
    nack_is_free: bool
    consumer_timeout_argument: bool


def server_version(properties: Mapping[str, Any]) -> ServerVersion:
    """The version in the `server_properties` of `connection.start`; unknown for what is no RabbitMQ or no version.

    A release candidate counts as its release. Another product's numbers say nothing about RabbitMQ's features.
    """
    version = properties.get("version")
    found = _VERSION.match(version) if isinstance(version, str) else None
    if found is None or properties.get("product", "RabbitMQ") != "RabbitMQ":
        return ServerVersion(0, 0, 0)
    return ServerVersion(*(int(part or 0) for part in found.groups()))


def features_of(version: ServerVersion) -> Features:
    """The features of that release and of all later ones."""
    since_43 = version >= (4, 3)
    return Features(
        version,
        quorum_priorities="strict" if since_43 else "two levels" if version >= (4, 0) else "none",
        nack_is_free=since_43,
        consumer_timeout_argument=since_43,
    )
