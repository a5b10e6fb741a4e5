"""FLOWS of sources as a stream: a LazyFrame that reads anew at each collect, or one Parquet file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from flowlens import schema
from flowlens.errors import FlowlensError
from flowlens.evidence import Ledger, Reject, Window, checked, total
from flowlens.formats import decode_flow_log
from flowlens.formats.compiled import new_reader
from flowlens.lake.reading import BLOB, KeptPart
from flowlens.selecting import Item, Plan, Selected

if TYPE_CHECKING:
    from flowlens._kernel import Reader

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


def scan_flows(plan: Plan, choose: Callable[[], Selected]) -> pl.LazyFrame:
    """FLOWS as a LazyFrame that decodes the source at each collect."""

    def batches(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        selected = choose()
        try:
            for flows in _flows_of(selected, plan):
                frame = pl.DataFrame(pl.from_arrow(flows))
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
        finally:
            selected.close()

    return register_io_source(batches, schema=_FLOWS_BATCH_SCHEMA, validate_schema=True)


def _flows_of(selected: Selected, plan: Plan) -> Iterator[pa.Table]:
    for part in selected.kept:
        yield from (table for table, _ in _kept_flows(part, plan))
    reader = new_reader()
    for item in selected.flow_logs:
        yield from _blob_flows(item, plan, reader)


def _kept_flows(part: KeptPart, plan: Plan) -> Iterator[tuple[pa.Table, int]]:
    """FLOWS inside the window that were decoded before, and how many of the same piece lie outside."""
    for table in part.tables():
        kept, outside = inside_window(table.drop_columns([BLOB]), plan.window)
        yield kept, outside


def _blob_flows(item: Item, plan: Plan, reader: Reader | None) -> Iterator[pa.Table]:
    """FLOWS of one blob inside the window; a blob that ends in the middle gives what it has."""
    for decoded in decode_flow_log(item.chunks(), where=item.blob.name, strict=plan.strict, reader=reader):
        kept, _ = inside_window(decoded.flows, plan.window)
        if kept.num_rows:
            yield schema.plain(kept)


def write_flows(plan: Plan, selected: Selected, file: BinaryIO) -> Ledger:
    """The ledger of writing all FLOWS to ``file`` as Parquet, in large row groups, zstd-compressed."""
    try:
        return _write_items(plan, selected, file)
    finally:
        selected.close()


def _write_items(plan: Plan, selected: Selected, file: BinaryIO) -> Ledger:
    ledger = Ledger(sources=len(plan.sources))
    pending: list[pa.Table] = []
    ledger = replace(ledger, notes=selected.notes, unread=selected.unread)
    with pq.ParquetWriter(file, schema.FLOWS, compression="zstd", compression_level=1) as writer:

        def put(flows: pa.Table) -> None:
            pending.append(schema.plain(flows))
            if sum(table.num_rows for table in pending) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(pending).combine_chunks())
                pending.clear()

        for part in selected.kept:
            counts = total(blob.ledger for blob in part.blobs)
            inside = 0
            for kept, _ in _kept_flows(part, plan):
                inside += kept.num_rows
                put(kept)
            ledger += replace(counts, rows=inside, outside_window=counts.rows - inside)
        reader = new_reader()
        for item in selected.flow_logs:
            blob = Ledger(blobs=1)
            where = item.blob.name
            try:
                for decoded in decode_flow_log(item.chunks(), where=where, strict=plan.strict, reader=reader):
                    kept, outside = inside_window(decoded.flows, plan.window)
                    blob += replace(decoded.ledger, rows=kept.num_rows, outside_window=outside)
                    put(kept)
            except FlowlensError as error:
                blob += unread_item(item, blob.bytes, error)
            ledger += checked(blob, where)
        if pending:
            writer.write_table(pa.concat_tables(pending).combine_chunks())
    return replace(ledger, notes=(*ledger.notes, *selected.given_up()))
