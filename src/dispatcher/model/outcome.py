"""Fates: what happened to a delivery, and what becomes of it. Pure values and one pure function, `decide`.

`execution` and the worker make a *result* (what happened); `decide` turns it into an *outcome* (what to do);
`settle` carries the outcome out. Nothing here acks, publishes, reads a clock or draws a random number.

    Returned ................................ Ack
    Raised, attempts left ................... RetryLater
    Raised, none left ....................... DeadLetter "failed"
    Snoozed ................................. SnoozeLater (same attempt)
    Rejected / Discarded .................... DeadLetter "rejected" / Ack
    Undecodable, BadArguments ............... DeadLetter "undecodable", "bad_arguments"
    Unknown ................................. OfferAgain, after some minutes DeadLetter "unknown_task"
    Expired, Cancelled ...................... DeadLetter "expired", "cancelled"
    Redelivered ............................. CountRedelivery, beyond the limit DeadLetter "delivery_limit"
    DiedAlone ............................... DeadLetter "delivery_limit", whatever its policy
    CutShort ................................ HandBack
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from ..errors import ConfigError
from .retry import DEFAULT_ASKED_POLICY, MAX_DELAY_SECONDS, Failure, RetryRule

__all__ = [
    "ACK",
    "HAND_BACK",
    "REASONS",
    "RETURNED",
    "Ack",
    "BadArguments",
    "Cancelled",
    "CountRedelivery",
    "CutShort",
    "DeadLetter",
    "DiedAlone",
    "Discard",
    "Discarded",
    "Expired",
    "HandBack",
    "OfferAgain",
    "Outcome",
    "Raised",
    "Reason",
    "Redelivered",
    "Reject",
    "Rejected",
    "Result",
    "Retry",
    "RetryLater",
    "Returned",
    "Snooze",
    "SnoozeLater",
    "Snoozed",
    "TaskControl",
    "Undecodable",
    "Unknown",
    "decide",
]

Reason = Literal[
    "failed",
    "rejected",
    "undecodable",
    "bad_arguments",
    "unknown_task",
    "expired",
    "cancelled",
    "delivery_limit",
]
REASONS: tuple[Reason, ...] = (
    "failed",
    "rejected",
    "undecodable",
    "bad_arguments",
    "unknown_task",
    "expired",
    "cancelled",
    "delivery_limit",
)
"""Why a message is a dead letter: this list is closed."""

UNKNOWN_TASK_SECONDS = 300.0
"""How long a task that nobody knows is offered again before it is parked."""

UNKNOWN_TASK_MAX_DELAY_SECONDS = 30.0


class TaskControl(Exception):
    """The base of what a task raises to decide its own fate."""


class Retry(TaskControl):
    """Raised by a task: run me again. Counts as a failed attempt.

    `after_seconds`: the delay; None takes the task's policy's. Without a policy the attempts are bounded by 3.
    """

    def __init__(self, after_seconds: float | None = None, message: str = "") -> None:
        _check_seconds("after_seconds", after_seconds, none=True)
        super().__init__(message or "the task asked to be retried")
        self.after_seconds = after_seconds


class Snooze(TaskControl):
    """Raised by a task: put me off for `seconds`. Not a failure; the attempt stays the same."""

    def __init__(self, seconds: float) -> None:
        _check_seconds("seconds", seconds, none=False)
        super().__init__(f"put off for {seconds} s")
        self.seconds = seconds


class Reject(TaskControl):
    """Raised by a task: make me a dead letter now, with this text, whatever attempts are left."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Discard(TaskControl):
    """Raised by a task: forget me. It is acked and the text is logged."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def _check_seconds(what: str, seconds: object, *, none: bool) -> None:
    if seconds is None and none:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise ConfigError(f"{what}: expected 0 to {MAX_DELAY_SECONDS} seconds (ten years), got {seconds!r}")


# --- results: what happened ---------------------------------------------------------------------------------------


class Returned(msgspec.Struct, frozen=True):
    """The function returned."""


class Raised(msgspec.Struct, frozen=True):
    """The function raised, timed out and was stopped, or its process died. `after_seconds` is that of `Retry`."""

    failure: Failure
    after_seconds: float | None = None


class Snoozed(msgspec.Struct, frozen=True):
    """It raised `Snooze`."""

    seconds: float


class Rejected(msgspec.Struct, frozen=True):
    """It raised `Reject`."""

    text: str


class Discarded(msgspec.Struct, frozen=True):
    """It raised `Discard`."""

    text: str


class Undecodable(msgspec.Struct, frozen=True):
    """The body is not a task, too large or too deep."""

    text: str


class BadArguments(msgspec.Struct, frozen=True):
    """The arguments don't fit the signature."""

    text: str


class Unknown(msgspec.Struct, frozen=True):
    """No task of that name is registered here; a worker first met it `known_for_seconds` ago."""

    known_for_seconds: float


class Expired(msgspec.Struct, frozen=True):
    """Its expiry passed before it started."""

    text: str


class Cancelled(msgspec.Struct, frozen=True):
    """Its sender cancelled it."""

    text: str


class Redelivered(msgspec.Struct, frozen=True):
    """A holder was lost with it, the `redeliveries`-th in all, and its queue is of a kind whose broker does not count."""

    redeliveries: int
    delivery_limit: int


class DiedAlone(msgspec.Struct, frozen=True):
    """Holders were lost with it, and then the process that ran nothing else died by it: it is what they died of."""

    failure: Failure


class CutShort(msgspec.Struct, frozen=True):
    """The worker ended the run: a second signal, or its grace was over."""


Result: TypeAlias = (
    Returned
    | Raised
    | Snoozed
    | Rejected
    | Discarded
    | Undecodable
    | BadArguments
    | Unknown
    | Expired
    | Cancelled
    | Redelivered
    | DiedAlone
    | CutShort
)

RETURNED = Returned()


# --- outcomes: what to do -----------------------------------------------------------------------------------------


class Ack(msgspec.Struct, frozen=True):
    """Done with. `discarded` carries the text of a `Discard`."""

    discarded: str | None = None


class HandBack(msgspec.Struct, frozen=True):
    """Give it back to the broker; no attempt is counted."""


class RetryLater(msgspec.Struct, frozen=True):
    """Publish a copy with the next attempt after the delay, then ack."""

    delay_seconds: float
    jitter: bool
    failure: Failure


class SnoozeLater(msgspec.Struct, frozen=True):
    """Publish a copy with the same attempt after the delay, then ack."""

    delay_seconds: float


class OfferAgain(msgspec.Struct, frozen=True):
    """Publish a copy for another worker, or the next release, after the delay, then ack."""

    delay_seconds: float


class CountRedelivery(msgspec.Struct, frozen=True):
    """Publish a copy that carries the count to the same queue, then ack: the task runs when the copy comes."""

    redeliveries: int


class DeadLetter(msgspec.Struct, frozen=True):
    """Publish a copy to the dead letters with its reason, then ack."""

    reason: Reason
    text: str
    failure: Failure | None = None


Outcome: TypeAlias = Ack | HandBack | RetryLater | SnoozeLater | OfferAgain | CountRedelivery | DeadLetter

ACK = Ack()
HAND_BACK = HandBack()


def decide(result: Result, policy: RetryRule | None, attempt: int) -> Outcome:
    """The fate of a delivery whose run ended with `result` on its `attempt` (1-based) under `policy` (None: no retries)."""
    match result:
        case Returned():
            return ACK
        case Raised():
            return _after_failure(result, policy, attempt)
        case Snoozed(seconds=seconds):
            return SnoozeLater(seconds)
        case Rejected(text=text):
            return DeadLetter("rejected", text)
        case Discarded(text=text):
            return Ack(discarded=text)
        case Undecodable(text=text):
            return DeadLetter("undecodable", text)
        case BadArguments(text=text):
            return DeadLetter("bad_arguments", text)
        case Unknown(known_for_seconds=seconds):
            return _after_unknown(seconds)
        case Expired(text=text):
            return DeadLetter("expired", text)
        case Cancelled(text=text):
            return DeadLetter("cancelled", text)
        case Redelivered(redeliveries=count, delivery_limit=limit):
            if count > limit:
                return DeadLetter("delivery_limit", f"{count} holders died with it; the limit is {limit}")
            return CountRedelivery(count)
        case DiedAlone(failure=failure):
            return DeadLetter("delivery_limit", failure.message, failure)
        case CutShort():
            return HAND_BACK


def _after_failure(result: Raised, policy: RetryRule | None, attempt: int) -> Outcome:
    failure = result.failure
    rule = DEFAULT_ASKED_POLICY if policy is None and failure.asked else policy
    delay = None if rule is None else rule.delay_seconds(attempt, failure)
    if rule is None or delay is None:
        return DeadLetter("failed", f"{failure.type}: {failure.message}", failure)
    if result.after_seconds is not None:
        return RetryLater(result.after_seconds, False, failure)
    _check_seconds("the retry rule's delay", delay, none=False)
    return RetryLater(delay, rule.jitter, failure)


def _after_unknown(known_for_seconds: float) -> Outcome:
    if known_for_seconds >= UNKNOWN_TASK_SECONDS:
        return DeadLetter("unknown_task", f"no worker of this queue knew the task for {known_for_seconds:.0f} s")
    # The wait doubles as the time it has been waited for: 1, 1, 2, 4, … 30 s.
    return OfferAgain(min(UNKNOWN_TASK_MAX_DELAY_SECONDS, max(1.0, known_for_seconds)))
