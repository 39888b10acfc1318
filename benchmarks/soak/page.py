"""`python -m benchmarks.soak.page`: the table and the chart of what the soaks in docs/performance read."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ..charts import Line, lines
from ..growth.catalogue import PLACES
from ..report import write
from .results import BEGIN, Soak, markdown

__all__ = ["main"]

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "performance-growth.md"
FOLDER = DOCS / "performance"
CHART = "soak-memory.svg"


@click.command()
def main() -> None:
    """Put the table and the chart of the soaks that are in docs/performance into docs/performance-growth.md."""
    found = sorted(FOLDER.glob("soak-*.json"))
    if not found:
        raise click.ClickException(
            f"expected soak-BROKER.json in {FOLDER}, found none; run `python -m benchmarks.soak`"
        )
    soaks = [msgspec.json.decode(path.read_bytes(), type=Soak) for path in found]
    drawn = [line for soak in soaks for line in _lines(soak)]
    lines(FOLDER / CHART, "Resident memory at a steady rate", drawn, x="minutes", y="MB")
    report = markdown(soaks)
    write(f"![Resident memory at a steady rate]({FOLDER.name}/{CHART})\n\n{report}", PAGE, BEGIN)
    click.echo(report)


def _lines(soak: Soak) -> list[Line]:
    title = PLACES[soak.broker]
    worker = [(reading.at_seconds / 60, reading.worker.rss_mb) for reading in soak.readings]
    sender = [(reading.at_seconds / 60, reading.sender.rss_mb) for reading in soak.readings]
    return [Line(f"{title}: worker", worker), Line(f"{title}: sender", sender)]


if __name__ == "__main__":
    main()
