"""Where a task's function runs: on the event loop, in a thread, or in a process. One interface, three executors.

They run user code, so nothing in this folder may ack, reject or publish: a `Result` is all that comes out.

    call         a run, its guards, the `Executor` interface
    failures     exception -> `Result`
    coroutines, threads, processes   the executors
    alone        a process of its own for what may have killed its worker
    process, pipe, child, targets    one child process: its life, its language, its inside, what it can find
"""

from __future__ import annotations

from .alone import AloneExecutor
from .call import Call, Executor, check_returned
from .coroutines import CoroutineExecutor
from .failures import FailedElsewhere, error_of, result_of, text_of
from .processes import ProcessExecutor, refuse_inside_main_import
from .targets import check_process_target, find_process_target, load_target
from .threads import ThreadExecutor

__all__ = [
    "AloneExecutor",
    "Call",
    "CoroutineExecutor",
    "Executor",
    "FailedElsewhere",
    "ProcessExecutor",
    "ThreadExecutor",
    "check_process_target",
    "check_returned",
    "error_of",
    "find_process_target",
    "load_target",
    "refuse_inside_main_import",
    "result_of",
    "text_of",
]
