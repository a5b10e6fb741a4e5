"""The flow tuples of a blob that may still grow, record by record, each with its place.

A blob is read in units: a record, or a broken stretch between records, with the framing before it. What a unit is, and what it
holds, is a function of the blob's bytes alone, whenever and in however many steps they are read: a unit counts only once no
further byte could change it. The two bytes that close a flow log's list are replaced at each commit; they belong to no unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from flowlens import schema
from flowlens.evidence import Ledger
from flowlens.formats import fast
from flowlens.formats import strict as reference
from flowlens.formats.flow_log import DOCUMENT_BYTES, Span, decode_spans
from flowlens.formats.framing import Broken, Framing, Place, decided_frames

BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Unit:
    """One record or broken stretch, and what became of it.

    It takes the bytes [after, place.offset) of the blob: framing up to ``start``, then its own. ``place`` is where reading goes on.
    ``provisional``: it rests on where the blob ended, and a longer blob would hold another one there.
    """

    after: int
    start: int
    place: Place
    ledger: Ledger
    provisional: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Some units in a row, and their flows: FLOWS with ``block``, the offset in the blob at which the row's unit ends."""

    flows: pa.Table
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """What stands behind the last unit of a whole blob: framing, and whether something is missing.

    ``provisional``: units rest on where the blob ended, so that a longer blob would have to be read anew.
    """

    after: int
    size: int
    ledger: Ledger
    provisional: bool


@dataclass(slots=True)
class _Batch:
    """Units that are decoded together."""

    spans: list[Span] = field(default_factory=list)
    edges: list[tuple[int, int, Place, bool]] = field(default_factory=list)
    """After, start, the place behind each, and whether it is provisional."""
    bytes: int = 0


def decode_growing(
    chunks: Iterable[bytes], *, where: str, start: Place, whole: bool, strict: bool = False
) -> Iterator[Piece | Rest]:
    """The units of a blob from ``start`` on in pieces of about 2 MB, and the rest where the blob is ``whole``.

    ``chunks`` begin at ``start.offset``. Malformed input raises nothing, as with `decode_flow_log`, and both give the same rows.

    >>> text = b'{"records":[{"time":"2022-09-14T09:00:52Z","flowRecords":{"flows":[]}},{"time":'
    >>> [(piece.units[0].after, piece.units[0].start) for piece in decode_growing([text], where="", start=Place(), whole=False)]
    [(0, 12)]
    """
    batch = _Batch()
    after = start.offset
    missing: list[Broken] = []
    provisional = False
    end = start.offset
    for span, place, ended in decided_frames(
        chunks, reference.parse_record, None if strict else fast.Fitting(), start=start, whole=whole
    ):
        end = place.offset
        if isinstance(span, Framing):
            continue
        if isinstance(span, Broken) and not span.length:
            missing.append(span)
            continue
        provisional = provisional or ended
        batch.spans.append(span)
        batch.edges.append((after, span.offset, place, ended))
        batch.bytes += place.offset - after
        after = place.offset
        if batch.bytes >= DOCUMENT_BYTES:
            yield _piece(batch, where, strict)
            batch = _Batch()
    if batch.spans:
        yield _piece(batch, where, strict)
    if whole:
        told = decode_spans(list(missing), where, strict, Ledger()).ledger if missing else Ledger()
        ledger = told + Ledger(bytes=end - after, framing_bytes=end - after)
        yield Rest(after, end, ledger, provisional)


def _piece(batch: _Batch, where: str, strict: bool) -> Piece:
    decoded = decode_spans(batch.spans, where, strict, Ledger())
    told = decoded.ledger
    # What is out of the ordinary is decoded record by record: each has then its own counts and its own list of rejects, whatever
    # was read together with it.
    if told.rejected or told.rejected_records or told.strict_records or told.unknown_codes:
        alone = [decode_spans([span], where, strict, Ledger()) for span in batch.spans]
        flows = pa.concat_tables([schema.plain(each.flows) for each in alone])
        ledgers = [each.ledger for each in alone]
    else:
        flows = schema.plain(decoded.flows)
        ledgers = [Ledger(records=1, tuples=rows, rows=rows) for rows in decoded.record_rows]
    units = tuple(
        Unit(
            after,
            at,
            place,
            ledger + Ledger(bytes=place.offset - after, framing_bytes=at - after, record_bytes=_size(s)),
            ended,
        )
        for (after, at, place, ended), ledger, s in zip(batch.edges, ledgers, batch.spans, strict=True)
    )
    rows = pa.array([unit.ledger.rows for unit in units], pa.int64())
    ends = pa.array([unit.place.offset for unit in units], pa.int64())
    return Piece(flows.append_column(BLOCK, _repeated(ends, rows)), units)


def _size(span: Span) -> int:
    """The span's own bytes, measured on it and not on what surrounds it."""
    return span.length if isinstance(span, Broken) else len(span.raw)


def _repeated(values: pa.Array, counts: pa.Array) -> pa.Array:
    places = [place for place, count in enumerate(counts.to_pylist()) for _ in range(count)]
    return values.take(pa.array(places, pa.int64()))
