"""A module whose import takes longer than the timeout of its task: for the test of when a task's clock starts."""

from __future__ import annotations

import multiprocessing
import time

__all__ = ["quick"]

if multiprocessing.parent_process() is not None:
    time.sleep(1.0)  # in the child only


def quick() -> None:
    """Ends at once."""
