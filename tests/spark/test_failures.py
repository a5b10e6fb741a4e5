"""Two thousand blobs while machines and the network fail: the same totals, and a ledger that adds up. Runs with ``make spark``."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flowlens.distributed import spark_scan
from flowlens.lake.syncing import Sync
from flowlens.scanning import scan
from flowlens.sources.accounts import Access
from flowlens.sources.delta import open_lake
from flowlens.sources.lake_places import LakePlace
from flowlens.sources.stores import stores
from flowlens.spark_lake import spark_sync
from tests.faults.azurite import KEY
from tests.faults.day import write_day
from tests.faults.proxies import FaultProxy, fault_proxy, mixed
from tests.flow_logs import CONTAINER, SAMPLE
from tests.spark.cluster import Cluster, java, running
from tests.spark.conftest import Stored, session_on
from tests.spark.test_cluster import assert_same
from tests.test_spark_lake import assert_same as assert_same_lake
from tests.test_spark_lake import files, opened

pytestmark = pytest.mark.slow

SEED = 11
NICS, HOURS = 84, 24
START = dt.datetime(2026, 6, 15, 0, 30, tzinfo=dt.UTC)
END = dt.datetime(2026, 6, 16, tzinfo=dt.UTC)
SPECULATION = {
    "spark__speculation": "true",
    "spark__speculation__multiplier": "1.1",
    "spark__speculation__quantile": "0.3",
    "spark__speculation__minTaskRuntime": "1s",
    "spark__speculation__interval": "200ms",
}


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A day of 84 NICs, 2,015 blobs, one of them gzip, one cut off, one with a tuple that is none."""
    folder = tmp_path_factory.mktemp("day")
    assert write_day(folder, SEED, nics=NICS, hours=HOURS) == NICS * HOURS - 1
    return folder / CONTAINER


def struck(cluster: Cluster, proxy: FaultProxy) -> tuple[list[int], threading.Thread]:
    """Kills a worker and its executors in the middle of reading: a third of the blobs have been asked for."""
    died: list[int] = []

    def strike() -> None:
        while len(proxy.of(lambda request: request.is_read)) < NICS * HOURS // 3:
            time.sleep(0.05)
        worker = cluster.workers[0]
        died.extend([*cluster.executors_of(worker), worker.pid])
        for pid in died:
            os.kill(pid, signal.SIGKILL)

    striking = threading.Thread(target=strike, daemon=True)
    striking.start()
    return died, striking


@pytest.mark.parametrize("kill", [False, True], ids=["faults and speculation", "a worker and its executor die too"])
def test_nothing_is_lost_or_doubled(kill: bool, day: Path, stored: Callable[[Path], Stored]) -> None:
    there = stored(day)
    print(f"seed {SEED}")
    with (
        running(environment={"AZURE_STORAGE_KEY": KEY}) as cluster,
        fault_proxy(there.server.host, mixed(SEED, 0.05)) as proxy,
        session_on(cluster, **SPECULATION) as spark,
    ):
        url = there.url.replace(there.server.host, proxy.host)
        access = Access(auth="key", account_url=url.rpartition("/")[0], timeout=5)
        far = spark_scan(spark, url, access=access, start=START, end=END)
        died, striking = struck(cluster, proxy) if kill else ([], None)
        ledger = far.ledger
        assert ledger.balanced and ledger.blobs == NICS * HOURS - 1 and not ledger.unread
        assert proxy.struck.total() > NICS * HOURS // 25
        assert any(note.startswith("requests for blobs that were tried again: ") for note in ledger.notes)
        here = scan(there.url, access=there.access, start=START, end=END, threads=1)
        assert_same(far, here)
        if striking is not None:
            striking.join(1)
            assert len(died) >= 2 and cluster.workers[0].poll() is not None
            # What the dead executor had in hand was read again, beside what was asked for once more after a fault.
            assert len(proxy.of(lambda request: request.is_read)) > ledger.blobs + proxy.struck.total()


def test_a_lake_is_whole_and_holds_nothing_twice(day: Path, stored: Callable[[Path], Stored], tmp_path: Path) -> None:
    """The same faults, speculation, and a worker that dies with its executor while tasks write."""
    there = stored(day)
    print(f"seed {SEED}")
    with (
        running(environment={"AZURE_STORAGE_KEY": KEY}) as cluster,
        fault_proxy(there.server.host, mixed(SEED, 0.05)) as proxy,
        session_on(cluster, **SPECULATION) as spark,
    ):
        url = there.url.replace(there.server.host, proxy.host)
        access = Access(auth="key", account_url=url.rpartition("/")[0], timeout=5)
        died, striking = struck(cluster, proxy)
        polled = spark_sync(spark, url, lake=str(tmp_path / "far"), access=access)
        striking.join(1)
        assert len(died) >= 2 and cluster.workers[0].poll() is not None
    assert (polled.read, polled.unread) == (NICS * HOURS - 1, 0)
    assert any(note.startswith("requests for blobs that were tried again: ") for note in polled.notes)
    far, here = opened(tmp_path / "far"), LakePlace("here", tmp_path / "here")
    local = Sync(stores([there.url], there.access), lambda: open_lake(here, create=True))
    local.poll()
    local.close()
    assert_same_lake(far, open_lake(here))
    named = {uri.rpartition("/")[2] for table in (far.flows, far.ledger) for uri in table.file_uris()}
    left = files(tmp_path / "far") - named
    # A task that Spark gave up may write to its end all the same; that goes with vacuum.
    assert len(left) <= 4, polled.notes


def test_an_interrupt_ends_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PATH": str(Path(java()).parent)}
    command = [
        sys.executable,
        "-m",
        "flowlens",
        "analyze",
        SAMPLE / CONTAINER,
        "--engine",
        "spark",
        "--master",
        "local[1]",
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + 120
        # The folder of the run is there: the session is, and its job begins.
        while not [path for path in tmp_path.iterdir() if re.fullmatch("flowlens-[0-9a-f]{32}", path.name)]:
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (130, b"", b"stopped\n")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("flowlens-")] == []
