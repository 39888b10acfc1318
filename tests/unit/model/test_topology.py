from __future__ import annotations

from typing import Any

import pytest

from dispatcher.errors import ConfigError
from dispatcher.model.topology import Queue, Topology, check_name, dead_queue


def test_a_queue_is_quorum_unbound_and_unbounded_unless_it_says_otherwise() -> None:
    """The defaults of a queue, and of a topology."""
    queue = Queue("q")
    assert (queue.binding_keys, queue.type, queue.max_priority, queue.max_length) == ((), "quorum", None, None)
    assert queue.delivery_limit == 20
    assert Topology("x").declare == "create"
    assert dead_queue("q") == "q.dead"


def test_binding_keys_become_a_tuple_of_their_own() -> None:
    """A list is taken, and changing it afterwards changes nothing."""
    keys = ["a", "b"]
    queue = Queue("q", binding_keys=keys)
    keys.clear()
    assert queue.binding_keys == ("a", "b")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": ""}, "queue name"),
        ({"name": None}, "queue name"),
        ({"name": "q" * 251}, "at most 250 bytes of UTF-8, got 251"),
        ({"name": "ü" * 126}, "got 252"),
        ({"name": "a\nb"}, "control characters"),
        ({"name": "\ud800"}, "surrogates"),
        ({"binding_keys": "key"}, "list of strings, got the string 'key'"),
        ({"binding_keys": ["a", ""]}, "binding key"),
        ({"binding_keys": [1]}, "binding key"),
        ({"type": "stream"}, "'quorum' or 'classic', got 'stream'"),
        ({"max_priority": 0}, "max_priority"),
        ({"max_priority": 10}, "max_priority"),
        ({"max_length": 0}, "max_length"),
        ({"delivery_limit": 0}, "delivery_limit"),
    ],
)
def test_a_queue_that_cannot_exist_is_refused(fields: dict[str, Any], why: str) -> None:
    """Each field says what it expected and what came; a name leaves room for that of its dead letters."""
    with pytest.raises(ConfigError, match=why):
        Queue(**{"name": "q", **fields})


def test_the_bounds_themselves_are_inside() -> None:
    """The longest name, both ends of the priorities, a queue of one message."""
    assert len(dead_queue(Queue("q" * 250).name)) == 255
    assert Queue("q", max_priority=1).max_priority == 1
    assert Queue("q", max_priority=9, max_length=1, delivery_limit=1, type="classic").max_length == 1
    assert check_name("exchange", "x" * 255) == "x" * 255
