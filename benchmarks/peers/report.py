"""The page and the data of a run. Pure: it measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..report import show
from ..results import Results
from .catalogue import PEERS, Kind, Setup
from .setups import SETUPS
from .targets import verdicts

__all__ = ["BEGIN", "Survey", "data", "markdown"]

BEGIN = "<!-- measured: written by `python -m benchmarks.peers --write`, do not edit -->"

Cell = Callable[[Setup], str]
Columns = dict[str, Cell]


class Table(msgspec.Struct, frozen=True):
    """One row for each setup of a kind; `note` stands below it."""

    title: str
    kind: Kind
    columns: Columns
    note: str = ""


class Survey(msgspec.Struct, kw_only=True):
    """What a run found out. `results.unmet` says why a setup was not measured, by its key; `failures` what went wrong in a
    round of one that was measured in another. `versions`: by peer, then by package; `machine`: it and the brokers."""

    results: Results
    command: str
    rounds: int
    machine: str
    versions: dict[str, dict[str, str]]
    failures: dict[str, list[str]]


def markdown(survey: Survey) -> str:
    """The whole report."""
    lines = [*_machine(survey)]
    if found := list(verdicts(survey.results)):
        lines += ["", "### Targets", "", "| what | target | measured | |", "|---|---|---|---|"]
        lines += [f"| {each.what} | {each.wanted} | {each.got} | {_met(each.met)} |" for each in found]
    for table in _tables(survey.results):
        setups = [setup for setup in SETUPS if setup.kind == table.kind and _known(survey.results, setup)]
        if setups:
            lines += ["", f"### {table.title}", "", *_rows(survey.results, setups, table.columns)]
            lines += ["", table.note] if table.note else []
    lines += ["", "### Settings", "", *_settings(survey.results)]
    if survey.failures:
        lines += ["", "### Failures", "", *(f"- {key}: {'; '.join(said)}" for key, said in survey.failures.items())]
    return "\n".join(lines) + "\n"


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def data(survey: Survey) -> bytes:
    """Every sample, as JSON: by what was measured and by round."""
    content: dict[str, Any] = {
        "command": survey.command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": survey.machine,
        "versions": survey.versions,
        "rounds": survey.rounds,
        "samples": {
            name: {str(number): sample for number, sample in by_round.items()}
            for name, by_round in survey.results.samples().items()
        },
        "not_measured": survey.results.unmet,
        "failures": survey.failures,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _machine(survey: Survey) -> Iterator[str]:
    yield (
        f"`{survey.command}`, {datetime.now(UTC):%Y-%m-%d}: {survey.rounds} interleaved rounds; medians, with the least and the"
        " most in brackets."
    )
    yield ""
    yield survey.machine
    yield ""
    for peer in PEERS:
        if found := survey.versions.get(peer.name):
            yield f"- {peer.title}: {', '.join(f'{name} {version}' for name, version in found.items())}"


class Cells:
    """Makes the cells of a column: the function for each says what a setup's cell holds, empty if that was not measured."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def rate(self, group: str) -> Cell:
        return lambda setup: show(self.results.rate(f"{group}/{setup.name}"), "{:,.0f}".format)

    def cpu(self, group: str) -> Cell:
        return lambda setup: show(self.results.cpu_for(f"{group}/{setup.name}", 10_000), "{:.2f}".format)

    def broker_cpu(self, group: str) -> Cell:
        return lambda setup: show(self.results.broker_cpu_for(f"{group}/{setup.name}", 10_000), "{:.2f}".format)

    def figure(self, group: str, name: str, form: str) -> Cell:
        def cell(setup: Setup) -> str:
            key = f"{group}/{setup.name}"
            return show(self.results.figure(key, name), form.format) if name in self.results.figures(key) else ""

        return cell

    def ratio(self, group: str, other: str, form: Callable[[float], str]) -> Cell:
        """To the rate of another, of the same round."""
        return lambda setup: show(self.results.ratio_to(f"{group}/{setup.name}", f"{group}/{other}"), form)


def _tables(results: Results) -> Iterator[Table]:
    cells = Cells(results)
    yield _publishing(cells)
    yield _draining(cells)
    yield _running(cells)
    yield _waiting(cells)
    yield _computing(cells)


def _publishing(cells: Cells) -> Table:
    columns = {
        "one by one, tasks/s": cells.rate("publish"),
        "CPU s per 10k": cells.cpu("publish"),
        "100 in flight, tasks/s": cells.rate("in-flight"),
        "CPU s per 10k, 100 in flight": cells.cpu("in-flight"),
    }
    note = "CPU is the sender's. An empty cell: it has no way to await more than one publish at once."
    return Table("Publishing", "work", columns, note)


def _draining(cells: Cells) -> Table:
    columns: Columns = {
        "durability": lambda setup: setup.durability,
        "tasks/s": cells.rate("drain"),
        "worker CPU s per 10k": cells.cpu("drain"),
        "broker CPU s per 10k": cells.broker_cpu("drain"),
        "of Dispatcher's rate, limit 500, same round": cells.ratio("drain", "dispatcher", "{:.2f}".format),
    }
    return Table("Draining no-op tasks", "work", columns)


def _running(cells: Cells) -> Table:
    columns = {
        "start to first task, ms": cells.figure("running", "start_ms", "{:.0f}"),
        "latency p50, ms": cells.figure("running", "p50_ms", "{:.2f}"),
        "latency p99, ms": cells.figure("running", "p99_ms", "{:.2f}"),
        "idle CPU, %": cells.figure("running", "idle_cpu_percent", "{:.2f}"),
        "RSS, MB": cells.figure("running", "rss_mb", "{:.0f}"),
        "PSS, MB": cells.figure("running", "pss_mb", "{:.0f}"),
        "processes": cells.figure("running", "processes_count", "{:.0f}"),
    }
    note = (
        "Latency is from before the publish to the function's first line, at 200 tasks a second; memory is of all processes,"
        " after the drain."
    )
    return Table("Starting, waiting, idling", "work", columns, note)


def _waiting(cells: Cells) -> Table:
    columns: Columns = {
        "at once": lambda setup: f"{setup.at_once}",
        "tasks/s": cells.rate("io"),
        "of what so many allow, %": cells.figure("io", "share_percent", "{:.0f}"),
        "worker CPU s per 10k": cells.cpu("io"),
        "broker CPU s per 10k": cells.broker_cpu("io"),
    }
    return Table("Tasks that wait 50 ms, in one process", "io", columns)


def _computing(cells: Cells) -> Table:
    columns = {
        "tasks/s": cells.rate("cpu"),
        "of two bare processes, same round, %": cells.ratio("cpu", "bare", lambda value: f"{value * 100:.0f}"),
        "worker CPU s per 10k": cells.cpu("cpu"),
        "broker CPU s per 10k": cells.broker_cpu("cpu"),
    }
    return Table("Tasks that compute for about 5 ms, in two processes", "cpu", columns, _bare(cells.results))


def _bare(results: Results) -> str:
    found = show(results.rate("cpu/bare"), "{:,.0f}".format)
    return f"Two bare processes that do nothing else: {found} a second." if found else ""


def _rows(results: Results, setups: Sequence[Setup], columns: Columns) -> Iterator[str]:
    """A column that would be empty is left out."""
    shown = {title: cell for title, cell in columns.items() if any(map(cell, setups))}
    yield f"| | {' | '.join(shown)} |"
    yield "|---|" + "---|" * len(shown)
    for setup in setups:
        cells = [cell(setup) for cell in shown.values()]
        if setup.key in results.unmet:
            cells = [results.unmet[setup.key], *[""] * (len(cells) - 1)]
        yield f"| {' | '.join([setup.title, *cells])} |"


def _settings(results: Results) -> Iterator[str]:
    for peer in PEERS:
        setups = [setup for setup in SETUPS if setup.peer == peer.name and _known(results, setup)]
        if setups:
            yield f"- **{peer.title}**: {peer.note}"
            yield from (f"    - {setup.title}{WHERE[setup.kind]}: {setup.note}" for setup in setups)


WHERE: dict[Kind, str] = {"work": "", "io": " (50 ms tasks)", "cpu": " (computing)"}


def _known(results: Results, setup: Setup) -> bool:
    name = f"{'drain' if setup.kind == 'work' else setup.kind}/{setup.name}"
    return results.has(name) or setup.key in results.unmet
