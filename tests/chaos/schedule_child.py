"""A worker process of `test_schedule_kills`: it carries a schedule of one second, and says on standard output what it does.

`python schedule_child.py URL`. It works on a queue in which nothing ever is, so that what is fired stays where it can be counted.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from dispatcher import AnyEvent, Dispatcher
from dispatcher.observe.events import ScheduleFired, ScheduleLeading

FIRED_QUEUE = "fired"
SCHEDULE = "tick"


class Teller:
    """Writes `leading` and `fired INSTANT UUID POSSIBLY_DOUBLED`."""

    def on_event(self, event: AnyEvent) -> None:
        if isinstance(event, ScheduleLeading):
            print("leading", flush=True)
        elif isinstance(event, ScheduleFired):
            print("fired", event.scheduled_at_ms, event.uuid, int(event.possibly_doubled), flush=True)


def app_at(url: str) -> Dispatcher:
    app = Dispatcher(url, observers=[Teller()])

    @app.task(queue="idle")
    def never() -> None: ...

    @app.periodic(every_seconds=1, misfire="all")
    @app.task(queue=FIRED_QUEUE, name=SCHEDULE)
    def tick() -> None: ...

    return app


async def main() -> None:
    app = app_at(sys.argv[1])
    worker = asyncio.ensure_future(app.run_worker(["idle"]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.cancel)
    await asyncio.wait([worker])


if __name__ == "__main__":
    asyncio.run(main())
