"""What an `amqp://` or `amqps://` URL says, checked and typed.

`parse_url` follows RabbitMQ's URI specification (rabbitmq.com/docs/uri-spec, uri-query-parameters) and adds several
hosts. It connects to nothing and opens no file. No error, no repr and no pickle made here holds a user name, a password
or the value of a parameter: an unescaped character may put a piece of the password anywhere in the URL, so errors name
the rule that was broken and never the text that broke it (the name of an unknown parameter aside).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, NoReturn
from urllib.parse import unquote_to_bytes

import msgspec

from ..errors import ConfigError

__all__ = ["AmqpUrl", "Login", "Mechanism", "is_loopback", "parse_url"]

Mechanism = Literal["PLAIN", "EXTERNAL"]

PLAIN_PORT = 5672
TLS_PORT = 5671

DEFAULT_HEARTBEAT_SECONDS = 15
MAX_HEARTBEAT_SECONDS = 3600
DEFAULT_CONNECT_TIMEOUT_SECONDS = 10.0
MAX_CONNECT_TIMEOUT_MS = 600_000
MAX_VHOST_BYTES = 255  # AMQP 0-9-1, section 4.2.5.3: a short string holds at most 255 bytes of UTF-8

_FORM = "amqp://user:password@host:5672/vhost"
_PARAMETERS = (
    "auth_mechanism",
    "cacertfile",
    "certfile",
    "connection_timeout",
    "heartbeat",
    "keyfile",
    "server_name_indication",
)
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNFIT_DECODED = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")  # else the resolver's codec raises
_PORT = re.compile(r"[0-9]{1,5}")
_INTEGER = re.compile(r"[0-9]{1,9}")


class Login:
    """A user and a password. Shown, formatted or encoded it tells neither; it refuses to be pickled or copied.

    Deliberately no Struct or dataclass: those are encoded, listed and shown field by field by whoever meets them.
    """

    __slots__ = ("password", "user")

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = password

    def __repr__(self) -> str:
        return "Login(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Login) and (self.user, self.password) == (other.user, other.password)

    def __hash__(self) -> int:
        return hash((self.user, self.password))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a login is not pickled or copied: a password belongs in no file and no message")

    def sasl_response(self, mechanism: Mechanism) -> bytes:
        """The response of `connection.start-ok`: RFC 4616 for PLAIN; EXTERNAL sends none, the certificate says it all."""
        if mechanism == "EXTERNAL":
            return b""
        return b"\0" + self.user.encode() + b"\0" + self.password.encode()


class AmqpUrl(msgspec.Struct, frozen=True, kw_only=True):
    """An AMQP URL's parts. Made by `parse_url`; its repr holds no secret.

    `hosts`: name or address (IPv6 without brackets) and port, in the order given; at least one.
    `heartbeat_seconds`: what to ask the broker for; zero asks for none.
    `connect_timeout_seconds`: bounds TCP, TLS and handshake together, for each host.
    `cacertfile`: the authorities to trust instead of the system's. `certfile`, `keyfile`: our own certificate and its key
    (None: the key is in `certfile`). `server_name_indication`: the name that the broker's certificate must bear, instead
    of the host's. Each None where not given; the files were not looked at.
    """

    hosts: tuple[tuple[str, int], ...]
    tls: bool
    login: Login
    vhost: str
    mechanism: Mechanism = "PLAIN"
    heartbeat_seconds: int = DEFAULT_HEARTBEAT_SECONDS
    connect_timeout_seconds: float = DEFAULT_CONNECT_TIMEOUT_SECONDS
    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_name_indication: str | None = None


def parse_url(url: str, *, secure_connection: bool = False) -> AmqpUrl:
    """The parts of `amqp[s]://[user:password@]host[:port][,host[:port]…][/vhost][?name=value&…]`.

    `secure_connection` True makes TLS of `amqp://` too; a port that is written out stays as it is, one that is not is
    5671 with TLS, else 5672. No virtual host, or `/` alone, is the virtual host `/`, as in every Python client (the
    specification would have it empty, which no broker has); `%2f` and Celery's `//` are `/` as well. Without a user,
    loopback hosts get guest/guest; RabbitMQ lets that user in from nowhere else. An empty user name is fine: with
    OAuth 2 the token is the password and the user name is ignored.

    Parameters, named as RabbitMQ names them: `heartbeat` (seconds, 1 to 3600; 0 asks for none; 15), `connection_timeout`
    (milliseconds, 1 to 600000; 10000), `auth_mechanism` (plain or external), `cacertfile`, `certfile`, `keyfile`,
    `server_name_indication`. None of them can weaken TLS.

    Raises `ConfigError` for everything else.
    """
    if not isinstance(url, str):
        raise ConfigError(f"AMQP URL: expected a string such as {_FORM}, got {type(url).__name__}")
    if _UNFIT.search(url):
        raise ConfigError(
            "AMQP URL: expected no spaces, line ends or control characters, got one;"
            " a space is written %20, and a line end may come from the file that the URL was read from"
        )
    if "#" in url:
        raise ConfigError("AMQP URL: expected no '#', got one; a '#' in a password is written %23")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("amqp", "amqps"):
        raise ConfigError(f"AMQP URL: expected it to begin with amqp:// or amqps://, as in {_FORM}; it does not")
    tls = secure_connection or scheme.lower() == "amqps"
    authority, path, query = _split(rest)
    user_info, at, places = authority.rpartition("@")
    hosts = tuple(_host(place, TLS_PORT if tls else PLAIN_PORT) for place in places.split(","))
    given = _parameters(query)
    mechanism = _mechanism(given.get("auth_mechanism", "plain"))
    return AmqpUrl(
        hosts=hosts,
        tls=tls,
        login=_login(user_info if at else None, mechanism, hosts),
        vhost=_vhost(path),
        mechanism=mechanism,
        heartbeat_seconds=_heartbeat_seconds(given.get("heartbeat")),
        connect_timeout_seconds=_connect_timeout_seconds(given.get("connection_timeout")),
        cacertfile=given.get("cacertfile"),
        certfile=given.get("certfile"),
        keyfile=given.get("keyfile"),
        server_name_indication=_server_name(given.get("server_name_indication")),
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is surely this machine: localhost, 127.0.0.0/8 or ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: nobody knows where it leads
        return False


def _split(rest: str) -> tuple[str, str, str]:
    """User and hosts, virtual host, and parameters, each still encoded."""
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    # A second "@" is a piece of the password taken for something else, which must not be shown or connected to.
    if "@" in path or "@" in query or authority.count("@") > 1:
        raise ConfigError(
            "AMQP URL: expected at most one '@', between the login and all the hosts (amqp://user:password@host1,host2/);"
            " elsewhere an '@' is written %40, and in a user name or password a '/' is %2F, a '?' is %3F"
        )
    return authority, path, query


def _decode(what: str, text: str) -> str:
    """`text` with its percent-escapes resolved; a `+` is a `+`, as in every part of a URL that is no form."""
    if _BAD_PERCENT.search(text):
        raise ConfigError(
            f"AMQP URL: {what}: expected two hexadecimal digits after each '%'; a '%' itself is written %25"
        )
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:  # it holds the text, so it may not even be the context of what is raised
        decoded = None
    if decoded is None:
        raise ConfigError(f"AMQP URL: {what}: expected UTF-8 in its percent-escapes")
    if _UNFIT_DECODED.search(decoded):
        raise ConfigError(f"AMQP URL: {what}: expected no control characters, got one as a percent-escape")
    return decoded


def _host(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        name, bracket, after = text[1:].partition("]")
        name = _decode("host", name)  # a zone is written [fe80::1%25eth0]
        if not bracket or not _is_ipv6(name):
            raise ConfigError("AMQP URL: expected an IPv6 address in the brackets, as in [::1]:5672")
        colon, port = after[:1], after[1:]
        if colon not in ("", ":"):
            raise ConfigError("AMQP URL: expected ':' and a port, or nothing, after the ']' of an IPv6 address")
    else:
        name, colon, port = text.partition(":")
        if ":" in port:
            raise ConfigError(
                "AMQP URL: expected one ':' in each host:port; an IPv6 address stands in brackets, [::1]:5672"
            )
        if not name:
            raise ConfigError(
                f"AMQP URL: expected a host, got none, as in {_FORM}; several are separated by single commas"
            )
        if not _NAME.fullmatch(name):
            raise ConfigError("AMQP URL: expected a host of letters, digits, '.', '-' and '_' (xn--… for others)")
    if not colon:
        return name, default_port
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise ConfigError(
            "AMQP URL: expected a port from 1 to 65535 after the ':' of a host;"
            f" is the host missing, as in {_FORM}, or a '/' in the password not written %2F?"
        )
    return name, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _login(user_info: str | None, mechanism: Mechanism, hosts: tuple[tuple[str, int], ...]) -> Login:
    if mechanism == "EXTERNAL":
        if user_info is not None:
            raise ConfigError(
                "AMQP URL: expected no user and password with auth_mechanism=external, which takes the user from"
                " the client certificate; leave one of the two out"
            )
        return Login("", "")
    if user_info is None:
        if all(is_loopback(host) for host, _ in hosts):
            return Login("guest", "guest")
        raise ConfigError(
            f"AMQP URL: expected a user and a password, as in {_FORM}, got none;"
            " guest/guest is assumed for hosts on this machine only"
        )
    user, _, password = user_info.partition(":")
    if not password:
        raise ConfigError(f"AMQP URL: expected a password after the user name, as in {_FORM}, got none")
    return Login(_decode("user name", user), _decode("password", password))


def _vhost(path: str) -> str:
    if path in ("", "/"):
        return "/"
    if "/" in path:
        raise ConfigError("AMQP URL: expected one virtual host after the hosts; a '/' in its name is written %2F")
    vhost = _decode("virtual host", path)
    if (size := len(vhost.encode())) > MAX_VHOST_BYTES:
        raise ConfigError(f"AMQP URL: virtual host: expected at most {MAX_VHOST_BYTES} bytes of UTF-8, got {size}")
    return vhost


def _parameters(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        encoded_name, _, encoded_value = pair.partition("=")
        name = _decode("parameter name", encoded_name)
        if name == "verify":
            raise ConfigError(
                "AMQP URL: expected no 'verify': the broker's certificate is always verified, and no parameter of a URL"
                " can change that; leave it out (for a test: insecure_skip_verify=True in code)"
            )
        if name not in _PARAMETERS:
            raise ConfigError(f"AMQP URL: expected only the parameters {', '.join(_PARAMETERS)}, got {name!r}")
        if name in given:
            raise ConfigError(f"AMQP URL: expected the parameter {name!r} once, got it twice")
        value = _decode(name, encoded_value)
        if not value:
            raise ConfigError(f"AMQP URL: expected a value for the parameter {name!r}, got none; leave it out")
        given[name] = value
    return given


def _mechanism(value: str) -> Mechanism:
    match value.lower():
        case "plain":
            return "PLAIN"
        case "external":
            return "EXTERNAL"
        case _:
            raise ConfigError("AMQP URL: auth_mechanism: expected plain or external, got something else")


def _heartbeat_seconds(value: str | None) -> int:
    if value is None:
        return DEFAULT_HEARTBEAT_SECONDS
    if not _INTEGER.fullmatch(value) or int(value) > MAX_HEARTBEAT_SECONDS:
        raise ConfigError(
            f"AMQP URL: heartbeat: expected whole seconds from 1 to {MAX_HEARTBEAT_SECONDS}, or 0 to ask for none"
        )
    return int(value)


def _connect_timeout_seconds(value: str | None) -> float:
    if value is None:
        return DEFAULT_CONNECT_TIMEOUT_SECONDS
    if not _INTEGER.fullmatch(value) or not 1 <= int(value) <= MAX_CONNECT_TIMEOUT_MS:
        raise ConfigError(
            f"AMQP URL: connection_timeout: expected whole milliseconds from 1 to {MAX_CONNECT_TIMEOUT_MS}"
        )
    return int(value) / 1000


def _server_name(value: str | None) -> str | None:
    if value is not None and (value.lower() == "disable" or not (_NAME.fullmatch(value) or _is_ipv6(value))):
        raise ConfigError(
            "AMQP URL: server_name_indication: expected the host name in the broker's certificate;"
            " it cannot be switched off"
        )
    return value
