"""What `make bench-growth` measured, as tables. Nothing is measured or judged here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..report import show, title_of
from .catalogue import PLACES, SWEEPS, Place, Sweep
from .results import FLAT, Growth, Measured, Step, verdicts

__all__ = ["BEGIN", "chart_name", "markdown"]

BEGIN = "<!-- measured: written by `python -m benchmarks.growth --write`, do not edit -->"


def markdown(growth: Growth, charts: str = "") -> str:
    """The whole report. `charts`: the folder of the charts, as the page names it; empty leaves them out."""
    machines = dict.fromkeys(each.machine for each in growth.sweeps)
    text = [*machines, "", "### What stays flat", "", *_verdicts(growth)]
    for sweep in SWEEPS:
        if (measured := growth.sweep(sweep.name)) is not None:
            text += ["", f"### {sweep.title}", "", f"{sweep.note} `{measured.command}`, {measured.date}.", ""]
            if charts:
                text += [f"![{sweep.title}]({charts}/{chart_name(sweep)})", ""]
            text += _tables(sweep, measured)
    return "\n".join(text) + "\n"


def chart_name(sweep: Sweep) -> str:
    """The file that `charts` draws the sweep in."""
    return f"growth-{sweep.name}.svg"


def _verdicts(growth: Growth) -> Iterator[str]:
    yield f"Flat: at most {FLAT} times the near end, as the median of the ratios of each round."
    yield ""
    yield from ("| what | broker | from, to | near | far | times | |", "|---|---|---|---|---|---|---|")
    for verdict in verdicts(growth):
        figures = f"{verdict.near:.3g} | {verdict.far:.3g} | {verdict.times:.2f}"
        state = "flat" if verdict.is_flat else "**grows**"
        yield f"| {verdict.what} | {PLACES[verdict.place]} | {verdict.steps} | {figures} | {state} |"


def _tables(sweep: Sweep, measured: Measured) -> Iterator[str]:
    """One table, the brokers one after the other."""
    names = list(dict.fromkeys(name for step in measured.steps for figures in step.rounds for name in figures))
    yield f"| broker | {sweep.axis} | {' | '.join(map(title_of, names))} |"
    yield "|---|---|" + "---|" * len(names)
    for place in PLACES:
        yield from (_row(place, step, names) for step in measured.of(place))


def _row(place: Place, step: Step, names: Sequence[str]) -> str:
    cells = [show(step.spread(name), "{:.3g}".format) for name in names]
    if step.unmet:
        cells[:1] = [f"not measured: {step.unmet}"]
    return f"| {PLACES[place]} | {step.step:,} | {' | '.join(cells)} |"
