"""The brokers of a run: the RabbitMQ of `make bench`, and a Redis of our own on a free port, with a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from ..rabbitmq import RabbitMq, connected, rabbitmq_if_any
from .catalogue import Setup
from .worker import PeerFailed

__all__ = ["Redis", "Services", "services"]

DEADLINE_SECONDS = 30.0
INSTALL_SECONDS = 300.0
ANSWER_SECONDS = 5.0


class Redis(msgspec.Struct, frozen=True):
    port: int
    version: str
    pid: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def clear(self) -> None:
        """Delete everything: it is ours alone."""
        if not _answers(self.port, b"FLUSHALL", b"+OK"):
            raise click.ClickException("Redis did not answer to FLUSHALL")


class Services(msgspec.Struct):
    """`missing` says for each broker that is not there why, in a few words."""

    rabbitmq: RabbitMq | None = None
    redis: Redis | None = None
    missing: dict[str, str] = {}

    def wait_until_empty(self, queue: str) -> None:
        """The queue on RabbitMQ has no message; what it counts lags a little behind. PeerFailed if it never does."""
        assert self.rabbitmq is not None
        deadline = time.monotonic() + DEADLINE_SECONDS
        with connected(self.rabbitmq.url) as channel:
            while found := channel.queue_declare(queue, passive=True).method.message_count:
                if time.monotonic() > deadline:
                    raise PeerFailed(f"expected an empty queue afterwards, got {found} messages")
                time.sleep(0.05)

    def clean(self, setup: Setup, queue: str) -> None:
        """Delete what a measurement may have left in the broker."""
        if self.rabbitmq is not None and setup.service in ("rabbitmq", "go"):
            self.rabbitmq.delete(queue, [queue, *(each.format(queue=queue) for each in setup.queues)])
        if self.redis is not None and setup.service == "redis":
            self.redis.clear()

    def broker_pid(self, service: str) -> int:
        """The process whose CPU time is the broker's; zero where there is none, or it is not ours to look at."""
        broker = {"rabbitmq": self.rabbitmq, "redis": self.redis}.get(service)
        return broker.pid if broker is not None else 0


@contextmanager
def services(names: set[str], scratch: Path) -> Iterator[Services]:
    """What of `names` is to be had; a Redis that was started is ended again."""
    found = Services()
    if "rabbitmq" in names:
        found.rabbitmq = rabbitmq_if_any()
        if found.rabbitmq is None:
            found.missing["rabbitmq"] = "no RabbitMQ"
    if "redis" not in names:
        yield found
        return
    if not _redis_installed():
        found.missing["redis"] = "no redis-server, and it could not be installed from the system's packages"
        yield found
        return
    process = _start_redis(scratch, found)
    try:
        yield found
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def _redis_installed() -> bool:
    """There is a `redis-server`, installed now where that is allowed without asking."""
    if shutil.which("redis-server"):
        return True
    if shutil.which("apt-get") is None:
        return False
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    click.echo("setup: installing redis-server with apt-get", err=True)
    for words in (["update", "-q"], ["install", "-qy", "--no-install-recommends", "redis-server"]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            subprocess.run(
                [*as_root, "apt-get", *words],
                env=environment,
                capture_output=True,
                check=True,
                timeout=INSTALL_SECONDS,
            )
        except (OSError, subprocess.SubprocessError):
            return False
    return shutil.which("redis-server") is not None


def _start_redis(scratch: Path, found: Services) -> subprocess.Popen[bytes]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = scratch / "redis"
    folder.mkdir()
    # As it ships, which is snapshots and no append-only file, on a port and in a folder of its own.
    words = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise click.ClickException(f"redis-server did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.02)
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    number = next(word[2:] for word in version.stdout.split() if word.startswith("v="))
    found.redis = Redis(port, number, process.pid)
    return process


def _answers(port: int, command: bytes = b"PING", wanted: bytes = b"+PONG") -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(16).startswith(wanted)
    except OSError:
        return False
