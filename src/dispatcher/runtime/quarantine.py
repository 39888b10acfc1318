"""What may have killed its workers is run alone: which deliveries those are, and where they run.

A worker that dies takes a whole prefetch with it, and the broker counts a death for each message in it. So a count is a
suspicion, not a proof: a suspect gets a process of its own, and if that dies too, it was the one. Runs user code through
the executors, so it can neither ack nor publish.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..brokers.base import Delivery
from ..errors import TaskProcessDied
from ..model import headers as names
from ..model.outcome import DiedAlone, Raised
from ..observe.events import TaskNotQuarantined
from ..observe.hooks import EventHub
from .executors import AloneExecutor, Call, Executor, find_process_target, result_of
from .link import LostLinks
from .registry import Place, RegisteredTask

__all__ = ["SUSPECT_AFTER", "Quarantine", "died_alone", "holders_lost", "is_suspect", "redeliveries_of"]

SUSPECT_AFTER = 2
"""So many holders lost make a suspect. One is what any restart costs; a second is rarely chance."""


def redeliveries_of(headers: Mapping[str, Any]) -> int:
    """How many holders died with a message, as far as workers have counted them."""
    count = headers.get(names.REDELIVERIES)
    return count if type(count) is int and count >= 0 else 0


def holders_lost(delivery: Delivery) -> int:
    """How many holders were lost with a message, whoever counted them."""
    count = delivery.delivery_count
    return redeliveries_of(delivery.headers) if count is None else count


def is_suspect(delivery: Delivery, lost_links: LostLinks) -> bool:
    """Whether it may be what its workers died of.

    A broker counts a lost link like a dead worker. What takes our links takes those of the others at the same time, as a
    rule, so what we saw explains as much of the count.
    """
    lost = holders_lost(delivery)
    return lost >= SUSPECT_AFTER and lost >= SUSPECT_AFTER + lost_links.recently


def died_alone(lost: int, died: str) -> DiedAlone:
    """The result of a suspect whose own process died, after `lost` workers had."""
    result = result_of(TaskProcessDied(f"it killed its worker {lost} times, then died alone: {died}"))
    assert isinstance(result, Raised)
    return DiedAlone(result.failure)


class Quarantine:
    """The processes for the suspects of one worker. `max_processes`: how many functions may be running in them."""

    def __init__(self, hub: EventHub, max_processes: int) -> None:
        self._hub = hub
        self._max_processes = max_processes
        self._executors: dict[Place, AloneExecutor] = {}
        self._told: set[str] = set()

    def place_for(self, task: RegisteredTask, in_place: Executor) -> tuple[AloneExecutor, str] | None:
        """The executor for a suspect of `task`, and the target of its call. None: it runs in place, and that was told.

        A task of `executor="process"` runs in place: that is a process already, and its death a failure like others.
        """
        if task.place == "process":
            return None
        try:
            target = find_process_target(task.function)
            executor = self._executors.get(task.place)
            if executor is None:
                executor = self._executors[task.place] = AloneExecutor(in_place, self._max_processes, self._tell)
        except Exception as error:  # a module's own __getattr__ is user code
            self._tell_once(task.name, str(error))
            return None
        return executor, target

    def _tell(self, call: Call, why: str) -> None:
        self._tell_once(call.current.name, why)

    def _tell_once(self, task: str, why: str) -> None:
        if task not in self._told:
            self._told.add(task)
            self._hub.emit(TaskNotQuarantined(task, why))

    async def close(self) -> int:
        """End the processes; how many could not be."""
        left = 0
        for executor in self._executors.values():
            left += await executor.close()
        return left
