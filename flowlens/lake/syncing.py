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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from functools import partial

import polars as pl
import pyarrow as pa

from flowlens.errors import SourceError
from flowlens.evidence import Ledger, Window, sample
from flowlens.lake.growth import Reading, check, end_of, facts_of, read_blob, rows_of
from flowlens.lake.ledger import Cursor, Fact, Key, known, ledger_table
from flowlens.sources.delta import DataFile, Lake, OvertakenError
from flowlens.sources.stores import Listed, Store
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
_CONFLICTS = 20
_PROGRESS_STEP = 0.2

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Parcel:
    """What somebody else has read of some blobs, and the files written of it, which count once they are committed.

    The files hold neither rows nor facts of readings that take the place of rows: those are for the sync itself. Of the others each
    has its records as one unit, without rows; its ``after`` is the byte behind which the first record with rows stands.
    """

    readings: tuple[Reading, ...]
    facts: tuple[DataFile, ...]
    flows: tuple[DataFile, ...]


@dataclass(frozen=True, slots=True)
class Far:
    """Has blobs of a store read elsewhere, each from its cursor on, about ``batch_bytes`` of blobs at a time.

    ``mark`` stands in the name of every file that is written there.
    """

    read: Callable[[Store, Sequence[tuple[Listed, Cursor]]], list[Parcel]]
    batch_bytes: int
    mark: str


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


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _batch(pending: deque[Listed], size: int, without: set[Key]) -> list[Listed]:
    """The first of ``pending``, and those behind it up to ``size`` bytes in all; they are taken from there."""
    batch = [pending.popleft()]
    left = size - batch[0].size
    while pending and pending[0].size <= left and pending[0].key not in without:
        left -= pending[0].size
        batch.append(pending.popleft())
    return batch


def _still(now_at: Mapping[Key, Cursor]) -> Callable[[Reading], bool]:
    """Whether nobody has committed rows of a reading by now; facts without rows may count already."""

    def holds(reading: Reading) -> bool:
        cursor = now_at[reading.listed.key]
        return cursor.blob_id == reading.blob_id and all(cursor.place.offset <= each.after for each in reading.units)

    return holds


class Sync:
    """Stores and a lake that they are read into; `poll` once or again and again.

    ``lake`` opens it, at first and once an hour. ``clock`` says the time, which decides what may still grow. ``progress`` is called with blobs done, bytes done, bytes in all.
    ``far`` reads and writes in the place of this process, which commits.
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
        far: Far | None = None,
    ) -> None:
        self.lake = lake()
        self._open = lake
        self._fresh = True
        self._stores = stores
        self._window = window or Window()
        self._clock = clock
        self._progress = progress
        self._batch_bytes = batch_bytes
        self._far = far
        self._stopped = threading.Event()
        self._workers = Workers(readers, self._stopped)
        self._cursors: dict[tuple[str, str], Cursor] = {}
        self._listed_all: dt.datetime | None = None
        self._ends: list[Fact] = []
        self._overtook = False
        self._written: set[str] = set()

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
            polled = replace(polled, notes=(*polled.notes, *store.met()))
        self._note_ends()
        polled = replace(polled, notes=(*polled.notes, *self._tidied()))
        if everything:
            self._listed_all = now
        return replace(polled, version=self.lake.version)

    def _tidied(self) -> tuple[str, ...]:
        """Remove what attempts wrote elsewhere that do not count; in words, how much that was."""
        if self._far is None:
            return ()
        removed = self.lake.remove_marked(self._far.mark, self._written)
        return (f"removed {removed} file(s) of attempts that do not count",) if removed else ()

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
        own: set[Key] = set()
        while pending:
            far = None if pending[0].key in own else self._far
            batch = _batch(pending, far.batch_bytes if far else self._batch_bytes, own if far else set())
            # What another sync did in the meantime is known once the lake was asked again: of a blob that it has finished no
            # cursor is known, only that there is nothing to do.
            self._learn(batch)
            left = [blob for blob in batch if self._may_have_more(blob)]
            if far is not None:
                readings, here = self._have_read(far, store, left)
                own |= here
            else:
                readings = self._read_all(store, left)
                self._commit(readings)
            for reading in readings:
                polled = self._settle(reading, polled)
            read = {reading.listed.key for reading in readings if not reading.more}
            again = [blob for blob in left if blob.key not in read]
            pending.extendleft(again)
            number += len(batch) - len(again)
            done += sum(blob.size for blob in batch) - sum(blob.size for blob in again)
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
        read = partial(read_blob, store, batch_bytes=self._batch_bytes, stopped=self._stopped)
        submitted = [self._workers.submit(partial(read, blob, self._cursors[blob.key]), urgent=False) for blob in batch]
        return [self._result(future) for (future,) in submitted]

    def _result(self, future: Future[Reading]) -> Reading:
        while True:
            try:
                return future.result(timeout=_PROGRESS_STEP)
            except FutureTimeoutError:
                continue

    # Committing

    def _commit(self, readings: Sequence[Reading]) -> None:
        """Facts first, then rows under the fence; that a blob is finished is noted with the next facts."""
        self._overtook = False
        for reading in readings:
            check(reading)
        facts, self._ends = [*self._ends, *facts_of(readings)], []
        if facts:
            self.lake.append_ledger(ledger_table(facts))
        replacing = [reading for reading in readings if reading.replaces]
        adding = [reading for reading in readings if not reading.replaces]
        self._append(adding, rows_of(adding))
        for reading in replacing:
            self._replace(reading)

    def _have_read(self, far: Far, store: Store, batch: Sequence[Listed]) -> tuple[list[Reading], set[Key]]:
        """Have the batch read and written elsewhere, and commit it: what was read, and which blobs are to be read here.

        Where another sync was first, files with rows of a blob that it went on with do not count; such blobs are read again.
        """
        self._overtook = False
        cursors = {blob.key: self._cursors[blob.key] for blob in batch}
        here = {key for key, cursor in cursors.items() if cursor.older}
        parcels = far.read(store, [(blob, cursors[blob.key]) for blob in batch if blob.key not in here])
        here |= {each.listed.key for parcel in parcels for each in parcel.readings if each.replaces}
        self._written |= {file.path for parcel in parcels for file in (*parcel.facts, *parcel.flows)}
        ends, self._ends = self._ends, []
        self.lake.append_ledger(ledger_table(ends), [file for parcel in parcels for file in parcel.facts])
        readings = [each for parcel in parcels for each in parcel.readings if not each.replaces]
        for _ in range(_CONFLICTS):
            try:
                self.lake.add_flows([file for parcel in parcels for file in parcel.flows])
                return readings, here
            except OvertakenError:
                still = _still(self._again(readings))
                kept = []
                for parcel in parcels:
                    if all(each.replaces or still(each) for each in parcel.readings):
                        kept.append(parcel)
                        continue
                    # What gave no rows has nothing in the files: its facts count already.
                    lost = {
                        each.listed.key for each in parcel.readings if each.replaces or each.rows or not still(each)
                    }
                    readings = [reading for reading in readings if reading.listed.key not in lost]
                parcels = kept
        raise self._overtaken()

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
        rows = rows_of([reading])
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
        if reading.error is None and not reading.more:
            cursor = replace(cursor, seen=reading.etag)
        if reading.rest is not None:
            told += reading.rest.ledger
            cursor = replace(cursor, done=reading.etag, void=reading.rest.provisional)
            self._ends.append(end_of(reading, closed=True))
        elif not units and not cursor.met:
            # Nothing in it yet: that it is there is noted once.
            self._ends.append(end_of(reading, closed=False))
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
