"""Two workers carry a schedule, one fires it; when that one goes, the other goes on.

Run it: `python examples/periodic.py`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from dispatcher import AnyEvent, Dispatcher, current_task
from dispatcher.observe.events import ScheduleLeading

seen: list[int] = []
leaders = 0
changed = asyncio.Condition()


class CountLeaders:
    def on_event(self, event: AnyEvent) -> None:
        global leaders
        leaders += isinstance(event, ScheduleLeading)


app = Dispatcher("memory://", observers=[CountLeaders()])


@app.periodic("0 9 * * mon-fri", timezone="Europe/Berlin", misfire="skip")
@app.task(queue="mails")
def good_morning() -> None:
    """Not today: this example is over before."""


@app.periodic(every_seconds=1, args=("the oven",))
async def look_at(what: str) -> None:
    async with changed:
        seen.append(current_task().headers["x-dispatcher-scheduled-at"])
        if len(seen) == 1:
            print(f"looking at {what}")
        changed.notify_all()


async def looked(times: int) -> None:
    async with asyncio.timeout(30), changed:
        await changed.wait_for(lambda: len(seen) >= times)


async def main() -> None:
    morning = app.schedules["good_morning"].schedule
    friday = datetime(2026, 3, 27, 12, tzinfo=UTC)  # clocks in Berlin are put forward on Sunday
    monday = datetime.fromtimestamp(morning.next_after(int(friday.timestamp() * 1000)) / 1000, UTC)
    print(f"after {friday:%A} noon the next good morning is on {monday:%A at %H:%M} UTC")

    workers = [asyncio.create_task(app.run_worker()) for _ in range(2)]
    await looked(2)
    workers[0].cancel()
    await asyncio.wait(workers[:1])
    await looked(len(seen) + 2)
    workers[1].cancel()
    await asyncio.wait(workers)

    gaps = {later - earlier for earlier, later in zip(seen, seen[1:], strict=False)}
    print(f"one second between any two: {gaps == {1000}}")
    print(f"led by one, then by the other: {leaders == 4}")  # two schedules, two leaders each


if __name__ == "__main__":
    asyncio.run(main())
