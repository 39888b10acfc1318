"""`dispatcher worker`: one worker process, or a supervisor of several. Decides which, and runs neither itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..observe.log_output import configure_logging
from ..observe.logs import LogObserver
from .failures import EXIT_USAGE, CliError
from .notices import SourceWatched
from .option_types import WholeNumber
from .supervisor import Supervisor, Watch
from .terminal import log_stream, wants_color
from .worker_options import WorkerOptions, worker_options

__all__ = ["command"]

LOOK_EVERY_MS = 1_000


@click.command("worker")
@worker_options
@click.option(
    "-p", "--processes", default=1, show_default=True, type=WholeNumber(1, 512),
    help="Worker processes; with two or more a supervisor restarts those that die.",
)  # fmt: skip
@click.option(
    "--reload", is_flag=True, help="Restart when a .py file under the current folder changes. For development."
)
@click.pass_context
def command(ctx: click.Context, /, processes: int, reload: bool, **common: Any) -> int:
    """Run the tasks of MODULE:APP until told to end.

    MODULE alone is enough where it holds one app. The current folder is searched first.

    The first TERM or INT (^C) drains: nothing new is taken, running tasks end. The second cancels what runs and hands
    it back to the broker; the third exits at once. USR1 writes the stacks of all threads to standard error.

    Exit codes: 0 clean, 2 wrong usage, 69 the broker was given up, 70 internal, 74 storage, 78 configuration or
    credentials, 130 and 143 cut short by INT and TERM.
    """
    options = WorkerOptions(**common)
    if processes == 1 and not reload:
        # The command that does it is loaded by its name: a supervisor must not load what it needs.
        assert ctx.parent is not None
        group = ctx.parent.command
        assert isinstance(group, click.Group)
        process = group.get_command(ctx, "worker-process")
        assert process is not None
        code: int = ctx.invoke(process, **common)
        return code
    if os.name != "posix":
        raise CliError(
            "--processes and --reload need a Unix system", "start several workers instead", exit_code=EXIT_USAGE
        )
    if reload and options.burst:
        raise CliError("expected --burst or --reload, got both", "leave one of them out", exit_code=EXIT_USAGE)
    return _supervised(options, processes, _watch_for(Path.cwd()) if reload else None, wants_color(ctx, sys.stderr))


def _supervised(options: WorkerOptions, processes: int, watch: Watch | None, color: bool) -> int:
    def words(lifeline: int, ready: int, number: int) -> list[str]:
        return ["worker-process", "--supervised", f"{lifeline},{ready},{number}", *options.words(number)]

    configure_logging(
        options.level,
        format="json" if options.log_format == "json" else "console",
        stream=log_stream(burst=options.burst),
        color=color,
    )
    supervisor = Supervisor(processes, words, LogObserver(), burst=options.burst, watch=watch)
    try:
        return supervisor.run()
    finally:
        supervisor.close()


def _watch_for(folder: Path) -> Watch:
    try:
        import watchfiles
    except ModuleNotFoundError:
        raise CliError(
            "--reload needs watchfiles", 'pip install "dispatcher-queue[reload]"', exit_code=EXIT_USAGE
        ) from None

    def watch(changed: Callable[[str], None]) -> None:
        watching = False
        looks = watchfiles.watch(
            folder, watch_filter=watchfiles.PythonFilter(), rust_timeout=LOOK_EVERY_MS, yield_on_timeout=True
        )
        for changes in looks:
            if not watching:  # the first look is over, so the watch is in place
                watching = True
                LogObserver().on_event(SourceWatched(str(folder)))
            if changes:
                changed(", ".join(sorted(os.path.relpath(path, folder) for _, path in changes)))

    return watch
