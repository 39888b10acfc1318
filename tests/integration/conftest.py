"""Fixtures of the integration tests: each test runs on the memory broker, on a real SQLite file and on a real RabbitMQ."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import msgspec
import pytest
from rabbitmq_roles import Roles
from rabbitmq_url import RabbitMq
from server_bench import Bench, EmbeddedHands, Hands, RabbitHands, Recorder

from dispatcher import Dispatcher, Queue, Server, ServerConfig
from dispatcher.model.topology import Topology

LADDER = r"dispatcher\.delay(\.((high\.)?[0-9]+|due|dead|probe))?"
"""What is in a vhost once, whatever is declared there. To make it and to delete it takes most of a second."""


@pytest.fixture(scope="session")
def laddered_vhost(rabbitmq: RabbitMq) -> Iterator[str]:
    name = f"dispatcher-test-{token_hex(6)}"
    rabbitmq.admin.add_vhost(name)
    yield name
    rabbitmq.admin.delete_vhost(name)


@pytest.fixture
def used_vhost(rabbitmq: RabbitMq, laddered_vhost: str) -> Iterator[str]:
    """The name of a vhost with the delay ladder that a test before made, empty, and with nothing else."""
    yield laddered_vhost
    rabbitmq.admin.clear(laddered_vhost, keep=LADDER)


def url_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "rabbitmq-work-role":
        users: Roles = request.getfixturevalue("role_users")
        return users.url("work")
    if kind.startswith("rabbitmq"):
        rabbitmq: RabbitMq = request.getfixturevalue("rabbitmq")
        return rabbitmq.url_of(request.getfixturevalue("used_vhost"))
    return "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/dispatcher.db"


@pytest.fixture(params=["memory", "sqlite", "rabbitmq"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which broker. A module that asks for more kinds has a fixture of this name itself."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty broker of each kind."""
    return url_of(kind, request, tmp_path)


@pytest.fixture(params=["sqlite", "rabbitmq"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty broker of each kind that several processes, and several apps, can use at once."""
    return url_of(request.param, request, tmp_path)


@pytest.fixture
def hands(request: pytest.FixtureRequest, kind: str, url: str) -> Hands:
    """Hands in the broker of `url`."""
    if not url.startswith("amqp"):
        return EmbeddedHands()
    rabbitmq: RabbitMq = request.getfixturevalue("rabbitmq")
    vhost = request.getfixturevalue("vhost" if kind == "rabbitmq-work-role" else "used_vhost")
    return RabbitHands(rabbitmq.admin, vhost, rabbitmq.url_of(vhost))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def app(url: str, recorder: Recorder) -> Dispatcher:
    return Dispatcher(url, observers=[recorder])


@pytest.fixture
async def server(kind: str, url: str, recorder: Recorder, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    config = ServerConfig(url=url, exchange="ex", default_routing_key="rk", observers=[recorder])
    if kind == "rabbitmq-classic":
        config = msgspec.structs.replace(config, init_queues=[Queue("q", type="classic")])
    if kind == "rabbitmq-work-role":
        await request.getfixturevalue("role_users").install(Topology("ex", (Queue("q", ("rk",)),)))
        config = msgspec.structs.replace(config, declare="verify")
    async with await Server.connect(config) as server:
        yield server
        await server.close(grace_seconds=0)


@pytest.fixture
def bench(server: Server, hands: Hands) -> Bench:
    return Bench(server, hands)
