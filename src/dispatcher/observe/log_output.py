"""How log lines look, and where they go when a worker process was told nothing about logging.

`ConsoleFormatter` writes for people, `JsonFormatter` one JSON object a line for programs; both may be used on any
handler. `configure_logging` is for the processes of `dispatcher worker` only. Its rule:

* Who configured logging keeps it. If the root logger has a handler (the application module was imported before),
  nothing is added, removed or replaced; Dispatcher's records reach that handler like anybody's.
* Otherwise one stand-in handler is added to the root logger. It steps aside line by line: what any handler of the
  user's takes, it does not show, so configuring logging later works as well.
* The root logger's level is touched only where it is still Python's default (WARNING, no handler), so that the INFO
  lines of tasks come through. Below WARNING the stand-in shows Dispatcher's lines and those logged inside a task.
* A level that the user gave the logger `dispatcher` stays.

A program that runs Dispatcher itself (`app.run_worker()`) is never configured from here.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec

from ..errors import ConfigError
from .logs import TaskContextFilter
from .text import LOGGER_NAME, clean

__all__ = ["ConsoleFormatter", "JsonFormatter", "LogFormat", "LogSetup", "configure_logging", "stand_in_setup"]

LogFormat = Literal["console", "json"]

_INDENT = "    "

_COLORS = {"DEBUG": "\x1b[2m", "INFO": "\x1b[32m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
_PLAIN = "\x1b[0m"


class ConsoleFormatter(logging.Formatter):
    """`2026-10-03 14:05:09.123 INFO     task.retried uuid=…`, local time; a task's own lines name it before the text.

    What follows a line end is indented, tracebacks too, so that no text can pass for a line of its own.
    `color`: whether the level is coloured.
    """

    def __init__(self, *, color: bool = False) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        level = f"{record.levelname:<8}"
        if self._color:
            level = f"{_COLORS.get(record.levelname, '')}{level}{_PLAIN}"
        event = getattr(record, "dispatcher_event", None)
        source = "" if event is not None else f"{_own_task(record)}{clean(record.name)}: "
        blocks = [clean(record.getMessage(), max_bytes=None, block=True), *_tracebacks(self, record)]
        text = "\n".join(block.rstrip("\n") for block in blocks)
        return f"{moment} {level} {source}{_indented(text)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts` (RFC 3339, UTC), `level`, `logger`, `message`, and where they exist `event` and
    `fields` (Dispatcher's own), `uuid` and `task` (of the task whose own line it is), `traceback`.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": clean(record.name),
        }
        event = getattr(record, "dispatcher_event", None)
        if event is not None:
            line["event"] = event
        elif record.__dict__.get("task_uuid"):
            line["uuid"] = record.__dict__["task_uuid"]
            line["task"] = record.__dict__.get("task_name", "")
        line["message"] = clean(record.getMessage(), max_bytes=None, block=True)
        fields = getattr(record, "dispatcher_fields", None)
        if fields is not None:
            line["fields"] = fields
        tracebacks = [] if event is not None else _tracebacks(self, record)
        if tracebacks:
            line["traceback"] = "\n".join(tracebacks)
        return msgspec.json.encode(line).decode()


def _own_task(record: logging.LogRecord) -> str:
    uuid = record.__dict__.get("task_uuid", "")
    return f"[{record.__dict__.get('task_name', '')} {uuid}] " if uuid else ""


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + _INDENT)


def _tracebacks(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """What belongs below a record's message: an event's traceback, an exception, a stack."""
    fields = getattr(record, "dispatcher_fields", None) or {}
    texts = [fields.get("traceback") or ""]
    if record.exc_info:
        texts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        texts.append(record.exc_text)
    if record.stack_info:
        texts.append(record.stack_info)
    return [clean(text, max_bytes=None, block=True) for text in texts if text]


class LogSetup(msgspec.Struct, frozen=True):
    """What `configure_logging` was told, in a form that goes to a child process: `level` is `logging`'s number."""

    level: int
    format: LogFormat
    color: bool


class _StandIn(logging.StreamHandler[TextIO]):
    """The handler of a process whose user configured none."""

    def __init__(self, stream: TextIO, setup: LogSetup) -> None:
        super().__init__(stream)
        self.setup = setup
        self.setFormatter(JsonFormatter() if setup.format == "json" else ConsoleFormatter(color=setup.color))
        self.addFilter(TaskContextFilter())
        self.addFilter(_StandInFilter())


class _StandInFilter(logging.Filter):
    """Leaves out what another handler takes, and keeps the chatter of libraries out.

    Below WARNING only Dispatcher's lines and those logged inside a task are shown.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if _taken(record.name):
            return False
        if record.levelno >= logging.WARNING or record.__dict__.get("task_uuid"):
            return True
        return record.name == LOGGER_NAME or record.name.startswith(LOGGER_NAME + ".")


def _taken(name: str) -> bool:
    """Whether a handler of the user's gets the records of the logger `name`."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, _StandIn | logging.NullHandler) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def configure_logging(
    level: str | int = "info",
    *,
    format: LogFormat = "console",
    stream: TextIO | None = None,
    color: bool = False,
) -> bool:
    """Make log lines visible in a worker process, by the rule at the head of this module.

    To be called after the application was imported; calling it again replaces the stand-in. `level`: a name or a
    number of `logging`. `stream`: None is standard error. Returns whether the stand-in is in place: False means that
    the user's own logging stays and `format`, `stream` and `color` have no effect. Raises `ConfigError`.
    """
    number = _level_number(level)
    if format not in ("console", "json"):
        raise ConfigError(f"log format: expected 'console' or 'json', got {format!r}")
    ours, root, before = logging.getLogger(LOGGER_NAME), logging.getLogger(), _stand_in()
    if ours.level == (logging.NOTSET if before is None else before.setup.level):
        ours.setLevel(number)
    if any(handler is not before for handler in root.handlers):
        return False
    if root.level == (logging.WARNING if before is None else before.setup.level):
        root.setLevel(number)
    root.addHandler(_StandIn(sys.stderr if stream is None else stream, LogSetup(number, format, color)))
    if before is not None:
        root.removeHandler(before)
    return True


def stand_in_setup() -> LogSetup | None:
    """What to configure a child process with, so that it logs like this one; None where the user's logging is in place."""
    stand_in = _stand_in()
    return None if stand_in is None else stand_in.setup


def _stand_in() -> _StandIn | None:
    return next((handler for handler in logging.getLogger().handlers if isinstance(handler, _StandIn)), None)


def _level_number(level: str | int) -> int:
    if isinstance(level, str):
        number = logging.getLevelNamesMapping().get(level.upper())
        if number is None:
            raise ConfigError(f"log level: expected debug, info, warning, error or critical, got {level!r}")
        return number
    if isinstance(level, bool) or not isinstance(level, int) or level < 0:
        raise ConfigError(f"log level: expected a name or a number of zero or more, got {level!r}")
    return level
