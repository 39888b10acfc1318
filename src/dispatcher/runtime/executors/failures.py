"""From an exception to a `Result`: words only, bounded, whatever the exception does while it is looked at.

Pure apart from reading source lines for the traceback. Keeps no exception, frame or traceback object.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from ...errors import TaskError
from ...model.outcome import Discard, Discarded, Raised, Reject, Rejected, Result, Retry, Snooze, Snoozed
from ...model.retry import Failure

__all__ = ["MAX_MESSAGE_CHARS", "MAX_TRACEBACK_CHARS", "FailedElsewhere", "error_of", "result_of", "text_of"]

MAX_MESSAGE_CHARS = 2_000
MAX_TRACEBACK_CHARS = 8_000
MAX_NAME_CHARS = 255
MAX_LINEAGE = 32  # classes: deeper trees exist only to hurt
HEAD_SHARE = 4  # a cut traceback keeps a quarter from its head: the way in; the rest is its tail: what went wrong

_RUNTIME_FOLDER = str(Path(__file__).parent.parent)


class FailedElsewhere(TaskError):
    """What middleware sees where the function ran in a process: its exception stayed there, `result` tells of it."""

    def __init__(self, result: Result) -> None:
        described = f"{result.failure.type}: {result.failure.message}" if isinstance(result, Raised) else repr(result)
        super().__init__(described)
        self.result = result


def error_of(result: Result) -> Exception:
    """What to raise for `result` where its exception is not at hand; `result_of` of it is `result` again."""
    match result:
        case Snoozed(seconds=seconds):
            return Snooze(seconds)
        case Rejected(text=text):
            return Reject(text)
        case Discarded(text=text):
            return Discard(text)
        case _:
            return FailedElsewhere(result)


def result_of(error: BaseException) -> Result:
    """What a function that raised `error` has to be settled by. Never raises."""
    try:
        return _result_of(error)
    except BaseException as second:  # out of memory, out of stack, or an exception class that fights back
        return Raised(Failure(_class_name(error), f"it could not be described: {_class_name(second)}"))


def _result_of(error: BaseException) -> Result:
    if isinstance(error, FailedElsewhere):
        return error.result
    if isinstance(error, Snooze):
        return Snoozed(float(error.seconds))
    if isinstance(error, Reject):
        return Rejected(text_of(error.reason, MAX_MESSAGE_CHARS))
    if isinstance(error, Discard):
        return Discarded(text_of(error.reason, MAX_MESSAGE_CHARS))
    asked = isinstance(error, Retry)
    after = error.after_seconds if isinstance(error, Retry) else None
    lineage = tuple(_name(cls) for cls in type(error).__mro__[:MAX_LINEAGE])
    failure = Failure(
        type=lineage[0].removeprefix("builtins."),
        message=text_of(error, MAX_MESSAGE_CHARS),
        traceback=_traceback(error),
        lineage=lineage,
        asked=asked,
    )
    return Raised(failure, None if after is None else float(after))


def _name(cls: type) -> str:
    # A child process imports the main script as __mp_main__; policies are compared in the parent, where it is __main__.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return text_of(f"{module}.{cls.__qualname__}", MAX_NAME_CHARS)


def text_of(value: object, limit: int) -> str:
    """`str(value)` cut to `limit` (1 or more) characters of valid UTF-8. Never raises, whatever `value` does."""
    try:
        # An exception's __str__ is user code, and so are the methods of the subclass of str that it may return.
        text = str.__getitem__(str(value), slice(limit + 1))
    except BaseException as error:
        text = f"<{_class_name(value)}, whose text could not be made: {_class_name(error)}>"
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return _valid(text, limit)


def _class_name(value: object) -> str:
    """The name of its class, past a metaclass that has a `__name__` of its own."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name


def _valid(text: str, limit: int) -> str:
    # Lone surrogates can be raised, but cannot be stored or sent. Escaping lengthens, so it is cut again.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()[:limit]


def _traceback(error: BaseException) -> str:
    """The traceback's text from the user's first frame on."""
    described = traceback.TracebackException(
        type(error), error, _users_frames(error.__traceback__), compact=True, max_group_width=8, max_group_depth=4
    )
    text = "".join(described.format())
    if len(text) > MAX_TRACEBACK_CHARS:
        head = MAX_TRACEBACK_CHARS // HEAD_SHARE
        cut = f"\n… {len(text) - MAX_TRACEBACK_CHARS} characters cut …\n"
        text = text[:head] + cut + text[head + len(cut) - MAX_TRACEBACK_CHARS :]
    return _valid(text, MAX_TRACEBACK_CHARS)


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """Skip the frames of this package that lead to the user's code; all of them are kept if there is nothing else."""
    tb = frames
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_RUNTIME_FOLDER):
        tb = tb.tb_next
    return tb or frames
