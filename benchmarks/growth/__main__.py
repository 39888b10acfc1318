"""The command line of `make bench-growth`, and the run.

    python -m benchmarks.growth [--only NAME] [--rounds N] [--quick] [--million] [--write]

Each sweep that was measured is kept as JSON, in place of what was measured of it before; the page
and the charts are made of that.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from ..catalogue import Case
from ..report import machine, write
from ..rounds import Failed, Unmet, measured
from ..surroundings import Surroundings, compile_package, disk_folder
from .catalogue import SWEEPS, Place, Sweep, cases
from .charts import draw
from .page import BEGIN, markdown
from .results import Growth, Measured, Step

__all__ = ["main"]

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "performance-growth.md"
CHARTS = DOCS / "performance"
KEPT = CHARTS / "growth.json"
PACKAGES = ("dispatcher-queue", "msgspec")
A_MILLION: tuple[Place, int] = ("rabbitmq", 1_000_000)

Planned = list[tuple[Sweep, list[tuple[Place, int, Case]]]]


@click.command()
@click.option("--only", default="", metavar="NAME", help="Only what starts so: `waiting`, `delayed/rabbitmq`.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="How often each is measured.")
@click.option("--quick", is_flag=True, help="Small steps and few tasks, once: to see whether it works.")
@click.option(
    "--million", is_flag=True, help="Also behind a million delayed tasks on RabbitMQ, a quarter of an hour more."
)
@click.option("--write", "write_page", is_flag=True, help="Put the report into docs/performance-growth.md.")
def main(only: str, rounds: int, quick: bool, million: bool, write_page: bool) -> None:
    """Measure what a task costs as queues, workers, bodies and delays grow."""
    planned = _planned(only, quick, million)
    compile_package()
    with tempfile.TemporaryDirectory(prefix="dispatcher-bench-", dir=disk_folder()) as scratch:
        every = [case for _, steps in planned for _, _, case in steps]
        surroundings = Surroundings.of(every, Path(scratch))
        rabbitmq = surroundings.rabbitmq.version if surroundings.rabbitmq else ""
        system = machine(Path(scratch), rabbitmq, PACKAGES)
        samples = [
            _measured(sweep, steps, 1 if quick else rounds, system, Path(scratch), surroundings)
            for sweep, steps in planned
        ]
    click.echo(markdown(Growth(samples)))
    if write_page:
        _write(samples)
    if failed := [
        f"{each.name}/{step.place}-{step.step}" for each in samples for step in each.steps if step.unmet == "failed"
    ]:
        raise click.ClickException(f"not measured: {', '.join(failed)}; what they said is above")


def _planned(only: str, quick: bool, million: bool) -> Planned:
    planned = []
    for sweep in SWEEPS:
        more = [A_MILLION] if million and sweep.name == "delayed" else []
        chosen = [step for step in cases(sweep, quick=quick, more=more) if step[2].name.startswith(only)]
        if chosen:
            planned.append((sweep, chosen))
    if not planned:
        raise click.UsageError(f"nothing starts with {only!r}; there are: {', '.join(sweep.name for sweep in SWEEPS)}")
    return planned


def _measured(
    sweep: Sweep,
    chosen: Sequence[tuple[Place, int, Case]],
    rounds: int,
    system: str,
    scratch: Path,
    surroundings: Surroundings,
) -> Measured:
    steps = {case.name: Step(place, step) for place, step, case in chosen}
    for case, _, sample in measured([case for _, _, case in chosen], rounds, scratch, surroundings):
        match sample:
            case Unmet():
                steps[case.name].unmet = sample.reason
            case Failed():
                steps[case.name].unmet = "failed"
            case _:
                steps[case.name].add(sample)
    command = "python -m benchmarks.growth" + "".join(f" {word}" for word in sys.argv[1:])
    return Measured(sweep.name, command, f"{datetime.now(UTC):%Y-%m-%d}", system, list(steps.values()))


def _write(samples: Sequence[Measured]) -> None:
    """The figures, the charts and the page; what was measured before of other sweeps stays."""
    before = msgspec.json.decode(KEPT.read_bytes(), type=Growth) if KEPT.exists() else Growth()
    growth = before.put(samples)
    CHARTS.mkdir(parents=True, exist_ok=True)
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(growth), indent=1) + b"\n")
    draw(growth, CHARTS)
    write(markdown(growth, CHARTS.name), PAGE, BEGIN)


if __name__ == "__main__":
    main()
