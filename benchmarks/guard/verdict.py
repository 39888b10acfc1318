"""The guard's arithmetic: what a task costs on each path, against a baseline of the same interpreter. Measures nothing.

A cost is a ratio: the CPU seconds of a path's tasks over those of the reference work, both the least of many short
rounds of one run. A machine that is twice as slow is so for both.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["WORSE", "Baselines", "Verdict", "judge", "too_dear"]

WORSE = 1.25
"""So many times its baseline a path may cost before the guard fails."""

RECORD = "python -m benchmarks.guard --write"

Baselines = dict[str, dict[str, float]]
"""By the minor version of Python, `3.11`: what each path cost when it was recorded."""


class Verdict(msgspec.Struct, frozen=True):
    """`lines` for people, one a path and what to do at the end; `failed`: a path got too much worse."""

    lines: list[str]
    failed: bool


def too_dear(costs: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """The paths that cost more than they may."""
    return [path for path, cost in costs.items() if cost > WORSE * baseline.get(path, cost)]


def judge(costs: Mapping[str, float], baselines: Baselines, python: str) -> Verdict:
    """What is to be said of `costs`, measured with the minor version `python`.

    Without a baseline for that version nothing fails: interpreters differ by more than the guard allows. The same for a path
    that the baseline does not know. A path of the baseline that was not measured is named, and does not fail.
    """
    known = baselines.get(python)
    if known is None:
        there = ", ".join(sorted(baselines)) or "none"
        return Verdict(
            [
                *(f"{path}: {cost:.2f}" for path, cost in costs.items()),
                f"no baseline for Python {python} (there are: {there}), so nothing is compared; record one: {RECORD}",
            ],
            failed=False,
        )
    lines: list[str] = []
    worse = [f"{path} by {costs[path] / known[path] - 1:.0%}" for path in too_dear(costs, known)]
    for path, cost in costs.items():
        before = known.get(path)
        if before is None:
            lines.append(f"{path}: {cost:.2f}, no baseline; record it: {RECORD}")
            continue
        lines.append(f"{path}: {cost:.2f}, baseline {before:.2f}, {cost / before - 1:+.0%}")
    lines += [f"{path}: not measured, its broker is not here" for path in known if path not in costs]
    if worse:
        lines.append(
            f"the CPU that a task costs got worse than the {WORSE - 1:.0%} that are allowed: {'; '.join(worse)}."
            " Find what costs it (py-spy, valgrind --tool=callgrind) and take it out;"
            f" where it is worth its price, record it and say why in the commit: {RECORD}"
        )
    return Verdict(lines, bool(worse))
