"""The leader of a schedule is killed, again and again: the others go on firing, and every instant is in the queue."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from schedule_child import FIRED_QUEUE, SCHEDULE, app_at

from dispatcher.brokers.base import BrowsedMessage
from dispatcher.model.schedule import firing_uuid

CHILD = Path(__file__).with_name("schedule_child.py")
KILLS = 4
TAKEOVER_SECONDS = 100.0
"""Ten times as long as it may take: a machine that is busy with other tests is no fault of a schedule."""


class Worker:
    """One worker process, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process, changed: asyncio.Event) -> None:
        self.process = process
        self.leads = False
        self.fired: list[tuple[int, str, bool]] = []
        self._changed = changed
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            match line.decode().split():
                case ["leading"]:
                    self.leads = True
                case ["fired", at_ms, uuid, doubtful]:
                    self.fired.append((int(at_ms), uuid, doubtful == "1"))
            self._changed.set()


class Fleet:
    """The workers of one test, dead ones too."""

    def __init__(self, url: str) -> None:
        self.all: list[Worker] = []
        self.alive: list[Worker] = []
        self._url = url
        self._changed = asyncio.Event()

    async def start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CHILD), self._url, stdout=asyncio.subprocess.PIPE
        )
        worker = Worker(process, self._changed)
        self.all.append(worker)
        self.alive.append(worker)

    async def leader(self, firings: int) -> Worker:
        """The one that leads, once it has fired so often."""
        async with asyncio.timeout(TAKEOVER_SECONDS):
            while True:
                for worker in self.alive:
                    if worker.leads and len(worker.fired) >= firings:
                        return worker
                self._changed.clear()
                await self._changed.wait()

    async def end(self, worker: Worker, *, kill: bool) -> None:
        self.alive.remove(worker)
        if worker.process.returncode is None:
            worker.process.kill() if kill else worker.process.terminate()
        await asyncio.wait_for(worker.process.wait(), TAKEOVER_SECONDS)
        await worker.reading


@asynccontextmanager
async def fleet_at(url: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(url)
    try:
        yield fleet
    finally:
        for worker in list(fleet.alive):
            await fleet.end(worker, kill=True)


@pytest.fixture(params=["sqlite", "rabbitmq"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("vhost_url")) if kind == "rabbitmq" else f"sqlite:///{tmp_path}/broker.db"


async def in_the_queue(url: str) -> list[BrowsedMessage]:
    async with app_at(url) as app, aclosing(app.server.inspector.browse(FIRED_QUEUE)) as messages:
        return [seen async for seen in messages]


@pytest.mark.timeout(6 * TAKEOVER_SECONDS)
async def test_no_firing_is_lost_with_its_leader(url: str, kind: str) -> None:
    """The instants are an unbroken sequence, each with its uuid; SQLite has each once, RabbitMQ one a kill twice at most."""
    takeovers: list[float] = []
    async with fleet_at(url) as fleet:
        for _ in range(3):
            await fleet.start()
        leader = await fleet.leader(2)
        for _ in range(KILLS):
            await fleet.start()
            killed_at = time.monotonic()
            await fleet.end(leader, kill=True)
            leader = await fleet.leader(1)
            takeovers.append(time.monotonic() - killed_at)
            leader = await fleet.leader(2)
        for worker in list(fleet.alive):
            await fleet.end(worker, kill=False)
    print(f"{kind}: the next had fired {', '.join(f'{seconds:.2f}' for seconds in takeovers)} s after a kill")

    instants: Counter[int] = Counter()
    for seen in await in_the_queue(url):
        headers = seen.message.headers or {}
        at_ms = headers["x-dispatcher-scheduled-at"]
        assert headers["x-dispatcher-schedule"] == SCHEDULE
        assert seen.message.uuid == firing_uuid(SCHEDULE, at_ms)
        instants[at_ms] += 1
    assert sorted(instants) == list(range(min(instants), max(instants) + 1, 1000))
    doubled = {at_ms for at_ms, count in instants.items() if count > 1}
    told = {at_ms for worker in fleet.all for at_ms, _, doubtful in worker.fired if doubtful}
    if kind == "sqlite":
        assert not doubled
        assert not told
    else:
        assert max(instants.values()) <= 2
        assert doubled <= told
        assert len(told) <= KILLS
    fired = {at_ms for worker in fleet.all for at_ms, _, _ in worker.fired}
    assert fired <= set(instants)
