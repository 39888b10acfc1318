"""The tasks of `make bench-growth`, on the app of `dispatcher_app`: bodies of any size, and tasks that several processes run."""

from __future__ import annotations

import os
from pathlib import Path

from ..dispatcher_app import HEADERS, QUEUE, QUEUES, app, coroutine, meter, timed
from ..marks import Marks

__all__ = ["HEADERS", "QUEUE", "QUEUES", "app", "coroutine", "marked", "sized", "timed"]

marks = Marks(Path(os.environ["BENCH_MARKS"])) if "BENCH_MARKS" in os.environ else None


@app.task
async def marked(number: int) -> None:
    assert marks is not None
    marks.tick()


@app.task
async def sized(text: str) -> None:
    meter.tick()
