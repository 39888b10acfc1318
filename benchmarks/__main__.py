"""The command line, and the run: every case of a round, then the next round, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import msgspec

from .catalogue import CASES, MILLION, Case
from .report import markdown, write
from .results import Results
from .samples import Sample
from .surroundings import Surroundings, compile_package, disk_folder

__all__ = ["main"]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
CASE_DEADLINE_SECONDS = 600.0


@click.command()
@click.option("--only", default="", metavar="NAME", help="Only cases whose name starts so: `drain`, `publish/huey`.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="How often each is measured.")
@click.option("--million", is_flag=True, help="Also with a million tasks waiting, once.")
@click.option("--write", "write_page", is_flag=True, help="Put the report into docs/performance.md.")
def main(only: str, rounds: int, million: bool, write_page: bool) -> None:
    """Measure Dispatcher against other queues on this machine."""
    cases = [case for case in (*CASES, *([MILLION] if million else [])) if case.name.startswith(only)]
    if not cases:
        raise click.UsageError(f"no case starts with {only!r}; there are: {', '.join(case.name for case in CASES)}")
    compile_package()
    with tempfile.TemporaryDirectory(prefix="dispatcher-bench-", dir=disk_folder()) as scratch:
        surroundings = Surroundings.of(cases, Path(scratch))
        results, failed = _run(cases, rounds, Path(scratch), surroundings)
        command = "python -m benchmarks" + "".join(f" {word}" for word in sys.argv[1:])
        rabbitmq = surroundings.rabbitmq.version if surroundings.rabbitmq else ""
        report = markdown(results, command, Path(scratch), rounds, rabbitmq)
    click.echo(report)
    if failed:
        raise click.ClickException(f"not measured: {', '.join(failed)}; what they said is above")
    if write_page:
        write(report, PAGE)


def _run(cases: list[Case], rounds: int, scratch: Path, surroundings: Surroundings) -> tuple[Results, list[str]]:
    """The samples, and the cases that failed. One that failed is not tried again in the next round."""
    results = Results()
    failed: list[str] = []
    for number in range(1, rounds + 1):
        for case in cases:
            if case.name in failed or (case.once and number > 1):
                continue
            if reason := surroundings.lacks(case):
                results.unmet[case.name] = reason
                continue
            name = f"{case.name.replace('/', '-')}-{number}"
            variables = surroundings.variables(case, scratch / name, f"dispatcher.bench.{os.getpid()}.{name}")
            try:
                sample = _measure(case, scratch / name, variables)
            finally:
                surroundings.clean(case, variables["BENCH_QUEUE"])
            if sample is None:
                failed.append(case.name)
                continue
            results.add(case.name, number, sample)
            click.echo(f"round {number} of {rounds}  {case.name:<32}{_brief(sample)}", err=True)
    return results, failed


def _measure(case: Case, folder: Path, variables: dict[str, str]) -> Sample | None:
    """One measurement in a new folder, which is deleted afterwards; None, and its errors shown, if it failed."""
    folder.mkdir()
    words = [sys.executable, "-m", "benchmarks.child", case.does, msgspec.json.encode(case.options).decode()]
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=CASE_DEADLINE_SECONDS,
        )
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=Sample)
        log = folder / "bench.log"
        said = done.stderr + (log.read_text() if log.exists() else "")
    except subprocess.TimeoutExpired:
        said = f"not done within {CASE_DEADLINE_SECONDS:g} s"
    finally:
        shutil.rmtree(folder)
    click.echo(f"{case.name} failed:\n{said}", err=True)
    return None


def _brief(sample: Sample) -> str:
    if sample.count:
        return f"{sample.count / sample.seconds:>10,.0f}/s"
    return "  ".join(f"{name}={value:.3g}" for name, value in sample.figures.items())


if __name__ == "__main__":
    main()
