"""A server with a worker and steady traffic, all in the test's own loop, on a RabbitMQ that is harmed meanwhile.

It keeps its own ledger: what was attempted, accepted and executed. Every wait has a deadline that is reached only when
something is broken.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from ledger_check import Event, History, judge

from dispatcher import PublishError, Queue, Server, ServerConfig, Task, TaskConfig, WorkerConfig, current_task
from dispatcher.model.task import new_uuid
from dispatcher.observe.hooks import AnyEvent

__all__ = ["DEADLINE_SECONDS", "LIMIT", "Recorder", "Stand", "stand"]

DEADLINE_SECONDS = 50.0
LIMIT = 8
SENDERS = 5
PACE_SECONDS = 0.005
QUIET = 100
"""So many tasks are to be accepted before and after a fault, to show that all was well then."""


class Recorder:
    """An observer that keeps every event, and lets a test wait for some."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self._changed = asyncio.Event()

    def on_event(self, event: AnyEvent) -> None:
        self.events.append(event)
        self._changed.set()

    def named(self, name: str) -> list[Any]:
        return [event for event in self.events if event.name == name]

    async def wait_for(self, name: str, count: int = 1) -> list[Any]:
        """The first `count` events of that name, once they are there."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.named(name)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.named(name)[:count]


class Stand:
    """Made by `stand`. `runs` counts how often each uuid was executed; `redelivered` are those that a flag came with."""

    def __init__(self, server: Server, recorder: Recorder) -> None:
        self.server = server
        self.recorder = recorder
        self.attempted: set[str] = set()
        self.accepted: set[str] = set()
        self.failed: list[PublishError] = []
        self.runs: Counter[str] = Counter()
        self.redelivered: set[str] = set()
        self.holding: set[str] = set()
        self.let_go = asyncio.Event()
        self._sending: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    # --- the tasks -------------------------------------------------------------------------------------------------

    async def note(self) -> None:
        self._count()

    async def hold(self) -> None:
        """Run until it is let go."""
        self.holding.add(current_task().uuid)
        self._changed.set()
        await self.let_go.wait()
        self._count()

    def _count(self) -> None:
        task = current_task()
        self.runs[task.uuid] += 1
        if task.redelivered:
            self.redelivered.add(task.uuid)
        self._changed.set()

    async def start_worker(self) -> None:
        worker = await self.server.new_worker(
            WorkerConfig("w", "q", ("rk",), LIMIT), {"note": TaskConfig(self.note), "hold": TaskConfig(self.hold)}
        )
        await worker.start()

    @asynccontextmanager
    async def expect(self, *names: str) -> AsyncIterator[list[Any]]:
        """What happens inside brings an event of each of these names: they are in the list at the end."""
        before = {name: len(self.recorder.named(name)) for name in names}
        came: list[Any] = []
        yield came
        for name in names:
            came.append((await self.recorder.wait_for(name, before[name] + 1))[-1])

    # --- traffic ---------------------------------------------------------------------------------------------------

    async def send(self, name: str = "note") -> str:
        """Publish one task; its uuid. Raises a `PublishError`."""
        uuid = new_uuid()
        self.attempted.add(uuid)
        await self.server.publish(Task(name, uuid=uuid))
        self.accepted.add(uuid)
        self._changed.set()
        return uuid

    async def _send_on(self) -> None:
        while True:
            try:
                await self.send()
            except PublishError as error:
                self.failed.append(error)
                self._changed.set()
            await asyncio.sleep(PACE_SECONDS)

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Publish all the while, and until more has come through afterwards; then check that nothing is missing."""
        senders = [asyncio.create_task(self._send_on()) for _ in range(SENDERS)]
        try:
            await self.more_accepted()
            yield
            await self.more_accepted()
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.wait(senders)
        await self.until(lambda: self.accepted <= set(self.runs))
        self.check()

    async def more_accepted(self) -> None:
        before = len(self.accepted)
        await self.until(lambda: len(self.accepted) >= before + QUIET)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not what():
                self._changed.clear()
                await self._changed.wait()

    def check(self) -> None:
        """Nothing accepted is missing, nothing ran that nobody sent, and nothing ran twice without a lost session."""
        lost = len(self.recorder.named("broker.disconnected"))
        verdict = judge(
            History(
                attempted=frozenset(self.attempted),
                accepted=frozenset(self.accepted),
                events=tuple(Event("ok", uuid, 1, False, 0, 0.0) for uuid in self.runs.elements()),
                resent=tuple(self.runs.elements()) if lost else (),
            )
        )
        assert not (complaints := verdict.complaints()), complaints
        assert verdict.duplicated <= lost * (LIMIT + SENDERS), f"{verdict.duplicated} twice, {lost} sessions lost"


@asynccontextmanager
async def stand(url: str, *, worker: bool = True, **settings: Any) -> AsyncIterator[Stand]:
    """A server at `url`, with its worker unless that is not wanted. It is closed at the end, whatever the state it is in."""
    recorder = Recorder()
    config = ServerConfig(
        url=url,
        exchange="ex",
        default_routing_key="rk",
        init_queues=[Queue("q", binding_keys=["rk"])],
        observers=[recorder],
        **({"reconnection_interval_seconds": 0.1, "reconnection_max_interval_seconds": 1.0} | settings),
    )
    server = await Server.connect(config)
    one = Stand(server, recorder)
    try:
        if worker:
            await one.start_worker()
        yield one
    finally:
        one.let_go.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await server.close(grace_seconds=5)
