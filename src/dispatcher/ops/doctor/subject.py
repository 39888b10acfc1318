"""What is examined for: an app's exchange and queues, and its tasks that run long. Data only."""

from __future__ import annotations

import msgspec

from ...model.topology import Topology
from ...runtime.app import Dispatcher

__all__ = ["Subject", "subject_of"]


class Subject(msgspec.Struct, frozen=True):
    """An app. `target` is its name on the command line; `timeouts` are its tasks' by name, None for those without."""

    target: str
    topology: Topology
    timeouts: dict[str, float | None]


def subject_of(target: str, app: Dispatcher) -> Subject:
    config = app.config
    return Subject(
        target,
        Topology(config.exchange, app.queues, config.declare, tuple(app.schedules)),
        {name: task.config.timeout_seconds for name, task in app.tasks.items()},
    )
