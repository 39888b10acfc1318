from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from dispatcher.errors import ArgumentError
from dispatcher.model.task import MAX_DELAY_SECONDS, Task, TaskArgument, check_task_name, new_uuid

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_a_new_uuid_is_a_random_version_4_uuid() -> None:
    """The text has the form of RFC 9562, and no two of many are equal."""
    uuids = {new_uuid() for _ in range(10_000)}
    assert len(uuids) == 10_000
    assert all(UUID4.fullmatch(uuid) for uuid in uuids)


def test_a_task_without_a_uuid_gets_one() -> None:
    """Two tasks of the same words are two tasks; `id` is the uuid, never None."""
    one, two = Task("n"), Task("n")
    assert one.uuid != two.uuid
    assert one.id == one.uuid
    assert UUID4.fullmatch(one.id)
    assert Task("n", uuid="order-17").id == "order-17"


def test_a_task_is_frozen_and_keeps_no_hold_on_what_it_was_made_from() -> None:
    """Changing the list or the headers afterwards does not change the task, nor can its fields be set."""
    args, headers = [TaskArgument("int", 1)], {"k": "v"}
    task = Task("n", args, headers=headers)
    args.clear()
    headers.clear()
    assert task.args == (TaskArgument("int", 1),)
    assert task.headers == {"k": "v"}
    with pytest.raises(AttributeError):
        task.name = "m"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["n", "app.tasks:send_email", "a-b_c.D:9", "n" * 200])
def test_names_that_can_be_names(name: str) -> None:
    """Letters, digits and _ . : - up to 200."""
    assert check_task_name(name) == name
    assert Task(name).name == name


@pytest.mark.parametrize("name", ["", "a b", "n\n", "ü", "n" * 201, "a/b", None, 1, b"n"])
def test_names_that_cannot_be_names(name: Any) -> None:
    """Everything else is refused where the task is made."""
    with pytest.raises(ArgumentError, match="task name"):
        Task(name)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"uuid": ""}, "uuid"),
        ({"uuid": 7}, "uuid"),
        ({"uuid": "u" * 256}, "at most 255 bytes.*got 256"),
        ({"uuid": "ü" * 128}, "got 256"),
        ({"uuid": "\ud800"}, "UTF-8"),
        ({"args": "text"}, "list of TaskArgument"),
        ({"args": [1]}, r"TaskArgument\(type, value\), got 1"),
        ({"args": {"a": 1}}, "list of TaskArgument"),
        ({"routing_key": ""}, "routing_key"),
        ({"routing_key": "k" * 256}, "routing_key"),
        ({"headers": [("a", 1)]}, "mapping"),
        ({"headers": {1: 2}}, "names"),
        ({"headers": {"": 2}}, "names"),
        ({"headers": {"x-dispatcher-attempt": 2}}, "Dispatcher's own"),
        ({"headers": {"CC": ["another_queue"]}}, "another name"),
        ({"headers": {"BCC": "x"}}, "another name"),
        ({"headers": {"x-death": []}}, "another name"),
        ({"priority": 10}, "0 to 9"),
        ({"priority": -1}, "0 to 9"),
        ({"priority": True}, "0 to 9"),
        ({"priority": 1.0}, "0 to 9"),
        ({"expires_seconds": -1}, "expires_seconds"),
        ({"expires_seconds": float("nan")}, "expires_seconds"),
        ({"delay_seconds": "5"}, "delay_seconds"),
        ({"delay_seconds": True}, "delay_seconds"),
        ({"delay_seconds": MAX_DELAY_SECONDS + 1}, "ten years"),
        ({"eta": 5.0}, "datetime"),
        ({"eta": datetime(2030, 1, 1)}, "naive"),
        ({"eta": datetime(2030, 1, 1, tzinfo=UTC), "delay_seconds": 1}, "got both"),
    ],
)
def test_a_task_out_of_bounds_is_refused(fields: dict[str, Any], why: str) -> None:
    """Each field says what it expected and what came."""
    with pytest.raises(ArgumentError, match=why):
        Task("n", **fields)


def test_the_bounds_themselves_are_inside() -> None:
    """Zero, the longest delay, both ends of the priorities, a uuid of 255 bytes, any time zone."""
    for fields in (
        {"delay_seconds": 0},
        {"delay_seconds": MAX_DELAY_SECONDS},
        {"expires_seconds": 0.001},
        {"priority": 0},
        {"priority": 9},
        {"uuid": "u" * 255},
        {"routing_key": "k" * 255},
        {"eta": datetime(2000, 1, 1, tzinfo=timezone(timedelta(hours=-9)))},
    ):
        task = Task("n", **fields)  # type: ignore[arg-type]
        assert all(getattr(task, name) == value for name, value in fields.items())
