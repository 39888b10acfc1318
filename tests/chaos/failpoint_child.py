"""The processes that `test_failpoints.py` starts, and kills: `failpoint_child.py ROLE URL LEDGER`.

Each writes what it does, the moment it does it, into its own ledger: one line `event uuid redelivered` for each
message that it is about to publish, has published, was delivered and has acked.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys

from dispatcher.brokers import open_broker
from dispatcher.brokers.base import Consumer, Message, Session
from dispatcher.model.task import new_uuid
from dispatcher.model.topology import Queue, Topology

EXCHANGE, QUEUE = "failpoints", "q"
PREFETCH = 10
BATCH = 20
BODY_BYTES = 8192  # enough that a few hundred messages make a checkpoint due
DEADLINE_SECONDS = 20.0
POLL_SECONDS = 0.02


class Ledger:
    """An append-only file that is on disk before the next step is taken."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, *uuids: str, redelivered: bool = False) -> None:
        os.write(self._fd, "".join(f"{event} {uuid} {int(redelivered)}\n" for uuid in uuids).encode())
        os.fsync(self._fd)


def body_of(uuid: str) -> bytes:
    """What a message of that uuid says; so a mixed-up body is found out."""
    return hashlib.sha256(uuid.encode()).digest() * (BODY_BYTES // 32)


async def connect(url: str) -> Session:
    session = await open_broker(url).connect(name=f"child {os.getpid()}", on_event=lambda event: None)
    await session.declare(Topology(EXCHANGE, (Queue(QUEUE, binding_keys=(QUEUE,)),)))
    return session


async def publish_batch(session: Session, ledger: Ledger) -> None:
    """Publish a batch, all in flight at once. Each is noted when its own publish returned, not when the last did."""

    async def publish(uuid: str) -> None:
        await session.publish(Message(EXCHANGE, QUEUE, body_of(uuid), uuid=uuid))
        ledger.write("published", uuid)

    uuids = [new_uuid() for _ in range(BATCH)]
    ledger.write("publishing", *uuids)
    await asyncio.gather(*[publish(uuid) for uuid in uuids])


async def take(consumer: Consumer, ledger: Ledger, *, ack: bool) -> None:
    delivery = await anext(consumer)
    assert delivery.body == body_of(delivery.uuid), f"message {delivery.uuid} has another's body"
    ledger.write("delivered", delivery.uuid, redelivered=delivery.redelivered)
    if ack:
        delivery.ack()
        ledger.write("acked", delivery.uuid)


async def fill(url: str, ledger: Ledger) -> None:
    """Publish some batches and end."""
    session = await connect(url)
    for _ in range(3):
        await publish_batch(session, ledger)
    await session.close()


async def hold(url: str, ledger: Ledger) -> None:
    """Take half of what prefetch brings, say so, and hold it until killed."""
    session = await connect(url)
    consumer = await session.consume(QUEUE, prefetch=PREFETCH)
    for _ in range(PREFETCH // 2):
        await take(consumer, ledger, ack=False)
    print("holding", flush=True)
    await session.closed


async def work(url: str, ledger: Ledger) -> None:
    """Publish, take and ack until the failpoint kills this process."""
    session = await connect(url)
    consumer = await session.consume(QUEUE, prefetch=PREFETCH)
    while True:
        publishing = asyncio.ensure_future(publish_batch(session, ledger))
        for _ in range(BATCH):
            await take(consumer, ledger, ack=True)
        await publishing


async def drain(url: str, ledger: Ledger) -> None:
    """Take and ack until nothing is left, what dead processes held included."""
    session = await connect(url)
    consumer = await session.consume(QUEUE, prefetch=PREFETCH)

    async def take_all() -> None:
        while True:
            await take(consumer, ledger, ack=True)

    taking = asyncio.ensure_future(take_all())
    while True:
        depth = await session.inspector.depth(QUEUE)
        if not (depth.ready or depth.unacked or depth.delayed):
            break
        await asyncio.wait({taking}, timeout=POLL_SECONDS)  # returns early only if taking failed
        if taking.done():
            taking.result()
    taking.cancel()
    await session.close()


async def main() -> None:
    role, url, ledger = sys.argv[1:]
    async with asyncio.timeout(DEADLINE_SECONDS):
        await {"fill": fill, "hold": hold, "work": work, "drain": drain}[role](url, Ledger(ledger))


if __name__ == "__main__":
    asyncio.run(main())
