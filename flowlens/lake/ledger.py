"""The lake's ledger: facts about records as rows, and from them and the rows of flows how far each blob was committed.

A row says what the bytes [after, block) of a blob hold. It is true whoever wrote it and however often, so rows are told apart by
blob, kind and block alone. It counts once the flows have passed it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from flowlens import schema
from flowlens.errors import SourceError
from flowlens.evidence import Ledger
from flowlens.formats.framing import Place
from flowlens.sources.delta import Lake
from flowlens.sources.stores import Listed

COUNTS = (
    "records",
    "tuples",
    "rows",
    "rejected",
    "rejected_records",
    "strict_records",
    "record_bytes",
    "framing_bytes",
    "unread",
)
BLOB_COLUMNS = ("date", "blob_id", "source", "name", "created", "generation", "flow_log", "hour", "mac_address")
"""Who a blob is."""
AT_ONCE = 150_000
"""How many rows of the ledger are in memory at once, more or less: some 150 MB."""
_LEAST = dt.timedelta(microseconds=1)
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a blob was committed, and what is known of it.

    Facts reach to ``known``, which lies behind ``place`` where a sync was ended before its rows were committed; they were read of
    ``version``, and ``prefix`` is the digest of what stands before. ``done`` is the version that was read to its end once its hour was
    over. ``void``: what is known cannot stand for another version. ``older`` are blobs of the same name whose rows are still in the
    lake. ``seen`` is the version that this run has read; ``met`` says that the ledger knows the blob.
    """

    blob_id: str
    created: str
    generation: int
    hour: dt.datetime
    place: Place = field(default_factory=Place)
    known: int = 0
    version: str | None = None
    prefix: str | None = None
    done: str | None = None
    void: bool = False
    older: tuple[str, ...] = ()
    seen: str | None = None
    met: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    """A row of the ledger."""

    listed: Listed
    cursor: Cursor
    kind: str
    after: int
    start: int
    place: Place
    ledger: Ledger
    prefix: str | None = None
    etag: str | None = None
    closed: bool = False
    provisional: bool = False


def blob_id(source: str, name: str, created: str, generation: int = 0) -> str:
    """Who a blob is: a hash of 128 bits as 32 hex digits; a blob that was created again is another one.

    >>> len(blob_id("contoso", "logs/a", "")), blob_id("contoso", "logs/a", "") == blob_id("contoso", "logs/a", "", 1)
    (32, False)
    """
    parts = [source, name, created, *([str(generation)] if generation else [])]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16, usedforsecurity=False).hexdigest()


def ledger_table(facts: Sequence[Fact]) -> pa.Table:
    """Facts as rows of LAKE_LEDGER."""
    rows = [
        {
            "blob_id": fact.cursor.blob_id,
            "block": fact.place.offset,
            "date": fact.listed.hour.date(),
            "kind": fact.kind,
            "after": fact.after,
            "start": fact.start,
            "place": fact.place.text,
            "prefix": fact.prefix,
            "source": fact.listed.source,
            "name": fact.listed.name,
            "created": fact.cursor.created,
            "generation": fact.cursor.generation,
            "flow_log": fact.listed.flow_log,
            "hour": fact.listed.hour,
            "mac_address": fact.listed.mac_address,
            "etag": fact.etag,
            "closed": fact.closed,
            "provisional": fact.provisional,
            **{name: getattr(fact.ledger, name) for name in COUNTS},
            "unknown_codes": [{"note": note, "count": n} for note, n in fact.ledger.unknown_codes.items()] or None,
            "rejects": [
                {"offset": each.offset, "reason": each.reason, "sample": each.sample} for each in fact.ledger.rejects
            ]
            or None,
        }
        for fact in facts
    ]
    return pa.Table.from_pylist(rows, schema=schema.LAKE_LEDGER)


def known(lake: Lake, blobs: Sequence[Listed], *, exact: bool = False) -> dict[Key, Cursor]:
    """The cursor of each blob by the rows of the lake at the version of its handle; of one that it does not know, the beginning.

    Of a blob whose listed version was read to its end only that is known, unless it has to be ``exact``.
    """
    fresh = {blob.key: Cursor(blob_id(*blob.key, blob.created), blob.created, 0, blob.hour) for blob in blobs}
    dates = {blob.hour.date() for blob in blobs}
    finished = {} if exact else _finished(lake, dates)
    open_blobs = [blob for blob in blobs if (*blob.key, blob.created, blob.etag) not in finished]
    for blob in blobs:
        if found := finished.get((*blob.key, blob.created, blob.etag)):
            fresh[blob.key] = Cursor(*found, hour=blob.hour, done=blob.etag, seen=blob.etag, met=True)
    if open_blobs:
        fresh |= _unfinished(lake, open_blobs, fresh)
    return fresh


def _finished(lake: Lake, dates: Iterable[dt.date]) -> dict[tuple[str, str, str, str], tuple[str, str, int]]:
    """Blobs that were read to their end, by key, creation and version: their identity."""
    rows = (
        lake.scan_ledger(dates)
        .filter((pl.col("kind") == "end") & pl.col("closed"))
        .select("source", "name", "created", "etag", "blob_id", "generation")
        .sort("generation")
        .collect()
    )
    latest = {(source, name, created): generation for source, name, created, _, _, generation in rows.iter_rows()}
    return {
        (source, name, created, etag): (blob, created, generation)
        for source, name, created, etag, blob, generation in rows.iter_rows()
        if generation == latest[source, name, created]
    }


def _unfinished(lake: Lake, blobs: Sequence[Listed], fresh: dict[Key, Cursor]) -> dict[Key, Cursor]:
    dates = {blob.hour.date() for blob in blobs}
    names = pl.Series([blob.name for blob in blobs])
    facts = (
        lake.scan_ledger(dates)
        .filter(pl.col("name").is_in(names.implode()))
        .select(
            *("source", "name", "blob_id", "created", "generation", "kind", "block", "after", "rows"),
            *("place", "prefix", "etag", "closed", "provisional"),
        )
        .unique()
        .collect()
    )
    highest = lake.cursors(dates)
    by_key = facts.partition_by("source", "name", as_dict=True)
    for blob in blobs:
        if blob.key not in by_key and (reached := highest.get(fresh[blob.key].blob_id)):
            raise _lost(lake, reached, blob)
    return {
        blob.key: _cursor(lake, blob, by_key[blob.key], highest, fresh[blob.key])
        for blob in blobs
        if blob.key in by_key
    }


def _cursor(lake: Lake, blob: Listed, facts: pl.DataFrame, highest: dict[str, int], fresh: Cursor) -> Cursor:
    """How far ``blob`` is, by the facts about all blobs of its name and the highest block of each."""
    own = facts.filter(pl.col("created") == blob.created).sort("generation")
    if own.is_empty():
        identity = fresh
    else:
        latest = own.row(-1, named=True)
        identity = Cursor(latest["blob_id"], blob.created, latest["generation"], blob.hour, met=True)
    older = tuple(each for each in facts["blob_id"].unique().sort() if each != identity.blob_id and each in highest)
    mine = facts.filter(pl.col("blob_id") == identity.blob_id)
    records = mine.filter(pl.col("kind") == "record").sort("block")
    committed = highest.get(identity.blob_id, 0)
    at = committed_end(records, committed)
    noted = mine.filter((pl.col("kind") == "end") & pl.col("closed") & (pl.col("after") == at))
    if noted.is_empty():
        # What rests on where the blob ended, and has no rows, is read again until that end is noted too.
        at = committed_end(records.filter(~pl.col("provisional")), committed)
    place = Place()
    if at:
        found = records.filter(pl.col("block") == at)
        if found.is_empty():
            raise _lost(lake, at, blob)
        place = Place.parse(at, found["place"][0])
    ends = mine.filter((pl.col("kind") == "end") & pl.col("closed") & (pl.col("after") == at))
    versions = ends["etag"].to_list()
    last: dict[str, Any] = {"block": 0, "etag": None, "prefix": None}
    if records.height:
        last = records.row(-1, named=True)
    if _contradicted(records):
        # Neither version nor prefix speaks for all of them.
        last |= {"etag": None, "prefix": None}
    return Cursor(
        identity.blob_id,
        blob.created,
        identity.generation,
        blob.hour,
        place,
        known=last["block"],
        version=last["etag"],
        prefix=last["prefix"],
        done=blob.etag if blob.etag in versions else (versions[-1] if versions else None),
        void=bool(ends["provisional"].any() or records["provisional"].any()),
        older=older,
        met=identity.met,
    )


def _lost(lake: Lake, at: int, blob: Listed) -> SourceError:
    return SourceError(
        str(lake.place),
        f"the ledger does not know byte {at} of {blob.name}, to which its rows reach",
        hint="restore the folder _ledger of the lake, or begin a new lake; nothing was changed",
    )


def _contradicted(records: pl.DataFrame) -> bool:
    """Whether two syncs at once have read different contents of one blob: their records overlap, or stand behind different bytes."""
    told = records.select("after", "block", "prefix").unique().sort("block")
    spans = told.select("after", "block").unique().sort("block")
    overlaps = (spans["after"] < spans["block"].shift(1)).any()
    prefixes = told.drop_nulls("prefix")
    return bool(overlaps) or prefixes["block"].is_duplicated().any()


def committed_end(records: pl.DataFrame, highest: int) -> int:
    """Where the committed records of a blob end: behind its highest row, and behind records without rows that follow.

    ``records`` are facts of kind record in the order of ``block``. A fact behind the highest row that claims rows was written by a
    sync that never committed them.

    >>> records = pl.DataFrame({"after": [0, 10, 20, 30], "block": [10, 20, 30, 40], "rows": [3, 2, 0, 1]})
    >>> committed_end(records, 20), committed_end(records, 0)
    (30, 0)
    """
    behind = records.filter(pl.col("block") > highest)
    waiting = behind.filter(pl.col("rows") > 0)
    if not waiting.is_empty():
        return int(waiting["after"][0])
    last = records["block"].max()
    return max(highest, int(last) if isinstance(last, int) else 0)


def blob_ledgers(
    lake: Lake,
    *,
    after: dt.datetime | None = None,
    before: dt.datetime | None = None,
    at_once: int = AT_ONCE,
) -> Iterator[pl.DataFrame]:
    """A row for each blob with what of the ledger counts: what the lake's flows at this version have passed.

    Blobs are those of hours later than ``after`` and earlier than ``before``, and come some hours at a time: about as many as hold
    ``at_once`` rows of the ledger, at least one, so that a month of many NICs needs no more memory than a day. Of blobs of one name it is the one whose rows the lake holds, else the latest. The row has
    `BLOB_COLUMNS`, sums of `COUNTS`, the blob's ``size``, whether it was read to its end (``closed``) or could not be read
    (``failed``: not read to its end since either), and its ``unknown_codes`` and ``rejects``, lists of what each row of the ledger tells.
    """
    first = after.date() if after else dt.date.min
    last = before.date() if before else dt.date.max
    for date in lake.ledger_dates():
        if not first <= date <= last:
            continue
        highest = pl.DataFrame(
            list(lake.cursors([date]).items()), schema={"blob_id": pl.String, "highest": pl.Int64}, orient="row"
        )
        midnight = dt.datetime.combine(date, dt.time(), dt.UTC)
        slices = min(24, 1 + lake.ledger_rows(date) // at_once)
        edges = [midnight + dt.timedelta(hours=24 * number // slices) for number in range(slices + 1)]
        for start, end in itertools.pairwise(edges):
            # A microsecond is the least that times can differ by.
            hours = max(start, after + _LEAST) if after else start, min(end, before) if before else end
            if hours[0] < hours[1]:
                yield _of_blobs(lake, date, hours, highest)


def _of_blobs(lake: Lake, date: dt.date, hours: tuple[dt.datetime, dt.datetime], highest: pl.DataFrame) -> pl.DataFrame:
    blobs, facts = _facts(lake, date, hours)
    # Of the blobs of a name one counts.
    blobs = (
        blobs.join(highest, on="blob_id", how="left")
        .sort(pl.col("highest").is_not_null(), "created", "generation")
        .unique(["source", "name"], keep="last", maintain_order=True)
        .with_columns(pl.col("highest").fill_null(0))
    )
    mine = facts.join(blobs.select("blob_id", "highest"), on="blob_id")
    waiting = (pl.col("block") > pl.col("highest")) & (pl.col("rows") > 0)
    ends = (
        mine.filter(kind="record")
        .group_by("blob_id")
        .agg(before=pl.col("after").filter(waiting).min(), last=pl.col("block").max())
        .select("blob_id", end=pl.coalesce("before", "last"))
    )
    placed = mine.join(ends, on="blob_id", how="left").with_columns(pl.col("end").fill_null(0))
    records = placed.filter((pl.col("kind") == "record") & (pl.col("block") <= pl.col("end")))
    finished = (
        placed.filter((pl.col("kind") == "end") & (pl.col("after") == pl.col("end")))
        .sort("closed", "block")
        .unique("blob_id", keep="last", maintain_order=True)
    )
    unread = (
        placed.filter(kind="unread")
        .join(finished.filter("closed"), on="blob_id", how="anti")
        .sort("block")
        .unique("blob_id", keep="last", maintain_order=True)
    )
    lists = [
        pl.col(name).sort_by("block", "kind").list.explode(keep_nulls=False, empty_as_null=False)
        for name in ("unknown_codes", "rejects")
    ]
    told = (
        pl.concat([records, finished, unread])
        .group_by("blob_id")
        .agg(
            pl.col(COUNTS).sum(),
            *lists,
            size=pl.col("block").max(),
            closed=pl.col("closed").any(),
            failed=(pl.col("kind") == "unread").any(),
        )
    )
    return blobs.join(told, on="blob_id").drop("highest").sort("name")


def _facts(lake: Lake, date: dt.date, hours: tuple[dt.datetime, dt.datetime]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The blobs of some facts, and the facts, each once; who the blob is stands in the former alone."""
    columns = ["blob_id", "kind", "block", "after", "etag", "closed", *COUNTS, "unknown_codes", "rejects"]
    blobs = [pl.DataFrame(schema=schema.polars_schema(schema.LAKE_LEDGER)).select(BLOB_COLUMNS)]
    facts = [pl.DataFrame(schema=schema.polars_schema(schema.LAKE_LEDGER)).select(columns)]
    for batch in lake.ledger_batches(date, [*dict.fromkeys([*BLOB_COLUMNS, *columns])], hours):
        rows = pl.DataFrame(pl.from_arrow(batch))
        who = rows.select(BLOB_COLUMNS).unique()
        if any(who.null_count().row(0)):
            # Pages bear checksums, the names of columns do not, and one of another name reads as one without values.
            raise SourceError(str(lake.place), "the ledger holds a fact that does not say of which blob it is")
        blobs.append(who)
        # Two ends of a blob may tell of two versions; a record is the same whatever version it was read of.
        facts.append(rows.select(columns).with_columns(etag=pl.when(pl.col("kind") == "end").then("etag")))
    known = ["blob_id", "kind", "block", "etag"]
    return pl.concat(blobs).unique(), pl.concat(facts).unique(known, keep="any").drop("etag")
