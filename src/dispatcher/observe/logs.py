"""Events as log records, and task names on a task's own log lines: what Dispatcher says through `logging`.

Every event becomes one record of the logger `dispatcher` (or one call of a user's `Log`). Text that came in a message
(names, uuids, errors) is shown escaped and cut: nothing a sender wrote can forge a line or drive a terminal.
How records look, and where they go when nobody configured logging, is `observe.log_output`'s business.

Nothing here adds a handler, and a broken one never reaches the worker.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any, Protocol

from .context import CURRENT_TASK
from .hooks import AnyEvent
from .text import LOGGER_NAME, MAX_TEXT_BYTES, clean

__all__ = ["Log", "LogObserver", "TaskContextFilter", "default_log"]

_BARE = re.compile(r"[^\s\"=\\]+")  # a value that reads unambiguously without quotes


class Log(Protocol):
    """What may be given as `logger` instead of a `logging.Logger`.

    Messages come with `%` placeholders and their arguments. A method `warning` is used where there is one; without
    it warnings go to `error`.
    """

    def debug(self, message: str, /, *args: object) -> object: ...
    def info(self, message: str, /, *args: object) -> object: ...
    def error(self, message: str, /, *args: object) -> object: ...


def default_log(*, debug: bool = False) -> logging.Logger:
    """The logger `dispatcher`; `debug` sets its level to DEBUG, else its level is not touched."""
    logger = logging.getLogger(LOGGER_NAME)
    if debug:
        logger.setLevel(logging.DEBUG)
    return logger


class LogObserver:
    """The observer that logs: one record an event, at the event's level.

    The record's message is the event's name and its fields (`task.retried uuid=… task=… delay_seconds=4`), its
    attributes `dispatcher_event` and `dispatcher_fields` hold them apart; the traceback of a failure is among the
    fields only. None takes the logger `dispatcher`.
    """

    __slots__ = ("_broken", "_calls", "_logger")

    def __init__(self, logger: logging.Logger | Log | None = None) -> None:
        if logger is None:
            logger = default_log()
        self._logger = logger if isinstance(logger, logging.Logger) else None
        self._calls = {} if isinstance(logger, logging.Logger) else _calls_by_level(logger)
        self._broken = False

    @property
    def wants_debug(self) -> bool:
        """Whether events of level DEBUG are shown anywhere; a `Log` cannot be asked, so it gets them."""
        return self._logger is None or self._logger.isEnabledFor(logging.DEBUG)

    def on_event(self, event: AnyEvent) -> None:
        try:
            if self._logger is not None:
                if self._logger.isEnabledFor(event.level):
                    self._record(self._logger, event)
            else:
                _, text = _describe(event)
                self._calls[_floor(event.level)]("%s%s", event.name, text)
        except Exception as error:
            # A handler of the user's raised. A task's fate must not depend on that, and there is no log to say it in.
            if not self._broken:
                self._broken = True
                sys.stderr.write(f"dispatcher: the logger raised {type(error).__name__}: {clean(str(error))}\n")

    def _record(self, logger: logging.Logger, event: AnyEvent) -> None:
        fields, text = _describe(event)
        # The name is part of the template: tools that group records by it get one group an event.
        logger.log(
            event.level,
            event.name + "%s",
            text,
            extra={"dispatcher_event": event.name, "dispatcher_fields": fields},
        )


def _describe(event: AnyEvent) -> tuple[dict[str, Any], str]:
    """An event's fields, cleaned, and the same as ` name=value` text without the traceback."""
    fields: dict[str, Any] = {}
    text = ""
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name == "traceback":
            fields[name] = clean(value, max_bytes=8 * MAX_TEXT_BYTES, block=True)
            continue
        fields[name] = clean(value) if isinstance(value, str) else value
        text += f" {name}={_show(value)}"
    return fields, text


def _show(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6g}"
        case str():
            if len(value) <= MAX_TEXT_BYTES and _BARE.fullmatch(value) and clean(value) == value:
                return value
            return '"' + clean(value.replace("\\", "\\\\").replace('"', '\\"')) + '"'
        case _:
            return str(value)


def _floor(level: int) -> int:
    """The highest of the levels that a `Log` has methods for, at or below `level`."""
    if level >= logging.ERROR:
        return logging.ERROR
    if level >= logging.WARNING:
        return logging.WARNING
    return logging.INFO if level >= logging.INFO else logging.DEBUG


def _calls_by_level(log: Log) -> dict[int, Callable[..., object]]:
    warning = getattr(log, "warning", None)
    return {
        logging.DEBUG: log.debug,
        logging.INFO: log.info,
        logging.WARNING: warning if callable(warning) else log.error,
        logging.ERROR: log.error,
    }


class TaskContextFilter(logging.Filter):
    """Gives every record `task_uuid` and `task_name`: those of the task it was logged in, empty outside of tasks.

    Add it to a handler of your own, then `%(task_uuid)s` works in its format. It reads a context variable, so it
    belongs where the line is logged: with a `QueueHandler`, to that one, not to the listener's handlers.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        task = CURRENT_TASK.get()
        record.task_uuid = clean(task.uuid) if task is not None else ""
        record.task_name = clean(task.name) if task is not None else ""
        return True
