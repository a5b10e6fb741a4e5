"""The same scan on a Spark cluster: the driver lists, executors read, Spark merges.

Executors run the decoder and the rollup of one machine (`flowlens.spark_tasks`). What they give is written once to a scratch folder
as Parquet, and everything else is derived from that: a second action on the rows would read the account again, and counters of tasks
that were tried twice would count twice. Of each task one attempt counts, the first that is there with all its rows.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import polars as pl

from flowlens import conversations, schema
from flowlens.evidence import COUNTS, Scan
from flowlens.gathering import Gathered
from flowlens.inventory import Networks
from flowlens.pieces import Pieces
from flowlens.scanning import Run, scan
from flowlens.scope import Scope
from flowlens.selecting import Plan, Progress, Selected
from flowlens.sources.accounts import Access, Location
from flowlens.sources.ranges import BLOB_REQUESTS
from flowlens.sources.refusals import Again, declared
from flowlens.sources.stored_blobs import StoredBlob
from flowlens.spark_sessions import (
    check_master,
    cores_of,
    followed,
    is_here,
    on_executor,
    session,
    spark_errors,
    tries_of,
)
from flowlens.spark_tasks import (
    BLOB_BYTES,
    OUTPUT,
    BlobOutcome,
    Job,
    Outcome,
    joined,
    listed,
    pack,
    parts_of,
    read_tasks,
    shares,
)
from flowlens.spark_views import PART, FarRolled, ddl, part_of_pair
from flowlens.views import LocalRolled, Rolled

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PART_ROWS = 250_000
"""Conversations that the driver takes over at a time, or an executor works on."""
DRIVER_ROWS = 20_000_000
"""From so many conversations on they stay on the cluster with all that is asked of them. Below, some ten jobs cost more than they save."""


class SparkScan(Scan):
    """A Scan whose blobs a Spark cluster reads; every analysis takes it as it is.

    ``spark_conversations`` and ``spark_blobs`` are the same evidence as Spark DataFrames, for whoever goes on in Spark. Only ``flows``,
    which decodes anew, runs on the driver alone.
    """

    def __init__(self, local: Scan, cluster: _Cluster) -> None:
        super().__init__(
            read=lambda: local.evidence,
            flows=lambda: local.flows,
            window=local.window,
            changed_at=local.changed_at,
            write_flows=local.write_flows,
        )
        self.settings = local.settings
        self._cluster = cluster

    @property
    def spark_conversations(self) -> DataFrame:
        """CONVERSATIONS of all blobs, each key once, in the order of the keys."""
        assert self.evidence
        from pyspark.sql import functions as sf

        order = [sf.col(key).asc_nulls_last() for key in conversations.KEYS]
        return merged(self._cluster.rows()).orderBy(*order)

    @property
    def spark_blobs(self) -> DataFrame:
        """One row per blob: ``blob``, ``etag`` and ``length`` of the version that was read, ``failed``, and the counts of the ledger."""
        assert self.evidence
        return _blobs(self._cluster.rows())


def spark_scan(
    spark: SparkSession,
    *sources: str | os.PathLike[str],
    scratch: str | None = None,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    changed_at: dt.datetime | None = None,
    inventory_file: str | os.PathLike[str] | None = None,
    networks: Networks | None = None,
    scope: Scope | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    access: Access | None = None,
    now: dt.datetime | None = None,
    driver_rows: int = DRIVER_ROWS,
) -> SparkScan:
    """A Scan whose blobs the executors of the session ``spark`` read; nothing is read before a result is asked for.

    ``sources`` are containers of storage accounts, or files that driver and executors see under the same path. The driver lists them and
    holds the answers, executors read; both sign in by themselves as ``access`` says, since no credential travels: what stands in
    an environment variable must stand there on the workers too. ``scratch`` is a folder that driver and executors share, in which a
    folder is made for the run (and left there); where all run on one machine it may be left out. From ``driver_rows`` conversations
    on executors do what the analyses ask for too, and the driver holds their answers alone. Everything else is as in `scan`.

    Raises ConfigError for sources that Spark does not read here and where there is no scratch, SourceError where the job fails or no
    executor can read the account, and what `scan` raises.

    >>> source = "https://contoso.blob.core.windows.net/insights-logs-flowlogflowevent"
    >>> scan = spark_scan(spark, source, access=Access("managed-identity"), scratch="dbfs:/tmp")  # doctest: +SKIP
    """
    cluster = _Cluster(spark, scratch, driver_rows)
    local = scan(
        *sources,
        start=start,
        end=end,
        changed_at=changed_at,
        inventory_file=inventory_file,
        networks=networks,
        scope=scope,
        strict=strict,
        progress=progress,
        access=access,
        now=now,
        run=cluster.run,
    )
    local.settings["engine"] = "spark"
    return SparkScan(local, cluster)


def run_on(master: str, scratch: str | None, driver_rows: int = DRIVER_ROWS) -> Run:
    """What reads for `scan` on a session of its own, which ends as soon as all is read, or else with what stays on the cluster.

    Raises ConfigError or SourceError where no session can be had, see `check_master`.
    """
    check_master(master)

    def run(plan: Plan, selected: Selected, store: Pieces, folder: Path) -> tuple[Gathered, Rolled]:
        with ExitStack() as own:
            cluster = _Cluster(own.enter_context(session(master)), scratch, driver_rows)
            gathered, rolled = cluster.run(plan, selected, store, folder)
            if isinstance(rolled, FarRolled):
                weakref.finalize(cluster, own.pop_all().close)
            return gathered, rolled

    return run


class _Cluster:
    """A session, and the folder in which one run keeps what its tasks gave."""

    def __init__(self, spark: SparkSession, scratch: str | None, driver_rows: int) -> None:
        self._spark = spark
        self._scratch = scratch
        self._driver_rows = driver_rows
        self._where = f"Spark {spark.version}"
        self._folder = ""
        self._dropped: list[int] = []
        self._joined: dict[str, BlobOutcome] = {}
        self.seconds: dict[str, float] = {}

    def run(self, plan: Plan, selected: Selected, store: Pieces, _folder: Path) -> tuple[Gathered, Rolled]:
        """All blobs read by the executors; see `flowlens.scanning.Run`."""
        _check_selected(selected)
        job = _job_of(plan, selected, self._spark)
        self._folder = self._new_folder()
        gathered = Gathered()
        if not job.tasks:
            return gathered, LocalRolled(store)
        times = [time.perf_counter()]
        # Nothing is read here.
        selected.close()
        with spark_errors(self._where):
            self._read(job, plan, selected)
            expected = self._settle(job, plan, selected)
            times.append(time.perf_counter())
            rows = self._gather(expected, gathered)
            times.append(time.perf_counter())
            rolled = self._kept(rows) if rows >= max(1, self._driver_rows) else self._taken_over(rows, store)
            times.append(time.perf_counter())
        spans = (after - before for before, after in pairwise(times))
        self.seconds = dict(zip(("read", "ledger", "merge"), spans, strict=True))
        return gathered, rolled

    def rows(self) -> DataFrame:
        """What the tasks gave, of each task one attempt."""
        from pyspark.sql import functions as sf

        rows = self._spark.read.schema(ddl(OUTPUT)).parquet(f"{self._folder}/rows")
        return rows.filter(~sf.col("attempt").isin(self._dropped)) if self._dropped else rows

    def _new_folder(self) -> str:
        name = f"flowlens-{uuid4().hex}"
        if self._scratch is not None:
            return f"{self._scratch.rstrip('/')}/{name}"
        if not is_here(str(self._spark.conf.get("spark.master", ""))):
            raise declared("FL-C10", self._where)
        folder = Path(tempfile.gettempdir()) / name
        folder.mkdir(mode=0o700)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder.as_uri()

    def _read(self, job: Job, plan: Plan, selected: Selected) -> None:
        """The one pass over the account."""
        count = len(job.tasks)
        numbers = self._spark.range(0, count, 1, count)
        rows = numbers.mapInArrow(partial(read_tasks, job), ddl(OUTPUT))
        with followed(self._spark, plan.progress, count, len(selected.items), selected.bytes):
            rows.write.mode("append").parquet(f"{self._folder}/rows")

    def _settle(self, job: Job, plan: Plan, selected: Selected) -> int:
        """Blobs that were read in parts become one, or are read again as one; how many tasks count in the end."""
        blobs = {number: job.blobs_of(at)[0] for at, (number, _) in enumerate(job.tasks)}
        cut = {number: blob for number, blob in blobs.items() if blob.span is not None}
        if not cut:
            return len(job.tasks)
        parts: dict[str, list[tuple[int, int, Outcome]]] = {}
        for task, attempt, outcome in attempts(self.rows()):
            if task in cut and outcome is not None:
                parts.setdefault(outcome.blobs[0].blob, []).append((task, attempt, outcome))
        expected, again = len(job.tasks), []
        for name, read in parts.items():
            if (whole := joined([outcome for _, _, outcome in read])) is not None:
                self._joined[name] = whole
                continue
            self._dropped += [attempt for _, attempt, _ in read]
            first = read[0][0]
            again.append((first + 1, pack([msgspec.structs.replace(cut[first], span=None)])))
            expected += 1 - len(read)
        if again:
            self._read(replace(job, tasks=tuple(again)), plan, selected)
        return expected

    def _gather(self, expected: int, gathered: Gathered) -> int:
        """Take what became of all blobs, in their order, and find the attempt of each task that counts; how many rows there are."""
        done = rows = 0
        given_up: dict[tuple[str, str, str], None] = {}
        again: Counter[str] = Counter()
        waiting = dict(self._joined)
        for _, attempt, outcome in attempts(self.rows()):
            if outcome is None:
                self._dropped.append(attempt)
                continue
            done += 1
            rows += outcome.rows
            given_up.update(dict.fromkeys(outcome.given_up))
            again.update(outcome.again)
            if outcome.blobs[0].blob not in self._joined:
                gathered.take(outcome.results())
            elif whole := waiting.pop(outcome.blobs[0].blob, None):
                gathered.take([whole.result()])
        if done < expected:
            missing = expected - done
            raise declared(
                "FL-C11", self._where, f"{missing} of {expected} tasks left no whole result in the scratch folder"
            )
        ledger = gathered.ledger
        if given_up and ledger.unread == ledger.blobs:
            raise on_executor(*next(iter(given_up)))
        notes = [f"executors gave an account up: {where}: {problem} ({hint})" for where, problem, hint in given_up]
        notes += Again(again).told(BLOB_REQUESTS)
        gathered.ledger = replace(ledger, notes=(*notes, *ledger.notes))
        return rows

    def _taken_over(self, rows: int, store: Pieces) -> Rolled:
        """The merged conversations in ``store``, to which they go a part at a time."""
        from pyspark.sql import functions as sf

        parts = max(1, -(-rows // PART_ROWS))
        if parts == 1:
            store.add(_taken(merged(self.rows())))
            return LocalRolled(store)
        kept = self._merged(parts)
        for number in range(parts):
            store.add(_taken(kept.filter(sf.col(PART) == number)))
        return LocalRolled(store)

    def _kept(self, rows: int) -> Rolled:
        """The merged conversations where they are."""
        parts = max(1, -(-rows // PART_ROWS))
        return FarRolled(self._merged(parts), parts, self._folder, self)

    def _merged(self, parts: int) -> DataFrame:
        """The merged conversations in parts, written once."""
        whole = merged(self.rows()).withColumn(PART, part_of_pair(parts))
        whole.write.partitionBy(PART).parquet(f"{self._folder}/merged")
        kind = f"{ddl(schema.CONVERSATIONS)}, {PART} int"
        return self._spark.read.schema(kind).parquet(f"{self._folder}/merged")


def attempts(rows: DataFrame) -> Iterator[tuple[int, int, Outcome | None]]:
    """Each attempt that left rows, by task, with its number and its outcome; None for one that does not count.

    Spark lets one attempt of a task commit what it wrote. Whatever a store makes of that, here the first one counts that is there
    with as many rows as it says.
    """
    from pyspark.sql import functions as sf

    told = (
        rows.groupBy("task", "attempt")
        .agg(sf.count(sf.when(sf.col("outcome").isNull(), 1)).alias("rows"), sf.max("outcome").alias("outcome"))
        .coalesce(1)
        .sortWithinPartitions("task", "attempt")
    )
    done = -1
    for task, attempt, count, text in told.toLocalIterator():
        outcome = Outcome.parse(text) if text is not None and task != done else None
        if outcome is not None and outcome.rows != count:
            outcome = None
        if outcome is not None:
            done = task
        yield task, attempt, outcome


def merged(rows: DataFrame) -> DataFrame:
    """CONVERSATIONS of what tasks gave: equal keys become one row, by the law of `flowlens.conversations.merge`."""
    from pyspark.sql import functions as sf

    # A sum that no column can hold is null, as whatever is not known.
    measures = [
        *(sf.try_sum(name).alias(name) for name in conversations.SUMS),
        *(sf.min(name).alias(name) for name in conversations.MINS),
        *(sf.max(name).alias(name) for name in conversations.MAXS),
    ]
    return (
        rows.filter(sf.col("outcome").isNull())
        .groupBy(*conversations.KEYS)
        .agg(*measures)
        .select(*conversations.COLUMNS)
    )


def _blobs(rows: DataFrame) -> DataFrame:
    from pyspark.sql import functions as sf

    counts = ", ".join(f"`{name}`: bigint" for name in COUNTS)
    blob = f"struct<blob: string, etag: string, length: bigint, failed: boolean, ledger: struct<{counts}>>"
    told = sf.from_json("outcome", f"blobs array<{blob}>")
    each = rows.filter(sf.col("outcome").isNotNull()).select(sf.explode(told.blobs).alias("b"))
    # A blob that was read in parts has several.
    sums = [(sf.max if name == "blobs" else sf.sum)(f"b.ledger.{name}").alias(name) for name in COUNTS]
    names = [sf.col(f"b.{name}").alias(name) for name in ("blob", "etag", "length")]
    return each.groupBy(*names).agg(sf.max("b.failed").alias("failed"), *sums).orderBy("blob")


def _taken(rows: DataFrame) -> pl.DataFrame:
    table = rows.select(*conversations.COLUMNS).toArrow().cast(schema.CONVERSATIONS)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.cast(conversations.SCHEMA)


def _check_selected(selected: Selected) -> None:
    for what, others in (
        ("a workspace", selected.workspaces),
        ("a lake or Parquet", selected.kept),
        ("an export of Traffic Analytics", selected.exports and not selected.flow_logs),
    ):
        if others:
            raise declared("FL-C09", "--engine spark", what)


def _job_of(plan: Plan, selected: Selected, spark: SparkSession) -> Job:
    """The work of a run, without secrets."""
    numbers: dict[int, int] = {}
    places: list[tuple[Location, Access]] = []
    for item in selected.flow_logs:
        if isinstance(item.blob, StoredBlob) and id(item.blob.account) not in numbers:
            account = item.blob.account
            if account.location.sas:
                raise declared("FL-C08", str(account.location))
            numbers[id(account)] = len(places)
            places.append((account.location, plan.access))
    total = sum(item.blob.size + BLOB_BYTES for item in selected.flow_logs)
    blobs = chain.from_iterable(map(parts_of, listed(selected.flow_logs, numbers)))
    tasks = shares(blobs, total, cores_of(spark))
    return Job(
        version("flowlens"),
        plan.window,
        plan.changed_at,
        plan.strict,
        tuple(places),
        # Even numbers, so that a blob that is read again finds its place in the order.
        tuple((2 * at, pack(task)) for at, task in enumerate(tasks)),
        tries_of(spark),
        uuid4().hex,
    )
