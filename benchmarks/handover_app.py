"""What is handed over: a function that does nothing, and tasks that keep a processor busy for about 5 ms.

A child process imports this module by name, and so does a worker, by `benchmarks.handover_app:app`. Each run of a task
leaves one record in `$BENCH_FILE.runs`: when it began and ended, on the clock that all processes of a machine share.
"""

from __future__ import annotations

import os
import struct
import time

from dispatcher import Dispatcher

__all__ = ["QUEUE", "RECORD", "RUNS", "app", "crunch", "crunch_in_process", "nothing", "spin"]

QUEUE = os.environ["BENCH_QUEUE"]
RUNS = os.environ["BENCH_FILE"] + ".runs"
RECORD = struct.Struct("dd")
SPINS = 100_000

app = Dispatcher(os.environ["BENCH_URL"], exchange=QUEUE, default_queue=QUEUE)


def nothing() -> None:
    pass


def spin() -> None:
    """Pure Python: it never lets go of the interpreter by itself."""
    for _ in range(SPINS):
        pass


def _recorded_spin() -> None:
    begun = time.monotonic()
    spin()
    runs = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(runs, RECORD.pack(begun, time.monotonic()))
    os.close(runs)


@app.task
def crunch() -> None:
    _recorded_spin()


@app.task(executor="process")
def crunch_in_process() -> None:
    _recorded_spin()
