"""The file, its sessions, and second processes that share it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlite_rig import Rig, SpawnChild

CHILD = Path(__file__).with_name("sqlite_child.py")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "broker.db")
    yield rig
    for session in rig.sessions:
        await session.close()


@pytest.fixture
def spawn() -> Iterator[SpawnChild]:
    """Starts `sqlite_child.py MODE PATH ARGS...`; what it prints is read line by line from its stdout."""
    children: list[subprocess.Popen[str]] = []

    def start(mode: str, path: Path, *arguments: object, **env: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, str(CHILD), mode, str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.send_signal(signal.SIGCONT)
            child.kill()
        child.communicate()
