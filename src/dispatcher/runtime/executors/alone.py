"""Runs a function that may have killed its worker in a child process of its own; in place where no child can begin it.

It runs user code, so it never settles anything. That a child died is in `Call.died`; what that means others decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context

from ...model.outcome import BadArguments, CutShort, Raised, Result
from .call import Call, Executor, resolve, tell_began
from .coroutines import CoroutineExecutor
from .processes import ProcessExecutor
from .threads import put_off_deadline

__all__ = ["AloneExecutor"]


class AloneExecutor:
    """See `Executor`. A child is made for each call and ends with it, so whoever kills one has killed nobody else's.

    `in_place`: where the function runs usually, and where it runs when its child could not call it: it died before, did
    not get ready in time, or could not import or bind what it should call. `on_in_place(call, why)` is told of it.
    `ConfigError` where processes cannot be started: see `ProcessExecutor`.
    """

    def __init__(self, in_place: Executor, max_processes: int, on_in_place: Callable[[Call, str], None]) -> None:
        self._children = ProcessExecutor(max_processes, fresh=True)
        self._in_place = in_place
        self._on_in_place = on_in_place
        self._there: set[Call] = set()
        self._loop = asyncio.get_running_loop()

    def submit(self, call: Call) -> asyncio.Future[Result]:
        ended: asyncio.Future[Result] = self._loop.create_future()
        context = copy_context()  # what middleware set, for a run in place
        on_began = call.on_began
        on_end, call.on_end = call.on_end, None  # the end of the child need not be the end of the call
        submitted_at = time.time()
        began = False

        def note_began() -> None:
            nonlocal began
            began = True
            if on_began is not None:
                on_began()

        def heard(child: asyncio.Future[Result]) -> None:
            result = child.result()
            call.on_end = on_end
            if began or call.stopped is not None or call.current.cancel_asked or isinstance(result, CutShort):
                resolve(call, ended, result)
                return
            self._on_in_place(call, _why(result))
            call.on_began = on_began
            put_off_deadline(call, time.time() - submitted_at)
            context.run(self._submit_in_place, call, ended)

        call.on_began = note_began
        self._children.submit(call).add_done_callback(heard)
        return ended

    def _submit_in_place(self, call: Call, ended: asyncio.Future[Result]) -> None:
        self._there.add(call)
        if isinstance(self._in_place, CoroutineExecutor):
            tell_began(call)

        def heard(run: asyncio.Future[Result]) -> None:
            self._there.discard(call)
            ended.set_result(CutShort() if run.cancelled() else run.result())

        self._in_place.submit(call).add_done_callback(heard)

    def stop(self, call: Call, result: Result) -> bool:
        return self._where(call).stop(call, result)

    def cancel(self, call: Call, result: Result) -> None:
        self._where(call).cancel(call, result)

    def kill(self, call: Call, result: Result) -> bool:
        return self._where(call).kill(call, result)

    def _where(self, call: Call) -> Executor:
        return self._in_place if call in self._there else self._children

    async def close(self, grace_seconds: float = 0.0) -> int:
        """Ends the children. `in_place` belongs to who made it."""
        return await self._children.close(grace_seconds)


def _why(result: Result) -> str:
    match result:
        case Raised(failure=failure):
            return f"{failure.type}: {failure.message}"
        case BadArguments(text=text):
            return text
        case _:
            return repr(result)
