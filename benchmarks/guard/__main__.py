"""The command line of `make guard`, and the run.

It runs many short rounds, in each of them every path and the reference work side by side, and takes the least of each:
whatever else the machine does can only add. For the same reason a path that seems too dear gets many more rounds before
it is called so.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from secrets import token_hex

import click
import msgspec

from ..rabbitmq import rabbitmq_if_any
from .paths import REFERENCE_TASKS, Path, reference
from .verdict import Baselines, judge, too_dear

__all__ = ["FILE", "Least", "main"]

FILE = FilePath(__file__).with_name("baseline.json")
TASKS = 300
ROUNDS = 12
MOST_SECONDS = 30.0
"""A busy machine makes fewer rounds, but at least `LEAST_ROUNDS`."""
LEAST_ROUNDS = 3
MORE_ROUNDS = 60
MORE_SECONDS = 60.0
"""For paths that seem too dear."""
KINDS = ("coroutine", "thread")


@click.command()
@click.option("--write", "write_baseline", is_flag=True, help="Record what was measured, for this version of Python.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1, 1000))
def main(rounds: int, write_baseline: bool) -> None:
    """Compare the CPU that a task costs with the recorded baseline."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    baselines = msgspec.json.decode(FILE.read_bytes(), type=Baselines) if FILE.exists() else {}
    if hasattr(os, "sched_setaffinity"):  # on one core threads hand over to each other in one way only, not in many
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    least = Least()
    with tempfile.TemporaryDirectory(prefix="dispatcher-guard-") as scratch, _paths(FilePath(scratch)) as paths:
        least.measure(paths, rounds, float("inf") if write_baseline else MOST_SECONDS)
        suspects = too_dear(least.costs, baselines.get(python, {}))
        if suspects and not write_baseline:
            again = {name: path for name, path in paths.items() if any(key.startswith(name) for key in suspects)}
            least.measure(again, MORE_ROUNDS, MORE_SECONDS)
    costs = least.costs
    if write_baseline:
        rounded = {path: round(cost, 3) for path, cost in costs.items()}
        baselines[python] = {**baselines.get(python, {}), **rounded}
        FILE.write_bytes(msgspec.json.format(msgspec.json.encode(baselines, order="sorted"), indent=2) + b"\n")
    verdict = judge(costs, baselines, python)
    for line in verdict.lines:
        click.echo(f"guard: {line}")
    sys.exit(verdict.failed)


@contextlib.contextmanager
def _paths(scratch: FilePath) -> Iterator[dict[str, Path]]:
    """What can be measured here, by name. On RabbitMQ the queues are deleted afterwards."""
    name = f"dispatcher.guard.{token_hex(4)}"
    paths = {}
    for kind in KINDS:
        paths[f"memory, {kind}"] = Path("memory://", kind, name)
        paths[f"sqlite, {kind}"] = Path(f"sqlite:///{scratch}/{kind}.db", kind, name)
    rabbitmq = rabbitmq_if_any()
    if rabbitmq is None:
        yield paths
        return
    queues = [f"{name}.{kind}" for kind in KINDS]
    try:
        for kind, queue in zip(KINDS, queues, strict=True):
            paths[f"rabbitmq, {kind}"] = Path(rabbitmq.url, kind, queue)
        yield paths
    finally:
        for queue in queues:
            rabbitmq.delete(queue, [queue])


class Least:
    """The least CPU seconds so far of each path, publishing and draining apart, and of the reference work."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._reference_seconds = float("inf")

    def measure(self, paths: Mapping[str, Path], rounds: int, most_seconds: float = float("inf")) -> None:
        """Run `rounds` rounds, fewer where `most_seconds` are over, but some. What is new runs once before it counts."""
        for path in paths.values():
            path.round(TASKS)
        deadline = time.monotonic() + most_seconds
        for number in range(rounds):
            if number >= LEAST_ROUNDS and time.monotonic() > deadline:
                break
            for name, path in paths.items():
                self._reference_seconds = min(self._reference_seconds, reference())
                for what, seconds in zip(("publish", "drain"), path.round(TASKS), strict=True):
                    key = f"{name}, {what}"
                    self._seconds[key] = min(self._seconds.get(key, seconds), seconds)

    @property
    def costs(self) -> dict[str, float]:
        """What a task costs on each path, in tasks of the reference work."""
        unit = self._reference_seconds / REFERENCE_TASKS
        return {key: seconds / unit for key, seconds in self._seconds.items()}


if __name__ == "__main__":
    main()
