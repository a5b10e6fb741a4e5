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
from flowlens.scanning import scan
from flowlens.sources.accounts import Access
from tests.faults.azurite import KEY
from tests.faults.day import write_day
from tests.faults.proxies import fault_proxy, mixed
from tests.flow_logs import CONTAINER, SAMPLE
from tests.spark.cluster import java, running
from tests.spark.conftest import Stored, session_on
from tests.spark.test_cluster import assert_same

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
        died: list[int] = []

        def strike() -> None:
            """In the middle of reading: a third of the blobs have been asked for."""
            while len(proxy.of(lambda request: request.is_read)) < NICS * HOURS // 3:
                time.sleep(0.05)
            worker = cluster.workers[0]
            died.extend([*cluster.executors_of(worker), worker.pid])
            for pid in died:
                os.kill(pid, signal.SIGKILL)

        striking = threading.Thread(target=strike, daemon=True)
        if kill:
            striking.start()
        ledger = far.ledger
        assert ledger.balanced and ledger.blobs == NICS * HOURS - 1 and not ledger.unread
        assert proxy.struck.total() > NICS * HOURS // 25
        here = scan(there.url, access=there.access, start=START, end=END, threads=1)
        assert_same(far, here)
        if kill:
            striking.join(1)
            assert len(died) >= 2 and cluster.workers[0].poll() is not None
            # What the dead executor had in hand was read again, beside what was asked for once more after a fault.
            assert len(proxy.of(lambda request: request.is_read)) > ledger.blobs + proxy.struck.total()


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
