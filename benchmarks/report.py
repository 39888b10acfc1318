"""Tables in Markdown: what was measured, on what machine, and what was aimed for."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .catalogue import CASES, GROUPS, MILLION, Case, Group
from .results import Results, Spread
from .targets import verdicts

__all__ = ["BEGIN", "END", "file_system", "markdown", "write"]

BEGIN = "<!-- measured: written by `python -m benchmarks --write`, do not edit -->"
END = "<!-- end of measured -->"


def markdown(results: Results, command: str, folder: Path, rounds: int) -> str:
    """The whole report."""
    lines = [*_machine(command, folder, rounds), "", "### Targets", *_targets(results)]
    for group in GROUPS:
        cases = [
            case for case in (*CASES, MILLION) if case.name.startswith(group.name + "/") and results.has(case.name)
        ]
        if cases:
            lines += ["", f"### {group.title}"]
            lines += (
                _figures(results, cases)
                if results.figures(cases[0].name) and not group.peers
                else _rates(results, group, cases)
            )
    return "\n".join(lines) + "\n"


def write(report: str, page: Path) -> None:
    """Put the report into `page`, in place of the one before; what people wrote around it stays."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise RuntimeError(f"{page}: expected the lines {BEGIN!r} and {END!r}, for the report to stand between")
    page.write_text(f"{before}{BEGIN}\n\n{report}\n{END}{after}")


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on, as /proc says; `unknown` where there is none."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except FileNotFoundError:
        return "unknown"
    found = [line.split()[1:3] for line in mounts if folder.resolve().is_relative_to(line.split()[1])]
    return max(found, key=lambda mount: len(mount[0]))[1]


def _machine(command: str, folder: Path, rounds: int) -> list[str]:
    versions = ", ".join(f"{name} {_version(name)}" for name in ("dispatcher-queue", "huey", "litequeue", "msgspec"))
    return [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}: {rounds} interleaved rounds; medians, with the least and the most in"
        " brackets.",
        "",
        f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.machine()}, {file_system(folder)};"
        f" Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; {versions}.",
    ]


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
    ratio_title = f" times {group.peers_title}, same round |" if group.peers else ""
    yield f"| | durability | tasks/s | CPU s per 10k |{ratio_title}"
    yield "|---|---|---|---|" + ("---|" if group.peers else "")
    for case in cases:
        cells = [
            case.title,
            case.durability,
            _show(results.rate(case.name), "{:,.0f}".format),
            _show(results.cpu_per_10k(case.name), "{:.2f}".format),
        ]
        if group.peers:
            cells.append(_show(results.ratio(case.name, group), "{:.2f}".format))
        yield f"| {' | '.join(cells)} |"


def _figures(results: Results, cases: list[Case]) -> Iterator[str]:
    names = list(dict.fromkeys(name for case in cases for name in results.figures(case.name)))
    yield f"| | {' | '.join(_title(name) for name in names)} |"
    yield "|---|" + "---|" * len(names)
    for case in cases:
        known = results.figures(case.name)
        cells = [_show(results.figure(case.name, name), "{:.3g}".format) if name in known else "" for name in names]
        yield f"| {case.title} | {' | '.join(cells)} |"


UNITS = {"ms": "ms", "us": "µs", "mb": "MB", "percent": "%"}


def _title(name: str) -> str:
    """`idle_cpu_percent` as a heading: `idle cpu, %`."""
    what, _, unit = name.rpartition("_")
    return f"{what.replace('_', ' ')}, {UNITS[unit]}"


def _show(spread: Spread | None, form: Callable[[float], str]) -> str:
    if spread is None:
        return ""
    if spread.least == spread.most:
        return form(spread.median)
    return f"{form(spread.median)} ({form(spread.least)} to {form(spread.most)})"
