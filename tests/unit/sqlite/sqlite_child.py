"""A second process for the tests of the embedded broker: `sqlite_child.py MODE PATH ARGS...`.

Prints a line for each thing that happened, so that a test waits for lines and never for time.
"""

from __future__ import annotations

import asyncio
import sys

from dispatcher.brokers.base import Message
from dispatcher.brokers.sqlite import SqliteBroker, SqliteSession


def say(text: str) -> None:
    print(text, flush=True)


async def stdin_closed() -> None:
    await asyncio.to_thread(sys.stdin.read)


async def hold(session: SqliteSession, prefetch: int) -> None:
    """Take messages and keep them until killed."""
    consumer = await session.consume("q", prefetch=prefetch)
    say("consuming")
    async for delivery in consumer:
        say(delivery.uuid)


async def drain(session: SqliteSession, prefetch: int) -> None:
    """Take and ack until stdin ends."""
    consumer = await session.consume("q", prefetch=prefetch)
    say("consuming")

    async def run() -> None:
        async for delivery in consumer:
            say(delivery.uuid)
            delivery.ack()

    running = asyncio.create_task(run())
    await stdin_closed()
    await consumer.stop()
    await running
    await session.close()
    say("closed")


async def publish(session: SqliteSession, count: int) -> None:
    """Publish, say each uuid once its publish has returned, then stay until killed."""
    for number in range(count):
        uuid = f"child-{number}"
        await session.publish(Message("ex", "q", b"", uuid=uuid))
        say(uuid)
    await stdin_closed()


async def main() -> None:
    mode, path, *numbers = sys.argv[1:]
    session = await SqliteBroker(path).connect(name=f"child {mode}", on_event=lambda event: None)
    await {"hold": hold, "drain": drain, "publish": publish}[mode](session, *map(int, numbers))


asyncio.run(main())
