"""Text made safe and readable for the face it is shown on."""

from __future__ import annotations

import datetime as dt
import unicodedata
from collections.abc import Iterable
from typing import TextIO

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NAMES_SHOWN = 3
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Categories of control, format (bidi), surrogate, private, unassigned and line-separator characters."""


def clean(text: object) -> str:
    """The text with every character that could steer a terminal or hide text written as an escape.

    >>> clean("a\\x1b[31mb\\u202e")
    'a\\\\x1b[31mb\\\\u202e'
    """
    shown = str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        c.encode("unicode_escape").decode("ascii") if unicodedata.category(c) in _HIDDEN else c for c in shown
    )


def encoding_of(stream: TextIO) -> str:
    """The encoding that a stream writes, UTF-8 where it does not say.

    >>> import io
    >>> encoding_of(io.StringIO())
    'utf-8'
    """
    return getattr(stream, "encoding", None) or "utf-8"


def shown_on(stream: TextIO, text: object) -> str:
    """The text with escapes for what could steer a terminal and for what the encoding of ``stream`` lacks.

    >>> import io
    >>> shown_on(io.TextIOWrapper(io.BytesIO(), "ascii"), "é")
    '\\\\xe9'
    """
    encoding = encoding_of(stream)
    return clean(text).encode(encoding, "backslashreplace").decode(encoding)


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would run the text as a formula; some take the full-width signs too (OWASP, "CSV Injection").

    >>> is_formula("=1+1"), is_formula("＝1+1"), is_formula("10.0.0.4")
    (True, True, False)
    """
    return unicodedata.normalize("NFKC", text[:1]).startswith(_FORMULA)


def utc(time: dt.datetime | None) -> str:
    """ISO 8601 with ``Z``; empty for None.

    >>> utc(dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC))
    '2026-06-15T09:00:00Z'
    """
    if time is None:
        return ""
    return time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def size(count: int | None) -> str:
    """A byte count for people, in powers of 1,000; ``-`` where nothing was measured.

    >>> size(41_900_000), size(None)
    ('41.9 MB', '-')
    """
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def counted(number: int, word: str) -> str:
    """The number with its word, in the plural where there is not exactly one.

    >>> counted(1, "file"), counted(1752, "flow tuple")
    ('1 file', '1,752 flow tuples')
    """
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """The names in a row, the first three of them where there are more.

    >>> listed(["a", "b"]), listed("abcde")
    ('a, b', 'a, b, c and 2 more')
    """
    every = list(names)
    rest = len(every) - _NAMES_SHOWN
    return ", ".join(every[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
