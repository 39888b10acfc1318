"""Runs a ledger: starts workers and publishers as real processes, has a nemesis at them, heals, drains, collects.

It only acts and gathers; what the ledgers mean is judged by `ledger_check`. It never signals a process that it did not
start.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ledger_actor import Actor
from ledger_app import is_doomed
from ledger_check import Event, History, Kill, Parked

from dispatcher import Dispatcher
from dispatcher.brokers.sqlite.file import connect
from dispatcher.brokers.sqlite.liveness import FileLock
from dispatcher.model import headers as names
from dispatcher.model.topology import dead_queue

__all__ = ["Plan", "Stage"]

CHILD = Path(__file__).with_name("ledger_child.py")
TORMENT_SECONDS = 150.0
DRAIN_SECONDS = 100.0
EXIT_SECONDS = 60.0
POLL_SECONDS = 0.05
LOCK_SECONDS = 0.5
SUSPEND_TRIES = 100

HELD_BY = "SELECT m.uuid FROM sessions s JOIN held h ON h.session = s.id JOIN messages m ON m.id = h.id WHERE s.pid = ?"
WAITING = "SELECT count(*) FROM messages m JOIN queues q ON q.id = m.queue_id WHERE q.dead IS NOT NULL"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. Every `period_seconds` a process is struck in the way that `how` says:

    `kill`: `kill -9`; one in `pause_one_in` is only stopped for `pause_seconds` instead, none where that is 0.
    `term`: a worker is told to drain. `suspend`: stopped for `pause_seconds`, which the others take for its death.
    `fault` is planted in every child; `short_lease` is none, it makes a stopped process count as dead after seconds.
    """

    tasks: int
    kind: str = "mixed"
    workers: int = 4
    publishers: int = 2
    limit: int = 16
    how: Literal["kill", "term", "suspend"] = "kill"
    period_seconds: float = 1.0
    pause_one_in: int = 0
    pause_seconds: float = 2.0
    fault: str = ""


class Stage:
    """A folder with a broker's file and ledgers, and the actors that work on them."""

    def __init__(self, folder: Path, plan: Plan, seed: int) -> None:
        self.folder = folder
        self.plan = plan
        self.file = folder / "broker.db"
        self.companion = folder / "broker.db-dispatcher"
        self.url = f"sqlite:///{self.file}"
        self.rng = random.Random(seed)
        self.kills: list[Kill] = []
        self.pauses = 0
        self._turn = 0
        self._leaving: list[subprocess.Popen[bytes]] = []
        self.workers: list[Actor] = []
        self.publishers: list[Actor] = []

    # --- the play --------------------------------------------------------------------------------------------------

    async def run(self) -> History:
        """Publish and work under the nemesis, heal, drain, end everything, and return what the ledgers say."""
        with self._actors():
            await self._torment()
            await self._drain()
            await self._end_workers()
        return await self._collect()

    @contextmanager
    def _actors(self) -> Iterator[None]:
        plan = self.plan
        try:
            share = plan.tasks // plan.publishers
            for number in range(plan.publishers):
                arguments = ["publish", f"p{number}", plan.kind, str(share)]
                self.publishers.append(self._actor(f"publisher-{number}", arguments))
            for number in range(plan.workers):
                self.workers.append(self._actor(f"worker-{number}", ["work", str(plan.limit)]))
            yield
        finally:
            for process in [actor.process for actor in self.publishers + self.workers] + self._leaving:
                process.kill()
                process.wait()

    def _actor(self, role: str, arguments: list[str]) -> Actor:
        environment = os.environ | {
            "DISPATCHER_URL": self.url,
            "LEDGER_FOLDER": str(self.folder),
            "LEDGER_FAULT": self.plan.fault,
        }
        command = [sys.executable, "-W", "default", str(CHILD), *arguments]
        return Actor(role, command, environment, self.folder / f"{role}.err")

    # --- the nemesis -----------------------------------------------------------------------------------------------

    async def _torment(self) -> None:
        """Strike every period until all is published and little is left to do; then heal."""
        deadline = time.monotonic() + TORMENT_SECONDS
        async with asyncio.TaskGroup() as stopped:
            while any(actor.running for actor in self.publishers) or self._waiting() > self.plan.tasks // 20:
                await asyncio.sleep(self.plan.period_seconds)
                assert time.monotonic() < deadline, f"not done within {TORMENT_SECONDS:.0f} s: {self._state()}"
                self._check_actors()
                victim = self._victim()
                # A process stopped while it creates the tables would bar the file to those who want to look into it.
                if victim is not None and self.read("SELECT * FROM state"):
                    self._strike(victim, stopped)

    def _strike(self, victim: Actor, stopped: asyncio.TaskGroup) -> None:
        plan = self.plan
        if plan.how == "term":
            self._terminate(victim)
        elif plan.how == "suspend":
            stopped.create_task(self._suspend(victim))
        elif plan.pause_one_in and self.rng.randrange(plan.pause_one_in) == 0:
            stopped.create_task(self._pause(victim))
        else:
            self._kill(victim)

    def _victim(self) -> Actor | None:
        """A worker and a publisher in turn, as long as there is one. Publishers are not told to drain, which is for
        workers. Who is stopped is not replaced, so at least half of either are left going."""
        self._turn += 1
        publishing = [actor for actor in self.publishers if actor.running]
        troupe = publishing if publishing and self._turn % 2 == 0 and self.plan.how != "term" else self.workers
        candidates = [actor for actor in troupe if not actor.paused]
        if self.plan.how == "suspend" and 2 * (len(candidates) - 1) < len(troupe):
            return None
        return self.rng.choice(candidates) if candidates else None

    def _kill(self, actor: Actor) -> None:
        """`kill -9` at a random moment. It is stopped at that moment first, so that what it holds can be read."""
        if not actor.freeze():
            return
        pid = actor.process.pid
        kill = Kill(actor.role, pid, time.monotonic(), tuple(self._held_by(pid)))
        actor.kill()
        self.kills.append(kill)
        actor.start()

    async def _pause(self, actor: Actor) -> None:
        if actor.freeze():
            self.pauses += 1
            await asyncio.sleep(self.plan.pause_seconds)
            actor.thaw()

    async def _suspend(self, actor: Actor) -> None:
        """Stop a process until it has been taken for dead, and let it go on as a ghost of itself.

        Not while it holds the file's lock: then everybody waits for it, and nobody is there to take it for dead. Nor a
        worker that holds no message, which would show nothing.
        """
        for _ in range(SUSPEND_TRIES):
            if not actor.freeze():
                return
            try:
                pid = actor.process.pid
                held = self._held_by(pid)
                if (held or actor in self.publishers) and not self._lock_is_held():
                    self.kills.append(Kill(actor.role, pid, time.monotonic(), tuple(held)))
                    await asyncio.sleep(self.plan.pause_seconds)
                    return
            finally:
                actor.thaw()
            await asyncio.sleep(0)

    def _lock_is_held(self) -> bool:
        """Whether the file's lock stays taken for longer than any transaction of a running process lasts."""
        path = self.companion / "write.lock"
        if not path.exists():
            return True  # nobody has got that far: there is nothing to disturb yet
        lock = FileLock(str(path))
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while not lock.try_acquire():
                if time.monotonic() > deadline:
                    return True
                time.sleep(0.001)
            return False
        finally:
            lock.close()

    def _terminate(self, actor: Actor) -> None:
        """Tell a worker to drain; its successor starts at once."""
        actor.process.terminate()
        self._leaving.append(actor.process)
        self.kills.append(Kill(actor.role, actor.process.pid, time.monotonic(), ()))
        actor.start()

    def _check_actors(self) -> None:
        """Nobody may end but by our hand: a publisher when it is done, a worker never."""
        for actor in self.workers:
            assert actor.running, f"{actor.role} ended by itself: {actor.process.returncode}\n{actor.said()}"
        for actor in self.publishers:
            code = actor.process.poll()
            assert code in (None, 0), f"{actor.role} failed: {code}\n{actor.said()}"

    def _state(self) -> str:
        """Who does what, for a run that does not come to its end."""
        actors = [
            f"{actor.role} (pid {actor.process.pid}, {'stopped' if actor.paused else actor.process.poll()}):"
            f" holds {len(self._held_by(actor.process.pid))}"
            for actor in self.publishers + self.workers
        ]
        return f"{'; '.join(actors)}; {self._waiting()} waiting; {self.read('SELECT * FROM sessions')}"

    # --- looking into the file -------------------------------------------------------------------------------------

    def read(self, query: str, *values: Any) -> list[Any]:
        """Rows of the broker's file, read beside it."""
        if not self.file.exists():
            return []
        with closing(connect(str(self.file))) as connection:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return []
            rows: list[Any] = connection.execute(query, values).fetchall()
            return rows

    def _held_by(self, pid: int) -> list[str]:
        return [row[0] for row in self.read(HELD_BY, pid)]

    def _waiting(self) -> int:
        rows = self.read(WAITING)
        return int(rows[0][0]) if rows else 0

    # --- the end ---------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Wait until the healed workers have nothing left to do."""
        async with asyncio.timeout(DRAIN_SECONDS), Dispatcher(self.url, declare="never") as app:
            while True:
                self._check_actors()
                depths = await app.server.inspector.queues()
                if depths and not any(depth.ready or depth.unacked or depth.delayed for depth in depths):
                    return
                await asyncio.sleep(POLL_SECONDS)  # what other processes do sends us no event

    async def _end_workers(self) -> None:
        for actor in self.workers:
            actor.process.terminate()
        for process in [actor.process for actor in self.workers] + self._leaving:
            code = await asyncio.to_thread(process.wait, EXIT_SECONDS)
            # Told to end before Python had even set up its signals, it ends the kernel's way.
            assert code in (0, -signal.SIGTERM), f"a worker ended with {code} after SIGTERM, expected 0"

    async def _collect(self) -> History:
        published = [line.split() for line in self._lines("publisher-*.ledger")]
        attempted = frozenset(words[1] for words in published if words[0] == "attempt")
        parked: list[Parked] = []
        waiting: list[str] = []
        async with Dispatcher(self.url, declare="never") as app:
            inspector = app.server.inspector
            for queue in await inspector.queues():
                waiting += [found.message.uuid async for found in inspector.browse(queue.name)]
                async for found in inspector.browse(dead_queue(queue.name)):
                    parked.append(Parked(found.message.uuid, str((found.message.headers or {})[names.REASON])))
        return History(
            attempted=attempted,
            accepted=frozenset(words[1] for words in published if words[0] == "accepted"),
            refused=frozenset(words[1] for words in published if words[0] == "refused"),
            events=tuple(_event(line) for line in self._lines("runs-*.ledger")),
            parked=tuple(parked),
            waiting=tuple(waiting),
            kills=tuple(self.kills),
            doomed=frozenset(filter(is_doomed, attempted)),
        )

    def _lines(self, pattern: str) -> list[str]:
        """The whole lines of the ledgers: what a kill cut short was not done."""
        return [line for path in sorted(self.folder.glob(pattern)) for line in path.read_text().split("\n")[:-1]]


def _event(line: str) -> Event:
    what, uuid, attempt, redelivered, pid, at = line.split()
    return Event(what, uuid, int(attempt), redelivered == "1", int(pid), float(at))  # type: ignore[arg-type]
