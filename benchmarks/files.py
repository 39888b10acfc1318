"""What `make bench --write` leaves beside its page: every sample as JSON, and a chart of each table of rates."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .catalogue import CASES, GROUPS
from .charts import Bar, bars
from .results import Results
from .samples import Sample

__all__ = ["Measured", "write_charts", "write_samples"]


class Measured(msgspec.Struct, frozen=True):
    """A whole run. `samples`: by the name of the case and the round; `unmet`: why a case was not measured."""

    command: str
    machine: str
    samples: dict[str, dict[int, Sample]]
    unmet: dict[str, str]


def write_samples(path: Path, command: str, machine: str, results: Results) -> None:
    """Write everything that was measured to `path`; its folder is made if it is not there."""
    path.parent.mkdir(exist_ok=True)
    measured = Measured(command, machine, results.samples(), results.unmet)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")


def write_charts(folder: Path, results: Results) -> None:
    """Draw every table of rates of which something was measured."""
    for group in GROUPS:
        if not group.chart:
            continue  # its figures are no rates, or stand alone
        drawn = [
            Bar(case.title, rate.median, rate.least, rate.most, case.title.startswith("Dispatcher"))
            for case in CASES
            if case.name.startswith(group.name + "/") and (rate := results.rate(case.name)) is not None
        ]
        if drawn:
            bars(folder / group.chart, group.title, drawn, x=f"{group.what} a second")
