"""Pieces of work: some flow log blobs read, decoded and rolled up by one thread, with what each blob gave."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from flowlens import conversations, schema
from flowlens.errors import FlowlensError
from flowlens.evidence import Ledger, checked, microseconds
from flowlens.flow_streams import in_window, inside_window, unread_item
from flowlens.formats import flow_log_documents
from flowlens.formats.compiled import HOUR, Batch, Held, NicHour, add, new_reader
from flowlens.gathering import BlobResult
from flowlens.lake.reading import BLOB, KeptBlob, KeptPart
from flowlens.pieces import Pieces
from flowlens.restarts import FLOW
from flowlens.selecting import Item, Plan, Progress, Selected
from flowlens.sources.files import Blob
from flowlens.sources.stored_blobs import StoredBlob

NIC = ["flow_log_id", "target_resource_id", "mac_address"]
_UNIT_ROWS = 50_000
_UNIT_BYTES = 4_000_000
_UNIT_BLOBS = 100
_ENDS = pa.schema([schema.FLOWS.field(name) for name in (*FLOW, "time", "restarted", *schema.COUNTERS)])
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_Count = tuple[int, int]
"""Flow tuples inside the window, and all that were seen."""


class Interrupted(Exception):  # noqa: N818
    """Another thread failed or the user stopped the run; this thread's work is of no use any more."""


Work = Sequence[Item] | KeptPart
"""A piece of work for one thread."""


class Meter:
    """How far a run is, and whether it shall stop; shared by the threads."""

    def __init__(self, selected: Selected, progress: Progress | None) -> None:
        self._total = selected.bytes
        self._progress = progress
        self._blobs = 0
        self._bytes = 0
        self._lock = threading.Lock()
        self.stop = threading.Event()

    def chunks(self, item: Item) -> Generator[bytes, None, None]:
        """The item's chunks, counted up to its size as listed: a gzip file gives more."""
        left = item.blob.size
        chunks = item.chunks()
        try:
            for chunk in chunks:
                if self.stop.is_set():
                    raise Interrupted
                step = min(left, len(chunk))
                left -= step
                self._advance(step, 0)
                yield chunk
        finally:
            # Where a run ends in mid-blob its file is closed now, not whenever memory is collected.
            if isinstance(chunks, Generator):
                chunks.close()
        self._advance(left, 1)

    def tables(self, part: KeptPart) -> Iterator[pa.Table]:
        """The part's tables, counted by what their blobs took on average for a row."""
        rows = max(1, sum(blob.ledger.rows for blob in part.blobs))
        left = part.size
        for table in part.tables():
            if self.stop.is_set():
                raise Interrupted
            step = min(left, part.size * table.num_rows // rows)
            left -= step
            self._advance(step, 0)
            yield table
        self._advance(left, len(part.blobs))

    def _advance(self, size: int, blobs: int) -> None:
        with self._lock:
            self._bytes += size
            self._blobs += blobs
            if self._progress is not None:
                self._progress(self._blobs, self._bytes, self._total)


class _Unit:
    """One thread's piece of work: a large blob, or many small ones whose tuples are rolled up together.

    Rolling up costs the same for a hundred tuples as for ten thousand, so the tuples of small blobs are gathered first: in the
    compiled kernel where it decodes them, else as tables.
    """

    def __init__(self, work: Work, rollup: conversations.BlobRollup, plan: Plan, meter: Meter) -> None:
        self._plan = plan
        self._meter = meter
        self._rollup = rollup
        self._start, self._end = plan.window.microseconds
        self._edges = sorted(microseconds(edge) for edge in plan.edges)
        self._reader = None if plan.strict else new_reader()
        self._pending: list[pa.Table] = []
        self._rows = 0
        self._read: list[BlobResult] = []
        self._restarted = False
        self._ends: list[pa.Table] = []
        self.restarted_ends: list[pl.DataFrame] = []
        self._blobs: list[Blob | StoredBlob | KeptBlob] = (
            list(work.blobs) if isinstance(work, KeptPart) else [item.blob for item in work]
        )
        self._hours: list[dict[NicHour, _Count]] = [{} for _ in self._blobs]
        if isinstance(work, KeptPart):
            self._take_kept(work)
        else:
            for number, item in enumerate(work):
                self._read.append(self._decode(number, item))
        if self._reader is not None:
            self._roll_up(self._reader)
        self._flush()
        self._sift_ends()

    def _take_kept(self, part: KeptPart) -> None:
        """Flows that were decoded before, with what became of their blobs."""
        self._read = [BlobResult(blob.ledger, failed=blob.failed) for blob in part.blobs]
        for table in self._meter.tables(part):
            self._gather(table)

    def _gather(self, flows: pa.Table) -> None:
        """Take flows, each with the number of its blob, until they are enough to be rolled up."""
        self._pending.append(flows)
        self._rows += flows.num_rows
        if self._rows >= _UNIT_ROWS:
            self._flush()

    def _decode(self, number: int, item: Item) -> BlobResult:
        ledger = Ledger(blobs=1)
        failed = False
        chunks = self._meter.chunks(item)
        try:
            for document in flow_log_documents(
                chunks, where=item.blob.name, strict=self._plan.strict, reader=self._reader
            ):
                ledger += document.ledger
                if document.batch is not None:
                    self._count_batch(number, document.batch)
                if document.rest is not None:
                    self._gather(_numbered(document.rest, number))
                if self._reader is not None and self._reader.is_full:
                    self._roll_up(self._reader)
        except FlowlensError as error:
            failed = True
            ledger += unread_item(item, ledger.bytes, error)
        finally:
            chunks.close()
        return BlobResult(ledger, failed=failed)

    def _count_batch(self, number: int, batch: Batch) -> None:
        """Count what the kernel has decoded of one document."""
        for key, counts in batch.hours(self._start, self._end).items():
            add(self._hours[number], key, *counts)
        if None in batch.times:
            flows = batch.flows()
            self._count_hours(_numbered(flows.filter(pc.is_null(flows["record_time"])), number))

    def _roll_up(self, held: Held) -> None:
        """Roll up what the kernel has decoded, of all documents since the last time."""
        if not held.reader.row_count:
            return
        self._rollup.add_compiled(held.reader, held.contexts(self._edges), self._start, self._end)
        if held.reader.restarted or self._restarted:
            self._keep_ends(held.ends(self._start, self._end))
        held.clear()

    def _flush(self) -> None:
        if not self._pending:
            return
        flows = pa.concat_tables(self._pending)
        self._pending, self._rows = [], 0
        self._count_hours(flows)
        kept, _ = inside_window(flows, self._plan.window)
        self._rollup.add(kept)
        if self._restarted or pc.any(kept["restarted"]).as_py():
            self._keep_ends(kept.filter(pc.equal(kept["flow_state"].cast(pa.string()), schema.STATE_NAME["E"])))

    def _count_hours(self, flows: pa.Table) -> None:
        """Count the flow tuples of each blob by NIC and hour: of the record, or else their own."""
        times = pl.DataFrame(pl.from_arrow(flows.select([*NIC, "record_time", "time", BLOB])))
        counts = times.group_by(BLOB, *NIC, hour=pl.coalesce("record_time", "time").cast(pl.Int64) // HOUR).agg(
            tuples=in_window(pl.col("time"), self._plan.window).sum().cast(pl.Int64), seen=pl.len().cast(pl.Int64)
        )
        for number, log, target, mac, hour, *count in counts.with_columns(pl.col(NIC).cast(pl.String)).iter_rows():
            add(self._hours[number], (log, target, mac, hour), *count)

    def _keep_ends(self, ends: pa.Table) -> None:
        """Set Ends aside once a flow was restarted: a later End of it can stand in a later document."""
        self._restarted = True
        self._ends.append(ends.select(_ENDS.names).cast(_ENDS))
        if sum(table.num_rows for table in self._ends) >= _UNIT_ROWS:
            self._sift_ends()

    def _sift_ends(self) -> None:
        """Of the Ends set aside those of restarted flows, which are few."""
        if not self._ends:
            return
        ends = pl.DataFrame(pl.from_arrow(pa.concat_tables(self._ends)))
        self._ends = []
        suspects = pl.concat([*self.restarted_ends, ends.filter("restarted")]).select(FLOW).unique()
        self.restarted_ends.append(ends.join(suspects, on=FLOW, how="semi", nulls_equal=True))

    def results(self) -> list[BlobResult]:
        """What each blob gave, its NIC-hours filled in."""
        for blob, read, counts in zip(self._blobs, self._read, self._hours, strict=True):
            found: dict[tuple[object, ...], _Count] = {}
            for (*nic, hour), count in sorted(counts.items(), key=str):
                add(found, (*nic, blob.hour or _EPOCH + dt.timedelta(hours=hour)), *count)
            inside = sum(tuples for tuples, _ in found.values())
            outside = sum(seen for _, seen in found.values()) - inside
            read.ledger = checked(replace(read.ledger, rows=inside, outside_window=outside), blob.name)
            read.hours = _blob_hours(blob, {key: tuples for key, (tuples, _) in found.items()}, read)
        return self._read


def _numbered(flows: pa.Table, number: int) -> pa.Table:
    return flows.append_column(BLOB, pa.repeat(number, flows.num_rows))


def read_flow_logs(
    work: Work,
    plan: Plan,
    meter: Meter,
    store: Pieces,
    folder: Path,
) -> list[BlobResult]:
    """Roll up the flows of blobs into ``store``, decoding them where that was not done before."""
    rollup = conversations.BlobRollup(plan.edges, folder)
    unit = _Unit(work, rollup, plan, meter)
    results = unit.results()
    if results:
        results[0].restarted_ends = unit.restarted_ends
    for piece in rollup.finish():
        store.add(piece)
    return results


def units_of(items: Sequence[Item]) -> list[range]:
    """Blobs in pieces of work, as places in ``items``: large ones alone, small ones together, in the order of their names."""
    units: list[range] = []
    first = size = 0
    for at, item in enumerate(items):
        if at > first and (size + item.blob.size > _UNIT_BYTES or at - first >= _UNIT_BLOBS):
            units.append(range(first, at))
            first, size = at, 0
        size += item.blob.size
    return [*units, range(first, len(items))] if items else []


def _blob_hours(
    blob: Blob | StoredBlob | KeptBlob, hours: Mapping[tuple[object, ...], int], read: BlobResult
) -> list[tuple[object, ...]]:
    """Rows of nic_hours.READ: what the blob says of the NIC-hours it covers."""
    rejected = read.ledger.rejected + read.ledger.rejected_records
    state = "partly read" if read.failed or rejected else "read"
    if not hours:
        if blob.flow_log is None or blob.hour is None:
            return []
        state = "failed" if read.failed or read.ledger.rejected_records else "empty"
        return [(blob.flow_log, None, blob.mac_address, blob.hour, state, 0, rejected, blob.flow_log)]
    # The rejects of a blob are told once, at its first NIC-hour.
    return [
        (*key, state, tuples, rejected if number == 0 else 0, blob.flow_log)
        for number, (key, tuples) in enumerate(hours.items())
    ]
