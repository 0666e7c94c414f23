"""Daily time windows: when work may run, in the wall-clock time of one zone, whatever its clocks do
in spring and autumn.

Pure functions: nothing here reads the clock; only the time zone database is read. One rule decides
every doubt: a local time is reached at the first instant at which the wall clock reads it or later,
and never a second time.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from .printable import brief

DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY = frozenset(range(7))

_MIDNIGHT = 24 * 60
# A weekly opening may fall into the gap of a change of clocks; then the next is two weeks away.
_DAYS_BEFORE, _DAYS_AFTER = 2, 16
_HOW = "write a window as 22:00-06:00 mon-sun Europe/Berlin"
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_DAY = "(?:" + "|".join(DAY_NAMES) + ")"
_DAYS = re.compile(rf"{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*")


class Window(NamedTuple):
    """`start` (0..1439) to `end` (1..1440), in minutes after midnight in `zone`, opening on `days`
    (0 = Monday).

    An `end` before `start` is on the next day. The two always differ.
    """

    start: int
    end: int
    zone: str
    days: frozenset[int]


class Opening(NamedTuple):
    """One time that a window is open: `opens` <= t < `closes`, both aware and in UTC."""

    opens: datetime
    closes: datetime


def parse_window(text: object) -> Window:
    """Reads `22:00-06:00 mon-sun Europe/Berlin`; without days every day, without a zone UTC.

    Raises ValueError with a message that says how to write it.
    """
    if isinstance(text, Window):
        return text
    clocks, *rest = str(text).split() or [""]
    days = rest.pop(0) if rest and (len(rest) > 1 or _DAYS.fullmatch(rest[0])) else "mon-sun"
    zone = rest.pop(0) if rest else "UTC"
    start, _, end = clocks.partition("-")
    if rest or not _DAYS.fullmatch(days):
        raise ValueError(_HOW)
    if not _is_zone(zone):
        raise ValueError(f"unknown time zone: {brief(zone)}")
    try:
        return make_window(start, end, zone, [DAY_NAMES[day] for day in _read_days(days)])
    except ValueError as wrong:
        raise ValueError(_HOW) from wrong


def make_window(start: str, end: str, zone: str, days: Sequence[str]) -> Window:
    """The window of `22:00`, `06:00`, `America/New_York` and `["mon", …]`; no days means every day.

    Raises ValueError whose text begins with the part that is wrong: `start`, `end`, `timeZone` or
    `days`.
    """
    opens, closes = _minutes(start), _minutes(end)
    if opens is None or opens == _MIDNIGHT:
        raise ValueError("start must be written as HH:MM")
    if closes is None:
        raise ValueError("end must be written as HH:MM")
    if not _is_zone(zone):
        raise ValueError("timeZone is not a known time zone")
    if not all(day in DAY_NAMES for day in days):
        raise ValueError("days must be of " + ", ".join(DAY_NAMES))
    if opens == closes:
        raise ValueError("start and end must differ")
    return Window(
        opens, closes or _MIDNIGHT, zone, frozenset(map(DAY_NAMES.index, days)) or EVERY_DAY
    )


def window_text(window: Window) -> str:
    """`window` as parse_window reads it, such as `22:00-06:00 mon-fri Europe/Berlin`."""
    runs: list[list[int]] = []
    for day in sorted(window.days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    days = ",".join(map(_run_text, runs))
    return f"{_clock(window.start)}-{_clock(window.end)} {days} {window.zone}"


def _run_text(run: list[int]) -> str:
    """`mon-fri` for days that follow each other, `mon` for one alone."""
    first, last = DAY_NAMES[run[0]], DAY_NAMES[run[-1]]
    return first if first == last else f"{first}-{last}"


def next_opening(window: Window, now: datetime) -> Opening:
    """The opening that the aware `now` lies in, else the next one. A day has none whose opening
    falls into a gap as a whole.

    Raises ValueError if `now` has no zone or the window has no days.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    zone = _zone(window.zone)
    today = now.astimezone(zone).date()
    for ahead in range(-_DAYS_BEFORE, _DAYS_AFTER + 1):
        day = today + timedelta(days=ahead)
        if day.weekday() in window.days:
            opening = _opening(window, day, zone)
            if now < opening.closes and opening.opens < opening.closes:
                return opening  # openings never overlap, so the first that is not over is the one
    raise ValueError("the window never opens")


def _opening(window: Window, day: date, zone: ZoneInfo) -> Opening:
    """The opening of `day`, which is empty where it falls into a gap."""
    midnight = datetime.combine(day, time())  # naive: it is the wall clock that adds up
    end = window.end if window.end > window.start else window.end + _MIDNIGHT
    return Opening(
        _reached(midnight + timedelta(minutes=window.start), zone),
        _reached(midnight + timedelta(minutes=end), zone),
    )


def _reached(local: datetime, zone: ZoneInfo) -> datetime:
    """The first instant, in UTC, at which the wall clock of `zone` reads the naive `local` or
    later.
    """
    after = local.replace(tzinfo=zone).astimezone(UTC)
    if _wall(after, zone) == local:
        return after  # fold=0: the first of the two in an overlap
    # The clock never reads `local`: the gap ends in between.
    before = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    seconds = range(int((after - before).total_seconds()))

    def is_behind(second: int) -> bool:
        return _wall(before + timedelta(seconds=second), zone) >= local

    return before + timedelta(seconds=bisect_left(seconds, True, key=is_behind))


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    """What the wall clock of `zone` reads at `instant`, naive."""
    return instant.astimezone(zone).replace(tzinfo=None)


def _minutes(clock: object) -> int | None:
    """Minutes after midnight of `HH:MM` up to `24:00`, None for anything else."""
    if not isinstance(clock, str) or not _CLOCK.fullmatch(clock):
        return None
    return int(clock[:2]) * 60 + int(clock[3:])


def _clock(minutes: int) -> str:
    """`HH:MM` of minutes after midnight."""
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _read_days(text: str) -> frozenset[int]:
    """The days of `mon,wed,fri-sun`; a range may go over the end of the week."""
    days: set[int] = set()
    for part in text.split(","):
        first, last = DAY_NAMES.index(part[:3]), DAY_NAMES.index(part[-3:])
        days.update((first + ahead) % 7 for ahead in range((last - first) % 7 + 1))
    return frozenset(days)


def _is_zone(name: object) -> bool:
    """Whether `name` is in the time zone database. The path of a file is not."""
    return isinstance(name, str) and name in _zone_names()


@cache
def _zone_names() -> frozenset[str]:
    """Every IANA name; not `localtime`, which means something else on every machine."""
    return frozenset(available_timezones() - {"localtime"})


@cache
def _zone(name: str) -> ZoneInfo:
    """The zone of a valid name, kept for good: ZoneInfo's own cache holds only eight."""
    return ZoneInfo(name)
