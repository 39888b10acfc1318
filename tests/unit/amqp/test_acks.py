"""The acks of one channel, against a broker that knows which deliveries it waits to hear of."""

from __future__ import annotations

import pytest
from amqp_peer import unmarshal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pamqp import commands

from dispatcher.amqp import acks as acks_module
from dispatcher.amqp.acks import AckWindow
from dispatcher.amqp.errors import ProtocolError


class Broker:
    """What RabbitMQ keeps of a channel's deliveries; a tag that it does not know makes it close the channel (406)."""

    def __init__(self) -> None:
        self.unsettled: list[int] = []
        self.acked: list[int] = []
        self.handed_back: list[int] = []

    def read(self, frames: bytes) -> None:
        for channel, frame in unmarshal(frames):
            assert channel == 5
            assert isinstance(frame, commands.Basic.Ack | commands.Basic.Nack)
            tag = frame.delivery_tag
            assert tag in self.unsettled, f"unknown delivery tag {tag}"
            settled = [one for one in self.unsettled if one <= tag] if frame.multiple else [tag]
            self.unsettled = [one for one in self.unsettled if one not in settled]
            if isinstance(frame, commands.Basic.Ack):
                self.acked += settled
            else:
                assert frame.requeue
                self.handed_back += settled


class Acks(RuleBasedStateMachine):
    """Every settlement reaches the broker exactly once, and it never hears of one that was not asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.window = AckWindow(5)
        self.broker = Broker()
        self.acked: set[int] = set()
        self.handed_back: set[int] = set()
        self.turn: dict[int, str] = {}  # what was asked for since the last take

    def open_tags(self) -> list[int]:
        return [tag for tag in range(1, self.window.last + 1) if tag not in self.acked | self.handed_back]

    @rule(count=st.integers(1, 12))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            tag = self.window.last + 1
            self.window.count(tag)
            self.broker.unsettled.append(tag)

    @precondition(lambda self: self.open_tags())
    @rule(data=st.data(), how=st.sampled_from(["ack", "ack", "ack", "nack"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        tags = data.draw(st.lists(st.sampled_from(self.open_tags()), unique=True))
        for tag in tags:
            first = self.window.ack(tag) if how == "ack" else self.window.nack(tag)
            assert first == (not self.turn)
            if self.turn.get(tag) != "nack":
                self.turn[tag] = how

    @precondition(lambda self: self.open_tags())
    @rule()
    def settle_from_the_oldest_on(self) -> None:
        for tag in self.open_tags()[:-1]:
            self.window.ack(tag)
            self.turn.setdefault(tag, "ack")

    @rule(tag=st.integers(0, 60), how=st.sampled_from(["ack", "nack"]))
    def settle_what_is_none(self, tag: int, how: str) -> None:
        """Twice, or of another channel: dropped."""
        if tag in self.open_tags():
            return
        self.window.ack(tag) if how == "ack" else self.window.nack(tag)
        if tag <= self.window.last:
            self.turn.setdefault(tag, "nothing")

    @rule()
    def take(self) -> None:
        self.broker.read(b"".join(self.window.take()))
        self.taken()

    @rule()
    def take_all_back(self) -> None:
        self.broker.read(b"".join(self.window.take_all_back()))
        self.taken()
        self.handed_back.update(self.open_tags())
        assert self.window.unsettled == 0

    def taken(self) -> None:
        for tag, how in self.turn.items():
            if how != "nothing":
                (self.acked if how == "ack" else self.handed_back).add(tag)
        self.turn.clear()
        assert list(self.window.take()) == []

    @invariant()
    def the_broker_knows_what_was_told(self) -> None:
        assert sorted(self.broker.acked) == sorted(self.acked)
        assert sorted(self.broker.handed_back) == sorted(self.handed_back)
        assert self.window.unsettled == len(self.broker.unsettled)


Acks.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAcks = Acks.TestCase


class AcksBehindStragglers(Acks):
    """The same where the oldest is left behind as soon as two others were settled beyond it."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(acks_module, "MAX_BEYOND", 1)

    def teardown(self) -> None:
        self.patch.undo()


AcksBehindStragglers.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAcksBehindStragglers = AcksBehindStragglers.TestCase


def window(delivered: int) -> AckWindow:
    acks = AckWindow(5)
    for tag in range(1, delivered + 1):
        acks.count(tag)
    return acks


def told(frames: object) -> list[tuple[str, int, bool]]:
    assert isinstance(frames, list | tuple)
    return [
        (frame.name.removeprefix("Basic."), frame.delivery_tag, frame.multiple)
        for _, frame in unmarshal(b"".join(frames))
        if isinstance(frame, commands.Basic.Ack | commands.Basic.Nack)
    ]


def test_a_run_is_one_frame() -> None:
    """Whatever the order within a turn, acks from the oldest on are one frame."""
    acks = window(1000)
    for tag in reversed(range(1, 1001)):
        acks.ack(tag)
    assert told(acks.take()) == [("Ack", 1000, True)]


def test_a_slow_task_does_not_hold_the_others() -> None:
    """With the oldest delivery open the others are acked one by one, at once; then one frame ends the run."""
    acks = window(5)
    for tag in (2, 3, 5):
        acks.ack(tag)
    assert told(acks.take()) == [("Ack", 2, False), ("Ack", 3, False), ("Ack", 5, False)]
    assert acks.unsettled == 2
    acks.ack(4)
    acks.ack(1)
    assert told(acks.take()) == [("Ack", 4, True)]
    assert acks.unsettled == 0


def test_a_task_that_never_ends_costs_no_memory_for_those_that_do() -> None:
    """A million deliveries beside one that stays open: what is kept of them is bounded, and each is told once."""
    acks = window(1)
    told_acks = 0
    for tag in range(2, 1_000_002):
        acks.count(tag)
        acks.ack(tag)
        if tag % 10 == 0:
            told_acks += len(acks.take())
            assert len(acks._beyond) + len(acks._stragglers) <= acks_module.MAX_BEYOND + 10
    told_acks += len(acks.take())
    assert told_acks == 1_000_000
    assert acks.unsettled == 1
    acks.ack(1)
    assert told(acks.take()) == [("Ack", 1, False)]
    assert acks.unsettled == 0


def test_a_single_ack_is_not_multiple() -> None:
    """One ack of the oldest says no more than that."""
    acks = window(2)
    acks.ack(1)
    assert told(acks.take()) == [("Ack", 1, False)]


def test_the_watermark_does_not_cover_what_is_handed_back() -> None:
    """Nacks go first: the multiple ack after them would settle them."""
    acks = window(4)
    acks.nack(2)
    for tag in (1, 3, 4):
        acks.ack(tag)
    assert told(acks.take()) == [("Nack", 2, False), ("Ack", 4, True)]


def test_one_tag_twice_acks_no_other() -> None:
    """A delivery that is acked twice in one turn does not make up for one that is not acked."""
    acks = window(3)
    for tag in (1, 1, 3):
        acks.ack(tag)
    assert told(acks.take()) == [("Ack", 1, False), ("Ack", 3, False)]
    assert acks.unsettled == 1


def test_a_settled_tag_does_not_end_a_run() -> None:
    """The watermark is a tag that the broker still knows."""
    acks = window(3)
    acks.ack(3)
    acks.take()
    for tag in (1, 2, 3):
        acks.ack(tag)
    assert told(acks.take()) == [("Ack", 2, True)]
    assert acks.unsettled == 0


def test_an_old_tag_acks_no_other() -> None:
    """Nor does one that was settled long ago make up for it."""
    acks = window(6)
    for tag in (1, 2, 3, 4):
        acks.ack(tag)
    acks.take()
    acks.ack(4)
    acks.ack(6)
    assert told(acks.take()) == [("Ack", 6, False)]
    assert acks.unsettled == 1


def test_handing_back_all_names_a_tag_that_the_broker_knows() -> None:
    """Where the last deliveries are settled, the multiple nack ends below them."""
    acks = window(5)
    acks.ack(4)
    acks.ack(5)
    acks.take()
    assert told(acks.take_all_back()) == [("Nack", 3, True)]
    assert acks.unsettled == 0


def test_an_ack_after_handing_back_is_dropped() -> None:
    """What still runs when all is handed back may ack as it likes."""
    acks = window(3)
    acks.take_all_back()
    acks.ack(2)
    assert told(acks.take()) == []
    assert acks.unsettled == 0


@pytest.mark.parametrize("tag", [0, 1, 3, 2**64 - 1])
def test_deliveries_are_counted(tag: int) -> None:
    """A delivery that is not the next one is a fault of the broker's."""
    acks = window(1)
    with pytest.raises(ProtocolError, match="expected delivery 2"):
        acks.count(tag)
