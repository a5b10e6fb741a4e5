"""The same flows give the same document, however their files are ordered, packed, written and decoded."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import flowlens as fl
from flowlens import Ledger, conversations, pieces
from tests.flow_logs import TOP, run, sample_container

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
SUMS = ("flow_tuples", "packets_sent", "bytes_sent", "packets_received", "bytes_received")
OF_THE_INPUT = ("bytes", "record_bytes", "framing_bytes", "strict_records")


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_container(tmp_path_factory.mktemp("plain"))


def blobs(container: Path) -> list[Path]:
    return sorted(container.rglob("PT1H.json*"))


def answer(*arguments: str | Path, ignore: tuple[str, ...] = ()) -> str:
    """The JSON document's own text without its settings and without what only describes how the input was written."""
    ran = run("analyze", *arguments, "--format", "json")
    # Which placeholders nobody filled is said beside any answer.
    assert ran.code == 0 and ran.err.startswith("not tested, since no value is set: ") and ran.err.count("\n") == 1
    document = ran.document
    del document["settings"]
    for name in ignore:
        del document["ledger"][name]
    return json.dumps(document, indent=1)


@pytest.fixture(scope="module")
def expected(container: Path) -> str:
    text = answer(container, "--threads", "1")
    assert json.loads(text)["tables"]["denied_egress"]
    return text


def rewritten(container: Path, folder: Path, change: Any) -> Path:
    """A copy of the container in which ``change`` has rewritten every blob."""
    for path in blobs(container):
        target = folder / path.relative_to(container.parent)
        target.parent.mkdir(parents=True)
        change(path, target)
    return folder / container.name


@pytest.mark.parametrize("options", [("--threads", "2"), ("--strict", "--threads", "2")])
def test_threads_and_decoder(container: Path, expected: str, options: tuple[str, ...]) -> None:
    assert answer(container, *options) == expected


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_threads_of_polars(container: Path, expected: str, threads: int) -> None:
    """In a process of its own, since Polars starts its threads once."""
    ran = subprocess.run(
        [sys.executable, "-m", "flowlens", "analyze", container, "--format", "json", "--threads", "2"],
        env={**os.environ, "POLARS_MAX_THREADS": str(threads)},
        cwd=TOP,
        capture_output=True,
        check=True,
    )
    document = json.loads(ran.stdout)
    del document["settings"]
    assert json.dumps(document, indent=1) == expected


@pytest.mark.slow
def test_small_pieces_parts_and_files(monkeypatch: pytest.MonkeyPatch, container: Path, expected: str) -> None:
    """With limits of a few rows each step goes through files, pieces and parts, as a million conversations do."""
    monkeypatch.setattr(pieces, "PIECE_ROWS", 150)
    monkeypatch.setattr(pieces, "KEEP_ROWS", 100)
    monkeypatch.setattr(pieces, "PART_ROWS", 120)
    monkeypatch.setattr(pieces, "LEAST_ROWS", 50)
    monkeypatch.setattr(conversations, "MERGE_ROWS", 200)
    monkeypatch.setattr(conversations, "SPILL_ROWS", 100)
    assert answer(container, "--threads", "2") == expected


def test_files_named_one_by_one_in_any_order(container: Path, expected: str) -> None:
    files = blobs(container)
    random.Random(1).shuffle(files)
    assert answer(*files, ignore=("sources",)) == without_sources(expected)


def without_sources(text: str) -> str:
    document = json.loads(text)
    assert document["ledger"].pop("sources") == 1
    return json.dumps(document, indent=1)


def test_the_folder_may_stand_anywhere(container: Path, expected: str, tmp_path: Path) -> None:
    (tmp_path / "deep" / "down").mkdir(parents=True)
    assert answer(sample_container(tmp_path / "deep" / "down")) == expected


def test_gzip(container: Path, expected: str, tmp_path: Path) -> None:
    def pack(path: Path, target: Path) -> None:
        target.with_name("PT1H.json.gz").write_bytes(gzip.compress(path.read_bytes(), 1))

    assert answer(rewritten(container, tmp_path, pack)) == expected


def written_anew(expected: str) -> str:
    document = json.loads(expected)
    for name in OF_THE_INPUT:
        del document["ledger"][name]
    return json.dumps(document, indent=1)


def shuffled_keys(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled_keys(item, order)) for key, item in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled_keys(item, order) for item in value] if isinstance(value, list) else value


def pretty(content: Any) -> str:
    return json.dumps(content, indent=4)


def other_key_order(content: Any) -> str:
    return json.dumps(shuffled_keys(content, random.Random(5)))


def escaped(content: Any) -> str:
    """Every string with its first character as an escape."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace('"flowTuples"', '"\\u0066lowTuples"').replace('"1781', '"\\u0031781')


def one_record_per_line(content: Any) -> str:
    return "".join(f"{json.dumps(each)}\n" for each in content["records"])


@pytest.mark.parametrize(
    ("write", "options"),
    [(pretty, ()), (pretty, ("--strict",)), (other_key_order, ()), (escaped, ()), (one_record_per_line, ("--strict",))],
)
def test_json_written_another_way(
    container: Path, expected: str, tmp_path: Path, write: Any, options: tuple[str, ...]
) -> None:
    def change(path: Path, target: Path) -> None:
        before = path.read_text(encoding="utf-8")
        after = write(json.loads(before))
        assert after != before
        target.write_text(after, encoding="utf-8")

    copy = rewritten(container, tmp_path, change)
    assert answer(copy, *options, ignore=OF_THE_INPUT) == written_anew(expected)


# ---- a blob less


NIC_HOURS = (("00005E005303", 7), ("00005E005306", 12), ("00005E005307", 8), ("00005E005309", 13), ("00005E005304", 8))
"""MAC address and hour of the blobs that are taken away, one at a time."""


def tuples_of(path: Path) -> list[list[str]]:
    return [
        text.split(",")
        for record in json.loads(path.read_text("utf-8"))["records"]
        for flow in record["flowRecords"]["flows"]
        for group in flow["flowGroups"]
        for text in group["flowTuples"]
    ]


def totals(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, Ledger]:
    """Sums by NIC and hour, coverage, ledger."""
    scan = fl.scan(folder, now=NOW)
    rows = scan.conversations.group_by("mac_address", "hour").agg(pl.col(SUMS).sum()).sort("mac_address", "hour")
    return rows.collect(), scan.coverage.drop("workload"), scan.ledger


def recounted(tuples: list[list[str]], mac: str) -> pl.DataFrame:
    """The same sums of one blob's tuples, from its text."""
    rows = [
        {
            "mac_address": mac,
            "hour": dt.datetime.fromtimestamp(int(each[0]) // 3_600_000 * 3600, dt.UTC),
            **dict(zip(SUMS, (1, *(int(each[n] or 0) for n in (9, 10, 11, 12))), strict=True)),
        }
        for each in tuples
    ]
    return pl.DataFrame(rows).group_by("mac_address", "hour").agg(pl.col(SUMS).sum())


@pytest.fixture(scope="module")
def whole(container: Path) -> tuple[pl.DataFrame, pl.DataFrame, Ledger]:
    return totals(container)


@pytest.mark.parametrize(("mac", "hour"), NIC_HOURS)
def test_a_missing_blob_changes_exactly_its_own_totals(
    container: Path, whole: tuple[pl.DataFrame, pl.DataFrame, Ledger], tmp_path: Path, mac: str, hour: int
) -> None:
    copy = sample_container(tmp_path)
    (path,) = copy.rglob(f"h={hour:02}/m=00/macAddress={mac}/PT1H.json")
    gone, size = tuples_of(path), path.stat().st_size
    path.unlink()
    before, coverage_before, ledger_before = whole
    after, coverage_after, ledger_after = totals(copy)

    lost = recounted(gone, mac)
    keys = ["mac_address", "hour"]
    both = before.join(after, on=keys, how="left", suffix="_after").join(lost, on=keys, how="left", suffix="_lost")
    for name in SUMS:
        left = pl.col(name) - pl.col(f"{name}_lost").fill_null(0)
        assert both.filter(pl.col(f"{name}_after").fill_null(0) != left).is_empty()
    assert after.join(before, on=keys, how="anti").is_empty()

    assert ledger_after.blobs == ledger_before.blobs - 1
    assert ledger_after.bytes == ledger_before.bytes - size
    assert ledger_after.tuples == ledger_before.tuples - len(gone)
    assert ledger_after.balanced and ledger_after.complete

    moment = dt.datetime(2026, 6, 15, hour, tzinfo=dt.UTC)
    here = (pl.col("mac_address") == mac) & (pl.col("hour") == moment)
    assert coverage_after.filter(~here).equals(coverage_before.filter(~here))
    (row,) = coverage_after.filter(here).to_dicts()
    assert (row["state"], row["tuples"]) == (absent_state(copy, mac, moment), 0)


def absent_state(container: Path, mac: str, hour: dt.datetime) -> str:
    """Missing where another NIC logged a flow of that hour with an address of this one, else silent."""
    addresses = {
        each[1] if each[6] == "O" else each[2]
        for path in blobs(container)
        if f"macAddress={mac}" in str(path)
        for each in tuples_of(path)
    }
    start = hour.timestamp() * 1000
    told = any(
        addresses & {each[1], each[2]} and start <= int(each[0]) < start + 3_600_000
        for path in blobs(container)
        if f"macAddress={mac}" not in str(path)
        for each in tuples_of(path)
    )
    return "missing" if told else "silent"


def test_the_blobs_taken_away_show_both_states(container: Path, tmp_path: Path) -> None:
    found = set()
    for mac, hour in NIC_HOURS:
        found.add(absent_state(container, mac, dt.datetime(2026, 6, 15, hour, tzinfo=dt.UTC)))
    assert found == {"missing", "silent"}
