"""Cancel tasks: one that waits, one that is delayed, one that runs. Run it: python examples/cancel.py"""

import asyncio
import tempfile
from pathlib import Path

from dispatcher import Dispatcher, current_task
from dispatcher.observe.events import DeadLettered

folder = tempfile.TemporaryDirectory(prefix="dispatcher-example-")
begun = asyncio.Event()
all_parked = asyncio.Event()
sent: dict[str, str] = {}


class Parked:
    """Sees every event; here, which tasks became dead letters."""

    def on_event(self, event: object) -> None:
        if isinstance(event, DeadLettered):
            print(sent.pop(event.uuid), "->", event.reason)
            if not sent:
                all_parked.set()


app = Dispatcher(f"sqlite:///{Path(folder.name) / 'cancel.db'}", observers=[Parked()])


@app.task
async def report() -> None:
    begun.set()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        print("told to stop, current_task().cancelled is", current_task().cancelled)
        raise


async def main() -> None:
    async with app:
        running = await report.send()
        waiting = await report.send()
        delayed = await report.options(delay_seconds=1).send()
        sent.update({running.uuid: "running", waiting.uuid: "waiting", delayed.uuid: "delayed"})
        await waiting.cancel()
        await delayed.cancel()

        worker = asyncio.create_task(app.run_worker())
        await begun.wait()
        await running.cancel()
        await all_parked.wait()
        worker.cancel()
        await asyncio.wait([worker])


if __name__ == "__main__":
    asyncio.run(main())
    folder.cleanup()
