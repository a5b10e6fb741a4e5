"""Windows in words: what ``--start``, ``--end`` and ``--window`` mean, always as half-open UTC."""

from __future__ import annotations

import datetime as dt
import re
from zoneinfo import ZoneInfo

from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import YEARS

WORDS = ("today", "yesterday", "last-week", "last-month")
_AGO = re.compile(r"^(\d{1,5})(m|h|d|w)$")
_UNIT = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MONTH = re.compile(r"^(\d{4})-(\d{2})$")
_DAY = re.compile(r"^(\d{4})-(\d{2})-(\d{2})$")


def parse_time(text: str, *, now: dt.datetime, name: str = "") -> dt.datetime:
    """The UTC time of ISO 8601 with a zone, or of ``24h``, ``7d`` before ``now``.

    Raises ConfigError for anything else, naive times and years outside `flowlens.evidence.YEARS` among it.

    >>> parse_time("24h", now=dt.datetime(2026, 1, 2, tzinfo=dt.UTC)).isoformat()
    '2026-01-01T00:00:00+00:00'
    """
    ago = _AGO.match(text)
    try:
        if ago:
            time = now.astimezone(dt.UTC) - dt.timedelta(**{_UNIT[ago[2]]: int(ago[1])})
        else:
            time = dt.datetime.fromisoformat(text)
        if time.year not in YEARS:
            raise ValueError("no year of a flow log")
        if time.tzinfo is not None:
            return time.astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{name} {text!r:.60}".strip(), "is no time", hint="write 2026-06-15T11:00Z or 24h"
        ) from error
    raise ConfigError(f"{name} {text}".strip(), "has no time zone", hint=f"write {time.isoformat()}Z for UTC")


def parse_window(
    start: str | None, end: str | None, word: str | None, *, zone: ZoneInfo | None, now: dt.datetime
) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Start and end in UTC; None is open. A word's days begin at midnight in ``zone``, so a day can have 23 or 25 hours.

    Raises ConfigError for wrong words and for a window that ends before it starts.
    """
    if word is not None:
        if start or end:
            raise ConfigError("--window", "cannot stand beside --start and --end")
        return _named(word, zone, now)
    first = parse_time(start, now=now, name="--start") if start else None
    last = parse_time(end, now=now, name="--end") if end else None
    if first is not None and last is not None and first >= last:
        raise ConfigError("--start", f"{first.isoformat()} is not before --end {last.isoformat()}")
    return first, last


def _named(word: str, zone: ZoneInfo | None, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    today = now.astimezone(zone or dt.UTC).date()
    days = dt.timedelta(days=1)
    month, day = _MONTH.match(word), _DAY.match(word)
    try:
        if day:
            first = dt.date(int(day[1]), int(day[2]), int(day[3]))
            last = first + days
        elif month:
            first = dt.date(int(month[1]), int(month[2]), 1)
            last = (first + 32 * days).replace(day=1)
        elif word == "today":
            first, last = today, today + days
        elif word == "yesterday":
            first, last = today - days, today
        elif word == "last-week":
            last = today - days * today.weekday()
            first = last - 7 * days
        elif word == "last-month":
            last = today.replace(day=1)
            first = (last - days).replace(day=1)
        else:
            raise ConfigError(f"--window {word!r:.40}", "is no window", hint=near_matches(word, WORDS))
        if first.year not in YEARS:
            raise ValueError("no year of a flow log")
        return _midnight(first, zone), _midnight(last, zone)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--window {word!r:.40}", "is no date", hint="write 2026-06 or 2026-06-15") from error


def _midnight(day: dt.date, zone: ZoneInfo | None) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), zone or dt.UTC).astimezone(dt.UTC)
