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

Columns = dict[str, Callable[[Setup], str]]


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
    for title, kind, columns, note in _tables(survey.results):
        setups = [setup for setup in SETUPS if setup.kind == kind and _known(survey.results, setup)]
        if setups:
            lines += ["", f"### {title}", "", *_table(survey.results, setups, columns)]
            lines += ["", note] if note else []
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


def _tables(results: Results) -> Iterator[tuple[str, Kind, Columns, str]]:
    def rate(group: str) -> Callable[[Setup], str]:
        return lambda setup: show(results.rate(f"{group}/{setup.name}"), "{:,.0f}".format)

    def cpu(group: str) -> Callable[[Setup], str]:
        return lambda setup: show(results.cpu_for(f"{group}/{setup.name}", 10_000), "{:.2f}".format)

    def broker(group: str) -> Callable[[Setup], str]:
        return lambda setup: show(results.broker_cpu_for(f"{group}/{setup.name}", 10_000), "{:.2f}".format)

    def figure(group: str, name: str, form: str) -> Callable[[Setup], str]:
        def cell(setup: Setup) -> str:
            key = f"{group}/{setup.name}"
            return show(results.figure(key, name), form.format) if name in results.figures(key) else ""

        return cell

    def ratio(group: str, other: str, form: Callable[[float], str]) -> Callable[[Setup], str]:
        return lambda setup: show(results.ratio_to(f"{group}/{setup.name}", f"{group}/{other}"), form)

    yield (
        "Publishing",
        "work",
        {
            "one by one, tasks/s": rate("publish"),
            "CPU s per 10k": cpu("publish"),
            "100 in flight, tasks/s": rate("in-flight"),
            "CPU s per 10k, 100 in flight": cpu("in-flight"),
        },
        "CPU is the sender's. An empty cell: it has no way to await more than one publish at once.",
    )
    yield (
        "Draining no-op tasks",
        "work",
        {
            "durability": lambda setup: setup.durability,
            "tasks/s": rate("drain"),
            "worker CPU s per 10k": cpu("drain"),
            "broker CPU s per 10k": broker("drain"),
            "of Dispatcher's rate, limit 500, same round": ratio("drain", "dispatcher", "{:.2f}".format),
        },
        "",
    )
    yield (
        "Starting, waiting, idling",
        "work",
        {
            "start to first task, ms": figure("running", "start_ms", "{:.0f}"),
            "latency p50, ms": figure("running", "p50_ms", "{:.2f}"),
            "latency p99, ms": figure("running", "p99_ms", "{:.2f}"),
            "idle CPU, %": figure("running", "idle_cpu_percent", "{:.2f}"),
            "RSS, MB": figure("running", "rss_mb", "{:.0f}"),
            "PSS, MB": figure("running", "pss_mb", "{:.0f}"),
            "processes": figure("running", "processes_count", "{:.0f}"),
        },
        "Latency is from before the publish to the function's first line, at 200 tasks a second; memory is of all processes,"
        " after the drain.",
    )
    yield (
        "Tasks that wait 50 ms, in one process",
        "io",
        {
            "at once": lambda setup: f"{setup.at_once}",
            "tasks/s": rate("io"),
            "of what so many allow, %": figure("io", "share_percent", "{:.0f}"),
            "worker CPU s per 10k": cpu("io"),
            "broker CPU s per 10k": broker("io"),
        },
        "",
    )
    yield (
        "Tasks that compute for about 5 ms, in two processes",
        "cpu",
        {
            "tasks/s": rate("cpu"),
            "of two bare processes, same round, %": ratio("cpu", "bare", lambda value: f"{value * 100:.0f}"),
            "worker CPU s per 10k": cpu("cpu"),
            "broker CPU s per 10k": broker("cpu"),
        },
        _bare(results),
    )


def _bare(results: Results) -> str:
    found = show(results.rate("cpu/bare"), "{:,.0f}".format)
    return f"Two bare processes that do nothing else: {found} a second." if found else ""


def _table(results: Results, setups: Sequence[Setup], columns: Columns) -> Iterator[str]:
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
