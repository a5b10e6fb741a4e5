"""Bytes of a flow log blob to tables of flows: VNet flow logs, NSG flow logs, and every mix of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from operator import itemgetter
from typing import Any

from flowlens.evidence import REJECTS_KEPT, Decoded, Ledger
from flowlens.formats import fast, fields
from flowlens.formats import strict as reference
from flowlens.formats.framing import Broken, Framing, Record, frames

DOCUMENT_BYTES = 2 * 2**20
"""About how many bytes of records become one batch."""

Span = Record[dict[str, Any], fast.VnetRecord] | Broken


def decode_flow_log(chunks: Iterable[bytes], *, where: str, strict: bool = False) -> Iterator[Decoded]:
    """Flows of a blob in batches of about 2 MB, in the order of the blob, each with its ledger.

    Takes VNet flow logs (version 4) and NSG flow logs (versions 1 and 2), told apart record by record and flow tuple by
    flow tuple, in ``{"records": [...]}``, in a list, as one bare record or one record a line. Malformed input raises
    nothing: it is counted and sampled in the ledgers. ``records`` counts all records met, the rejected ones included.
    The ledgers balance when added up; a single one need not, since a record may begin in the bytes taken for the batch
    before.

    Args:
        chunks: the decompressed bytes, cut anywhere.
        where: the blob's name, for rejects.
        strict: decode everything with the reference decoder; same rows and counts, except ``strict_records``.

    >>> text = b'{"time":"2022-09-14T09:00:52Z","flowRecords":{"flows":[{"aclID":"a","flowGroups":[{"rule":"r","flowTuples":'
    >>> text += b'["1663146003606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,3,767,2,1580"]}]}]}}'
    >>> [(batch.flows.num_rows, batch.ledger.complete) for batch in decode_flow_log([text], where="PT1H.json")]
    [(1, True)]
    """
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for chunk in chunks:
            taken += len(chunk)
            yield chunk

    batch: list[Span] = []
    record_bytes = framing_bytes = 0
    for span in frames(source(), reference.parse_record, None if strict else fast.Fitting()):
        if isinstance(span, Framing):
            framing_bytes += span.length
            continue
        batch.append(span)
        record_bytes += span.length if isinstance(span, Broken) else len(span.raw)
        if record_bytes >= DOCUMENT_BYTES:
            yield decode_spans(
                batch, where, strict, Ledger(bytes=taken, record_bytes=record_bytes, framing_bytes=framing_bytes)
            )
            batch = []
            taken = record_bytes = framing_bytes = 0
    if batch or taken or framing_bytes:
        yield decode_spans(
            batch, where, strict, Ledger(bytes=taken, record_bytes=record_bytes, framing_bytes=framing_bytes)
        )


def decode_spans(batch: list[Span], where: str, strict: bool, sizes: Ledger) -> Decoded:
    """The flows of a batch of spans, from either decoder, in the order of the spans; ``sizes`` are its counts of bytes."""
    fitted = [
        (number, span) for number, span in enumerate(batch) if isinstance(span, Record) and span.fitted is not None
    ]
    others = [(number, span) for number, span in enumerate(batch) if isinstance(span, Broken) or span.fitted is None]
    parts, left = fast.decode_records(fitted, where)
    others = sorted([*others, *left], key=itemgetter(0))
    if others or not parts:
        parts.append(reference.decode_records(others, where))
    tallies = [tally for _, tally in parts]
    notes = sum((tally.notes for tally in tallies), fields.Notes())
    rejects = sorted(chain.from_iterable(tally.rejects for tally in tallies), key=itemgetter(0))
    flows = fast.reordered([table for table, _ in parts], _order(tallies))
    tuples, rejected = sum(tally.tuples for tally in tallies), sum(tally.rejected for tally in tallies)
    ledger = Ledger(
        records=len(batch),
        tuples=tuples,
        rows=flows.num_rows,
        rejected=rejected,
        rejected_records=sum(tally.rejected_records for tally in tallies),
        bytes=sizes.bytes,
        record_bytes=sizes.record_bytes,
        framing_bytes=sizes.framing_bytes,
        strict_records=0 if strict else sum(isinstance(span, Record) for _, span in others),
        unknown_codes=fields.bounded(notes),
        rejects=tuple(reject for _, reject in rejects[:REJECTS_KEPT]),
    )
    rows = [0] * len(batch)
    for tally in tallies:
        for number, count in zip(tally.numbers, tally.rows, strict=True):
            rows[number] = count
    return Decoded(flows, ledger, tuple(rows))


def _order(tallies: list[reference.Tally]) -> list[int] | None:
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
