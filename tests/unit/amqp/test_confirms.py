"""The confirms of one channel, against a dictionary."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dispatcher.amqp.confirms import Confirms
from dispatcher.amqp.errors import ProtocolError


def answer(confirms: Confirms, number: int, *, multiple: bool = False) -> list[Any]:
    answered: list[Any] = []
    confirms.answer(number, multiple=multiple, answered=answered)
    return answered


class ConfirmsMachine(RuleBasedStateMachine):
    """Every publish is answered once, whatever the order and form of the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.confirms = Confirms()
        self.open: dict[int, str] = {}

    @rule(count=st.integers(1, 10))
    def publish(self, count: int) -> None:
        for _ in range(count):
            number = self.confirms.last + 1
            self.open[number] = f"waiter {number}"
            assert self.confirms.add(self.open[number]) == number

    @rule(number=st.integers(0, 70), multiple=st.booleans())
    def answer(self, number: int, multiple: bool) -> None:
        last = self.confirms.last
        upto = last if multiple and number == 0 else number
        if not 0 < upto <= last:
            with pytest.raises(ProtocolError, match="expected a confirm of publish"):
                answer(self.confirms, number, multiple=multiple)
            return
        numbers = (
            [one for one in self.open if one <= upto] if multiple else [one for one in (upto,) if one in self.open]
        )
        assert answer(self.confirms, number, multiple=multiple) == [self.open.pop(one) for one in numbers]

    @rule()
    def answer_all_in_order(self) -> None:
        for number in list(self.open):
            assert answer(self.confirms, number) == [self.open.pop(number)]

    @rule()
    def lose(self) -> None:
        assert self.confirms.take_all() == list(self.open.values())
        self.open.clear()

    @invariant()
    def the_open_ones_are_known(self) -> None:
        assert len(self.confirms) == len(self.open)
        for number in range(1, self.confirms.last + 1):
            assert self.confirms.waiter(number) == self.open.get(number)


ConfirmsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestConfirms = ConfirmsMachine.TestCase


def test_any_object_may_wait() -> None:
    """None and false objects are waiters as others are."""
    confirms = Confirms()
    confirms.add(None)
    confirms.add(0)
    confirms.add("")
    assert answer(confirms, 2) == [0]
    assert answer(confirms, 0, multiple=True) == [None, ""]


def test_numbers_are_passed_once() -> None:
    """After a thousand single answers, in whatever order, a multiple one looks at the open publishes alone."""
    confirms = Confirms()
    for number in range(1, 1_001):
        confirms.add(number)
    for number in range(2, 1_001, 2):
        answer(confirms, number)
        answer(confirms, number - 1)
    assert confirms._oldest == 1_001
    confirms.add("last")
    assert answer(confirms, 1_001, multiple=True) == ["last"]
