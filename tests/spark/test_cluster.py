"""A real cluster on loopback gives what one machine gives: findings, ledger and totals."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import nbformat
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

import flowlens as fl
from flowlens import conversations, distributed, spark_sessions, spark_tasks
from flowlens.cli import DONE
from flowlens.distributed import SparkScan, attempts, merged, spark_scan
from flowlens.errors import ConfigError, SourceError
from flowlens.evidence import Scan
from flowlens.scanning import scan
from tests.faults.azurite import KEY
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER, SAMPLE, run
from tests.spark.cluster import Cluster
from tests.spark.conftest import Put, Stored, session_on

START = dt.datetime(2026, 6, 15, 9, 20, tzinfo=dt.UTC)
END = dt.datetime(2026, 6, 15, 21, tzinfo=dt.UTC)
NOTEBOOK = Path(__file__).parents[2] / "deploy" / "spark" / "flowlens.ipynb"
ONE_CORE = {"spark__cores__max": "1", "spark__task__maxFailures": "1"}
DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")


def analyzed(source: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of analyze and its JSON without the settings, which name the source."""
    ran = run("analyze", source, *arguments, "--format", "json")
    assert ran.stdout, ran.err
    document = ran.document
    del document["settings"]
    return ran.code, document


def assert_same(far: Scan, here: Scan) -> None:
    """Evidence and findings of two scans are equal, but for the settings."""
    assert far.ledger == here.ledger
    assert conversations.merge(far.conversations.collect()).equals(conversations.merge(here.conversations.collect()))
    assert far.coverage.equals(here.coverage)
    assert far.inventory.equals(here.inventory)
    there, beside = fl.report(far), fl.report(here)
    assert there.findings == beside.findings
    assert there.verdicts == beside.verdicts
    assert {name: table.rows() for name, table in there.tables.items()} == {
        name: table.rows() for name, table in beside.tables.items()
    }


def test_analyze_gives_the_same_json_where_all_stays_on_a_cluster(
    cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = stored(SAMPLE / CONTAINER)
    monkeypatch.setenv("SPARK_CONF_DIR", str(cluster.write_defaults(tmp_path / "conf")))
    code, expected = analyzed(str(tmp_path / there.name), *DAY)
    assert code == DONE
    # Whatever there is stays there, in several parts.
    monkeypatch.setattr(distributed, "PART_ROWS", 100)
    spark = ("--engine", "spark", "--master", cluster.master, "--driver-rows", "0")
    assert analyzed(there.url, *DAY, *there.options, *spark) == (code, expected)


def test_a_day_with_blobs_that_are_wrong(
    cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_day(tmp_path, 5, nics=6, hours=12)
    # The largest blobs of the window are read in parts; one of them has no end, so it is read again in one.
    by_size = sorted(tmp_path.rglob("*.json"), key=lambda path: path.stat().st_size)
    by_size[-1].write_bytes(by_size[-1].read_bytes()[:-60])
    monkeypatch.setattr(spark_tasks, "TASK_BYTES", by_size[-5].stat().st_size)
    there = stored(tmp_path / CONTAINER)
    window: dict[str, Any] = {"start": START, "end": END, "changed_at": START + dt.timedelta(hours=3)}
    here = scan(there.url, access=there.access, threads=1, **window)
    with session_on(cluster) as spark:
        far = spark_scan(spark, there.url, access=there.access, **window)
        assert_same(far, here)
        assert not far.ledger.complete and far.ledger.balanced
        tasks = [task for task, _, _ in attempts(far._cluster.rows())]
        assert len(tasks) > 3 and sum(task % 2 for task in tasks) == 1
        assert_tables(far, there)
        assert_one_attempt_counts(far)
        assert_a_token_stays_on_the_driver(spark, there)
        assert_the_notebook_runs(spark, there, tmp_path / "scratch", far)


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


def assert_one_attempt_counts(far: SparkScan) -> None:
    """Rows that a second attempt left beside those of the first, whole or not, double nothing."""
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


def assert_a_token_stays_on_the_driver(spark: SparkSession, there: Stored) -> None:
    """A SAS token in the address would travel with the job."""
    url = f"{there.url}?{there.server.sas(there.name)}"
    access = fl.Access(account_url=there.server.account_url)
    with pytest.raises(ConfigError, match="FL-C08"):
        _ = spark_scan(spark, url, access=access, start=START, end=END).ledger


def assert_the_notebook_runs(spark: SparkSession, there: Stored, scratch: Path, far: SparkScan) -> None:
    """The notebook to paste, with its second cell as somebody fills it in here."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}
    names: dict[str, Any] = {"spark": spark}
    exec(code.pop("source"), names)
    names |= {"SOURCE": there.url, "START": START, "END": END, "ACCESS": there.access, "SCRATCH": str(scratch)}
    for source in code.values():
        exec(source, names)
    assert names["report"].findings == fl.report(far).findings
    assert names["by_rule"].count()
    # What a given scratch folder holds is the user's.
    (folder,) = scratch.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["rows"]


def test_executors_that_cannot_read_the_account(cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    there = stored(SAMPLE / CONTAINER)
    # Here alone, not where the executors run, which in turn are sent to a proxy that is not there.
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", there.server.sas(there.name))
    by_token = fl.Access(auth="sas", account_url=there.server.account_url)
    with session_on(cluster, **ONE_CORE, spark__executorEnv__HTTP_PROXY="http://127.0.0.1:9") as spark:
        with pytest.raises(
            SourceError, match=r"FL-C07 no executor can sign in .*: FL-S03 AZURE_STORAGE_SAS_TOKEN is not"
        ):
            _ = spark_scan(spark, there.url, access=by_token, start=START, end=END).ledger
        with pytest.raises(SourceError, match="FL-C06 no executor can reach the account: FL-S21"):
            _ = spark_scan(spark, there.url, access=there.access, start=START, end=END).ledger


def test_a_cluster_without_room(cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spark_sessions, "_EXECUTOR_SECONDS", 1.0)
    monkeypatch.setenv("SPARK_CONF_DIR", str(cluster.write_defaults(tmp_path / "conf", spark__executor__memory="9g")))
    there = stored(SAMPLE / CONTAINER)
    ran = run("analyze", there.url, *DAY, *there.options, "--engine", "spark", "--master", cluster.master)
    assert "FL-C04 the cluster gave no executor in 1 s" in ran.err


def test_nothing_that_a_cluster_wrote_holds_the_key(cluster: Cluster) -> None:
    written = [path for path in cluster.folder.rglob("*") if path.is_file() and path.suffix != ".jar"]
    assert [path for path in written if path.name == "stderr"], "executors have run"
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
