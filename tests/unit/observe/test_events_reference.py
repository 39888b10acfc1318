"""`docs/reference/events.md` is equal to the code: every event, its level, its fields, and when it comes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dispatcher.brokers import base
from dispatcher.brokers.base import BrokerEvent
from dispatcher.observe import events
from dispatcher.observe.hooks import AnyEvent
from dispatcher.ops import notices

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "events.md"

BROKER_EVENTS = [
    value
    for value in (getattr(base, name) for name in base.__all__)
    if isinstance(value, type) and issubclass(value, BrokerEvent) and value is not BrokerEvent
]
OPS_EVENTS: list[type[events.Event]] = [getattr(notices, name) for name in notices.__all__]
EVERY_EVENT: list[type[AnyEvent]] = [*events.ALL_EVENTS, *BROKER_EVENTS, *OPS_EVENTS]


def row(event: type[AnyEvent]) -> str:
    """An event's line of the page, as the code has it."""
    level = logging.getLevelName(event.level).lower()
    fields = ", ".join(f"`{field}`" for field in event.__struct_fields__) or "none"
    when = " ".join((event.__doc__ or "").split())
    return f"| `{event.name}` | `{event.__name__}` | {level} | {fields} | {when} |"


def test_the_page_is_equal_to_the_code() -> None:
    """The rows of the page's tables are those of the events, no more and no fewer."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = [row(event) for event in EVERY_EVENT]
    assert sorted(rows) == sorted(expected), "\n".join(["docs/reference/events.md should say:", *expected])


def test_all_events_are_listed() -> None:
    """`ALL_EVENTS` has every event that the module exports, and names are told apart."""
    bases = {events.Event, events.TaskEvent, events.WorkerEvent}
    exported = {value for value in (getattr(events, name) for name in events.__all__) if isinstance(value, type)}
    assert exported - bases == set(events.ALL_EVENTS)
    names = [event.name for event in EVERY_EVENT]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("event", EVERY_EVENT)
def test_an_event_has_no_arguments_of_a_task(event: type[AnyEvent]) -> None:
    """No event has a field that could carry a task's arguments or body."""
    assert not {"args", "arguments", "kwargs", "body", "message", "headers"} & set(event.__struct_fields__)
