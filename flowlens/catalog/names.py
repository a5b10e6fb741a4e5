"""Names and the addresses they stood for: from a list of the user's own, or from DNS and firewall logs as exported.

A flow log holds addresses alone; where it is known which address a name stood for at the time, a requirement for that
name is met, or missed, exactly. What is read:

* CSV or JSON with ``name`` and ``address``, and where known ``first_seen`` and ``last_seen``, as ``flowlens resolve`` writes;
* exports of DNS logs that hold answers: DNSQueryLogs of a DNS security policy, DnsEvents of Windows DNS servers, the
  ASIM form of Microsoft Sentinel;
* exports of Azure Firewall logs: AZFWApplicationRule, AZFWDnsQuery and their older form in AzureDiagnostics. They name
  what was asked for and never its address (Azure Monitor Logs reference, 2022), so that ``flowlens resolve --names`` has
  to find it.

Times without a zone are UTC, as Log Analytics exports them.
"""

from __future__ import annotations

import csv
import datetime as dt
import functools
import io
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import polars as pl

from flowlens.errors import CatalogError, near_matches
from flowlens.prefixes import INTERNAL_PREFIXES, within

COLUMNS = ("name", "address", "first_seen", "last_seen")
"""The columns of a names file; the first two must be there."""
LEEWAY = dt.timedelta(days=1)
"""How far from the flows a name may have been seen to count for them."""

_LARGEST_FILE = 512 * 2**20
_NAMES = ("name", "fqdn", "queryname", "dnsquery", "querynames", "query")
_ADDRESSES = ("address", "ipaddress")
_ANSWERS = ("answer", "answers", "ipaddresses", "dnsresponsename")
_MESSAGES = ("msg", "msgs")
_TIMES = ("timegenerated", "time", "timestamp", "ts")
_FIRST, _LAST = ("firstseen",), ("lastseen",)
# "HTTPS request from 10.0.0.4:55555 to example.com:443. Action: Allow" and "DNS Request: 10.0.0.4:55555 - 1 A IN
# example.com. udp 40 false 512 NOERROR ..."
_TOLD = (
    re.compile(r"request from \S+ to ([^\s:]+):\d+"),
    re.compile(r"DNS Request: \S+ - \d+ [A-Z0-9]+ IN (\S+) (?:udp|tcp) "),
)
_LIKE_AN_ADDRESS = re.compile(r"(?<![\w.:])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)(?![\w.:])")
_PORTAL_TIME = "%m/%d/%Y, %I:%M:%S.%f %p"
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")

Row = Mapping[str, object]


class Resolved(NamedTuple):
    """An address that a name stood for; a time is None where it is not known."""

    address: str
    first_seen: dt.datetime | None = None
    last_seen: dt.datetime | None = None


@dataclass(frozen=True)
class Names:
    """The addresses of names, in lower case and without the last dot.

    ``unresolved`` are names that were asked for and of which no address is known. ``skipped`` counts rows that hold no
    name. ``outdated`` are names whose addresses are of another time, see ``during``.
    """

    addresses: Mapping[str, tuple[Resolved, ...]]
    unresolved: frozenset[str] = frozenset()
    skipped: int = 0
    outdated: Mapping[str, dt.datetime] = field(default_factory=dict)

    def of(self, pattern: str) -> dict[str, list[str]]:
        """The addresses of each name that fits ``pattern``: ``*`` is any text, ``<placeholder>`` one part of a name.

        >>> Names({"a.example.com": (Resolved("203.0.113.7"),)}).of("*.example.com")
        {'a.example.com': ['203.0.113.7']}
        """
        fitting = (name for name in self.asked(pattern) if name in self.addresses)
        return {name: [one.address for one in self.addresses[name]] for name in fitting}

    def prefixes(self, pattern: str) -> tuple[str, ...]:
        """The prefixes of all addresses of names that fit ``pattern``, each once; kept, since many profiles ask for the same.

        >>> Names({"a.example.com": (Resolved("203.0.113.7"),)}).prefixes("*.example.com")
        ('203.0.113.7/32',)
        """
        if pattern not in self._prefixes:
            addresses = dict.fromkeys(address for held in self.of(pattern).values() for address in held)
            self._prefixes[pattern] = tuple(f"{a}/128" if ":" in a else f"{a}/32" for a in addresses)
        return self._prefixes[pattern]

    @functools.cached_property
    def private(self) -> frozenset[str]:
        """The prefixes of those addresses that are private, such as those of private endpoints."""
        addresses = pl.Series(self.known_addresses, dtype=pl.String)
        inside = addresses.filter(within(addresses, INTERNAL_PREFIXES).fill_null(False))
        return frozenset(f"{a}/128" if ":" in a else f"{a}/32" for a in inside)

    @functools.cached_property
    def _prefixes(self) -> dict[str, tuple[str, ...]]:
        """Prefixes by pattern, of those asked for so far."""
        return {}

    def asked(self, pattern: str) -> list[str]:
        """All names that fit ``pattern``, with an address or without, sorted."""
        wanted = pattern.lower()
        if not re.search(r"[*<]", wanted):
            return [wanted] if wanted in self.addresses or wanted in self.unresolved else []
        end = re.split(r"[*>]", wanted)[-1]
        # Where two whole labels end the pattern only names of that domain can fit.
        names = self._by_domain.get(_domain(end), ()) if end.count(".") > 1 else (*self.addresses, *self.unresolved)
        return sorted(name for name in names if name.endswith(end) and _regex(wanted).fullmatch(name))

    @functools.cached_property
    def _by_domain(self) -> dict[str, list[str]]:
        """All names by their last two labels."""
        found: dict[str, list[str]] = {}
        for name in (*self.addresses, *self.unresolved):
            found.setdefault(_domain(name), []).append(name)
        return found

    def during(self, start: dt.datetime | None, end: dt.datetime | None) -> Names:
        """What counts for flows of that time: a day's leeway on both sides, and all that has no time.

        A name that is left without an address is in ``outdated`` of the answer, with the time it was last seen.
        """
        kept, outdated = {}, {}
        for name, known in self.addresses.items():
            current = tuple(one for one in known if _overlaps(one, start, end))
            if current:
                kept[name] = current
            else:
                outdated[name] = max(one.last_seen or one.first_seen for one in known)  # type: ignore[type-var]
        return Names(kept, self.unresolved, self.skipped, outdated)  # type: ignore[arg-type]

    def beside(self, others: Names) -> Names:
        """These names and others; of a name in both all addresses count.

        >>> one, two = (Names({"a.example.com": (Resolved(ip),)}) for ip in ("203.0.113.7", "203.0.113.8"))
        >>> one.beside(two).of("a.example.com")
        {'a.example.com': ['203.0.113.7', '203.0.113.8']}
        """
        both = {
            name: (*self.addresses.get(name, ()), *others.addresses.get(name, ()))
            for name in (*self.addresses, *others.addresses)
        }
        outdated = {name: time for name, time in {**others.outdated, **self.outdated}.items() if name not in both}
        unresolved = (self.unresolved | others.unresolved) - both.keys()
        return Names(both, unresolved, self.skipped + others.skipped, outdated)

    @property
    def known_addresses(self) -> list[str]:
        """All addresses that some name stood for, sorted.

        >>> Names({"a.example.com": (Resolved("203.0.113.7"),)}).known_addresses
        ['203.0.113.7']
        """
        return sorted({one.address for known in self.addresses.values() for one in known})

    def describe(self) -> str:
        """What was read, in a sentence.

        >>> Names({"a.example.com": (Resolved("203.0.113.7"),)}, frozenset({"b.example.com"})).describe()
        '1 address(es) of 1 name(s); 1 name(s) without an address'
        """
        told = [f"{sum(map(len, self.addresses.values()))} address(es) of {len(self.addresses)} name(s)"]
        if self.unresolved:
            told.append(f"{len(self.unresolved)} name(s) without an address")
        if self.skipped:
            told.append(f"{self.skipped} row(s) without a name")
        return "; ".join(told)


def endpoint_names(pairs: Iterable[tuple[str, str]]) -> Names | None:
    """Names of (name, address) pairs whose name is one of DNS, such as private endpoints in an inventory; else None.

    >>> endpoint_names([("kv1.vault.azure.net", "10.0.0.5"), ("pe-kv1", "10.0.0.6")]).of("*")
    {'kv1.vault.azure.net': ['10.0.0.5']}
    """
    found: dict[str, tuple[Resolved, ...]] = {}
    for name, address in pairs:
        key = name.strip().rstrip(".").lower()
        if "." in key and _NAME.fullmatch(key) and _address(key) is None:
            found[key] = (*found.get(key, ()), Resolved(address))
    return Names(found) if found else None


def read_names(path: str | Path) -> Names:
    """The names in a file, whichever of the forms above it has.

    Raises CatalogError, with the row, for a file that cannot be read or has none of these forms, and for a list of the
    user's own with a row that is no name, address or time: then nothing of it is used.
    """
    where = str(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CatalogError(where, f"can't read the names: {reason}") from error
    if len(data) > _LARGEST_FILE:
        raise CatalogError(where, f"expected names, found more than {_LARGEST_FILE} bytes")
    return parse_names(data, where=where)


def parse_names(data: bytes, *, where: str) -> Names:
    """The names in the bytes of a file; ``where`` names it in errors.

    >>> parse_names(b"name,address\\na.example.com,203.0.113.7\\n", where="names.csv").of("a.example.com")
    {'a.example.com': ['203.0.113.7']}
    """
    try:
        text = data.decode("utf-8-sig")
        if text.lstrip()[:1] not in ("[", "{"):
            return _gathered(*_csv_rows(text), where)
        rows = list(_json_rows(text, where))
        return _gathered({column for _, row in rows for column in row}, rows, where)
    except (UnicodeDecodeError, csv.Error, ValueError, RecursionError) as error:
        raise CatalogError(where, f"expected names as CSV or JSON: {error}", hint=_FORMS) from error


_FORMS = f"columns {', '.join(COLUMNS)}, or an export of DNS or Azure Firewall logs"


def _gathered(columns: set[str], rows: Iterable[tuple[int, dict[str, object]]], where: str) -> Names:
    if not columns & {*_NAMES, *_MESSAGES}:
        raise CatalogError(where, "expected a column of names, found none", hint=_column_hint(columns))
    own = bool(columns & set(_ADDRESSES))
    if own and "name" not in columns and "fqdn" not in columns:
        raise CatalogError(where, "expected the columns name and address, found no name", hint=_column_hint(columns))
    found: dict[str, dict[str, Resolved]] = {}
    asked: set[str] = set()
    skipped = 0
    for number, row in rows:
        name = _name_of(row)
        if name is None:
            if own:
                raise CatalogError(where, f"row {number}: expected a name, found {str(_first(row, _NAMES))[:80]!r}")
            skipped += 1
            continue
        asked.add(name)
        first, last = _times_of(row, where if own else None, number)
        for address in _addresses_of(row, where, number):
            known = found.setdefault(name, {})
            known[address] = _merged(known.get(address), Resolved(address, first, last))
    return Names(
        {name: tuple(known[address] for address in sorted(known)) for name, known in sorted(found.items())},
        frozenset(asked - found.keys()),
        skipped,
    )


def _column_hint(columns: set[str]) -> str:
    near = near_matches(next(iter(sorted(columns)), ""), _NAMES)
    return near if near.startswith("did you mean") else f"expected {_FORMS}"


def _name_of(row: Row) -> str | None:
    """The name that a row is about; None where it has none."""
    told = _first(row, _NAMES)
    if told is None:
        message = str(_first(row, _MESSAGES) or "")
        held = next((found[1] for pattern in _TOLD if (found := pattern.search(message))), "")
        told = held
    return _normal_name(str(told))


# A log says the same names, addresses and times over and over.
@functools.lru_cache(maxsize=2**16)
def _normal_name(text: str) -> str | None:
    name = text.strip().rstrip(".").lower()
    # An address is no name, though it looks like one.
    return name if _NAME.fullmatch(name) and not (name[-1].isdigit() and _address(name)) else None


def _addresses_of(row: Row, where: str, number: int) -> Iterator[str]:
    own = _first(row, _ADDRESSES)
    if any(column in row for column in _ADDRESSES):
        text = str(own or "").strip()
        if (address := _address(text)) is None:
            raise CatalogError(where, f"row {number}: expected an address, found {text[:80]!r}")
        yield address
        return
    answers = _first(row, _ANSWERS)
    text = answers if isinstance(answers, str) else json.dumps(answers)
    # Answers hold aliases beside addresses, in a form of each source's own; an address is one wherever it stands.
    yield from (found for part in _LIKE_AN_ADDRESS.findall(text) if (found := _address(part)) is not None)


def _times_of(row: Row, where: str | None, number: int) -> tuple[dt.datetime | None, dt.datetime | None]:
    """When a row was true; of logs a time that cannot be read is none."""
    first, last = _first(row, _FIRST), _first(row, _LAST)
    at = _first(row, _TIMES)
    times = []
    for told in (first if first is not None else at, last if last is not None else at):
        time = _time(told)
        if time is None and told is not None and where is not None:
            raise CatalogError(
                where, f"row {number}: expected a time such as 2026-06-15T09:00:00Z, found {str(told)[:80]!r}"
            )
        times.append(time)
    if where is not None and times[0] and times[1] and times[0] > times[1]:
        raise CatalogError(where, f"row {number}: first seen {times[0].isoformat()}, after it was last seen")
    return times[0], times[1]


def _time(told: object) -> dt.datetime | None:
    return _parsed_time(str(told or "").strip())


@functools.lru_cache(maxsize=2**16)
def _parsed_time(text: str) -> dt.datetime | None:
    for read in (dt.datetime.fromisoformat, lambda text: dt.datetime.strptime(text, _PORTAL_TIME)):  # noqa: DTZ007 - zoned below
        try:
            time = read(text)
        except ValueError:
            continue
        try:
            return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
        except OverflowError:
            return None
    return None


def _first(row: Row, columns: Iterable[str]) -> object:
    """The first of ``columns`` that holds something."""
    return next((row[column] for column in columns if row.get(column) not in (None, "")), None)


def _merged(before: Resolved | None, now: Resolved) -> Resolved:
    if before is None:
        return now
    firsts = [time for time in (before.first_seen, now.first_seen) if time]
    lasts = [time for time in (before.last_seen, now.last_seen) if time]
    return Resolved(now.address, min(firsts, default=None), max(lasts, default=None))


def _overlaps(one: Resolved, start: dt.datetime | None, end: dt.datetime | None) -> bool:
    first, last = one.first_seen or one.last_seen, one.last_seen or one.first_seen
    if first is None or last is None:
        return True
    return (end is None or first <= end + LEEWAY) and (start is None or last >= start - LEEWAY)


@functools.lru_cache(maxsize=2**16)
def _address(text: str) -> str | None:
    """The address in canonical text; None for text that is none."""
    try:
        return str(ipaddress.ip_address(text)) if "%" not in text else None
    except ValueError:
        return None


def _domain(name: str) -> str:
    return ".".join(name.rsplit(".", 2)[-2:])


@functools.lru_cache(maxsize=4096)
def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*|<[^>]*>)", pattern)
    return re.compile("".join(".*" if p == "*" else "[^.]+" if p.startswith("<") else re.escape(p) for p in parts))


def _key(column: object) -> str:
    """A column's name without case, blanks and underscores, the unit that the portal adds left out."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\[[^]]*\]", "", str(column)).lower())


def _flat(row: Mapping[str, object]) -> dict[str, object]:
    """One row's columns by ``_key``; what diagnostic settings put under ``properties`` stands beside the rest."""
    inner = row.get("properties")
    both = {**row, **inner} if isinstance(inner, dict) else row
    return {_key(column): value for column, value in both.items() if column is not None}


def _csv_rows(text: str) -> tuple[set[str], Iterator[tuple[int, dict[str, object]]]]:
    """The columns of a CSV, and its rows one at a time."""
    lines = (line for line in io.StringIO(text, newline="") if not line.startswith("#"))
    reader = csv.reader(lines, strict=True)
    columns = [_key(column) for column in next(reader, [])]

    def rows() -> Iterator[tuple[int, dict[str, object]]]:
        for number, cells in enumerate(reader, start=2):
            if len(cells) > len(columns):
                raise ValueError(f"row {number} has more cells than there are columns")
            if cells:
                yield number, dict(zip(columns, cells, strict=False))

    return set(columns), rows()


def _json_rows(text: str, where: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of a list of objects, of ``{"records": [...]}``, of a query's answer (``tables``), or of one object per line."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        document = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(document, dict):
        if isinstance(tables := document.get("tables"), list):
            document = [row for table in tables for row in _table_rows(table, where)]
        else:
            lists = [document[key] for key in ("records", "value", "data") if isinstance(document.get(key), list)]
            document = lists[0] if lists else [document]
    for number, row in enumerate(document, start=1):
        if not isinstance(row, dict):
            raise CatalogError(where, f"row {number}: expected an object, found {str(row)[:80]!r}", hint=_FORMS)
        yield number, _flat(row)


def _table_rows(table: object, where: str) -> Iterator[dict[str, object]]:
    columns = table.get("columns") if isinstance(table, dict) else None
    rows = table.get("rows") if isinstance(table, dict) else None
    if not (isinstance(columns, list) and isinstance(rows, list) and all(isinstance(c, dict) for c in columns)):
        raise CatalogError(where, "expected a table with columns and rows", hint=_FORMS)
    for row in rows:
        if not isinstance(row, list) or len(row) != len(columns):
            raise CatalogError(where, f"expected a row of {len(columns)} cells, found {str(row)[:80]!r}", hint=_FORMS)
        yield {str(column.get("name")): cell for column, cell in zip(columns, row, strict=True)}
