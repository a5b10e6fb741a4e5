"""A sync from a storage account, and a lake in one: a real blob server, with commits and faults between its requests."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

import flowlens as fl
from flowlens.errors import SourceError
from flowlens.lake.care import status
from flowlens.lake.syncing import Sync
from flowlens.sources.accounts import Access
from flowlens.sources.delta import Lake, open_lake
from flowlens.sources.lake_places import LakePlace, locate_lake
from flowlens.sources.stores import stores
from flowlens.spark_lake import far_by
from tests.faults.azurite import ACCOUNT, KEY
from tests.faults.conftest import Stored, options, own_environment
from tests.faults.proxies import SERVER_BUSY, Request, always, fault_proxy, mixed
from tests.faults.writer import GrowingBlob, expected_rows
from tests.test_spark_lake import twice

LONG = bool(os.environ.get("LAKE_LONG"))
HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
OPEN, CLOSED = HOUR + dt.timedelta(minutes=30), HOUR + dt.timedelta(days=1)
TUPLES = 5

pytestmark = pytest.mark.usefixtures("impatient")
# Nothing of the machine's identities and proxies reaches these tests.
__all__ = ["own_environment"]


class Clock:
    def __init__(self) -> None:
        self.now = OPEN

    def __call__(self) -> dt.datetime:
        return self.now


def opened(folder: Path) -> Lake:
    return open_lake(LakePlace(str(folder), folder), create=True)


def sync_of(url: str, folder: Path, clock: Clock) -> Sync:
    access = Access(auth="key", account_url=url.rpartition("/")[0], timeout=5)
    return Sync(stores([url], access), lambda: opened(folder), clock=clock, readers=4)


def rows(folder: Path) -> Counter[tuple[str, int]]:
    return Counter(opened(folder).scan_flows().select("dst_ip", "src_port").collect().iter_rows())


@pytest.mark.slow
def test_commits_between_block_list_and_range_tear_nothing(stored: Stored, tmp_path: Path) -> None:
    """Behind each block list the blob is committed once more, so that the range read is asked of a version that is gone."""
    commits = 1000 if LONG else 30
    done, left = 0, 2
    clock = Clock()
    blob = GrowingBlob(stored.client, tuples=1).create(1)
    with fault_proxy(stored.server.host) as proxy:

        def plan(request: Request) -> None:
            nonlocal done, left
            if request.is_read and left:
                done, left = done + 1, left - 1
                # More minutes than an hour has would be one record twice, so most commits change the ETag alone.
                blob.commit(int(done % 20 == 0 and blob.committed < 59))

        proxy.plan = plan
        sync = sync_of(stored.through(proxy.host), tmp_path / "lake", clock)
        polls = 0
        while done < commits:
            left = 2
            polled = sync.poll()
            polls += 1
            blob.commit(0)
            assert not polled.replaced and polled.ledger.complete
        proxy.plan = lambda _request: None
        clock.now = CLOSED
        sync.poll()
        reads = len(proxy.of(lambda request: request.is_read))
    assert done >= commits
    assert rows(tmp_path / "lake") == expected_rows(range(blob.committed), 1)
    assert reads <= 4 * (polls + 1), "a blob is read at most three times in a poll"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10 if LONG else 1))
def test_a_tenth_of_all_requests_fails_and_nothing_is_lost_or_doubled(
    stored: Stored, tmp_path: Path, seed: int
) -> None:
    clock = Clock()
    blobs = [GrowingBlob(stored.client, mac=f"0000000000{n:02X}", tuples=TUPLES).create(1) for n in range(6)]
    with fault_proxy(stored.server.host) as proxy:
        sync = sync_of(stored.through(proxy.host), tmp_path / "lake", clock)
        for number in range(40 if LONG else 5):
            proxy.plan = mixed(seed * 1000 + number, 0.1)
            for blob in blobs:
                if blob.committed < 59:
                    blob.commit()
            sync.poll()
        proxy.plan = always(SERVER_BUSY)
        with pytest.raises(SourceError, match="FL-S"):
            sync.poll()
        proxy.plan = lambda _request: None
        clock.now = CLOSED
        assert sync.poll().unread == 0
    expected = Counter(
        {row: count * len(blobs) for row, count in expected_rows(range(blobs[0].committed), TUPLES).items()}
    )
    assert rows(tmp_path / "lake") == expected
    assert status(opened(tmp_path / "lake")).days["balanced"].all()


@pytest.mark.slow
def test_an_hour_of_polls_downloads_little_more_than_the_blobs_hold(stored: Stored, tmp_path: Path) -> None:
    clock = Clock()
    blob = GrowingBlob(stored.client, tuples=60).create(0)
    sync = sync_of(stored.url, tmp_path / "lake", clock)
    downloaded = 0
    for _ in range(59 if LONG else 8):
        blob.commit()
        downloaded += sync.poll().bytes
        downloaded += sync.poll().bytes
    clock.now = CLOSED
    downloaded += sync.poll().bytes
    size = stored.client.get_blob_client(blob.name).get_blob_properties().size
    assert downloaded <= 1.05 * size
    assert rows(tmp_path / "lake") == expected_rows(range(blob.committed), 60)


def test_a_blob_that_is_deleted_and_written_anew_takes_the_place_of_the_former(stored: Stored, tmp_path: Path) -> None:
    clock = Clock()
    blob = GrowingBlob(stored.client, tuples=TUPLES).create(4)
    sync = sync_of(stored.url, tmp_path / "lake", clock)
    sync.poll()
    # The server keeps the time of creation by the second.
    time.sleep(1.1)
    blob.replace_with(range(20, 22))
    assert sync.poll().replaced == 1
    assert rows(tmp_path / "lake") == expected_rows(range(20, 22), TUPLES)
    blob.amend(30)
    assert sync.poll().replaced == 1
    assert rows(tmp_path / "lake") == expected_rows((30, 21), TUPLES)


def test_a_lake_in_an_account_is_written_and_read(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWLENS_LAKE_KEY", KEY)
    monkeypatch.setenv("FLOWLENS_LAKE_ENDPOINT", stored.server.account_url)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sig=not-for-the-lake")
    stored.server.container("lakes")
    address = f"abfss://lakes@{ACCOUNT}.dfs.core.windows.net/{tmp_path.name}"
    clock = Clock()
    blob = GrowingBlob(stored.client, tuples=TUPLES).create(3)
    access = Access(auth="key", account_url=stored.url.rpartition("/")[0], timeout=5)

    def opened_there() -> Lake:
        return open_lake(locate_lake(address, Access()), create=True)

    sync = Sync(stores([stored.url], access), opened_there, clock=clock)
    sync.poll()
    blob.commit(2)
    sync.poll()
    clock.now = CLOSED
    sync.poll()
    scan = fl.scan(address, start=HOUR, end=HOUR + dt.timedelta(hours=1), now=CLOSED)
    assert scan.ledger.rows == 5 * TUPLES and scan.ledger.complete
    found = Counter(scan.flows.select("dst_ip", "src_port").collect().iter_rows())
    assert found == expected_rows(range(5), TUPLES)
    assert scan.coverage.filter(pl.col("state") == "read").height == 1


def test_attempts_elsewhere_leave_nothing_and_what_they_tried_again_is_told(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWLENS_LAKE_KEY", KEY)
    monkeypatch.setenv("FLOWLENS_LAKE_ENDPOINT", stored.server.account_url)
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    lakes = stored.server.container("lakes")
    address = f"abfss://lakes@{ACCOUNT}.dfs.core.windows.net/{tmp_path.name}"
    GrowingBlob(stored.client, tuples=TUPLES).create(3)
    with fault_proxy(stored.server.host) as proxy:
        # Either attempt at the task meets it once.
        proxy.plan = always(SERVER_BUSY, lambda request: request.is_read and request.attempt in (0, 2))
        url = stored.through(proxy.host)
        access = Access(auth="key", account_url=url.rpartition("/")[0], timeout=5)
        sync = Sync(
            stores([url], access),
            lambda: open_lake(locate_lake(address, Access()), create=True),
            far=far_by(twice, address, access, Access(), cores=1, tries=4),
        )
        polled = sync.poll()
        sync.close()
    assert proxy.struck.total() == 2
    assert "requests for blobs that were tried again: 1 (503 1)" in polled.notes
    assert "removed 2 file(s) of attempts that do not count" in polled.notes
    there = {each.rpartition("/")[2] for each in lakes.list_blob_names(name_starts_with=tmp_path.name)}
    found = open_lake(locate_lake(address, Access()))
    named = {uri.rpartition("/")[2] for table in (found.flows, found.ledger) for uri in table.file_uris()}
    assert {name for name in there if name.endswith(".parquet")} == named
    assert found.scan_flows().collect().height == 3 * TUPLES


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_following_within_ten_seconds_and_leaves_a_whole_lake(
    stored: Stored, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    hour = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
    GrowingBlob(stored.client, hour=hour, tuples=TUPLES).create(3)
    line = [sys.executable, "-m", "flowlens", "sync", stored.url, str(tmp_path / "lake"), "--follow"]
    process = subprocess.Popen([*line, *options(stored.url)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "1 of 1 blob read, 15 rows from 3 records" in said
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    assert time.monotonic() - began < 10
    assert process.stderr.read().strip() == "stopped"
    process.stderr.close()
    assert rows(tmp_path / "lake") == expected_rows(range(3), TUPLES)


def test_a_lake_that_may_not_be_written_is_told_in_words(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "AAAA" + KEY[4:]
    monkeypatch.setenv("FLOWLENS_LAKE_KEY", secret)
    monkeypatch.setenv("FLOWLENS_LAKE_ENDPOINT", stored.server.account_url)
    stored.server.container("lakes")
    with pytest.raises(SourceError, match="the lake could not be opened") as told:
        open_lake(locate_lake(f"abfss://lakes@{ACCOUNT}.dfs.core.windows.net/x", Access()), create=True)
    assert secret not in str(told.value) and KEY not in str(told.value)
