"""The app that huey's cases publish to and work on. `$BENCH_FSYNC` is its `fsync` setting, `1` or `0`."""

from __future__ import annotations

import os

from huey import SqliteHuey

from .samples import Meter

__all__ = ["function", "huey", "timed"]

huey = SqliteHuey("bench", filename=os.environ["BENCH_FILE"], fsync=os.environ["BENCH_FSYNC"] == "1")
meter = Meter()


@huey.task(retries=5)
def function(number: int) -> None:
    meter.tick()


@huey.task(retries=5)
def timed(sent_ns: int) -> None:
    meter.arrived(sent_ns)
