"""What is read of a blob in one go, from where it was committed on, and what becomes of that in the lake: facts and rows."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from flowlens import schema
from flowlens.errors import FlowlensError, LedgerError
from flowlens.evidence import Ledger, Reject, checked
from flowlens.formats.framing import Place
from flowlens.formats.growing import Piece, Rest, Unit, decode_growing
from flowlens.lake.ledger import Cursor, Fact, blob_id
from flowlens.sources.ranges import VersionChangedError
from flowlens.sources.stores import Listed, Store, Version

_TRIES = 3
_ROWS_PER_BYTE = 8
"""So many bytes of rows a byte of a blob may become before they are committed, and the rest of the blob read after."""


@dataclass(slots=True)
class Reading:
    """What was read of one blob in one go, of one version."""

    listed: Listed
    blob_id: str
    cursor: Cursor
    etag: str
    replaces: tuple[str, ...] = ()
    pieces: list[Piece] = field(default_factory=list)
    prefixes: list[str | None] = field(default_factory=list)
    rest: Rest | None = None
    error: FlowlensError | None = None
    bytes: int = 0
    more: bool = False

    @property
    def units(self) -> list[Unit]:
        """The records read, in order."""
        return [unit for piece in self.pieces for unit in piece.units]

    @property
    def rows(self) -> int:
        """How many rows the records read give."""
        return sum(unit.ledger.rows for unit in self.units)


def read_blob(store: Store, blob: Listed, cursor: Cursor, *, batch_bytes: int, stopped: threading.Event) -> Reading:
    """The records behind the cursor, of one version; where another version comes in between, those of that one.

    Rows of about ``batch_bytes`` of blobs at most are held; ``stopped`` ends the reading. Errors stand in what is given back.
    """
    reading = Reading(blob, cursor.blob_id, cursor, blob.etag)
    for _ in range(_TRIES):
        try:
            return _read_version(store, blob, cursor, batch_bytes, stopped)
        except VersionChangedError:
            continue
        except FlowlensError as error:
            reading.error = error
            return reading
    # It changes faster than it can be read: the next poll goes on.
    return reading


def _read_version(store: Store, blob: Listed, cursor: Cursor, batch_bytes: int, stopped: threading.Event) -> Reading:
    whole = not blob.is_open
    begun = cursor.known > 0 or cursor.void
    version = store.open(blob, told=begun or blob.is_open or blob.size > batch_bytes)
    place, identity, replaces = cursor.place, cursor, cursor.older
    if begun and not _goes_on(version, cursor):
        # The content was replaced in place: what was read of it is void, and goes as what is there now comes.
        generation = cursor.generation + 1
        identity = replace(
            cursor,
            blob_id=blob_id(*blob.key, blob.created, generation),
            generation=generation,
            place=Place(),
            void=False,
            older=(*cursor.older, cursor.blob_id),
        )
        place, replaces = Place(), identity.older
    reading = Reading(blob, identity.blob_id, identity, version.etag, replaces)

    def counted() -> Iterator[bytes]:
        for chunk in version.chunks(place.offset):
            if stopped.is_set():
                raise VersionChangedError
            reading.bytes += len(chunk)
            yield chunk

    try:
        for part in decode_growing(counted(), where=blob.name, start=place, whole=whole):
            if isinstance(part, Rest):
                reading.rest = part
                break
            reading.pieces.append(part)
            if sum(piece.flows.nbytes for piece in reading.pieces) > _ROWS_PER_BYTE * batch_bytes:
                reading.more = True
                break
    except FlowlensError as error:
        reading.error = error
    ends = [unit.place.offset for unit in reading.units]
    reading.prefixes = version.prefixes(ends) if ends else []
    return reading


def _goes_on(version: Version, cursor: Cursor) -> bool:
    """Whether what is known of a blob, committed or not, still stands at its beginning."""
    if version.etag == cursor.version:
        return True
    (prefix,) = version.prefixes([cursor.known])
    return not cursor.void and prefix is not None and prefix == cursor.prefix


def check(reading: Reading) -> None:
    """Nothing of a blob may be unaccounted for: units follow each other, and each adds up; raises LedgerError."""
    at = reading.cursor.place.offset
    for unit in reading.units:
        checked(unit.ledger, reading.listed.name)
        if unit.after != at:
            raise LedgerError(reading.listed.name, f"expected a record behind byte {at}, found one behind {unit.after}")
        at = unit.place.offset
    if reading.rest is not None:
        checked(reading.rest.ledger, reading.listed.name)
    if reading.rows != sum(piece.flows.num_rows for piece in reading.pieces):
        raise LedgerError(reading.listed.name, f"expected {reading.rows} rows, found another number")


def facts_of(readings: Iterable[Reading]) -> list[Fact]:
    """A fact for each record, and for each blob that could not be read to its end."""
    facts = []
    for reading in readings:
        facts += [
            Fact(
                reading.listed,
                reading.cursor,
                "record",
                unit.after,
                unit.start,
                unit.place,
                unit.ledger,
                prefix,
                etag=reading.etag,
                provisional=unit.provisional,
            )
            for unit, prefix in zip(reading.units, reading.prefixes, strict=True)
        ]
        if reading.error is not None:
            facts.append(_unread(reading, reading.error))
    return facts


def end_of(reading: Reading, *, closed: bool) -> Fact:
    """That this is all there is of the blob: for good where it is ``closed``."""
    units = reading.units
    place = units[-1].place if units else reading.cursor.place
    rest = reading.rest or Rest(place.offset, place.offset, Ledger(), False)
    return Fact(
        reading.listed,
        reading.cursor,
        "end",
        rest.after,
        rest.after,
        replace(place, offset=rest.size),
        rest.ledger,
        etag=reading.etag,
        closed=closed,
        provisional=rest.provisional,
    )


def _unread(reading: Reading, error: FlowlensError) -> Fact:
    reason = f"{error.problem} ({error.hint})" if error.hint else error.problem
    at = reading.units[-1].place if reading.units else reading.cursor.place
    ledger = Ledger(unread=1, rejects=(Reject(reading.listed.name, at.offset, reason, ""),))
    return Fact(reading.listed, reading.cursor, "unread", at.offset, at.offset, at, ledger, etag=reading.etag)


def rows_of(readings: Sequence[Reading]) -> pa.Table:
    """The flows of readings as LAKE_FLOWS."""
    tables = []
    for reading in readings:
        for piece in reading.pieces:
            count = piece.flows.num_rows
            if count:
                block = piece.flows["block"]
                table = piece.flows.drop_columns(["block"])
                table = table.append_column("blob_id", pa.repeat(pa.scalar(reading.blob_id), count))
                table = table.append_column("block", block)
                date = pa.scalar(reading.listed.hour.date(), schema.DATE)
                tables.append(table.append_column("date", pa.repeat(date, count)).cast(schema.LAKE_FLOWS))
    return pa.concat_tables(tables) if tables else schema.LAKE_FLOWS.empty_table()
