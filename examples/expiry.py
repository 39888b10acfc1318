"""What nobody started in time is not run: it is parked, with the reason `expired`.

Run it: `python examples/expiry.py`.
"""

from __future__ import annotations

import asyncio

from dispatcher import Dispatcher, RetryPolicy

app = Dispatcher("memory://")


@app.task
async def offer(what: str) -> None:
    print(f"offered {what}")


@app.task(retry=RetryPolicy(max_attempts=5, base_seconds=1, jitter=False))
async def dial(number: str) -> None:
    print(f"dialling {number}")
    raise ConnectionError("engaged")


async def main() -> None:
    async with app:
        await offer.options(expires_seconds=3600).send("soup of the day")
        await offer.options(expires_seconds=0).send("soup of yesterday")
        await offer.options(delay_seconds=0.2, expires_seconds=0.1).send("what is stale before its delay is over")
        await dial.options(expires_seconds=0.5).send("555-1234")  # its retry would be a second later

        await app.run_worker(burst=True)
        async for dead in app.server.inspector.browse("default.dead"):
            headers = dead.message.headers or {}
            print(headers["x-dispatcher-reason"], "on attempt", headers["x-dispatcher-attempt"])


if __name__ == "__main__":
    asyncio.run(main())
