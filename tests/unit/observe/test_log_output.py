"""How log lines look, and that logging is only configured where its user left it alone."""

from __future__ import annotations

import inspect
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec

import pytest

from dispatcher.errors import ConfigError
from dispatcher.observe.context import CURRENT_TASK, CurrentTask
from dispatcher.observe.events import TaskFailed, TaskRetried
from dispatcher.observe.log_output import ConsoleFormatter, JsonFormatter, LogSetup, configure_logging, stand_in_setup
from dispatcher.observe.logs import LogObserver, TaskContextFilter

RETRIED = TaskRetried("u-1", "send_email", "emails", 2, 4.0)
FAILED = TaskFailed("u-1", "t", "q", 1, 0.25, "ValueError", "no", "Traceback\n  File x\nValueError: no\n")
MINE = "tests.log_output.mine"


@contextmanager
def unconfigured() -> Iterator[logging.Logger]:
    """The root logger as Python makes it; everything is put back at the end.

    Not a fixture: pytest puts its own handlers on the root logger after the fixtures and before the test.
    """
    loggers = [logging.getLogger(), logging.getLogger("dispatcher"), logging.getLogger(MINE)]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET)
    loggers[0].setLevel(logging.WARNING)
    try:
        yield loggers[0]
    finally:
        for logger, level, handlers in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)


P = ParamSpec("P")


def untouched(test: Callable[Concatenate[logging.Logger, P], None]) -> Callable[P, None]:
    """Runs a test with the unconfigured root logger as its first argument."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with unconfigured() as root:
            test(root, *args, **kwargs)

    parameters = list(inspect.signature(test).parameters.values())[1:]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


@pytest.fixture
def in_task() -> Iterator[None]:
    token = CURRENT_TASK.set(CurrentTask("u-9", "resize", 1, False, {}, "images"))
    yield
    CURRENT_TASK.reset(token)


def formatted(formatter: logging.Formatter, write: object, *args: object) -> str:
    """What `formatter` makes of what `write` logs to the logger that it is given."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(TaskContextFilter())
    logger = logging.Logger("mine")
    logger.addHandler(handler)
    write(logger)  # type: ignore[operator]
    return stream.getvalue()


def test_console_shows_an_event_on_one_line() -> None:
    """An event reads time, level, name, fields."""
    text = formatted(ConsoleFormatter(), lambda logger: LogObserver(logger).on_event(RETRIED))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO     "
        r"task\.retried uuid=u-1 task=send_email queue=emails attempt=2 delay_seconds=4\n",
        text,
    )


def test_console_indents_what_follows() -> None:
    """A traceback stands indented below its event, an exception below its message: no text begins a line of its own."""
    text = formatted(ConsoleFormatter(), lambda logger: LogObserver(logger).on_event(FAILED))
    assert text.splitlines()[1:] == ["    Traceback", "      File x", "    ValueError: no"]

    def write(logger: logging.Logger) -> None:
        try:
            raise ValueError("bad\n2026-01-01 00:00:00.000 INFO forged")
        except ValueError:
            logger.exception("it\nfailed\x1b[0m")

    first, *rest = formatted(ConsoleFormatter(), write).splitlines()
    assert first.endswith("ERROR    mine: it")
    assert rest[0] == "    failed\\x1b[0m"
    assert all(line.startswith("    ") for line in rest)


def test_colour_only_when_told() -> None:
    """The level is coloured when asked for, else the line has no escape sequence at all."""

    def write(logger: logging.Logger) -> None:
        logger.error("x")

    assert "\x1b[31mERROR" in formatted(ConsoleFormatter(color=True), write)
    assert "\x1b" not in formatted(ConsoleFormatter(), write)


@pytest.mark.usefixtures("in_task")
def test_a_tasks_line_names_it() -> None:
    """A line logged inside a task shows its name and uuid, on the console and in JSON."""

    def write(logger: logging.Logger) -> None:
        logger.info("half %s", "way")

    assert formatted(ConsoleFormatter(), write).endswith("INFO     [resize u-9] mine: half way\n")
    line = json.loads(formatted(JsonFormatter(), write))
    assert (line["task"], line["uuid"], line["message"]) == ("resize", "u-9", "half way")
    assert "event" not in line


@pytest.mark.usefixtures("in_task")
def test_json_is_one_object_a_line() -> None:
    """JSON lines have the event, its fields and a UTC time; an event is not mistaken for a line of the running task."""
    text = formatted(JsonFormatter(), lambda logger: LogObserver(logger).on_event(FAILED))
    assert text.count("\n") == 1
    line = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert (line["event"], line["level"], line["logger"]) == ("task.failed", "warning", "mine")
    assert line["fields"]["traceback"] == FAILED.traceback
    assert line["fields"]["uuid"] == "u-1"
    assert "uuid" not in line
    assert "traceback" not in line


def test_json_takes_any_text() -> None:
    """Exceptions are in `traceback`; controls and lone surrogates never break a line or its encoding."""

    def write(logger: logging.Logger) -> None:
        try:
            raise ValueError("\ud800")
        except ValueError:
            logger.exception("bad \x9b \ud800")

    line = json.loads(formatted(JsonFormatter(), write))
    assert line["message"] == "bad \\x9b \\ud800"
    assert line["traceback"].endswith("ValueError: \\ud800")


@untouched
def test_unconfigured_shows_events_and_tasks(root: logging.Logger) -> None:
    """With no logging configured, Dispatcher's lines, a task's own and anybody's warnings show, chatter doesn't."""
    stream = io.StringIO()
    assert configure_logging("info", stream=stream)
    LogObserver().on_event(RETRIED)
    mine = logging.getLogger(MINE)
    mine.info("chatter")
    mine.warning("problem")
    token = CURRENT_TASK.set(CurrentTask("u-9", "resize", 1, False, {}, "images"))
    mine.info("at work")
    mine.debug("below the level")
    CURRENT_TASK.reset(token)
    shown = [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]
    assert shown == [
        "INFO     task.retried uuid=u-1 task=send_email queue=emails attempt=2 delay_seconds=4",
        f"WARNING  {MINE}: problem",
        f"INFO     [resize u-9] {MINE}: at work",
    ]


@untouched
def test_a_users_configuration_stays(root: logging.Logger) -> None:
    """Where the root logger has a handler, nothing is added or changed, and Dispatcher's records reach that handler."""
    theirs = io.StringIO()
    handler = logging.StreamHandler(theirs)
    root.addHandler(handler)
    root.setLevel(logging.ERROR)
    ours = io.StringIO()
    assert not configure_logging("debug", stream=ours)
    assert root.handlers == [handler]
    assert root.level == logging.ERROR
    LogObserver().on_event(RETRIED)
    assert theirs.getvalue().startswith("task.retried ")
    assert ours.getvalue() == ""


@untouched
def test_a_root_level_the_user_set_stays(root: logging.Logger) -> None:
    """A root level other than Python's own default is the user's."""
    root.setLevel(logging.ERROR)
    configure_logging("info", stream=io.StringIO())
    assert root.level == logging.ERROR


@untouched
def test_a_level_of_the_logger_dispatcher_stays(root: logging.Logger) -> None:
    """A level that the user gave the logger `dispatcher` is not overwritten."""
    logging.getLogger("dispatcher").setLevel(logging.ERROR)
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    LogObserver().on_event(RETRIED)
    assert stream.getvalue() == ""


@untouched
def test_the_stand_in_steps_aside(root: logging.Logger) -> None:
    """What a handler of the user's takes is not shown twice, whenever it was added; a NullHandler takes nothing."""
    ours, theirs = io.StringIO(), io.StringIO()
    configure_logging("info", stream=ours)
    mine = logging.getLogger(MINE)
    mine.addHandler(logging.NullHandler())
    mine.warning("first")
    mine.addHandler(logging.StreamHandler(theirs))
    mine.warning("second")
    assert ours.getvalue().endswith(f"{MINE}: first\n")
    assert theirs.getvalue() == "second\n"
    late = io.StringIO()
    root.addHandler(logging.StreamHandler(late))
    LogObserver().on_event(RETRIED)
    assert late.getvalue().startswith("task.retried")
    assert "task.retried" not in ours.getvalue()


@untouched
def test_configuring_again_replaces_the_stand_in(root: logging.Logger) -> None:
    """The second call counts, and there is still one handler."""
    configure_logging("error", stream=io.StringIO())
    stream = io.StringIO()
    assert configure_logging("info", format="json", stream=stream)
    LogObserver().on_event(RETRIED)
    assert len(root.handlers) == 1
    assert json.loads(stream.getvalue())["event"] == "task.retried"


@untouched
def test_standard_error_is_the_default(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a stream the lines go to standard error, so that standard output stays the program's."""
    configure_logging("warning")
    logging.getLogger(MINE).warning("x")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(f"{MINE}: x\n")
    assert sys.stderr is not None


@pytest.mark.parametrize(
    ("level", "format", "message"),
    [
        ("loud", "console", "log level: expected debug, info, warning, error or critical, got 'loud'"),
        (-1, "console", "log level: expected a name or a number"),
        (True, "console", "log level: expected a name or a number"),
        ("info", "xml", "log format: expected 'console' or 'json', got 'xml'"),
    ],
)
@untouched
def test_a_wrong_setting_is_an_error(root: logging.Logger, level: str | int, format: str, message: str) -> None:
    """A wrong level or format says what was expected, and changes nothing."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        configure_logging(level, format=format)  # type: ignore[arg-type]
    assert root.handlers == []


@untouched
def test_a_child_process_can_be_told(root: logging.Logger) -> None:
    """The setup in place can be handed on; there is none where the user's logging is in place."""
    assert stand_in_setup() is None
    configure_logging("debug", format="json", stream=io.StringIO(), color=True)
    assert stand_in_setup() == LogSetup(logging.DEBUG, "json", True)
    root.handlers[:] = [logging.StreamHandler(io.StringIO())]
    assert not configure_logging("debug")
    assert stand_in_setup() is None
