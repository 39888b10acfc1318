"""The supervisor's decisions: who is started when, what a death means, what a signal does. No process, no clock."""

from __future__ import annotations

import signal

import pytest

from dispatcher.ops.roster import Action, Finish, Pause, Roster, Send, Start

TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


def at_work(count: int, *, burst: bool = False, reload: bool = False) -> Roster:
    """A roster whose processes all run and are ready, since time 0."""
    roster = Roster(count, burst=burst, reload=reload)
    started: list[Action] = roster.begin(0.0)
    while started:
        number = started.pop()
        assert isinstance(number, Start)
        started += roster.ready(number.slot, 0.0)
    return roster


def test_the_first_starts_alone_and_the_others_when_it_is_ready() -> None:
    """A mistake in the app must be reported once, not once a process."""
    roster = Roster(3)
    assert roster.begin(0.0) == [Start(0)]
    assert roster.ready(0, 1.0) == [Start(1), Start(2)]
    assert roster.ready(1, 1.0) == roster.ready(2, 1.0) == []


@pytest.mark.parametrize("code", [2, 69, 74, 78])
def test_a_start_that_cannot_succeed_ends_the_whole_with_its_code(code: int) -> None:
    """A restart would only say the same again."""
    roster = Roster(3)
    roster.begin(0.0)
    assert roster.exited(0, code, 40.0) == [Finish(code)]


def test_when_all_fail_one_after_the_other_the_last_ends_the_whole() -> None:
    """A fatal code of one process is back-off while another works, and the end once none does."""
    roster = at_work(2)
    assert roster.exited(0, 69, 5.0) == [Pause(0, 0.5)]
    assert roster.exited(1, 69, 5.1) == [Finish(69)]
    assert roster.next_start_at is None


def test_giving_up_ends_those_that_are_still_starting() -> None:
    """Nobody may be left behind when the supervisor ends."""
    roster = Roster(2)
    roster.begin(0.0)
    roster.ready(0, 0.0)  # 1 starts now, and is not ready when 0 fails
    assert roster.exited(0, 78, 1.0) == [Send(1, TERM)]
    assert roster.exited(1, 0, 2.0) == [Finish(78)]


def test_deaths_back_off_and_a_long_life_resets() -> None:
    """0.5, 1, 2, … at most 30 s; one that lived 30 s is started again at once."""
    roster = at_work(2)
    now = 0.0
    pauses = []
    for _ in range(9):
        now += 1.0
        (pause,) = roster.exited(0, -9, now)
        assert isinstance(pause, Pause) and pause.seconds is not None
        pauses.append(pause.seconds)
        now += pause.seconds
        assert roster.next_start_at == now
        assert roster.due(now - 0.01) == []
        assert roster.due(now) == [Start(0)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert roster.exited(0, -9, now + 30.0) == [Start(0)]
    assert roster.exited(0, -9, now + 31.0) == [Pause(0, 0.5)]


def test_a_process_that_must_be_recycled_is_replaced_at_once() -> None:
    """It ended because its functions never do: the next one is needed now."""
    assert at_work(2).exited(1, 75, 0.1) == [Start(1)]


def test_a_clean_end_nobody_asked_for_is_made_good() -> None:
    """The supervisor was told to keep so many running."""
    assert at_work(2).exited(1, 0, 100.0) == [Start(1)]


def test_a_burst_ends_when_all_have_ended() -> None:
    """And a process that was killed in it is started again, for what it held."""
    roster = at_work(2, burst=True)
    assert roster.exited(0, 0, 1.0) == []
    assert roster.exited(1, -9, 1.0) == [Pause(1, 0.5)]
    assert roster.due(1.5) == [Start(1)]
    assert roster.exited(1, 0, 2.0) == [Finish(0)]


def test_the_first_signal_drains_and_the_end_is_clean() -> None:
    """The signal is passed on once, and nobody is started again."""
    roster = at_work(2)
    assert roster.signalled(TERM) == [Send(0, TERM), Send(1, TERM)]
    assert roster.exited(0, 0, 1.0) == []
    assert roster.exited(1, 0, 1.0) == [Finish(0)]


@pytest.mark.parametrize(("signum", "code"), [(INT, 130), (TERM, 143)])
def test_the_second_signal_cuts_short(signum: signal.Signals, code: int) -> None:
    """The exit code says which signal it was."""
    roster = at_work(2)
    roster.signalled(TERM)
    assert roster.signalled(signum) == [Send(0, signum), Send(1, signum)]
    roster.exited(0, 0, 1.0)
    assert roster.exited(1, code, 1.0) == [Finish(code)]


def test_the_third_signal_kills() -> None:
    """Without waiting for anyone."""
    roster = at_work(2)
    roster.signalled(TERM)
    roster.signalled(INT)
    roster.exited(0, 143, 1.0)
    assert roster.signalled(INT) == [Send(1, KILL), Finish(130)]


def test_a_signal_during_back_off_ends_at_once() -> None:
    """Nothing runs, and what waits must not be started any more."""
    roster = Roster(1)
    roster.begin(0.0)
    roster.ready(0, 0.0)
    roster.exited(0, 1, 1.0)
    assert roster.signalled(TERM) == [Finish(0)]
    assert roster.due(100.0) == []


def test_a_process_that_fails_while_draining_is_seen_in_the_exit_code() -> None:
    """A drain that failed is not a clean end."""
    roster = at_work(2)
    roster.signalled(TERM)
    roster.exited(0, 74, 1.0)
    assert roster.exited(1, 0, 1.0) == [Finish(74)]


def test_a_change_replaces_each_process_once() -> None:
    """A second change while they drain must not be their second signal, which would cut tasks short."""
    roster = at_work(2, reload=True)
    assert roster.changed(1.0) == [Send(0, TERM), Send(1, TERM)]
    assert roster.changed(1.1) == []
    assert roster.expects(0, 0)
    assert roster.exited(0, 0, 1.2) == [Start(0)]
    assert roster.changed(1.3) == [Send(0, TERM)]


def test_under_reload_a_broken_app_waits_for_the_next_change() -> None:
    """A developer's typing error must not end the supervisor."""
    roster = Roster(2, reload=True)
    roster.begin(0.0)
    assert roster.exited(0, 78, 1.0) == [Pause(0, None)]
    assert roster.next_start_at is None
    assert roster.changed(5.0) == [Start(0)]
    assert roster.ready(0, 6.0) == [Start(1)]


@pytest.mark.parametrize("code", [-15, 143, -2, 130])
def test_a_process_told_to_end_before_it_had_begun_is_no_fault(code: int) -> None:
    """One ^C while the processes start is a clean end."""
    roster = at_work(2)
    roster.signalled(INT)
    roster.exited(0, code, 0.1)
    assert roster.exited(1, 0, 0.1) == [Finish(0)]
