"""The command line of the soak, and the run.

A worker process as users start it and a sender process; every ten seconds their memory, open files and threads are read, and
the size of the database or the depth of the queue. The readings are on disk after each, as JSON; `page` draws them.
It must never pass for good if a task is missing: at the end, every one that was sent has run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from ..catalogue import Case
from ..footprint import file_mb, footprint
from ..growth.catalogue import Place
from ..processes import WorkerProcess, started
from ..rabbitmq import connected
from ..report import machine
from ..surroundings import Surroundings, compile_package, disk_folder
from .results import Reading, Soak

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "performance"
EVERY_SECONDS = 10.0
BURST = 2_000
"""Tasks sent at once before the steady rate: every slot is taken, every thread is there, the file and its log have their size,
so that what grows afterwards is kept for no reason."""
SENDER_DEADLINE_SECONDS = 600.0
"""After the time that sending should take."""

WORKER = ("-m", "dispatcher", "worker", "benchmarks.soak.tasks:app")
PACKAGES = ("dispatcher-queue", "msgspec")


@click.command()
@click.option("--minutes", default=60.0, show_default=True, type=click.FloatRange(0.2))
@click.option("--per-second", default=200.0, show_default=True, type=click.FloatRange(1))
@click.option("--broker", "place", default="sqlite", show_default=True, type=click.Choice(["sqlite", "rabbitmq"]))
def main(minutes: float, per_second: float, place: Place) -> None:
    """Send tasks at a steady rate and watch the memory of a worker; writes docs/performance/soak-BROKER.json."""
    compile_package()
    case = Case(f"soak/{place}", "", "", needs=("rabbitmq",) if place == "rabbitmq" else ())
    with tempfile.TemporaryDirectory(prefix="dispatcher-soak-", dir=disk_folder()) as scratch:
        surroundings = Surroundings.of([case], Path(scratch))
        if lacking := surroundings.lacks(case):
            raise click.ClickException(f"a soak on {place} needs what is not here: {lacking}")
        version = surroundings.rabbitmq.version if surroundings.rabbitmq else ""
        soak = Soak(
            place, minutes, per_second, f"{datetime.now(UTC):%Y-%m-%d}", machine(Path(scratch), version, PACKAGES)
        )
        queue = f"dispatcher.bench.{os.getpid()}.soak"
        os.environ |= surroundings.variables(case, Path(scratch), queue)
        try:
            _run(soak)
        finally:
            surroundings.clean(case, queue)
    soak.ran_all = True
    _write(soak)
    click.echo(f"every task ran; {len(soak.readings)} readings are in {FOLDER}", err=True)


def _run(soak: Soak) -> None:
    """Send and look until all is sent, then wait for the last task. RuntimeError if any is missing, or a process ends."""
    count = round(soak.minutes * 60 * soak.per_second)
    options = msgspec.json.encode({"burst": BURST, "count": count, "per_second": soak.per_second}).decode()
    words = [sys.executable, "-m", "benchmarks.child", "soak.tasks:send", options]
    with started(WORKER, BURST + count) as worker:
        with Path(os.environ["BENCH_FILE"]).with_name("sender.log").open("wb") as log:
            sender = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            _watch(soak, worker, sender)
        finally:
            sender.kill()
            sender.wait()
        worker.sample()
        worker.drain()


def _watch(soak: Soak, worker: WorkerProcess, sender: subprocess.Popen[bytes]) -> None:
    begun = time.monotonic()
    latest = begun + soak.minutes * 60 + SENDER_DEADLINE_SECONDS
    while True:
        try:
            code = sender.wait(begun + (len(soak.readings) + 1) * EVERY_SECONDS - time.monotonic())
        except subprocess.TimeoutExpired:
            pass
        else:
            if code != 0:
                raise RuntimeError(f"the sender ended with exit code {code}; it says why in sender.log")
            return
        if time.monotonic() > latest:
            raise RuntimeError(f"the sender is {SENDER_DEADLINE_SECONDS:g} s late")
        soak.readings.append(_read(soak.broker, time.monotonic() - begun, worker.pid, sender.pid))
        _write(soak)
        _tell(soak.readings[-1])


def _read(place: Place, at_seconds: float, worker: int, sender: int) -> Reading:
    reading = Reading(round(at_seconds, 1), footprint(worker), footprint(sender))
    if place == "sqlite":
        file = Path(os.environ["BENCH_FILE"])
        return msgspec.structs.replace(
            reading, database_mb=file_mb(file), log_mb=file_mb(file.with_name(f"{file.name}-wal"))
        )
    with connected(os.environ["BENCH_URL"]) as channel:
        waiting = channel.queue_declare(os.environ["BENCH_QUEUE"], passive=True).method.message_count
    return msgspec.structs.replace(reading, waiting=waiting)


def _write(soak: Soak) -> None:
    """As a whole or not at all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"soak-{soak.broker}.json"
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(soak), indent=1) + b"\n")
    new.replace(path)


def _tell(reading: Reading) -> None:
    click.echo(
        f"{reading.at_seconds:>6.0f} s  worker {reading.worker.rss_mb:.1f} MB, {reading.worker.files} files;"
        f" sender {reading.sender.rss_mb:.1f} MB; database {reading.database_mb} MB, log {reading.log_mb} MB;"
        f" waiting {reading.waiting}",
        err=True,
    )


if __name__ == "__main__":
    main()
