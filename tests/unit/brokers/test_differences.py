"""`differences` and `mismatch`: one comparison and one sentence for all brokers."""

from __future__ import annotations

from dispatcher.brokers.base import TopologyDiffers
from dispatcher.brokers.differences import differences, mismatch, queue_differences
from dispatcher.model.topology import Queue


def test_what_is_equal_is_no_difference() -> None:
    """Nothing set and None are the same."""
    assert differences("queue 'q'", {"a": 1, "b": None}, {"a": 1, "c": None}) == []


def test_each_difference_once_in_order() -> None:
    """First what was asked for, then what was not."""
    assert differences("queue 'q'", {"a": 1, "b": "x", "c": 0}, {"d": True, "b": None, "c": 0}) == [
        TopologyDiffers("a of queue 'q'", "1", "None"),
        TopologyDiffers("b of queue 'q'", "'x'", "None"),
        TopologyDiffers("d of queue 'q'", "None", "True"),
    ]


def test_a_queue_is_compared_by_its_limits() -> None:
    """The two that the brokers of our own keep."""
    queue = Queue("q", delivery_limit=5, max_length=7)
    assert queue_differences(queue, delivery_limit=5, max_length=7) == []
    [differs] = queue_differences(queue, delivery_limit=5, max_length=None)
    assert differs == TopologyDiffers("max_length of queue 'q'", "7", "None")


def test_the_error_names_everything_that_is_wrong() -> None:
    """What is absent and what differs, and what to do."""
    text = str(mismatch("the file", ["queue 'a' does not exist"], [TopologyDiffers("b of queue 'q'", "1", "2")]))
    assert text.startswith("the file is not as asked for: queue 'a' does not exist; b of queue 'q' is 2, expected 1. ")
    assert "declare='create'" in text
