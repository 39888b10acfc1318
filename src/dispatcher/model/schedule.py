"""When something that comes back is due: cron expressions and intervals, in a time zone, as pure functions of given instants.

Every instant is Unix time in milliseconds. Nothing here reads a clock or knows what is fired. This is the one module
that knows the cron library, and it asks it for local times without a zone only: what a change of the clocks means is
decided here (docs/decisions/0019-cron.md).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

import msgspec

from ..errors import ConfigError
from .retry import MAX_DELAY_SECONDS
from .task import NAME_PATTERN

__all__ = ["MOST_MISSED", "Due", "Misfire", "Schedule", "firing_uuid"]

Misfire = Literal["skip", "once", "all"]

MOST_MISSED = 1000
"""The most instants of a downtime that are fired, or looked at: the latest ones."""

HANDOVER_MS = 10_000
"""What is late by no more than this was not missed: one leader died, the next took over. It is fired, each instant of it."""

CLOCK_SLACK_MS = 3_600_000
"""A last firing that is further in the future than this was a clock's mistake, not another machine's small lead."""

LONGEST_FOLD = timedelta(hours=3)
"""Further than any clock is put back."""

LONGEST_INTERVAL = timedelta(seconds=MAX_DELAY_SECONDS)
SHORTEST_INTERVAL = timedelta(seconds=1)

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_NAMESPACE = uuid.UUID("6f0c2b0e-8d0a-5b5c-9c9e-3d1f0c5f7a11")

_force = msgspec.structs.force_setattr


def firing_uuid(name: str, instant_ms: int) -> str:
    """The uuid of the firing of schedule `name` at that instant: a version-5 UUID (RFC 9562), the same on every machine."""
    return str(uuid.uuid5(_NAMESPACE, f"{name}@{instant_ms}"))


class Due(msgspec.Struct, frozen=True):
    """What is to be fired now, oldest first.

    `missed`: how many instants were too late to be taken for a change of leaders, at most 1,000; `unseen`: there were
    more of them, further back; `made_up_for`: how many of them are among those to be fired. `until_ms`: up to where it
    has been looked.
    """

    fire: tuple[int, ...]
    missed: int
    unseen: bool
    made_up_for: int
    until_ms: int


class Schedule(msgspec.Struct, frozen=True):
    """One schedule: its name, when it fires, in which time zone, and what becomes of what was missed.

    `when`: a cron expression of five fields (minute, hour, day of month, month, day of week), one of `@hourly`,
    `@daily`, `@weekly`, `@monthly`, `@yearly`, or an interval as a timedelta or a number of seconds, from 1 second to
    ten years, in whole milliseconds. Intervals are counted from the Unix epoch, so that all machines count alike.
    `timezone`: an IANA name or a tzinfo, None is UTC. An interval knows no time zone.
    `misfire`: of the instants that passed by more than 10 s, because nobody was there to fire them, `"skip"` fires none,
    `"once"` the latest unless a later one is fired anyway, `"all"` each, but at most the latest 1,000.

    When the clocks change, an expression whose minutes and hours both do not begin with `*` (`30 2 * * *`) names times
    of the day: one that is skipped fires once, right after the gap, and one that comes twice fires the first time. Any
    other (`*/5 * * * *`, `0 */2 * * *`) follows the time that passes: it fires whenever the clock shows a fitting time,
    in both of the hours that look alike, and never for one that is skipped.

    Raises `ConfigError` for what is none of that, and for an expression that never comes true.
    """

    name: str
    when: str | timedelta | float
    timezone: str | tzinfo | None = None
    misfire: Misfire = "once"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or NAME_PATTERN.fullmatch(self.name) is None:
            raise ConfigError(
                f"schedule name: expected 1 to 200 of the characters A-Z a-z 0-9 _ . : -, got {self.name!r}"
            )
        if self.misfire not in ("skip", "once", "all"):
            raise ConfigError(f"misfire of {self.name!r}: expected 'skip', 'once' or 'all', got {self.misfire!r}")
        if isinstance(self.when, str):
            _force(self, "when", _expression(self.name, self.when))
            _force(self, "timezone", _zone(self.name, self.timezone))
        else:
            _force(self, "when", _interval(self.name, self.when))
            if self.timezone is not None:
                raise ConfigError(f"timezone of {self.name!r}: expected none with an interval, got {self.timezone!r}")

    def __repr__(self) -> str:
        return f"<schedule {self.name!r}: {self.written}>"

    @property
    def zone(self) -> tzinfo:
        """The time zone of its times."""
        return self.timezone if isinstance(self.timezone, tzinfo) else UTC

    @property
    def written(self) -> str:
        """When it fires, for people: `*/5 * * * *`, or `every 10 s`."""
        return self.when if isinstance(self.when, str) else f"every {_every_ms(self.when) / 1000:g} s"

    def next_after(self, instant_ms: int) -> int:
        """The first instant at which it is due after that one."""
        if isinstance(self.when, str):
            return _next_in_zone(self.when, self.zone, instant_ms)
        every_ms = _every_ms(self.when)
        return (instant_ms // every_ms + 1) * every_ms

    def due_between(self, last_ms: int, now_ms: int, most: int = MOST_MISSED) -> tuple[list[int], bool]:
        """The instants after `last_ms` up to and with `now_ms`, the latest `most` of them; whether there were more.

        The cost grows with `most`, not with the time that has passed.
        """
        span_ms, found = 60_000, list[int]()
        start_ms = now_ms
        while start_ms > last_ms and len(found) <= most:
            start_ms = max(last_ms, now_ms - span_ms)
            found = list(self._from(start_ms, now_ms))
            span_ms *= 2
        return found[-most:], len(found) > most

    def _from(self, last_ms: int, now_ms: int) -> Iterator[int]:
        at_ms = self.next_after(last_ms)
        while at_ms <= now_ms:
            yield at_ms
            at_ms = self.next_after(at_ms)

    def due(self, last_ms: int, now_ms: int) -> Due:
        """What is to be fired at `now_ms` if everything up to `last_ms` has been, as `misfire` says."""
        instants, more = self.due_between(last_ms, now_ms)
        missed = sum(now_ms - at_ms > HANDOVER_MS for at_ms in instants)
        late, punctual = instants[:missed], instants[missed:]
        match self.misfire:
            case "skip":
                fire = punctual
            case "once":
                fire = punctual or late[-1:]
            case "all":
                fire = instants
        made_up_for = sum(now_ms - at_ms > HANDOVER_MS for at_ms in fire)
        return Due(tuple(fire), missed, more, made_up_for, max(last_ms, now_ms))

    def begin(self, last_ms: int, now_ms: int) -> int:
        """From where to go on if `last_ms` was the last firing: from now, where a clock was wrong by hours."""
        return now_ms if last_ms - now_ms > CLOCK_SLACK_MS else last_ms


# --- checking -------------------------------------------------------------------------------------------------------


def _expression(name: str, when: str) -> str:
    text = " ".join(when.split())
    if text.startswith("@"):
        known = _NAMED.get(text.lower())
        if known is None:
            raise ConfigError(f"when of {name!r}: expected one of {', '.join(_NAMED)}, got {when!r}")
        return known
    if len(text.split(" ")) != 5:
        raise ConfigError(
            f"when of {name!r}: expected five fields, minute hour day-of-month month day-of-week, as in '*/5 * * * *',"
            f" got {when!r:.200}"
        )
    from cronsim import CronSimError

    try:
        next(_fitting(text, datetime(2000, 1, 1)))
    except (CronSimError, ValueError) as error:  # the second for a number of thousands of digits
        raise ConfigError(f"when of {name!r}: expected a cron expression, got {when!r:.200}: {error}") from None
    except StopIteration:
        raise ConfigError(f"when of {name!r}: expected a time that comes, got {when!r}, which never does") from None
    return text


def _interval(name: str, when: object) -> timedelta:
    if isinstance(when, int | float) and not isinstance(when, bool) and math.isfinite(when) and abs(when) < 1e12:
        when = timedelta(seconds=when)
    if not isinstance(when, timedelta):
        raise ConfigError(f"when of {name!r}: expected a cron expression, a timedelta or seconds, got {when!r}")
    if not SHORTEST_INTERVAL <= when <= LONGEST_INTERVAL:
        raise ConfigError(f"when of {name!r}: expected an interval from 1 second to ten years, got {when!s}")
    if when % timedelta(milliseconds=1):
        raise ConfigError(f"when of {name!r}: expected an interval of whole milliseconds, got {when!s}")
    return when


def _every_ms(when: timedelta | float) -> int:
    assert isinstance(when, timedelta), "numbers became one when the schedule was made"
    return when // timedelta(milliseconds=1)


def _zone(name: str, timezone: object) -> tzinfo:
    if timezone is None:
        return UTC
    if isinstance(timezone, tzinfo):
        _check_zone(name, timezone)
        return timezone
    if not isinstance(timezone, str):
        raise ConfigError(
            f"timezone of {name!r}: expected a name such as 'Europe/Berlin' or a tzinfo, got {timezone!r}"
        )
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"timezone of {name!r}: expected a name such as 'Europe/Berlin', got {timezone!r}; if that is one, this"
            " system has no time zones: install the package tzdata"
        ) from None


def _check_zone(name: str, zone: tzinfo) -> None:
    """pytz's zones are refused: put onto a local time as every other tzinfo is, they mean the offset of 1900."""
    for month in (1, 7):
        moment = datetime.fromtimestamp(datetime(2026, month, 1, tzinfo=UTC).timestamp(), zone)
        if moment.utcoffset() is None or moment.replace(tzinfo=zone).utcoffset() != moment.utcoffset():
            raise ConfigError(
                f"timezone of {name!r}: expected a tzinfo such as zoneinfo's, got {zone!r}, whose offset depends on how it"
                " is asked; name the zone instead"
            )


# --- local times and instants ---------------------------------------------------------------------------------------


def _fitting(expression: str, start: datetime) -> Iterator[datetime]:
    """The local times after `start` that fit, without a zone."""
    from cronsim import CronSim

    return CronSim(expression, start)


def _next_in_zone(expression: str, zone: tzinfo, instant_ms: int) -> int:
    minute, hour = expression.split(" ")[:2]
    now = datetime.fromtimestamp(instant_ms // 1000, zone)
    if minute.startswith("*") or hour.startswith("*"):
        return _next_shown(expression, zone, instant_ms, now)
    # In the order of local times the instants never decrease, so the first that is later is the next.
    for local in _fitting(expression, now.replace(tzinfo=None, fold=0)):
        at_ms = _first_instant(local, zone)
        if at_ms > instant_ms:
            return at_ms
    raise AssertionError("an expression that comes true once does so again")


def _next_shown(expression: str, zone: tzinfo, instant_ms: int, now: datetime) -> int:
    """The next instant at which the clock shows a fitting time."""
    local_now = now.replace(tzinfo=None, fold=0)
    start = local_now
    ahead = datetime.fromtimestamp(instant_ms // 1000 + LONGEST_FOLD.total_seconds(), zone)
    if _offset(ahead) < _offset(now):
        start -= LONGEST_FOLD  # times that are past will be shown once more
    found: list[int] = []
    for local in _fitting(expression, start):
        found += [at_ms for at_ms in _instants(local, zone) if at_ms > instant_ms]
        if found and local > local_now:
            return min(found)
    raise AssertionError("an expression that comes true once does so again")


def _offset(moment: datetime) -> timedelta:
    offset = moment.utcoffset()
    assert offset is not None, "made with a time zone"
    return offset


def _instants(local: datetime, zone: tzinfo) -> list[int]:
    """When a clock in `zone` shows that time: once, twice, or never."""
    found: list[int] = []
    for fold in (0, 1):
        moment = local.replace(tzinfo=zone, fold=fold)
        seconds = round(moment.timestamp())
        if datetime.fromtimestamp(seconds, zone).replace(tzinfo=None, fold=0) == local and seconds * 1000 not in found:
            found.append(seconds * 1000)
    return found


def _first_instant(local: datetime, zone: tzinfo) -> int:
    """When a clock in `zone` first shows that time, or, where it skips it, the first after it."""
    while not (found := _instants(local, zone)):
        local += timedelta(minutes=1)
    return min(found)
