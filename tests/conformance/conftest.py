"""The fixture `rig`: each test of this folder runs once per broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from brokers_under_test import BROKERS, Rig, rabbitmq


@pytest.fixture(params=[*sorted(BROKERS), "rabbitmq"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    if request.param == "rabbitmq":
        opened = rabbitmq(request.getfixturevalue("vhost_url"), request.getfixturevalue("rabbitmq"))
    else:
        opened = BROKERS[request.param](tmp_path)
    async with opened as rig:
        yield rig
        await rig.close()
