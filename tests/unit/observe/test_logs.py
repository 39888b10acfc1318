"""Events as log records: what is in them, what cannot be in them, and that logging never harms a task."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.brokers.base import Unblocked
from dispatcher.observe.context import CURRENT_TASK, CurrentTask
from dispatcher.observe.events import (
    DeadLettered,
    TaskDiscarded,
    TaskFailed,
    TaskRetried,
    TaskStarted,
    WorkerFull,
    WorkerStarted,
)
from dispatcher.observe.hooks import EventHub
from dispatcher.observe.logs import LogObserver, TaskContextFilter
from dispatcher.observe.text import clean

RETRIED = TaskRetried("u-1", "send_email", "emails", 2, 4.0)
FAILED = TaskFailed("u-1", "send_email", "emails", 1, 0.25, "ValueError", "no\nsuch address", "Traceback\n  line 1\n")


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, list[logging.LogRecord]]]:
    """A logger outside of the process's tree of loggers, and the records that it got."""
    logger = logging.Logger("dispatcher")
    records = Records()
    logger.addHandler(records)
    yield logger, records.seen


class Recorder:
    """A user's `Log` without `warning`."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def debug(self, message: str, *args: object) -> None:
        self.lines.append(("debug", message % args))

    def info(self, message: str, *args: object) -> None:
        self.lines.append(("info", message % args))

    def error(self, message: str, *args: object) -> None:
        self.lines.append(("error", message % args))


class RecorderWithWarning(Recorder):
    def warning(self, message: str, *args: object) -> None:
        self.lines.append(("warning", message % args))


def test_an_event_is_one_record(logger: Any) -> None:
    """An event becomes one record of its level: readable as text, and in parts for programs."""
    log, records = logger
    LogObserver(log).on_event(RETRIED)
    (record,) = records
    assert record.levelno == logging.INFO
    assert record.getMessage() == "task.retried uuid=u-1 task=send_email queue=emails attempt=2 delay_seconds=4"
    assert record.dispatcher_event == "task.retried"
    assert record.dispatcher_fields == {
        "uuid": "u-1",
        "task": "send_email",
        "queue": "emails",
        "attempt": 2,
        "delay_seconds": 4.0,
    }


def test_an_event_without_fields_is_its_name(logger: Any) -> None:
    """An event of a connection without fields is logged by its name alone."""
    log, records = logger
    LogObserver(log).on_event(Unblocked())
    assert [record.getMessage() for record in records] == ["broker.unblocked"]


def test_a_traceback_is_no_part_of_the_message(logger: Any) -> None:
    """A failure's message is one line; its traceback is a field with its line ends kept."""
    log, records = logger
    LogObserver(log).on_event(FAILED)
    (record,) = records
    assert "\n" not in record.getMessage()
    assert 'error="no\\nsuch address"' in record.getMessage()
    assert "Traceback" not in record.getMessage()
    assert record.dispatcher_fields["traceback"] == "Traceback\n  line 1\n"


def test_a_level_that_is_off_builds_nothing() -> None:
    """Where the level is off no field of the event is even looked at."""
    reads: list[str] = []

    class Watched:
        name, level = "task.started", logging.DEBUG

        @property
        def __struct_fields__(self) -> tuple[str, ...]:
            reads.append("fields")
            return ()

    for level, debug in ((logging.INFO, False), (logging.DEBUG, True)):
        observer = LogObserver(logging.Logger("dispatcher", level))
        assert observer.wants_debug is debug
        observer.on_event(Watched())  # type: ignore[arg-type]
        assert bool(reads) is debug


def test_the_default_logger_is_dispatcher(caplog: pytest.LogCaptureFixture) -> None:
    """Without a logger the events go to the logger named `dispatcher`."""
    with caplog.at_level(logging.INFO, logger="dispatcher"):
        LogObserver().on_event(RETRIED)
    assert [record.name for record in caplog.records] == ["dispatcher"]


@pytest.mark.parametrize(
    ("recorder", "levels"),
    [
        (Recorder(), ["debug", "info", "error", "error", "error"]),
        (RecorderWithWarning(), ["debug", "info", "warning", "error", "error"]),
    ],
)
def test_a_users_log_gets_each_event(recorder: Recorder, levels: list[str]) -> None:
    """A `Log` gets each event at its level; a warning goes to `error` where there is no `warning`."""
    observer = LogObserver(recorder)
    assert observer.wants_debug
    for event in (
        TaskStarted("u", "t", "q", 1, False),
        WorkerStarted("w", "q", 1, 1, 1),
        FAILED,
        DeadLettered("u", "t", "q", 1, "failed", "text"),
        WorkerFull("w", "q", 3),
    ):
        observer.on_event(event)
    assert [level for level, _ in recorder.lines] == levels
    assert recorder.lines[0][1] == "task.started uuid=u task=t queue=q attempt=1 redelivered=false"


def test_a_percent_sign_in_a_value_is_text() -> None:
    """A value with a format directive in it is shown as it is."""
    recorder = Recorder()
    LogObserver(recorder).on_event(TaskDiscarded("u", "t", "q", 1, "100%s %d"))
    assert recorder.lines[0][1].endswith('text="100%s %d"')


def test_a_log_that_raises_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception of the user's logger reaches nobody, and is said once on standard error."""

    class Broken(Recorder):
        def info(self, message: str, *args: object) -> None:
            raise OSError("disk\x1b[31m full")

    hub = EventHub(LogObserver(Broken()))
    hub.emit(RETRIED)
    hub.emit(RETRIED)
    assert capsys.readouterr().err == "dispatcher: the logger raised OSError: disk\\x1b[31m full\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("a b", '"a b"'),
        ('x" uuid="y', '"x\\" uuid=\\"y"'),
        ('x\\" uuid=y', '"x\\\\\\" uuid=y"'),
        ("a=b", '"a=b"'),
        ("\x1b[2J", '"\\x1b[2J"'),
        ("\x9b2J", '"\\x9b2J"'),
        ("line\r\nforged", '"line\\r\\nforged"'),
        ("\u202egpj.exe", '"\\u202egpj.exe"'),
        ("\ud800", '"\\ud800"'),
        ("größe", "größe"),
    ],
)
def test_a_value_cannot_leave_its_quotes(logger: Any, value: str, shown: str) -> None:
    """Whatever a sender wrote, a value stays one value on one line."""
    log, records = logger
    LogObserver(log).on_event(TaskDiscarded("u", "t", "q", 1, value))
    assert records[0].getMessage() == f"task.discarded uuid=u task=t queue=q attempt=1 text={shown}"


@given(st.text(st.characters()), st.integers(1, 64), st.booleans())
def test_clean_text_is_printable_and_bounded(text: str, size: int, block: bool) -> None:
    """Cleaned text has no control characters, can be encoded, and is no longer than asked for."""
    cleaned = clean(text, max_bytes=size, block=block)
    assert len(cleaned.encode()) <= size + len("…".encode())
    assert not [c for c in cleaned if (ord(c) < 32 or 127 <= ord(c) < 160) and not (block and c in "\t\n")]
    if len(cleaned.encode()) < size:
        assert clean(cleaned, max_bytes=None, block=block) == cleaned


def test_long_text_is_cut(logger: Any) -> None:
    """A long error is cut at 2 KiB of UTF-8, in the message and in the fields."""
    log, records = logger
    LogObserver(log).on_event(DeadLettered("u", "t", "q", 1, "rejected", "é" * 5_000))
    assert records[0].dispatcher_fields["text"] == "é" * 1024 + "…"
    assert len(records[0].getMessage().encode()) < 2_200


def test_a_tasks_own_lines_carry_its_uuid_and_name() -> None:
    """A record logged inside a task names it, escaped; one logged outside has both attributes empty."""
    logger = logging.Logger("mine")
    records = Records()
    records.addFilter(TaskContextFilter())
    logger.addHandler(records)
    token = CURRENT_TASK.set(CurrentTask("u\x1b-1", "send_email", 1, False, {}, "emails"))
    try:
        logger.info("inside")
    finally:
        CURRENT_TASK.reset(token)
    logger.info("outside")
    inside, outside = (record.__dict__ for record in records.seen)
    assert (inside["task_uuid"], inside["task_name"]) == ("u\\x1b-1", "send_email")
    assert (outside["task_uuid"], outside["task_name"]) == ("", "")
