"""Tables in Markdown: what was measured, on what machine, and what was aimed for."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .catalogue import CASES, GROUPS, Case, Group
from .results import Results, Spread
from .targets import verdicts

__all__ = ["BEGIN", "END", "file_system", "machine", "markdown", "show", "title_of", "write"]

BEGIN = "<!-- measured: written by `python -m benchmarks --write`, do not edit -->"
END = "<!-- end of measured -->"


def markdown(results: Results, command: str, folder: Path, rounds: int, rabbitmq: str = "") -> str:
    """The whole report. `rabbitmq`: its version, empty if none was measured."""
    lines = [*_heading(command, folder, rounds, rabbitmq), "", "### Targets", *_targets(results)]
    for group in GROUPS:
        cases = [
            case
            for case in CASES
            if case.name.startswith(group.name + "/") and (results.has(case.name) or case.name in results.unmet)
        ]
        if cases:
            lines += ["", f"### {group.title}"]
            if group.chart:
                lines += ["", f"![{group.title}](performance/{group.chart})", ""]
            lines += _rates(results, group, cases) if group.is_rates else _figures(results, cases)
            lines += _notes(group, cases)
    return "\n".join(lines) + "\n"


def write(report: str, page: Path, begin: str = BEGIN) -> None:
    """Put the report into `page`, in place of the one before; what people wrote around it stays."""
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(END)
    if not found:
        raise RuntimeError(f"{page}: expected the lines {begin!r} and {END!r}, for the report to stand between")
    page.write_text(f"{before}{begin}\n\n{report}\n{END}{after}")


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on, as /proc says; `unknown` where there is none."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except FileNotFoundError:
        return "unknown"
    found = [line.split()[1:3] for line in mounts if folder.resolve().is_relative_to(line.split()[1])]
    return max(found, key=lambda mount: len(mount[0]))[1]


MEASURED = ("dispatcher-queue", "aio-pika", "aiormq", "amqp", "dramatiq", "huey", "litequeue", "msgspec", "pika")


def _heading(command: str, folder: Path, rounds: int, rabbitmq: str) -> list[str]:
    return [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}: {rounds} interleaved rounds; medians, with the least and the most in"
        " brackets.",
        "",
        machine(folder, rabbitmq, MEASURED),
    ]


def machine(folder: Path, rabbitmq: str, packages: Sequence[str]) -> str:
    """What was measured on: the computer, the file system of `folder`, and the versions of everything."""
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    broker = f", RabbitMQ {rabbitmq}" if rabbitmq else ""
    return (
        f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.machine()}, {file_system(folder)};"
        f" Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}{broker}; {versions}."
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _targets(results: Results) -> Iterator[str]:
    yield from ("| what | target | measured | |", "|---|---|---|---|")
    for verdict in verdicts(results):
        yield f"| {verdict.what} | {verdict.wanted} | {verdict.got} | {'met' if verdict.met else '**missed**'} |"


def _rates(results: Results, group: Group, cases: list[Case]) -> Iterator[str]:
    """One row a case. A column that would be empty is left out: durability, the broker's CPU, the ratio to a peer."""
    per = f"{group.cpu_for // 1000}k"
    columns: dict[str, Callable[[Case], str]] = {}
    if any(case.durability for case in cases):
        columns["durability"] = lambda case: case.durability
    columns[f"{group.what}/s"] = lambda case: show(results.rate(case.name), "{:,.0f}".format)
    columns[f"CPU s per {per}"] = lambda case: show(results.cpu_for(case.name, group.cpu_for), "{:.2f}".format)
    if any(results.broker_cpu_for(case.name, group.cpu_for) for case in cases):
        columns[f"broker CPU s per {per}"] = lambda case: show(
            results.broker_cpu_for(case.name, group.cpu_for), "{:.2f}".format
        )
    if group.peers:
        columns[f"times {group.peers_title}, same round"] = lambda case: show(
            results.ratio(case.name, group), "{:.2f}".format
        )
    yield f"| | {' | '.join(columns)} |"
    yield "|---|" + "---|" * len(columns)
    for case in cases:
        yield _row(results, case, [column(case) for column in columns.values()])


def _figures(results: Results, cases: list[Case]) -> Iterator[str]:
    names = list(dict.fromkeys(name for case in cases for name in results.figures(case.name)))
    yield f"| | {' | '.join(title_of(name) for name in names)} |"
    yield "|---|" + "---|" * max(1, len(names))
    for case in cases:
        known = results.figures(case.name)
        cells = [show(results.figure(case.name, name), "{:.3g}".format) if name in known else "" for name in names]
        yield _row(results, case, cells)


def _row(results: Results, case: Case, cells: list[str]) -> str:
    if case.name in results.unmet:
        cells = [f"not measured: {results.unmet[case.name]}", *[""] * (len(cells) - 1)]
    return f"| {' | '.join([case.title, *cells])} |"


def _notes(group: Group, cases: list[Case]) -> Iterator[str]:
    """The settings of what was compared."""
    if group.note:
        yield from ("", group.note)
    if any(case.note for case in cases):
        yield ""
    yield from (f"- {case.title}: {case.note}" for case in cases if case.note)


UNITS = {"ms": "ms", "us": "µs", "mb": "MB", "percent": "%", "us_per_kb": "µs a kB", "mb_per_s": "MB/s"}


def title_of(name: str) -> str:
    """`idle_cpu_percent` as a heading: `idle cpu, %`."""
    unit = max((unit for unit in UNITS if name.endswith(f"_{unit}")), key=len)
    return f"{name.removesuffix(f'_{unit}').replace('_', ' ')}, {UNITS[unit]}"


def show(spread: Spread | None, form: Callable[[float], str]) -> str:
    if spread is None:
        return ""
    if spread.least == spread.most:
        return form(spread.median)
    return f"{form(spread.median)} ({form(spread.least)} to {form(spread.most)})"
