"""One worker process: loads the app, runs its worker, takes signals, turns the end into an exit code.

`signals` takes the signals. Tasks are run by the app alone; nothing here touches a delivery.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

import click

from ..brokers import redact_url
from ..errors import BrokerUnavailable, DispatcherError, WorkerExhausted
from ..observe.log_output import configure_logging
from ..observe.logs import LogObserver
from ..runtime.app import Dispatcher
from .connect import place_of, shared_broker
from .failures import EXIT_CONFIG, EXIT_INTERNAL, EXIT_RECYCLE, as_cli_error, internal_error
from .locate import load_app, pick
from .notices import AppStarted, AppStopped, LogFormatIgnored, SupervisorLost
from .progress import show_progress
from .signals import Signals
from .terminal import log_stream, wants_color
from .worker_options import WorkerOptions, worker_options

__all__ = ["command"]

LEFT_BEHIND_SECONDS = 2.0
"""How long the end of a process waits for what tasks left behind: background tasks, threads of `asyncio.to_thread`."""


class _Supervision:
    """The two descriptors that join this process to its supervisor, and its number there (from zero)."""

    def __init__(self, text: str) -> None:
        self.lifeline, self.ready, self.number = (int(part) for part in text.split(","))
        for descriptor in (self.lifeline, self.ready):
            os.set_inheritable(descriptor, False)  # a task's own child must not hold them open

    def say_ready(self) -> None:
        try:
            os.write(self.ready, b"%d\n" % self.number)
        except BrokenPipeError:
            pass  # the supervisor is gone: the life-line says so too


@click.command("worker-process", hidden=True)
@worker_options
@click.option("--supervised", default=None, help="Life-line, ready pipe and number, from the supervisor.")
@click.pass_context
def command(ctx: click.Context, /, supervised: str | None = None, **common: Any) -> int:
    """Run one worker process."""
    options = WorkerOptions(**common)
    supervision = None if supervised is None else _Supervision(supervised)
    target, app = load_app(options.target)
    if supervision is not None:
        shared_broker(place_of(app))  # each process would have a broker of its own
    stream = log_stream(burst=options.burst)
    with_bar = stream is not None
    is_ours = configure_logging(
        options.level,
        format="json" if options.log_format == "json" else "console",
        stream=stream,
        color=wants_color(ctx, sys.stderr),
    )
    for queue in options.queue_names or ():
        pick("queue", queue, {known.name: known for known in app.queues}, exit_code=EXIT_CONFIG)
    log = LogObserver()
    if options.log_format == "json" and not is_ours:
        log.on_event(LogFormatIgnored(options.log_format))
    signals = Signals(log, with_bar=with_bar)
    signals.install()
    log.on_event(_started(target, app, options))
    bar = with_bar and (supervision is None or supervision.number == 0)
    _spare_the_collector()
    runner = asyncio.Runner()
    code, because = _run(runner, _serve(app, options, signals, supervision, log, bar), signals)
    closed = _close(runner)
    if not closed:
        because += "; something that its tasks left behind never ended"
    log.on_event(AppStopped(os.getpid(), code, because))
    if code == EXIT_RECYCLE and supervision is None:
        _start_anew()
    if not closed or code == EXIT_RECYCLE or code > 128:
        _exit_at_once(code)
    return code


def _spare_the_collector() -> None:
    """What is loaded stays, and a task's own objects rarely form cycles: look through them a tenth as often.

    Saves 2 to 3 microseconds a task (`make bench`). Done for this process, which is ours; never in the library.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def _run(runner: asyncio.Runner, serving: Coroutine[Any, Any, None], signals: Signals) -> tuple[int, str]:
    """Run the worker to its end: the exit code, and why. The event loop stays open."""
    try:
        runner.run(serving)
    except asyncio.CancelledError:
        if signals.count == 0:
            return EXIT_INTERNAL, "the worker was cancelled by something else than a signal"
        return (0, "drained") if signals.count == 1 else (128 + signals.last, "cut short")
    except WorkerExhausted as error:
        return EXIT_RECYCLE, str(error)
    except DispatcherError as error:
        failure = as_cli_error(error)
        failure.show()
        return failure.exit_code, str(error)
    except BaseException as error:  # a SystemExit in what a task left in the loop must not pass for a clean end
        failure = internal_error(error)
        failure.show()
        return failure.exit_code, failure.message
    return 0, "drained" if signals.count else "the queues are empty"


def _close(runner: asyncio.Runner) -> bool:
    """Close the event loop. False: something in it goes on for ever, closing would wait for it, and it is left open."""
    if not runner.run(_end_what_is_left()):
        return False
    runner.close()
    return True


async def _end_what_is_left() -> bool:
    """Give what tasks left in the loop, and in its threads, a moment to end; whether all of it did."""
    # What was cancelled before and goes on all the same has had its time.
    first_told = [task for task in asyncio.all_tasks() - {asyncio.current_task()} if not task.cancelling()]
    for task in first_told:
        task.cancel()
    releasing = asyncio.create_task(_release(first_told), name="dispatcher release")
    await asyncio.wait([releasing], timeout=LEFT_BEHIND_SECONDS)
    return not asyncio.all_tasks() - {asyncio.current_task()}


async def _release(told: list[asyncio.Task[Any]]) -> None:
    """What closing a loop waits for, in that order: a task may need the threads for its clean-up."""
    if told:
        await asyncio.wait(told)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


async def _serve(
    app: Dispatcher,
    options: WorkerOptions,
    signals: Signals,
    supervision: _Supervision | None,
    log: LogObserver,
    bar: bool,
) -> None:
    loop = asyncio.get_running_loop()
    run = asyncio.create_task((_work_with_bar if bar else _work)(app, options), name="dispatcher worker")
    signals.attach(run)
    if supervision is not None:
        loop.add_reader(supervision.lifeline, _on_supervisor_lost, loop, supervision, signals, log)
        supervision.say_ready()
    try:
        await run
    finally:
        signals.detach()


async def _work_with_bar(app: Dispatcher, options: WorkerOptions) -> None:
    """Run the worker under a progress bar on the terminal."""
    queues = options.queue_names or [queue.name for queue in app.queues]
    drawn = asyncio.Event()
    progress = asyncio.create_task(show_progress(place_of(app), queues, sys.stderr, drawn), name="dispatcher progress")
    try:
        await drawn.wait()
        await _work(app, options)
    finally:
        progress.cancel()
        await asyncio.wait([progress])


async def _work(app: Dispatcher, options: WorkerOptions) -> None:
    """Run the worker. A broker that is not there yet is waited for without end, unless the app says how often to try."""
    while True:
        try:
            return await app.run_worker(
                options.queue_names,
                limit=options.limit,
                burst=options.burst,
                name=options.name,
                grace_seconds=options.grace_seconds,
                prefetch=options.prefetch,
            )
        except BrokerUnavailable:
            if app.config.reconnection_retries is not None:
                raise


def _on_supervisor_lost(
    loop: asyncio.AbstractEventLoop, supervision: _Supervision, signals: Signals, log: LogObserver
) -> None:
    loop.remove_reader(supervision.lifeline)  # its end stays readable for ever
    log.on_event(SupervisorLost(os.getpid()))
    signals.drain()


def _started(target: str, app: Dispatcher, options: WorkerOptions) -> AppStarted:
    names = options.queue_names or [queue.name for queue in app.queues]
    return AppStarted(
        app=target,
        broker=redact_url(app.config.url),
        queues=",".join(names),
        limit=options.limit,
        pid=os.getpid(),
        tasks=", ".join(f"{name} ({_at_timeout(task)})" for name, task in sorted(app.tasks.items())),
    )


def _at_timeout(task: Any) -> str:
    config = task.config
    if config.timeout_seconds is None:
        return "no timeout"
    return f"{config.timeout_seconds:g} s, then {config.on_timeout}"


def _start_anew() -> NoReturn:
    """Replace this process by a new one with the same command line: the only way to be rid of functions that never end."""
    _flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _exit_at_once(code: int) -> NoReturn:
    """End without waiting for threads and tasks: what was cut short may have left one that never ends."""
    _flush()
    os._exit(code)


def _flush() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            pass  # its reader is gone
