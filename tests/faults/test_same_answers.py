"""A storage account gives what the same files on disk give, and goes on giving it while the network fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowlens.cli import DONE, INCOMPLETE
from tests.faults.conftest import LONG, Stored, options
from tests.faults.day import upload, write_day
from tests.faults.proxies import MIXED, fault_proxy, mixed, no_faults
from tests.flow_logs import CONTAINER, SAMPLE, run

WINDOW = ("--start", "2026-06-15T00:30Z", "--end", "2026-06-16T00:00Z")
SEEDS = range(20) if LONG else range(1)


def analyzed(source: object, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of analyze and its JSON without the settings, which name the source."""
    ran = run("analyze", str(source), *arguments, "--format", "json", "--threads", "2")
    assert ran.stdout, ran.err
    document = ran.document
    del document["settings"]
    return ran.code, document


def write(folder: Path, stored: Stored, seed: int, **size: int) -> Path:
    """A day on disk and in the container, under the same names; the folder on disk."""
    write_day(folder, seed, **size)
    container = (folder / CONTAINER).rename(folder / stored.name)
    upload(container, stored.client)
    return container


@pytest.mark.slow
def test_a_day_gives_the_same_json_as_the_same_files_on_disk(stored: Stored, tmp_path: Path) -> None:
    folder = write(tmp_path, stored, 7, nics=20, hours=24)
    code, expected = analyzed(folder, *WINDOW)
    assert (code, expected["ledger"]["blobs"]) == (INCOMPLETE, 479)
    assert expected["ledger"]["rejects"]
    assert analyzed(stored.url, *WINDOW, *options(stored.url)) == (code, expected)


@pytest.mark.slow
def test_sample_logs_give_the_same_json_as_on_disk(stored: Stored, tmp_path: Path) -> None:
    container = SAMPLE / CONTAINER
    upload(container, stored.client)
    everything = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")
    named = tmp_path / stored.name
    named.symlink_to(container)
    code, expected = analyzed(named, *everything)
    assert code == DONE
    assert analyzed(stored.url, *everything, *options(stored.url)) == (code, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_ten_percent_of_faults_change_nothing(stored: Stored, tmp_path: Path) -> None:
    size = {"nics": 210, "hours": 24} if LONG else {"nics": 20, "hours": 15}
    folder = write(tmp_path, stored, 8, **size)
    wanted = analyzed(folder, *WINDOW)
    with fault_proxy(stored.server.host) as proxy:
        url = stored.through(proxy.host)
        # A page of 5,000 names takes the server seconds where the machine is busy.
        access = options(url, 20 if LONG else 5)
        assert analyzed(url, *WINDOW, *access) == wanted
        clean = len(proxy.log)
        assert clean >= (5000 if LONG else 250)
        for seed in SEEDS:
            print(f"seed {seed}")
            proxy.clear()
            proxy.plan = mixed(seed, 0.1)
            code, document = analyzed(url, *WINDOW, *access)
            notes = document["ledger"]["notes"]
            met = [note for note in notes if note.startswith(("requests for ", "small blobs that threads read "))]
            document["ledger"]["notes"] = [note for note in notes if note not in met]
            assert (code, document) == wanted
            assert any(note.startswith("requests for blobs that were tried again: ") for note in met)
            assert len({*MIXED}) - 3 <= len(proxy.struck) and proxy.struck.total() > clean / 20
            assert len(proxy.log) <= 1.5 * clean
        proxy.plan = no_faults
