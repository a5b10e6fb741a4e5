"""The command line and a notebook on a cluster give what one machine gives. Runs with ``make spark``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

import flowlens as fl
from flowlens import distributed
from flowlens.cli import DONE, INCOMPLETE
from flowlens.errors import ConfigError, SourceError
from flowlens.sources.delta import open_lake
from flowlens.sources.lake_places import LakePlace
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER, SAMPLE, run
from tests.spark.cluster import Cluster
from tests.spark.conftest import Put, session_on
from tests.spark.test_cluster import END, START
from tests.test_spark_lake import assert_same

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "deploy" / "spark" / "flowlens.ipynb"
DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")
ONE_CORE = {"spark__cores__max": "1", "spark__task__maxFailures": "1"}


def analyzed(source: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of analyze and its JSON without the settings, which name the source."""
    ran = run("analyze", source, *arguments, "--format", "json")
    assert ran.stdout, ran.err
    document = ran.document
    del document["settings"]
    return ran.code, document


@pytest.mark.parametrize("driver_rows", [(), ("--driver-rows", "0")], ids=["driver", "executors"])
def test_analyze_gives_the_same_json_on_a_cluster(
    driver_rows: tuple[str, ...], cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = stored(SAMPLE / CONTAINER)
    monkeypatch.setenv("SPARK_CONF_DIR", str(cluster.write_defaults(tmp_path / "conf")))
    code, expected = analyzed(str(tmp_path / there.name), *DAY)
    assert code == DONE
    monkeypatch.setattr(distributed, "PART_ROWS", 100)
    spark = ("--engine", "spark", "--master", cluster.master, *driver_rows)
    assert analyzed(there.url, *DAY, *there.options, *spark) == (code, expected)


def test_sync_makes_the_same_lake_on_a_cluster(
    cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_day(tmp_path / "day", 5, nics=6, hours=12)
    there = stored(tmp_path / "day" / CONTAINER)
    monkeypatch.setenv("SPARK_CONF_DIR", str(cluster.write_defaults(tmp_path / "conf")))
    far, here = (LakePlace(name, tmp_path / name) for name in ("far", "here"))
    ran = run("sync", there.url, far.uri(), *there.options, "--engine", "spark", "--master", cluster.master)
    local = run("sync", there.url, here.uri(), *there.options)
    # Two of the blobs hold what is rejected.
    assert (ran.code, local.code) == (INCOMPLETE, INCOMPLETE), ran.err
    assert_same(open_lake(far), open_lake(here))
    assert "nothing new in 71 blobs" in run("sync", there.url, far.uri(), *there.options).err


def test_the_notebook_runs(cluster: Cluster, stored: Put, tmp_path: Path) -> None:
    """The notebook to paste, with its second cell as somebody fills it in here."""
    there = stored(SAMPLE / CONTAINER)
    scratch = tmp_path / "scratch"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}
    with session_on(cluster) as spark:
        names: dict[str, Any] = {"spark": spark}
        exec(code.pop("source"), names)
        names |= {"SOURCE": there.url, "START": START, "END": END, "ACCESS": there.access, "SCRATCH": str(scratch)}
        for source in code.values():
            exec(source, names)
        here = fl.report(fl.scan(there.url, access=there.access, start=START, end=END))
        assert names["report"].findings == here.findings
        assert names["by_rule"].count()
    # What a given scratch folder holds is the user's.
    (folder,) = scratch.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["rows"]


def test_a_token_in_the_address_stays_on_the_driver(cluster: Cluster, stored: Put, tmp_path: Path) -> None:
    """It would travel with the job."""
    there = stored(SAMPLE / CONTAINER)
    url = f"{there.url}?{there.server.sas(there.name)}"
    access = fl.Access(account_url=there.server.account_url)
    with session_on(cluster) as spark:
        with pytest.raises(ConfigError, match="FL-C08"):
            _ = fl.spark_scan(spark, url, access=access, start=START, end=END).ledger
        with pytest.raises(ConfigError, match="FL-C08"):
            fl.spark_sync(spark, url, lake=str(tmp_path / "lake"), access=access, start=START, end=END)


def test_executors_that_cannot_read_the_account(cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    there = stored(SAMPLE / CONTAINER)
    # Here alone, not where the executors run, which in turn are sent to a proxy that is not there.
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", there.server.sas(there.name))
    by_token = fl.Access(auth="sas", account_url=there.server.account_url)
    with session_on(cluster, **ONE_CORE, spark__executorEnv__HTTP_PROXY="http://127.0.0.1:9") as spark:
        with pytest.raises(
            SourceError, match=r"FL-C07 no executor can sign in .*: FL-S03 AZURE_STORAGE_SAS_TOKEN is not"
        ):
            _ = fl.spark_scan(spark, there.url, access=by_token, start=START, end=END).ledger
        with pytest.raises(SourceError, match="FL-C06 no executor can reach the account: FL-S21"):
            _ = fl.spark_scan(spark, there.url, access=there.access, start=START, end=END).ledger
