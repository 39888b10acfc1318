"""What it costs to hand a function that does nothing to a thread or a process and to have its result back in the loop.

The executors are measured alone, without a broker and a worker, beside what Python and Dramatiq have for it; and how
many tasks that keep a processor busy are done by more processes. Each function is one measurement.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeAlias

import dramatiq
from dramatiq.brokers.stub import StubBroker

from dispatcher.model.outcome import RETURNED
from dispatcher.observe.context import CurrentTask
from dispatcher.runtime.executors import Call, ProcessExecutor, ThreadExecutor

from .handover_app import RECORD, RUNS, app, crunch, crunch_in_process, nothing, spin
from .processes import started
from .samples import Sample, Stopwatch, cpu_seconds

__all__ = ["bare_spin", "dramatiq_threads", "handover", "work"]

DEADLINE_SECONDS = 120.0
POLL_SECONDS = 0.005
IN_FLIGHT = 32
ALONE_SHARE = 5
"""One at a time takes longer: so many times fewer are measured."""

CURRENT = CurrentTask("0f8e2b1c", "nothing", 1, False, {}, "q")
BODY = b'{"uuid":"0f8e2b1c","name":"nothing","args":[]}'
TARGET = "benchmarks.handover_app:nothing"

Submit: TypeAlias = Callable[[], "asyncio.Future[Any]"]


def handover(by: str, count: int, workers: int) -> Sample:
    """`by` names one of `_WAYS`; `workers` is how many threads or processes it may have."""

    async def run() -> Sample:
        async with asyncio.timeout(DEADLINE_SECONDS):
            submit, close = _WAYS[by](workers)
            await _keep_in_flight(submit, 10 * IN_FLIGHT, IN_FLIGHT)  # they are all started now
            figures = {}
            for what, number, in_flight in (("alone", count // ALONE_SHARE, 1), ("in_flight", count, IN_FLIGHT)):
                wall, cpu = time.perf_counter(), _cpu_with_children()
                await _keep_in_flight(submit, number, in_flight)
                figures[f"{what}_us"] = (time.perf_counter() - wall) / number * 1e6
                figures[f"{what}_cpu_us"] = (_cpu_with_children() - cpu) / number * 1e6
            await close()
            return Sample(figures=figures)

    return asyncio.run(run())


def dramatiq_threads(count: int, workers: int) -> Sample:
    """A message to Dramatiq's broker in memory, and the function in one of its worker's threads: it has no other way."""
    room = threading.Semaphore(0)
    broker = StubBroker(middleware=[])

    def report() -> None:
        room.release()

    actor = dramatiq.actor(broker=broker)(report)
    worker = dramatiq.Worker(broker, worker_threads=workers, worker_timeout=100)
    worker.start()
    figures = {}
    for what, number, in_flight in (("alone", count // ALONE_SHARE, 1), ("in_flight", count, IN_FLIGHT)):
        wall, cpu = time.perf_counter(), time.process_time()
        for sent in range(number + in_flight):
            if sent >= in_flight and not room.acquire(timeout=DEADLINE_SECONDS):
                raise RuntimeError(f"not done within {DEADLINE_SECONDS:g} s")
            if sent < number:
                actor.send()
        figures[f"{what}_us"] = (time.perf_counter() - wall) / number * 1e6
        figures[f"{what}_cpu_us"] = (time.process_time() - cpu) / number * 1e6
    worker.stop()
    broker.close()
    return Sample(figures=figures)


def bare_spin(count: int) -> Sample:
    """The work of `crunch` in a loop of one process: what there is to reach."""
    watch = Stopwatch()
    for _ in range(count):
        spin()
    return watch.sample(count)


def work(kind: str, count: int, processes: int, limit: int) -> Sample:
    """`dispatcher worker -p processes` at `count` tasks that keep a processor busy: from the first begun to the last ended."""
    task = {"thread": crunch, "process": crunch_in_process}[kind]

    async def fill() -> None:
        async with app:
            await app.publish_many(task.bind() for _ in range(count))

    asyncio.run(fill())
    options = ("-p", str(processes), "-c", str(limit))
    with started(("-m", "dispatcher", "worker", "benchmarks.handover_app:app", *options), 1) as worker:
        _wait_for_runs(1)
        cpu = _cpu_of_tree(worker.pid)
        _wait_for_runs(count)
        cpu = _cpu_of_tree(worker.pid) - cpu
        worker.drain()
    runs = list(RECORD.iter_unpack(Path(RUNS).read_bytes()))
    seconds = max(ended for _, ended in runs) - min(begun for begun, _ in runs)
    return Sample(len(runs), seconds, cpu)


# --- ways to hand a function over -----------------------------------------------------------------------------------

_Way: TypeAlias = "tuple[Submit, Callable[[], Awaitable[object]]]"


def _our_threads(workers: int) -> _Way:
    executor = ThreadExecutor(workers)
    return lambda: executor.submit(Call(nothing, (), CURRENT)), executor.close


def _our_processes(workers: int) -> _Way:
    executor = ProcessExecutor(workers)
    return lambda: executor.submit(Call(nothing, (), CURRENT, body=BODY, target=TARGET)), executor.close


def _pool(pool: Executor) -> _Way:
    loop = asyncio.get_running_loop()
    return lambda: loop.run_in_executor(pool, nothing), partial(asyncio.to_thread, pool.shutdown)


def _to_thread(workers: int) -> _Way:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(workers))
    return lambda: loop.create_task(asyncio.to_thread(nothing)), loop.shutdown_default_executor


_WAYS: dict[str, Callable[[int], _Way]] = {
    "dispatcher-threads": _our_threads,
    "dispatcher-processes": _our_processes,
    "thread-pool": lambda workers: _pool(ThreadPoolExecutor(workers)),
    "to-thread": _to_thread,
    "process-pool": lambda workers: _pool(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))),
}


async def _keep_in_flight(submit: Submit, count: int, in_flight: int) -> None:
    """Hand over `count` in all, one more whenever one is back, and wait until the last is."""
    done = asyncio.get_running_loop().create_future()
    unsent = back = 0

    def came_back(future: asyncio.Future[Any]) -> None:
        nonlocal unsent, back
        if (result := future.result()) not in (None, RETURNED):
            done.set_exception(RuntimeError(f"expected the function to return, got {result}"))
            return
        back += 1
        if unsent:
            unsent -= 1
            submit().add_done_callback(came_back)
        elif back == count:
            done.set_result(None)

    first = min(in_flight, count)
    unsent = count - first
    for _ in range(first):
        submit().add_done_callback(came_back)
    await done


def _cpu_with_children() -> float:
    return time.process_time() + sum(cpu_seconds(child.pid) for child in active_children() if child.pid)


def _cpu_of_tree(pid: int) -> float:
    """What a process and those below it have used that live now."""
    children = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return cpu_seconds(pid) + sum(_cpu_of_tree(child) for child in children)


def _wait_for_runs(count: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not Path(RUNS).exists() or Path(RUNS).stat().st_size < count * RECORD.size:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{count} tasks were not done within {DEADLINE_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
