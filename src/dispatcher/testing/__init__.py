"""Help for users' tests: run what an app's queues hold, and look at what waits there. Never needed in production.

    from dispatcher.testing import drain, waiting

It stands on the public API and the broker's inspector alone, so it works with every broker; `memory://` is the quick one.
"""

from __future__ import annotations

from .draining import DrainFailed, drain
from .looking import waiting

__all__ = ["DrainFailed", "drain", "waiting"]
