"""Leads in the file: what only the embedded broker promises, one transaction for a firing and its record."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from sqlite_rig import QUEUE, Rig, message, soon

from dispatcher.brokers.sqlite import SqliteSession
from dispatcher.errors import BrokerBlocked, ConnectionLost, Unroutable


async def rows(rig: Rig) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(rig.path)) as connection:
        return connection.execute("SELECT exchange, name, fired_ms FROM schedules ORDER BY 1, 2").fetchall()


async def ready(session: SqliteSession) -> int:
    return (await soon(session.inspector.depth("q"))).ready


async def test_a_firing_and_its_record_are_one_transaction(rig: Rig) -> None:
    """Refused, neither is there; accepted, both are."""
    session = await rig.connect(QUEUE)
    lead = await soon(session.schedules.lead("ex", "s"))
    with pytest.raises(Unroutable):
        await soon(lead.fire(message(b"1", key="nowhere"), 1000))
    assert (await rows(rig), await ready(session)) == ([("ex", "s", None)], 0)
    await soon(lead.fire(message(b"1"), 1000))
    assert (await rows(rig), await ready(session)) == ([("ex", "s", 1000)], 1)


async def test_a_firing_is_fenced_by_the_row(rig: Rig) -> None:
    """Whoever is named there leads: another session publishes nothing, whatever it believes."""
    session = await rig.connect(QUEUE)
    lead = await soon(session.schedules.lead("ex", "s"))
    with closing(sqlite3.connect(rig.path)) as connection:
        connection.execute("UPDATE schedules SET session = session + 1000")
        connection.commit()
    with pytest.raises(ConnectionLost, match="led by another session"):
        await soon(lead.fire(message(b"1"), 1000))
    assert await ready(session) == 0


async def test_a_full_disk_stops_firings_as_it_stops_publishes(rig: Rig) -> None:
    """Nothing is written and nothing moved; the firing is tried again by who wants it."""
    session = await rig.connect(QUEUE)
    lead = await soon(session.schedules.lead("ex", "s"))
    space = session._writer.engine._space
    space.blocked = True
    space._measure = lambda: (0, 0)  # type: ignore[assignment,return-value]
    with pytest.raises(BrokerBlocked, match="disk"):
        await soon(lead.fire(message(b"1"), 1000))
    assert lead.fired_ms is None
    assert await rows(rig) == [("ex", "s", None)]


async def test_who_waits_is_not_told_of_every_change(rig: Rig) -> None:
    """It waits through other sessions' comings and goings, and takes the lead when it is free."""
    first, second = await rig.connect(QUEUE), await rig.connect(QUEUE)
    lead = await soon(first.schedules.lead("ex", "s"))
    waits = asyncio.ensure_future(second.schedules.lead("ex", "s"))
    for _ in range(3):
        await (await rig.connect(QUEUE)).close()
    assert not waits.done()
    await soon(lead.resign())
    await soon(waits)
