"""A task that fails is tried again by its policy; it can also ask for it, put itself off, or give up.

It knows what went wrong before, and a rule of one's own may take the place of a policy.

Run it: `python examples/retries.py`.
"""

from __future__ import annotations

import asyncio

from dispatcher import Discard, Dispatcher, Reject, Retry, RetryPolicy, Snooze, current_task
from dispatcher.model.retry import Failure

app = Dispatcher("memory://")
snoozed: set[str] = set()


class ServerBusy(Exception):
    """What a remote server says now and then."""


@app.task(retry=RetryPolicy(max_attempts=3, backoff=[0.1, 0.2], retry_on=(ServerBusy,)))
async def fetch(url: str) -> None:
    attempt = current_task().attempt
    if attempt < 3:
        raise ServerBusy(url)
    print(f"fetch: got {url} on attempt {attempt}")


class OnceMoreUnlessRefused:
    """A rule of one's own: two attempts, but for those whom the server knows and does not want."""

    jitter = False

    def delay_seconds(self, attempt: int, failure: Failure) -> float | None:
        return None if attempt == 2 or failure.is_a((PermissionError,)) else 0.1


@app.task(retry=OnceMoreUnlessRefused())
async def push(mirror: str) -> None:
    failed = current_task().history
    if not failed:
        raise ServerBusy(mirror)
    print(f"push: attempt {failed[0].attempt} said {failed[0].error_type.rpartition('.')[2]}: {failed[0].error}")


@app.task
async def poll(order: int) -> None:
    """Without a policy, `Retry` is followed three times at most."""
    if current_task().attempt == 1:
        raise Retry(after_seconds=0.1, message="not shipped yet")  # as a server's Retry-After may say
    print(f"poll: order {order} is shipped")


@app.task
async def wait_for_night(what: str) -> None:
    """`Snooze` is not a failure: the attempt stays the same, and there is no bound."""
    task = current_task()
    if task.uuid not in snoozed:
        snoozed.add(task.uuid)
        raise Snooze(0.1)
    print(f"wait_for_night: {what} on attempt {task.attempt}")


@app.task
async def charge(card: str) -> None:
    raise Reject(f"card {card} is blocked")  # a dead letter now, whatever attempts are left


@app.task
async def greet(name: str) -> None:
    print(f"greet: nobody called {name} here")
    raise Discard("they left")  # acked and logged


async def main() -> None:
    async with app:
        await fetch.send("http://example.org/a")
        await push.send("mirror-1")
        await poll.send(7)
        await wait_for_night.send("backup")
        await charge.send("4111")
        await greet.send("Bob")
        await app.run_worker(burst=True)
        depth = await app.server.inspector.depth("default")
        print(f"dead letters: {depth.dead}")


if __name__ == "__main__":
    asyncio.run(main())
