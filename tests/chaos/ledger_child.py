"""The processes of the ledger test: `ledger_child.py work LIMIT`, `ledger_child.py publish NAME KIND COUNT`.

A publisher notes each task before it is published and after, and when it is started anew goes on with what was never
tried; what its predecessor tried without learning the outcome stays unknown. The environment says where the broker is
(`DISPATCHER_URL`), where the ledgers are (`LEDGER_FOLDER`), which fault this process has (`LEDGER_FAULT`), and how long a
publisher rests after each batch (`LEDGER_PACE_SECONDS`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ledger_app import Ledger, app, task_of, uuid_of
from ledger_faults import FAULTS
from ledger_rabbitmq_faults import RABBITMQ_FAULTS

from dispatcher import PublishError, PublishManyError, PublishUnknown

BATCH = 50


async def work(limit: int) -> None:
    """A worker, which drains at SIGTERM."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    try:
        await app.run_worker(limit=limit)
    except asyncio.CancelledError:
        pass  # told to end while it was still connecting


async def publish(name: str, kind: str, count: int) -> None:
    """Publish what no predecessor tried, in batches: by `publish_many`, and by many publishes at once, in turn."""
    tried = tried_before(name)
    ledger = Ledger(f"publisher-{name}")
    pace_seconds = float(os.environ.get("LEDGER_PACE_SECONDS", "0"))
    left = [uuid for uuid in (uuid_of(kind, name, number) for number in range(count)) if uuid not in tried]
    async with app:
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            ledger.write(*[f"attempt {uuid} {time.monotonic():.6f}" for uuid in batch], sync=True)
            if start // BATCH % 2:
                await publish_together(batch, ledger)
            else:
                await asyncio.gather(*[publish_one(uuid, ledger) for uuid in batch])
            await asyncio.sleep(pace_seconds)


def tried_before(name: str) -> set[str]:
    lines: list[str] = []
    for path in Path(os.environ["LEDGER_FOLDER"]).glob(f"publisher-{name}-*.ledger"):
        lines += path.read_text().split("\n")[:-1]
    return {line.split()[1] for line in lines if line.startswith("attempt ")}


async def publish_together(uuids: Sequence[str], ledger: Ledger) -> None:
    try:
        receipts = await app.publish_many(task_of(uuid) for uuid in uuids)
    except PublishManyError as error:
        receipts = error.accepted
        for task, failure in error.failed:
            note_failure(task.uuid, failure, ledger)
    note_accepted([receipt.uuid for receipt in receipts], ledger)


async def publish_one(uuid: str, ledger: Ledger) -> None:
    try:
        receipt = await app.publish(task_of(uuid))
    except PublishError as error:
        note_failure(uuid, error, ledger)
    else:
        note_accepted([receipt.uuid], ledger)


def note_accepted(uuids: Sequence[str], ledger: Ledger) -> None:
    ledger.write(*[f"accepted {uuid} {time.monotonic():.6f}" for uuid in uuids], sync=True)


def note_failure(uuid: str | None, failure: Exception, ledger: Ledger) -> None:
    what = "unknown" if isinstance(failure, PublishUnknown) else "refused"
    ledger.write(f"{what} {uuid} {type(failure).__name__}", sync=True)


def main(role: str, *arguments: str) -> None:
    fault = os.environ.get("LEDGER_FAULT")
    if fault:
        (FAULTS | RABBITMQ_FAULTS)[fault]()
    if role == "work":
        asyncio.run(work(int(arguments[0])))
    else:
        name, kind, count = arguments
        asyncio.run(publish(name, kind, int(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
