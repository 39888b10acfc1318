"""A dead letter's task in the editor of a person: shown as the wire's own JSON, read back as a worker would. Meets no broker."""

from __future__ import annotations

import sys

import click
import msgspec

from ..errors import ArgumentError, DecodeError
from ..model.codec import decode_body, encode_body
from ..model.task import Task
from ..runtime.dead_letter import DeadLetter, received_task
from .failures import EXIT_USAGE, CliError

__all__ = ["edited_by_hand", "read_text", "text_of"]

HINT = "nothing was sent, and the letter stays"


def edited_by_hand(letter: DeadLetter) -> Task:
    """What a person makes of the task of `letter` in $VISUAL or $EDITOR. Raises `CliError` unless a worker could read it.

    On a terminal a text with a fault may be edited again, so that no work on it is lost.
    """
    text = text_of(letter)
    while True:
        try:
            edited = click.edit(text, extension=".json")
        except click.ClickException as error:
            raise CliError(
                f"expected an editor that runs, got: {error.message}", "set $VISUAL or $EDITOR", exit_code=EXIT_USAGE
            ) from None
        if edited is None:
            raise CliError("the editor was left without saving", HINT, exit_code=EXIT_USAGE)
        try:
            return read_text(letter, edited)
        except CliError as error:
            if sys.stdin is None or not sys.stdin.isatty():
                raise
            error.show()
            click.confirm("Edit it again?", default=True, abort=True)
            text = edited


def text_of(letter: DeadLetter) -> str:
    """The task as the wire's JSON, indented; a body that is no task as it is."""
    body = letter.body if letter.args is None else msgspec.json.format(letter.body, indent=2)
    return body.decode("utf-8", "backslashreplace") + "\n"


def read_text(letter: DeadLetter, text: str) -> Task:
    """The task that an edited `text` holds. `CliError` for what a worker would refuse, and for another uuid."""
    if not text.strip():
        raise CliError("expected a task as JSON, got an empty text", HINT, exit_code=EXIT_USAGE)
    body = text.strip().encode("utf-8", "surrogatepass")
    try:
        decoded = decode_body(body)
        task = received_task(decoded.name, decoded.args)
        encode_body(decoded.uuid, task.name, task.args)
    except (ArgumentError, DecodeError) as error:
        raise CliError(str(error), HINT, exit_code=EXIT_USAGE) from None
    if letter.args is not None and decoded.uuid != decode_body(letter.body, max_bytes=len(letter.body)).uuid:
        raise CliError(
            f"expected the uuid {letter.uuid}, which an edit keeps, got {decoded.uuid}", HINT, exit_code=EXIT_USAGE
        )
    return msgspec.structs.replace(task, uuid=decoded.uuid)
