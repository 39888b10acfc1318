"""What a task makes of the calls that it is to send: the first is checked whole, those after it by their arguments."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher import Dispatcher
from dispatcher.errors import ArgumentError
from dispatcher.model.task import TaskArgument

app = Dispatcher("memory://")


@app.task(queue="numbers")
def number(value: int) -> None: ...


def test_each_call_has_its_own_arguments_and_uuid_and_the_same_options() -> None:
    sender = number.options(headers={"tenant": "acme"}, priority=3, delay_seconds=5, expires_seconds=60)
    tasks = [sender.bind(value) for value in range(3)]
    assert [task.args for task in tasks] == [(TaskArgument("int", value),) for value in range(3)]
    assert len({task.uuid for task in tasks}) == 3
    for task in tasks:
        assert (task.name, task.routing_key, task.headers) == ("number", "numbers", {"tenant": "acme"})
        assert (task.priority, task.delay_seconds, task.expires_seconds, task.eta) == (3, 5, 60, None)


def test_what_happens_to_one_mapping_of_headers_changes_no_other() -> None:
    given: dict[str, Any] = {"tenant": "acme"}
    sender = number.options(headers=given)
    given["tenant"] = "other"
    first, second = sender.bind(1), sender.bind(2)
    assert isinstance(first.headers, dict)
    first.headers["tenant"] = "changed"
    assert second.headers == sender.bind(3).headers == {"tenant": "acme"}


def test_a_given_uuid_and_eta_are_those_of_every_call() -> None:
    eta = datetime(2030, 1, 1, tzinfo=UTC)
    for sender in (number.options(uuid="mine"), number.options(uuid="mine", eta=eta)):
        assert [sender.bind(value).uuid for value in range(3)] == ["mine"] * 3
    assert [number.options(eta=eta).bind(value).eta for value in range(3)] == [eta] * 3


def test_what_does_not_fit_is_refused_every_time() -> None:
    sender = number.options(priority=11)
    for _ in range(2):
        with pytest.raises(ArgumentError, match="priority"):
            sender.bind(1)
    assert number.bind(1).uuid
    for _ in range(2):
        with pytest.raises(ArgumentError, match="argument 'value'"):
            number.bind("one")  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="expected 1 argument"):
            number.bind()  # type: ignore[call-arg]
