"""The urgent first: priorities 0 to 9, higher first; a task without one counts as 4.

Run it: `python examples/priority.py`.
"""

from __future__ import annotations

import asyncio

from dispatcher import ConfigError, Dispatcher, Queue

# RabbitMQ before 4.3 orders by priority in classic queues that ask for it; from 4.3 on, and here, every queue does.
app = Dispatcher("memory://", init_queues=[Queue("default", type="classic", max_priority=9)])


@app.task
async def mail(what: str) -> None:
    print(what)


async def main() -> None:
    async with app:
        await mail.options(priority=0).send("newsletter")
        await mail.send("invoice")
        await mail.options(priority=4).send("receipt, as urgent as the invoice and after it")
        await mail.options(priority=9).send("password reset")
        try:
            await mail.options(priority=10).send("more urgent than possible")
        except ConfigError as error:
            print(error)
        # What a worker has taken is not overtaken any more: the smaller the limit, the stricter the order.
        await app.run_worker(limit=1, burst=True)


if __name__ == "__main__":
    asyncio.run(main())
