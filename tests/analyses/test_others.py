"""Millions of destinations: the largest are listed, the others are added up, and every sum stays what it was."""

from __future__ import annotations

import datetime as dt
import io
import random
from pathlib import Path

import polars as pl
import pytest

import flowlens as fl
from bench.generate import BLOBS, Expected, Order, generate
from flowlens import schema
from flowlens.analyses.charts import OTHERS
from flowlens.analyses.others import MOST_DESTINATIONS, largest_and_others
from flowlens.learning import draft
from flowlens.outputs import OUTPUTS
from flowlens.verdicts import table_metrics

SCHEMA = schema.polars_schema(schema.RESULTS["unexpected_destinations"])
KEY = ["vnet", "subnet", "workload", "dst_ip", "dst_port", "protocol"]
NOON = dt.datetime(2026, 6, 15, 12, tzinfo=dt.UTC)


def rows(count: int, seed: int = 1) -> pl.DataFrame:
    """Destinations of three workloads, some with counters, some new."""
    chance = random.Random(seed)
    return pl.DataFrame(
        [
            {
                "vnet": "v",
                "subnet": chance.choice(["a", None]),
                "workload": f"w{number % 3}",
                "dst_ip": f"20.0.{number // 256}.{number % 256}",
                "dst_port": chance.choice([443, None]),
                "protocol": "TCP",
                "service_tag": chance.choice(["Storage", None]),
                "flows": 1 + chance.randrange(4),
                "bytes_sent": chance.choice([chance.randrange(1000), None]),
                "bytes_received": chance.choice([chance.randrange(1000), None]),
                "first_seen": NOON + dt.timedelta(seconds=chance.randrange(60)),
                "last_seen": NOON + dt.timedelta(seconds=60 + chance.randrange(60)),
                "is_new": chance.choice([True, False]),
                "reason": "because",
                "destinations": 1,
            }
            for number in range(count)
        ],
        schema=SCHEMA,
        orient="row",
    )


def sums(table: pl.DataFrame) -> tuple[object, ...]:
    return table.select(
        pl.col("flows", "bytes_sent", "bytes_received", "destinations").sum(),
        pl.col("first_seen").min(),
        pl.col("last_seen").max(),
        new=pl.col("destinations").filter("is_new").sum(),
    ).row(0)


def test_few_destinations_stay_as_they_are() -> None:
    table = rows(50)
    assert largest_and_others([table[:20], table[20:]], 50).equals(table)


@pytest.mark.parametrize("size", [7, 40, 100])
def test_the_largest_stay_and_the_others_add_up_however_they_come(size: int) -> None:
    table = rows(100)
    found = largest_and_others((table[start : start + size] for start in range(0, 100, size)), 10)
    listed = found.filter(pl.col("dst_ip").is_not_null())
    carried = pl.sum_horizontal("bytes_sent", "bytes_received")
    order = table.sort("is_new", carried, "flows", *KEY, descending=[True] * 3 + [False] * 6, nulls_last=True)
    assert listed.sort(KEY).equals(order.head(10).sort(KEY))
    assert sums(found) == sums(table)
    others = found.filter(pl.col("dst_ip").is_null())
    assert (
        others["dst_port"].null_count()
        == others.height
        == others.unique(["subnet", "workload", "service_tag", "is_new"]).height
    )
    assert others["destinations"].sum() == 90


def test_what_was_never_counted_stays_unknown() -> None:
    table = rows(5).with_columns(pl.lit(None, pl.Int64).alias("bytes_sent"))
    assert largest_and_others([table], 1)["bytes_sent"].null_count() > 1


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> tuple[fl.Scan, Expected]:
    """A NIC that scans the Internet: some more destinations than are listed. It is read once for all."""
    folder = tmp_path_factory.mktemp("scan")
    expected = generate(folder, Order("scan", 18))
    return fl.scan(folder / BLOBS), expected


@pytest.mark.slow
def test_a_scan_of_the_internet_has_rows_of_others(scanned: tuple[fl.Scan, Expected]) -> None:
    scan, expected = scanned
    web = "UserRule_AllowWebOutBound"
    report = fl.report(scan, questions=["unexpected_destinations"])
    table = report.tables["unexpected_destinations"]
    others = table.filter(pl.col("dst_ip").is_null())
    every = expected.rule_tuples[web]
    assert table.height - others.height == MOST_DESTINATIONS < every
    assert (
        table["destinations"].sum()
        == every
        == table_metrics({"unexpected_destinations": table})["unexpected_destinations"]
    )
    assert table["bytes_sent"].sum() + table["bytes_received"].sum() == expected.rule_bytes[web]
    assert f"{every} destination(s) are listed" in report.verdicts["unexpected_destinations"].text
    assert report.notes == (
        f"100,000 of {every:,} destinations are listed, the largest; the others are added up in {others.height} row(s).",
    )
    groups = report.charts["destination_groups"].collect()
    untagged = others.filter(pl.col("service_tag").is_null())
    assert groups.filter(group=OTHERS)["addresses"].to_list() == [untagged["destinations"].sum()]
    assert groups["bytes"].sum() == expected.rule_bytes[web]
    for face in ("markdown", "html", "json"):
        file = io.BytesIO()
        OUTPUTS[face](report, file)
        assert b"100,000 of " in file.getvalue()
    assert "None" not in draft(report)


@pytest.mark.slow
def test_others_that_nobody_expected_are_a_finding_each_and_count_in_full(
    scanned: tuple[fl.Scan, Expected], tmp_path: Path
) -> None:
    scan, expected = scanned
    listed = tmp_path / "expected.toml"
    listed.write_text('[[expected]]\nprefix = "192.0.2.0/24"\n', encoding="utf-8")
    report = fl.report(scan, questions=["unexpected_destinations"], expected=listed)
    every = expected.rule_tuples["UserRule_AllowWebOutBound"]
    assert report.metrics["unexpected_destinations"] == every
    assert report.verdicts["unexpected_destinations"].text.startswith(f"{every} destination(s) nobody")
    subjects = [finding.subject for finding in report.findings]
    told = report.tables["unexpected_destinations"].filter(pl.col("dst_ip").is_null())["destinations"].sum()
    assert sum(int(s.split()[0]) for s in ", ".join(subjects).split(", ") if "other destinations" in s) == told > 0
