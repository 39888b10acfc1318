"""What cannot be done is kept, with the reason: look at it from a program, mend it, send it again. On the command line:
`dispatcher dead`.

Run it: `python examples/dead_letters.py`.
"""

from __future__ import annotations

import asyncio

from dispatcher import DeadLetter, Dispatcher, Reject, Task, TaskArgument

app = Dispatcher("memory://")


@app.task(queue="orders")
async def ship(order: int, address: str) -> None:
    if not address:
        raise Reject("no address")
    if address == "on the moon":
        raise OSError("too far away")
    print(f"order {order} is shipped to {address}")


def with_address(letter: DeadLetter) -> Task:
    assert letter.args is not None
    return ship.bind(letter.args[0].value, "12 Main Street")


async def main() -> None:
    async with app:
        await ship.send(1, "")
        await ship.send(2, "on the moon")
        await app.publish(Task("ship", [TaskArgument("string", "three")], routing_key="orders"))  # not what ship takes
        await app.run_worker(limit=1, burst=True)

        async for letter in app.dead_letters.list():
            print(f"{letter.reason}: {letter.text}")

        report = await app.dead_letters.replay(error="no address", edit=with_address, rate=10)
        print("replayed:", report.replayed)
        await app.run_worker(limit=1, burst=True)

        month_seconds = 30 * 24 * 3600
        print("older than a month:", await app.dead_letters.retention(older_than_seconds=month_seconds))
        print("of ship:", await app.dead_letters.count(task="ship"))
        print("deleted:", await app.dead_letters.purge(queue="orders"))


if __name__ == "__main__":
    asyncio.run(main())
