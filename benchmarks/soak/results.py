"""What a soak read, as it is kept, and whether memory and files grew. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import linear_regression, mean

import msgspec

from ..footprint import Footprint
from ..growth.catalogue import PLACES, Place

__all__ = ["BEGIN", "Drift", "Reading", "Soak", "drift", "markdown"]

BEGIN = "<!-- measured: written by `python -m benchmarks.soak.page`, do not edit -->"

WARM_UP = 1 / 6
"""The share of the time that a process may take to come to its size: ten minutes of an hour."""
LEVEL = 1 / 12
"""The share of the time that a level is the mean of: five minutes of an hour."""
STEADY = 1.05
"""At the end at most so many times what it was after the warm-up."""


class Reading(msgspec.Struct, frozen=True):
    """One look. `database_mb` and `log_mb` are the SQLite file and its WAL, `waiting` the depth of the queue on RabbitMQ."""

    at_seconds: float
    worker: Footprint
    sender: Footprint
    database_mb: float | None = None
    log_mb: float | None = None
    waiting: int | None = None


class Soak(msgspec.Struct):
    """A soak as it is written to disk. `ran_all`: None while it runs, and if it was cut short."""

    broker: Place
    minutes: float
    per_second: float
    date: str
    machine: str
    readings: list[Reading] = []
    ran_all: bool | None = None


class Drift(msgspec.Struct, frozen=True):
    """A figure after the warm-up, at the end, and how much it grows in an hour, by a straight line through all between."""

    warm: float
    end: float
    hourly: float

    @property
    def is_steady(self) -> bool:
        return self.end <= self.warm * STEADY


def drift(readings: Sequence[Reading], figure: Callable[[Reading], float]) -> Drift | None:
    """How `figure` went; None if there are too few readings to tell."""
    level = round(len(readings) * LEVEL)
    later = readings[round(len(readings) * WARM_UP) :]
    if level < 1 or len(later) < 2:
        return None
    values = [figure(reading) for reading in later]
    hours = [reading.at_seconds / 3600 for reading in later]
    return Drift(mean(values[:level]), mean(values[-level:]), linear_regression(hours, values).slope)


# Not the share of memory (PSS): it grows when another process that maps the same libraries ends.
FIGURES: dict[str, Callable[[Reading], float]] = {
    "worker, resident memory, MB": lambda reading: reading.worker.rss_mb,
    "worker, open files": lambda reading: reading.worker.files,
    "worker, threads": lambda reading: reading.worker.threads,
    "sender, resident memory, MB": lambda reading: reading.sender.rss_mb,
    "sender, open files": lambda reading: reading.sender.files,
}
OF_THE_FILE: dict[str, Callable[[Reading], float]] = {
    "database, MB": lambda reading: reading.database_mb or 0.0,
    "its write-ahead log, MB": lambda reading: reading.log_mb or 0.0,
}
OF_THE_QUEUE: dict[str, Callable[[Reading], float]] = {"tasks waiting": lambda reading: float(reading.waiting or 0)}


def markdown(soaks: Sequence[Soak]) -> str:
    """The table of all soaks, each with what it ran."""
    lines = []
    for soak in soaks:
        ended = "and every one ran" if soak.ran_all else "**cut short**"
        minutes = soak.readings[-1].at_seconds / 60 if soak.readings else 0.0
        rate = f"{soak.per_second:,.0f} tasks/s for {minutes:.0f} minutes"
        lines += [f"{PLACES[soak.broker]}, {soak.date}: {rate}, {ended}. {soak.machine}", ""]
    lines += ["| broker | what | after the warm-up | at the end | growth an hour | |", "|---|---|---|---|---|---|"]
    for soak in soaks:
        lines += _rows(soak)
    return "\n".join(lines) + "\n"


def _rows(soak: Soak) -> Iterator[str]:
    for what, figure in (FIGURES | (OF_THE_FILE if soak.broker == "sqlite" else OF_THE_QUEUE)).items():
        found = drift(soak.readings, figure)
        if found is not None:
            figures = f"{found.warm:.1f} | {found.end:.1f} | {found.hourly:+.2f}"
            yield f"| {PLACES[soak.broker]} | {what} | {figures} | {'steady' if found.is_steady else '**grows**'} |"
