"""The fixture `rig`: each test of this folder runs once per broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from brokers_under_test import BROKERS, Rig


@pytest.fixture(params=sorted(BROKERS))
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with BROKERS[request.param](tmp_path) as rig:
        yield rig
        await rig.close()
