"""Waiting before delivery, going first, and going stale.

Run it: `python examples/delays.py`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from dispatcher import Dispatcher

app = Dispatcher("memory://")
all_done = asyncio.Event()


@app.task
async def say(word: str) -> None:
    print(word)
    if word == "later":
        all_done.set()


async def main() -> None:
    async with app:
        await say.options(delay_seconds=2).send("later")
        await say.options(eta=datetime.now(UTC) + timedelta(seconds=1)).send("soon")
        await say.options(priority=1).send("third: priority 1")
        await say.send("second: no priority counts as 4")
        await say.options(priority=9).send("first: priority 9")
        await say.options(delay_seconds=3 * 365 * 86_400).send("in three years")
        await say.options(expires_seconds=0).send("never: it is stale before anyone starts it")

        bands = await app.server.inspector.delayed()  # on the command line: dispatcher delayed
        print(f"due in more than a day: {sum(band.messages for band in bands if band.from_seconds >= 86_400)}")

        worker = asyncio.create_task(app.run_worker(limit=1))
        async with asyncio.timeout(30):
            await all_done.wait()
        worker.cancel()  # drains: what runs is waited for, then it ends as a cancelled task does
        await asyncio.wait([worker])
        depth = await app.server.inspector.depth("default")
        print(f"dead letters: {depth.dead}, the one that expired")


if __name__ == "__main__":
    asyncio.run(main())
