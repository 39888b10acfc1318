"""Where messages live: `base` is the interface, `rabbitmq`, `sqlite` and `memory` implement it, `open_broker` picks one by URL.

Nothing here connects: a broker is only opened, and says what is wrong with its URL without repeating a password.
A broker's package is loaded when a URL names it: an app on an SQLite file must not pay for AMQP (decision 0024).
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

from ..errors import ConfigError
from .base import Broker

__all__ = ["NO_TLS_SETTINGS", "BrokerKind", "TlsSettings", "kind_of", "open_broker", "redact_url"]

BrokerKind = Literal["sqlite", "memory", "rabbitmq"]

WORKS = "amqp://user:password@host/vhost, sqlite:///relative/file.db, sqlite:////absolute/file.db or memory://"


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What of `ServerConfig` concerns TLS, documented there."""

    tls_config: ssl.SSLContext | None = None
    secure_connection: bool = False
    insecure_skip_verify: bool = False


NO_TLS_SETTINGS = TlsSettings()

_WINDOWS = os.name == "nt"
_USER_INFO = re.compile(r"^([^:/?]*://)?.*@", re.DOTALL)
_PARAMETER_VALUE = re.compile(r"=[^&]*")
_DRIVE_AFTER_SLASH = re.compile(r"/[A-Za-z]:[/\\]")


def open_broker(url: str, tls: TlsSettings = NO_TLS_SETTINGS) -> Broker:
    """The broker that `url` names; nothing is opened or connected yet.

    `sqlite:///file.db` is relative to the working directory, `sqlite:////var/lib/app/file.db` absolute, as in
    SQLAlchemy; on Windows `sqlite:///C:/app/file.db`; a leading `~` is the user's home. `memory://` is a new, private
    broker each time. `amqp://` and `amqps://` are RabbitMQ's (`amqp.url`), with `tls` for what a URL cannot say.

    Raises `ConfigError` for anything else; its message holds no user name and no password.
    """
    match kind_of(url):
        case "sqlite":
            return _sqlite(url)
        case "memory":
            return _memory(url)
        case "rabbitmq":
            return _rabbitmq(url, tls)


def kind_of(url: str) -> BrokerKind:
    """Which broker the scheme of `url` means; the rest of it is not looked at. `ConfigError` where it means none."""
    if not isinstance(url, str):
        raise ConfigError(f"broker URL: expected a string such as {WORKS}, got {type(url).__name__}")
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigError(f"broker URL: expected {WORKS}, got {redact_url(url)!r}, which has no '://'")
    match scheme.lower():
        case "sqlite":
            return "sqlite"
        case "memory":
            return "memory"
        case "amqp" | "amqps":
            return "rabbitmq"
        case _:
            raise ConfigError(
                f"broker URL {redact_url(url)!r}: expected the scheme sqlite, memory, amqp or amqps; write {WORKS}"
            )


def _sqlite(url: str) -> Broker:
    from .sqlite import SqliteBroker

    return SqliteBroker(_sqlite_path(url))


def _memory(url: str) -> Broker:
    from .memory import MemoryBroker

    _check_memory(url)
    return MemoryBroker()


def _rabbitmq(url: str, tls: TlsSettings) -> Broker:
    from ..amqp.tls import client_context
    from ..amqp.url import parse_url
    from .rabbitmq import RabbitBroker

    parsed = parse_url(url, secure_connection=tls.secure_connection)

    def context() -> ssl.SSLContext | None:
        return client_context(parsed, tls_config=tls.tls_config, insecure_skip_verify=tls.insecure_skip_verify)

    context()  # what is wrong with files and settings is said now
    return RabbitBroker(parsed, context)


def redact_url(url: str) -> str:
    """`url` without user names, passwords and parameter values; takes what is no valid URL, too."""
    # Up to the last "@": a password with an unescaped "/", "@" or "?" in it must not escape either.
    place, mark, query = _USER_INFO.sub(r"\1***@", url).partition("?")
    scheme, separator, rest = place.partition("://")
    hosts, slash, path = rest.partition("/")
    hosts = ",".join(_redact_port(host) for host in hosts.split(","))
    return scheme + separator + hosts + slash + path + mark + _PARAMETER_VALUE.sub("=***", query)


def _redact_port(host: str) -> str:
    """`amqp://user:secret`, the host forgotten: what stands there in the place of a port is none."""
    name, colon, port = host.partition(":")
    is_port = port.isascii() and port.isdigit() and int(port) <= 65535
    return host if not colon or host.startswith("[") or is_port else f"{name}:***"


def _place(url: str) -> str:
    """What stands between `://` and `?`. No parameter is known, so any is refused."""
    place, _, query = url.partition("://")[2].partition("?")
    for name, _ in parse_qsl(query, keep_blank_values=True):
        raise ConfigError(f"broker URL {redact_url(url)!r}: expected no parameters, got {name!r}; leave it out")
    return place


def _check_memory(url: str) -> None:
    if _place(url) not in ("", "/"):
        raise ConfigError(
            f"broker URL {redact_url(url)!r}: expected memory:// and nothing after it;"
            " each is a private broker, without a name"
        )


def _sqlite_path(url: str) -> Path:
    place = _place(url)
    if place in ("", "/", "/:memory:"):
        raise ConfigError(f"broker URL {url!r}: expected a file, got none; write {WORKS}")
    if not place.startswith("/"):
        raise ConfigError(
            f"broker URL {redact_url(url)!r}: expected three slashes before a relative path,"
            f" four before an absolute one, got two; write {WORKS}"
        )
    name = place[1:]
    if name.endswith("/") or "\0" in name:
        raise ConfigError(f"broker URL {redact_url(url)!r}: expected the path of a file, got {name!r}")
    if _WINDOWS and _DRIVE_AFTER_SLASH.match(name):
        name = name[1:]  # sqlite:////C:/app/file.db, written with the four slashes of an absolute path
    try:
        # Made absolute now, so that a later change of the working directory does not open another file.
        return Path(name).expanduser().absolute()
    except RuntimeError as error:  # pathlib's way to say that it knows no home directory
        raise ConfigError(f"broker URL {redact_url(url)!r}: {error}; write the path out") from error
