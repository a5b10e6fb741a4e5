"""What a scan on a cluster gives as DataFrames, and that of several attempts of a task one counts. Runs with ``make spark``."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

import flowlens as fl
from flowlens import conversations, spark_tasks
from flowlens.distributed import SparkScan, attempts, merged, spark_scan
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER
from tests.spark.conftest import Put, Stored
from tests.spark.test_cluster import END, START

pytestmark = pytest.mark.slow


def assert_tables(far: SparkScan, there: Stored) -> None:
    """The DataFrames are the same evidence, and name the version of each blob that was read."""
    rows = far.spark_conversations.toArrow().cast(fl.schema.CONVERSATIONS)
    whole = conversations.merge(far.conversations.collect())
    assert whole.to_arrow().cast(fl.schema.CONVERSATIONS).equals(rows)
    blobs = far.spark_blobs.collect()
    listed = {f"{there.name}/{b.name}": (b.etag, b.size) for b in there.server.container(there.name).list_blobs()}
    assert len(blobs) == far.ledger.blobs
    assert all((blob.etag.strip('"'), blob.length) == listed[blob.blob] for blob in blobs)
    for name in ("tuples", "rows", "rejected", "bytes", "unread"):
        assert sum(blob[name] for blob in blobs) == getattr(far.ledger, name)


def test_rows_of_a_second_attempt_double_nothing(
    spark: SparkSession, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They lie beside those of the first, whole or not."""
    write_day(tmp_path, 5, nics=6, hours=12)
    there = stored(tmp_path / CONTAINER)
    monkeypatch.setattr(spark_tasks, "LEAST_TASK_BYTES", 1 << 20)
    far = spark_scan(spark, there.url, access=there.access, start=START, end=END)
    assert far.ledger.balanced
    assert_tables(far, there)
    rows = far._cluster.rows()
    # A part of a blob may hold no conversation at all; what cannot be lost is of no use here.
    busy = rows.filter(sf.col("outcome").isNull()).select("task").distinct()
    rows = rows.filter(sf.col("task").isin([row.task for row in busy.collect()]))
    wanted = merged(rows).orderBy(*conversations.KEYS).collect()
    again = rows.withColumn("attempt", sf.col("attempt") + 1_000_000)
    # An attempt that was cut off before its outcome, and one that lost a row, each before the one that counts.
    cut = rows.filter(sf.col("outcome").isNull()).withColumn("attempt", sf.col("attempt") - 1_000_000)
    short = rows.filter(sf.col("outcome").isNotNull()).withColumn("attempt", sf.col("attempt") - 2_000_000)
    both = again.unionByName(rows).unionByName(cut).unionByName(short)
    found = list(attempts(both))
    assert len(found) == 4 * len(list(attempts(rows)))
    counted = {attempt for _, attempt, outcome in found if outcome is not None}
    assert counted == {row.attempt for row in rows.select("attempt").distinct().collect()}
    assert merged(both.filter(sf.col("attempt").isin(list(counted)))).orderBy(*conversations.KEYS).collect() == wanted
