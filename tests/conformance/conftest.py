"""The fixture `rig`: each test of this folder runs once per broker, and on RabbitMQ with least privilege too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from brokers_under_test import BROKERS, Rig, rabbitmq

ABOUT_THE_INSTALL_ROLE = ("test_broker_topology", "test_broker_inspector")
"""What they test nobody but the install role may do: to declare, and to look into queues."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rig" not in metafunc.fixturenames:
        return
    kinds = [*sorted(BROKERS), "rabbitmq"]
    if metafunc.module.__name__ not in ABOUT_THE_INSTALL_ROLE:
        kinds.append("rabbitmq-work-role")
    metafunc.parametrize("rig", kinds, indirect=True)


@pytest.fixture
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    if request.param in BROKERS:
        opened = BROKERS[request.param](tmp_path)
    else:
        users = request.getfixturevalue("role_users") if request.param == "rabbitmq-work-role" else None
        opened = rabbitmq(request.getfixturevalue("vhost_url"), request.getfixturevalue("rabbitmq"), users)
    async with opened as rig:
        yield rig
        await rig.close()
