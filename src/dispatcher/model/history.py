"""The attempts of a task that failed: what each copy of its message carries on, in one header, as JSON. Pure.

Bounded in entries and in text, so that it fits into a frame beside everything else. What a stranger put into that header
is no history: it is read as none, and never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from . import headers as names

__all__ = ["MAX_BYTES", "MAX_ENTRIES", "MIN_BYTES", "FailedAttempt", "history_of", "history_text"]

MAX_ENTRIES = 10
"""The first attempt that failed and the latest are kept; those between go first."""

MAX_BYTES = 4_096
MIN_BYTES = 1_000
"""How large the header may become, and the least that anyone may ask for."""

_SIZES = ((MAX_ENTRIES, 200), (MAX_ENTRIES, 100), (MAX_ENTRIES, 50), (3, 50), (3, 10))
"""How many entries and how many characters of each text: the first of these that fits. The last fits into `MIN_BYTES`."""

MAX_READ_LENGTH = 64_000
"""What is longer than ours can be is not ours, and not worth the reading."""

_LAST_MS = 253_402_300_799_999  # the end of the year 9999: what `datetime` can show


class FailedAttempt(msgspec.Struct, frozen=True):
    """One attempt of a task that failed.

    `attempt`: 1-based. `at_ms`: when it failed, Unix time in milliseconds, by the clock of where it ran. `where`: host,
    process id and worker. `error_type`: the exception's qualified name. `error`: its message, cut short.
    """

    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    at_ms: Annotated[int, msgspec.Meta(ge=0, le=_LAST_MS)]
    where: str
    error_type: str
    error: str

    @property
    def at(self) -> datetime:
        """When it failed, in UTC."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC)


_decode = msgspec.json.Decoder(tuple[FailedAttempt, ...]).decode
_encode = msgspec.json.Encoder().encode


def history_of(headers: Mapping[str, Any]) -> tuple[FailedAttempt, ...]:
    """The failed attempts that the headers of a message tell of, oldest first; empty where they tell of none."""
    text = headers.get(names.HISTORY)
    if type(text) is not str or len(text) > MAX_READ_LENGTH:
        return ()
    try:
        return _bounded(_decode(text))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ()


def history_text(history: tuple[FailedAttempt, ...], *, max_bytes: int) -> str:
    """The header of `history`, of at most `max_bytes`: the first entry and the latest, their texts cut short."""
    for entries, length in _SIZES:
        encoded = _encode([_shortened(entry, length) for entry in _bounded(history, entries)])
        if len(encoded) <= max_bytes:
            break
    return encoded.decode()


def _bounded(history: tuple[FailedAttempt, ...], entries: int = MAX_ENTRIES) -> tuple[FailedAttempt, ...]:
    return history if len(history) <= entries else (history[0], *history[1 - entries :])


def _shortened(entry: FailedAttempt, length: int) -> FailedAttempt:
    texts = [names.header_text(text, length) for text in (entry.where, entry.error_type, entry.error)]
    return FailedAttempt(entry.attempt, entry.at_ms, *texts)
