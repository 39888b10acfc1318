"""What was aimed for, and whether a run reached it. A target whose cases were not measured is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from .catalogue import GROUPS
from .results import Results

__all__ = ["Verdict", "verdicts"]

TIE = 1 / 1.3
"""Rates of two runs differ by up to this much with nothing changed."""

DRAINS = ("coroutine-32", "coroutine-250", "function-32", "function-250")

CLIENTS = {
    "publish": (("aio-pika", 4), ("pika", 1.3), ("librabbitmq", 0.9)),
    "consume": (("aio-pika", 5), ("pika", 2), ("librabbitmq", 0.8)),
}
CLIENT_CPU = {"publish": 1.0, "consume": 0.6}
"""Seconds for 100,000 messages."""


class Verdict(msgspec.Struct, frozen=True):
    what: str
    wanted: str
    got: str
    met: bool


def verdicts(results: Results) -> Iterator[Verdict]:
    """The median of each figure against its target."""
    for what, value, sense, bound, form in _compared(results):
        if value is not None:
            met = value >= bound if sense == ">=" else value <= bound
            yield Verdict(what, f"{'≥' if sense == '>=' else '≤'} {form.format(bound)}", form.format(value), met)


Compared = tuple[str, float | None, Literal[">=", "<="], float, str]


def _compared(results: Results) -> Iterator[Compared]:
    yield from _embedded(results)
    yield from _on_rabbitmq(results)


def _embedded(results: Results) -> Iterator[Compared]:
    yield "publish one by one, against huey with fsync", _ratio(results, "publish/dispatcher"), ">=", TIE, "{:.2f}x"
    yield "publish, 100 publishers at once", _rate(results, "in-flight/dispatcher"), ">=", 60_000, "{:,.0f}/s"
    yield "publish, `publish_many`", _rate(results, "in-flight/dispatcher-many"), ">=", 60_000, "{:,.0f}/s"
    for drain in DRAINS:
        yield f"drain, {drain}, against the best huey", _ratio(results, f"drain/dispatcher-{drain}"), ">=", 5, "{:.1f}x"
    for drain in DRAINS:
        yield (
            f"worker CPU for 10k no-op tasks, {drain}",
            _cpu(results, f"drain/dispatcher-{drain}", 10_000),
            "<=",
            0.25,
            "{:.2f} s",
        )
    yield "latency at 200 tasks/s, p50", _figure(results, "latency/dispatcher", "p50_ms"), "<=", 0.6, "{:.2f} ms"
    yield "latency at 200 tasks/s, p99", _figure(results, "latency/dispatcher", "p99_ms"), "<=", 2, "{:.2f} ms"
    yield "an idle worker wakes, p99", _figure(results, "latency/dispatcher-wake", "p99_ms"), "<=", 20, "{:.2f} ms"
    yield "worker start to first task", _figure(results, "start/dispatcher", "start_ms"), "<=", 250, "{:.0f} ms"
    yield (
        "memory after 20,000 tasks",
        _figure(results, "drain/dispatcher-coroutine-32", "resident_mb"),
        "<=",
        40,
        "{:.0f} MB",
    )
    for processes in (1, 4):
        idle = _figure(results, f"idle/dispatcher-{processes}", "idle_cpu_percent")
        yield f"idle CPU of a worker, {processes} on the file", idle, "<=", 0.5, "{:.2f} %"


def _on_rabbitmq(results: Results) -> Iterator[Compared]:
    for what, peers in CLIENTS.items():
        ours = f"amqp-{what}/dispatcher"
        for peer, times in peers:
            ratio = _ratio_to(results, ours, f"amqp-{what}/{peer}")
            yield f"AMQP client, {what}, against {peer}", ratio, ">=", times, "{:.1f}x"
        cpu = _cpu(results, ours, 100_000)
        yield f"AMQP client, {what}, CPU for 100k messages", cpu, "<=", CLIENT_CPU[what], "{:.2f} s"
    for drain in DRAINS:
        cpu = _cpu(results, f"rabbitmq/drain-{drain}", 10_000)
        yield f"RabbitMQ: worker CPU for 10k no-op tasks, {drain}", cpu, "<=", 0.25, "{:.2f} s"
    for percent, bound in ((50, 0.6), (99, 2)):
        late = _figure(results, "latency/rabbitmq", f"p{percent}_ms")
        yield f"RabbitMQ: latency at 200 tasks/s, p{percent}", late, "<=", bound, "{:.2f} ms"
    started = _figure(results, "start/rabbitmq", "start_ms")
    yield "RabbitMQ: worker start to first task", started, "<=", 250, "{:.0f} ms"
    memory = _figure(results, "rabbitmq/drain-coroutine-32", "resident_mb")
    yield "RabbitMQ: memory after 20,000 tasks", memory, "<=", 40, "{:.0f} MB"
    idle = _figure(results, "idle/rabbitmq-1", "idle_cpu_percent")
    yield "RabbitMQ: idle CPU of a worker", idle, "<=", 0.5, "{:.2f} %"


def _ratio(results: Results, name: str) -> float | None:
    group = next(group for group in GROUPS if name.startswith(group.name + "/"))
    spread = results.ratio(name, group)
    return None if spread is None else spread.median


def _ratio_to(results: Results, name: str, other: str) -> float | None:
    spread = results.ratio_to(name, other)
    return None if spread is None else spread.median


def _rate(results: Results, name: str) -> float | None:
    spread = results.rate(name)
    return None if spread is None else spread.median


def _cpu(results: Results, name: str, count: int) -> float | None:
    spread = results.cpu_for(name, count)
    return None if spread is None else spread.median


def _figure(results: Results, name: str, figure: str) -> float | None:
    spread = results.figure(name, figure)
    return None if spread is None else spread.median
