"""What one Spark task does: read blobs, decode and roll them up with the very functions that one machine uses.

A job travels to executors without any secret: where blobs lie and which kind of identity reads them; each executor signs in by
itself. What a task gives back are conversations and, as one JSON text, what became of each of its blobs. Of Spark itself only the
number of an attempt is asked.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import polars as pl
import pyarrow as pa

from flowlens import budget, conversations, schema
from flowlens.errors import FlowlensError, SourceError
from flowlens.evidence import Ledger, Window, total
from flowlens.formats import splitting
from flowlens.gathering import BlobResult
from flowlens.pieces import Pieces
from flowlens.selecting import Item, Items, Plan, Selected
from flowlens.sources.accounts import Access, Account, Location, connect
from flowlens.sources.files import Blob, read_chunks
from flowlens.sources.ranges import Reader, VersionChangedError
from flowlens.sources.refusals import declared
from flowlens.sources.stored_blobs import StoredBlob, StoredBlobs
from flowlens.units import Meter, read_flow_logs, units_of

BLOB_BYTES = 100_000
"""What a blob costs beside its bytes, in bytes that could be read meanwhile; `make bench-storage` measures both."""
TASK_BYTES = 64 << 20
LEAST_TASK_BYTES = 4 << 20
TASKS_PER_CORE = 3
"""So many tasks for each core, where there is work for them: the last ones to end then hold up little."""

OUTPUT = pa.schema(
    [
        pa.field("task", pa.int32()),
        pa.field("attempt", pa.int64()),
        pa.field("outcome", pa.string()),
        *(pa.field(each.name, each.type) for each in schema.CONVERSATIONS),
    ]
)
"""What a task gives: conversations, and one row of its own with ``outcome``, an `Outcome` as JSON.

``attempt`` is another one each time that a task is tried, so that what two attempts wrote can be told apart."""


class ListedBlob(msgspec.Struct, array_like=True):
    """A blob as it travels to an executor; ``place`` is the number of its account in the job, -1 for a file.

    With a ``span`` only the records that begin in it are meant.
    """

    place: int
    name: str
    size: int
    etag: str
    flow_log: str | None
    hour: dt.datetime | None
    mac_address: str | None
    is_open: bool = False
    refused: str = ""
    path: bytes = b""
    span: tuple[int, int] | None = None

    @property
    def cost(self) -> int:
        """What reading and decoding it costs, in bytes."""
        start, end = self.span or (0, self.size)
        return BLOB_BYTES + end - start


@dataclass(frozen=True, slots=True)
class Job:
    """What all tasks of a run share, and the number and blobs of each; ``tries`` is how often Spark tries a task, ``run`` names the run.

    >>> Job("0.1.0", Window(), None, False, (), ((0, pack([])),), 4).blobs_of(0)
    []
    """

    version: str
    window: Window
    changed_at: dt.datetime | None
    strict: bool
    places: tuple[tuple[Location, Access], ...]
    tasks: tuple[tuple[int, bytes], ...]
    tries: int
    run: str = ""

    def blobs_of(self, at: int) -> list[ListedBlob]:
        """The blobs of the task at place ``at``, in the order of the listing."""
        return msgspec.msgpack.decode(zlib.decompress(self.tasks[at][1]), type=list[ListedBlob])


class BlobOutcome(msgspec.Struct):
    """What became of one blob; ``etag`` and ``length`` are of the version that was read, ``hours`` rows of nic_hours.READ.

    Of a part of a blob ``size`` is that of the whole, else it is 0.
    """

    blob: str
    etag: str
    length: int
    ledger: Ledger
    failed: bool
    hours: list[tuple[str | None, str | None, str | None, dt.datetime, str, int, int, str | None]]
    size: int = 0

    def result(self) -> BlobResult:
        """The same as one machine has it."""
        return BlobResult(self.ledger, failed=self.failed, hours=[tuple(row) for row in self.hours])


class Outcome(msgspec.Struct):
    """What became of a task: how many conversations it gave, its blobs, and the Ends of flows that were restarted.

    ``given_up`` are errors that ended the reading of an account, each as where, problem and hint. ``seconds`` tells where time went,
    with ``cpu`` before a name that of the processor; ``again`` counts requests that were tried again.
    """

    rows: int
    blobs: list[BlobOutcome]
    restarted: list[bytes]
    given_up: list[tuple[str, str, str]]
    seconds: dict[str, float]
    again: dict[str, int] = {}

    @classmethod
    def parse(cls, text: str) -> Outcome:
        """The outcome of the text that a task wrote."""
        return msgspec.json.decode(text, type=cls)

    def results(self) -> list[BlobResult]:
        """What each blob gave, as one machine has it."""
        results = [each.result() for each in self.blobs]
        if results:
            results[0].restarted_ends = [_frame(pa.ipc.open_stream(part).read_all()) for part in self.restarted]
        return results


def joined(parts: Sequence[Outcome]) -> BlobOutcome | None:
    """A blob that was read in parts, each a task of its own, as one; None unless it is for certain what the whole would give.

    That is where every byte was read once, in one version, and nothing in it asks for what stands before or behind: a reject is told with
    its place, a flow that was restarted is judged by its later Ends.
    """
    blobs = [part.blobs[0] for part in parts]
    ledger = total(blob.ledger for blob in blobs)
    deviates = ledger.rejected or ledger.rejected_records or ledger.strict_records or ledger.unread
    if deviates or ledger.bytes != blobs[0].size or any(part.restarted for part in parts):
        return None
    counts: dict[tuple[Any, ...], int] = {}
    for *nic_hour, state, tuples, _, root in (hour for blob in blobs for hour in blob.hours if hour[4] != "empty"):
        key = (*nic_hour, state, root)
        counts[key] = counts.get(key, 0) + tuples
    hours: list[Any] = [(*key[:5], tuples, 0, key[5]) for key, tuples in counts.items()]
    return msgspec.structs.replace(blobs[0], ledger=replace(ledger, blobs=1), hours=hours or blobs[0].hours, size=0)


def pack(blobs: Sequence[ListedBlob]) -> bytes:
    """The blobs of a task as they travel: names repeat, so that little is left of them."""
    return zlib.compress(msgspec.msgpack.encode(blobs))


def listed(items: Iterable[Item], places: dict[int, int]) -> Iterator[ListedBlob]:
    """Blobs as they travel; ``places`` has the number of each account by its id."""
    for item in items:
        blob = item.blob
        at = (blob.flow_log, blob.hour, blob.mac_address)
        if isinstance(blob, StoredBlob):
            place = places[id(blob.account)]
            yield ListedBlob(place, blob.key, blob.size, blob.etag, *at, blob.is_open, blob.refused)
        else:
            yield ListedBlob(-1, blob.name, blob.size, "", *at, path=os.fsencode(blob.path))


def parts_of(blob: ListedBlob) -> list[ListedBlob]:
    """A large blob in parts of `TASK_BYTES` at most; one that may still grow stays whole."""
    count = -(-blob.size // TASK_BYTES)
    if count < 2 or blob.place < 0 or blob.is_open or blob.refused:
        return [blob]
    cuts = [blob.size * number // count for number in range(count + 1)]
    return [msgspec.structs.replace(blob, span=span) for span in pairwise(cuts)]


def most_of(cost: int, cores: int) -> int:
    """What one task may cost at most where all together cost so much."""
    return max(LEAST_TASK_BYTES, min(TASK_BYTES, cost // (TASKS_PER_CORE * max(1, cores))))


def shares(blobs: Iterable[ListedBlob], cost: int, cores: int) -> Iterator[list[ListedBlob]]:
    """The blobs of each task, in the order of the listing: about equal in cost, `TASK_BYTES` at most.

    A part of a blob is a task of its own, since what it gives may have to be left aside. ``cost`` is that of all.
    """
    most = most_of(cost, cores)
    share: list[ListedBlob] = []
    taken = 0
    for blob in blobs:
        if share and (taken + blob.cost > most or blob.span or share[-1].span):
            yield share
            share, taken = [], 0
        share.append(blob)
        taken += blob.cost
    if share:
        yield share


def read_tasks(job: Job, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What the tasks whose numbers stand in ``batches`` give, with the schema `OUTPUT`; for ``mapInArrow``."""
    attempt, is_last = attempt_of(job.version, job.tries)
    for batch in batches:
        for at in batch.column(0).to_pylist():
            yield from read_task(job, at, attempt, is_last=is_last)


def attempt_of(wanted: str, tries: int) -> tuple[int, bool]:
    """The number of this attempt of a task, and whether it is the last of ``tries``.

    Raises ImportError where this executor has another version of flowlens than ``wanted``.
    """
    # Executors have a process for each core: each with as many threads would have them wait for each other.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from pyspark import TaskContext

    if (own := version("flowlens")) != wanted:
        raise ImportError(f"flowlens {own} on an executor, {wanted} on the driver")
    context = TaskContext.get()
    assert context is not None, "only a task of Spark calls this"
    return context.taskAttemptId(), context.attemptNumber() + 1 >= tries


def read_task(job: Job, at: int, attempt: int, *, is_last: bool) -> Iterator[pa.RecordBatch]:
    """Conversations of the blobs of the task at place ``at``, then its outcome.

    An account that can't be read here may be readable from another executor: unless this is the last attempt the error is raised, so
    that Spark tries again; in the last one the blobs are counted as unread, as on one machine.
    """
    clock = _Clock()
    task = job.tasks[at][0]
    reading = _Reading(job, job.blobs_of(at), is_last=is_last)
    clock.lap("connect")
    plan = Plan((), job.window, job.changed_at, job.strict, budget.shared(None, 1), None, budget.for_queries(None))
    meter = Meter(Selected(Items(), (), (), 0), None)
    folder = Path(tempfile.mkdtemp(prefix="flowlens-"))
    rows = 0
    results: list[BlobResult] = []
    try:
        for unit in units_of(reading.items):
            store = Pieces(conversations.SCHEMA, folder)
            results += read_flow_logs([reading.items[at] for at in unit], plan, meter, store, folder)
            clock.lap("decode")
            for piece in store.pieces():
                rows += piece.height
                batches = _batches(piece, task, attempt)
                clock.lap("hand over")
                for batch in batches:
                    yield batch
                    clock.lap("wait")
            store.discard()
        given_up = reading.given_up()
        if given_up and not is_last:
            raise given_up[0]
    finally:
        meter.stop.set()
        reading.close()
        shutil.rmtree(folder, ignore_errors=True)
    blobs = [reading.outcome(at, result) for at, result in enumerate(results)]
    restarted = [_stream(frame) for result in results for frame in result.restarted_ends]
    errors = [(error.where, error.problem, error.hint) for error in given_up]
    outcome = Outcome(rows, blobs, restarted, errors, clock.seconds(), reading.again())
    told = {"task": [task], "attempt": [attempt], "outcome": [msgspec.json.encode(outcome).decode()]}
    columns = [pa.array(told.get(each.name, [None]), each.type) for each in OUTPUT]
    yield pa.RecordBatch.from_arrays(columns, schema=OUTPUT)


class _Clock:
    """Where the time of a task goes, on the clock and on the processor; in ``wait`` Spark takes rows."""

    def __init__(self) -> None:
        self._last = self._now()
        self._laps: dict[str, float] = {}

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """Count the time since the last lap under ``name``."""
        now = self._now()
        for what, before, after in zip((name, f"cpu {name}"), self._last, now, strict=True):
            self._laps[what] = self._laps.get(what, 0.0) + after - before
        self._last = now

    def seconds(self) -> dict[str, float]:
        """What was counted, by name."""
        return dict(self._laps)


class _Reading:
    """The blobs of a task as items to read, in their order."""

    def __init__(self, job: Job, blobs: Sequence[ListedBlob], *, is_last: bool) -> None:
        self._refused: dict[int, FlowlensError] = {}
        self._accounts: dict[int, Account] = {}
        for place in sorted({blob.place for blob in blobs} - {-1}):
            location, access = job.places[place]
            try:
                self._accounts[place] = connected(job.run, location, access)
            except FlowlensError as error:
                if not is_last:
                    raise
                self._refused[place] = error
                self._accounts[place] = _unconnected(location)
        self._stored = StoredBlobs()
        self._indices: list[int | None] = []
        self._blobs = blobs
        for blob in blobs:
            self._indices.append(None)
            if blob.place >= 0 and blob.place not in self._refused:
                self._indices[-1] = len(self._stored)
                self._stored.append(self._stored_blob(blob))
        self._edges: dict[int, tuple[int, int]] = {}
        self._reader = Reader(self._stored, threads=1)
        self.items = [self._item(at) for at in range(len(blobs))]

    def _stored_blob(self, blob: ListedBlob) -> StoredBlob:
        assert blob.flow_log is not None and blob.hour is not None and blob.mac_address is not None
        return StoredBlob(
            self._accounts[blob.place],
            blob.name,
            blob.size,
            blob.etag,
            blob.flow_log,
            blob.hour,
            blob.mac_address,
            blob.is_open,
            blob.refused,
        )

    def _item(self, at: int) -> Item:
        blob = self._blobs[at]
        index = self._indices[at]
        if index is not None and blob.span is not None:
            return Item(self._stored[index], partial(self._part, at, index, blob.span))
        if index is not None:
            return Item(self._stored[index], partial(self._reader.chunks, index))
        if blob.place < 0:
            file = Blob(blob.name, Path(os.fsdecode(blob.path)), blob.size, blob.flow_log, blob.hour, blob.mac_address)
            return Item(file, partial(read_chunks, file))
        return Item(self._stored_blob(blob), partial(_refuse, self._refused[blob.place]))

    def _part(self, at: int, index: int, span: tuple[int, int]) -> Iterator[bytes]:
        """The records that begin in ``span`` as a blob of their own."""
        blob = self._stored[index]
        read = partial(self._reader.chunks_of, index, blob.etag)
        try:
            found = splitting.edges(read, *span, blob.size)
            if found is not None:
                self._edges[at] = found
                yield from splitting.wrapped(read, *found, blob.size)
        except VersionChangedError:
            raise declared("FL-S29", blob.name) from None

    def outcome(self, at: int, result: BlobResult) -> BlobOutcome:
        """What became of the blob at ``at``, with the version that was read."""
        index = self._indices[at]
        blob = self._blobs[at]
        etag, length = (blob.etag, blob.size) if index is None else self._reader.version(index)
        hours: list[Any] = result.hours
        ledger, size = result.ledger, 0
        if blob.span is not None:
            size = blob.size
            if found := self._edges.get(at):
                ledger = splitting.own_bytes(ledger, *found, size)
        return BlobOutcome(self.items[at].blob.name, etag, length, ledger, result.failed, hours, size)

    def given_up(self) -> list[FlowlensError]:
        """Why accounts can't be read from here."""
        return [*self._refused.values(), *self._reader.broken()]

    def again(self) -> dict[str, int]:
        """How many requests were tried again, by what came of the try before."""
        return self._reader.again.counts()

    def close(self) -> None:
        self._reader.close()


@lru_cache(8)
def connected(_run: str, location: Location, access: Access) -> Account:
    """The account, signed in to here; kept for a run, since an executor's process serves many tasks and a sign-in takes seconds."""
    return connect(location, access)


def _unconnected(location: Location) -> Account:
    """What blobs are named by where nobody could sign in."""
    nobody: Any = None
    return Account(location, nobody, nobody, "", "", (), 0.0)


def _refuse(error: FlowlensError) -> NoReturn:
    raise SourceError(error.where, error.problem, hint=error.hint)


def _batches(piece: pl.DataFrame, task: int, attempt: int) -> list[pa.RecordBatch]:
    rows = piece.to_arrow().cast(schema.CONVERSATIONS)
    head = [
        pa.repeat(pa.scalar(task, pa.int32()), rows.num_rows),
        pa.repeat(pa.scalar(attempt, pa.int64()), rows.num_rows),
        pa.nulls(rows.num_rows, pa.string()),
    ]
    whole = pa.Table.from_arrays([*head, *rows.columns], schema=OUTPUT)
    batches: list[pa.RecordBatch] = whole.combine_chunks().to_batches()
    return batches


def _stream(frame: pl.DataFrame) -> bytes:
    table = frame.to_arrow()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
