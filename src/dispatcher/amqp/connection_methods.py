"""The methods that make, tune and end connections and channels, as data, and what all methods have in common.

`methods` shows them together with the others and tells how to read them. Nothing here knows what a channel is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

__all__ = [
    "ChannelClose",
    "ChannelCloseOk",
    "ChannelFlow",
    "ChannelFlowOk",
    "ChannelOpen",
    "ChannelOpenOk",
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
    "Method",
]


class Method(msgspec.Struct, frozen=True, gc=False):
    """The base of all methods. `index`: the numbers of its class and of itself."""

    index: ClassVar[tuple[int, int]] = (0, 0)
    layout: ClassVar[str] = ""


class ConnectionStart(Method, frozen=True):
    index, layout = (10, 10), "octet octet table longstr longstr"
    version_major: int = 0
    version_minor: int = 9
    server_properties: Mapping[str, Any] = {}
    mechanisms: bytes = b"PLAIN"
    locales: bytes = b"en_US"


class ConnectionStartOk(Method, frozen=True):
    index, layout = (10, 11), "table shortstr longstr shortstr"
    client_properties: Mapping[str, Any] = {}
    mechanism: str = "PLAIN"
    response: bytes = b""
    locale: str = "en_US"

    def __repr__(self) -> str:
        return f"ConnectionStartOk(mechanism={self.mechanism!r}, locale={self.locale!r}, …)"  # response: the password


class ConnectionSecure(Method, frozen=True):
    index, layout = (10, 20), "longstr"
    challenge: bytes = b""


class ConnectionSecureOk(Method, frozen=True):
    index, layout = (10, 21), "longstr"
    response: bytes = b""

    def __repr__(self) -> str:
        return "ConnectionSecureOk(…)"  # the response may be a password


class ConnectionTune(Method, frozen=True):
    index, layout = (10, 30), "short long short"
    channel_max: int = 0
    frame_max: int = 0
    heartbeat: int = 0


class ConnectionTuneOk(Method, frozen=True):
    index, layout = (10, 31), "short long short"
    channel_max: int = 0
    frame_max: int = 0
    heartbeat: int = 0


class ConnectionOpen(Method, frozen=True):
    index, layout = (10, 40), "shortstr (shortstr) (bit)"
    virtual_host: str = "/"


class ConnectionOpenOk(Method, frozen=True):
    index, layout = (10, 41), "(shortstr)"


class ConnectionClose(Method, frozen=True):
    index, layout = (10, 50), "short shortstr short short"
    reply_code: int = 0
    reply_text: str = ""
    class_id: int = 0
    method_id: int = 0


class ConnectionCloseOk(Method, frozen=True):
    index = (10, 51)


class ConnectionBlocked(Method, frozen=True):
    index, layout = (10, 60), "shortstr"
    reason: str = ""


class ConnectionUnblocked(Method, frozen=True):
    index = (10, 61)


class ConnectionUpdateSecret(Method, frozen=True):
    index, layout = (10, 70), "longstr shortstr"
    new_secret: bytes = b""
    reason: str = ""

    def __repr__(self) -> str:
        return f"ConnectionUpdateSecret(reason={self.reason!r}, …)"  # what is left out is a password


class ConnectionUpdateSecretOk(Method, frozen=True):
    index = (10, 71)


class ChannelOpen(Method, frozen=True):
    index, layout = (20, 10), "(shortstr)"


class ChannelOpenOk(Method, frozen=True):
    index, layout = (20, 11), "(longstr)"


class ChannelFlow(Method, frozen=True):
    index, layout = (20, 20), "bit"
    active: bool = False


class ChannelFlowOk(Method, frozen=True):
    index, layout = (20, 21), "bit"
    active: bool = False


class ChannelClose(Method, frozen=True):
    index, layout = (20, 40), "short shortstr short short"
    reply_code: int = 0
    reply_text: str = ""
    class_id: int = 0
    method_id: int = 0


class ChannelCloseOk(Method, frozen=True):
    index = (20, 41)
