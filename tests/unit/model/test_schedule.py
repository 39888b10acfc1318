"""When schedules are due: cron expressions, intervals, the two days a year on which clocks are changed, and what was missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import ConfigError
from dispatcher.model.schedule import MOST_MISSED, Misfire, Schedule, firing_uuid


def ms(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


def local(instant_ms: int, zone: str) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, ZoneInfo(zone)).strftime("%d %H:%M%z")


def firings(when: str, zone: str, start: str, end: str) -> list[str]:
    """The local times, with offsets, at which it fires after `start` and up to `end`, both in that zone."""
    schedule, last = Schedule("s", when, zone), ms(end, zone, fold=1)
    found, at = [], schedule.next_after(ms(start, zone))
    while at <= last:
        found.append(local(at, zone))
        at = schedule.next_after(at)
    return found


# --- plain days -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "after", "expected"),
    [
        ("*/5 * * * *", "2026-05-01T12:00:00", "2026-05-01T12:05:00"),
        ("*/5 * * * *", "2026-05-01T12:04:59.999", "2026-05-01T12:05:00"),
        ("  0   0 1 1 * ", "2026-05-01T12:00:00", "2027-01-01T00:00:00"),
        ("0 12 * * mon-fri", "2026-05-01T12:00:00", "2026-05-04T12:00:00"),
        ("0 0 29 2 *", "2026-05-01T12:00:00", "2028-02-29T00:00:00"),
        ("0 0 L * *", "2026-05-01T12:00:00", "2026-05-31T00:00:00"),
        ("0 9 * * mon#2", "2026-05-01T12:00:00", "2026-05-11T09:00:00"),
        ("@hourly", "2026-05-01T12:00:00", "2026-05-01T13:00:00"),
        ("@Daily", "2026-05-01T12:00:00", "2026-05-02T00:00:00"),
        ("@weekly", "2026-05-01T12:00:00", "2026-05-03T00:00:00"),
        ("@monthly", "2026-05-01T12:00:00", "2026-06-01T00:00:00"),
        ("@yearly", "2026-05-01T12:00:00", "2027-01-01T00:00:00"),
    ],
)
def test_an_expression_says_what_is_next(when: str, after: str, expected: str) -> None:
    """Always later than what was asked for, on the minute, in UTC where no zone is named."""
    assert Schedule("s", when).next_after(ms(after)) == ms(expected)


def test_a_time_zone_moves_the_times() -> None:
    """Nine in the morning is another instant in winter than in summer; a tzinfo is taken as well as a name."""
    schedule = Schedule("s", "0 9 * * *", "Europe/Berlin")
    assert schedule.next_after(ms("2026-01-10T00:00:00")) == ms("2026-01-10T08:00:00")
    assert schedule.next_after(ms("2026-07-10T00:00:00")) == ms("2026-07-10T07:00:00")
    east = Schedule("s", "0 9 * * *", timezone(timedelta(hours=5, minutes=30)))
    assert east.next_after(ms("2026-07-10T00:00:00")) == ms("2026-07-10T03:30:00")


@pytest.mark.parametrize("every", [10, 10.0, timedelta(seconds=10)])
def test_intervals_are_counted_from_the_epoch(every: float | timedelta) -> None:
    """Whoever computes them, and whenever it began: the instants are the same."""
    schedule = Schedule("s", every)
    assert [schedule.next_after(at) for at in (0, 1, 9_999, 10_000)] == [10_000, 10_000, 10_000, 20_000]
    assert schedule.written == "every 10 s"


def test_the_uuid_of_a_firing_is_the_same_everywhere() -> None:
    """It depends on name and instant alone, on no seed of a process; this value must never change."""
    assert firing_uuid("nightly", 1_767_225_600_000) == "9d4ee9b7-a0eb-597d-b407-9bd77893c127"
    assert len({firing_uuid(name, at) for name in ("a", "b") for at in (0, 1)}) == 4


# --- changes of the clocks --------------------------------------------------------------------------------------------

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


@pytest.mark.parametrize(
    ("when", "zone", "start", "end", "expected"),
    [
        ("30 2 * * *", BERLIN, "2026-03-28T12:00", "2026-03-30T12:00", ["29 03:00+0200", "30 02:30+0200"]),
        ("0,30 2 * * *", BERLIN, "2026-03-28T12:00", "2026-03-29T12:00", ["29 03:00+0200"]),
        ("0 2,3 * * *", BERLIN, "2026-03-28T12:00", "2026-03-29T12:00", ["29 03:00+0200"]),
        ("30 1,2,3 * * *", BERLIN, "2026-03-29T00:00", "2026-03-29T12:00",
         ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]),
        ("30 2 * * *", NEW_YORK, "2026-03-07T12:00", "2026-03-09T12:00", ["08 03:00-0400", "09 02:30-0400"]),
        ("15 2 * * *", LORD_HOWE, "2026-10-03T12:00", "2026-10-05T12:00", ["04 02:30+1100", "05 02:15+1100"]),
        ("45 2 * * *", LORD_HOWE, "2026-10-03T12:00", "2026-10-04T12:00", ["04 02:45+1100"]),
    ],
)  # fmt: skip
def test_a_time_that_is_skipped_fires_once_right_after_the_gap(
    when: str, zone: str, start: str, end: str, expected: list[str]
) -> None:
    """The day on which clocks are put forward lacks no daily firing, and has none twice."""
    assert firings(when, zone, start, end) == expected


@pytest.mark.parametrize(
    ("when", "zone", "start", "end", "expected"),
    [
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", "2026-10-26T12:00", ["25 02:30+0200", "26 02:30+0100"]),
        ("0,30 2,3 * * *", BERLIN, "2026-10-25T00:00", "2026-10-25T12:00",
         ["25 02:00+0200", "25 02:30+0200", "25 03:00+0100", "25 03:30+0100"]),
        ("30 1 * * *", NEW_YORK, "2026-10-31T12:00", "2026-11-02T12:00", ["01 01:30-0400", "02 01:30-0500"]),
        ("45 1 * * *", LORD_HOWE, "2026-04-04T12:00", "2026-04-06T12:00", ["05 01:45+1100", "06 01:45+1030"]),
    ],
)  # fmt: skip
def test_a_time_that_comes_twice_fires_once(when: str, zone: str, start: str, end: str, expected: list[str]) -> None:
    """The first of the two; who asks between the two gets the next day's."""
    assert firings(when, zone, start, end) == expected


def test_asked_in_the_second_of_two_equal_hours_the_first_is_past() -> None:
    """A leader that begins there does not fire what was due in the hour before."""
    schedule = Schedule("s", "50 2 * * *", BERLIN)
    assert local(schedule.next_after(ms("2026-10-25T02:40", BERLIN, fold=0)), BERLIN) == "25 02:50+0200"
    assert local(schedule.next_after(ms("2026-10-25T02:40", BERLIN, fold=1)), BERLIN) == "26 02:50+0100"


@pytest.mark.parametrize(
    ("zone", "start", "end"),
    [
        (BERLIN, "2026-03-28T23:00", "2026-03-29T06:00"),
        (BERLIN, "2026-10-24T23:00", "2026-10-25T06:00"),
        (NEW_YORK, "2026-03-07T23:00", "2026-03-08T06:00"),
        (NEW_YORK, "2026-10-31T23:00", "2026-11-01T06:00"),
        (LORD_HOWE, "2026-10-03T23:00", "2026-10-04T06:00"),
        (LORD_HOWE, "2026-04-04T23:00", "2026-04-05T06:00"),
        ("America/Havana", "2026-03-07T20:00", "2026-03-08T06:00"),  # put forward at midnight
    ],
)
@pytest.mark.parametrize("minutes", [1, 5, 15])
def test_a_step_of_minutes_goes_on_through_every_change(zone: str, start: str, end: str, minutes: int) -> None:
    """In both of the hours that look alike, and none is made up for the one that is skipped: the distance never changes."""
    schedule = Schedule("s", f"*/{minutes} * * * *", zone)
    at, last = ms(start, zone), ms(end, zone)
    instants = []
    while at < last:
        at = schedule.next_after(at)
        instants.append(at)
    assert {after - before for before, after in pairwise(instants)} == {minutes * 60_000}


@pytest.mark.parametrize(
    ("when", "zone", "start", "end", "expected"),
    [
        ("0 * * * *", BERLIN, "2026-10-25T01:30", "2026-10-25T03:30", ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]),
        ("0 */2 * * *", BERLIN, "2026-03-29T00:30", "2026-03-29T05:00", ["29 04:00+0200"]),
        ("*/30 2 * * *", BERLIN, "2026-03-29T00:30", "2026-03-30T02:15", ["30 02:00+0200"]),
        ("*/30 1 * * *", NEW_YORK, "2026-11-01T00:30", "2026-11-01T12:00",
         ["01 01:00-0400", "01 01:30-0400", "01 01:00-0500", "01 01:30-0500"]),
        # The cron library by itself loses 04:00 here: it counts hours from a minute that the change moved.
        ("*/15 4 * * *", LORD_HOWE, "2026-10-04T00:30", "2026-10-04T04:20", ["04 04:00+1100", "04 04:15+1100"]),
        ("*/15 4 * * *", LORD_HOWE, "2026-04-05T00:30", "2026-04-05T04:20", ["05 04:00+1030", "05 04:15+1030"]),
    ],
)  # fmt: skip
def test_a_step_of_hours_fires_whenever_the_clock_shows_it(
    when: str, zone: str, start: str, end: str, expected: list[str]
) -> None:
    """Twice where it is shown twice, never where it is not."""
    assert firings(when, zone, start, end) == expected


FIELD = st.sampled_from
EXPRESSIONS = st.tuples(
    FIELD(["0", "30", "*/15", "5-10", "59"]), FIELD(["*", "2", "1,2,3", "*/3", "0", "23"]),
    FIELD(["*", "1", "28-31", "L"]), FIELD(["*", "3", "10,11", "4"]), FIELD(["*", "0", "mon-fri"]),
).map(" ".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    EXPRESSIONS,
    FIELD([BERLIN, NEW_YORK, LORD_HOWE, "America/Havana", "UTC"]),
    st.integers(ms("2026-01-01T00:00"), ms("2028-01-01T00:00")),
    st.integers(0, 400 * 86_400_000),
)
def test_next_after_depends_on_no_history(when: str, zone: str, start_ms: int, later_ms: int) -> None:
    """From any instant up to the next firing the answer is that firing, and it is later than what was asked for."""
    schedule = Schedule("s", when, zone)
    following = schedule.next_after(start_ms)
    assert following > start_ms
    between = min(following - 1, start_ms + later_ms)
    assert schedule.next_after(between) == following
    assert schedule.next_after(following) > following


# --- what was missed --------------------------------------------------------------------------------------------------

NOON = ms("2026-05-01T12:00:00")
MINUTE = 60_000


def test_due_between_has_its_end_and_not_its_start() -> None:
    """So that instants that follow one another meet no instant twice and leave none out."""
    schedule = Schedule("s", "* * * * *")
    assert schedule.due_between(NOON, NOON + 2 * MINUTE) == ([NOON + MINUTE, NOON + 2 * MINUTE], False)
    assert schedule.due_between(NOON, NOON) == ([], False)
    assert schedule.due_between(NOON + MINUTE, NOON) == ([], False)


def test_due_between_keeps_the_latest() -> None:
    """However long it has been: the cost is that of what is kept."""
    instants, more = Schedule("s", "* * * * *").due_between(0, NOON)
    assert (len(instants), instants[-1], more) == (MOST_MISSED, NOON, True)
    assert instants[0] == NOON - (MOST_MISSED - 1) * MINUTE


@pytest.mark.parametrize(
    ("misfire", "expected"),
    [("skip", []), ("once", [NOON + 3 * MINUTE]), ("all", [NOON + n * MINUTE for n in (1, 2, 3)])],
)
def test_what_becomes_of_what_was_missed(misfire: Misfire, expected: list[int]) -> None:
    """Nothing, the latest, or each; how many were missed is told in any case."""
    now = NOON + 3 * MINUTE + 30_000
    due = Schedule("s", "* * * * *", misfire=misfire).due(NOON, now)
    assert (list(due.fire), due.missed, due.unseen, due.until_ms) == (expected, 3, False, now)


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_what_is_late_by_a_change_of_leaders_was_not_missed(misfire: Misfire) -> None:
    """Ten seconds of it are fired whatever the policy says, each instant."""
    due = Schedule("s", 1, misfire=misfire).due(NOON, NOON + 10_000)
    assert (list(due.fire), due.missed) == ([NOON + n * 1000 for n in range(1, 11)], 0)


def test_a_later_punctual_instant_stands_for_those_missed() -> None:
    """`once` does not fire an old instant beside one that is due now."""
    now = NOON + 5 * MINUTE
    due = Schedule("s", "* * * * *", misfire="once").due(NOON, now)
    assert (list(due.fire), due.missed) == ([now], 4)


def test_all_is_bounded_and_says_so() -> None:
    """A thousand of them, the latest."""
    due = Schedule("s", 1, misfire="all").due(0, NOON)
    assert (len(due.fire), due.fire[-1], due.unseen) == (MOST_MISSED, NOON, True)


def test_a_clock_that_was_hours_ahead_does_not_stop_the_firings() -> None:
    """A small lead of another machine's clock is respected, or it would be fired twice."""
    schedule = Schedule("s", 1)
    assert schedule.begin(NOON + 2000, NOON) == NOON + 2000
    assert schedule.begin(NOON + 48 * 3_600_000, NOON) == NOON
    assert schedule.begin(NOON - 2000, NOON) == NOON - 2000


class Floating(tzinfo):
    """A zone that says another offset when it is put onto a time, as those of pytz do."""

    def fromutc(self, moment: datetime) -> datetime:
        return moment.replace(tzinfo=timezone(timedelta(hours=1)))

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(minutes=53)

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, moment: datetime | None) -> str:
        return "floating"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"when": "* * * *"}, "expected five fields"),
        ({"when": "* * * * * *"}, "expected five fields"),
        ({"when": ""}, "expected five fields"),
        ({"when": "61 * * * *"}, "Bad minute"),
        ({"when": "* * * * fun"}, "Bad day-of-week"),
        ({"when": "0 0 30 2 *"}, "expected a"),
        ({"when": "9" * 5000 + " * * * *"}, "expected a cron expression"),
        ({"when": "@reboot"}, "expected one of @hourly"),
        ({"when": 0.5}, "from 1 second to ten years, got"),
        ({"when": 0}, "from 1 second"),
        ({"when": -5}, "from 1 second"),
        ({"when": 1.00005}, "whole milliseconds"),
        ({"when": float("nan")}, "a timedelta or seconds, got nan"),
        ({"when": float("inf")}, "a timedelta or seconds, got inf"),
        ({"when": 1e300}, "a timedelta or seconds, got 1e"),
        ({"when": True}, "a timedelta or seconds, got True"),
        ({"when": None}, "a timedelta or seconds, got None"),
        ({"when": timedelta(days=4000)}, "ten years"),
        ({"when": 5, "timezone": "UTC"}, "expected none with an interval"),
        ({"timezone": "Europe/Nowhere"}, "got 'Europe/Nowhere'; if that is one.* install the package tzdata"),
        ({"timezone": ""}, "expected a name"),
        ({"timezone": "../etc/passwd"}, "expected a name"),
        ({"timezone": 3}, "or a tzinfo, got 3"),
        ({"timezone": Floating()}, "expected a tzinfo such as zoneinfo's"),
        ({"misfire": "some"}, "expected 'skip', 'once' or 'all', got 'some'"),
        ({"name": "a/b"}, "schedule name: expected"),
        ({"name": ""}, "schedule name: expected"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_where_it_is_written(fields: dict[str, object], told: str) -> None:
    """A `ConfigError` that says what was expected and what came."""
    with pytest.raises(ConfigError, match=told):
        Schedule(**{"name": "s", "when": "* * * * *", **fields})  # type: ignore[arg-type]


def test_a_schedule_says_what_it_is() -> None:
    """Zone and expression are as they are meant."""
    schedule = Schedule("s", "@daily", "Europe/Berlin")
    assert (schedule.when, schedule.zone, repr(schedule)) == (
        "0 0 * * *", ZoneInfo("Europe/Berlin"), "<schedule 's': 0 0 * * *>",
    )  # fmt: skip
    assert Schedule("s", 5).zone is UTC
