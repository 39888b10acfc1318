"""The app that Dispatcher's cases publish to and work on, with its features on: headers, retries, an observer.

`$BENCH_URL` and `$BENCH_QUEUE` say on which broker, and what its exchange and queue are called; `$BENCH_QUEUES` names all
queues that it has.
"""

from __future__ import annotations

import os

from dispatcher import Dispatcher, Queue, RetryPolicy
from dispatcher.observe.hooks import AnyEvent

from .samples import Meter

__all__ = ["HEADERS", "QUEUE", "QUEUES", "app", "coroutine", "function", "meter", "timed"]

QUEUE = os.environ["BENCH_QUEUE"]
QUEUES = os.environ["BENCH_QUEUES"].split()
HEADERS = {"tenant": "acme", "request": "5f2b1c9e"}


class EventCounter:
    """An observer: every event is built and handed over."""

    def __init__(self) -> None:
        self.seen = 0

    def on_event(self, event: AnyEvent) -> None:
        self.seen += 1


app = Dispatcher(
    os.environ["BENCH_URL"],
    exchange=QUEUE,
    default_queue=QUEUE,
    init_queues=[Queue(name, binding_keys=[name]) for name in QUEUES],
    retry=RetryPolicy(max_attempts=5),
    observers=[EventCounter()],
)
meter = Meter()


@app.task
async def coroutine(number: int) -> None:
    meter.tick()


@app.task
def function(number: int) -> None:
    meter.tick()


@app.task
async def timed(sent_ns: int) -> None:
    meter.arrived(sent_ns)
