"""A cluster that has no room is told before it is waited for, and nothing that a cluster wrote holds a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowlens import spark_sessions
from tests.faults.azurite import KEY
from tests.flow_logs import CONTAINER, SAMPLE, run
from tests.spark.cluster import Cluster
from tests.spark.conftest import Put

pytestmark = pytest.mark.slow

DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")


def test_a_cluster_without_room(cluster: Cluster, stored: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spark_sessions, "_EXECUTOR_SECONDS", 1.0)
    monkeypatch.setenv("SPARK_CONF_DIR", str(cluster.write_defaults(tmp_path / "conf", spark__executor__memory="9g")))
    there = stored(SAMPLE / CONTAINER)
    ran = run("analyze", there.url, *DAY, *there.options, "--engine", "spark", "--master", cluster.master)
    assert "FL-C04 the cluster gave no executor in 1 s" in ran.err


def test_nothing_that_a_cluster_wrote_holds_the_key(cluster: Cluster) -> None:
    """Behind the tests of test_cluster.py on the same cluster."""
    written = [path for path in cluster.folder.rglob("*") if path.is_file() and path.suffix != ".jar"]
    assert [path for path in written if path.name == "stderr"], "executors have run"
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
