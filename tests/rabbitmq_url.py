"""Finds the RabbitMQ that the tests run on: `$DISPATCHER_TEST_AMQP_URL`, else the one on localhost, else a private one.

A broker that was found may hold somebody's messages: tests work in vhosts that they make, and a broker that will not let
us make any is not used. Must never pass over a missing broker in silence: `find` raises, and the run fails.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, unquote, urlsplit

from amqp_probe import Refused, handshake
from rabbitmq_admin import Admin, AdminError, ErlangAdmin, HttpAdmin, find_erl_call
from rabbitmq_node import ROOT_VARIABLE, NodeError, PrivateNode

__all__ = ["NoRabbitMq", "RabbitMq", "find"]

URL_VARIABLE = "DISPATCHER_TEST_AMQP_URL"
LOCAL_URL = "amqp://guest:guest@localhost:5672/"
PROBE_SECONDS = 5.0
DIST_OFFSET = 20_000
"""What RabbitMQ adds to its AMQP port for that of the Erlang distribution, unless it is told otherwise."""
MANAGEMENT_OFFSET = 10_000

NOT_FOUND = "no RabbitMQ for the tests. Tried:"
WHAT_TO_DO = f"""\
Do one of these, then try again:
  have one installed:  make test does, where apt-get may be used without asking
  install one:         sudo apt-get install rabbitmq-server     macOS: brew install rabbitmq
  name one:            {URL_VARIABLE}=amqp://administrator:password@host:5672/, with the management plugin"""


class NoRabbitMq(Exception):
    """No broker could be found or started; the text says what was tried and what to do, without a password."""


@dataclass(frozen=True)
class RabbitMq:
    """A broker for the run. `url_of` gives the URL of one of its vhosts; `admin` makes and deletes them."""

    base: str
    version: str
    admin: Admin
    private: bool

    def url_of(self, vhost: str) -> str:
        return self.base + quote(vhost, safe="")


@contextmanager
def find() -> Iterator[RabbitMq]:
    """The broker for this run; a private one ends with the context. Raises `NoRabbitMq`."""
    tried: list[str] = []
    with TemporaryDirectory(prefix="dispatcher-cookie-") as home:
        found = None if os.environ.get(ROOT_VARIABLE) else _existing(Path(home), tried)
        if found is not None:
            yield found
            return
    with ExitStack() as stack:
        try:
            node = stack.enter_context(PrivateNode())
            node.start()
        except (NodeError, AdminError) as error:
            tried.append(f"  a private one: {error}")
            raise NoRabbitMq("\n".join((NOT_FOUND, *tried, WHAT_TO_DO))) from error
        yield RabbitMq(node.url(vhost=""), node.version, node.admin, private=True)


def _existing(home: Path, tried: list[str]) -> RabbitMq | None:
    """The broker that somebody else runs, if we may make vhosts there. Raises `NoRabbitMq` if it was named and is not there."""
    named = os.environ.get(URL_VARIABLE)
    url = urlsplit(named or LOCAL_URL)
    if url.scheme not in ("amqp", "amqps"):
        raise NoRabbitMq(f"{URL_VARIABLE}: expected amqp:// or amqps://, got {url.scheme}://")
    host, tls = url.hostname or "localhost", url.scheme == "amqps"
    port = url.port or (5671 if tls else 5672)
    user, password = unquote(url.username or "guest"), unquote(url.password or "guest")
    try:
        version = handshake(
            host,
            port,
            user=user,
            password=password,
            vhost=unquote(url.path[1:]) or "/",
            tls=ssl.create_default_context() if tls else None,
            timeout_seconds=PROBE_SECONDS,
        )
        admin = _admin(host, port, user, password, home)
    except (OSError, Refused, AdminError) as error:
        tried.append(f"  {f'${URL_VARIABLE}' if named else 'localhost'} ({host}:{port}): {error}")
        if named:
            raise NoRabbitMq("\n".join((NOT_FOUND, *tried, WHAT_TO_DO))) from error
        return None
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    base = f"{url.scheme}://{login}@{f'[{host}]' if ':' in host else host}:{port}/"
    return RabbitMq(base, version, admin, private=False)


def _admin(host: str, port: int, user: str, password: str, home: Path) -> Admin:
    """Who may make vhosts there. Raises `AdminError` with what was tried."""
    tried = []
    for attempt in (_by_cookie, _by_management):
        try:
            return attempt(host, port, user, password, home)
        except AdminError as error:
            tried.append(str(error))
    raise AdminError(f"it answers, but we may make no vhost of our own there: {'; '.join(tried)}")


def _by_cookie(host: str, port: int, user: str, password: str, home: Path) -> Admin:
    """The node itself, if it runs on this machine and its cookie can be read: by root, or where it is our own."""
    if host not in ("localhost", "127.0.0.1", "::1"):
        raise AdminError("its Erlang cookie is on another machine")
    for place in (Path.home() / ".erlang.cookie", Path("/var/lib/rabbitmq/.erlang.cookie")):
        try:
            cookie = place.read_bytes()
        except OSError:  # not there, or not ours
            continue
        own = home / ".erlang.cookie"
        own.unlink(missing_ok=True)
        own.write_bytes(cookie)
        own.chmod(0o400)
        admin = ErlangAdmin([find_erl_call()], {"HOME": str(home)}, port + DIST_OFFSET, user)
        try:
            is_it = admin.eval(f"lists:keymember({port}, 6, rabbit_networking:active_listeners())")
        except AdminError:  # the cookie of something else
            continue
        if is_it == "true":
            return admin
    raise AdminError("no Erlang cookie of it can be read")


def _by_management(host: str, port: int, user: str, password: str, home: Path) -> Admin:
    admin = HttpAdmin(host, port + MANAGEMENT_OFFSET, user, password)
    admin.version()
    return admin
