"""The command line of `make bench`: which cases, and what becomes of their samples."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from .catalogue import CASES
from .files import write_charts, write_samples
from .report import MEASURED, machine, markdown, write
from .results import Results
from .rounds import Failed, Unmet, measured
from .surroundings import Surroundings, compile_package, disk_folder

__all__ = ["main"]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
FILES = ROOT / "docs" / "performance"


@click.command()
@click.option("--only", default="", metavar="NAME", help="Only cases whose name starts so: `drain`, `publish/huey`.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="How often each is measured.")
@click.option(
    "--write", "write_page", is_flag=True, help="Put the report into docs/performance.md, with data and charts."
)
def main(only: str, rounds: int, write_page: bool) -> None:
    """Measure Dispatcher against other queues on this machine."""
    cases = [case for case in CASES if case.name.startswith(only)]
    if not cases:
        raise click.UsageError(f"no case starts with {only!r}; there are: {', '.join(case.name for case in CASES)}")
    compile_package()
    with tempfile.TemporaryDirectory(prefix="dispatcher-bench-", dir=disk_folder()) as scratch:
        surroundings = Surroundings.of(cases, Path(scratch))
        results = Results()
        failed: list[str] = []
        for case, number, sample in measured(cases, rounds, Path(scratch), surroundings):
            match sample:
                case Unmet():
                    results.unmet[case.name] = sample.reason
                case Failed():
                    failed.append(case.name)
                case _:
                    results.add(case.name, number, sample)
        command = "python -m benchmarks" + "".join(f" {word}" for word in sys.argv[1:])
        rabbitmq = surroundings.rabbitmq.version if surroundings.rabbitmq else ""
        report = markdown(results, command, Path(scratch), rounds, rabbitmq)
        measured_on = machine(Path(scratch), rabbitmq, MEASURED)
    click.echo(report)
    if failed:
        raise click.ClickException(f"not measured: {', '.join(failed)}; what they said is above")
    if write_page:
        write(report, PAGE)
        write_samples(FILES / "bench.json", command, measured_on, results)
        write_charts(FILES, results)


if __name__ == "__main__":
    main()
