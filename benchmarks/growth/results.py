"""The figures of `make bench-growth` as they are kept, and whether they stay flat. Nothing is measured or written here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

import msgspec

from ..results import Spread
from ..samples import Sample
from .catalogue import PLACES, SWEEPS, Judged, Place, Sweep

__all__ = ["FLAT", "Growth", "Measured", "Step", "Verdict", "verdicts"]

FLAT = 1.3
"""A cost is flat if it grows by no more than this, from one end to the other."""


class Step(msgspec.Struct):
    """One step on one broker: its figures of each round, or why there are none."""

    place: Place
    step: int
    rounds: list[dict[str, float]] = []
    series: list[tuple[float, float]] = []
    unmet: str = ""

    def add(self, sample: Sample) -> None:
        self.rounds.append(sample.figures)
        self.series = sample.series or self.series

    def spread(self, figure: str) -> Spread | None:
        values = [figures[figure] for figures in self.rounds if figure in figures]
        return Spread(median(values), min(values), max(values)) if values else None


class Measured(msgspec.Struct):
    """One sweep as it was measured: with which command, when, and on what."""

    name: str
    command: str
    date: str
    machine: str
    steps: list[Step]

    def of(self, place: Place) -> list[Step]:
        return [step for step in self.steps if step.place == place]


class Growth(msgspec.Struct):
    """All sweeps, in the order of the catalogue."""

    sweeps: list[Measured] = []

    def put(self, measured: Sequence[Measured]) -> Growth:
        """These, in place of what there was of the same sweeps."""
        known = {each.name: each for each in (*self.sweeps, *measured)}
        return Growth([known[sweep.name] for sweep in SWEEPS if sweep.name in known])

    def sweep(self, name: str) -> Measured | None:
        return next((each for each in self.sweeps if each.name == name), None)


class Verdict(msgspec.Struct, frozen=True):
    """`near` and `far` are medians; `times` is the median of the ratios, each taken within a round.

    What was measured in fewer rounds than its near end is held against the median of that.
    """

    what: str
    place: Place
    steps: str
    near: float
    far: float
    times: float

    @property
    def is_flat(self) -> bool:
        return self.times <= FLAT


def verdicts(growth: Growth) -> Iterator[Verdict]:
    """What was to stay flat, of what was measured."""
    for sweep in SWEEPS:
        measured = growth.sweep(sweep.name)
        for place in PLACES if measured else ():
            assert measured is not None
            steps = [step for step in measured.of(place) if step.rounds]
            for judged in sweep.judged:
                yield from _verdict(sweep, judged, place, steps)


def _verdict(sweep: Sweep, judged: Judged, place: Place, steps: Sequence[Step]) -> Iterator[Verdict]:
    from_here = [step for step in steps if judged.since is None or step.step >= judged.since]
    if judged.against:
        pairs = [(step, step) for step in from_here[-1:]]
    else:
        pairs = [(from_here[0], from_here[-1])] if len(from_here) > 1 else []
    for near, far in pairs:
        before = [figures[judged.against or judged.figure] for figures in near.rounds]
        after = [figures[judged.figure] for figures in far.rounds]
        if len(after) < len(before):  # it was measured once, minutes from any round
            before = [median(before)] * len(after)
        values = list(zip(before, after, strict=False))
        steps_text = f"{near.step:,}" if near is far else f"{near.step:,} to {far.step:,}"
        yield Verdict(
            f"{sweep.title}: {judged.title}",
            place,
            f"{steps_text} {sweep.axis}",
            median(first for first, _ in values),
            median(last for _, last in values),
            median(last / first for first, last in values),
        )
