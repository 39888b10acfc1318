"""`python -m benchmarks.guard`: fails when the CPU that a task costs got a quarter worse than `guard.json` says.

It runs many short rounds, in each of them every path and the reference work side by side, and takes the least of each:
whatever else the machine does can only add. `guard_paths` is what runs, `guard_verdict` what is made of it.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path as FilePath
from secrets import token_hex

import click
import msgspec

from .amqp_broker import BrokerMissing, find_rabbitmq
from .guard_paths import REFERENCE_TASKS, Path, reference
from .guard_verdict import Baselines, judge

__all__ = ["main"]

FILE = FilePath(__file__).with_name("guard.json")
TASKS = 300
ROUNDS = 12
MOST_SECONDS = 45.0
"""A slow machine makes fewer rounds, but at least this many:"""
LEAST_ROUNDS = 3
KINDS = ("coroutine", "thread")


@click.command()
@click.option("--write", "write_baseline", is_flag=True, help="Record what was measured, for this version of Python.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1, 1000))
def main(rounds: int, write_baseline: bool) -> None:
    """Compare the CPU that a task costs with the recorded baseline."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-guard-") as scratch, _paths(FilePath(scratch)) as paths:
        costs = measure(paths, rounds, MOST_SECONDS)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    baselines = msgspec.json.decode(FILE.read_bytes(), type=Baselines) if FILE.exists() else {}
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
    try:
        rabbitmq = find_rabbitmq()
    except BrokerMissing as error:
        click.echo(f"guard: RabbitMQ is not measured: {error}")
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


def measure(paths: dict[str, Path], rounds: int, most_seconds: float) -> dict[str, float]:
    """What a task costs on each path, publishing and draining apart, in tasks of the reference."""
    least: dict[str, float] = {}
    least_reference = float("inf")
    deadline = time.monotonic() + most_seconds
    for number in range(rounds + 1):
        if number > LEAST_ROUNDS and time.monotonic() > deadline:
            break
        for name, path in paths.items():
            reference_seconds = reference()
            published, drained = path.round(TASKS)
            if number == 0:
                continue  # the first has everything to load and to make
            least_reference = min(least_reference, reference_seconds)
            for what, seconds in (("publish", published), ("drain", drained)):
                key = f"{name}, {what}"
                least[key] = min(least.get(key, float("inf")), seconds)
    return {key: seconds / TASKS / (least_reference / REFERENCE_TASKS) for key, seconds in least.items()}


if __name__ == "__main__":
    main()
