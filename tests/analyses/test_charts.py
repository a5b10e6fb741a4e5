"""What a page draws adds up to what its tables say."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import flowlens as fl
from flowlens import schema
from flowlens.analyses import charts
from tests.flow_logs import SAMPLE
from tests.make_logs import NINE

HOUR = dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def report() -> fl.Report:
    return fl.report(fl.scan(SAMPLE, inventory_file=SAMPLE / "inventory.csv"))


def test_bytes_by_hour_add_up_to_those_of_the_pairs(report: fl.Report) -> None:
    hours = report.charts["encryption_by_hour"].collect()
    pairs = report.tables["encryption_status"].filter(pl.col("eligibility") == "eligible")
    for name in ("bytes_encrypted", "bytes_unencrypted", "flows_dropped"):
        assert hours[name].sum() == pairs[name].sum() > 0
    assert hours["hour"].is_sorted() and hours["hour"].is_unique().all()
    assert pairs["first_encrypted"].min().replace(minute=0, second=0, microsecond=0) == hours.filter(  # type: ignore[union-attr]
        pl.col("bytes_encrypted") > 0
    )["hour"].item(0)


def test_the_matrix_holds_every_pair_that_can_be_encrypted_once(report: fl.Report) -> None:
    matrix = report.charts["encryption_matrix"].collect()
    pairs = report.tables["encryption_status"].filter(pl.col("eligibility") == "eligible")
    assert matrix["pairs"].sum() == pairs.height
    assert matrix["bytes_unencrypted"].sum() == pairs["bytes_unencrypted"].sum()
    one = matrix.filter(pl.col("source") == "vnet-app/snet-app", pl.col("target") == "vnet-app/snet-web")
    assert one["encryption_status"].to_list() == ["Dropped"]


def test_pairs_of_two_subnets_that_differ_are_mixed() -> None:
    rows = [
        {
            "vnet": "v",
            "src_subnet": "a",
            "dst_vnet": "v",
            "dst_subnet": "b",
            "encryption_status": status,
            "eligibility": kind,
        }
        for status, kind in (("Encrypted", "eligible"), ("Unencrypted", "eligible"), ("Dropped", "by design"))
    ]
    columns = schema.polars_schema(schema.RESULTS["encryption_status"])
    matrix = charts.encryption_matrix(pl.LazyFrame(rows, schema=columns)).collect()
    assert matrix.select("encryption_status", "pairs", "bytes_encrypted").rows() == [("Mixed", 2, None)]


def test_the_grid_tells_the_status_of_every_requirement_the_worst_first(report: fl.Report) -> None:
    grid, table = report.charts["egress_grid"].collect(), report.tables["denied_egress"]
    assert grid.height == table.select("profile", "endpoint", "protocol", "port", "vnet", "workload").n_unique()
    assert grid["failing"].is_sorted(descending=True)
    first = grid.filter(pl.col("endpoint") == "KMS activation").sort("workload")
    assert first["status"].to_list() == ["Reached", "Denied", "Unanswered"]


def test_groups_of_destinations_add_up_to_the_table(report: fl.Report) -> None:
    groups, table = report.charts["destination_groups"].collect(), report.tables["unexpected_destinations"]
    assert groups["flows"].sum() == table["flows"].sum()
    assert groups["bytes"].sum() == table["bytes_sent"].sum() + table["bytes_received"].sum()
    assert groups["new"].null_count() == groups.height
    named = dict(groups.select("group", "named").iter_rows())
    assert named["Storage.JapanEast"] == charts.TAGGED
    assert named["203.0.113.77"] == charts.UNTAGGED


def hours(states: dict[str, str]) -> pl.DataFrame:
    """Coverage of NICs: a letter for each hour of each, a blank where none was expected."""
    words = {"r": "read", "m": "missing", "s": "silent", "p": "partly read"}
    rows: list[dict[str, Any]] = [
        {
            "flow_log_id": "/x/flowLogs/log",
            "mac_address": mac,
            "workload": None,
            "hour": NINE + n * HOUR,
            "state": words[letter],
            "tuples": 1,
            "rejected": 0,
        }
        for mac, letters in states.items()
        for n, letter in enumerate(letters)
        if letter != " "
    ]
    return pl.DataFrame(rows, schema=schema.polars_schema(schema.RESULTS["coverage"]))


def runs(states: dict[str, str]) -> list[tuple[str, str, int, int]]:
    found = charts.coverage_runs(hours(states))
    return [
        (row["nic"], row["state"], (row["start"] - NINE) // HOUR, (row["end"] - NINE) // HOUR)
        for row in found.iter_rows(named=True)
    ]


def test_hours_of_one_state_are_one_run_and_gaps_come_first() -> None:
    assert runs({"A": "rrrs", "B": "rmmr"}) == [
        ("B", "read", 0, 1),
        ("B", "missing", 1, 3),
        ("B", "read", 3, 4),
        ("A", "read", 0, 3),
        ("A", "silent", 3, 4),
    ]


def test_an_hour_that_nobody_expected_breaks_a_run() -> None:
    assert runs({"A": "rr rr"}) == [("A", "read", 0, 2), ("A", "read", 3, 5)]


def test_a_column_of_many_hours_tells_the_worst_of_them() -> None:
    letters = list("r" * 300)
    letters[101] = "m"
    assert runs({"A": "".join(letters)}) == [("A", "read", 0, 100), ("A", "missing", 100, 102), ("A", "read", 102, 300)]


def test_many_nics_are_cut_to_those_with_most_gaps() -> None:
    states = {f"N{n:03}": "r" * 50 + "m" * (n % 7) for n in range(100)}
    found = charts.coverage_runs(hours(states))
    assert found["nic"].n_unique() == charts.NICS_DRAWN
    by_nic = found.select("nic", "gaps").unique().group_by("gaps").len()
    assert sorted(by_nic.iter_rows()) == [(4, 2), (5, 14), (6, 14)]


def test_nothing_read_draws_nothing(tmp_path: Path) -> None:
    report = fl.report(fl.scan(tmp_path))
    assert {name: chart.collect().height for name, chart in report.charts.items()} == dict.fromkeys(report.charts, 0)
