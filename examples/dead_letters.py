"""What cannot be done is kept, with the reason: look at it from a program. On the command line: `dispatcher dead`.

Run it: `python examples/dead_letters.py`.
"""

from __future__ import annotations

import asyncio

from dispatcher import Dispatcher, Reject, Task, TaskArgument

app = Dispatcher("memory://")


@app.task(queue="orders")
async def ship(order: int, address: str) -> None:
    if not address:
        raise Reject("no address")
    raise OSError("the printer is on fire")


async def main() -> None:
    async with app:
        await ship.send(1, "")
        await ship.send(2, "12 Main Street")
        await app.publish(Task("ship", [TaskArgument("string", "three")], routing_key="orders"))  # not what ship takes
        await app.run_worker(limit=1, burst=True)

        async for dead in app.server.inspector.browse("orders.dead"):
            headers = dead.message.headers or {}
            print(f"{headers['x-dispatcher-reason']}: {headers['x-dispatcher-reason-text']}")
        print("deleted:", await app.server.inspector.purge("orders.dead"))


if __name__ == "__main__":
    asyncio.run(main())
