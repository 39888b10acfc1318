"""How a topology as asked for is compared with the one that exists. Every broker tells the same in the same words.

Pure: what is there was found out by the broker, and what is done about it is decided there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import TopologyMismatch
from ..model.topology import Queue
from .base import TopologyDiffers

__all__ = ["differences", "mismatch", "queue_differences"]


def differences(what: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> list[TopologyDiffers]:
    """Each property that differs, in the order of `wanted`. What is not in a mapping is None there: not set."""
    return [
        TopologyDiffers(f"{name} of {what}", repr(wanted.get(name)), repr(found.get(name)))
        for name in dict.fromkeys((*wanted, *found))
        if wanted.get(name) != found.get(name)
    ]


def queue_differences(queue: Queue, *, delivery_limit: int | None, max_length: int | None) -> list[TopologyDiffers]:
    """Where a queue that has these two differs from `queue`; None is no limit."""
    return differences(
        f"queue {queue.name!r}",
        {"delivery_limit": queue.delivery_limit, "max_length": queue.max_length},
        {"delivery_limit": delivery_limit, "max_length": max_length},
    )


def mismatch(place: str, wrong: Sequence[str], differs: Iterable[TopologyDiffers]) -> TopologyMismatch:
    """The error for a topology that may not be changed: everything that is wrong with it, in one sentence."""
    all_wrong = [*wrong, *(f"{d.what} is {d.found}, expected {d.expected}" for d in differs)]
    return TopologyMismatch(
        f"{place} is not as asked for: {'; '.join(all_wrong)}."
        " Change what is asked for, or let declare='create' make what is absent"
    )
