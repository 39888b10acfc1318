"""What an examination finds: one sentence each, whether that is right, and what to do about it. Data only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from ..failures import EXIT_CONFIG

__all__ = ["Finding", "Status", "Tell", "note", "ok", "warning", "wrong"]

Status = Literal["ok", "note", "warning", "wrong"]
"""`note`: neither right nor wrong, or something that cannot be told. `warning`: it works, and may not always."""


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. `check`: what was looked at. `advice`: what to do, empty where there is nothing to do.

    `exit_code`: how the command ends because of it, zero for what is not wrong.
    """

    check: str
    status: Status
    text: str
    advice: str = ""
    exit_code: int = 0


Tell: TypeAlias = Callable[[Finding], None]


def ok(check: str, text: str) -> Finding:
    return Finding(check, "ok", text)


def note(check: str, text: str, advice: str = "") -> Finding:
    return Finding(check, "note", text, advice)


def warning(check: str, text: str, advice: str) -> Finding:
    return Finding(check, "warning", text, advice)


def wrong(check: str, text: str, advice: str, *, exit_code: int = EXIT_CONFIG) -> Finding:
    return Finding(check, "wrong", text, advice, exit_code)
