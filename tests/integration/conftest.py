"""Fixtures of the integration tests: each test runs on the memory broker and on a real SQLite file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from server_bench import Bench, Recorder

from dispatcher import Dispatcher, Server, ServerConfig


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/dispatcher.db"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def app(url: str, recorder: Recorder) -> Dispatcher:
    return Dispatcher(url, observers=[recorder])


@pytest.fixture
async def server(url: str, recorder: Recorder) -> AsyncIterator[Server]:
    config = ServerConfig(url=url, exchange="ex", default_routing_key="rk", observers=[recorder])
    async with await Server.connect(config) as server:
        yield server
        await server.close(grace_seconds=0)


@pytest.fixture
def bench(server: Server) -> Bench:
    return Bench(server)
