"""What `make bench-growth` measured, as charts: one a sweep, with what is judged, on each broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..charts import Line, lines
from .catalogue import PLACES, SWEEPS, Sweep
from .page import chart_name
from .results import Growth, Measured

__all__ = ["draw"]


def draw(growth: Growth, folder: Path) -> None:
    """Write the chart of each sweep that was measured."""
    for sweep in SWEEPS:
        measured = growth.sweep(sweep.name)
        drawn = [] if measured is None else list(_lines(sweep, measured))
        if drawn:
            lines(folder / chart_name(sweep), sweep.title, drawn, x=sweep.axis, y=sweep.y, log_x=sweep.log_x)


def _lines(sweep: Sweep, measured: Measured) -> Iterator[Line]:
    """What was read over time, if anything was, else what is judged at each step."""
    for place, name in PLACES.items():
        steps = [step for step in measured.of(place) if step.rounds]
        yield from (Line(name, step.series) for step in steps if step.series)
        for judged in sweep.judged if len(steps) > 1 else ():
            spreads = [(step.step, step.spread(judged.figure)) for step in steps]
            points = [(float(number), spread.median) for number, spread in spreads if spread is not None]
            yield Line(f"{name}: {judged.title}", points)
