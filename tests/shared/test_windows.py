"""A window opens when the wall clock says so: held against a walk through every minute, wherever
clocks are changed.
"""

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.windows import (
    DAY_NAMES,
    EVERY_DAY,
    Window,
    make_window,
    next_opening,
    parse_window,
    window_text,
)

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
TRICKY = [
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "America/St_Johns",
]
ZONES = st.sampled_from(TRICKY) | st.sampled_from(sorted(available_timezones() - {"localtime"}))
MINUTES = st.integers(0, 1439) | st.integers(0, 40).map(lambda n: n * 5) | st.integers(1380, 1439)


@st.composite
def windows(draw, zones=ZONES):
    start = draw(MINUTES)
    end = draw((MINUTES | st.just(1440)).filter(lambda end: end not in {0, start}))
    return Window(start, end, draw(zones), draw(st.frozensets(st.integers(0, 6), min_size=1)))


class Walk:
    """What the wall clock of a zone reads in each minute around an instant; only ever from UTC to
    local.
    """

    def __init__(self, zone, around):
        self.instants = [around + n * MINUTE for n in range(-5 * 1440, 20 * 1440)]
        walls = (
            instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for instant in self.instants
        )
        self.latest = list(
            accumulate(walls, max)
        )  # the latest reading so far: X is reached where this first is X or later

    def next_opening(self, window, now):
        midnight = self.latest[0].replace(hour=0, minute=0) + DAY
        for day in (midnight + n * DAY for n in range(23)):
            start, end = day + window.start * MINUTE, day + window.end * MINUTE
            end += DAY if window.end <= window.start else 0 * DAY
            opens, closes = (self.instants[bisect_left(self.latest, wall)] for wall in (start, end))
            if day.weekday() in window.days and opens < closes and now < closes:
                return opens, closes
        raise AssertionError(window, now)


def changes(zone, year):
    """Instants within six hours after each change of the clocks of `zone` in `year`; its first of
    June if there is none.
    """
    hours = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=6 * n) for n in range(1460)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    changed = [hours[n] for n in range(1, 1460) if offsets[n] != offsets[n - 1]]
    return changed or [datetime(year, 6, 1, tzinfo=UTC)]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), zone=ZONES, year=st.integers(1973, 2060) | st.just(2011))
def test_an_opening_is_the_one_that_a_walk_through_every_minute_finds(data, zone, year):
    around = (
        data.draw(st.sampled_from(changes(zone, year)))
        - data.draw(st.sampled_from([0, 0, 3, 7])) * DAY
    )
    walk = Walk(zone, around)
    for window in data.draw(st.lists(windows(st.just(zone)), min_size=5, max_size=10)):
        now = around + timedelta(seconds=data.draw(st.integers(-36 * 3600, 36 * 3600)))
        for instant in (
            now,
            *(
                edge + nudge
                for edge in walk.next_opening(window, now)
                for nudge in (-MINUTE / 60, 0 * DAY)
            ),
        ):
            if instant - around < 3 * DAY:
                assert next_opening(window, instant) == walk.next_opening(window, instant)


@pytest.mark.parametrize(
    ("window", "now", "opens", "closes"),
    [
        (
            "02:30-04:00 mon-sun America/New_York",
            "2026-03-08T05:00",
            "2026-03-08T07:00",
            "2026-03-08T08:00",
        ),  # gap
        (
            "02:10-02:50 mon-sun America/New_York",
            "2026-03-08T05:00",
            "2026-03-09T06:10",
            "2026-03-09T06:50",
        ),  # swallowed
        (
            "02:10-02:50 sun America/New_York",
            "2026-03-01T07:50",
            "2026-03-15T06:10",
            "2026-03-15T06:50",
        ),  # two weeks on
        (
            "01:30-01:45 mon-sun America/New_York",
            "2026-11-01T05:00",
            "2026-11-01T05:30",
            "2026-11-01T05:45",
        ),  # first pass
        (
            "01:30-01:45 mon-sun America/New_York",
            "2026-11-01T06:35",
            "2026-11-02T06:30",
            "2026-11-02T06:45",
        ),  # no second
        (
            "01:30-02:00 mon-sun America/New_York",
            "2026-11-01T06:35",
            "2026-11-01T05:30",
            "2026-11-01T07:00",
        ),  # stays open
        (
            "22:00-06:00 mon Europe/Berlin",
            "2026-07-07T03:59:59",
            "2026-07-06T20:00",
            "2026-07-07T04:00",
        ),  # opened on Monday
        (
            "22:00-06:00 mon Europe/Berlin",
            "2026-07-07T04:00",
            "2026-07-13T20:00",
            "2026-07-14T04:00",
        ),  # closes is not open
        ("20:00-24:00", "2026-12-31T23:59:59", "2026-12-31T20:00", "2027-01-01T00:00"),
        ("00:00-24:00", "2026-12-31T00:00", "2026-12-31T00:00", "2027-01-01T00:00"),
        (
            "22:00-06:00 thu",
            "2026-12-31T12:00",
            "2026-12-31T22:00",
            "2027-01-01T06:00",
        ),  # over the end of the year
        ("09:00-17:00 fri-mon", "2026-07-07T00:00", "2026-07-10T09:00", "2026-07-10T17:00"),
        (
            "02:15-03:00 mon-sun Australia/Lord_Howe",
            "2026-10-03T15:00",
            "2026-10-03T15:30",
            "2026-10-03T16:00",
        ),
        (
            "09:00-17:00 fri Pacific/Apia",
            "2011-12-29T00:00",
            "2012-01-05T19:00",
            "2012-01-06T03:00",
        ),  # no 30 December
        (
            "22:00-06:00 fri Pacific/Apia",
            "2011-12-29T00:00",
            "2011-12-30T10:00",
            "2011-12-30T16:00",
        ),
        (
            "00:10-01:00 mon-sun Africa/Monrovia",
            "1972-01-07T00:00",
            "1972-01-07T00:44:30",
            "1972-01-07T01:00",
        ),  # seconds
    ],
)
def test_a_window_opens_and_closes_by_the_wall_clock(window, now, opens, closes):
    utc = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (now, opens, closes)]
    opening = next_opening(parse_window(window), utc[0].astimezone(ZoneInfo("Asia/Kathmandu")))
    assert (*opening, opening.opens.tzinfo, opening.closes.tzinfo) == (utc[1], utc[2], UTC, UTC)


@given(windows())
def test_a_window_comes_back_from_its_text_and_from_its_parts(window):
    text = window_text(window)
    start, _, end = text.split()[0].partition("-")
    assert parse_window(text) == parse_window(window) == window
    assert make_window(start, end, window.zone, [DAY_NAMES[day] for day in window.days]) == window


def test_what_is_left_out_has_a_default():
    assert (
        parse_window("22:00-00:00")
        == Window(1320, 1440, "UTC", EVERY_DAY)
        == make_window("22:00", "24:00", "UTC", [])
    )
    assert parse_window("22:00-06:00 Europe/Berlin") == Window(
        1320, 360, "Europe/Berlin", EVERY_DAY
    )
    assert parse_window(" 22:00-06:00  mon,wed,fri-sun ") == Window(
        1320, 360, "UTC", frozenset({0, 2, 4, 5, 6})
    )


WRONG = [
    "",
    None,
    7,
    "22:00",
    "22-06",
    "7:00-08:00",
    "24:00-06:00",
    "08:00-24:01",
    "08:00-08:00",
    "00:00-00:00",
    "08:60-09:00",
]
WRONG += [
    "08:00-09:00 mon-fry UTC",
    "08:00-09:00 mon, tue UTC",
    "08:00-09:00 mon UTC x",
    "08:00-09:00 , UTC",
    "٠٨:00-09:00",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_window_that_cannot_be_read_says_how_to_write_one(text):
    with pytest.raises(ValueError, match=r"^write a window as 22:00-06:00 mon-sun Europe/Berlin$"):
        parse_window(text)


ODD_ZONES = [
    "../etc/passwd",
    "/etc/localtime",
    "Mars/X",
    "a\0b",
    "localtime",
    "europe/berlin",
    "\u202e" + "x" * 99,
]


@pytest.mark.parametrize("zone", ODD_ZONES)
def test_only_names_of_the_time_zone_database_are_zones(zone):
    with pytest.raises(ValueError, match=r"^unknown time zone: [\x20-\x7e]{1,64}$"):
        parse_window(f"08:00-09:00 {zone}")


WRONG_PARTS = [
    (("24:00", "06:00", "UTC", []), "start must be written as HH:MM"),
    (("08:00", None, "UTC", []), "end must be written as HH:MM"),
    (("08:00", "09:00", "", []), "timeZone is not a known time zone"),
    (("08:00", "09:00", ["UTC"], []), "timeZone is not a known time zone"),
    (
        ("08:00", "09:00", "UTC", ["mon", "Tue"]),
        "days must be of mon, tue, wed, thu, fri, sat, sun",
    ),
    (("08:00", "08:00", "UTC", []), "start and end must differ"),
]


@pytest.mark.parametrize(("parts", "message"), WRONG_PARTS)
def test_parts_that_are_wrong_are_named(parts, message):
    with pytest.raises(ValueError, match=message):
        make_window(*parts)


def test_a_time_without_a_zone_and_a_window_without_days_are_refused():
    with pytest.raises(ValueError, match="now must have a time zone"):
        next_opening(parse_window("08:00-09:00"), datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="never opens"):
        next_opening(Window(0, 60, "UTC", frozenset()), datetime(2026, 1, 1, tzinfo=UTC))
