"""What a text from outside looks like where people read it: in a log line, on a terminal.

Nothing a sender wrote can forge a line or drive a terminal. It loads nothing, for `dispatcher --help` needs it.
"""

from __future__ import annotations

import re

__all__ = ["LOGGER_NAME", "MAX_TEXT_BYTES", "clean"]

LOGGER_NAME = "dispatcher"

MAX_TEXT_BYTES = 2048
"""Longer text is cut in logs. A traceback may be eight times as long."""

_CUT = "…"

# C0 and C1 controls (ANSI sequences begin with one), line separators, marks that turn the direction of writing
# around, and lone surrogates, which no stream can encode.
_UNSAFE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE_IN_LINE = re.compile(f"[\t\n{_UNSAFE}]")
_UNSAFE_IN_BLOCK = re.compile(f"[{_UNSAFE}]")


def clean(text: str, *, max_bytes: int | None = MAX_TEXT_BYTES, block: bool = False) -> str:
    """Return `text` as it can be shown: control characters escaped, cut at `max_bytes` of UTF-8 (None: not cut).

    `block` keeps line ends and tabs, for whoever prints each line indented.
    """
    cut = max_bytes is not None and len(text) > max_bytes
    if cut:  # before the escaping, so that its cost is bounded too
        text = text[:max_bytes]
    pattern = _UNSAFE_IN_BLOCK if block else _UNSAFE_IN_LINE
    text = pattern.sub(_escape, text)
    if max_bytes is not None and (cut or len(text) * 4 > max_bytes):
        raw = text.encode()
        if cut or len(raw) > max_bytes:
            text = raw[:max_bytes].decode(errors="ignore") + _CUT
    return text


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()
