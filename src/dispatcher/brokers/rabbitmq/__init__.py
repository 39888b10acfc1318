"""RabbitMQ as a broker: `RabbitBroker` says where it is, its sessions do the rest. See DESIGN section 6."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable

from ...amqp.connection import Connection, open_connection
from ...amqp.errors import AmqpError
from ...amqp.tls import tls_warnings
from ...amqp.url import AmqpUrl
from ...errors import ConfigError, ConnectionLost
from ..base import Insecure, OnEvent
from .known import Known
from .session import RabbitSession
from .translate import connect_error

__all__ = ["RabbitBroker", "RabbitSession"]


class RabbitBroker:
    """One RabbitMQ, or the nodes of one cluster. `context` makes the TLS context of each attempt, or None for plain TCP."""

    def __init__(self, url: AmqpUrl, context: Callable[[], ssl.SSLContext | None]) -> None:
        self._url = url
        self._context = context
        # Not always the first one first: the clients of a cluster spread over its nodes.
        self._hosts = tuple(random.sample(url.hosts, len(url.hosts)))
        self._known = Known()

        self._warned = False

    def __repr__(self) -> str:
        return f"RabbitBroker({self._peers()})"

    def _peers(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self._url.hosts)

    async def connect(self, *, name: str, on_event: OnEvent) -> RabbitSession:
        """Open a session. One attempt is each host once, the one that answered last before the others.

        `ConnectionLost` names what each host said. `AuthenticationError` and other `ConfigError`s (TLS verification)
        are raised at once: another host of the same broker would say the same.
        """

        async def open_as(role: str, on_blocked: Callable[[str], None], on_unblocked: Callable[[], None]) -> Connection:
            return await self._open(f"{name} {role}", on_blocked, on_unblocked)

        self._warn(on_event)
        session = RabbitSession(name, open_as, on_event, self._known)
        await session.open()
        return session

    def _warn(self, on_event: OnEvent) -> None:
        """Once, however often it is connected; before that, because then the password is on its way."""
        if not self._warned:
            self._warned = True
            for text in tls_warnings(self._url, self._context()):
                on_event(Insecure(self._peers(), text))

    async def _open(self, name: str, on_blocked: Callable[[str], None], on_unblocked: Callable[[], None]) -> Connection:
        context = self._context()
        failures: list[str] = []
        hosts = self._hosts
        for at, host in enumerate(hosts):
            try:
                connection = await open_connection(
                    self._url, host=host, context=context, name=name, on_blocked=on_blocked, on_unblocked=on_unblocked
                )
            except AmqpError as error:
                failed = connect_error(error, f"{host[0]}:{host[1]}", self._url)
                if isinstance(failed, ConfigError):
                    raise failed from None  # the cause's frames hold the login
                failures.append(str(failed))
            else:
                # In one step, for other threads connect too: those that failed come last the next time.
                self._hosts = (*hosts[at:], *hosts[:at])
                return connection
        raise ConnectionLost("; ".join(failures))
