"""Single fields of flow tuples and records, read one at a time: the rules that every flow log format shares."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from flowlens import evidence, schema

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

_Found = TypeVar("_Found")

SECONDS_BELOW = 10**11
"""A time stamp below this counts seconds, else milliseconds (formats.md 2.1: samples show both)."""
_UTC = dt.UTC
EARLIEST = int(dt.datetime(2015, 1, 1, tzinfo=_UTC).timestamp()) * 1_000_000
LATEST = int(dt.datetime(2101, 1, 1, tzinfo=_UTC).timestamp()) * 1_000_000
"""Microseconds; a time stamp before the first or from the second on is a reject."""

_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()

PORT_LIMIT = 2**16
PROTOCOL_LIMIT = 2**8
_SHORT = 64
"""Letters of a text that is worth keeping with what it was read as; no MAC address and no time that Azure writes is longer."""
_MAC = re.compile(r"[0-9A-F]{12}")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))?"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_ADDRESS = 64
_CODES_KEPT = 100

Notes = Counter[str]
"""Unknown codes and unreadable context by name, as in ``Ledger.unknown_codes``."""


class Malformed(Exception):  # noqa: N818
    """A flow tuple, record or part of one is not what the format says; the text says what was expected."""


class FlowTuple(NamedTuple):
    """One decoded flow tuple; the names are those of schema.FLOWS, ``time`` in microseconds."""

    time: int
    src_ip: str
    dst_ip: str
    src_port: int | None
    dst_port: int | None
    protocol: int
    direction: str
    flow_state: str | None
    flow_status: str
    encryption_code: str | None
    packets_sent: int | None
    bytes_sent: int | None
    packets_received: int | None
    bytes_received: int | None


def shown(text: str) -> str:
    """``text`` short and printable, for a reason."""
    return evidence.sample(text)[:60] or "nothing"


def kind(value: object) -> str:
    """What a JSON value is, in words.

    >>> kind([1]), kind(None)
    ('a list', 'nothing')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    for type_, words in ((str, "text"), (list, "a list"), (dict, "an object")):
        if isinstance(value, type_):
            return words
    return "a number"


def clean(text: str) -> str:
    """``text`` with lone surrogates replaced, which JSON can write but no table can hold.

    >>> clean("a\\ud800b")
    'a\ufffdb'
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def whole(text: str, name: str, limit: int) -> int:
    """A number of ASCII digits below ``limit``; raises Malformed.

    >>> whole("0443", "dst_port", PORT_LIMIT)
    443
    """
    digits = text if len(text) < 20 else text.lstrip("0") or "0"
    if len(digits) < 20 and digits.isdigit() and digits.isascii() and (number := int(digits)) < limit:
        return number
    raise Malformed(f"{name}: expected a whole number below {limit}, found {shown(text)}")


def whole_or_null(text: str, name: str, limit: int) -> int | None:
    """As ``whole``; None where the field is empty."""
    return whole(text, name, limit) if text else None


def time_stamp(text: str) -> int:
    """Microseconds since 1970 of a time stamp in seconds or milliseconds; raises Malformed outside 2015..2100.

    >>> time_stamp("1663146003") == time_stamp("1663146003000")
    True
    """
    number = whole(text, "time", 10**19)
    microseconds = number * (1_000_000 if number < SECONDS_BELOW else 1_000)
    if EARLIEST <= microseconds < LATEST:
        return microseconds
    raise Malformed(f"time: expected a time stamp in 2015..2100, found {shown(text)}")


def address(text: str, name: str) -> str:
    """Canonical text of an address: no zone, and IPv4 where IPv6 maps it; raises Malformed.

    >>> address("2001:DB8:0::1", "src_ip"), address("::ffff:192.0.2.1", "src_ip"), address("fe80::1%eth0", "src_ip")
    ('2001:db8::1', '192.0.2.1', 'fe80::1')
    """
    try:
        return _canonical_kept(text) if len(text) <= _LONGEST_ADDRESS else _canonical(text)
    except ValueError:
        raise Malformed(f"{name}: expected an address, found {shown(text)}") from None


def _canonical(text: str) -> str:
    parsed = ipaddress.ip_address(text)
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed)))


_canonical_kept = lru_cache(maxsize=2**16)(_canonical)


def named(code: str, names: dict[str, str], field: str) -> str:
    """The word for a code; an unknown code is kept behind UNKNOWN_PREFIX, an empty one raises Malformed."""
    if not code:
        raise Malformed(f"{field}: expected a code, found nothing")
    return names.get(code) or schema.UNKNOWN_PREFIX + code


def counters(fields: list[str], state: str | None) -> tuple[int | None, int | None, int | None, int | None]:
    """The four counters; a Begin or Deny has none, so a zero there means none (formats.md 2.2). Raises Malformed."""
    numbers = [
        whole_or_null(text, name, schema.COUNTER_LIMIT) for name, text in zip(schema.COUNTERS, fields, strict=True)
    ]
    if state in ("Begin", "Deny"):
        numbers = [number or None for number in numbers]
    return numbers[0], numbers[1], numbers[2], numbers[3]


def note_unknown(flow: FlowTuple, notes: Notes) -> None:
    """Count the codes of a decoded flow tuple that no table in schema.py knows."""
    for name, value in (("direction", flow.direction), ("state", flow.flow_state)):
        if value and value.startswith(schema.UNKNOWN_PREFIX):
            notes[f"{name} {shown(value.removeprefix(schema.UNKNOWN_PREFIX))}"] += 1
    code = flow.encryption_code
    if code is not None and code not in schema.ENCRYPTION_STATUS:
        notes[f"encryption {shown(code)}"] += 1


def text_or_null(value: object, column: str, notes: Notes) -> str | None:
    """A name from a record; anything but text is null, and counted where something was there."""
    if isinstance(value, str):
        return clean(value)
    if value is not None:
        notes[f"{column} {kind(value)}"] += 1
    return None


def _kept(value: object, column: str, notes: Notes, read: _lru_cache_wrapper[_Found | None]) -> _Found | None:
    """What ``read`` makes of a text, kept for the next record if it is short; null and counted where it makes nothing of it."""
    text = text_or_null(value, column, notes)
    if text is None:
        return None
    found = read(text) if len(text) <= _SHORT else read.__wrapped__(text)
    if found is None:
        notes[f"{column} {shown(text)}"] += 1
    return found


def mac_address(value: object, notes: Notes) -> str | None:
    """12 upper-case hex digits; null where absent, and null and counted where unreadable.

    >>> mac_address("00-0d-3a-1b-2c-3d", Notes())
    '000D3A1B2C3D'
    """
    return _kept(value, "mac_address", notes, _twelve_digits)


@lru_cache(maxsize=1024)
def _twelve_digits(text: str) -> str | None:
    digits = text.replace("-", "").replace(":", "").upper()
    return digits if _MAC.fullmatch(digits) else None


def record_time(value: object, notes: Notes) -> int | None:
    """Microseconds since 1970 of an ISO time, cut after the sixth digit; null and counted where unreadable.

    >>> record_time("1970-01-01T00:00:01.0000019Z", Notes())
    1000001
    """
    return _kept(value, "record_time", notes, _micros)


@lru_cache(maxsize=1024)
def _micros(text: str) -> int | None:
    """Microseconds since 1970 of an ISO time; None where it is none. The records of all NICs have the same few times."""
    match = _TIME.fullmatch(text)
    if match:
        year, month, day, hour, minute, second, fraction, sign, hours, minutes = match.groups()
        days = _days(year, month, day)
        if days is not None and hour < "24" and minute < "60" and second < "60":
            away = 60 * int(hours or 0) + int(minutes or 0)
            since = 60 * (1440 * days + 60 * int(hour) + int(minute) + (away if sign == "-" else -away)) + int(second)
            return 1_000_000 * since + int((fraction or "")[:6].ljust(6, "0"))
    return None


@lru_cache(maxsize=256)
def _days(year: str, month: str, day: str) -> int | None:
    """Days since 1970; None where there is no such day."""
    try:
        return dt.date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAY
    except ValueError:
        return None


def bounded(notes: Notes) -> dict[str, int]:
    """The 100 most frequent notes, the rest summed up by their first word, so that hostile codes can't fill memory."""
    ordered = sorted(notes.items(), key=lambda note: (-note[1], note[0]))
    kept = Counter(dict(ordered[:_CODES_KEPT]))
    for name, count in ordered[_CODES_KEPT:]:
        kept[f"{name.split(' ')[0]} (others)"] += count
    return dict(kept)
