"""Cancels, as every broker keeps and tells them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from brokers_under_test import BROKERS, Rig, soon

from dispatcher.brokers.base import CANCEL_DAYS, Cancel
from dispatcher.model.topology import Queue

Q = Queue("q", binding_keys=("q",))


def cancel(uuid: str, *, exchange: str = "conformance", days_ago: float = 0.0) -> Cancel:
    return Cancel(exchange, uuid, int((time.time() - days_ago * 86_400) * 1000))


class Told:
    """Keeps what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.cancels: list[Cancel] = []
        self._changed = asyncio.Event()

    def __call__(self, cancel: Cancel) -> None:
        self.cancels.append(cancel)
        self._changed.set()

    async def wait_for(self, *expected: Cancel) -> None:
        async def all_there() -> None:
            while set(self.cancels) != set(expected):
                self._changed.clear()
                await self._changed.wait()

        await soon(all_there())


async def test_what_was_recorded_is_told_before_watch_returns(rig: Rig) -> None:
    """A worker that starts later honours it: nothing runs before all is known."""
    session = await rig.connect(Q)
    cancels = [cancel(f"u-{number}") for number in range(50)]
    for one in cancels:
        await soon(session.cancels.add(one))
    told = Told()
    await soon((await rig.connect()).cancels.watch(told))
    assert set(told.cancels) == set(cancels)


async def test_what_is_recorded_while_watching_is_told(rig: Rig) -> None:
    """To every session that watches, that of the sender too."""
    session, other = await rig.connect(Q), await rig.connect()
    here, there = Told(), Told()
    await soon(session.cancels.watch(here))
    await soon(other.cancels.watch(there))
    first, second = cancel("u-1"), cancel("ü-2", exchange="another")
    await soon(session.cancels.add(first))
    await here.wait_for(first)
    await there.wait_for(first)
    await soon(other.cancels.add(second))
    await here.wait_for(first, second)
    await there.wait_for(first, second)


async def test_it_outlives_who_recorded_it(rig: Rig) -> None:
    """It is kept by the broker."""
    session = await rig.connect(Q)
    one = cancel("u-1")
    await soon(session.cancels.add(one))
    await rig.lose(session)
    told = Told()
    await soon((await rig.connect()).cancels.watch(told))
    assert told.cancels == [one]


async def test_two_watches_of_one_session(rig: Rig) -> None:
    """Each is told everything."""
    session = await rig.connect(Q)
    one, two = cancel("u-1"), cancel("u-2")
    await soon(session.cancels.add(one))
    first, second = Told(), Told()
    await soon(session.cancels.watch(first))
    await soon(session.cancels.watch(second))
    await soon(session.cancels.add(two))
    await first.wait_for(one, two)
    await second.wait_for(one, two)


@pytest.mark.parametrize("kind", sorted(BROKERS))
async def test_what_is_too_old_is_forgotten(kind: str, tmp_path: Path) -> None:
    """When another is recorded: the record must not grow for ever. RabbitMQ's streams do that by themselves."""
    async with BROKERS[kind](tmp_path) as rig:
        session = await rig.connect(Q)
        old, young = cancel("u-old", days_ago=CANCEL_DAYS + 1), cancel("u-young", days_ago=CANCEL_DAYS - 1)
        await soon(session.cancels.add(old))
        await soon(session.cancels.add(young))
        await soon(session.cancels.add(new := cancel("u-new")))
        told = Told()
        await soon((await rig.connect()).cancels.watch(told))
        assert told.cancels == [young, new]
        await rig.close()
