"""The command `dispatcher`: its commands by name, what it reads from the environment, and how it ends.

The commands' own modules are loaded when they are called, by name, through `Commands`: `--help` and `--version` must
answer at once, and a supervisor must not load what only its children need. It is the one place of the house where an
import waits. No command's logic belongs here.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import click

from ..errors import DispatcherError
from ..observe.text import LOGGER_NAME
from .failures import EXIT_INTERRUPTED, EXIT_USAGE, CliError, as_cli_error, internal_error

__all__ = ["Commands", "cli", "main"]

COMMANDS = {
    "worker": ("worker", "Run the tasks of an app."),
    "send": ("send", "Send one task from the shell."),
    "cancel": ("cancel", "Cancel tasks by their uuids."),
    "queues": ("queues", "Show how full the queues are."),
    "delayed": ("delayed", "Show how many tasks wait for their time."),
    "schedule": ("schedule", "Show what fires periodically, and when."),
    "dead": ("dead", "List, show, replay or delete dead letters."),
    "doctor": ("doctor", "Examine a broker: what is right, what is wrong, what to do."),
    "plan": ("plan", "Show what an app would declare on RabbitMQ."),
}
"""Command, its module in this package (which has a click command named `command`), and its line in `--help`."""

HIDDEN = {"worker-process": "process"}
"""Commands that only Dispatcher itself calls."""


class Commands(click.Group):
    """The group of commands; it loads a command's module when that command is called, and words every error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS[cmd_name][0] if cmd_name in COMMANDS else HIDDEN.get(cmd_name)
        if module is None:
            return None
        gc.disable()  # nothing that loading makes is garbage, and looking through it costs a twentieth of the time
        try:
            command = importlib.import_module(f"{__package__}.{module}").command
        finally:
            gc.enable()
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return 0  # whoever read our output has had enough: `dispatcher dead list | head`

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and name not in HIDDEN and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(COMMANDS)}"
            raise CliError(f"no command {name!r}", hint, exit_code=EXIT_USAGE)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        color = extra.setdefault("color", _color(os.environ))
        code = _guarded(lambda: super(Commands, self).main(args, "dispatcher", complete_var, False, **extra), color)
        sys.exit(_flushed(code))


def _color(environ: Mapping[str, str]) -> bool | None:
    """False where colour is not wanted (no-color.org: `NO_COLOR` not empty); None leaves it to the terminal."""
    return False if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" else None


def _guarded(run: Callable[[], object], color: bool | None) -> int:
    """Run a command and return its exit code; every error becomes its lines."""
    try:
        result = run()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "dispatcher"
        failure = CliError(error.format_message(), f"try '{path} --help'", exit_code=error.exit_code)
    except CliError as error:
        failure = error
    except DispatcherError as error:
        failure = as_cli_error(error)
    except (click.Abort, KeyboardInterrupt):
        click.echo("aborted", err=True)
        return EXIT_INTERRUPTED
    except Exception as error:
        failure = internal_error(error)
    else:
        return result if isinstance(result, int) else 0
    failure.show(color)
    return failure.exit_code


def _flushed(code: int) -> int:
    """Write out what is buffered; a closed pipe must neither change the exit code nor be complained about at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            try:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())  # the interpreter flushes once more at its end
                os.close(null)
            except (OSError, ValueError):
                pass  # the stream has no descriptor: then the interpreter has nothing to flush either
    return code


def _fill_standard_descriptors() -> None:
    """Open the null device where standard input, output or error were closed (`<&-`).

    A pipe that got such a number would be taken for standard input by the next child, or written over by its own.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # as standard descriptors are
    os.close(descriptor)


def _version() -> str:
    from importlib import metadata  # it brings a mail parser and an archive reader, for this one option

    try:
        return metadata.version("dispatcher-queue")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"dispatcher {_version()}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """An asynchronous task queue on RabbitMQ, or on an SQLite file where there is none."""
    # What a command has to say it says itself; without a handler Python would print every warning besides.
    logging.getLogger(LOGGER_NAME).addHandler(logging.NullHandler())
    ctx.obj = os.environ.get("DISPATCHER_URL") or None


def main() -> NoReturn:
    """The entry point of the script `dispatcher` and of `python -m dispatcher`; ends the process."""
    _fill_standard_descriptors()
    cli.main()
