"""Charts as SVG files: lines over a quantity, and bars to compare.

The same data makes the same bytes: no date, no version, no ids that change, so that a chart in the repository differs only
where its numbers do. Text stays text, the ground is transparent, and every colour stands out from white and from black.
It must never measure anything, nor hide a part of an axis: bars and lines begin at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

__all__ = ["Bar", "Line", "bars", "lines"]

GREY = "#75797f"
"""Text and axes: 4.3 to 1 against white and against the dark ground of code hosts."""
OURS = "#2f81f7"
THEIRS = "#b4bac2"
COLOURS = (OURS, "#d9730d", "#2da44e", "#a371f7", "#e5534b", "#b08800")
MARKERS = "osD^vX"
MANY_POINTS = 40
"""From here on a line is drawn without markers."""

WIDTH_INCHES = 8.0
LINES_HEIGHT_INCHES = 4.0
BAR_HEIGHT_INCHES = 0.32
BARS_MARGIN_INCHES = 0.9

STYLE: dict[Any, Any] = {  # matplotlib types the keys as literals
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.family": "sans-serif",
    "font.sans-serif": "DejaVu Sans",  # matplotlib brings it: the layout is the same on every machine
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": GREY,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "dispatcher",
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


class Line(msgspec.Struct, frozen=True):
    """What the legend calls it, and its points in order."""

    label: str
    points: Sequence[tuple[float, float]]


class Bar(msgspec.Struct, frozen=True):
    """A figure with the least and the most that was measured. `is_ours`: Dispatcher's, which is highlighted."""

    label: str
    value: float
    least: float
    most: float
    is_ours: bool = False


def lines(path: Path, title: str, drawn: Sequence[Line], *, x: str, y: str, log_x: bool = False) -> None:
    """Write a chart of lines to `path`; `x` and `y` are the titles of the axes, with their units.

    `log_x`: steps of the same factor are as far apart as each other, and the ticks are the points' own.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, LINES_HEIGHT_INCHES), layout="constrained")
        axes = figure.subplots()
        for number, line in enumerate(drawn):
            axes.plot(
                [point[0] for point in line.points],
                [point[1] for point in line.points],
                label=line.label,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)] if len(line.points) < MANY_POINTS else "",
                markersize=5,
                linewidth=1.8,
            )
        axes.set(title=title, xlabel=x, ylabel=y)
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(sorted({point[0] for line in drawn for point in line.points}))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_formatter(FuncFormatter(_number))
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
        axes.grid(axis="y")
        if len(drawn) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        _save(figure, path)


def bars(path: Path, title: str, drawn: Sequence[Bar], *, x: str) -> None:
    """Write a chart of horizontal bars to `path`, the first on top, each with whiskers from its least to its most."""
    with matplotlib.rc_context(STYLE):
        height = BARS_MARGIN_INCHES + BAR_HEIGHT_INCHES * len(drawn)
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        axes = figure.subplots()
        places = range(len(drawn))
        axes.barh(
            places,
            [bar.value for bar in drawn],
            xerr=[[bar.value - bar.least for bar in drawn], [bar.most - bar.value for bar in drawn]],
            color=[OURS if bar.is_ours else THEIRS for bar in drawn],
            error_kw={"ecolor": GREY, "elinewidth": 1, "capsize": 3},
            height=0.7,
        )
        _label_bars(axes, drawn)
        axes.set_yticks(places, [bar.label for bar in drawn])
        for label, bar in zip(axes.get_yticklabels(), drawn, strict=True):
            label.set_fontweight("bold" if bar.is_ours else "normal")
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set(title=title, xlabel=x)
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        axes.set_xlim(left=0)
        axes.margins(x=0.12, y=0.01)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _save(figure, path)


def _label_bars(axes: Axes, drawn: Sequence[Bar]) -> None:
    """The figure itself, right of its whisker."""
    for place, bar in enumerate(drawn):
        axes.annotate(
            _number(bar.value),
            (max(bar.value, bar.most), place),
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontweight="bold" if bar.is_ours else "normal",
        )


def _number(value: float, _: int | None = None) -> str:
    """As a reader writes it: 3 digits at least, thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
