"""What a workspace counts is what comes: part by part, over parts by hash, and in all."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowlens as fl
from flowlens.cli import DONE, ERROR, INCOMPLETE
from flowlens.errors import LedgerError
from flowlens.sources.slices import STEP, Reading, Slice
from flowlens.workspace_rows import Tally, plan
from tests.flow_logs import SAMPLE, run
from tests.workspace import server
from tests.workspace.server import WORKSPACE, Asked, Logs, Told

SOURCE = f"workspace:{WORKSPACE}"
EXPORT = SAMPLE / "traffic_analytics" / "ntanetanalytics.json"
DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")
START = dt.datetime(2026, 6, 15, 6, tzinfo=dt.UTC)
COUNTED = ("records", "tuples", "rows", "rejected", "rejected_records", "outside_window", "unread")
BROKEN = "203.0.113.9|1|1|1|1|60|60 203.0.113.10|x|1|1|1|60|60"


def exported() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(EXPORT.read_bytes())
    return rows


def counts(*arguments: str) -> tuple[int, dict[str, int]]:
    """The exit code of coverage and the counts of its ledger."""
    ran = run("coverage", *arguments, "--format", "json")
    assert ran.stdout, ran.err
    return ran.code, {name: ran.document["ledger"][name] for name in COUNTED}


@pytest.mark.slow
def test_a_workspace_counts_what_an_export_of_its_rows_counts(logs: Logs, tmp_path: Any) -> None:
    rows = exported()
    for row in rows[:3]:
        row["L4Protocol"] = "carrier pigeon"
    rows[3] |= {"DestIp": "", "DestPublicIps": BROKEN, "FlowDirection": "Outbound", "FlowStatus": "Allowed"}
    rows[4]["SrcIp"], rows[4]["SrcPublicIps"] = "no address", ""
    logs.tables["NTANetAnalytics"].add(rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    expected = counts(str(tmp_path / "rows.json"), *DAY)
    assert expected[0] == INCOMPLETE
    assert (expected[1]["rejected"], expected[1]["rejected_records"]) == (1, 4)
    assert counts(SOURCE, *DAY, *logs.options) == expected


@pytest.mark.slow
def test_rows_without_an_interval_are_counted_as_rejected(logs: Logs) -> None:
    rows = exported()
    rows[0]["FlowIntervalStartTime"] = None
    logs.tables["NTANetAnalytics"].add(rows)
    code, found = counts(SOURCE, *DAY, *logs.options)
    assert (code, found["records"], found["rejected_records"]) == (INCOMPLETE, len(rows), 1)


@pytest.mark.slow
@pytest.mark.parametrize("by_hash", [False, True])
def test_a_part_that_holds_other_rows_than_are_counted_ends_the_run_and_is_named(logs: Logs, by_hash: bool) -> None:
    # One interval, so that there are few parts, and who asks has to go below it.
    interval = max(Counter(row["FlowIntervalStartTime"] for row in exported()).items(), key=lambda each: each[1])[0]
    logs.tables["NTANetAnalytics"].add([row for row in exported() if row["FlowIntervalStartTime"] == interval])

    def after(asked: Asked, rows: list[list[object]]) -> Told | list[list[object]]:
        if "made_of" in asked.query:
            answered, made_of, there = rows[0]
            return [[answered, made_of, int(there) + 1 if there else 0]]  # type: ignore[call-overload]
        is_whole = "let slices = long(1);" in asked.query
        return server.partial(["hour"], []) if by_hash and rows and is_whole else rows

    logs.after = after
    ran = run("coverage", SOURCE, *DAY, *logs.options)
    assert (ran.code, ran.out) == (ERROR, "")
    assert "rows of the table, as the workspace counts them, found" in ran.err
    assert interval[:16] in ran.err
    assert any("let slices = long(2);" in asked.query for asked in logs.asked) == by_hash


@pytest.mark.slow
def test_rows_that_arrive_while_it_is_read_are_told(logs: Logs) -> None:
    rows = exported()
    hour = min(row["FlowIntervalStartTime"] for row in rows)
    early = [row for row in rows if row["FlowIntervalStartTime"] == hour]
    rest = [row for row in rows if row["FlowIntervalStartTime"] != hour]
    logs.tables["NTANetAnalytics"].add(rest)

    def arrive(asked: Asked) -> None:
        # That hour was empty when rows were counted, so nobody asks for it.
        if asked.number == 1:
            logs.tables["NTANetAnalytics"].add(early)

    logs.fault = arrive
    ran = run("coverage", SOURCE, *DAY, *logs.options, "--format", "json")
    assert (ran.code, ran.document["ledger"]["records"]) == (DONE, len(rest))
    assert any(f"{len(early)} row(s) arrived while it was read" in note for note in ran.document["ledger"]["notes"])


def reading(part: Slice, made_of: int, there: int) -> Reading:
    return Reading(part, pl.DataFrame(), counted=(0, made_of, there))


def test_parts_by_hash_add_up_to_what_is_there() -> None:
    whole = Slice(START, START + STEP)
    first, second = whole.halves() or ()
    quarters = second.halves() or ()
    tally = Tally("w")
    for part, rows in zip((first, *quarters), (5, 3, 2), strict=True):
        tally.take(reading(part, rows, 10), rows)
    assert tally.rows == 10
    tally = Tally("w")
    tally.take(reading(first, 5, 10), 5)
    tally.take(reading(quarters[0], 3, 10), 3)
    with pytest.raises(LedgerError, match=r"06:00:00.* expected 10 rows of the table, .* found 9"):
        tally.take(reading(quarters[1], 1, 10), 1)


def test_rows_that_arrive_between_parts_by_hash_are_no_error() -> None:
    first, second = Slice(START, START + STEP).halves() or ()
    tally = Tally("w")
    tally.take(reading(first, 5, 10), 5)
    tally.take(reading(second, 6, 12), 6)
    assert tally.rows == 11


def test_what_came_must_be_what_the_part_was_made_of() -> None:
    with pytest.raises(LedgerError, match=r"expected 4 rows of the table, .* found 3"):
        Tally("w").take(reading(Slice(START, START + STEP), 4, 4), 3)


@given(
    lines=st.dictionaries(st.integers(0, 47), st.integers(1, 500), max_size=12),
    edge=st.integers(1, 479),
    most=st.integers(10, 300),
)
def test_parts_of_a_plan_hold_every_row_once_and_few_each(lines: dict[int, int], edge: int, most: int) -> None:
    end, cut = START + 48 * STEP, START + dt.timedelta(minutes=edge)
    marks = {START + n * STEP: count for n, count in lines.items()}
    counts = pl.DataFrame({"mark": list(marks), "lines": list(marks.values())}, schema_overrides={"lines": pl.Int64})
    parts = plan(START, end, [cut], counts, most)
    shares: Counter[dt.datetime] = Counter()
    for part in parts:
        assert START <= part.start < part.end <= end
        assert not part.start < cut < part.end
        held = sum(count for mark, count in marks.items() if mark < part.end and mark + STEP > part.start)
        assert 0 < held <= most * part.slices
        assert part.slices == 1 or (part.end - part.start <= STEP and held > most)
        for mark in marks:
            if part.start <= mark < part.end:
                shares[mark] += 4096 // part.slices  # type: ignore[assignment]
    assert shares == dict.fromkeys(marks, 4096)
    spans = sorted({(part.start, part.end) for part in parts})
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@pytest.mark.slow
def test_a_notebook_sees_the_rows_of_the_table(logs: Logs) -> None:
    logs.tables["NTANetAnalytics"].add(exported())
    access = fl.Access(auth="environment", account_url=logs.endpoint, ca_file=logs.ca_file)
    scan = fl.scan(SOURCE, start=START, end=START + dt.timedelta(days=1), access=access)
    inside = [row for row in exported() if row["FlowIntervalStartTime"] >= "2026-06-15T06"]
    assert (scan.ledger.records, scan.ledger.balanced) == (len(inside), True)
