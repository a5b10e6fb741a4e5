"""Blobs and the rows that Traffic Analytics makes of them agree; what is taken away, added or changed is found."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import flowlens as fl
from flowlens.cli import DONE, GATE_FIRED, INCOMPLETE, WRONG_USAGE
from flowlens.comparing import EDGE, LATE, NOT_COMPARED, Comparison, compare, widened
from flowlens.not_kept import FACTS
from tests import truth
from tests.flow_logs import SAMPLE, run, sample_container

EXPORT = SAMPLE / "traffic_analytics" / "ntanetanalytics.json"
DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")
START, END = dt.datetime(2026, 6, 15, tzinfo=dt.UTC), dt.datetime(2026, 6, 16, tzinfo=dt.UTC)
NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)


def compared(
    first: object, second: object, start: dt.datetime = START, end: dt.datetime = END, now: dt.datetime = NOW
) -> Comparison:
    def scan_of(name: str, low: dt.datetime, high: dt.datetime, cut: dt.datetime) -> fl.Scan:
        return fl.scan(name, start=low, end=high, changed_at=cut, threads=1, now=now)

    return compare((str(first), str(second)), scan_of, start, end, now)


@cache
def export() -> str:
    return EXPORT.read_text("utf-8")


def changed(folder: Path, change: Callable[[list[dict[str, object]]], object]) -> Path:
    """The export of sample_logs after a change to its rows."""
    rows = json.loads(export())
    change(rows)
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def unexplained(found: Comparison) -> list[dict[str, object]]:
    return found.differences.filter(found.differences["reason"].is_null()).to_dicts()


def test_each_fact_is_left_out_or_explains() -> None:
    assert {*NOT_COMPARED, EDGE} == {fact.name for fact in FACTS}


def test_sample_logs_agree_with_their_export() -> None:
    found = compared(SAMPLE, EXPORT)
    assert (found.verdict, found.differences.height, found.complete) == ("agree", 0, True)
    first, second = found.sides
    assert first.totals == second.totals
    assert found.equal == first.totals["conversations"] > 100


@pytest.mark.parametrize("seed", [1, 3, 5, 9, 46])
def test_invented_networks_agree_but_for_the_edges(seed: int, tmp_path: Path) -> None:
    network = truth.generate(seed)
    network.write_blobs(tmp_path / "blobs")
    network.write_traffic_analytics(tmp_path / "rows.json")
    # The middle of the traffic, so that some of it goes across both edges.
    start, end = network.start + dt.timedelta(hours=1), network.end - dt.timedelta(minutes=30)
    for first, second in (("blobs", "rows.json"), ("rows.json", "blobs")):
        found = compared(tmp_path / first, tmp_path / second, start, end)
        assert unexplained(found) == []
        assert (found.verdict, set(found.explained) <= {EDGE}) == ("agree", True)


def test_tuples_that_were_written_behind_an_edge_are_explained_by_it(tmp_path: Path) -> None:
    network = truth.generate(3)
    network.write_blobs(tmp_path / "blobs")
    network.write_traffic_analytics(tmp_path / "rows.json")
    found = compared(
        tmp_path / "blobs",
        tmp_path / "rows.json",
        network.start + dt.timedelta(hours=1),
        network.end - dt.timedelta(minutes=30),
    )
    assert found.explained == {EDGE: found.differences.height}
    assert found.differences.height > 0


@pytest.mark.parametrize("lost", [0, 100, 300])
def test_a_row_that_is_missing_is_a_difference(lost: int, tmp_path: Path) -> None:
    found = compared(SAMPLE, changed(tmp_path, lambda rows: rows.pop(lost)))
    assert found.verdict == "differ"
    named = unexplained(found)
    row = json.loads(export())[lost]
    addresses = {str(row["SrcIp"] or row["SrcPublicIps"].split("|")[0]), str(row["DestIp"] or "")}
    assert named
    assert {each["difference"] for each in named} <= {"only in A", "differs"}
    assert any(addresses & {each["src_ip"], each["dst_ip"]} for each in named)


def test_a_byte_too_many_is_a_difference(tmp_path: Path) -> None:
    def change(rows: list[dict[str, object]]) -> None:
        row = next(row for row in rows if row["SrcIp"] and row["DestIp"] and row["BytesSrcToDest"])
        row["BytesSrcToDest"] += 1

    (found,) = unexplained(compared(SAMPLE, changed(tmp_path, change)))
    assert (found["difference"], found["bytes_sent_b"] - found["bytes_sent_a"]) == ("differs", 1)


def test_a_conversation_of_one_side_is_named_with_its_side(tmp_path: Path) -> None:
    def change(rows: list[dict[str, object]]) -> None:
        rows.append(next(row for row in rows if row["DestIp"]) | {"DestIp": "10.9.9.9"})

    path = changed(tmp_path, change)
    for sources, side in (((SAMPLE, path), "only in B"), ((path, SAMPLE), "only in A")):
        (found,) = unexplained(compared(*sources))
        assert (found["difference"], found["dst_ip"]) == (side, "10.9.9.9")


def test_rows_that_may_still_arrive_are_explained(tmp_path: Path) -> None:
    rows = json.loads(export())
    last = max(rows, key=lambda row: row["FlowEndTime"])
    path = changed(tmp_path, lambda rows: rows.remove(last))
    soon = dt.datetime.fromisoformat(last["FlowEndTime"]) + dt.timedelta(hours=1)
    assert set(compared(SAMPLE, path, now=soon).explained) == {LATE}
    assert compared(SAMPLE, path, now=soon + dt.timedelta(hours=2)).verdict == "differ"


def test_two_copies_of_the_same_blobs_are_never_late(tmp_path: Path) -> None:
    other = sample_container(tmp_path)
    victim = max(other.rglob("PT1H.json"), key=lambda path: path.stat().st_size)
    victim.unlink()
    found = compared(SAMPLE, tmp_path, now=END)
    assert (found.verdict, found.explained) == ("differ", {})


def test_a_damaged_blob_makes_a_difference_undetermined(tmp_path: Path) -> None:
    other = sample_container(tmp_path)
    victim = max(other.rglob("PT1H.json"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-3000])
    found = compared(tmp_path, EXPORT)
    assert (found.verdict, found.complete) == ("not determined", False)
    assert "not all was read" in found.text


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("09:00", "10:00", (9, 10)),
        ("09:05", "09:06", (9, 10)),
        ("09:59", "10:01", (9, 11)),
        ("09:00", "10:30", (9, 11)),
    ],
)
def test_windows_are_widened_to_full_hours(start: str, end: str, hours: tuple[int, int]) -> None:
    times = (dt.datetime.fromisoformat(f"2026-06-15T{text}:00+00:00") for text in (start, end))
    assert tuple(time.hour for time in widened(*times)) == hours


@pytest.mark.slow
def test_the_command_line_has_a_verdict_and_an_exit_code(tmp_path: Path) -> None:
    ran = run("compare", SAMPLE, EXPORT, *DAY)
    assert (ran.code, "[agree]" in ran.out) == (DONE, True)
    differing = changed(tmp_path, lambda rows: rows.pop(100))
    ran = run("compare", SAMPLE, differing, *DAY, "--format", "json")
    assert (ran.code, ran.document["verdict"]["status"]) == (GATE_FIRED, "differ")
    assert [row["reason"] for row in ran.document["tables"]["differences"]] == [None]
    ran = run("compare", SAMPLE, differing, *DAY, "--format", "csv")
    assert (ran.code, len(ran.out.splitlines())) == (GATE_FIRED, 2)
    assert "differ: 1 of" in ran.err
    ran = run("compare", SAMPLE, EXPORT, "--start", "2020-01-01T00:00Z", "--end", "2020-01-02T00:00Z")
    assert (ran.code, "[not determined]" in ran.out) == (INCOMPLETE, True)


def test_a_window_that_was_widened_is_said() -> None:
    ran = run("compare", SAMPLE, EXPORT, "--start", "2026-06-15T09:10Z", "--end", "2026-06-15T10:10Z")
    assert "widened to whole intervals, 2026-06-15T09:00:00+00:00 to 2026-06-15T11:00:00+00:00" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((SAMPLE, SAMPLE, *DAY), "two sources"),
        ((SAMPLE, EXPORT), "needs a window"),
        ((SAMPLE, EXPORT, *DAY, "--tz", "Tokio"), "time zone"),
    ],
)
def test_wrong_usage_is_said(arguments: tuple[object, ...], words: str) -> None:
    ran = run("compare", *map(str, arguments))
    assert (ran.code, words in ran.err) == (WRONG_USAGE, True)
