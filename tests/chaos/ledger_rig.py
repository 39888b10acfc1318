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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ledger_actor import Actor
from ledger_app import app as ledger_app
from ledger_app import is_doomed
from ledger_check import Event, History, Kill, Parked

from dispatcher import Dispatcher
from dispatcher.model import headers as names
from dispatcher.model.topology import dead_queue

__all__ = ["Ground", "Plan", "Stage"]

CHILD = Path(__file__).with_name("ledger_child.py")
TORMENT_SECONDS = 150.0
EMPTY_LOOKS = 3
DRAIN_SECONDS = 400.0
EXIT_SECONDS = 60.0
POLL_SECONDS = 0.05
SUSPEND_TRIES = 100


class Ground(Protocol):
    """The broker that a run takes place on. `url`: for the processes; `own_url`: for us, who are not harmed.

    Of its methods only `harm` may take long.
    """

    @property
    def url(self) -> str: ...
    @property
    def own_url(self) -> str: ...

    def is_ready(self) -> bool:
        """Whether processes may be struck now."""
        ...

    def held_by(self, pid: int) -> list[str]:
        """The uuids that a process holds, one for each message; none where the broker does not tell."""
        ...

    def unfinished(self) -> int:
        """How many messages there are in all, dead letters aside."""
        ...

    def is_locked(self) -> bool:
        """Whether somebody bars all others just now."""
        ...

    def harm(self, what: str, progress: float) -> None:
        """Do harm to the broker or to the way there; `progress` is the share of the tasks that are published."""
        ...

    def heal(self) -> None:
        """Undo it."""
        ...

    def state(self) -> str:
        """For a run that does not come to its end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. Every `period_seconds` a process is struck in the way that `how` says:

    `kill`: `kill -9`; one in `pause_one_in` is only stopped for `pause_seconds` instead, none where that is 0.
    `term`: a worker is told to drain. `suspend`: stopped for `pause_seconds`, which the others take for its death.
    Everything else is harm that the ground does: see there. `pace_seconds`: how long a publisher rests after a batch.
    `torment_seconds`: the deadline of it all. `fault` is planted in every child. `short_lease` is none: with it a stopped process
    counts as dead after seconds.
    """

    tasks: int
    kind: str = "mixed"
    workers: int = 4
    publishers: int = 2
    limit: int = 16
    how: Literal["kill", "term", "suspend", "cut", "swallow", "unbind", "calm"] = "kill"
    period_seconds: float = 1.0
    pause_one_in: int = 0
    pause_seconds: float = 2.0
    pace_seconds: float = 0.0
    torment_seconds: float = TORMENT_SECONDS
    fault: str = ""


class Stage:
    """A folder with ledgers, a broker, and the actors that work on them."""

    def __init__(self, ground: Ground, folder: Path, plan: Plan, seed: int) -> None:
        self.ground = ground
        self.folder = folder
        self.plan = plan
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
            "DISPATCHER_URL": self.ground.url,
            "LEDGER_FOLDER": str(self.folder),
            "LEDGER_FAULT": self.plan.fault,
            "LEDGER_PACE_SECONDS": str(self.plan.pace_seconds),
        }
        command = [sys.executable, "-W", "default", str(CHILD), *arguments]
        return Actor(role, command, environment, self.folder / f"{role}.err")

    # --- the nemesis -----------------------------------------------------------------------------------------------

    async def _torment(self) -> None:
        """Strike every period until all is published and little is left to do; then heal."""
        deadline = time.monotonic() + self.plan.torment_seconds
        async with asyncio.TaskGroup() as stopped:
            while any(actor.running for actor in self.publishers) or self.ground.unfinished() > self.plan.tasks // 20:
                await asyncio.sleep(self.plan.period_seconds)
                if time.monotonic() > deadline:
                    raise AssertionError(f"not done within {self.plan.torment_seconds:.0f} s: {self._state()}")
                self._check_actors()
                if self.ground.is_ready():
                    await self._strike(stopped)
        self.ground.heal()

    async def _strike(self, stopped: asyncio.TaskGroup) -> None:
        plan = self.plan
        if plan.how not in ("kill", "term", "suspend"):
            await asyncio.to_thread(self.ground.harm, plan.how, self._progress())
            return
        victim = self._victim()
        if victim is None:
            return
        if plan.how == "term":
            self._terminate(victim)
        elif plan.how == "suspend":
            stopped.create_task(self._suspend(victim))
        elif plan.pause_one_in and self.rng.randrange(plan.pause_one_in) == 0:
            stopped.create_task(self._pause(victim))
        else:
            self._kill(victim)

    def _progress(self) -> float:
        return sum(line.startswith("accepted") for line in self.lines("publisher-*.ledger")) / self.plan.tasks

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
        kill = Kill(actor.role, pid, time.monotonic(), tuple(self.ground.held_by(pid)))
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
            if actor.paused or not actor.freeze():  # paused: another suspension chose it between two tries of this one
                return
            try:
                pid = actor.process.pid
                held = self.ground.held_by(pid)
                if (held or actor in self.publishers) and not self.ground.is_locked():
                    self.kills.append(Kill(actor.role, pid, time.monotonic(), tuple(held)))
                    await asyncio.sleep(self.plan.pause_seconds)
                    return
            finally:
                actor.thaw()
            await asyncio.sleep(0)

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
            f" holds {len(self.ground.held_by(actor.process.pid))}"
            for actor in self.publishers + self.workers
        ]
        return f"{'; '.join(actors)}; {self.ground.unfinished()} unfinished; {self.ground.state()}"

    # --- the end ---------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Wait until the healed workers have nothing left to do, by several looks in a row: queues are counted one after the
        other, and what goes from one to the next meanwhile is in neither."""
        deadline = time.monotonic() + DRAIN_SECONDS
        empty_looks = 0
        while empty_looks < EMPTY_LOOKS:
            empty_looks = 0 if self.ground.unfinished() else empty_looks + 1
            if time.monotonic() > deadline:
                raise AssertionError(f"not drained within {DRAIN_SECONDS:.0f} s: {self._state()}")
            self._check_actors()
            await asyncio.sleep(POLL_SECONDS)  # what other processes do sends us no event

    async def _end_workers(self) -> None:
        for actor in self.workers:
            actor.process.terminate()
        for process in [actor.process for actor in self.workers] + self._leaving:
            code = await asyncio.to_thread(process.wait, EXIT_SECONDS)
            # Told to end before Python had even set up its signals, it ends the kernel's way.
            assert code in (0, -signal.SIGTERM), f"a worker ended with {code} after SIGTERM, expected 0"

    async def _collect(self) -> History:
        published = [line.split() for line in self.lines("publisher-*.ledger")]
        attempted = frozenset(words[1] for words in published if words[0] == "attempt")
        parked: list[Parked] = []
        waiting: list[str] = []
        async with Dispatcher(self.ground.own_url, declare="never") as app:
            inspector = app.server.inspector
            for queue in ledger_app.queues:
                waiting += [found.message.uuid async for found in inspector.browse(queue.name)]
                async for found in inspector.browse(dead_queue(queue.name)):
                    parked.append(Parked(found.message.uuid, str((found.message.headers or {})[names.REASON])))
        return History(
            attempted=attempted,
            accepted=frozenset(words[1] for words in published if words[0] == "accepted"),
            refused=frozenset(words[1] for words in published if words[0] == "refused"),
            events=tuple(_event(line) for line in self.lines("runs-*.ledger")),
            parked=tuple(parked),
            waiting=tuple(waiting),
            kills=tuple(self.kills),
            doomed=frozenset(filter(is_doomed, attempted)),
        )

    def lines(self, pattern: str) -> list[str]:
        """The whole lines of the ledgers: what a kill cut short was not done."""
        return [line for path in sorted(self.folder.glob(pattern)) for line in path.read_text().split("\n")[:-1]]


def _event(line: str) -> Event:
    what, uuid, attempt, redelivered, pid, at = line.split()
    return Event(what, uuid, int(attempt), redelivered == "1", int(pid), float(at))  # type: ignore[arg-type]
