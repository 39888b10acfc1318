"""The charts of a run: one for each figure that peers are compared by, each setup a bar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from ..charts import Bar, bars
from ..results import Results, Spread
from .catalogue import Kind
from .setups import SETUPS

__all__ = ["PLOTS", "Plot", "bars_of", "draw"]


class Plot(msgspec.Struct, frozen=True):
    """`group` and a setup's name are the samples that `figure` is taken of; `least_first`: the smallest is the best."""

    name: str
    title: str
    x: str
    group: str
    figure: Callable[[Results, str], Spread | None]
    kind: Kind = "work"
    least_first: bool = False


def _rate(results: Results, name: str) -> Spread | None:
    return results.rate(name)


def _cpu(results: Results, name: str) -> Spread | None:
    return results.cpu_for(name, 10_000)


def _figure(figure: str) -> Callable[[Results, str], Spread | None]:
    return lambda results, name: results.figure(name, figure) if figure in results.figures(name) else None


PLOTS = (
    Plot("publish", "Publishing one by one", "tasks a second", "publish", _rate),
    Plot("in-flight", "Publishing with 100 in flight", "tasks a second", "in-flight", _rate),
    Plot("drain", "Draining no-op tasks", "tasks a second", "drain", _rate),
    Plot("cpu", "Worker CPU, no-op tasks", "seconds for 10,000 tasks", "drain", _cpu, least_first=True),
    Plot(
        "latency", "From publish to start, median at 200 tasks/s", "ms", "running", _figure("p50_ms"), least_first=True
    ),
    Plot("memory", "Memory after the drain, all processes, PSS", "MB", "running", _figure("pss_mb"), least_first=True),
    Plot("start", "From the worker's start to its first task", "ms", "running", _figure("start_ms"), least_first=True),
    Plot("io", "Tasks that wait 50 ms, in one process", "tasks a second", "io", _rate, kind="io"),
    Plot("computing", "Tasks that compute for 5 ms, in two processes", "tasks a second", "cpu", _rate, kind="cpu"),
)


def draw(results: Results, folder: Path) -> list[str]:
    """Write `peers-NAME.svg` for each figure that was measured; Markdown that shows them."""
    shown = []
    for plot in PLOTS:
        if drawn := bars_of(results, plot):
            file = f"peers-{plot.name}.svg"
            bars(folder / file, plot.title, drawn, x=plot.x)
            shown.append(f"![{plot.title}](performance/{file})")
    return shown


def bars_of(results: Results, plot: Plot) -> list[Bar]:
    """Its bars, the best first."""
    found = [
        Bar(setup.title.replace("`", ""), spread.median, spread.least, spread.most, setup.peer == "dispatcher")
        for setup in SETUPS
        if setup.kind == plot.kind and (spread := plot.figure(results, f"{plot.group}/{setup.name}")) is not None
    ]
    return sorted(found, key=lambda bar: bar.value, reverse=not plot.least_first)
