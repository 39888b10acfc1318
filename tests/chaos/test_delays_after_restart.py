"""What waits for its time while everything is killed: it is delivered when all is back, and never early."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rabbitmq_node import PrivateNode

from dispatcher import Dispatcher

DEADLINE_SECONDS = 60.0
SOURCE = Path(__file__).resolve().parents[2] / "src"

SENDER = """
import asyncio, os, signal, sys, time
from dispatcher import Dispatcher

app = Dispatcher(sys.argv[1])

@app.task
def note(due: float) -> None: ...

async def main():
    async with app:
        for seconds in map(float, sys.argv[2:]):
            due = time.time() + seconds
            await note.options(delay_seconds=seconds).send(due)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def send_and_die(url: str, *seconds: float) -> None:
    """Each delayed by so many seconds, by a process that kills itself when all are accepted."""
    ran = subprocess.run(
        [sys.executable, "-c", SENDER, url, *map(str, seconds)],
        env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    assert ran.returncode == -9, ran.stderr


async def take(url: str, count: int) -> list[float]:
    """How late each of `count` tasks is, by a worker that is new here."""
    came: asyncio.Queue[float] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    app = Dispatcher(url)

    @app.task
    def note(due: float) -> None:
        loop.call_soon_threadsafe(came.put_nowait, time.time() - due)

    async with app, asyncio.timeout(DEADLINE_SECONDS):
        running = asyncio.create_task(app.run_worker())
        late = [await came.get() for _ in range(count)]
        running.cancel()
        await asyncio.wait([running])
    return late


async def test_on_the_embedded_broker(tmp_path: Path) -> None:
    """One that came due while nobody lived, and one that still waits."""
    url = f"sqlite:///{tmp_path}/broker.db"
    await asyncio.to_thread(send_and_die, url, 0.1, 2.0)
    assert all(late >= 0 for late in await take(url, 2))


@pytest.mark.timeout(300)
async def test_on_rabbitmq(node: PrivateNode, own_vhost: str) -> None:
    """The node is killed with them on the ladder: one comes due while it is away, one waits on several levels after it."""
    url = node.url(vhost=own_vhost)
    await asyncio.to_thread(send_and_die, url, 0.0)
    # RabbitMQ 3.10 keeps who leads a new queue in memory for some seconds: killed within them, it finds no leader later.
    await asyncio.to_thread(node.restart)
    await asyncio.to_thread(send_and_die, url, 0.3, 12.7)
    await asyncio.to_thread(node.kill)
    await asyncio.to_thread(node.start)
    assert all(late >= 0 for late in await take(url, 3))
