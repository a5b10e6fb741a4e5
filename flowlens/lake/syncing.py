"""`sync`: flow logs into a lake, each record once, whatever happens in between.

The rows are the progress. What a record gives is a function of the blob's bytes alone (`flowlens.formats.growing`), and each row
says of which blob it is and where its record ends, so the highest `block` of a blob's rows is how far it was committed. A commit is
fenced: it fails where another sync has committed since the cursors were read. Facts about records go to the ledger before their rows
are committed, so that a record without rows counts as read once its fact is there; that a blob is finished is noted after. See
docs/lake.md for why this loses and doubles nothing.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from functools import partial

import polars as pl
import pyarrow as pa

from flowlens import schema
from flowlens.errors import FlowlensError, LedgerError, SourceError
from flowlens.evidence import Ledger, Reject, Window, checked, sample
from flowlens.formats.framing import Place
from flowlens.formats.growing import Piece, Rest, Unit, decode_growing
from flowlens.lake.ledger import Cursor, Fact, blob_id, known, ledger_table
from flowlens.sources.delta import Lake, OvertakenError
from flowlens.sources.ranges import VersionChangedError
from flowlens.sources.stores import Listed, Store, Version
from flowlens.sources.workers import Workers

BATCH_BYTES = 64 << 20
"""About how many bytes of blobs one commit covers."""
READERS = 12
"""How many blobs are read at once: most of the time is waiting for the account."""
POLL = 60.0
"""Seconds from one poll to the next, less up to a tenth by chance, so that many syncs do not ask at once."""
RECENT = dt.timedelta(hours=3)
"""How far back a poll looks; everything is listed at the first poll and then once an hour."""
_ALL_EACH = dt.timedelta(hours=1)
_WAITING = dt.timedelta(days=1)
_TRIES = 3
_CONFLICTS = 20
_PROGRESS_STEP = 0.2

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll found and committed. ``bytes`` were downloaded; ``version`` is the lake's behind it."""

    time: dt.datetime
    listed: int = 0
    read: int = 0
    closed: int = 0
    replaced: int = 0
    unread: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    bytes: int = 0
    version: int = 0
    notes: tuple[str, ...] = ()


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


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Sync:
    """Stores and a lake that they are read into; `poll` once or again and again.

    ``lake`` opens it, at first and once an hour. ``clock`` says the time, which decides what may still grow. ``progress`` is called with blobs done, bytes done, bytes in all.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        lake: Callable[[], Lake],
        *,
        window: Window | None = None,
        clock: Callable[[], dt.datetime] = _now,
        progress: Progress | None = None,
        batch_bytes: int = BATCH_BYTES,
        readers: int = READERS,
    ) -> None:
        self.lake = lake()
        self._open = lake
        self._fresh = True
        self._stores = stores
        self._window = window or Window()
        self._clock = clock
        self._progress = progress
        self._batch_bytes = batch_bytes
        self._stopped = threading.Event()
        self._workers = Workers(readers, self._stopped)
        self._cursors: dict[tuple[str, str], Cursor] = {}
        self._listed_all: dt.datetime | None = None
        self._ends: list[Fact] = []
        self._overtook = False

    def close(self) -> None:
        """End what is being read; nothing is left to be tidied up."""
        self._workers.stop()
        for store in self._stores:
            store.close()

    def poll(self) -> Polled:
        """List what may have changed, read what is new, commit it.

        Raises SourceError where a store cannot be listed or the lake not be written; what was committed before stays whole.
        """
        try:
            return self._poll()
        except SourceError:
            # Whatever was under way, the next poll begins with what the lake says.
            self._listed_all = None
            raise

    def _poll(self) -> Polled:
        now = self._clock()
        everything = self._listed_all is None or now - self._listed_all >= _ALL_EACH
        if everything:
            # What others did to the lake, and blobs that came late, are seen at the latest now; a credential is renewed.
            self._cursors.clear()
            if not self._fresh:
                self.lake = self._open()
            self._fresh = False
        window = self._window if everything else self._recent(now)
        polled = Polled(now)
        for store in self._stores:
            listing = store.listing(window, now)
            polled = replace(polled, listed=polled.listed + len(listing.blobs), notes=(*polled.notes, *listing.notes))
            polled = self._take(store, listing.blobs, polled)
        self._note_ends()
        if everything:
            self._listed_all = now
        return replace(polled, version=self.lake.version)

    def _recent(self, now: dt.datetime) -> Window:
        """The hours that may have changed: the last few, and back to the first blob that is not finished."""
        waiting = [cursor.hour for cursor in self._cursors.values() if cursor.done is None]
        start = max(now - _WAITING, min([now - RECENT, *waiting]))
        given = self._window
        return Window(max(start, given.start) if given.start else start, given.end)

    # What there is to do

    def _take(self, store: Store, blobs: Sequence[Listed], polled: Polled) -> Polled:
        self._learn(blobs)
        pending = deque(blob for blob in blobs if self._may_have_more(blob))
        total, done, number = sum(blob.size for blob in pending), 0, 0
        while pending:
            batch = [pending.popleft()]
            size = batch[0].size
            while pending and size + pending[0].size <= self._batch_bytes:
                size += pending[0].size
                batch.append(pending.popleft())
            # What another sync did in the meantime is known once the lake was asked again.
            self._learn(batch)
            readings = self._read_all(store, batch)
            polled = self._commit(readings, polled)
            pending.extendleft(reading.listed for reading in readings if reading.more)
            finished = [reading.listed.size for reading in readings if not reading.more]
            done, number = done + sum(finished), number + len(finished)
            if self._progress is not None:
                self._progress(number, done, total)
        return polled

    def _may_have_more(self, blob: Listed) -> bool:
        cursor = self._cursors[blob.key]
        if cursor.done == blob.etag:
            return False
        return not (blob.is_open and cursor.seen == blob.etag)

    def _learn(self, blobs: Sequence[Listed]) -> None:
        """Read from the lake how far each blob was committed, where this is not known, or only that it was finished once."""
        new = []
        for blob in blobs:
            cursor = self._cursors.get(blob.key)
            if (
                cursor is None
                or (cursor.done is not None and cursor.done != blob.etag)
                or cursor.created != blob.created
            ):
                new.append(blob)
        if new:
            self._cursors.update(known(self.lake, new))

    # Reading

    def _read_all(self, store: Store, batch: Sequence[Listed]) -> list[Reading]:
        submitted = [self._workers.submit(partial(self._read, store, blob), urgent=False) for blob in batch]
        return [self._result(future) for (future,) in submitted]

    def _result(self, future: Future[Reading]) -> Reading:
        while True:
            try:
                return future.result(timeout=_PROGRESS_STEP)
            except FutureTimeoutError:
                continue

    def _read(self, store: Store, blob: Listed) -> Reading:
        """The records behind the cursor, of one version; where another version comes in between, those of that one."""
        cursor = self._cursors[blob.key]
        reading = Reading(blob, cursor.blob_id, cursor, blob.etag)
        for _ in range(_TRIES):
            try:
                return self._read_version(store, blob, cursor)
            except VersionChangedError:
                continue
            except FlowlensError as error:
                reading.error = error
                return reading
        # It changes faster than it can be read: the next poll goes on.
        return reading

    def _read_version(self, store: Store, blob: Listed, cursor: Cursor) -> Reading:
        whole = not blob.is_open
        begun = cursor.known > 0 or cursor.void
        version = store.open(blob, told=begun or blob.is_open or blob.size > self._batch_bytes)
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
                if self._stopped.is_set():
                    raise VersionChangedError
                reading.bytes += len(chunk)
                yield chunk

        try:
            for part in decode_growing(counted(), where=blob.name, start=place, whole=whole):
                if isinstance(part, Rest):
                    reading.rest = part
                    break
                reading.pieces.append(part)
                if sum(piece.flows.nbytes for piece in reading.pieces) > 8 * self._batch_bytes:
                    reading.more = True
                    break
        except FlowlensError as error:
            reading.error = error
        ends = [unit.place.offset for unit in reading.units]
        reading.prefixes = version.prefixes(ends) if ends else []
        return reading

    # Committing

    def _commit(self, readings: Sequence[Reading], polled: Polled) -> Polled:
        """Facts first, then rows under the fence; that a blob is finished is noted with the next facts."""
        self._overtook = False
        for reading in readings:
            _check(reading)
        facts = [fact for reading in readings for fact in _facts(reading)]
        facts += [_unread(reading) for reading in readings if reading.error is not None]
        facts, self._ends = [*self._ends, *facts], []
        if facts:
            self.lake.append_ledger(ledger_table(facts))
        replacing = [reading for reading in readings if reading.replaces]
        adding = [reading for reading in readings if not reading.replaces]
        self._append(adding, _rows(adding))
        for reading in replacing:
            self._replace(reading)
        for reading in readings:
            polled = self._settle(reading, polled)
        return polled

    def _append(self, readings: Sequence[Reading], rows: pa.Table) -> None:
        for _ in range(_CONFLICTS):
            if not rows.num_rows:
                return
            try:
                self.lake.append_flows(rows)
                return
            except OvertakenError:
                rows = self._left(readings, rows)
        raise self._overtaken()

    def _replace(self, reading: Reading) -> None:
        rows = _rows([reading])
        for _ in range(_CONFLICTS):
            now_at = self._again([reading])[reading.listed.key]
            if now_at.blob_id != reading.blob_id or not set(now_at.older) & set(reading.replaces):
                # Another sync has replaced it already.
                self._append([reading], self._left([reading], rows))
                return
            try:
                self.lake.replace_flows(rows, date=reading.listed.hour.date(), gone=reading.replaces)
                return
            except OvertakenError:
                continue
        raise self._overtaken()

    def _again(self, readings: Sequence[Reading]) -> dict[tuple[str, str], Cursor]:
        """The cursors of some blobs as the lake has them now; what was known before, of whatever blob, is void."""
        self.lake.reload()
        self._cursors.clear()
        self._overtook = True
        return known(self.lake, [reading.listed for reading in readings], exact=True)

    def _left(self, readings: Sequence[Reading], rows: pa.Table) -> pa.Table:
        """The rows that nobody has committed in the meantime; of a blob that has become another one none."""
        now_at = self._again(readings)
        behind = pl.DataFrame(
            [
                (reading.blob_id, now_at[reading.listed.key].place.offset)
                for reading in readings
                if now_at[reading.listed.key].blob_id == reading.blob_id
            ],
            schema={"blob_id": pl.String, "committed": pl.Int64},
            orient="row",
        )
        places = pl.DataFrame(pl.from_arrow(rows.select(["blob_id", "block"])))
        mask = (
            places.join(behind, on="blob_id", how="left", maintain_order="left")
            .select((pl.col("block") > pl.col("committed")).fill_null(False))
            .to_series()
        )
        return rows.filter(mask.to_arrow())

    def _overtaken(self) -> SourceError:
        return SourceError(
            str(self.lake.place),
            f"another sync committed first, {_CONFLICTS} times in a row",
            hint="let one sync write this lake at a time; nothing was lost or doubled",
        )

    def _settle(self, reading: Reading, polled: Polled) -> Polled:
        """Keep how far a blob is, and count what was read of it."""
        blob, units = reading.listed, reading.units
        told = sum((unit.ledger for unit in units), Ledger())
        cursor = reading.cursor
        if units:
            place = units[-1].place
            cursor = replace(cursor, place=place, known=place.offset, version=reading.etag, prefix=reading.prefixes[-1])
        cursor = replace(cursor, older=(), created=blob.created)
        if reading.error is None:
            cursor = replace(cursor, seen=reading.etag)
        if reading.rest is not None:
            told += reading.rest.ledger
            cursor = replace(cursor, done=reading.etag, void=reading.rest.provisional)
            self._ends.append(_end(reading, closed=True))
        elif not units and not cursor.met:
            # Nothing in it yet: that it is there is noted once.
            self._ends.append(_end(reading, closed=False))
        if not self._overtook:
            self._cursors[blob.key] = replace(cursor, met=True)
        notes = polled.notes
        if reading.error is not None:
            notes = (*notes, f"not read: {reading.error.where}: {reading.error.problem}")
        if reading.replaces:
            notes = (*notes, f"replaced, since another content is there now: {sample(blob.name)}")
        return replace(
            polled,
            read=polled.read + 1,
            closed=polled.closed + (reading.rest is not None),
            replaced=polled.replaced + bool(reading.replaces),
            unread=polled.unread + (reading.error is not None),
            ledger=polled.ledger + replace(told, blobs=1),
            bytes=polled.bytes + reading.bytes,
            notes=notes,
        )

    def _note_ends(self) -> None:
        if self._ends:
            facts, self._ends = self._ends, []
            self.lake.append_ledger(ledger_table(facts))


def follow(
    sync: Sync,
    tell: Callable[[Polled], None],
    complain: Callable[[SourceError], None],
    *,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Poll again and again, about each minute, until interrupted; a poll that an account refuses is told and tried again."""
    polled_once = False
    while True:
        began = time.monotonic()
        try:
            tell(sync.poll())
            polled_once = True
        except SourceError as error:
            if not polled_once:
                raise
            complain(error)
        pause = POLL * random.uniform(0.9, 1)  # noqa: S311 - no secret
        wait(max(0.0, pause - (time.monotonic() - began)))


# What a reading becomes


def _goes_on(version: Version, cursor: Cursor) -> bool:
    """Whether what is known of a blob, committed or not, still stands at its beginning."""
    if version.etag == cursor.version:
        return True
    (prefix,) = version.prefixes([cursor.known])
    return not cursor.void and prefix is not None and prefix == cursor.prefix


def _check(reading: Reading) -> None:
    """Nothing of a blob may be unaccounted for: units follow each other, and each adds up; raises LedgerError."""
    at = reading.cursor.place.offset
    for unit in reading.units:
        checked(unit.ledger, reading.listed.name)
        if unit.after != at:
            raise LedgerError(reading.listed.name, f"expected a record behind byte {at}, found one behind {unit.after}")
        at = unit.place.offset
    if reading.rest is not None:
        checked(reading.rest.ledger, reading.listed.name)
    rows = sum(unit.ledger.rows for unit in reading.units)
    if rows != sum(piece.flows.num_rows for piece in reading.pieces):
        raise LedgerError(reading.listed.name, f"expected {rows} rows, found another number")


def _facts(reading: Reading) -> Iterator[Fact]:
    for unit, prefix in zip(reading.units, reading.prefixes, strict=True):
        yield Fact(
            reading.listed,
            reading.cursor,
            "record",
            unit.after,
            unit.start,
            unit.place,
            unit.ledger,
            prefix,
            etag=reading.etag,
        )


def _end(reading: Reading, *, closed: bool) -> Fact:
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


def _unread(reading: Reading) -> Fact:
    assert reading.error is not None, "only what failed comes here"
    error = reading.error
    reason = f"{error.problem} ({error.hint})" if error.hint else error.problem
    at = reading.units[-1].place if reading.units else reading.cursor.place
    ledger = Ledger(unread=1, rejects=(Reject(reading.listed.name, at.offset, reason, ""),))
    return Fact(reading.listed, reading.cursor, "unread", at.offset, at.offset, at, ledger, etag=reading.etag)


def _rows(readings: Sequence[Reading]) -> pa.Table:
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
