"""FLOWS of sources as a stream: a LazyFrame that reads anew at each collect, or one Parquet file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from flowlens import schema
from flowlens.errors import FlowlensError
from flowlens.evidence import Ledger, Reject, Window, checked, total
from flowlens.formats import flow_log_documents
from flowlens.formats.compiled import ENOUGH_ROWS, new_reader
from flowlens.formats.flow_log import Document, flows_of
from flowlens.lake.reading import BLOB, KeptPart
from flowlens.selecting import Item, Plan, Selected

_ROW_GROUP = 131_072
_FLOWS_BATCH_SCHEMA = schema.polars_schema(schema.FLOWS)


def inside_window(flows: pa.Table, window: Window) -> tuple[pa.Table, int]:
    """The rows inside the window, and how many lie outside."""
    if window.start is None and window.end is None:
        return flows, 0
    times = pl.DataFrame(pl.from_arrow(flows.select(["time"])))
    mask = times.select(in_window(pl.col("time"), window)).to_series()
    kept = flows if mask.all() else flows.filter(mask.to_arrow())
    return kept, flows.num_rows - kept.num_rows


def in_window(time: pl.Expr, window: Window) -> pl.Expr:
    """Whether ``time`` lies in the window."""
    inside = pl.repeat(True, pl.len(), dtype=pl.Boolean)
    if window.start is not None:
        inside &= time >= window.start
    if window.end is not None:
        inside &= time < window.end
    return inside


def unread_item(item: Item, offset: int, error: FlowlensError) -> Ledger:
    """A blob that could not be read to its end, with the reason and what to do about it."""
    reason = f"{error.problem} ({error.hint})" if error.hint else error.problem
    return Ledger(unread=1, rejects=(Reject(item.blob.name, offset, reason, ""),))


def lazily(frames: Callable[[], Generator[pl.DataFrame, None, None]], kind: pl.Schema) -> pl.LazyFrame:
    """A LazyFrame of what ``frames`` gives, which is called at each collect and closed once enough has come."""

    def batches(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        with closing(frames()) as given:
            for frame in given:
                if predicate is not None:
                    frame = frame.filter(predicate)
                if with_columns is not None:
                    frame = frame.select(with_columns)
                if left is not None:
                    frame = frame.head(left)
                    left -= frame.height
                yield frame
                if left == 0:
                    return

    return register_io_source(batches, schema=kind, validate_schema=True)


def scan_flows(plan: Plan, choose: Callable[[], Selected]) -> pl.LazyFrame:
    """FLOWS as a LazyFrame that decodes the source at each collect."""

    def frames() -> Generator[pl.DataFrame, None, None]:
        selected = choose()
        try:
            for flows in flow_tables(selected, plan):
                yield pl.DataFrame(pl.from_arrow(schema.plain(flows)))
        finally:
            selected.close()

    return lazily(frames, _FLOWS_BATCH_SCHEMA)


def flow_tables(selected: Selected, plan: Plan) -> Iterator[pa.Table]:
    """FLOWS inside the window, texts as dictionaries where they were just decoded; those of small blobs are in one table.

    A blob that ends in the middle gives what it has before its error is raised.
    """
    for part in selected.kept:
        yield from (table for table, _ in _kept_flows(part, plan))
    gathered = _Documents(plan)
    for item in selected.flow_logs:
        try:
            for document in gathered.of(item):
                gathered.add(document)
                if gathered.is_enough:
                    yield gathered.taken()
        except FlowlensError:
            yield gathered.taken()
            raise
    yield gathered.taken()


class _Documents:
    """Documents of one or several blobs, gathered until they are enough for a table."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._reader = None if plan.strict else new_reader()
        self._documents: list[Document] = []
        self._where = ""
        self._rows = self._inside = 0

    def of(self, item: Item) -> Iterator[Document]:
        """The documents of a blob."""
        self._where = item.blob.name
        return flow_log_documents(item.chunks(), where=item.blob.name, strict=self._plan.strict, reader=self._reader)

    def add(self, document: Document) -> Ledger:
        """The ledger of a document with its flows inside the window and outside; it is gathered."""
        self._documents.append(document)
        inside, outside = document.rows_by(self._plan.window)
        self._inside += inside
        self._rows += inside + outside
        return replace(document.ledger, rows=inside, outside_window=outside)

    @property
    def is_enough(self) -> bool:
        """Whether it is time for a table."""
        return self._rows >= ENOUGH_ROWS

    def taken(self) -> pa.Table:
        """The flows of the documents inside the window in their order, as schema.ENCODED_FLOWS; none is gathered after it.

        Raises LedgerError where they are not as many as each document told.
        """
        kept, outside = inside_window(flows_of(self._documents), self._plan.window)
        if outside:
            # Of what lies outside no word is to be left.
            kept = schema.encoded(kept)
        checked(Ledger(tuples=self._inside + outside, rows=kept.num_rows, outside_window=outside), self._where)
        self._documents, self._rows, self._inside = [], 0, 0
        if self._reader is not None:
            self._reader.clear()
        return kept


def _kept_flows(part: KeptPart, plan: Plan) -> Iterator[tuple[pa.Table, int]]:
    """FLOWS inside the window that were decoded before, and how many of the same piece lie outside."""
    for table in part.tables():
        kept, outside = inside_window(table.drop_columns([BLOB]), plan.window)
        yield kept, outside


def write_flows(plan: Plan, selected: Selected, file: BinaryIO) -> Ledger:
    """The ledger of writing all FLOWS to ``file`` as Parquet, in large row groups, zstd-compressed."""
    try:
        return _write_items(plan, selected, file)
    finally:
        selected.close()


def _write_items(plan: Plan, selected: Selected, file: BinaryIO) -> Ledger:
    ledger = Ledger(sources=len(plan.sources), notes=selected.notes, unread=selected.unread)
    # Written by their dictionaries, read as text: the schema that readers go by is that of FLOWS, with its descriptions.
    with pq.ParquetWriter(
        file,
        schema.ENCODED_FLOWS,
        compression="zstd",
        compression_level=1,
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        writer.add_key_value_metadata({"ARROW:schema": b64encode(schema.FLOWS.serialize()).decode()})
        pending: list[pa.Table] = []
        rows = 0

        def put(flows: pa.Table) -> None:
            nonlocal rows
            pending.append(flows)
            rows += flows.num_rows
            if rows >= _ROW_GROUP:
                write()

        def write() -> None:
            nonlocal rows
            if rows:
                writer.write_table(pa.concat_tables(pending).unify_dictionaries().combine_chunks())
                pending.clear()
                rows = 0

        for part in selected.kept:
            counts = total(blob.ledger for blob in part.blobs)
            inside = 0
            for kept, _ in _kept_flows(part, plan):
                inside += kept.num_rows
                put(schema.encoded(kept))
            ledger += replace(counts, rows=inside, outside_window=counts.rows - inside)
        gathered = _Documents(plan)
        for item in selected.flow_logs:
            blob = Ledger(blobs=1)
            try:
                for document in gathered.of(item):
                    blob += gathered.add(document)
                    if gathered.is_enough:
                        put(gathered.taken())
            except FlowlensError as error:
                blob += unread_item(item, blob.bytes, error)
            ledger += checked(blob, item.blob.name)
        put(gathered.taken())
        write()
    return replace(ledger, notes=(*ledger.notes, *selected.met()))
