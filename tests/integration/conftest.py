"""Fixtures of the integration tests: each test runs on the memory broker, on a real SQLite file and on a real RabbitMQ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from rabbitmq_roles import Roles
from server_bench import Bench, EmbeddedHands, Hands, RabbitHands, Recorder

from dispatcher import Dispatcher, Queue, Server, ServerConfig
from dispatcher.model.topology import Topology


def url_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "rabbitmq-work-role":
        users: Roles = request.getfixturevalue("role_users")
        return users.url("work")
    if kind.startswith("rabbitmq"):
        return str(request.getfixturevalue("vhost_url"))
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
def hands(request: pytest.FixtureRequest, url: str) -> Hands:
    """Hands in the broker of `url`."""
    if not url.startswith("amqp"):
        return EmbeddedHands()
    vhost, vhost_url = request.getfixturevalue("vhost"), request.getfixturevalue("vhost_url")
    return RabbitHands(request.getfixturevalue("rabbitmq").admin, vhost, vhost_url)


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
