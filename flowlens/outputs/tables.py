"""JSON, CSV and Parquet: what other programs read."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec
import polars as pl

from flowlens.acceptance import Acceptance
from flowlens.errors import ConfigError, SourceError
from flowlens.evidence import Ledger, Window
from flowlens.findings import Baseline
from flowlens.outputs.text import clean, is_formula, utc
from flowlens.reporting import SCHEMA_VERSION, Report

APOSTROPHE = "'"
_DESTINATION: dict[str, type] = {"vnet": str, "workload": str, "dst_ip": str, "dst_port": int, "protocol": str}
_FINDING: dict[str, type] = dict.fromkeys(("id", "question", "state", "subject", "first_seen", "last_seen"), str)
_ROWS_AT_A_TIME = 10_000
_CSV_TIME = "%Y-%m-%dT%H:%M:%S%.6fZ"
_ODD = r"[^ -~]|^[=+\-@]"
"""Text that may need a guard: anything but printable ASCII, or the start of a formula."""


def write_json(report: Report, file: BinaryIO) -> None:
    """Write the report as the JSON document of the contract."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "window": {"start": report.window.start, "end": report.window.end},
        "settings": dict(report.settings),
        "catalogue": dict(report.catalogue),
        "ledger": ledger_document(report.ledger),
        "coverage": dict(report.coverage),
        "verdicts": {name: {"status": v.status, "text": v.text} for name, v in report.verdicts.items()},
        "notes": list(report.notes),
        "findings": [{name: getattr(finding, name) for name in finding.__slots__} for finding in report.findings],
    }
    write_document(head, report.tables, file)


def ledger_document(ledger: Ledger) -> dict[str, object]:
    """The ledger's part of the document."""
    told = {name: getattr(ledger, name) for name in ledger.__slots__ if name != "rejects"}
    rejects = [{name: getattr(r, name) for name in r.__slots__} for r in ledger.rejects]
    return {**told, "complete": ledger.complete, "rejects": rejects}


def write_flows_json(
    flows: pl.DataFrame, ledger: Ledger, settings: Mapping[str, object], file: BinaryIO, *, window: Window | None = None
) -> None:
    """Write flow tuples as a JSON document with the members of a report's that are not about questions."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "window": {"start": window and window.start, "end": window and window.end},
        "settings": dict(settings),
        "ledger": ledger_document(ledger),
    }
    write_document(head, {"flows": flows}, file)


def write_document(head: Mapping[str, object], tables: Mapping[str, pl.DataFrame], file: BinaryIO) -> None:
    """Write ``head`` and then the tables, a row to a line, so that memory does not follow the number of rows.

    The document is ASCII with times as ISO 8601 and ``Z``: no text of a log can put a control or bidi character on a terminal.
    Integers above 2^53 are written as they are.
    """
    text = _indented(head).removesuffix("\n}")
    file.write(f'{text},\n "tables": {{'.encode("ascii"))
    for number, (name, table) in enumerate(tables.items()):
        file.write(f"{',' if number else ''}\n  {json.dumps(name)}: [".encode("ascii"))
        between = b"\n   "
        for piece in table.iter_slices(_ROWS_AT_A_TIME):
            file.write(between + b",\n   ".join(_json_line(row) for row in piece.iter_rows(named=True)))
            between = b",\n   "
        file.write(b"\n  ]" if table.height else b"]")
    file.write(b"\n }\n}\n")


def _indented(head: Mapping[str, object]) -> str:
    text = json.dumps(head, default=_plain, ensure_ascii=True)
    try:
        # Indenting itself, the standard library takes four times as long, which shows where findings are many.
        return msgspec.json.format(text, indent=1)
    except msgspec.DecodeError:
        # The name of a file or an option may hold half a surrogate pair, which only the standard library takes.
        return json.dumps(head, default=_plain, ensure_ascii=True, indent=1)


def _json_line(row: Mapping[str, object]) -> bytes:
    line = msgspec.json.encode(row)
    return line if line.isascii() else json.dumps(json.loads(line), separators=(",", ":")).encode("ascii")


def read_baseline(path: Path) -> Baseline | None:
    """What an earlier report's JSON document holds for comparison; None where the file is something else, such as a flow log.

    Raises ConfigError for a report that cannot be read or compared.
    """
    where = f"--baseline {path}"
    if not path.is_file() or path.suffix.lower() != ".json":
        return None
    try:
        return baseline_of(path.read_bytes(), where)
    except OSError as error:
        raise ConfigError(where, f"cannot be read: {error}") from error


def baseline_of(data: bytes, where: str) -> Baseline | None:
    """What the bytes of an earlier report hold for comparison; None where they are something else.

    Raises ConfigError, naming ``where``, for a report that cannot be read or compared.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, f"cannot be read: {error}") from error
    if not isinstance(found, dict) or "schema_version" not in found:
        return None
    if found["schema_version"] != SCHEMA_VERSION:
        raise ConfigError(where, f"expected schema version {SCHEMA_VERSION}, found {found['schema_version']!r:.20}")
    tables, settings = found.get("tables"), found.get("settings")
    if isinstance(settings, dict) and settings.get("only_new"):
        raise ConfigError(
            where, "holds only what was new when it was made", hint="keep a report without --only-new as the baseline"
        )
    listed = tables.get("unexpected_destinations") if isinstance(tables, dict) else None
    return Baseline(
        findings=tuple(_with_times(where, old) for old in _objects(where, found.get("findings"), _FINDING)),
        destinations=_objects(where, listed, _DESTINATION) if listed is not None else None,
        settings=settings if isinstance(settings, dict) else None,
        window=_window(found.get("window")),
    )


def _window(told: object) -> Window | None:
    """The window of an earlier report; None where it is not told in full."""
    if not isinstance(told, dict):
        return None
    try:
        start, end = (dt.datetime.fromisoformat(str(told.get(name))) for name in ("start", "end"))
        return Window(start, end)
    except (ValueError, OverflowError):
        return None


def _with_times(where: str, finding: Mapping[str, object]) -> Mapping[str, object]:
    """The finding with its times read."""
    try:
        times = {
            name: dt.datetime.fromisoformat(str(finding[name])).astimezone(dt.UTC)
            for name in ("first_seen", "last_seen")
            if finding.get(name) is not None
        }
    except (ValueError, OverflowError) as error:
        raise ConfigError(where, f"holds a finding with a wrong time: {error}") from error
    return {**finding, **times}


def _objects(where: str, found: object, columns: Mapping[str, type]) -> tuple[Mapping[str, object], ...]:
    """``found`` as a list of objects whose ``columns``, where they are there, have these types."""
    for each in found if isinstance(found, list) else [None]:
        if not isinstance(each, dict) or not all(_fits(each.get(name), kind) for name, kind in columns.items()):
            raise ConfigError(where, "is not a whole report", hint="write it with --format json")
    assert isinstance(found, list)
    return tuple(found)


def _fits(value: object, kind: type) -> bool:
    if value is None:
        return True
    # JSON can write half a surrogate pair, which no table can hold, and numbers of any length.
    whole = not isinstance(value, str) or value == value.encode("utf-8", "replace").decode("utf-8")
    return type(value) is kind and whole and not (isinstance(value, int) and not 0 <= value < 2**31)


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return utc(value)
    if isinstance(value, (dt.date, Path)):
        return str(value)
    if isinstance(value, Acceptance):
        return {name: getattr(value, name) for name in ("reason", "owner", "expires")}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def write_csv(table: pl.DataFrame, file: BinaryIO) -> None:
    """Write one table as CSV in UTF-8, for people and spreadsheets; Parquet and JSON keep text as it is.

    What could steer a terminal is written as an escape; a text that a spreadsheet would run as a formula gets an apostrophe
    before it.
    """
    kinds = table.schema.items()
    texts = [pl.col(name).replace(_guards(table[name])) for name, kind in kinds if kind == pl.String]
    times = [pl.col(name).dt.strftime(_CSV_TIME) for name, kind in kinds if isinstance(kind, pl.Datetime)]
    pieces = table.iter_slices(_ROWS_AT_A_TIME) if table.height else [table]
    # As text, since polars makes an error of its own of a pipe whose reader is gone.
    file.writelines(
        piece.with_columns(*texts, *times).write_csv(include_header=number == 0).encode()
        for number, piece in enumerate(pieces)
    )


def _guards(texts: pl.Series) -> dict[str, str]:
    """What to write for the few texts that cannot be written as they are."""
    odd = texts.unique().drop_nulls()
    odd = odd.filter(odd.str.contains(_ODD))
    return {text: f"{APOSTROPHE if is_formula(text) else ''}{clean(text)}" for text in odd}


def write_parquet(table: pl.DataFrame, file: BinaryIO) -> None:
    """Write one table as Parquet, text as it is."""
    table.write_parquet(file, compression="zstd")


BY_TABLE: dict[str, Callable[[pl.DataFrame, BinaryIO], None]] = {"csv": write_csv, "parquet": write_parquet}
"""Formats that hold one table a file."""


def write_one_table(face: str, report: Report, file: BinaryIO) -> None:
    """Write the report's one table in a format of BY_TABLE.

    Raises ConfigError where the report holds several.
    """
    if len(report.tables) != 1:
        raise ConfigError(f"--format {face}", f"{len(report.tables)} tables do not fit one file", hint="use -o FOLDER/")
    (table,) = report.tables.values()
    BY_TABLE[face](table, file)


def write_tables(tables: Mapping[str, pl.DataFrame], folder: Path, face: str) -> list[Path]:
    """The files written: one per table, each complete or not there."""
    written = []
    for name, table in tables.items():
        path = folder / f"{name}.{face}"
        with atomic(path) as file:
            BY_TABLE[face](table, file)
        written.append(path)
    return written


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is whole and on disk; after any error what was there before stays.

    A link stays a link, and a device or pipe is written as it is, since it has no earlier content to keep.

    Raises SourceError where it cannot be written.
    """
    try:
        mode = path.stat().st_mode if path.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            with path.open("wb") as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if mode is not None:
                temporary.chmod(stat.S_IMODE(mode))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(str(path), f"cannot be written: {error.strerror or error}") from error
