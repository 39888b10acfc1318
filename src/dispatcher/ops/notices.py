"""What the command line reports of processes, as events: they are logged like those of tasks and workers. Data only."""

from __future__ import annotations

import logging

from ..observe.events import Event

__all__ = [
    "AppStarted",
    "AppStopped",
    "LogFormatIgnored",
    "ProcessEnded",
    "ProcessResting",
    "ProcessStarted",
    "SignalTaken",
    "SourceChanged",
    "SourceWatched",
    "SupervisorLost",
    "SupervisorStarted",
    "SupervisorStopped",
]


class AppStarted(Event, frozen=True):
    """A worker process goes to work. `tasks` names each task with what happens at its timeout."""

    name = "app.started"
    app: str
    broker: str
    queues: str
    limit: int
    pid: int
    tasks: str


class AppStopped(Event, frozen=True):
    """A worker process is done and ends with this code."""

    name = "app.stopped"
    pid: int
    exit_code: int
    because: str


class LogFormatIgnored(Event, frozen=True):
    """The application configured logging itself: that stays, and `--log-format` has no effect."""

    name = "log_format.ignored"
    level = logging.WARNING
    log_format: str


class SignalTaken(Event, frozen=True):
    """A signal was taken; `effect` is what follows."""

    name = "signal.taken"
    signal: str
    effect: str


class SupervisorLost(Event, frozen=True):
    """The supervisor of this process is gone: it drains and ends."""

    name = "supervisor.lost"
    level = logging.WARNING
    pid: int


class SupervisorStarted(Event, frozen=True):
    """It will keep `processes` worker processes running."""

    name = "supervisor.started"
    pid: int
    processes: int


class SupervisorStopped(Event, frozen=True):
    """All its processes ended; it ends with this code."""

    name = "supervisor.stopped"
    exit_code: int


class ProcessStarted(Event, frozen=True):
    """A worker process was started. `number` counts from 1."""

    name = "worker_process.started"
    number: int
    pid: int


class ProcessEnded(Event, frozen=True):
    """A worker process ended: `ended` says how."""

    name = "worker_process.ended"
    level = logging.WARNING
    number: int
    pid: int
    ended: str


class ProcessResting(Event, frozen=True):
    """A worker process is started again after `seconds`; None: after the next change of a file."""

    name = "worker_process.resting"
    level = logging.WARNING
    number: int
    seconds: float | None


class SourceWatched(Event, frozen=True):
    """From now on a change of a Python file below this folder is noticed."""

    name = "source.watched"
    folder: str


class SourceChanged(Event, frozen=True):
    """Python files changed: the worker processes are replaced once they have drained."""

    name = "source.changed"
    files: str
