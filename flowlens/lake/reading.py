"""Flow tuples that were decoded before: a lake, or Parquet that `flowlens convert` wrote, as a source like any other.

What was there to read and what became of it comes from the lake's ledger, blob by blob, so that a lake gives the same ledger and
coverage as the blobs it was made from. Everything is of the one version that was there when it was opened.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowlens import schema
from flowlens.errors import LedgerError, SourceError
from flowlens.evidence import REJECTS_KEPT, Ledger, Reject, Window
from flowlens.lake.ledger import AT_ONCE, COUNTS, blob_ledgers
from flowlens.sources.delta import Lake

BLOB = "blob"
"""Column that says which of a part's blobs a row is of, by number."""
_MAGIC = b"PAR1"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EDGES = dt.datetime(1, 1, 2, tzinfo=dt.UTC), dt.datetime(9999, 12, 30, tzinfo=dt.UTC)
_TIMES = (_EDGES[0] - _EPOCH) // dt.timedelta(microseconds=1), (_EDGES[1] - _EPOCH) // dt.timedelta(microseconds=1)
_PORTS = 0, 2**16 - 1
_RANGES = {"time": _TIMES, "record_time": _TIMES, "src_port": _PORTS, "dst_port": _PORTS, "protocol": (0, 2**8 - 1)}
"""What the numbers of a row can be; of times those in microseconds with which one can reckon."""
_HOUR = dt.timedelta(hours=1)
_NEAR = dt.timedelta(hours=2)
"""Tuples lie so near to their blob's hour as a rule; those that do not are looked for once they are found missing."""


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """A blob whose flows are kept: who it is, and what became of it; ``failed`` where it could not be read to its end."""

    name: str
    size: int
    flow_log: str | None
    hour: dt.datetime | None
    mac_address: str | None
    ledger: Ledger = field(default_factory=Ledger)
    failed: bool = False


@dataclass(frozen=True, slots=True)
class KeptPart:
    """Some blobs and their flows: FLOWS with `BLOB`, all rows of each, for which ``tables`` vouches."""

    blobs: tuple[KeptBlob, ...]
    tables: Callable[[], Iterator[pa.Table]] = field(compare=False)

    @property
    def size(self) -> int:
        """Bytes of the blobs, as they were."""
        return sum(blob.size for blob in self.blobs)


def is_kept_file(source: str) -> bool:
    """Whether a SOURCE is a Parquet file, by its ending and its first bytes."""
    path = Path(source)
    try:
        if path.suffix.lower() != ".parquet" or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def parquet_part(source: str) -> KeptPart:
    """The flows of a Parquet file that `flowlens convert` wrote. It keeps neither rejects nor empty blobs.

    Raises SourceError for any other Parquet file.
    """
    path = Path(source)
    with _told(source), pq.ParquetFile(path) as file:
        found = file.schema_arrow
        rows = file.metadata.num_rows
    problems = [f"lacks the column {name}" for name in schema.FLOWS.names if name not in found.names]
    problems += [f"has the column {name} twice" for name in schema.FLOWS.names if found.names.count(name) > 1]
    if not problems:
        other = [each.name for each in schema.FLOWS if found.field(each.name).type != each.type]
        problems = [f"has another type in the column {name}" for name in other]
    if problems:
        problem = f"is not Parquet that flowlens wrote: it {problems[0]}"
        raise SourceError(source, problem, hint="flowlens convert SOURCE -o FILE.parquet")
    size = path.stat().st_size
    ledger = Ledger(blobs=1, tuples=rows, rows=rows, bytes=size, record_bytes=size)

    def tables() -> Iterator[pa.Table]:
        with _told(source), pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = 0
            for batch in file.iter_batches(batch_size=1 << 16, columns=schema.FLOWS.names):
                found += batch.num_rows
                _check(batch, source)
                table = pa.Table.from_batches([batch]).select(schema.FLOWS.names).cast(schema.FLOWS)
                yield table.append_column(BLOB, pa.repeat(pa.scalar(0, pa.int64()), table.num_rows))
        if found != rows:
            # What stands before a page, such as how many values it has, is under no checksum.
            raise SourceError(source, f"expected {rows} rows, found {found}", hint="the file is damaged: make it anew")

    return KeptPart((KeptBlob(path.name, size, None, None, None, ledger),), tables)


def _check(rows: pa.RecordBatch, source: str) -> None:
    """Raise SourceError for a value that no flow tuple has, as another program or a damaged file may hold it."""
    for column in schema.FLOWS_COLUMNS:
        values = rows[column.name]
        if values.null_count and not column.nullable:
            raise SourceError(source, f"a row has no {column.name}")
        if column.name in _RANGES:
            low, high = _RANGES[column.name]
            found = pc.min_max(values.cast(pa.int64())).as_py()
            if found["min"] is not None and not low <= found["min"] <= found["max"] <= high:
                raise SourceError(source, f"a row has a {column.name} that there is not")


@contextlib.contextmanager
def _told(source: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(source, f"is no readable Parquet file: {' '.join(str(error).split()):.160}") from None


def lake_parts(lake: Lake, window: Window, *, at_once: int = AT_ONCE) -> list[KeptPart]:
    """The lake's blobs that may hold tuples of ``window``, those of each date as one part, in order; ``at_once`` as `blob_ledgers` has it."""
    after = window.start - _HOUR if window.start is not None else None
    before = window.end + _HOUR if window.end is not None else None
    found: dict[dt.date, list[tuple[KeptBlob, str]]] = {}
    for rows in blob_ledgers(lake, after=after, before=before, at_once=at_once):
        for row in rows.iter_rows(named=True):
            found.setdefault(row["date"], []).append((_blob(row, lake), row["blob_id"]))
    return [_part(lake, date, blobs) for date, blobs in sorted(found.items())]


def _part(lake: Lake, date: dt.date, found: list[tuple[KeptBlob, str]]) -> KeptPart:
    # They come some hours at a time, and rejects are kept in the order of names.
    found.sort(key=lambda each: each[0].name)
    blobs, ids = [blob for blob, _ in found], [identity for _, identity in found]

    def tables() -> Iterator[pa.Table]:
        return _rows_of(lake, date, ids, blobs)

    return KeptPart(tuple(blobs), tables)


def _blob(row: Mapping[str, Any], lake: Lake) -> KeptBlob:
    """What the ledger says of one blob; raises LedgerError where it does not say it."""
    name = row["name"]
    for told in (*row["unknown_codes"], *row["rejects"]):
        if told is None or None in told.values():
            # As with `_check`: names of columns are under no checksum, and one of another name reads as one without values.
            raise LedgerError(str(lake.place), f"a fact of {name} lacks part of a reject or of an unknown code")
    codes: dict[str, int] = {}
    for each in row["unknown_codes"]:
        codes[each["note"]] = codes.get(each["note"], 0) + each["count"]
    rejects = tuple(
        Reject(name, each["offset"], each["reason"], each["sample"]) for each in row["rejects"][:REJECTS_KEPT]
    )
    counts = {count: row[count] for count in COUNTS}
    size = counts["record_bytes"] + counts["framing_bytes"]
    ledger = Ledger(blobs=1, bytes=size, unknown_codes=codes, rejects=rejects, **counts)
    return KeptBlob(name, size, row["flow_log"], row["hour"], row["mac_address"], ledger, failed=counts["unread"] > 0)


def _rows_of(lake: Lake, date: dt.date, ids: Sequence[str], blobs: Sequence[KeptBlob]) -> Iterator[pa.Table]:
    """The rows of some blobs of a date, each with its blob's number; raises LedgerError where some are not there."""
    hours = [blob.hour for blob in blobs if blob.hour is not None]
    time = pc.field("time")
    near = (time >= min(hours) - _NEAR) & (time < max(hours) + _HOUR + _NEAR)
    known = pa.array(ids, schema.TEXT)
    found = [0] * len(ids)

    def numbered(condition: Any) -> Iterator[pa.Table]:
        for batch in lake.batches([date], [*schema.FLOWS.names, "blob_id"], condition):
            _check(batch, str(lake.place))
            numbers = pc.index_in(batch["blob_id"], value_set=known).cast(pa.int64())
            table = pa.Table.from_batches([batch]).select(schema.FLOWS.names).cast(schema.FLOWS)
            table = table.append_column(BLOB, numbers)
            if numbers.null_count:
                table = table.filter(numbers.is_valid())
            for each in pc.value_counts(table[BLOB]).to_pylist():
                found[each["values"]] += each["counts"]
            if table.num_rows:
                yield table

    yield from numbered(near)
    short = [number for number, blob in enumerate(blobs) if found[number] < blob.ledger.rows]
    if short:
        # Their tuples have times far from their hour.
        yield from numbered(~near & pc.field("blob_id").isin(known.take(pa.array(short))))
    for number, blob in enumerate(blobs):
        if found[number] != blob.ledger.rows:
            raise LedgerError(
                str(lake.place),
                f"expected {blob.ledger.rows} rows of {blob.name}, found {found[number]}",
                hint="rows were removed from the lake or added by another program; flowlens lake status tells more",
            )
