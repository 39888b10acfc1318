"""Which worker processes should run: the supervisor's decisions, without a process, a signal or a clock in them.

It takes events (started, ready, exited, signalled, changed) with `now` in seconds of any monotonic clock, and returns
the actions that follow. `supervisor` carries them out.

* The first process starts alone; the others when it says it is ready, so that a mistake is reported once.
* A process that died is started again: at once if it lived `STEADY_SECONDS`, else after 0.5, 1, 2, … 30 s.
* One that ends with 69, 74 or 78 (or 2) while no other is ready ends the whole: a restart would say the same again.
  Under `--reload` it waits for the next change of a file instead.
* The first signal drains, the second cancels what runs, the third kills.
"""

from __future__ import annotations

import signal
from typing import TypeAlias

import msgspec

from .failures import EXIT_CONFIG, EXIT_RECYCLE, EXIT_STORAGE, EXIT_UNAVAILABLE, EXIT_USAGE

__all__ = ["Action", "Finish", "Pause", "Roster", "Send", "Start"]

STEADY_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

FATAL = frozenset({EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_STORAGE, EXIT_CONFIG})

TOLD = frozenset(128 + signum for signum in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)))
"""How a process ends that is told to end before it has begun."""


class Start(msgspec.Struct, frozen=True):
    """Start the process of this slot."""

    slot: int


class Send(msgspec.Struct, frozen=True):
    """Send this signal to the process of this slot."""

    slot: int
    signum: int


class Pause(msgspec.Struct, frozen=True):
    """Nothing to do but to say so: the slot is started after `seconds`, or after the next change where that is None."""

    slot: int
    seconds: float | None


class Finish(msgspec.Struct, frozen=True):
    """All is over: end with this code."""

    exit_code: int


Action: TypeAlias = Start | Send | Pause | Finish


class _Slot:
    """One place for a process. Exactly one of: it runs, it waits for `start_at`, or it rests (both None/False)."""

    __slots__ = ("failures", "ready", "replacing", "running", "start_at", "started_at")

    def __init__(self) -> None:
        self.running = False
        self.ready = False
        self.replacing = False
        self.started_at = 0.0
        self.start_at: float | None = None
        self.failures = 0


class Roster:
    """The processes of one supervisor. `count`: how many; `burst`: one that ends with 0 stays ended."""

    def __init__(self, count: int, *, burst: bool = False, reload: bool = False) -> None:
        self._slots = [_Slot() for _ in range(count)]
        self._burst = burst
        self._reload = reload
        self._signals = 0
        self._forced_by = 0
        self._gave_up: int | None = None
        self._worst = 0
        self._opened = False

    @property
    def count(self) -> int:
        return len(self._slots)

    @property
    def signals(self) -> int:
        """How many signals were taken so far."""
        return self._signals

    @property
    def stopping(self) -> bool:
        return self._signals > 0 or self._gave_up is not None

    def expects(self, number: int, code: int) -> bool:
        """Whether this end of a process is no news: it was asked for, or the burst is over."""
        return self.stopping or self._slots[number].replacing or (self._burst and code == 0)

    @property
    def next_start_at(self) -> float | None:
        """When `due` should be called next; None while nothing waits."""
        times = [slot.start_at for slot in self._slots if slot.start_at is not None]
        return min(times, default=None)

    def begin(self, now: float) -> list[Action]:
        return [self._start(0, now)]

    def ready(self, number: int, now: float) -> list[Action]:
        """The process has loaded its app and goes to work."""
        self._slots[number].ready = self._slots[number].running
        if self._opened or self.stopping:
            return []
        self._opened = True
        return [self._start(other, now) for other in range(len(self._slots)) if other != number]

    def due(self, now: float) -> list[Action]:
        """Start what has waited long enough."""
        return [
            self._start(number, now)
            for number, slot in enumerate(self._slots)
            if slot.start_at is not None and slot.start_at <= now
        ]

    def exited(self, number: int, code: int, now: float) -> list[Action]:
        """The process ended; `code` is negative where a signal killed it."""
        slot = self._slots[number]
        lived_seconds = now - slot.started_at
        replacing = slot.replacing
        slot.running = slot.ready = slot.replacing = False
        if self.stopping:
            self._worst = max(self._worst, self._fault(code))
            return self._finish_if_empty()
        if replacing or code == EXIT_RECYCLE:
            return [self._start(number, now)]
        if code == 0 and self._burst:
            return self._after_burst(now)
        if code in FATAL and not any(other.ready for other in self._slots):
            if self._reload:
                return [Pause(number, None)]
            return self._give_up(code)
        return [self._back_off(number, lived_seconds, now)]

    def signalled(self, signum: int) -> list[Action]:
        """The supervisor was told to end."""
        self._signals += 1
        if self._signals >= 3:
            kill: list[Action] = [Send(number, signal.SIGKILL) for number in self._running()]
            return [*kill, Finish(128 + signum)]
        if self._signals == 2:
            self._forced_by = signum
        for slot in self._slots:
            slot.start_at = None
        return self._tell_all(signum) or self._finish_if_empty()

    def changed(self, now: float) -> list[Action]:
        """A source file changed: replace every process, start what rests. A slot being replaced is left alone."""
        if self.stopping:
            return []
        actions: list[Action] = []
        for number, slot in enumerate(self._slots):
            slot.failures = 0
            if not slot.running:
                if self._opened or number == 0:
                    actions.append(self._start(number, now))
            elif not slot.replacing:
                slot.replacing = True
                actions.append(Send(number, signal.SIGTERM))
        return actions

    def _start(self, number: int, now: float) -> Start:
        slot = self._slots[number]
        slot.running, slot.started_at, slot.start_at = True, now, None
        return Start(number)

    def _back_off(self, number: int, lived_seconds: float, now: float) -> Action:
        slot = self._slots[number]
        if lived_seconds >= STEADY_SECONDS:
            slot.failures = 0
            return self._start(number, now)
        seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(slot.failures, 16))
        slot.failures += 1
        slot.start_at = now + seconds
        return Pause(number, seconds)

    def _after_burst(self, now: float) -> list[Action]:
        if any(slot.running or slot.start_at is not None for slot in self._slots):
            return []
        return [Finish(0)]

    def _give_up(self, code: int) -> list[Action]:
        self._gave_up = code
        for slot in self._slots:
            slot.start_at = None
        return self._tell_all(signal.SIGTERM) or self._finish_if_empty()

    def _fault(self, code: int) -> int:
        """What the end of a process while stopping adds to the exit code; zero where it did as it was told."""
        status = code if code >= 0 else 128 - code
        if code == EXIT_RECYCLE or (status in TOLD and not self._forced_by):
            return 0  # the signal came before it had handlers: it had not begun
        return status

    def _running(self) -> list[int]:
        return [number for number, slot in enumerate(self._slots) if slot.running]

    def _tell_all(self, signum: int) -> list[Action]:
        return [Send(number, signum) for number in self._running()]

    def _finish_if_empty(self) -> list[Action]:
        if self._running():
            return []
        if self._gave_up is not None:
            return [Finish(self._gave_up)]
        return [Finish(128 + self._forced_by if self._forced_by and self._worst else self._worst)]
