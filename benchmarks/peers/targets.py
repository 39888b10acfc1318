"""What was aimed for against the peers, and whether a run reached it. A target whose setups were not measured is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from ..results import Results
from ..samples import Sample
from ..targets import Verdict
from .setups import SETUPS

__all__ = ["verdicts"]

ON_RABBITMQ = ("celery", "dramatiq", "taskiq", "faststream")
OURS = {"dispatcher": "coroutines", "dispatcher-plain": "plain functions"}
"""The setups that are held to the targets, as they are called in them."""

Value = Callable[[Sample], float]


def rate(sample: Sample) -> float:
    return sample.count / sample.seconds


def cpu(sample: Sample) -> float:
    return sample.cpu_seconds / sample.count


def verdicts(results: Results) -> Iterator[Verdict]:
    """The median over the rounds of each ratio, both of the same round, against its target; a peer counts with its best setup."""
    for name, what in OURS.items():
        for peer in ON_RABBITMQ:
            yield from _times(f"drain, {what}, against {peer}", results, f"drain/{name}", "drain", peer, 5)
        yield from _cheaper(results, name, what)
        yield from _times(f"drain, {what}, against the Go package", results, f"drain/{name}", "drain", "go", 1)
    for peer in ("taskiq", "faststream"):
        what = f"publish with 100 in flight, against {peer}"
        yield from _times(what, results, "in-flight/dispatcher", "in-flight", peer, 2)
    yield from _times("50 ms tasks, 500 at once, against taskiq", results, "io/dispatcher", "io", "taskiq", 2)
    if share := results.figure("io/dispatcher", "share_percent"):
        yield _verdict("50 ms tasks, 500 at once, share of what is possible", share.median, 90, "{:.0f} %")


def _cheaper(results: Results, name: str, what: str) -> Iterator[Verdict]:
    """How many times as much CPU the cheapest peer in Python takes for a task."""
    samples = results.samples()
    spent = {
        setup.name: median(map(cpu, samples[f"drain/{setup.name}"].values()))
        for setup in SETUPS
        if setup.kind == "work" and setup.peer not in ("dispatcher", "go") and f"drain/{setup.name}" in samples
    }
    if spent and f"drain/{name}" in samples:
        cheapest = min(spent, key=lambda each: spent[each])
        ratio = _ratio(results, f"drain/{cheapest}", f"drain/{name}", cpu)
        yield _verdict(f"worker CPU for a task, {what}, of the thriftiest peer ({cheapest})", ratio, 8, "{:.1f}x")


def _times(what: str, results: Results, ours: str, group: str, peer: str, bound: float) -> Iterator[Verdict]:
    samples = results.samples()
    rates = {
        name: median(map(rate, samples[name].values()))
        for setup in SETUPS
        if setup.peer == peer and (name := f"{group}/{setup.name}") in samples
    }
    if rates and ours in samples:
        best = max(rates, key=lambda each: rates[each])
        yield _verdict(f"{what} ({best.partition('/')[2]})", _ratio(results, ours, best, rate), bound, "{:.1f}x")


def _ratio(results: Results, above: str, below: str, value: Value) -> float | None:
    """The median of the ratios of the rounds that have both; None if none has."""
    ours, theirs = results.samples()[above], results.samples()[below]
    ratios = [value(ours[number]) / value(theirs[number]) for number in ours if number in theirs]
    return median(ratios) if ratios else None


def _verdict(what: str, value: float | None, bound: float, form: str) -> Verdict:
    if value is None:
        return Verdict(what, f"≥ {form.format(bound)}", "never in one round", False)
    return Verdict(what, f"≥ {form.format(bound)}", form.format(value), value >= bound)
