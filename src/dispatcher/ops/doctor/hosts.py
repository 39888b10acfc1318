"""Whether each host of a URL lets us in: address, port, TLS, login, virtual host. One attempt at each, all at once."""

from __future__ import annotations

import asyncio
import ssl
import time

from ...amqp.errors import AmqpError, HandshakeError
from ...amqp.tls import tls_warnings
from ...amqp.url import AmqpUrl
from ...brokers.rabbitmq.translate import connect_error
from ...errors import ConfigError, DispatcherError
from ..failures import EXIT_CONFIG, EXIT_UNAVAILABLE
from .findings import Finding, Tell, ok, warning, wrong
from .link import Link, open_link

__all__ = ["certificate_finding", "reach"]

EXPIRES_SOON_DAYS = 21
SECONDS_A_DAY = 86_400


async def reach(url: AmqpUrl, context: ssl.SSLContext | None, tell: Tell) -> list[Link]:
    """Connect to every host, tell of each, and return the links to those that let us in, in the URL's order.

    A host that cannot be reached is wrong if no other can, and a warning if one can: the clients go there.
    """
    tried = await asyncio.gather(*(_try(url, host, context) for host in url.hosts))
    links = [link for link in tried if isinstance(link, Link)]
    for (name, port), result in zip(url.hosts, tried, strict=True):
        peer = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        if isinstance(result, Link):
            tell(_reached(peer, url, result))
        else:
            tell(_not_reached(peer, url, result, alone=not links))
    for text in tls_warnings(url, context):
        what, _, advice = text.partition("; ")
        tell(warning("encryption", what, advice))
    for link in links:
        if link.connection.tls is not None and (certificate := link.connection.tls[1]):
            tell(certificate_finding(link.connection.peer, certificate, time.time()))
    clusters = {str(link.connection.server_properties.get("cluster_name", "")) for link in links}
    if len(clusters) > 1:
        tell(
            wrong(
                "hosts",
                f"they belong to different clusters: {', '.join(sorted(clusters))}",
                "name the nodes of one cluster: what is published to one cluster is on no other",
            )
        )
    return links


async def _try(url: AmqpUrl, host: tuple[str, int], context: ssl.SSLContext | None) -> Link | DispatcherError:
    try:
        return await open_link(url, host, context)
    except (AmqpError, ConfigError) as error:
        return error


def _reached(peer: str, url: AmqpUrl, link: Link) -> Finding:
    tls = link.connection.tls
    how = "without TLS" if tls is None else f"{tls[0]}, {'verified' if tls[1] else 'not verified'}"
    user = f"user {url.login.user!r}" if url.mechanism == "PLAIN" else "the certificate's user"
    text = f"connected in {link.connect_seconds * 1000:.0f} ms, {how}; login of {user} by {url.mechanism}, vhost {url.vhost!r}"
    return ok(peer, text)


def _not_reached(peer: str, url: AmqpUrl, error: DispatcherError, *, alone: bool) -> Finding:
    known = connect_error(error, peer, url) if isinstance(error, AmqpError) else error
    text = str(known)
    while text.startswith(f"{peer}: "):
        text = text.removeprefix(f"{peer}: ")
    if isinstance(known, ConfigError):
        what, _, advice = text.partition("; ")
        return Finding(peer, "wrong", what, advice, EXIT_CONFIG)
    advice = "start RabbitMQ there, or correct host and port"
    if isinstance(error, HandshakeError):
        text, _, advice = text.partition("; ")
        if " within " in text:
            advice = f"{advice} One that is busy gets more time by connection_timeout in the URL, in milliseconds"
    if alone:
        return wrong(peer, text, advice, exit_code=EXIT_UNAVAILABLE)
    return warning(peer, text, advice)


def certificate_finding(peer: str, certificate: dict[str, object], now: float) -> Finding:
    """How long the broker's certificate is valid. `certificate`: of `SSLSocket.getpeercert`; `now`: Unix seconds."""
    check = f"certificate of {peer}"
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - now) / SECONDS_A_DAY
    text = f"valid for {days:.0f} more days, until {certificate['notAfter']}"
    if days < EXPIRES_SOON_DAYS:
        return warning(check, text, "renew it at the broker: nobody can connect once it has expired")
    return ok(check, text)
