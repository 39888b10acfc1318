"""A middleware wraps every run, an observer sees every event.

Run it: `python examples/middleware.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar

from dispatcher import AnyEvent, CallNext, CurrentTask, Dispatcher, RetryPolicy

tenant: ContextVar[str] = ContextVar("tenant")


async def with_tenant(task: CurrentTask, call_next: CallNext) -> None:
    """Whatever it raises is the task's failure, as if the function had raised it."""
    token = tenant.set(str(task.headers["tenant"]))
    try:
        await call_next()
    finally:
        tenant.reset(token)


class Counting:
    """Its own exceptions are logged and change nothing."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def on_event(self, event: AnyEvent) -> None:
        self.seen[event.name] += 1


counting = Counting()
app = Dispatcher("memory://", middleware=[with_tenant], observers=[counting])


@app.task(retry=RetryPolicy(max_attempts=2, base_seconds=0))
def invoice(number: int) -> None:
    """It runs in a thread, and sees the variable all the same."""
    print(f"invoice {number} for {tenant.get()}")


async def main() -> None:
    async with app:
        await invoice.options(headers={"tenant": "acme"}).send(1)
        await invoice.send(2)  # no tenant: the middleware raises KeyError, twice
        await app.run_worker(burst=True)
    for name in (
        "task.published",
        "task.started",
        "task.succeeded",
        "task.failed",
        "task.retried",
        "task.dead_lettered",
    ):
        print(f"{name:<20} {counting.seen[name]}")


if __name__ == "__main__":
    asyncio.run(main())
