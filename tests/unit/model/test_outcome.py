"""The table of fates, row by row: what `decide` makes of each result."""

from __future__ import annotations

from typing import get_args

import pytest

from dispatcher.errors import ConfigError
from dispatcher.model.outcome import (
    ACK,
    HAND_BACK,
    REASONS,
    RETURNED,
    UNKNOWN_TASK_MAX_DELAY_SECONDS,
    UNKNOWN_TASK_SECONDS,
    Ack,
    BadArguments,
    Cancelled,
    CountRedelivery,
    CutShort,
    DeadLetter,
    DiedAlone,
    Discard,
    Discarded,
    Expired,
    OfferAgain,
    Outcome,
    Raised,
    Reason,
    Redelivered,
    Reject,
    Rejected,
    Result,
    Retry,
    RetryLater,
    Returned,
    Snooze,
    Snoozed,
    SnoozeLater,
    TaskControl,
    Undecodable,
    Unknown,
    decide,
)
from dispatcher.model.retry import Failure, RetryPolicy, RetryRule

BOOM = Failure("app.Boom", "it broke", "Traceback …", ("app.Boom", "builtins.Exception"))
ASKED = Failure("dispatcher.model.outcome.Retry", "the task asked to be retried", asked=True)
TIMEOUT = Failure("dispatcher.errors.TaskTimeout", "it ran longer than 3 s")
DIED = Failure("dispatcher.errors.TaskProcessDied", "killed by signal 9")
EXIT = Failure("builtins.SystemExit", "1", "", ("builtins.SystemExit", "builtins.BaseException"))
THREE = RetryPolicy(max_attempts=3, base_seconds=2.0, jitter=True)
STEADY = RetryPolicy(max_attempts=3, backoff="constant", base_seconds=7.0, jitter=False)

ROWS: dict[str, tuple[Result, RetryRule | None, int, Outcome]] = {
    "returned": (RETURNED, None, 1, ACK),
    "returned on its last attempt": (RETURNED, THREE, 3, ACK),
    "raised, attempts left": (Raised(BOOM), THREE, 1, RetryLater(2.0, True, BOOM)),
    "raised again, attempts left": (Raised(BOOM), THREE, 2, RetryLater(4.0, True, BOOM)),
    "raised, without jitter": (Raised(BOOM), STEADY, 2, RetryLater(7.0, False, BOOM)),
    "raised SystemExit, attempts left": (Raised(EXIT), THREE, 1, RetryLater(2.0, True, EXIT)),
    "raised, none left": (Raised(BOOM), THREE, 3, DeadLetter("failed", "app.Boom: it broke", BOOM)),
    "raised, beyond the last": (Raised(BOOM), THREE, 9, DeadLetter("failed", "app.Boom: it broke", BOOM)),
    "raised, no policy": (Raised(BOOM), None, 1, DeadLetter("failed", "app.Boom: it broke", BOOM)),
    "raised what the policy gives up on": (
        Raised(EXIT),
        RetryPolicy(give_up_on=(SystemExit,)),
        1,
        DeadLetter("failed", "builtins.SystemExit: 1", EXIT),
    ),
    "Retry with its own delay": (Raised(ASKED, 60.0), THREE, 1, RetryLater(60.0, False, ASKED)),
    "Retry at once": (Raised(ASKED, 0), THREE, 1, RetryLater(0, False, ASKED)),
    "Retry without a delay": (Raised(ASKED), THREE, 1, RetryLater(2.0, True, ASKED)),
    "Retry, none left": (
        Raised(ASKED, 60.0),
        THREE,
        3,
        DeadLetter("failed", "dispatcher.model.outcome.Retry: the task asked to be retried", ASKED),
    ),
    "Retry without a policy, first": (Raised(ASKED, 60.0), None, 1, RetryLater(60.0, False, ASKED)),
    "Retry without a policy, second": (Raised(ASKED, 60.0), None, 2, RetryLater(60.0, False, ASKED)),
    "Retry without a policy, third": (
        Raised(ASKED, 60.0),
        None,
        3,
        DeadLetter("failed", "dispatcher.model.outcome.Retry: the task asked to be retried", ASKED),
    ),
    "Retry against a policy for other errors": (
        Raised(ASKED),
        RetryPolicy(retry_on=(OSError,), give_up_on=(Retry,), base_seconds=1.0),
        1,
        RetryLater(1.0, True, ASKED),
    ),
    "Snooze": (Snoozed(5.0), None, 1, SnoozeLater(5.0)),
    "Snooze on the last attempt": (Snoozed(0), THREE, 3, SnoozeLater(0)),
    "Reject": (Rejected("not mine"), THREE, 1, DeadLetter("rejected", "not mine")),
    "Discard": (Discarded("done already"), THREE, 1, Ack(discarded="done already")),
    "timeout, cancelled, attempts left": (Raised(TIMEOUT), THREE, 1, RetryLater(2.0, True, TIMEOUT)),
    "timeout, cancelled, none left": (
        Raised(TIMEOUT),
        None,
        1,
        DeadLetter("failed", "dispatcher.errors.TaskTimeout: it ran longer than 3 s", TIMEOUT),
    ),
    "process died, attempts left": (Raised(DIED), THREE, 1, RetryLater(2.0, True, DIED)),
    "body is not a task": (Undecodable("no name"), THREE, 1, DeadLetter("undecodable", "no name")),
    "arguments don't fit": (BadArguments("no number"), THREE, 1, DeadLetter("bad_arguments", "no number")),
    "not registered, just met": (Unknown(0.0), None, 1, OfferAgain(1.0)),
    "not registered, for some seconds": (Unknown(8.0), None, 1, OfferAgain(8.0)),
    "not registered, for long": (Unknown(250.0), None, 1, OfferAgain(UNKNOWN_TASK_MAX_DELAY_SECONDS)),
    "not registered, for minutes": (
        Unknown(UNKNOWN_TASK_SECONDS),
        None,
        1,
        DeadLetter("unknown_task", "no worker of this queue knew the task for 300 s"),
    ),
    "expired": (Expired("a minute ago"), THREE, 1, DeadLetter("expired", "a minute ago")),
    "cancelled by its sender": (Cancelled("by its sender"), THREE, 1, DeadLetter("cancelled", "by its sender")),
    "a holder died uncounted": (Redelivered(20, 20), THREE, 1, CountRedelivery(20)),
    "holders died too often": (
        Redelivered(21, 20),
        THREE,
        1,
        DeadLetter("delivery_limit", "21 holders died with it; the limit is 20"),
    ),
    "died alone, attempts left": (
        DiedAlone(DIED),
        THREE,
        1,
        DeadLetter("delivery_limit", "killed by signal 9", DIED),
    ),
    "cut short by the worker": (CutShort(), THREE, 1, HAND_BACK),
    "cut short on its last attempt": (CutShort(), None, 3, HAND_BACK),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_the_table(row: str) -> None:
    """What happened, under that policy, on that attempt, has this fate and no other."""
    result, policy, attempt, outcome = ROWS[row]
    decided = decide(result, policy, attempt)
    assert type(decided) is type(outcome)
    assert decided == outcome


def test_the_table_leaves_no_result_and_no_reason_out() -> None:
    """Every kind of result has a row, and every reason of the closed list is the fate of one."""
    assert {type(result) for result, _, _, _ in ROWS.values()} == set(get_args(Result))
    assert {type(outcome) for _, _, _, outcome in ROWS.values()} == set(get_args(Outcome))
    reasons = {outcome.reason for _, _, _, outcome in ROWS.values() if isinstance(outcome, DeadLetter)}
    assert reasons == set(REASONS) == set(get_args(Reason))


def test_an_unknown_task_is_never_a_hot_loop_and_ends() -> None:
    """Offered again with growing waits of at least a second, it is a dead letter after some minutes and few offers."""
    waited, offers = 0.0, 0
    while isinstance(outcome := decide(Unknown(waited), None, 1), OfferAgain):
        assert outcome.delay_seconds >= 1.0
        waited += outcome.delay_seconds
        offers += 1
    assert offers < 20
    assert UNKNOWN_TASK_SECONDS <= waited <= UNKNOWN_TASK_SECONDS + UNKNOWN_TASK_MAX_DELAY_SECONDS


def test_any_rule_can_decide_when_to_try_again() -> None:
    """A policy is whatever has `jitter` and `delay_seconds`."""

    class OnceAfterNine:
        jitter = False

        def delay_seconds(self, attempt: int, failure: Failure) -> float | None:
            return 9.0 if attempt == 1 and failure.type == BOOM.type else None

    assert decide(Raised(BOOM), OnceAfterNine(), 1) == RetryLater(9.0, False, BOOM)
    assert isinstance(decide(Raised(BOOM), OnceAfterNine(), 2), DeadLetter)


def test_what_a_task_raises_is_checked_where_it_is_raised() -> None:
    """Negative, infinite and non-numeric delays are refused at once."""
    assert (Retry(after_seconds=0).after_seconds, Retry().after_seconds, Snooze(1.5).seconds) == (0, None, 1.5)
    assert (Reject("why").reason, Discard("why").reason, str(Retry(message="why"))) == ("why", "why", "why")
    for wrong in (-1, float("inf"), float("nan"), "5", True):
        with pytest.raises(ConfigError, match="seconds"):
            Retry(after_seconds=wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="seconds"):
            Snooze(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seconds"):
        Snooze(None)  # type: ignore[arg-type]


def test_control_is_told_from_failure_by_its_base() -> None:
    """Everything a task raises to decide its own fate is a `TaskControl`, and nothing of it is an error of ours."""
    for cls in (Retry, Snooze, Reject, Discard):
        assert issubclass(cls, TaskControl)
    assert Returned() == RETURNED
