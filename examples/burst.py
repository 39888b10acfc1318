"""Many tasks at once, sent in one go, and a worker that ends when the queue is empty.

Run it: `python examples/burst.py`.
"""

from __future__ import annotations

import asyncio

from dispatcher import Dispatcher

app = Dispatcher()
squares: list[int] = []


@app.task(queue="numbers")
async def square(number: int) -> None:
    squares.append(number * number)


async def main() -> None:
    async with app:
        receipts = await app.publish_many(square.bind(number) for number in range(1000))
        print(f"{len(receipts)} tasks on disk")
        await app.run_worker(["numbers"], limit=50, burst=True)  # dispatcher worker burst:app --burst -c 50
    print(f"sum of the squares: {sum(squares)}")


if __name__ == "__main__":
    asyncio.run(main())
