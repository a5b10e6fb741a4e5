"""Bytes of a flow log blob to tables of flows: VNet flow logs, NSG flow logs, and every mix of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flowlens import schema
from flowlens.errors import FlowlensError
from flowlens.evidence import REJECTS_KEPT, Decoded, Ledger, Window
from flowlens.formats import compiled, fast, fields
from flowlens.formats import strict as reference
from flowlens.formats.framing import Broken, Framing, Record, Run, Taken, frames

DOCUMENT_BYTES = 2 * 2**20
"""About how many bytes of records become one batch."""

Span = Record[dict[str, Any], fast.VnetRecord] | Broken
_Numbered = tuple[int, Span]


@dataclass(frozen=True, slots=True)
class Document:
    """A batch of a blob's records; of use until the reader is cleared.

    ``batch`` is what the compiled kernel decoded, ``rest`` are the flows of all other records; None where there are none.
    """

    ledger: Ledger
    batch: compiled.Batch | None
    rest: pa.Table | None
    tallies: tuple[reference.Tally, ...] = ()
    """What became of the records, in the order of the rows of ``batch`` and ``rest``."""

    def flows(self) -> pa.Table:
        """All flows in the order of the blob, as schema.ENCODED_FLOWS."""
        return flows_of([self])

    def rows_by(self, window: Window) -> tuple[int, int]:
        """How many of the flows that it holds lie in a window, and how many outside."""
        start, end = window.microseconds
        rows = inside = 0
        if self.batch is not None:
            rows, inside = sum(self.batch.rows), sum(self.batch.rows_inside(start, end))
        if self.rest is not None:
            times = self.rest["time"].cast(pa.int64())
            rows += self.rest.num_rows
            inside += pc.sum(pc.and_(pc.greater_equal(times, start), pc.less(times, end))).as_py() or 0
        return inside, rows - inside

    def decoded(self) -> Decoded:
        """All flows in the order of the blob, and how many each record gave."""
        rows = [0] * self.ledger.records
        for tally in self.tallies:
            for number, count in zip(tally.numbers, tally.rows, strict=True):
                rows[number] = count
        return Decoded(self.flows(), self.ledger, tuple(rows))


def decode_flow_log(
    chunks: Iterable[bytes], *, where: str, strict: bool = False, reader: compiled.Held | None = None
) -> Iterator[Decoded]:
    """Flows of a blob in batches of about 2 MB, in the order of the blob, each with its ledger.

    Takes VNet flow logs (version 4) and NSG flow logs (versions 1 and 2), told apart record by record and flow tuple by
    flow tuple, in ``{"records": [...]}``, in a list, as one bare record or one record a line. Malformed input raises
    nothing: it is counted and sampled in the ledgers. ``records`` counts all records met, the rejected ones included.
    The ledgers balance when added up; a single one need not, since a record may begin in the bytes taken for the batch
    before. An error of the chunks is raised once every whole record before it was given.

    Args:
        chunks: the decompressed bytes, cut anywhere.
        where: the blob's name, for rejects.
        strict: decode everything with the reference decoder; same rows and counts, except ``strict_records``.
        reader: one of `compiled.new_reader`, cleared behind each batch, so that many blobs share its memory.

    >>> text = b'{"time":"2022-09-14T09:00:52Z","flowRecords":{"flows":[{"aclID":"a","flowGroups":[{"rule":"r","flowTuples":'
    >>> text += b'["1663146003606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,3,767,2,1580"]}]}]}}'
    >>> [(batch.flows.num_rows, batch.ledger.complete) for batch in decode_flow_log([text], where="PT1H.json")]
    [(1, True)]
    """
    for document in flow_log_documents(chunks, where=where, strict=strict, reader=reader):
        yield document.decoded()
        if reader is not None:
            reader.clear()


def flows_of(documents: Sequence[Document]) -> pa.Table:
    """All flows of documents that follow each other in one reader, in the order of their records, as schema.ENCODED_FLOWS.

    >>> flows_of([]).num_rows
    0
    """
    batches = [document.batch for document in documents if document.batch is not None]
    tables = [batches[0].held.flows(batches[0].first_row, batches[-1].end_row)] if batches else []
    tables += [document.rest for document in documents if document.rest is not None]
    if not tables:
        return schema.without_rows(schema.ENCODED_FLOWS)
    has_rest = len(tables) > len(batches[:1])
    return fast.reordered(tables, _order(documents) if has_rest else None)


def flow_log_documents(
    chunks: Iterable[bytes], *, where: str, strict: bool = False, reader: compiled.Held | None = None
) -> Iterator[Document]:
    """As `decode_flow_log`, but a table of flows is made only where it is asked for.

    A ``reader`` that is given holds all documents until the caller clears it, at best between two of them, when it `is_full`: so
    tables and rollups are made for many small blobs at once. Without one each document is of use until the next one is asked for.
    """
    taken = total = counted = 0
    failure: FlowlensError | None = None

    def source() -> Iterator[bytes]:
        nonlocal taken, total, failure
        try:
            for chunk in chunks:
                taken += len(chunk)
                total += len(chunk)
                yield chunk
        except FlowlensError as error:
            # Told once every whole record of what had come is decoded.
            failure = error

    is_own = reader is None
    if strict:
        reader = None
    elif is_own:
        reader = compiled.new_reader()

    def bulk(data: bytes, start: int) -> Taken:
        assert reader is not None
        return Taken(*reader.reader.read(data, start, DOCUMENT_BYTES))

    batch: list[_Numbered] = []
    kept: list[int] = []
    records = record_bytes = framing_bytes = 0
    fit = None if strict else fast.Fitting()
    for span in frames(source(), reference.parse_record, fit, bulk if reader else None):
        if isinstance(span, Framing):
            framing_bytes += span.length
            continue
        if isinstance(span, Run):
            kept += range(records, records + span.records)
            records += span.records
            record_bytes += span.record_bytes
            framing_bytes += span.framing_bytes
        elif failure is not None and isinstance(span, Broken) and span.offset + span.length >= total:
            # Not the blob ends here but what could be read of it: the record at its end is unread, like all behind it.
            break
        else:
            batch.append((records, span))
            records += 1
            record_bytes += span.length if isinstance(span, Broken) else len(span.raw)
        if record_bytes >= DOCUMENT_BYTES:
            sizes = Ledger(records=records, bytes=taken, record_bytes=record_bytes, framing_bytes=framing_bytes)
            yield _decoded(batch, where, strict, sizes, reader, kept)
            if reader is not None and is_own:
                reader.clear()
            batch, kept = [], []
            counted += record_bytes + framing_bytes - taken
            taken = records = record_bytes = framing_bytes = 0
    if failure is not None:
        # Only what was used counts as read, so that the ledgers balance.
        taken = counted + record_bytes + framing_bytes
    if records or taken or framing_bytes:
        sizes = Ledger(records=records, bytes=taken, record_bytes=record_bytes, framing_bytes=framing_bytes)
        yield _decoded(batch, where, strict, sizes, reader, kept)
    if failure is not None:
        raise failure


def decode_spans(batch: Sequence[Span], where: str, strict: bool, sizes: Ledger) -> Decoded:
    """The flows of a batch of spans, from either decoder, in the order of the spans; ``sizes`` are its counts of bytes."""
    sizes = replace(sizes, records=len(batch))
    return _decoded(list(enumerate(batch)), where, strict, sizes, None, []).decoded()


def _decoded(
    spans: list[_Numbered], where: str, strict: bool, sizes: Ledger, reader: compiled.Held | None, kept: list[int]
) -> Document:
    """What the spans of a batch hold, and the records ``kept`` that the reader has, in the order of the blob."""
    fitted = [(number, span) for number, span in spans if isinstance(span, Record) and span.fitted is not None]
    others = [(number, span) for number, span in spans if isinstance(span, Broken) or span.fitted is None]
    parts, left = fast.decode_records(fitted, where)
    if left:
        others = sorted([*others, *left], key=itemgetter(0))
    if others:
        parts.append(reference.decode_records(others, where))
    rest = fast.reordered([table for table, _ in parts], None) if parts else None
    tallies = [tally for _, tally in parts]
    batch = None
    if reader is not None and kept:
        batch = compiled.Batch(reader, reader.reader.record_count - len(kept))
        tally = reference.Tally(where, kept, batch.rows, tuples=sum(batch.rows), notes=batch.notes)
        tallies = [tally, *tallies]
    notes = sum((tally.notes for tally in tallies), fields.Notes())
    rejects = sorted(chain.from_iterable(tally.rejects for tally in tallies), key=itemgetter(0))
    ledger = Ledger(
        records=sizes.records,
        tuples=sum(tally.tuples for tally in tallies),
        rows=sum(chain.from_iterable(tally.rows for tally in tallies)),
        rejected=sum(tally.rejected for tally in tallies),
        rejected_records=sum(tally.rejected_records for tally in tallies),
        bytes=sizes.bytes,
        record_bytes=sizes.record_bytes,
        framing_bytes=sizes.framing_bytes,
        strict_records=0 if strict else sum(isinstance(span, Record) for _, span in others),
        unknown_codes=fields.bounded(notes),
        rejects=tuple(reject for _, reject in rejects[:REJECTS_KEPT]),
    )
    return Document(ledger, batch, rest, tuple(tallies))


def _order(documents: Sequence[Document]) -> list[int] | None:
    """Where the rows of each record stand in the tables of `flows_of`; None if they are in order already."""
    records: list[tuple[int, int, int]] = []
    base = 0
    for document in documents:
        for tally in document.tallies:
            is_rest = document.batch is None or tally is not document.tallies[0]
            pairs = zip(tally.numbers, tally.rows, strict=True)
            records += [(is_rest, base + number, rows) for number, rows in pairs]
        base += document.ledger.records
    # Sorting is stable: behind the rows of the reader those of the rest, document by document.
    records.sort(key=itemgetter(0))
    if all(before[1] < after[1] for before, after in pairwise(records)):
        return None
    ranges = []
    start = 0
    for _, number, rows in records:
        ranges.append((number, range(start, start + rows)))
        start += rows
    return list(chain.from_iterable(rows for _, rows in sorted(ranges, key=itemgetter(0))))
