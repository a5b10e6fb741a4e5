"""Whose an address is, from files that the user gives: a list of his own, or a database of the whole internet.

flowlens brings none: those that name owners or countries are licensed, and out of date within weeks. What is read:

* a list as CSV with ``prefix`` and ``owner``, ``country`` or both, under these names or those of databases that come as CSV;
* a database in the MaxMind DB format (``.mmdb``, format 2.0), such as GeoLite2-ASN, GeoLite2-Country, IPinfo Lite or DB-IP Lite. Needs
  the extra ``owners``.
"""

from __future__ import annotations

import csv
import datetime as dt
import importlib.util
import io
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flowlens.errors import ConfigError, near_matches
from flowlens.prefixes import PrefixTable, normal

OWNER_COLUMNS = ("owner", "as_name", "autonomous_system_organization", "as_organization", "organization")
"""What lists and databases call whoever has an address."""
COUNTRY_COLUMNS = ("country_code", "country_iso_code", "country")
_PREFIX_COLUMNS = ("prefix", "network", "cidr")
_LARGEST_LIST = 64 * 2**20
_SUFFIX = ".mmdb"
_SHOWN = pl.Schema({"owner": pl.String(), "country": pl.String()})

Known = tuple[str | None, str | None]
"""Owner and country, each None where it is not told."""


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """One file: what it is in a few words, whether it covers the whole internet, and what it says of addresses."""

    told: str
    worldwide: bool
    look: Callable[[Sequence[str]], list[Known]]


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """Owner and country of addresses; of several files the first that tells one counts.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "partners.csv"
    ...     _ = path.write_text("prefix,owner,country\\n203.0.113.0/24,Example Ltd,NL\\n")
    ...     read_owners([path]).identify(pl.Series(["203.0.113.77"]), azure=pl.Series([False])).rows()
    [('Example Ltd', 'NL')]
    """

    files: tuple[_File, ...]

    def identify(self, addresses: pl.Series, *, azure: pl.Series) -> pl.DataFrame:
        """Columns ``owner`` and ``country`` row by row, null where no file tells.

        Databases are not asked about those that are ``azure``: all they know is that Microsoft has them, of which a service tag
        tells more. A list is. Give distinct addresses.
        """
        texts, of_azure = addresses.to_list(), azure.to_list()
        found: list[Known] = [(None, None)] * len(texts)
        for file in self.files:
            asked = [n for n, azures in enumerate(of_azure) if not (file.worldwide and azures) and None in found[n]]
            for n, (owner, country) in zip(asked, file.look([texts[n] for n in asked]), strict=True):
                found[n] = (found[n][0] or owner, found[n][1] or country)
        return pl.DataFrame(found, schema=_SHOWN, orient="row")

    def describe(self) -> str:
        """Which files these are, and of when, in a sentence."""
        return "; ".join(file.told for file in self.files)


def read_owners(paths: Iterable[str | Path]) -> Owners:
    """What the files say, those given first before those after them.

    Raises ConfigError for a file that cannot be read or holds nothing of the kind, and for a row of a list without a prefix.
    """
    return Owners(
        tuple(_database(path) if path.suffix.lower() == _SUFFIX else _list(path) for path in map(Path, paths))
    )


def _list(path: Path) -> _File:
    where = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_LIST + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(where, f"cannot be read as a list of owners: {error}", hint=_FORMS) from error
    if len(data) > _LARGEST_LIST:
        problem = f"is larger than {_LARGEST_LIST // 2**20} MB"
        raise ConfigError(where, problem, hint=f"take the database as {_SUFFIX}, which is asked in place")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = {str(name).strip().lower(): name for name in reader.fieldnames or () if name}
    prefix, owner, country = (
        next((columns[name] for name in names if name in columns), None)
        for names in (_PREFIX_COLUMNS, OWNER_COLUMNS, COUNTRY_COLUMNS)
    )
    if prefix is None or (owner is None and country is None):
        missing = "prefix" if prefix is None else "owner or country"
        near = near_matches(next(iter(sorted(columns)), ""), (*_PREFIX_COLUMNS, *OWNER_COLUMNS, *COUNTRY_COLUMNS))
        raise ConfigError(
            where, f"expected a column {missing}, found none", hint=near if near.startswith("did") else _FORMS
        )
    try:
        rows = [
            (
                normal(str(row[prefix] or "").strip(), where=f"{where}: row {n}"),
                (_cell(row, owner), _cell(row, country)),
            )
            for n, row in enumerate(reader, 1)
        ]
    except csv.Error as error:
        raise ConfigError(where, f"cannot be read as a list of owners: {error}", hint=_FORMS) from error
    numbers: dict[Known, int] = {}
    table = PrefixTable.build(((text, numbers.setdefault(known, len(numbers))) for text, known in rows), where=where)
    known = list(numbers)

    def look(addresses: Sequence[str]) -> list[Known]:
        held = table.longest(pl.Series(addresses, dtype=pl.String)) if known else [None] * len(addresses)
        return [(None, None) if number is None else known[number] for number in held]

    return _File(f"{path.name}, {len(rows)} prefix(es)", False, look)


_FORMS = f"a CSV with prefix and owner or country, or a database as {_SUFFIX}"


def _cell(row: Mapping[str, object], column: str | None) -> str | None:
    value = row.get(column) if column else None
    return (value.strip() or None) if isinstance(value, str) else None


def _database(path: Path) -> _File:
    if importlib.util.find_spec("maxminddb") is None:
        raise ConfigError(
            str(path), f"needs what reads {_SUFFIX} files", hint="install it with: pip install 'flowlens[owners]'"
        )
    # Only here, since it is an extra.
    import maxminddb

    def opened(ask: Callable[[maxminddb.Reader], list[Known]]) -> list[Known]:
        try:
            # The library's other reader, in C, is faster, and a damaged file makes it write where it must not (3.2.0).
            with maxminddb.open_database(path, maxminddb.MODE_MMAP) as reader:
                return ask(reader)
        except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, struct.error) as error:
            # The library takes what it reads for what it should be.
            raise ConfigError(str(path), f"cannot be read as a database of owners: {error}", hint=_FORMS) from error

    told = []

    def check(reader: maxminddb.Reader) -> list[Known]:
        metadata = reader.metadata()
        made = dt.datetime.fromtimestamp(metadata.build_epoch, dt.UTC)
        told.append(f"{path.name}, {str(metadata.database_type)[:80]} of {made:%Y-%m-%d}")
        for _, record in reader:
            # Whatever comes first says what all are like.
            if _known(record) == (None, None):
                raise ValueError("its records tell neither owner nor country")
            break
        return []

    def look(addresses: Sequence[str]) -> list[Known]:
        def ask(reader: maxminddb.Reader) -> list[Known]:
            # An older database holds IPv4 alone, and says so by an error.
            both = reader.metadata().ip_version == 6
            return [_known(reader.get(text)) if both or ":" not in text else (None, None) for text in addresses]

        return opened(ask)

    opened(check)
    return _File(told[0], True, look)


def _known(record: object) -> Known:
    """Owner and country of a record of whichever database."""
    if not isinstance(record, Mapping):
        return None, None
    owner = next((record[name] for name in OWNER_COLUMNS if record.get(name)), None)
    place = next((record[name] for name in (*COUNTRY_COLUMNS, "registered_country") if record.get(name)), None)
    if isinstance(place, Mapping):
        place = place.get("iso_code")
    return (owner if isinstance(owner, str) else None), (place if isinstance(place, str) else None)
