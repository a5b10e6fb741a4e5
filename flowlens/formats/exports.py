"""Rows of a Log Analytics table as it is exported: bytes to batches of text columns, and text to values.

Five shapes: CSV as the portal or the command line writes it, the answer of the query API (JSON with ``tables``), a JSON
array of row objects, JSON lines. One pattern per shape cuts the bytes into rows, each with its place; a batch of rows
becomes columns in one go, or row by row where one of them deviates. What is no row is a reject, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.csv

from flowlens.errors import FlowlensError
from flowlens.evidence import REJECTS_KEPT, SAMPLE_LENGTH, Ledger, Reject, sample

ROW_LIMIT = 1 << 20
"""A row this long is a reject: Log Analytics keeps far less in one (a real row takes 1 KB), and memory needs a bound."""
BATCH_ROWS = 20_000
BATCH_BYTES = 1 << 23

_SHOWN = 4 * SAMPLE_LENGTH
BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(rb"\s++")
# JSON rows are flat: columns of Log Analytics hold text, numbers, booleans or null.
_STRING = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
_FLAT = rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+'
_CELL = rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^",\r\n]*+)'
_CSV_CELL = re.compile(rb"(?:\A|,)(" + _CELL + rb")")
# The closing quote is optional here, so that text which never closes is gone through once and not once per quote.
_JSON_TOKEN = re.compile(_STRING + rb"?|[\[{]|[\]}]|\n(?=\s*[\[{])")
_ROWS_OF_TABLE = re.compile(rb'"rows"\s*:\s*\[')
_COLUMNS_OF_TABLE = re.compile(rb'"columns"\s*:\s*(\[[^\[\]]*\])')
_ONLY_IN_PART = re.compile(rb'"error"\s*:\s*\{')
_Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which columns are read: their names, and ``lacking(header)``, which says why a table cannot be read, else "".

    Names are matched in any case. ``spellings`` are further ones that rows written as objects may use, ``others`` what another
    table calls them.
    """

    names: tuple[str, ...]
    lacking: Callable[[Sequence[str]], str]
    spellings: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)


def name_and_zone(header: str) -> tuple[str, str]:
    """A column's name and the time zone that the portal may put behind it.

    >>> name_and_zone("TimeGenerated [Local Time]")
    ('TimeGenerated', 'Local Time')
    """
    name, _, zone = header.strip().removesuffix("]").partition(" [")
    return name, zone


def read_export(
    chunks: Iterable[bytes], failures: list[FlowlensError], *, where: str, wanted: Wanted
) -> Iterator[tuple[pl.DataFrame, Ledger]]:
    """Batches of up to 20,000 rows or 8 MiB: an Int64 column ``offset`` and text columns, with the ledger of what gave no row.

    Which wanted columns are there, and in which of their spellings, depends on the export. How the bytes are chunked
    decides nothing. Raises nothing for bad bytes; ``where`` names the source in rejects. An error of the chunks goes to
    ``failures``, since the rows before it are of use; it is raised where there is no byte before it.

    >>> wanted = Wanted(("A", "B"), lambda header: "")
    >>> [frame.rows() for frame, _ in read_export([b"A,B\\n1,2\\n"], [], where="a.csv", wanted=wanted)]
    [[(4, '1', '2')]]
    """
    for batch, layout in _read(_Reader(_until_failure(chunks, failures)), where, wanted):
        # Reading the rows adds to the rejects of the batch, so its ledger is made afterwards.
        frame = _frame(batch, layout) if layout and batch.spans else pl.DataFrame(schema={"offset": pl.Int64})
        yield frame, batch.ledger()


def _until_failure(chunks: Iterable[bytes], failures: list[FlowlensError]) -> Iterator[bytes]:
    """The chunks up to an error, which is kept; without any byte before it, it is raised."""
    came = False
    try:
        for chunk in chunks:
            came = came or bool(chunk)
            yield chunk
    except FlowlensError as error:
        if not came:
            raise
        failures.append(error)


def text_cells(frame: pl.DataFrame, names: Sequence[str], others: Mapping[str, str] | None = None) -> list[pl.Expr]:
    """The named columns of a frame, in any case and of any type, as trimmed text; null where blank or not there.

    ``others`` are further names of columns, each with the one of ``names`` that it stands for.

    >>> frame = pl.DataFrame({"srcip": [" 10.0.0.4 "], "DestPort": [443.0]})
    >>> frame.select(text_cells(frame, ["SrcIp", "DestPort", "Vm"])).row(0)
    ('10.0.0.4', '443', None)
    """
    canonical = {name.lower(): name for name in names}
    canonical |= {other.lower(): name for other, name in (others or {}).items()}
    written: dict[str, list[pl.Expr]] = {name: [] for name in names}
    for column, dtype in frame.schema.items():
        name = canonical.get(name_and_zone(column)[0].lower())
        if name:
            text = _as_text(pl.col(column), dtype).str.strip_chars()
            written[name].append(pl.when(text != "").then(text))
    nothing = pl.lit(None, dtype=pl.String)
    return [pl.coalesce(*found, nothing).alias(name) for name, found in written.items()]


def _as_text(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        utc = cell.dt.convert_time_zone("UTC") if dtype.time_zone else cell
        return utc.dt.to_string("%Y-%m-%dT%H:%M:%S%.6f")
    if dtype.is_float():
        # A whole number that became a float, as pandas makes of a column with blanks, is that number.
        number = cell.fill_nan(None)
        whole = pl.when(number == number.floor()).then(number.cast(pl.Int64, strict=False))
        return whole.cast(pl.String).fill_null(number.cast(pl.String))
    if dtype.is_nested() or dtype == pl.Object:
        return pl.lit(None, dtype=pl.String)
    return cell.cast(pl.String, strict=False)


def time_of(text: pl.Expr) -> pl.Expr:
    """A time in UTC, to the microsecond; null for text that is none.

    The interfaces write ISO 8601; the portal writes US times without a zone, which are UTC.

    >>> pl.select(time_of(pl.lit("8/25/2025 8:11:21.937 PM"))).item().isoformat()
    '2025-08-25T20:11:21.937000+00:00'
    """
    # Browsers differ in the comma and in which kind of space they put before AM and PM.
    text = text.str.replace("T", " ", literal=True).str.replace_all(r"[\s,]+", " ").str.strip_suffix("Z")
    clock = r" [0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    iso = "^[0-9]{4}-[0-9]{2}-[0-9]{2}" + clock

    def when(pattern: str, form: str) -> pl.Expr:
        fitting = pl.when(text.str.contains(pattern)).then(text).str.replace(" ([+-])", "$1")
        return fitting.str.to_datetime(form, time_unit="us", strict=False)

    return pl.coalesce(
        when(iso + "$", "%Y-%m-%d %H:%M:%S%.f").dt.replace_time_zone("UTC"),
        when(iso + " ?[+-][0-9]{2}:?[0-9]{2}$", "%Y-%m-%d %H:%M:%S%.f%z"),
        when("(?i)^[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}" + clock + " [AP]M$", "%m/%d/%Y %I:%M:%S%.f %p").dt.replace_time_zone(
            "UTC"
        ),
    )


def number_of(text: pl.Expr, limit: int) -> pl.Expr:
    """A whole number from 0 to below ``limit``; null for text that is none.

    >>> pl.select(number_of(pl.lit("443.0"), 65536)).item()
    443
    """
    number = text.str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)
    return pl.when(number.is_between(0, limit - 1)).then(number)


class _Reader:
    """The bytes of a source with the longest possible row in view."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._base = 0
        self._ended = False
        self.data = b""
        self.at = 0

    @property
    def offset(self) -> int:
        return self._base + self.at

    def fill(self) -> bool:
        """Whether bytes are left, after bringing ROW_LIMIT of them into view."""
        held = len(self.data) - self.at
        if held < ROW_LIMIT and not self._ended:
            parts = [self.data[self.at :]]
            self._base += self.at
            while held < 4 * ROW_LIMIT and not self._ended:
                chunk = next(self._chunks, None)
                self._ended = chunk is None
                parts.append(chunk or b"")
                held += len(parts[-1])
            self.data, self.at = b"".join(parts), 0
        return self.at < len(self.data)

    def view(self) -> bytes:
        return self.data[self.at : self.at + ROW_LIMIT]

    def take(self, pattern: re.Pattern[bytes]) -> bytes:
        """What the pattern matches here, or as much of it as is in view; taken."""
        found = pattern.match(self.data, self.at, self.at + ROW_LIMIT)
        text = found[0] if found else b""
        self.at += len(text)
        return text

    def take_row(self, pattern: re.Pattern[bytes]) -> bytes | None:
        """The row that the pattern matches here, taken; None where there is none or it goes on beyond the limit."""
        limit = self.at + ROW_LIMIT
        found = pattern.match(self.data, self.at, limit)
        if found is None or (found.end() == limit and not (self._ended and limit == len(self.data))):
            return None
        self.at = found.end()
        return found[0]

    def skip_line(self) -> None:
        """Go to the next line feed or the end."""
        while self.fill():
            end = self.data.find(b"\n", self.at)
            self.at = len(self.data) if end < 0 else end
            if end >= 0:
                return

    def skip_value(self) -> None:
        """Go behind a JSON value that is no row: to where its brackets close, or a line begins with the next value."""
        depth = 0
        for token in _JSON_TOKEN.finditer(self.data, self.at, self.at + ROW_LIMIT):
            first, begun = token[0][:1], token.start() > self.at
            if begun and (first == b"\n" or (depth == 0 and first in b"[{")):
                self.at = token.start()
                return
            depth += (first in b"[{") - (first in b"]}")
            if first in b"]}" and depth <= 0:
                self.at = token.end()
                return
        self.at = min(self.at + ROW_LIMIT, len(self.data))
        self.skip_line()

    def drain(self) -> None:
        while self.fill():
            self.at = len(self.data)


@dataclass(slots=True)
class _Batch:
    """Rows cut from a source and not yet read; ``last`` ends with ] where a JSON array is known to be closed."""

    where: str
    start: int
    last: bytes = b""
    end: int = 0
    spans: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    rejected: int = 0
    record_bytes: int = 0
    framing_bytes: int = 0
    unread: int = 0

    def reject(self, offset: int, reason: str, raw: bytes) -> None:
        self.rejected += 1
        if len(self.rejects) < REJECTS_KEPT:
            self.rejects.append(Reject(self.where, offset, reason, sample(raw)))

    def ledger(self) -> Ledger:
        return Ledger(
            records=self.rejected,
            rejected_records=self.rejected,
            bytes=self.end - self.start,
            record_bytes=self.record_bytes,
            framing_bytes=self.framing_bytes,
            unread=self.unread,
            rejects=tuple(sorted(self.rejects, key=lambda reject: reject.offset)),
        )


class _Shape(NamedTuple):
    """How rows follow each other: what stands between them, a row, how to go on behind what is none."""

    between: re.Pattern[bytes]
    row: re.Pattern[bytes]
    skip: Callable[[_Reader], None]


_CSV = _Shape(
    # A file may be cut between carriage return and line feed.
    re.compile(rb"(?:\r?(?:\n|\Z))*+"),
    re.compile(_CELL + rb"(?:," + _CELL + rb")*+(?=\r?(?:\n|\Z))"),
    _Reader.skip_line,
)
_OBJECTS = _Shape(
    # Brackets stand around the rows once; arrays may follow each other, and be empty.
    re.compile(rb"[\s,]*+(?:\]\s*+)?+(?:\[\s*+\]\s*+)*+(?:\[\s*+)?+"),
    re.compile(rb"\{" + _FLAT + rb"\}"),
    _Reader.skip_value,
)
_ARRAYS = _Shape(re.compile(rb"[\s,]*+"), re.compile(rb"\[" + _FLAT + rb"\]"), _Reader.skip_value)


class _Layout(NamedTuple):
    """How rows become cells: all at once, or one alone. Both raise ValueError for rows that they cannot read."""

    names: Sequence[str]
    together: Callable[[list[bytes]], pl.DataFrame]
    alone: Callable[[bytes], Sequence[_Cell]]


def _read(reader: _Reader, where: str, wanted: Wanted) -> Iterator[tuple[_Batch, _Layout | None]]:
    batch = _Batch(where, 0)
    reader.fill()
    if reader.data.startswith(BOM):
        reader.at = batch.framing_bytes = len(BOM)
    while reader.fill() and (blank := reader.take(_BLANK)):
        batch.framing_bytes += len(blank)
    view = reader.view()
    first = view[:1]
    if not first:
        batch.reject(reader.offset, "nothing in it", b"")
        yield _rest(reader, batch), None
    elif first == b"{" and _ROWS_OF_TABLE.search(view) and not _OBJECTS.row.match(view):
        yield from _read_answer(reader, batch, wanted)
    elif first in b"{[":
        layout = _layout_of_objects(wanted)
        cut = batch
        for cut in _cut(reader, batch, _OBJECTS):
            yield cut, layout
        if first == b"[" and not cut.last.endswith(b"]"):
            yield _unclosed(reader, where), None
    else:
        yield from _read_csv(reader, batch, wanted)


def _read_csv(reader: _Reader, batch: _Batch, wanted: Wanted) -> Iterator[tuple[_Batch, _Layout | None]]:
    start = reader.offset
    header = reader.take_row(_CSV.row) or b""
    names = [_unquoted(cell).decode("utf-8", "replace") for cell in _CSV_CELL.findall(header)]
    lacking = wanted.lacking(names)
    if lacking:
        batch.record_bytes += len(header)
        batch.reject(start, lacking, header or reader.view())
        yield _rest(reader, batch), None
        return
    batch.framing_bytes += len(header)
    layout = _layout_of_csv(names, wanted)
    for cut in _cut(reader, batch, _CSV):
        yield cut, layout


def _read_answer(reader: _Reader, batch: _Batch, wanted: Wanted) -> Iterator[tuple[_Batch, _Layout | None]]:
    """The tables of an answer of the query API; each gives its columns before its rows."""
    while reader.fill():
        view = reader.view()
        rows = _ROWS_OF_TABLE.search(view)
        head = view[: rows.end()] if rows else view
        partial = _ONLY_IN_PART.search(head)
        if partial:
            # HTTP 200 with both ``tables`` and ``error`` is how the API says that an answer is not all of it
            # (Azure Monitor documentation, logs/api/response-format).
            batch.unread += 1
            reason = "the answer holds only part of the rows"
            batch.rejects.append(Reject(batch.where, reader.offset, reason, sample(head[partial.start() :])))
        if rows is None:
            break
        names = _names_of_table(head)
        lacking = wanted.lacking(names)
        if lacking:
            batch.reject(reader.offset, lacking, head)
            yield _rest(reader, batch), None
            return
        reader.at += len(head)
        batch.framing_bytes += len(head)
        layout = _layout_of_arrays(names, wanted)
        cut = batch
        for cut in _cut(reader, batch, _ARRAYS, end=b"]"):
            yield cut, layout
        if not cut.last.endswith(b"]"):
            yield _unclosed(reader, batch.where), None
        batch = _Batch(batch.where, reader.offset)
    left = reader.view()
    if len(left) < ROW_LIMIT:
        batch.framing_bytes += len(left)
        reader.at += len(left)
    else:
        batch.reject(reader.offset, "no rows behind the tables of an answer", left)
    yield _rest(reader, batch), None


def _names_of_table(head: bytes) -> list[str]:
    found = _COLUMNS_OF_TABLE.findall(head)
    try:
        columns = msgspec.json.decode(found[-1], type=list[dict[str, _Cell]]) if found else []
    except ValueError:
        return []
    return [str(column.get("name")) for column in columns]


def _unclosed(reader: _Reader, where: str) -> _Batch:
    batch = _Batch(where, reader.offset, end=reader.offset)
    batch.reject(reader.offset, "the array of rows is not closed: the file is cut", b"")
    return batch


def _rest(reader: _Reader, batch: _Batch) -> _Batch:
    """The batch with all that is left of the source as part of its reject."""
    start = reader.offset
    reader.drain()
    batch.end = reader.offset
    batch.record_bytes += batch.end - start
    return batch


def _cut(reader: _Reader, batch: _Batch, shape: _Shape, *, end: bytes = b"") -> Iterator[_Batch]:
    """Batches of rows up to ``end``, or all there are; the last may be empty."""
    while reader.fill():
        between = reader.take(shape.between)
        if between:
            batch.framing_bytes += len(between)
            batch.last = between.strip() or batch.last
            if not reader.fill():
                break
            if len(between) == ROW_LIMIT:
                continue
        if end and reader.data.startswith(end, reader.at):
            batch.framing_bytes += len(end)
            batch.last = end
            reader.at += len(end)
            break
        if len(batch.spans) >= BATCH_ROWS or batch.record_bytes >= BATCH_BYTES:
            batch.end = reader.offset
            yield batch
            batch = _Batch(batch.where, reader.offset, batch.last)
        start = reader.offset
        row = reader.take_row(shape.row)
        if row is None:
            begin = reader.data[reader.at : reader.at + _SHOWN]
            shape.skip(reader)
            batch.reject(start, "a broken row, or one that is cut", begin[: reader.offset - start])
            batch.record_bytes += reader.offset - start
            batch.last = b"]"
        else:
            batch.spans.append(row)
            batch.offsets.append(start)
            batch.record_bytes += len(row)
            batch.last = b"}"
    batch.end = reader.offset
    yield batch


def _layout_of_csv(header: Sequence[str], wanted: Wanted) -> _Layout:
    places = _places(header, wanted)
    types = {name: pa.string() for name in places}
    named = {place: name for name, place in places.items()}
    names = [named.get(place, str(place)) for place in range(len(header))]

    def together(spans: list[bytes]) -> pl.DataFrame:
        data = b"\n".join(spans) + b"\n"
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            pa.csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False),
        )
        return pl.DataFrame(pl.from_arrow(table))

    def alone(span: bytes) -> list[str]:
        cells = _CSV_CELL.findall(span)
        _check_width(len(cells), len(header))
        return [_unquoted(cells[place]).decode() for place in places.values()]

    return _Layout(list(places), together, alone)


def _unquoted(cell: bytes) -> bytes:
    return cell[1:-1].replace(b'""', b'"') if cell.startswith(b'"') else cell


def _layout_of_arrays(header: Sequence[str], wanted: Wanted) -> _Layout:
    places = _places(header, wanted)
    decoder = msgspec.json.Decoder(list[list[_Cell]])

    def together(spans: list[bytes]) -> pl.DataFrame:
        rows = decoder.decode(b"[" + b",".join(spans) + b"]")
        for width in set(map(len, rows)):
            _check_width(width, len(header))
        columns = list(zip(*rows, strict=True))
        return _text_columns(list(places), [columns[place] for place in places.values()])

    def alone(span: bytes) -> list[_Cell]:
        (cells,) = decoder.decode(b"[" + span + b"]")
        _check_width(len(cells), len(header))
        return [cells[place] for place in places.values()]

    return _Layout(list(places), together, alone)


def _layout_of_objects(wanted: Wanted) -> _Layout:
    names = [*wanted.names, *wanted.spellings, *wanted.others]
    row = msgspec.defstruct("Row", [(name, _Cell, None) for name in names])
    decoder = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]

    def together(spans: list[bytes]) -> pl.DataFrame:
        rows = decoder.decode(b"[" + b",".join(spans) + b"]")
        return _text_columns(names, list(zip(*map(msgspec.structs.astuple, rows), strict=True)))

    def alone(span: bytes) -> tuple[_Cell, ...]:
        (cells,) = map(msgspec.structs.astuple, decoder.decode(b"[" + span + b"]"))
        return cells

    return _Layout(names, together, alone)


def _check_width(found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"expected {expected} cells, found {found}")


def _places(header: Sequence[str], wanted: Wanted) -> dict[str, int]:
    """Wanted name -> its first place in the header."""
    names = {name.lower(): name for name in wanted.names}
    names |= {other.lower(): name for other, name in wanted.others.items()}
    places: dict[str, int] = {}
    for place, written in enumerate(header):
        name = names.get(name_and_zone(written)[0].lower())
        if name:
            places.setdefault(name, place)
    return places


def _text_columns(names: Sequence[str], columns: Sequence[Sequence[_Cell]]) -> pl.DataFrame:
    cells = columns or [()] * len(names)
    return pl.DataFrame(
        [pl.Series(name, column, dtype=pl.String, strict=False) for name, column in zip(names, cells, strict=True)]
    )


def _frame(batch: _Batch, layout: _Layout) -> pl.DataFrame:
    """The rows of a batch as text; those that cannot be read become rejects of the batch."""
    offsets = batch.offsets
    try:
        frame = layout.together(batch.spans)
    except ValueError:
        frame = pl.DataFrame()
    if frame.height != len(offsets):
        rows, offsets = [], []
        for span, offset in zip(batch.spans, batch.offsets, strict=True):
            try:
                rows.append(layout.alone(span))
                offsets.append(offset)
            except ValueError as error:
                batch.reject(offset, str(error), span)
        frame = _text_columns(layout.names, list(zip(*rows, strict=True)))
    return frame.insert_column(0, pl.Series("offset", offsets, dtype=pl.Int64))
