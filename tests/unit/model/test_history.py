"""The history of failed attempts: what is kept of it, how large it becomes, and what a stranger may have put there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.model.history import MAX_BYTES, MAX_ENTRIES, MIN_BYTES, FailedAttempt, history_of, history_text

HEADER = "x-dispatcher-history"
NOW_MS = 1_700_000_000_000


def failed(attempt: int, error: str = "no") -> FailedAttempt:
    return FailedAttempt(attempt, NOW_MS + attempt, "host:7/w", "builtins.ValueError", error)


def read(text: object) -> tuple[FailedAttempt, ...]:
    return history_of({HEADER: text})


def test_what_was_written_is_read() -> None:
    """Every field, in its order, with the time as a datetime too."""
    history = (failed(1), failed(2, "naïve \U0001f4a5 \x00"))
    assert read(history_text(history, max_bytes=MAX_BYTES)) == history
    assert history[0].at == datetime(2023, 11, 14, 22, 13, 20, 1000, tzinfo=UTC)
    assert history_of({}) == ()


def test_the_first_and_the_latest_are_kept() -> None:
    """Of a task that fails a hundred times, written and read each time, ten entries stay."""
    history: tuple[FailedAttempt, ...] = ()
    for attempt in range(1, 101):
        history = read(history_text((*history, failed(attempt)), max_bytes=MAX_BYTES))
    assert [entry.attempt for entry in history] == [1, *range(92, 101)]
    assert len(history) == MAX_ENTRIES


@given(
    st.lists(st.tuples(st.text(max_size=400), st.text(max_size=400), st.text(max_size=2_000)), min_size=1, max_size=15),
    st.integers(MIN_BYTES, MAX_BYTES),
)
def test_it_is_never_larger_than_asked(texts: list[tuple[str, str, str]], max_bytes: int) -> None:
    """Whatever the texts, the first attempt and the last are in it, and it can be read."""
    history = tuple(FailedAttempt(n, NOW_MS, *text) for n, text in enumerate(texts, 1))
    text = history_text(history, max_bytes=max_bytes)
    assert len(text.encode()) <= max_bytes
    found = read(text)
    assert (found[0].attempt, found[-1].attempt) == (1, len(texts))


@pytest.mark.parametrize("text", ["\x01", "\U0001f4a5", "\ud800", '"', "\\"])
def test_the_largest_texts_fit_into_the_least_room(text: str) -> None:
    """Each character that JSON or UTF-8 makes longer, and numbers as large as they may be."""
    entry = FailedAttempt(2**63 - 1, 253_402_300_799_999, *[text * 10_000] * 3)
    assert len(history_text((entry,) * 50, max_bytes=MIN_BYTES).encode()) <= MIN_BYTES


def entry_with(**fields: Any) -> str:
    entry = {"attempt": 1, "at_ms": 1, "where": "w", "error_type": "t", "error": "e", **fields}
    return json.dumps([{name: value for name, value in entry.items() if value is not None}])


@pytest.mark.parametrize(
    "garbage",
    [None, 7, 1.5, True, b"[]", [], {}, [{"attempt": 1}], "", "nonsense", "{}", "[1]", "[[]]", "null", "\ud800"]
    + ["[" * 60_000, "[" * 70_000, "9" * 5_000, '[{"attempt":' + "9" * 5_000 + "}]"]
    + [entry_with(attempt=value) for value in (None, 0, -1, 1.5, "1", True, 2**63)]
    + [entry_with(at_ms=value) for value in (None, -1, 10**16, 1.5, "now")]
    + [entry_with(where=None), entry_with(error_type=3), entry_with(error=[])],
    ids=lambda value: f"{value!r:.40}",
)
def test_what_a_stranger_put_there_is_no_history(garbage: object) -> None:
    """And no error."""
    assert read(garbage) == ()


def test_a_stranger_s_good_history_is_bounded_too() -> None:
    """A thousand entries that could be ours are cut as ours are; fields that a later release adds are passed over."""
    text = json.dumps([{**json.loads(entry_with())[0], "attempt": n, "more": [1]} for n in range(1, 500)])
    assert [entry.attempt for entry in read(text)] == [1, *range(491, 500)]
