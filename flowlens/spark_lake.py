"""A lake that a Spark cluster fills: executors read blobs and write data files, the driver commits them as any sync does.

What a task reads of a blob begins at the cursor that the driver took from the lake, and its files count only once the driver has
committed them: of each task those of the one attempt whose answer Spark took. So whatever is tried twice doubles nothing, and what an
attempt left that does not count is removed, or goes with `flowlens lake vacuum`.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pyarrow as pa

from flowlens import schema
from flowlens.errors import FlowlensError, SourceError
from flowlens.evidence import Ledger, Window
from flowlens.formats.growing import Piece, Rest, Unit
from flowlens.lake.growth import Reading, check, facts_of, read_blob, rows_of
from flowlens.lake.ledger import Cursor, ledger_table
from flowlens.lake.syncing import Far, Parcel, Polled, Progress, Sync
from flowlens.sources.accounts import Access, Location
from flowlens.sources.delta import LEDGER_FOLDER, DataFile, open_lake, write_facts, write_flows
from flowlens.sources.lake_places import LakePlace, locate_lake
from flowlens.sources.ranges import Reader
from flowlens.sources.refusals import declared
from flowlens.sources.stored_blobs import StoredBlob, StoredBlobs
from flowlens.sources.stores import Container, Folder, Listed, Store, listed_in, stores
from flowlens.spark_sessions import cores_of, followed, on_executor, spark_errors, tries_of
from flowlens.spark_tasks import BLOB_BYTES, TASKS_PER_CORE, attempt_of, connected, most_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TASK_BYTES = 16 << 20
"""What a task reads at most, unless a blob is larger: its rows, some six times as many bytes, are in memory until they are written."""
READERS = 4
"""How many blobs a task reads at once: most of the time is waiting for the account."""
OUTPUT = pa.schema([pa.field("task", pa.int64()), pa.field("outcome", pa.string())])
_DDL = "task bigint, outcome string"


@dataclass(frozen=True, slots=True)
class Due:
    """A blob to read as it travels to an executor; ``refused`` is the id of the error that reading it gives."""

    listed: Listed
    cursor: Cursor
    refused: str = ""

    @property
    def cost(self) -> int:
        """What reading it costs, in bytes; nobody knows how much of a blob lies behind a cursor that was never closed."""
        return BLOB_BYTES + max(0, self.listed.size - self.cursor.place.offset)


@dataclass(frozen=True, slots=True)
class LakeJob:
    """What all tasks share, without secrets, and the blobs of each. ``account`` is None for files."""

    version: str
    mark: str
    account: tuple[Location, Access] | None
    lake: str
    lake_access: Access
    tasks: tuple[tuple[Due, ...], ...]
    tries: int


class Told(msgspec.Struct):
    """What was read of one blob: its records as one unit, or that it takes the place of rows and is left to the driver."""

    etag: str
    bytes: int
    more: bool
    replaces: bool
    unit: Unit | None
    prefix: str | None
    rest: Rest | None
    error: tuple[str, str, str] | None


class Outcome(msgspec.Struct):
    """What became of a task: its blobs in order, the files that it wrote, and why its account can't be read, if so.

    ``again`` counts requests that were tried again.
    """

    blobs: list[Told]
    facts: list[DataFile]
    flows: list[DataFile]
    given_up: list[tuple[str, str, str]]
    again: dict[str, int] = {}


def spark_sync(
    spark: SparkSession,
    *sources: str | os.PathLike[str],
    lake: str,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    access: Access | None = None,
    lake_access: Access | None = None,
    progress: Progress | None = None,
) -> Polled:
    """Bring the lake at ``lake`` up to date on the cluster of ``spark``, as `flowlens sync` does on one machine; what that found.

    ``sources`` are containers of storage accounts, or folders that driver and executors see under the same path. ``lake`` is one
    that all of them reach: ``abfss://``, or a folder that they share. Driver and executors sign in by themselves, to the logs as
    ``access`` says and to the lake as ``lake_access`` does. ``start`` and ``end`` are aware datetimes, half-open.

    Raises ConfigError for a SAS token in an address, SourceError where the job fails, no executor can read the account, or the lake
    can't be written; what was committed before stays whole.

    >>> logs = "https://contoso.blob.core.windows.net/insights-logs-flowlogflowevent"
    >>> spark_sync(spark, logs, lake="abfss://lake@contoso.dfs.core.windows.net/flows")  # doctest: +SKIP
    """
    own = lake_access or Access()
    running = Sync(
        stores([os.fspath(source) for source in sources], access or Access()),
        lambda: open_lake(locate_lake(lake, own), create=True),
        window=Window(start, end),
        progress=progress,
        far=far_on(spark, lake, access or Access(), own),
    )
    try:
        return running.poll()
    finally:
        running.close()


def far_on(spark: SparkSession, lake: str, access: Access, lake_access: Access) -> Far:
    """What has blobs read by the executors of ``spark`` into the lake at ``lake``, for `Sync`."""
    where = f"Spark {spark.version}"

    def run(job: LakeJob) -> list[Outcome]:
        count = len(job.tasks)
        rows = spark.range(0, count, 1, count).mapInArrow(partial(write_tasks, job), _DDL)
        with spark_errors(where), followed(spark, None, count, 0, 0):
            # Of each task Spark takes the answer of one attempt.
            told = {row.task: msgspec.json.decode(row.outcome, type=Outcome) for row in rows.collect()}
        if len(told) < count:
            raise declared("FL-C11", where, f"{count - len(told)} of {count} tasks gave no answer")
        return [told[task] for task in range(count)]

    return far_by(run, lake, access, lake_access, cores=cores_of(spark), tries=tries_of(spark))


def far_by(
    run: Callable[[LakeJob], list[Outcome]], lake: str, access: Access, lake_access: Access, *, cores: int, tries: int
) -> Far:
    """What has blobs read by ``run``, which gives the outcome of each task of a job in order."""
    mark = uuid4().hex
    folder = locate_lake(lake, lake_access).folder

    def read(store: Store, blobs: Sequence[tuple[Listed, Cursor]]) -> list[Parcel]:
        shares = tuple(_shares(_due(store, blobs), cores))
        if not shares:
            return []
        job = LakeJob(
            version("flowlens"), mark, _account(store, access), str(folder or lake), lake_access, shares, tries
        )
        outcomes = run(job)
        given_up = [outcome.given_up for outcome in outcomes]
        if all(given_up):
            raise on_executor(*given_up[0][0])
        for outcome in outcomes:
            _check_there(folder, outcome)
            if isinstance(store, Container):
                store.tried_elsewhere(outcome.again)
        return [_parcel(task, outcome) for task, outcome in zip(job.tasks, outcomes, strict=True)]

    return Far(read, TASKS_PER_CORE * TASK_BYTES * cores, mark)


def _account(store: Store, access: Access) -> tuple[Location, Access] | None:
    if not isinstance(store, Container):
        return None
    if store.location.sas:
        raise declared("FL-C08", str(store.location))
    return store.location, access


def _due(store: Store, blobs: Sequence[tuple[Listed, Cursor]]) -> Iterator[Due]:
    for listed, cursor in blobs:
        if isinstance(store, Container):
            yield Due(replace(listed, place=None), cursor, store.stored(listed).refused)
        else:
            # An executor works in another folder than the driver.
            file = replace(listed.place, path=Path(listed.place.path).absolute())
            yield Due(replace(listed, place=file), cursor)


def _shares(blobs: Iterable[Due], cores: int) -> Iterator[tuple[Due, ...]]:
    """The blobs of each task, in the order of the listing, about equal in cost."""
    due = list(blobs)
    most = min(TASK_BYTES, most_of(sum(each.cost for each in due), cores))
    share: list[Due] = []
    taken = 0
    for each in due:
        if share and taken + each.cost > most:
            yield tuple(share)
            share, taken = [], 0
        share.append(each)
        taken += each.cost
    if share:
        yield tuple(share)


def _check_there(folder: Path | None, outcome: Outcome) -> None:
    """What executors wrote to a folder must be in the folder that the driver sees under its name."""
    if folder is None:
        return
    paths = [(folder / file.path, file.size) for file in outcome.flows]
    paths += [(folder / LEDGER_FOLDER / file.path, file.size) for file in outcome.facts]
    if not all(path.is_file() and path.stat().st_size == size for path, size in paths):
        raise declared("FL-C12", str(folder))


def _parcel(task: Sequence[Due], outcome: Outcome) -> Parcel:
    readings = tuple(_reading(due, told) for due, told in zip(task, outcome.blobs, strict=True))
    return Parcel(readings, tuple(outcome.facts), tuple(outcome.flows))


def _reading(due: Due, told: Told) -> Reading:
    error = None
    if told.error is not None:
        where, problem, hint = told.error
        error = SourceError(where, problem, hint=hint)
    return Reading(
        due.listed,
        due.cursor.blob_id,
        due.cursor,
        told.etag,
        (due.cursor.blob_id,) if told.replaces else (),
        [Piece(schema.FLOWS.empty_table(), (told.unit,))] if told.unit else [],
        [told.prefix] if told.unit else [],
        told.rest,
        error,
        told.bytes,
        told.more,
    )


# What an executor does


def write_tasks(job: LakeJob, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The outcomes of the tasks whose numbers stand in ``batches``, with the schema `OUTPUT`; for ``mapInArrow``."""
    _, is_last = attempt_of(job.version, job.tries)
    for batch in batches:
        for at in batch.column(0).to_pylist():
            outcome = msgspec.json.encode(write_task(job, at, is_last=is_last)).decode()
            yield pa.RecordBatch.from_pylist([{"task": at, "outcome": outcome}], schema=OUTPUT)


def write_task(job: LakeJob, at: int, *, is_last: bool) -> Outcome:
    """Read the blobs of the task at place ``at``, and write their facts and rows as files that no commit names yet.

    An account that can't be read here may be readable from another executor: unless this is the last attempt the error is raised.
    Raises SourceError where the lake can't be written.
    """
    due = job.tasks[at]
    place = _lake_place(job.mark, job.lake, job.lake_access)
    try:
        store, blobs = _store(job, due)
    except FlowlensError as error:
        if not is_last:
            raise
        return _unread(place, job, due, error)
    stopped = threading.Event()
    read = partial(read_blob, store, batch_bytes=TASK_BYTES, stopped=stopped)
    try:
        with ThreadPoolExecutor(READERS) as pool:
            readings = list(pool.map(read, blobs, [each.cursor for each in due]))
        given_up, again = (store.broken(), store.again()) if isinstance(store, Container) else ([], {})
        if given_up and not is_last:
            raise given_up[0]
    finally:
        stopped.set()
        store.close()
    return msgspec.structs.replace(_written(place, job, readings, given_up), again=again)


def _unread(place: LakePlace, job: LakeJob, due: Sequence[Due], error: FlowlensError) -> Outcome:
    readings = [Reading(each.listed, each.cursor.blob_id, each.cursor, each.listed.etag, error=error) for each in due]
    return _written(place, job, readings, [error])


def _written(place: LakePlace, job: LakeJob, readings: Sequence[Reading], given_up: Iterable[FlowlensError]) -> Outcome:
    adding = [reading for reading in readings if not reading.replaces]
    for reading in adding:
        check(reading)
    facts = write_facts(place, ledger_table(facts_of(adding)), job.mark)
    flows = write_flows(place, rows_of(adding), job.mark)
    return Outcome([_told(each) for each in readings], facts, flows, [_words(error) for error in given_up])


def _told(reading: Reading) -> Told:
    units = [] if reading.replaces else reading.units
    unit = None
    if units:
        place, ledger = units[-1].place, sum((unit.ledger for unit in units), Ledger())
        first = next((each.after for each in units if each.ledger.rows), place.offset)
        unit = Unit(first, first, place, ledger)
    return Told(
        reading.etag,
        reading.bytes,
        reading.more,
        bool(reading.replaces),
        unit,
        reading.prefixes[-1] if units else None,
        reading.rest,
        _words(reading.error) if reading.error is not None else None,
    )


def _words(error: FlowlensError) -> tuple[str, str, str]:
    return error.where, error.problem, error.hint


@lru_cache(8)
def _lake_place(_run: str, lake: str, access: Access) -> LakePlace:
    """Where the lake is, signed in to from here; kept for a run."""
    return locate_lake(lake, access)


def _store(job: LakeJob, due: Sequence[Due]) -> tuple[Store, list[Listed]]:
    """Where the blobs of a task lie, and the blobs as it knows them."""
    if job.account is None:
        return Folder(()), [each.listed for each in due]
    account = connected(job.mark, *job.account)
    stored = StoredBlobs()
    for each in due:
        blob = each.listed
        key = blob.name.removeprefix(f"{account.location.container}/")
        at = (blob.flow_log, blob.hour, blob.mac_address, blob.is_open)
        stored.append(StoredBlob(account, key, blob.size, blob.etag, *at, each.refused, blob.created))
    return Container(account, Reader(stored, threads=1)), listed_in(account, stored)
