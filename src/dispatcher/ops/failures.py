"""How the command line ends when something is wrong: one line, a hint, an exit code. Never a traceback for a user's mistake.

    0        clean                     74   the embedded broker's storage
    2        wrong usage               78   configuration or credentials
    69       the broker was given up   130  cut short by INT, 143 by TERM (128 + the signal)
    70       internal                  75   private: the supervisor starts this process anew

The numbers are those of `sysexits.h`. Text that came from a broker or a task is escaped before a terminal sees it.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import click

from ..errors import (
    ArgumentError,
    ConfigError,
    ConnectionLost,
    DispatcherError,
    PublishError,
    PublishManyError,
    PublishRefused,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageGone,
    StorageReadOnly,
    TopologyMissing,
)
from ..observe.text import clean

__all__ = [
    "EXIT_CONFIG",
    "EXIT_INTERNAL",
    "EXIT_INTERRUPTED",
    "EXIT_RECYCLE",
    "EXIT_STORAGE",
    "EXIT_UNAVAILABLE",
    "EXIT_USAGE",
    "CliError",
    "as_cli_error",
    "internal_error",
]

EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_STORAGE = 74
EXIT_RECYCLE = 75
EXIT_CONFIG = 78
EXIT_INTERRUPTED = 130


class CliError(Exception):
    """What a command says before it ends: `dispatcher: error: <message>`, then detail lines, then one hint."""

    def __init__(
        self, message: str, hint: str = "", *, exit_code: int = EXIT_CONFIG, detail: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = tuple(detail)
        self.exit_code = exit_code

    def show(self, color: bool | None = None) -> None:
        """Write it to standard error. `color`: None asks the terminal."""
        head = click.style("dispatcher: error:", fg="red", bold=True)
        click.echo(f"{head} {clean(self.message)}", err=True, color=color)
        for line in self.detail:
            click.echo(f"  {clean(line)}", err=True, color=color)
        if self.hint:
            click.echo(f"{click.style('hint:', bold=True)} {clean(self.hint)}", err=True, color=color)


def as_cli_error(error: DispatcherError) -> CliError:
    """`error` as a line, a hint and an exit code."""
    message = str(error) or type(error).__name__
    match error:
        case StorageError():
            return CliError(message, _storage_hint(error), exit_code=EXIT_STORAGE)
        case ArgumentError():
            return CliError(message, exit_code=EXIT_USAGE)
        case ConfigError() | TopologyMissing() | PublishRefused(final=True):
            return CliError(message, exit_code=EXIT_CONFIG)
        case ConnectionLost():
            return CliError(message, "is the broker running, and reachable from here?", exit_code=EXIT_UNAVAILABLE)
        case PublishError() | PublishManyError():
            return CliError(message, exit_code=EXIT_UNAVAILABLE)
        case _:
            return CliError(message, exit_code=EXIT_INTERNAL)


def internal_error(error: BaseException) -> CliError:
    """An error that no user made, as a line, a hint and an exit code; its traceback is printed at once."""
    traceback.print_exception(error)
    hint = "this is a fault of Dispatcher itself: please report it with the lines above"
    return CliError(f"internal: {type(error).__name__}: {error}", hint, exit_code=EXIT_INTERNAL)


def _storage_hint(error: StorageError) -> str:
    match error:
        case StorageFull():
            return "free some space on that disk, then run this again; nothing accepted was lost"
        case StorageReadOnly():
            return "give this user write access to the file and its folder"
        case StorageCorrupt():
            return "check the path; if it is the right file, restore it from a backup or move it away"
        case StorageGone():
            return "do not delete or replace the file while workers run; restart them"
    return ""
