"""Of several attempts of a task that left rows one counts. Runs with ``make spark``."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from flowlens import conversations, spark_tasks
from flowlens.distributed import attempts, merged, spark_scan
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER
from tests.spark.conftest import Put
from tests.spark.test_cluster import END, START


def test_rows_of_a_second_attempt_double_nothing(
    spark: SparkSession, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They lie beside those of the first, whole or not."""
    write_day(tmp_path, 5, nics=6, hours=12)
    there = stored(tmp_path / CONTAINER)
    monkeypatch.setattr(spark_tasks, "LEAST_TASK_BYTES", 1 << 20)
    far = spark_scan(spark, there.url, access=there.access, start=START, end=END)
    assert far.ledger.balanced
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
