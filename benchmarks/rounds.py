"""The run: every case of a round, then the next round, each measurement in a process and a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from .catalogue import Case
from .samples import Sample
from .surroundings import Surroundings

__all__ = ["Failed", "Unmet", "measured"]

ROOT = Path(__file__).parent.parent
CASE_DEADLINE_SECONDS = 1200.0


class Unmet(msgspec.Struct, frozen=True):
    """What a case needs is not here."""

    reason: str


class Failed(msgspec.Struct, frozen=True):
    """A measurement that ended with an error, which was shown."""


def measured(
    cases: Sequence[Case], rounds: int, scratch: Path, surroundings: Surroundings
) -> Iterator[tuple[Case, int, Sample | Unmet | Failed]]:
    """Each sample as it is taken, with its round. A case that cannot be measured, or fails, comes once."""
    over: set[str] = set()
    for number in range(1, rounds + 1):
        for case in cases:
            if case.name in over or (case.once and number > 1):
                continue
            if reason := surroundings.lacks(case):
                over.add(case.name)
                yield case, number, Unmet(reason)
                continue
            name = f"{case.name.replace('/', '-')}-{number}"
            variables = surroundings.variables(case, scratch / name, f"dispatcher.bench.{os.getpid()}.{name}")
            try:
                sample = _measure(case, scratch / name, variables)
            finally:
                surroundings.clean(case, variables["BENCH_QUEUE"])
            if isinstance(sample, Failed):
                over.add(case.name)
            else:
                click.echo(f"round {number} of {rounds}  {case.name:<32}{_brief(sample)}", err=True)
            yield case, number, sample


def _measure(case: Case, folder: Path, variables: dict[str, str]) -> Sample | Failed:
    """One measurement in a new folder, which is deleted afterwards."""
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
    return Failed()


def _brief(sample: Sample) -> str:
    if sample.count:
        return f"{sample.count / sample.seconds:>10,.0f}/s"
    return "  ".join(f"{name}={value:.3g}" for name, value in sample.figures.items())
