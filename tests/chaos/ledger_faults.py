"""Faults to plant in a child of the ledger test. Each breaks the promise in one way that a real queue has had.

They replace methods of Dispatcher in this process only; nothing in `src` knows of them. The one that is no fault,
`short_lease`, lets seconds do for the minute after which a stopped process counts as dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dispatcher.brokers.sqlite import engine, members
from dispatcher.brokers.sqlite.session import SqliteDelivery, SqliteSession
from dispatcher.runtime.execution import Execution
from dispatcher.runtime.settle import Settler

__all__ = ["FAULTS"]

LATE_SECONDS = 0.2
SOON_SECONDS = 0.02


def ack_before_run() -> None:
    """The delivery is acked a little before its function starts, not when it has ended."""
    start: Any = Execution.start

    def faulty(self: Execution, run: Any, *rest: Any) -> None:
        run.item.delivery.ack()
        asyncio.get_running_loop().call_later(LATE_SECONDS, start, self, run, *rest)

    Execution.start = faulty  # type: ignore[method-assign]


def ack_before_copy() -> None:
    """A retry is acked first and its copy published afterwards, not the other way round."""
    settle: Any = Settler.settle_with_copy

    async def faulty(self: Settler, item: Any, outcome: Any) -> None:
        item.delivery.ack()
        await asyncio.sleep(LATE_SECONDS)
        await settle(self, item, outcome)

    Settler.settle_with_copy = faulty  # type: ignore[method-assign]


def confirm_before_commit() -> None:
    """A publish returns at once; the message is stored a little later."""
    publish: Any = SqliteSession.publish

    def faulty(self: SqliteSession, message: Any) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[None] = loop.create_future()
        confirmed.set_result(None)
        loop.call_later(SOON_SECONDS, lambda: publish(self, message).add_done_callback(asyncio.Future.exception))
        return confirmed

    SqliteSession.publish = faulty  # type: ignore[method-assign]


def publish_twice() -> None:
    """One publish stores two messages, for one task in twenty or so."""
    publish: Any = SqliteSession.publish

    def faulty(self: SqliteSession, message: Any) -> asyncio.Future[None]:
        if message.uuid.endswith("0"):
            publish(self, message).add_done_callback(asyncio.Future.exception)
        sent: asyncio.Future[None] = publish(self, message)
        return sent

    SqliteSession.publish = faulty  # type: ignore[method-assign]


def forget_redelivered() -> None:
    """Every delivery claims to be its message's first."""
    SqliteDelivery.redelivered = property(lambda self: False)  # type: ignore[assignment,method-assign]


def short_lease() -> None:
    """A process that is stopped counts as dead after three seconds; everything that bears on it is as much shorter.

    A stop with the write lock in its hand lasts for all: whoever notices that must grant the others their time, as with a minute.
    """
    members.LEASE_MS = 3_000
    engine.HEARTBEAT_SECONDS = 1.0
    engine.STALL_SECONDS = 0.5


FAULTS: dict[str, Callable[[], None]] = {
    "ack_before_run": ack_before_run,
    "ack_before_copy": ack_before_copy,
    "confirm_before_commit": confirm_before_commit,
    "publish_twice": publish_twice,
    "forget_redelivered": forget_redelivered,
    "short_lease": short_lease,
}
