"""The thread that beats: when it does, and that it ends with its owner."""

from __future__ import annotations

import gc
import threading

from dispatcher.amqp.keeper import Keeper

SECONDS = 20.0


class Owner:
    """Beats as often as there are answers, and tells when they have run out."""

    def __init__(self, *answers: float | None) -> None:
        self.answers = list(answers)
        self.beats = 0
        self.done = threading.Event()

    def beat(self) -> float | None:
        self.beats += 1
        answer = self.answers.pop(0)
        if not self.answers:
            self.done.set()
        return answer


def thread_of(keeper: Keeper) -> threading.Thread:
    return keeper._thread


def test_beats_until_it_is_told_never() -> None:
    """Each beat says when the next is due; None ends the thread."""
    owner = Owner(0.0, 0.001, None)
    keeper = Keeper(owner.beat, 0.0, name="test")
    thread_of(keeper).join(SECONDS)
    assert not thread_of(keeper).is_alive()
    assert owner.beats == 3


def test_stops_while_it_waits() -> None:
    """`stop` ends it at once, however long it was to wait; twice is fine."""
    owner = Owner(3600.0)
    keeper = Keeper(owner.beat, 0.0, name="test")
    assert owner.done.wait(SECONDS)
    keeper.stop()
    keeper.stop()
    thread_of(keeper).join(SECONDS)
    assert not thread_of(keeper).is_alive()
    assert owner.beats == 1


def test_ends_with_its_owner() -> None:
    """It does not keep its owner alive, and wakes up to end when that is collected."""
    owner = Owner(3600.0)
    keeper = Keeper(owner.beat, 3600.0, name="test")
    del owner
    gc.collect()
    thread_of(keeper).join(SECONDS)
    assert not thread_of(keeper).is_alive()


def test_does_not_hold_a_program_up() -> None:
    """The thread is a daemon: a program that forgets it can end."""
    owner = Owner(None)
    keeper = Keeper(owner.beat, 3600.0, name="test")
    assert thread_of(keeper).daemon
    keeper.stop()
