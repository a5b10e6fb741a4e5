"""A real cluster on loopback gives what one machine gives: findings, ledger and totals."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

import flowlens as fl
from flowlens import conversations, distributed, spark_tasks
from flowlens.distributed import attempts, spark_scan
from flowlens.evidence import Scan
from flowlens.lake.syncing import Sync
from flowlens.scanning import scan
from flowlens.sources.delta import open_lake
from flowlens.sources.lake_places import LakePlace, locate_lake
from flowlens.sources.stores import stores
from flowlens.spark_views import FarParts
from tests.faults.azurite import ACCOUNT
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER, SAMPLE
from tests.spark.conftest import Put, lake_variables
from tests.test_spark_lake import assert_same as assert_same_lake

pytestmark = pytest.mark.slow

START = dt.datetime(2026, 6, 15, 9, 20, tzinfo=dt.UTC)
END = dt.datetime(2026, 6, 15, 21, tzinfo=dt.UTC)


def assert_same(far: Scan, here: Scan) -> None:
    """Evidence and findings of two scans are equal, but for the settings and how often requests were tried again."""
    notes = tuple(
        note for note in far.ledger.notes if not note.startswith("requests for blobs that were tried again: ")
    )
    assert replace(far.ledger, notes=notes) == here.ledger
    assert conversations.merge(far.conversations.collect()).equals(conversations.merge(here.conversations.collect()))
    assert far.coverage.equals(here.coverage)
    assert far.inventory.equals(here.inventory)
    there, beside = fl.report(far), fl.report(here)
    assert there.findings == beside.findings
    assert there.verdicts == beside.verdicts
    assert {name: table.rows() for name, table in there.tables.items()} == {
        name: table.rows() for name, table in beside.tables.items()
    }


def test_a_day_with_blobs_that_are_wrong(
    spark: SparkSession, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_day(tmp_path, 5, nics=6, hours=12)
    # The largest blobs of the window are read in parts; one of them has no end, so it is read again in one.
    by_size = sorted(tmp_path.rglob("*.json"), key=lambda path: path.stat().st_size)
    by_size[-1].write_bytes(by_size[-1].read_bytes()[:-60])
    monkeypatch.setattr(spark_tasks, "TASK_BYTES", by_size[-5].stat().st_size)
    there = stored(tmp_path / CONTAINER)
    window: dict[str, Any] = {"start": START, "end": END, "changed_at": START + dt.timedelta(hours=3)}
    here = scan(there.url, access=there.access, threads=1, **window)
    far = spark_scan(spark, there.url, access=there.access, **window)
    assert_same(far, here)
    assert not far.ledger.complete and far.ledger.balanced
    tasks = [task for task, _, _ in attempts(far._cluster.rows())]
    assert len(tasks) > 3 and sum(task % 2 for task in tasks) == 1


def test_evidence_that_stays_on_the_cluster(spark: SparkSession, stored: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    there = stored(SAMPLE / CONTAINER)
    monkeypatch.setattr(distributed, "PART_ROWS", 200)
    window: dict[str, Any] = {"start": START, "end": END, "changed_at": START + dt.timedelta(hours=3)}
    far = spark_scan(spark, there.url, access=there.access, driver_rows=0, **window)
    assert isinstance(far.evidence.parts, FarParts)
    assert_same(far, scan(there.url, access=there.access, threads=1, **window))
    assert far.conversations.select("dst_ip").head(3).collect().height == 3


def test_a_cluster_makes_the_same_lake(
    spark: SparkSession, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_day(tmp_path / "day", 5, nics=6, hours=12)
    there = stored(tmp_path / "day" / CONTAINER)
    for name, value in lake_variables(there.server).items():
        monkeypatch.setenv(name, value)
    there.server.container("lakes")
    far, here = f"abfss://lakes@{ACCOUNT}.dfs.core.windows.net/{tmp_path.name}", LakePlace("here", tmp_path / "here")
    polled = fl.spark_sync(spark, there.url, lake=far, access=there.access)
    assert (polled.read, polled.closed, polled.unread) == (71, 71, 0)
    for place in (here, locate_lake(far, fl.Access())):
        local = Sync(stores([there.url], there.access), lambda at=place: open_lake(at, create=True))
        again = local.poll()
        local.close()
        assert again.read == (71 if place is here else 0)
    assert_same_lake(open_lake(locate_lake(far, fl.Access())), open_lake(here))
