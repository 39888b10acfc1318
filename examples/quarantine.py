"""A task that kills its worker: after the second time it is run alone, and then parked. Those beside it are not to blame.

Run it: `python examples/quarantine.py`. It keeps its tasks in `dispatcher.db`, in the folder you are in.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from dispatcher import Dispatcher

HERE = Path(__file__)
NEIGHBOURS = 10

app = Dispatcher()


@app.task
async def neighbour(number: int) -> None:
    await asyncio.sleep(0.05)
    print(f"done {number}", flush=True)


@app.task
def killer() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as a fault in a native library does, or the kernel when memory is short


async def main() -> None:
    command = [sys.executable, "-m", "dispatcher", "worker", f"{HERE.stem}:app", "-p", "2", "-c", "4", "-l", "critical"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    async with app:
        await app.publish_many(neighbour.bind(number) for number in range(NEIGHBOURS))
        await killer.options(priority=9).send()  # among the first that a worker takes
        worker = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE)
        assert worker.stdout is not None
        inspector = app.server.inspector
        done: set[bytes] = set()
        async with asyncio.timeout(50):
            while len(done) < NEIGHBOURS:
                line = await worker.stdout.readline()
                assert line, "the worker ended"
                done.add(line)
            while not (await inspector.depth("default")).dead:  # noqa: ASYNC110 - it is another process that does it
                await asyncio.sleep(0.05)
        worker.terminate()  # it drains
        await worker.wait()

        print("neighbours done:", len(done))
        async for dead in inspector.browse("default.dead"):
            headers = dead.message.headers or {}
            print("parked:", headers["x-dispatcher-reason"])
            print(headers["x-dispatcher-reason-text"])
        await inspector.purge("default.dead")


if __name__ == "__main__":
    asyncio.run(main())
