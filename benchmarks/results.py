"""The samples of a run, and the figures that are made of them: medians, spreads, and ratios within a round."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import msgspec

from .catalogue import CASES, Case, Group
from .samples import Sample

__all__ = ["Results", "Spread"]


class Spread(msgspec.Struct, frozen=True):
    """A figure over the rounds."""

    median: float
    least: float
    most: float


class Results:
    """Samples by case and round. A case that was not measured, or failed, has none: its figures are None.

    `unmet`: why a case could not be measured on this machine, by its name.
    """

    def __init__(self) -> None:
        self._samples: dict[str, dict[int, Sample]] = {}
        self.unmet: dict[str, str] = {}

    def add(self, name: str, number: int, sample: Sample) -> None:
        self._samples.setdefault(name, {})[number] = sample

    def samples(self) -> dict[str, dict[int, Sample]]:
        """All of them, by case and round."""
        return self._samples

    def has(self, name: str) -> bool:
        return name in self._samples

    def rate(self, name: str) -> Spread | None:
        """Tasks or messages a second."""
        return self._spread(name, lambda sample: sample.count / sample.seconds)

    def cpu_for(self, name: str, count: int) -> Spread | None:
        """CPU seconds for so many."""
        return self._spread(name, lambda sample: sample.cpu_seconds / sample.count * count)

    def broker_cpu_for(self, name: str, count: int) -> Spread | None:
        """CPU seconds of the broker's process for so many; None where it is not known, or there is no such process."""
        samples = self._samples.get(name, {}).values()
        used = [sample.broker_cpu_seconds / sample.count * count for sample in samples if sample.broker_cpu_seconds]
        return _spread_of(used) if len(used) == len(samples) else None

    def figure(self, name: str, figure: str) -> Spread | None:
        return self._spread(name, lambda sample: sample.figures[figure])

    def figures(self, name: str) -> list[str]:
        """The names of the figures that a case has."""
        return [figure for sample in list(self._samples.get(name, {}).values())[:1] for figure in sample.figures]

    def peer(self, group: Group) -> Case | None:
        """The fastest of the group's peers."""
        measured = [
            (rate.median, index)
            for index, case in enumerate(CASES)
            if group.peers and case.name.startswith(group.peers) and (rate := self.rate(case.name)) is not None
        ]
        return CASES[max(measured)[1]] if measured else None

    def ratio(self, name: str, group: Group) -> Spread | None:
        """The rate of a case over that of the group's best peer, both of the same round."""
        peer = self.peer(group)
        return None if peer is None else self.ratio_to(name, peer.name)

    def ratio_to(self, name: str, other: str) -> Spread | None:
        """The rate of a case over that of another, both of the same round."""
        ours, theirs = self._samples.get(name, {}), self._samples.get(other, {})
        return _spread_of(
            [
                ours[number].count / ours[number].seconds / (theirs[number].count / theirs[number].seconds)
                for number in ours
                if number in theirs
            ]
        )

    def _spread(self, name: str, value: Callable[[Sample], float]) -> Spread | None:
        return _spread_of([value(sample) for sample in self._samples.get(name, {}).values()])


def _spread_of(values: list[float]) -> Spread | None:
    return Spread(median(values), min(values), max(values)) if values else None
