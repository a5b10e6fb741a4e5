"""What times and windows in words mean, in zones whose days have 23 or 25 hours too."""

import datetime as dt
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import ConfigError
from flowlens.windows import WORDS, parse_time, parse_window

UTC = dt.UTC
HOUR = dt.timedelta(hours=1)
NOW = dt.datetime(2026, 6, 15, 10, 20, 30, tzinfo=UTC)
BERLIN, TOKYO = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Tokyo")


def utc(*parts):
    return dt.datetime(*parts, tzinfo=UTC)


def window(word, zone=None, now=NOW):
    return parse_window(None, None, word, zone=zone, now=now)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-06-15T11:00Z", utc(2026, 6, 15, 11)),
        ("2026-06-15T11:00:30.5+09:00", utc(2026, 6, 15, 2, 0, 30, 500_000)),
        ("2026-06-15 11:00-03:30", utc(2026, 6, 15, 14, 30)),
        ("20260615T110000Z", utc(2026, 6, 15, 11)),
        ("90m", utc(2026, 6, 15, 8, 50, 30)),
        ("24h", utc(2026, 6, 14, 10, 20, 30)),
        ("7d", utc(2026, 6, 8, 10, 20, 30)),
        ("2w", utc(2026, 6, 1, 10, 20, 30)),
    ],
)
def test_a_time_is_iso_with_a_zone_or_some_time_ago(text, time):
    found = parse_time(text, now=NOW)
    assert found == time
    assert found.tzinfo is UTC


def test_ago_counts_hours_that_pass_whatever_the_zone_of_now():
    # Two hours before the second 02:30 clocks showed 01:30; both are told apart in UTC alone.
    now = dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)
    assert parse_time("2h", now=now) == utc(2026, 10, 24, 23, 30)


@pytest.mark.parametrize("text", ["2026-06-15T11:00", "2026-06-15", "2026-06-15T11:00:00.5"])
def test_a_naive_time_is_refused_with_a_hint_that_works(text):
    with pytest.raises(ConfigError, match="no time zone") as caught:
        parse_time(text, now=NOW, name="--start")
    assert caught.value.where == f"--start {text}"
    written = caught.value.hint.split()[1]
    assert parse_time(written, now=NOW) == dt.datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "24",
        "24 h",
        "-24h",
        "1.5h",
        "999999h",
        "2026-13-01T00:00Z",
        "2026-02-30T00:00Z",
        "11:00Z",
        "0001-01-01T00:00+14:00",
        "9999-12-31T23:00-05:00",
        "9999-12-31T23:00Z",
        "99999w",
        "0001-01-01T00:00Z",
        "\x1b[31m" * 50,
    ],
)
def test_anything_else_is_no_time(text):
    with pytest.raises(ConfigError, match="is no time"):
        parse_time(text, now=NOW)


@given(
    st.text(max_size=30) | st.from_regex(r"\d{1,5}[mhdw]|\d{4}-\d{2}-\d{2}T\d{2}:\d{2}[+-]\d{2}:\d{2}", fullmatch=True)
)
def test_any_text_is_a_time_in_utc_or_a_config_error(text):
    try:
        found = parse_time(text, now=NOW)
    except ConfigError:
        return
    assert found.tzinfo is UTC


def test_start_and_end_are_open_where_not_given():
    assert parse_window(None, None, None, zone=None, now=NOW) == (None, None)
    assert parse_window("24h", None, None, zone=None, now=NOW) == (NOW - 24 * HOUR, None)
    assert parse_window(None, "2026-06-15T00:00Z", None, zone=TOKYO, now=NOW) == (None, utc(2026, 6, 15))
    assert parse_window("2d", "1d", None, zone=None, now=NOW) == (NOW - 48 * HOUR, NOW - 24 * HOUR)


@pytest.mark.parametrize(
    ("start", "end"), [("1h", "2h"), ("1h", "1h"), ("2026-06-15T11:00+02:00", "2026-06-15T09:00Z")]
)
def test_a_window_that_does_not_begin_before_it_ends_is_refused(start, end):
    with pytest.raises(ConfigError, match="is not before --end"):
        parse_window(start, end, None, zone=None, now=NOW)


def test_which_option_is_wrong_is_said():
    with pytest.raises(ConfigError, match=r"^--start 'x'"):
        parse_window("x", None, None, zone=None, now=NOW)
    with pytest.raises(ConfigError, match=r"^--end 'x'"):
        parse_window("1h", "x", None, zone=None, now=NOW)


@pytest.mark.parametrize("given", [("1h", None), (None, "1h")])
def test_a_word_stands_alone(given):
    with pytest.raises(ConfigError, match="beside --start and --end"):
        parse_window(*given, "yesterday", zone=None, now=NOW)


@pytest.mark.parametrize(
    ("word", "zone", "start", "end"),
    [
        ("today", None, utc(2026, 6, 15), utc(2026, 6, 16)),
        ("yesterday", None, utc(2026, 6, 14), utc(2026, 6, 15)),
        ("yesterday", TOKYO, utc(2026, 6, 13, 15), utc(2026, 6, 14, 15)),
        # 15 June 2026 is a Monday.
        ("last-week", None, utc(2026, 6, 8), utc(2026, 6, 15)),
        ("last-month", None, utc(2026, 5, 1), utc(2026, 6, 1)),
        ("last-month", BERLIN, utc(2026, 4, 30, 22), utc(2026, 5, 31, 22)),
        ("2026-06", None, utc(2026, 6, 1), utc(2026, 7, 1)),
        ("2025-12", None, utc(2025, 12, 1), utc(2026, 1, 1)),
        ("2024-02", TOKYO, utc(2024, 1, 31, 15), utc(2024, 2, 29, 15)),
        # The clocks of Berlin change on the last Sundays of March and October.
        ("2026-03", BERLIN, utc(2026, 2, 28, 23), utc(2026, 3, 31, 22)),
        ("2024-02-29", None, utc(2024, 2, 29), utc(2024, 3, 1)),
        ("2026-12-31", BERLIN, utc(2026, 12, 30, 23), utc(2026, 12, 31, 23)),
    ],
)
def test_words_and_dates_mean_whole_days_of_the_zone(word, zone, start, end):
    assert window(word, zone) == (start, end)


def test_every_word_is_known():
    assert {word for word in WORDS if window(word)[0] < window(word)[1]} == set(WORDS)


def test_what_yesterday_is_depends_on_the_zone():
    late = utc(2026, 6, 15, 23, 30)
    assert window("yesterday", None, late) == (utc(2026, 6, 14), utc(2026, 6, 15))
    assert window("yesterday", TOKYO, late) == (utc(2026, 6, 14, 15), utc(2026, 6, 15, 15))
    assert window("last-month", TOKYO, utc(2026, 6, 30, 23)) == (utc(2026, 5, 31, 15), utc(2026, 6, 30, 15))
    assert window("last-month", None, utc(2026, 1, 1)) == (utc(2025, 12, 1), utc(2026, 1, 1))


@pytest.mark.parametrize(
    ("zone", "today", "hours"),
    [
        ("Europe/Berlin", (2026, 3, 30), 23),
        ("Europe/Berlin", (2026, 10, 26), 25),
        ("Europe/Berlin", (2026, 3, 31), 24),
        ("America/New_York", (2026, 3, 9), 23),
        ("America/New_York", (2026, 11, 2), 25),
        # Here clocks change at midnight, so the day begins where 00:00 would not exist, or comes twice.
        ("America/Havana", (2025, 3, 10), 23),
        ("America/Havana", (2025, 11, 3), 25),
        ("Australia/Lord_Howe", (2025, 10, 6), 23.5),
        ("Asia/Tokyo", (2026, 3, 30), 24),
    ],
)
def test_yesterday_has_the_hours_that_the_zone_gave_it(zone, today, hours):
    now = dt.datetime(*today, 12, tzinfo=ZoneInfo(zone))
    start, end = window("yesterday", ZoneInfo(zone), now)
    assert (end - start) / HOUR == hours


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe"])
def test_the_days_of_two_years_meet_and_miss_no_hour(name):
    zone = ZoneInfo(name)
    first, last = dt.date(2024, 1, 1), dt.date(2026, 1, 1)
    days = [first + dt.timedelta(days=n) for n in range((last - first).days)]
    windows = [window(f"{day}", zone) for day in days]
    assert all(before[1] == after[0] for before, after in pairwise(windows))
    # Noon is never doubled or left out, so it tells the offset in force.
    for day, (start, end) in zip(days, windows, strict=True):
        assert start < dt.datetime(day.year, day.month, day.day, 12, tzinfo=zone) < end
        assert (end - start) / HOUR in (23, 23.5, 24, 24.5, 25)
    lengths = [(end - start) / HOUR for start, end in windows]
    assert sum(lengths) == (windows[-1][1] - windows[0][0]) / HOUR == 24 * len(days)
    assert sum(length != 24 for length in lengths) == 4
    months = [window(f"{year}-{month:02}", zone) for year in (2024, 2025) for month in range(1, 13)]
    assert sum((end - start) / HOUR for start, end in months) == sum(lengths)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("yesterdy", "did you mean yesterday?"),
        ("Yesterday", "did you mean yesterday"),
        ("last-mouth", "did you mean last-month"),
        ("lastweek", "did you mean last-week"),
        ("zzz", "known: last-month, last-week, today, yesterday"),
        ("", "known: last-month, last-week, today, yesterday"),
    ],
)
def test_a_wrong_word_is_told_what_was_meant(word, hint):
    with pytest.raises(ConfigError, match="is no window") as caught:
        window(word)
    assert hint in caught.value.hint


@pytest.mark.parametrize("word", ["2026-13", "2026-00", "2026-02-30", "0000-01", "9999-12", "9999-12-31"])
def test_a_date_that_does_not_exist_or_has_no_end_is_refused(word):
    with pytest.raises(ConfigError, match="is no date"):
        window(word)


@given(st.text(max_size=20) | st.from_regex(r"[0-9]{4}-[0-9]{2}(-[0-9]{2})?", fullmatch=True))
def test_any_word_is_a_window_or_a_config_error(word):
    try:
        start, end = window(word, TOKYO)
    except ConfigError:
        return
    assert start < end and start.tzinfo is UTC and end.tzinfo is UTC
