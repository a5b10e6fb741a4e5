"""Bytes of a flow log blob to tables of flows: VNet flow logs, NSG flow logs, and every mix of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flowlens import schema
from flowlens.errors import FlowlensError
from flowlens.evidence import REJECTS_KEPT, Decoded, Ledger
from flowlens.formats import compiled, fast, fields
from flowlens.formats import strict as reference
from flowlens.formats.framing import Broken, Framing, Record, Run, Taken, frames

if TYPE_CHECKING:
    from flowlens._kernel import Reader

DOCUMENT_BYTES = 2 * 2**20
"""About how many bytes of records become one batch."""

Span = Record[dict[str, Any], fast.VnetRecord] | Broken
_Numbered = tuple[int, Span]


@dataclass(frozen=True, slots=True)
class Document:
    """A batch of a blob's records; of use until the next one is asked for.

    ``batch`` is what the compiled kernel decoded, ``rest`` are the flows of all other records; None where there are none.
    """

    ledger: Ledger
    batch: compiled.Batch | None
    rest: pa.Table | None
    tallies: tuple[reference.Tally, ...] = ()
    """What became of the records, in the order of the rows of ``batch`` and ``rest``."""

    def flows(self) -> pa.Table:
        """All flows in the order of the blob, as schema.ENCODED_FLOWS."""
        tables = [] if self.batch is None else [self.batch.flows]
        if self.rest is not None:
            tables.append(self.rest)
        return fast.reordered(tables, _order(self.tallies)) if tables else schema.ENCODED_FLOWS.empty_table()

    def decoded(self) -> Decoded:
        """All flows in the order of the blob, and how many each record gave."""
        rows = [0] * self.ledger.records
        for tally in self.tallies:
            for number, count in zip(tally.numbers, tally.rows, strict=True):
                rows[number] = count
        return Decoded(self.flows(), self.ledger, tuple(rows))


def decode_flow_log(
    chunks: Iterable[bytes], *, where: str, strict: bool = False, reader: Reader | None = None
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
        reader: one of `compiled.new_reader`, used and left empty, so that many blobs share its memory.

    >>> text = b'{"time":"2022-09-14T09:00:52Z","flowRecords":{"flows":[{"aclID":"a","flowGroups":[{"rule":"r","flowTuples":'
    >>> text += b'["1663146003606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,3,767,2,1580"]}]}]}}'
    >>> [(batch.flows.num_rows, batch.ledger.complete) for batch in decode_flow_log([text], where="PT1H.json")]
    [(1, True)]
    """
    for document in flow_log_documents(chunks, where=where, strict=strict, reader=reader):
        yield document.decoded()


def flow_log_documents(
    chunks: Iterable[bytes], *, where: str, strict: bool = False, reader: Reader | None = None
) -> Iterator[Document]:
    """As `decode_flow_log`, but a table of flows is made only where it is asked for.

    ``reader`` is used and left empty, so that many small blobs share one; without it each gets its own.
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

    if strict:
        reader = None
    elif reader is None:
        reader = compiled.new_reader()

    def bulk(data: bytes, start: int) -> Taken:
        assert reader is not None
        return Taken(*reader.read(data, start, DOCUMENT_BYTES))

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
            if reader is not None:
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
    if reader is not None:
        reader.clear()
    if failure is not None:
        raise failure


def decode_spans(batch: Sequence[Span], where: str, strict: bool, sizes: Ledger) -> Decoded:
    """The flows of a batch of spans, from either decoder, in the order of the spans; ``sizes`` are its counts of bytes."""
    sizes = replace(sizes, records=len(batch))
    return _decoded(list(enumerate(batch)), where, strict, sizes, None, []).decoded()


def _decoded(
    spans: list[_Numbered], where: str, strict: bool, sizes: Ledger, reader: Reader | None, kept: list[int]
) -> Document:
    """What the spans of a batch hold, and the records ``kept`` that the reader has, in the order of the blob."""
    fitted = [(number, span) for number, span in spans if isinstance(span, Record) and span.fitted is not None]
    others = [(number, span) for number, span in spans if isinstance(span, Broken) or span.fitted is None]
    parts, left = fast.decode_records(fitted, where)
    others = sorted([*others, *left], key=itemgetter(0))
    if others:
        parts.append(reference.decode_records(others, where))
    rest = fast.reordered([table for table, _ in parts], None) if parts else None
    tallies = [tally for _, tally in parts]
    batch = None
    if reader is not None and kept:
        batch = compiled.Batch(reader)
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


def _order(tallies: Sequence[reference.Tally]) -> list[int] | None:
    """Where the rows of each record stand once the tables are put end to end; None if that is in order already."""
    numbers = list(chain.from_iterable(tally.numbers for tally in tallies))
    if all(before < after for before, after in pairwise(numbers)):
        return None
    ranges = []
    start = 0
    for number, rows in zip(numbers, chain.from_iterable(tally.rows for tally in tallies), strict=True):
        ranges.append((number, range(start, start + rows)))
        start += rows
    return list(chain.from_iterable(rows for _, rows in sorted(ranges, key=itemgetter(0))))
