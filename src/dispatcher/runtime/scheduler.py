"""Firing what comes back: one task for each schedule waits until this process leads it, and then fires what is due.

Every worker process has one; the broker says which of them leads. What is due, and what becomes of what was missed, is
decided in `model/schedule`. A firing is published like any task. Nothing here acks, and nothing here runs a task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from ..brokers.base import Lead, Session
from ..errors import (
    ConnectionLost,
    ConsumerCancelled,
    DispatcherError,
    TopologyMismatch,
    TopologyMissing,
    Unroutable,
)
from ..model.task import Task
from ..model.topology import Topology
from ..observe.events import ScheduleFailed, ScheduleFired, ScheduleLeading, ScheduleMisfired
from ..observe.hooks import EventHub
from .periodic import Periodic, with_schedule
from .publisher import message_of
from .server import Server

__all__ = ["Scheduler"]

LOOK_SECONDS = 2.0
"""How often the wall clock is read at least: it may be set while we sleep."""

CLOCKS_APART_MS = 10_000
"""How far the clocks of two machines may be apart for one to believe what the other may have fired."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0

_NO_PLACE = (ConsumerCancelled, TopologyMismatch, TopologyMissing, Unroutable)


class Scheduler:
    """The schedules of one process. `now_ms` is the wall clock in Unix milliseconds."""

    def __init__(
        self,
        server: Server,
        periodic: Sequence[Periodic],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._server = server
        self._now_ms = now_ms
        self._periodic = periodic
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Wait for the lead of each schedule, and fire what is led."""
        self._tasks = [
            asyncio.create_task(self._keep(one), name=f"dispatcher schedule {one.schedule.name}")
            for one in self._periodic
        ]

    async def close(self) -> None:
        """Fire nothing more and let others lead. Bounded to some seconds."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _keep(self, periodic: Periodic) -> None:
        """Lead whenever it is this process's turn, on one session after the other."""
        troubles = _Troubles(self._server.hub, periodic.schedule.name)
        while True:
            try:
                session = await self._server.live_session()
            except ConnectionLost:
                return  # the server is closed, or gave up
            try:
                lead = await session.schedules.lead(self._server.config.exchange, periodic.schedule.name)
                try:
                    await self._lead(periodic, lead, troubles)
                finally:
                    await lead.resign()
            except ConnectionLost:
                await asyncio.wait([session.closed], timeout=FIRST_PAUSE_SECONDS)
            except Exception as error:  # a fault of ours, too: a schedule that fell silent would be missed too late
                await troubles.pause(error, session.closed)
                if isinstance(error, _NO_PLACE):
                    await self._declare(session, periodic)

    async def _declare(self, session: Session, periodic: Periodic) -> None:
        """Its place in the broker was deleted, or never made."""
        config = self._server.config
        try:
            await session.declare(
                Topology(config.exchange, declare=config.declare, schedules=(periodic.schedule.name,))
            )
        except DispatcherError:
            pass  # what is wrong is told when the lead is asked for again

    async def _lead(self, periodic: Periodic, lead: Lead, troubles: _Troubles) -> None:
        """Fire what is due, until the lead is lost."""
        schedule = periodic.schedule
        last_ms = lead.since_ms if lead.fired_ms is None else lead.fired_ms
        # What was due later than this the leader before had no reason to fire.
        doubtful_to_ms = self._now_ms() + CLOCKS_APART_MS if lead.is_doubtful else 0
        self._server.hub.emit(ScheduleLeading(schedule.name, schedule.next_after(max(last_ms, self._now_ms()))))
        while not lead.lost.done():
            now_ms = self._now_ms()
            last_ms = schedule.begin(last_ms, now_ms)
            due = schedule.due(last_ms, now_ms)
            if due.missed:
                self._server.hub.emit(
                    ScheduleMisfired(schedule.name, due.missed, due.unseen, due.made_up_for, schedule.misfire)
                )
            for at_ms in due.fire:
                await self._fire(periodic, lead, at_ms, at_ms <= doubtful_to_ms, troubles)
                doubtful_to_ms = 0
            last_ms = due.until_ms
            wait_seconds = (schedule.next_after(last_ms) - self._now_ms()) / 1000
            await asyncio.wait([lead.lost], timeout=min(max(wait_seconds, 0), LOOK_SECONDS))

    async def _fire(self, periodic: Periodic, lead: Lead, at_ms: int, doubtful: bool, troubles: _Troubles) -> None:
        """Publish one firing, and try until it goes: with one uuid, however often. `ConnectionLost` with the lead."""
        name, uuid = periodic.schedule.name, periodic.uuid(at_ms)
        task = Task(periodic.task, periodic.args, uuid, periodic.routing_key)
        config = self._server.config
        while True:
            now = self._now_ms() / 1000
            message = message_of(task, config.exchange, config.default_routing_key, config.max_body_bytes, now)
            try:
                async with asyncio.timeout(config.publish_timeout_seconds):
                    await lead.fire(with_schedule(message, name, at_ms), at_ms)
            except (DispatcherError, TimeoutError) as error:
                if lead.lost.done():
                    raise ConnectionLost(f"schedule {name!r} is led by this process no more") from error
                await troubles.pause(error, lead.lost)
            else:
                break
        troubles.over()
        late_seconds = max(0, self._now_ms() - at_ms) / 1000
        self._server.hub.emit(ScheduleFired(name, uuid, at_ms, late_seconds, doubtful))


class _Troubles:
    """What goes wrong with one schedule: told once for each error in a row, and waited for longer and longer."""

    def __init__(self, hub: EventHub, schedule: str) -> None:
        self._hub = hub
        self._schedule = schedule
        self._told = ""
        self._seconds = FIRST_PAUSE_SECONDS

    def over(self) -> None:
        self._told, self._seconds = "", FIRST_PAUSE_SECONDS

    async def pause(self, error: Exception, ended: asyncio.Future[None]) -> None:
        """Wait, or for `ended`."""
        seconds, self._seconds = self._seconds, min(LONGEST_PAUSE_SECONDS, self._seconds * 2)
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        if text != self._told:
            self._told = text
            self._hub.emit(ScheduleFailed(self._schedule, text, seconds))
        await asyncio.wait([ended], timeout=seconds)
