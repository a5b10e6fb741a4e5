"""A lake that tasks elsewhere write and a driver commits, without Spark: the same table as a sync of one machine makes."""

from __future__ import annotations

import datetime as dt
import pickle
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from flowlens.errors import SourceError
from flowlens.evidence import Window
from flowlens.lake.care import status
from flowlens.lake.ledger import blob_ledgers
from flowlens.lake.syncing import Polled, Sync
from flowlens.sources.accounts import Access
from flowlens.sources.delta import Lake, open_lake
from flowlens.sources.lake_places import LakePlace
from flowlens.sources.stores import stores
from flowlens.spark_lake import LakeJob, Outcome, far_by, write_task
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER
from tests.lake.block_store import MemoryBlob, minute, new_blob

Run = Callable[[LakeJob], list[Outcome]]
HOUR = dt.datetime(2026, 6, 15, 12, tzinfo=dt.UTC)
CLOSED = HOUR + dt.timedelta(days=1)


def once(job: LakeJob) -> list[Outcome]:
    """Each task tried once, from what a job is on its way."""
    travelled = pickle.loads(pickle.dumps(job))
    return [write_task(travelled, at, is_last=True) for at in range(len(job.tasks))]


def twice(job: LakeJob) -> list[Outcome]:
    """Each task tried twice, as after a lost executor or by speculation; the answer of the second counts."""
    once(job)
    return once(job)


def sync(
    blobs: Path, lake: Path, run: Run | None, now: dt.datetime = CLOSED, *, window: Window | None = None
) -> Polled:
    """One poll, by tasks where there is ``run``."""
    far = run and far_by(run, str(lake), Access(), Access(), cores=2, tries=4)
    place = LakePlace(str(lake), lake)
    running = Sync(
        stores([str(blobs)], Access()),
        lambda: open_lake(place, create=True),
        clock=lambda: now,
        window=window,
        far=far or None,
    )
    try:
        return running.poll()
    finally:
        running.close()


def opened(lake: Path) -> Lake:
    return open_lake(LakePlace(str(lake), lake))


def contents(lake: Lake) -> tuple[pl.DataFrame, ...]:
    """The rows of a lake, its facts and what counts of them, in a total order."""
    rows = lake.scan_flows().collect()
    facts = lake.scan_ledger().drop("unknown_codes", "rejects").unique().collect()
    return rows.sort(rows.columns), facts.sort(facts.columns), pl.concat(blob_ledgers(lake))


def assert_same(lake: Lake, other: Lake) -> None:
    """Both hold the same rows and tell the same of each blob."""
    for mine, theirs in zip(contents(lake), contents(other), strict=True):
        assert mine.equals(theirs)
    assert status(lake).days.equals(status(other).days)


def files(lake: Path) -> set[str]:
    return {path.name for path in lake.rglob("*.parquet") if "_delta_log" not in path.parts}


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """Six NICs and twelve hours; one blob is gzip, one cut off, one has a tuple that is none."""
    write_day(tmp_path / "day", 3, nics=6, hours=12)
    return tmp_path / "day" / CONTAINER


@pytest.mark.slow
@pytest.mark.parametrize("run", [once, twice])
def test_tasks_make_the_same_lake_and_either_goes_on_with_it(day: Path, tmp_path: Path, run: Run) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    alone = sync(day, here, None)
    polled = sync(day, there, run)
    counts = ("listed", "read", "closed", "unread", "bytes")
    assert [getattr(polled, name) for name in counts] == [getattr(alone, name) for name in counts]
    assert (polled.ledger.rows, polled.ledger.rejected, polled.ledger.bytes) == (
        alone.ledger.rows,
        alone.ledger.rejected,
        alone.ledger.bytes,
    )
    assert_same(opened(there), opened(here))
    assert sync(day, there, None).read == 0
    assert sync(day, here, run).read == 0


def test_what_an_attempt_left_that_does_not_count_is_removed_and_told(day: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    polled = sync(day, lake, twice)
    named = {path.rpartition("/")[2] for table in _tables(lake) for path in table}
    assert files(lake) == named
    (note,) = [note for note in polled.notes if note.startswith("removed ")]
    assert int(note.split()[1]) == len(named) - _written_by_the_driver(lake)


def test_a_cluster_goes_on_where_one_machine_was(tmp_path: Path) -> None:
    """What takes the place of rows is left to the driver."""
    blobs, lake, fresh = tmp_path / "blobs", tmp_path / "lake", tmp_path / "fresh"
    grows, amended, stays = (new_blob(number, HOUR) for number in (1, 2, 3))

    def write(*changed: MemoryBlob) -> None:
        for blob in changed:
            (blobs / blob.name).parent.mkdir(parents=True, exist_ok=True)
            (blobs / blob.name).write_bytes(blob.data)

    for blob in (grows, amended, stays):
        for _ in range(3):
            blob.commit([minute(blob, 4)])
    write(grows, amended, stays)
    assert sync(blobs, lake, None, HOUR + dt.timedelta(minutes=3)).read == 3
    grows.commit([minute(grows, 2)])
    amended.blocks[2] = minute(MemoryBlob(amended.name, HOUR, "", [*amended.blocks[:2], amended.blocks[-1]]), 7)
    write(grows, amended)
    polled = sync(blobs, lake, twice)
    assert (polled.read, polled.replaced, polled.closed) == (3, 1, 3)
    sync(blobs, fresh, None)
    mine, theirs = (contents(opened(each))[0].drop("blob_id") for each in (lake, fresh))
    assert mine.equals(theirs) and len(mine) == 14 + 15 + 12
    assert sync(blobs, lake, once).read == 0


@pytest.mark.slow
def test_another_sync_that_is_first_doubles_nothing(day: Path, tmp_path: Path) -> None:
    lake, fresh = tmp_path / "lake", tmp_path / "fresh"

    others: list[Polled] = []

    def beside(job: LakeJob) -> list[Outcome]:
        outcomes = once(job)
        if not others:
            others.append(sync(day, lake, None, window=Window(end=HOUR - dt.timedelta(hours=6))))
        return outcomes

    polled = sync(day, lake, beside)
    sync(day, fresh, None)
    assert_same(opened(lake), opened(fresh))
    assert others[0].read and polled.read + others[0].read >= polled.listed


@pytest.mark.slow
def test_a_driver_that_ends_before_it_commits_leaves_nothing_that_counts(day: Path, tmp_path: Path) -> None:
    lake, fresh = tmp_path / "lake", tmp_path / "fresh"

    def ended(job: LakeJob) -> list[Outcome]:
        once(job)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sync(day, lake, ended)
    assert opened(lake).scan_flows().collect().is_empty()
    sync(day, lake, once)
    sync(day, fresh, None)
    assert_same(opened(lake), opened(fresh))


def test_a_folder_that_only_executors_have_is_refused(day: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"

    def elsewhere(job: LakeJob) -> list[Outcome]:
        outcomes = once(job)
        for outcome in outcomes:
            for file in outcome.flows:
                (lake / file.path).unlink()
        return outcomes

    with pytest.raises(SourceError, match="FL-C12"):
        sync(day, lake, elsewhere)
    assert opened(lake).scan_flows().collect().is_empty()


def _tables(lake: Path) -> list[list[str]]:
    return [opened(lake).flows.file_uris(), opened(lake).ledger.file_uris()]


def _written_by_the_driver(lake: Path) -> int:
    """Its files carry no mark between ``part-`` and the rest."""
    return sum(len(name.removeprefix("part-").split("-")) == 5 for name in files(lake))
