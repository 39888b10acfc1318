"""The two seams: `Middleware` wraps a run, `Observer` sees events. They are never mixed.

An exception of a middleware is the task's own, as if its function had raised it. An exception of an observer is
logged and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from ..brokers.base import BrokerEvent
from .context import CurrentTask
from .events import Event, ObserverFailed

__all__ = ["AnyEvent", "CallNext", "EventHub", "Middleware", "Observer"]

AnyEvent: TypeAlias = Event | BrokerEvent
CallNext: TypeAlias = Callable[[], Awaitable[None]]


class Middleware(Protocol):
    """Wraps the run of every task, on the worker's event loop, also when the function runs in a thread or a process.

    Await `call_next()` exactly once to run what is inside; it raises what the task raises. A context variable set
    before it is seen by the task, threads included (not processes). Raising makes it the task's failure; `Retry`,
    `Snooze`, `Reject` and `Discard` have their meaning here too.
    """

    async def __call__(self, task: CurrentTask, call_next: CallNext, /) -> None: ...


class Observer(Protocol):
    """Sees every event, in order, on the event loop; must not block."""

    def on_event(self, event: AnyEvent, /) -> None: ...


class EventHub:
    """Hands each event to every observer.

    `busy` is whether anyone wants the per-task events that are logged at DEBUG: the hot path builds none of them
    otherwise. `debug`: the log is one of those who do.
    """

    __slots__ = ("_log", "_logged_from", "_observers", "busy")

    def __init__(self, log: Observer, observers: Sequence[Observer] = (), *, debug: bool = False) -> None:
        self._log = log
        self._logged_from = logging.DEBUG if debug else logging.DEBUG + 1
        self._observers = tuple(observers)
        self.busy = debug or bool(observers)

    def emit(self, event: AnyEvent) -> None:
        if event.level >= self._logged_from:
            self._write(event)
        for observer in self._observers:
            try:
                observer.on_event(event)
            except BaseException as error:  # an observer only looks on: whatever it raises must not touch a task's fate
                self._write(ObserverFailed(type(observer).__qualname__, f"{type(error).__name__}: {error}"))

    def _write(self, event: AnyEvent) -> None:
        try:
            self._log.on_event(event)
        except BaseException:  # noqa: S110 - a log that cannot be written has no place left to say so, and tasks must go on
            pass
