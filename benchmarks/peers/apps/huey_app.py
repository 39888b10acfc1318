"""huey, on Redis or on SQLite."""

from __future__ import annotations

import os

from huey import RedisHuey, SqliteHuey

from .. import work

__all__ = ["depth", "huey", "send"]

URL, QUEUE = os.environ["BENCH_URL"], os.environ["BENCH_QUEUE"]

if URL.startswith("sqlite"):
    huey = SqliteHuey(QUEUE, filename=os.environ["BENCH_FILE"], results=False, fsync=False)
else:
    huey = RedisHuey(QUEUE, url=URL, results=False)

TASKS = {
    "noop": huey.task(name="noop")(work.noop),
    "timed": huey.task(name="timed")(work.timed),
    "io": huey.task(name="io")(work.blocking_io),
    "cpu": huey.task(name="cpu")(work.cpu),
}


def send(kind: str, value: int) -> None:
    TASKS[kind](value)


def depth() -> int:
    return int(huey.pending_count())
