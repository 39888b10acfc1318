"""The command line, and the run: every setup of a round, then the next round. A peer that fails does not end the run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import msgspec
from pika.exceptions import AMQPError

from ..report import machine, write
from ..results import Results
from ..samples import Sample
from ..surroundings import compile_package, disk_folder
from .catalogue import PEERS, Setup
from .environments import ROOT, Environments, tail
from .golang import build_go
from .measure import Bench, bare_loops
from .plots import draw
from .report import BEGIN, Survey, data, markdown
from .services import Services, services
from .setups import SETUPS
from .worker import PeerFailed

__all__ = ["main"]

PAGE = ROOT / "docs" / "performance-peers.md"
DATA = ROOT / "docs" / "performance" / "peers.json"

FAULTS = (PeerFailed, AMQPError, OSError, subprocess.SubprocessError, msgspec.MsgspecError)
"""What a peer that does not do as its setup says shows itself by: another's fault, which the run outlives."""


@click.command()
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Only setups whose peer, or key, starts so: `celery`, `io/`; repeatable.",
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="How often each is measured.")
@click.option("--scale", default=1.0, show_default=True, help="A part of each number of tasks, for a short try.")
@click.option("--write", "write_page", is_flag=True, help="Put the report, its data and its plots into docs/.")
def main(only: tuple[str, ...], rounds: int, scale: float, write_page: bool) -> None:
    """Measure Dispatcher and other task queues, each in its best setting, on this machine."""
    setups = [setup for setup in SETUPS if not only or setup.key.startswith(only) or setup.peer.startswith(only)]
    if not setups:
        known = ", ".join(setup.key for setup in SETUPS)
        raise click.UsageError(f"no setup starts with {' or '.join(only)}; there are: {known}")
    compile_package()
    wanted = {setup.peer for setup in setups}
    environments = Environments.of([peer for peer in PEERS if peer.name in wanted and peer.app])
    if "go" in wanted:
        build_go(environments)
    with tempfile.TemporaryDirectory(prefix="dispatcher-bench-", dir=disk_folder()) as folder:
        scratch = Path(folder)
        with services({broker_of(setup) for setup in setups}, scratch) as found:
            survey = Survey(
                results=Results(),
                command="python -m benchmarks.peers" + "".join(f" {word}" for word in sys.argv[1:]),
                rounds=rounds,
                machine=_machine(scratch, found),
                versions=environments.versions,
                failures={},
            )
            _run(survey, setups, found, environments, scratch, scale)
        report = markdown(survey)
    click.echo(report)
    if write_page:
        DATA.parent.mkdir(exist_ok=True)
        DATA.write_bytes(data(survey))
        shown = draw(survey.results, DATA.parent)
        last = f"Every sample: [{DATA.name}](performance/{DATA.name})."
        write("\n\n".join([report.rstrip(), *shown, last]) + "\n", PAGE, BEGIN)


def _machine(scratch: Path, found: Services) -> str:
    said = machine(scratch, found.rabbitmq.version if found.rabbitmq else "", ("dispatcher-queue", "msgspec"))
    return f"{said} Redis {found.redis.version}." if found.redis else said


def broker_of(setup: Setup) -> str:
    return "rabbitmq" if setup.service == "go" else setup.service


def _run(
    survey: Survey, setups: list[Setup], services: Services, environments: Environments, scratch: Path, scale: float
) -> None:
    results = survey.results
    for number in range(1, survey.rounds + 1):
        if any(setup.kind == "cpu" for setup in setups):
            results.add("cpu/bare", number, bare_loops(2))
        for setup in setups:
            reason = environments.missing.get(setup.peer) or services.missing.get(broker_of(setup))
            if reason:
                results.unmet[setup.key] = f"not measured: {reason}"
                continue
            begun = time.monotonic()
            queue = f"dispatcher.bench.{os.getpid()}.{setup.key.replace('/', '-')}-{number}"
            try:
                samples = Bench(setup, services, scratch, queue, scale).measure()
            except FAULTS as failure:
                click.echo(f"{setup.key} failed: {failure}", err=True)
                survey.failures.setdefault(setup.key, []).append(f"round {number}: {_brief(failure)}")
                continue
            finally:
                _clean(services, setup, queue)
            for what, sample in samples.items():
                results.add(f"{what}/{setup.name}", number, sample)
            told = "  ".join(f"{what} {_told(sample)}" for what, sample in samples.items() if sample.count)
            click.echo(
                f"round {number} of {survey.rounds}  {setup.key:<28}{told}  ({time.monotonic() - begun:.0f} s)",
                err=True,
            )
    for key, said in survey.failures.items():
        if len(said) == survey.rounds:
            results.unmet[key] = f"failed: {said[-1].partition(': ')[2]}"


def _clean(services: Services, setup: Setup, queue: str) -> None:
    """What cannot be deleted is told, with its name; a broker that was too busy once does not end the run."""
    try:
        services.clean(setup, queue)
    except (AMQPError, OSError) as error:
        click.echo(f"the queue {queue} may be left in the broker: {type(error).__name__}", err=True)


def _brief(failure: Exception) -> str:
    """What was expected, and the last words of the program."""
    first, _, rest = (str(failure) or type(failure).__name__).partition("\n")
    return f"{first} {tail(rest)}" if rest.strip() else first


def _told(sample: Sample) -> str:
    return f"{sample.count / sample.seconds:,.0f}/s"


if __name__ == "__main__":
    main()
