"""A lake that a real cluster fills is the one that a machine fills, and either goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest

import flowlens as fl
from flowlens.cli import DONE, INCOMPLETE
from flowlens.sources.delta import open_lake
from flowlens.sources.lake_places import LakePlace, locate_lake
from tests.faults.azurite import ACCOUNT
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER, run
from tests.spark.cluster import Cluster
from tests.spark.conftest import Put, lake_variables
from tests.test_spark_lake import assert_same


def test_sync_on_a_cluster_makes_the_same_lake(
    cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_day(tmp_path / "day", 5, nics=6, hours=12)
    there = stored(tmp_path / "day" / CONTAINER)
    for name, value in lake_variables(there.server).items():
        monkeypatch.setenv(name, value)
    there.server.container("lakes")
    far, here = f"abfss://lakes@{ACCOUNT}.dfs.core.windows.net/{tmp_path.name}", tmp_path / "here"
    monkeypatch.setenv("SPARK_CONF_DIR", str(cluster.write_defaults(tmp_path / "conf")))
    ran = run("sync", there.url, far, *there.options, "--engine", "spark", "--master", cluster.master)
    local = run("sync", there.url, str(here), *there.options)
    # Two of the blobs hold what is rejected.
    assert (ran.code, local.code) == (INCOMPLETE, INCOMPLETE), ran.err
    assert_same(open_lake(locate_lake(far, fl.Access())), open_lake(LakePlace("here", here)))
    again = run("sync", there.url, far, *there.options)
    assert again.code == DONE and "nothing new in 71 blobs" in again.err
