"""The RabbitMQ that is measured: found once before the run, and cleaned of each case's queues after it.

Everything is named after `$BENCH_QUEUE`, a name of our own for each measurement; nothing else is touched.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import click
import msgspec
import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPConnectionError, AMQPError

from dispatcher.brokers.rabbitmq.ladder import way_to_exchange, way_to_queue
from dispatcher.brokers.rabbitmq.specs import join
from dispatcher.model.topology import dead_queue

__all__ = ["VARIABLE", "BrokerMissing", "RabbitMq", "connected", "find_rabbitmq", "rabbitmq_if_any"]

VARIABLE = "DISPATCHER_TEST_AMQP_URL"
LOCAL = "amqp://guest:guest@localhost:5672/"
CONNECT_SECONDS = 5.0


class BrokerMissing(Exception):
    """There is no RabbitMQ to measure; its text says where it was looked for, without a password."""


class RabbitMq(msgspec.Struct, frozen=True):
    """Where it is, written so that every client reads it alike; `pid` is zero if it is no process that we may look at."""

    url: str
    version: str
    pid: int

    def delete(self, exchange: str, queues: Sequence[str]) -> None:
        """Delete what a measurement may have left: its queues with their dead letters and delays, and its exchange.

        The delay ladder and its kind stay: every app of Dispatcher on this broker shares them.
        """
        ways = join([way_to_exchange(exchange), *(way_to_queue(queue, exchange, ()) for queue in queues)])
        with connected(self.url) as channel:
            for queue in (*queues, *map(dead_queue, queues), *(spec.name for spec in ways.queues)):
                channel.queue_delete(queue)
            for name in (exchange, *(spec.name for spec in ways.exchanges)):
                channel.exchange_delete(name)


@contextmanager
def connected(url: str) -> Iterator[BlockingChannel]:
    """A channel for what is not measured."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0  # nobody serves it while others are measured
    parameters.socket_timeout = parameters.blocked_connection_timeout = CONNECT_SECONDS
    try:
        connection = pika.BlockingConnection(parameters)
    except AMQPConnectorException as error:  # a handshake that takes too long: of none of pika's public kinds
        raise AMQPConnectionError(str(error)) from error
    try:
        yield connection.channel()
    finally:
        connection.close()


def rabbitmq_if_any() -> RabbitMq | None:
    """`find_rabbitmq`, or None where there is none, which is said. `ClickException` where one was named."""
    try:
        return find_rabbitmq()
    except BrokerMissing as error:
        if os.environ.get(VARIABLE):
            raise click.ClickException(str(error)) from error
        click.echo(f"RabbitMQ is not measured: {error}", err=True)
        return None


def find_rabbitmq() -> RabbitMq:
    """The broker that `$DISPATCHER_TEST_AMQP_URL` names, else the one on localhost. Raises `BrokerMissing`."""
    parts = urlsplit(os.environ.get(VARIABLE) or LOCAL)
    host, port = parts.hostname or "localhost", parts.port or 5672
    place = f"{host}:{port}"
    if parts.scheme != "amqp":
        raise BrokerMissing(
            f"{VARIABLE}: expected amqp://, got {parts.scheme}://; not every client is measured with TLS"
        )
    login = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
    virtual_host = quote(unquote(parts.path[1:]) or "/", safe="")
    url = f"amqp://{login}@{f'[{host}]' if ':' in host else host}:{port}/{virtual_host}"
    try:
        with connected(url) as channel:
            version = channel.connection._impl.server_properties["version"]
    except (AMQPError, AMQPConnectorException, OSError) as error:  # the second: it does not answer in time
        raise BrokerMissing(
            f"no RabbitMQ answers at {place} ({type(error).__name__}); {VARIABLE} names another"
        ) from error
    return RabbitMq(url, str(version), _listener(host, port))


def _listener(host: str, port: int) -> int:
    """The process of this machine that listens on `port`; zero where it cannot be told. Needs /proc: Linux."""
    if not any(address[4][0] in ("127.0.0.1", "::1") for address in socket.getaddrinfo(host, port)):
        return 0
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:  # 0A: listening
                inodes.add(f"socket:[{words[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) in inodes:
                return int(descriptor.parts[2])
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return 0
