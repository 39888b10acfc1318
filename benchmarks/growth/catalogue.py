"""What grows in `make bench-growth`: each sweep's steps, how they are measured, and which figures must stay flat. Data only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from ..catalogue import Case

__all__ = ["PLACES", "SWEEPS", "Judged", "Place", "Sweep", "cases"]

Place = Literal["sqlite", "rabbitmq"]
PLACES: dict[Place, str] = {"sqlite": "SQLite", "rabbitmq": "RabbitMQ"}

QUICK_SHARE = 5
"""With `--quick` each step has a fifth of its tasks."""

CPU = "CPU µs a task"


class Judged(msgspec.Struct, frozen=True):
    """A figure that should stay flat, and is drawn. `since`: the step that the last one is compared with; None is the first.

    Or two figures of one step, the later one and `against`.
    """

    figure: str
    title: str
    since: int | None = None
    against: str = ""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that grows. `axis` says what, `option` is the argument of `does` that it goes to.

    `count`: tasks measured at each step, at most so many that their bodies are `volume` bytes. `once_from`: steps from here on
    are measured in the first round only. `queues`: how many there are, one, or as many as the step says.
    """

    name: str
    title: str
    axis: str
    does: str
    option: str
    steps: dict[Place, Sequence[int]]
    quick: Sequence[int]
    judged: Sequence[Judged]
    y: str
    count: int = 0
    volume: int | None = None
    once_from: int | None = None
    queues: Literal["one", "step"] = "one"
    log_x: bool = True
    note: str = ""


def _both(*steps: int) -> dict[Place, Sequence[int]]:
    return {"sqlite": steps, "rabbitmq": steps}


PUBLISH_AND_DRAIN = (Judged("publish_cpu_us", "publish, CPU"), Judged("drain_cpu_us", "drain, CPU"))
DRAIN = (Judged("drain_cpu_us", "drain, CPU"),)

SWEEPS = (
    Sweep(
        name="waiting",
        title="Tasks that wait in the queue",
        axis="tasks waiting",
        does="waiting",
        option="waiting",
        steps=_both(1000, 10_000, 100_000, 1_000_000),
        quick=(1000, 10_000),
        judged=PUBLISH_AND_DRAIN,
        y=CPU,
        count=20_000,
        once_from=1_000_000,
        note="So many tasks are in the queue already; then 20,000 more are published, and 20,000 are drained from its head.",
    ),
    Sweep(
        name="queues",
        title="Queues that one worker process works on",
        axis="queues",
        does="queues",
        option="",
        # With 1,024 file descriptors, as a shell has it, RabbitMQ 3.x answers nobody any more from 300 quorum queues on, and
        # each queue of ours has two more beside it.
        steps={"sqlite": (1, 10, 100), "rabbitmq": (1, 10, 50)},
        quick=(1, 10),
        judged=PUBLISH_AND_DRAIN,
        y=CPU,
        count=40_000,
        queues="step",
        note="40,000 tasks in all, for each queue in turn; `dispatcher worker` with its own settings, so that 32 run at once.",
    ),
    Sweep(
        name="workers",
        title="Workers on one queue, in one process",
        axis="workers",
        does="workers",
        option="workers",
        steps=_both(1, 10, 50),
        quick=(1, 10),
        judged=DRAIN,
        y=CPU,
        count=40_000,
        note="A program with so many workers on one connection, each with a limit of 32.",
    ),
    Sweep(
        name="workers-queues",
        title="Workers in one process, each on a queue of its own",
        axis="workers and queues",
        does="workers",
        option="workers",
        steps=_both(1, 10, 50),
        quick=(1, 10),
        judged=DRAIN,
        y=CPU,
        count=40_000,
        queues="step",
        note="The same, with as many queues as workers.",
    ),
    Sweep(
        name="processes",
        title="Worker processes on one queue",
        axis="processes",
        does="processes",
        option="processes",
        steps={"sqlite": (1, 2, 4, 8), "rabbitmq": (1, 2, 4)},
        quick=(1, 2),
        judged=DRAIN,
        y=CPU,
        count=60_000,
        log_x=False,
        note="`dispatcher worker -p`. The CPU time is that of all processes together, the supervisor included. The wall time of a"
        " task is that between two of them, over all processes: it can fall only as far as there are cores.",
    ),
    Sweep(
        name="bodies",
        title="Size of a task's body",
        axis="bytes",
        does="bodies",
        option="size",
        steps=_both(100, 1000, 10_000, 100_000, 1_000_000),
        quick=(100, 100_000, 1_000_000),
        judged=(
            Judged("publish_cpu_us_per_kb", "publish, CPU a kB", since=100_000),
            Judged("drain_cpu_us_per_kb", "drain, CPU a kB", since=100_000),
        ),
        y="CPU µs a kB",
        count=20_000,
        volume=200_000_000,
        note="One text of that many bytes. A larger body costs more; what must not grow is the cost of a kilobyte, once the body"
        " outweighs the rest of the task: from 100 kB to 1 MB.",
    ),
    Sweep(
        name="memory",
        title="Memory of a worker over a million tasks",
        axis="tasks run",
        does="memory",
        option="count",
        steps=_both(1_000_000),
        quick=(100_000,),
        judged=(Judged("late_mb", "memory after a tenth, and at the end", against="early_mb"),),
        y="PSS, MB",
        once_from=0,
        log_x=False,
        note="One worker process drains them; its memory is read twice a second.",
    ),
    Sweep(
        name="delayed",
        title="Delayed tasks behind which a delay of one second must be kept",
        axis="delayed tasks in the way",
        does="delayed",
        option="delayed",
        steps={"sqlite": (0, 10_000, 100_000, 1_000_000), "rabbitmq": (0, 200_000)},
        quick=(0, 10_000),
        judged=(Judged("late_p50_ms", "lateness, p50"), Judged("late_p99_ms", "lateness, p99")),
        y="ms late",
        count=1000,
        once_from=0,
        log_x=False,
        note="Those in the way are due minutes later. Meanwhile tasks with a delay of one second are sent, 100 a second: how much"
        " later than that second their functions start, publishing included.",
    ),
)


def cases(sweep: Sweep, *, quick: bool, more: Sequence[tuple[Place, int]] = ()) -> list[tuple[Place, int, Case]]:
    """Its cases, each with its place and step. `more`: steps that are measured only if they are asked for."""
    steps = [(place, step) for place in PLACES for step in (sweep.quick if quick else sweep.steps[place])]
    return [(place, step, _case(sweep, place, step, quick)) for place, step in (*steps, *more)]


def _case(sweep: Sweep, place: Place, step: int, quick: bool) -> Case:
    count = sweep.count // (QUICK_SHARE if quick else 1)
    if sweep.volume is not None:
        count = min(count, sweep.volume // step // (QUICK_SHARE if quick else 1))
    options: dict[str, Any] = {sweep.option: step} if sweep.option else {}
    return Case(
        f"{sweep.name}/{place}-{step}",
        f"{step:,}",
        f"growth.cases:{sweep.does}",
        options | ({"count": count} if sweep.count else {}),
        once=sweep.once_from is not None and step >= sweep.once_from,
        needs=("rabbitmq",) if place == "rabbitmq" else (),
        queues=step if sweep.queues == "step" else 1,
    )
