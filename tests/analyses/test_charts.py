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


def pairs_of(rows: list[tuple[str, str, str, str, str, int]]) -> pl.LazyFrame:
    """Pairs that can be encrypted: VNet and subnet of both ends, status, bytes."""
    columns = schema.polars_schema(schema.RESULTS["encryption_status"])
    made = [
        {
            "vnet": vnet,
            "src_subnet": subnet,
            "dst_vnet": dst_vnet,
            "dst_subnet": dst_subnet,
            "encryption_status": status,
            "eligibility": "eligible",
            "bytes_encrypted": size if status == "Encrypted" else 0,
            "bytes_unencrypted": size if status != "Encrypted" else 0,
        }
        for vnet, subnet, dst_vnet, dst_subnet, status, size in rows
    ]
    return pl.LazyFrame(made, schema=columns)


def test_vnets_of_one_name_stay_apart() -> None:
    """Two VNets called the same, in two subscriptions: neither may hide what the other one does."""
    hub, first, second = "s0/rg/hub", "s1/rg/spoke", "s2/rg/spoke"
    pairs = pairs_of([(first, "a", hub, "x", "Encrypted", 5), (second, "a", hub, "x", "Unencrypted", 7)])
    vnets = charts.encryption_vnets(pairs).collect()
    assert vnets.select("source", "target", "encryption_status").rows() == [
        ("s2/rg/spoke", "hub", "Unencrypted"),
        ("s1/rg/spoke", "hub", "Encrypted"),
    ]
    assert charts.encryption_matrix(pairs).collect()["source"].to_list() == ["s2/rg/spoke/a", "s1/rg/spoke/a"]


def test_one_vnet_has_no_matrix_of_vnets() -> None:
    pairs = pairs_of([("s/rg/one", "a", "s/rg/one", "b", "Encrypted", 5)])
    assert charts.encryption_vnets(pairs).collect().is_empty()
    assert charts.encryption_matrix(pairs).collect().select("source", "target").rows() == [("a", "b")]


def test_what_a_matrix_leaves_out_is_added_up_in_others() -> None:
    rows, columns = charts.MATRIX_DRAWN
    sources, targets = rows + 7, columns + 5
    # One pair in clear at the very end, which comes first, and one that is mixed.
    status = {(sources - 1, 3): "Unencrypted", (sources - 2, targets - 1): "Mixed"}
    pairs = pairs_of(
        [
            ("v", f"from-{n:02}", "v", f"to-{m:02}", status.get((n, m), "Encrypted"), 1000 * n + m)
            for n in range(sources)
            for m in range(targets)
        ]
    )
    matrix = charts.encryption_matrix(pairs).collect()
    whole = pairs.collect()
    assert matrix["source"].n_unique() == rows and matrix["target"].n_unique() == columns
    assert matrix["source"][0] == f"from-{sources - 1}"
    assert f"{sources - rows + 1} others" in set(matrix["source"])
    assert f"{targets - columns + 1} others" in set(matrix["target"])
    for name in ("bytes_encrypted", "bytes_unencrypted"):
        assert matrix[name].sum() == whole[name].sum()
    assert matrix["pairs"].sum() == whole.height
    # A cell of others tells what its own pairs are, worked out from the pairs themselves.
    hidden = whole.filter(
        ~pl.col("src_subnet").is_in(matrix["source"].unique().to_list()),
        ~pl.col("dst_subnet").is_in(matrix["target"].unique().to_list()),
    )
    corner = matrix.filter(pl.col("source").str.ends_with("others"), pl.col("target").str.ends_with("others"))
    assert corner["pairs"].to_list() == [hidden.height]
    assert corner["bytes_encrypted"].to_list() == [hidden["bytes_encrypted"].sum()]


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


def test_countries_add_up_to_the_table(report: fl.Report) -> None:
    table = report.tables["unexpected_destinations"]
    assert charts.destination_countries(table.lazy()).collect().is_empty()
    known = pl.col("dst_ip").replace_strict({"203.0.113.77": "NL", "198.51.100.23": "NL"}, default=None)
    placed = table.with_columns(country=known)
    found = charts.destination_countries(placed.lazy()).collect()
    assert set(found["country"]) == {"NL", None}
    assert found["flows"].sum() == table["flows"].sum()
    (dutch,) = found.filter(country="NL").iter_rows(named=True)
    own = placed.filter(country="NL")
    assert dutch["bytes"] == own["bytes_sent"].sum() + own["bytes_received"].sum() > 0
    assert dutch["addresses"] == 2


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
