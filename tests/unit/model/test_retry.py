from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import ConfigError
from dispatcher.model.retry import DEFAULT_ASKED_POLICY, Failure, RetryPolicy

NOT_FOUND = Failure(
    "builtins.FileNotFoundError",
    "no such file",
    "",
    (
        "builtins.FileNotFoundError",
        "builtins.OSError",
        "builtins.Exception",
        "builtins.BaseException",
        "builtins.object",
    ),
)
ASKED = Failure("dispatcher.model.outcome.Retry", "", asked=True)


def delays(policy: RetryPolicy, failure: Failure = NOT_FOUND, attempts: int = 8) -> list[float | None]:
    return [policy.delay_seconds(attempt, failure) for attempt in range(1, attempts + 1)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(max_attempts=5), [1, 2, 4, 8, None, None]),
        (RetryPolicy(max_attempts=1), [None, None]),
        (RetryPolicy(max_attempts=4, backoff="linear", base_seconds=10), [10, 20, 30, None]),
        (RetryPolicy(max_attempts=4, backoff="constant", base_seconds=10), [10, 10, 10, None]),
        (RetryPolicy(max_attempts=6, backoff=[1, 5, 30]), [1, 5, 30, 30, 30, None]),
        (RetryPolicy(max_attempts=6, base_seconds=10, max_seconds=25), [10, 20, 25, 25, 25, None]),
        (RetryPolicy(max_attempts=3, base_seconds=0), [0, 0, None]),
        (RetryPolicy(max_attempts=3, backoff=[9], max_seconds=2), [2, 2, None]),
    ],
)
def test_delays_follow_the_backoff_until_the_attempts_are_used_up(
    policy: RetryPolicy, expected: list[float | None]
) -> None:
    """`max_attempts` counts the first run; each delay is that of its place in the series, capped."""
    assert delays(policy, attempts=len(expected)) == expected


@given(
    st.integers(1, 10**9), st.sampled_from(["exponential", "linear", "constant"]), st.floats(0, 1e6), st.floats(0, 1e6)
)
def test_no_delay_is_beyond_the_longest(attempt: int, backoff: Any, base: float, longest: float) -> None:
    """However many attempts there were, the delay is a finite number from zero to `max_seconds`."""
    policy = RetryPolicy(max_attempts=10**9 + 1, backoff=backoff, base_seconds=base, max_seconds=longest)
    delay = policy.delay_seconds(attempt, NOT_FOUND)
    assert delay is not None
    assert 0 <= delay <= longest


def test_only_the_named_exceptions_are_tried_again() -> None:
    """`retry_on` and `give_up_on` name classes whose subclasses count; giving up wins. One class needs no tuple."""
    assert RetryPolicy(retry_on=(OSError,)).delay_seconds(1, NOT_FOUND) == 1
    assert RetryPolicy(retry_on=(ValueError, KeyError)).delay_seconds(1, NOT_FOUND) is None
    assert RetryPolicy(give_up_on=(OSError,)).delay_seconds(1, NOT_FOUND) is None
    assert RetryPolicy(retry_on=(Exception,), give_up_on=(OSError,)).delay_seconds(1, NOT_FOUND) is None
    assert RetryPolicy(give_up_on=(ValueError,)).delay_seconds(1, NOT_FOUND) == 1
    assert RetryPolicy(retry_on=OSError).retry_on == (OSError,)  # type: ignore[arg-type]


def test_a_task_that_asks_is_bounded_by_attempts_only() -> None:
    """`Retry` is not one of the exceptions that a policy picks from; its attempts are counted all the same."""
    policy = RetryPolicy(max_attempts=3, retry_on=(ValueError,), give_up_on=(Exception,))
    assert delays(policy, ASKED, 4) == [1, 2, None, None]
    assert delays(DEFAULT_ASKED_POLICY, ASKED, 4) == [1, 2, None, None]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"max_attempts": 0}, "max_attempts: expected an integer of 1 or more, got 0"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"max_attempts": None}, "max_attempts"),
        ({"backoff": "fibonacci"}, "backoff.*fibonacci"),
        ({"backoff": []}, "empty list"),
        ({"backoff": [1, -1]}, "backoff"),
        ({"backoff": [True]}, "backoff"),
        ({"base_seconds": -1}, "base_seconds"),
        ({"base_seconds": "1"}, "base_seconds"),
        ({"max_seconds": float("inf")}, "max_seconds"),
        ({"max_seconds": float("nan")}, "max_seconds"),
        ({"retry_on": ("OSError",)}, "retry_on"),
        ({"give_up_on": (int,)}, "give_up_on"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, Any], why: str) -> None:
    """Each field says what it expected and what came."""
    with pytest.raises(ConfigError, match=why):
        RetryPolicy(**wrong)
