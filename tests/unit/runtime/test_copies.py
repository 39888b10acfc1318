"""What a copy of a message carries, and the smaller ones for where it does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.model.history import FailedAttempt, history_of, history_text
from dispatcher.model.outcome import Ack, CountRedelivery, DeadLetter, OfferAgain, Outcome, RetryLater, SnoozeLater
from dispatcher.model.retry import Failure
from dispatcher.runtime.copies import Copy, copies_of

NOW = 1_700_000_000.0
WHERE = "host:7/w"
FAILURE = Failure("builtins.ValueError", "m" * 10_000, "t" * 10_000, ("builtins.ValueError",))
X = "x-dispatcher-"


class Delivered:
    """A delivery that cannot be settled: to make a copy takes no more than to look at it."""

    queue, exchange, routing_key, body, uuid, priority = "q", "ex", "rk", b"body", "u", 3
    redelivered, delivery_count = False, 0

    def __init__(self, headers: dict[str, Any]) -> None:
        self.headers = headers

    def ack(self) -> None:
        raise AssertionError

    reject = ack


def copies(outcome: Outcome, **headers: Any) -> list[Copy]:
    return list(copies_of(Delivered(headers), "u", 2, outcome, NOW, WHERE))


def headers_of(copy: Copy) -> dict[str, Any]:
    return dict(copy.message.headers or {})


@pytest.mark.parametrize(
    ("outcome", "added"),
    [
        (RetryLater(5.0, False, FAILURE), {X + "attempt": 3, X + "error-type": "builtins.ValueError"}),
        (SnoozeLater(5.0), {X + "snoozes": 1}),
        (OfferAgain(5.0), {X + "unknown-since": int(NOW * 1000)}),
        (CountRedelivery(7), {X + "redeliveries": 7}),
        (
            DeadLetter("failed", "text", FAILURE),
            {X + "attempt": 2, X + "reason": "failed", X + "reason-text": "text", X + "queue": "q"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_copy_keeps_what_is_the_sender_s_and_says_what_is_new(outcome: Outcome, added: dict[str, Any]) -> None:
    """Body, uuid, priority and the sender's headers; not what the broker noted, nor what would send it elsewhere too."""
    notes = {"x-death": [], "x-delivery-count": 3, "x-first-death-queue": "q", "CC": ["k"], "BCC": ["k"]}
    copy = copies(outcome, mine="yes", **notes)[0]
    assert (copy.message.body, copy.message.uuid, copy.message.priority) == (b"body", "u", 3)
    headers = headers_of(copy)
    assert headers.items() >= {"mine": "yes", X + "exchange": "ex", X + "routing-key": "rk", **added}.items()
    assert not notes.keys() & headers.keys()
    assert copy.outcome == outcome
    is_delayed = isinstance(outcome, RetryLater | SnoozeLater | OfferAgain)
    assert copy.delay_seconds == (5.0 if is_delayed else 0.0)
    assert copy.message.ready_at_ms == (int(NOW * 1000) + 5_000 if is_delayed else None)
    assert copy.message.routing_key == "q"


def test_jitter_takes_away_up_to_half_and_is_drawn_once() -> None:
    """The smaller copies are for the same moment."""
    first, second, third, _ = copies(RetryLater(10.0, True, FAILURE))
    assert 5.0 <= first.delay_seconds <= 10.0
    assert first.delay_seconds == second.delay_seconds == third.delay_seconds


def test_a_smaller_copy_has_hardly_any_text() -> None:
    """The same fate with the sender's headers whole."""
    whole, short, shortest, _ = copies(DeadLetter("failed", "w" * 10_000, FAILURE), mine="v" * 1_000)
    for copy, length in ((whole, 8_000), (short, 200), (shortest, 50)):
        headers = headers_of(copy)
        assert headers["mine"] == "v" * 1_000
        assert {len(headers[X + name]) for name in ("reason-text", "error", "traceback")} == {length}
    assert whole.outcome == short.outcome == shortest.outcome


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (RetryLater(5.0, False, FAILURE), "failed"),
        (SnoozeLater(5.0), "undecodable"),
        (OfferAgain(5.0), "undecodable"),
        (CountRedelivery(7), "undecodable"),
        (DeadLetter("expired", "late"), "expired"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_smallest_copy_is_a_dead_letter_that_always_fits(outcome: Outcome, reason: str) -> None:
    """Whatever its sender wrote, a header of ours included, is left out, and the letter says so."""
    last = copies(outcome, mine="v" * 100_000, **{X + "routing-key": "k" * 10_000, X + "exchange": 3})[-1]
    headers = headers_of(last)
    assert headers[X + "reason"] == reason
    assert "left out" in headers[X + "reason-text"]
    assert (headers[X + "exchange"], headers[X + "routing-key"]) == ("ex", "rk")
    assert sum(len(str(value)) for value in headers.values()) < 2_000
    assert "mine" not in headers and last.message.body == b"body"
    assert last.message.exchange == "dispatcher.dead"


@pytest.mark.parametrize("outcome", [RetryLater(5.0, False, FAILURE), DeadLetter("failed", "text", FAILURE)])
def test_a_failure_is_added_to_the_history(outcome: Outcome) -> None:
    """When, where and what; in the smaller copy with less room, and in the smallest ones not at all."""
    history = history_text((FailedAttempt(1, 5, "other:1/w", "OSError", "first"),), max_bytes=4_096)
    whole, short, *smallest = (headers_of(copy) for copy in copies(outcome, **{X + "history": history}))
    for headers, size in ((whole, 4_096), (short, 1_000)):
        first, second = history_of(headers)
        assert (first.attempt, first.where, first.error) == (1, "other:1/w", "first")
        assert (second.attempt, second.at_ms, second.where) == (2, int(NOW * 1000), WHERE)
        assert second.error_type == "builtins.ValueError" and FAILURE.message.startswith(second.error)
        assert len(headers[X + "history"].encode()) <= size
    assert not any(X + "history" in headers for headers in smallest)


@pytest.mark.parametrize(
    "outcome", [SnoozeLater(5.0), OfferAgain(5.0), CountRedelivery(7), DeadLetter("expired", "late")], ids=repr
)
def test_what_is_no_failure_keeps_the_history(outcome: Outcome) -> None:
    """As it was; a stranger's nonsense goes."""
    history = history_text((FailedAttempt(1, 5, "other:1/w", "OSError", "first"),), max_bytes=4_096)
    assert headers_of(copies(outcome, **{X + "history": history})[0])[X + "history"] == history
    assert X + "history" not in headers_of(copies(outcome, **{X + "history": "nonsense"})[0])


def test_what_needs_no_copy_has_none() -> None:
    """To ask for one is a fault of ours."""
    with pytest.raises(AssertionError, match="asks for no copy"):
        copies(Ack())


@pytest.mark.parametrize(
    ("outcome", "count"),
    [
        (RetryLater(5.0, False, FAILURE), None),
        (SnoozeLater(5.0), None),
        (OfferAgain(5.0), 2),
        (DeadLetter("expired", "text"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_lost_holders_are_forgotten_by_who_ran_to_an_end(outcome: Outcome, count: int | None) -> None:
    """A retry or a snooze is a new message for a broker that counts; where workers count it must be one, too."""
    for copy in copies(outcome, **{X + "redeliveries": 2})[:2]:
        assert headers_of(copy).get(X + "redeliveries") == count
