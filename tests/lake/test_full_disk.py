"""A disk that is full: an error in words, a lake that is whole up to there, and the next run goes on.

Small file systems in memory are mounted for it, which takes root or a user namespace of one's own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowlens.errors import SourceError
from flowlens.lake.syncing import Sync
from flowlens.sources.delta import open_lake
from flowlens.sources.lake_places import LakePlace
from tests.lake.block_store import MemoryStore, minute, new_blob
from tests.lake.histories import rows_of

LONG = bool(os.environ.get("LAKE_LONG"))
HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)


@contextlib.contextmanager
def small_disk(folder: Path, size: int, *more: str) -> Iterator[Path]:
    """A file system of so many bytes."""
    folder.mkdir(exist_ok=True)
    line = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *more]), "flowlens-tests", str(folder)]
    mounted = subprocess.run(line, capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, f"these tests mount small disks, which takes root: {mounted.stderr}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def store_of(blobs: int) -> MemoryStore:
    store = MemoryStore()
    for number in range(1, blobs + 1):
        blob = store.put(new_blob(number, HOUR))
        blob.commit([minute(blob, 20), minute(blob, 0, rejected=1), minute(blob, 20)])
    return store


def sync_into(store: MemoryStore, folder: Path) -> None:
    place = LakePlace(str(folder), folder)
    sync = Sync(
        [store],
        lambda: open_lake(place, create=True),
        clock=lambda: HOUR + dt.timedelta(minutes=30),
        batch_bytes=6000,
        readers=1,
    )
    try:
        sync.poll()
    finally:
        sync.close()


@pytest.mark.slow
def test_at_every_level_of_free_space_the_lake_is_whole_and_goes_on(tmp_path: Path) -> None:
    """What is there can be read and is right, whatever did not fit; with room again the same run makes it whole."""
    store = store_of(4)
    expected = Counter(row for blob in store.blobs.values() for row in blob.expected())
    problems: list[str] = []
    for level in range(100 if LONG else 8):
        size = 4096 * (6 + level) if LONG else 4096 * (6 + 12 * level)
        with small_disk(tmp_path / "disk", size) as disk:
            folder = disk / "lake"
            try:
                sync_into(store, folder)
            except SourceError as error:
                problems.append(error.problem)
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy) if folder.exists() else copy.mkdir()
        if any((copy / "_delta_log").glob("*.json")):
            found = rows_of(open_lake(LakePlace(str(copy), copy)))
            assert found <= expected, "rows that are wrong or doubled"
        sync_into(store, copy)
        assert rows_of(open_lake(LakePlace(str(copy), copy))) == expected, f"after {size} bytes"
        shutil.rmtree(copy)
    assert len(problems) >= 3, "the disk was never full"
    assert set(problems) == {"there is no space left for the lake"}


def test_a_disk_that_may_only_be_read_is_told_and_its_lake_still_read(tmp_path: Path) -> None:
    store = store_of(1)
    with small_disk(tmp_path / "disk", 1 << 22) as disk:
        sync_into(store, disk / "lake")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        before = rows_of(open_lake(LakePlace("lake", disk / "lake")))
        blob = next(iter(store.blobs.values()))
        blob.commit([minute(blob, 2)])
        with pytest.raises(SourceError, match="the lake could not be written") as told:
            sync_into(store, disk / "lake")
        assert "read-only" in told.value.hint
        assert rows_of(open_lake(LakePlace("lake", disk / "lake"))) == before


@pytest.mark.slow
def test_a_full_disk_ends_the_command_line_with_its_code_and_no_traceback(tmp_path: Path) -> None:
    blob = new_blob(1, HOUR)
    blob.commit([minute(blob, 20)])
    path = tmp_path / "blobs" / blob.name
    path.parent.mkdir(parents=True)
    path.write_bytes(blob.data)
    with small_disk(tmp_path / "disk", 4096 * 8) as disk:
        line = [sys.executable, "-m", "flowlens", "sync", str(tmp_path / "blobs"), str(disk / "lake")]
        ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 3
    assert "there is no space left for the lake" in ran.stderr and "Traceback" not in ran.stderr
