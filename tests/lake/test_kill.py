"""kill -9 at any moment: nothing is lost or doubled, and the next run needs no help.

strace kills the command line at a system call: each fsync in turn, and the link or unlink by which deltalake makes a commit visible
or tidies up behind it. The short form takes some of them, `make lake` all, and 200 moments by chance.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from flowlens.sources.delta import open_lake
from flowlens.sources.lake_places import LakePlace
from tests.flow_logs import run
from tests.lake.block_store import MemoryBlob, minute, new_blob
from tests.lake.histories import rows_of

LONG = bool(os.environ.get("LAKE_LONG"))
HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
STRACE = shutil.which("strace")
LOGS = [f"{part}_delta_log/{number:020}.json" for part in ("", "_ledger/") for number in (0, 1)]
_RUNTIME = {**os.environ, "TOKIO_WORKER_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def put(folder: Path, *blobs: MemoryBlob) -> None:
    for blob in blobs:
        path = folder / blob.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob.data)


def blobs_of(count: int) -> list[MemoryBlob]:
    blobs = [new_blob(number, HOUR) for number in range(1, count + 1)]
    for blob in blobs:
        blob.commit([minute(blob, 2), minute(blob, 0), minute(blob, 3)])
    return blobs


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "flowlens", "sync", str(folder / "blobs"), str(folder / "lake")]


def is_right_after_another_run(folder: Path, blobs: list[MemoryBlob]) -> None:
    """One more run, without any step in between, makes the lake whole."""
    again = run("sync", folder / "blobs", folder / "lake")
    assert again.code == 0, again.err
    place = LakePlace("lake", folder / "lake")
    assert rows_of(open_lake(place)) == Counter(row for blob in blobs for row in blob.expected()), again.err


def killed_at(folder: Path, *injection: str) -> int:
    """The exit code of a run under strace that kills it there."""
    assert STRACE is not None, "these tests need strace: apt-get install strace"
    line = [STRACE, "-f", "-o", os.devnull, *injection, *command(folder)]
    return subprocess.run(line, capture_output=True, check=False, timeout=120, env=_RUNTIME).returncode


def sweep(tmp_path: Path, points: list[tuple[str, ...]]) -> int:
    """How many runs were killed; after each the lake is made whole, and then begins anew."""
    killed = 0
    blobs = blobs_of(2)
    put(tmp_path / "blobs", *blobs)
    for point in points:
        shutil.rmtree(tmp_path / "lake", ignore_errors=True)
        killed += killed_at(tmp_path, *point) != 0
        is_right_after_another_run(tmp_path, blobs)
    return killed


# A first run of this size does 20 or so.
FSYNCS = range(1, 26) if LONG else (6, 9, 12)


@pytest.mark.slow
def test_killed_at_an_fsync(tmp_path: Path) -> None:
    points = [("-e", "trace=fsync", "-e", f"inject=fsync:signal=KILL:when={number}") for number in FSYNCS]
    assert sweep(tmp_path, points) >= (15 if LONG else len(points))


@pytest.mark.slow
def test_killed_when_a_commit_becomes_visible(tmp_path: Path) -> None:
    logs = LOGS if LONG else LOGS[1:2]
    points = [
        ("-P", str(tmp_path / "lake" / log), "-e", "trace=linkat,link", "-e", "inject=linkat,link:signal=KILL")
        for log in logs
    ]
    assert sweep(tmp_path, points) == len(points)


UNLINKS = range(1, 6) if LONG else (1,)


@pytest.mark.slow
def test_killed_right_behind_a_commit(tmp_path: Path) -> None:
    points = [("-e", "trace=unlink", "-e", f"inject=unlink:signal=KILL:when={number}") for number in UNLINKS]
    assert sweep(tmp_path, points) >= 1


@pytest.mark.slow
def test_killed_at_a_write(tmp_path: Path) -> None:
    numbers = range(1, 120) if LONG else (40,)
    points = [("-e", "trace=write", "-e", f"inject=write:signal=KILL:when={number}") for number in numbers]
    sweep(tmp_path, points)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Again and again on one lake whose blobs grow, so that what was left behind piles up."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    blobs = blobs_of(3)
    began = time.monotonic()
    put(tmp_path / "blobs", *blobs)
    subprocess.run(command(tmp_path), check=True, capture_output=True, timeout=120)
    usual = time.monotonic() - began
    for _ in range(200 if LONG else 2):
        for blob in blobs:
            blob.commit([minute(blob, chance.choice((0, 1, 4)))])
        put(tmp_path / "blobs", *blobs)
        process = subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.3, 1.1) * usual)
        process.send_signal(signal.SIGKILL)
        process.wait()
    is_right_after_another_run(tmp_path, blobs)
