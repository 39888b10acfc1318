"""Named places where a crash test may kill this process: `DISPATCHER_FAILPOINT=publish_before_commit:kill`.

Read once, at import; without the variable every place is an empty function call. Nothing but a test may set it, and
nothing here may clean up: a failpoint stands for the power of `kill -9`.
"""

from __future__ import annotations

import os
import signal

from ...errors import ConfigError

__all__ = ["FAILPOINTS", "failpoint"]

FAILPOINTS = (
    "publish_before_commit",
    "publish_after_commit",
    "claim_before_commit",
    "claim_after_commit",
    "settle_before_commit",
    "settle_after_commit",
    "checkpoint",
    "reap_before_commit",
)
"""Every place; a crash test goes through them all."""


def _armed(text: str) -> str:
    name, _, action = text.partition(":")
    if text and (name not in FAILPOINTS or action != "kill"):
        raise ConfigError(f"DISPATCHER_FAILPOINT: expected one of {', '.join(FAILPOINTS)} and ':kill', got {text!r}")
    return name


_ARMED = _armed(os.environ.get("DISPATCHER_FAILPOINT", ""))


def failpoint(name: str) -> None:
    """Die here, as by `kill -9`, if this place is the armed one."""
    if name == _ARMED:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
