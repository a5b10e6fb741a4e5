"""Rows of AzureNetworkAnalytics_CL, which Traffic Analytics writes of NSG flow logs, are read as those of the newer table."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from pathlib import Path

import polars as pl
import pytest

import flowlens as fl
from flowlens.cli import DONE
from flowlens.formats.older_rows import NEWER_NAMES
from flowlens.query_check import check_query, tables
from flowlens.sources.slices import Slice
from flowlens.workspace_rows import text_of
from tests.flow_logs import run
from tests.older_rows import COLUMNS, EXPORT, older_rows

KEY = ["mac_address", "direction", "src_ip", "dst_ip", "dst_port", "protocol", "flow_status", "first_seen"]
SUMS = [
    "flows_started",
    "flows_ended",
    "flows_denied",
    "packets_sent",
    "bytes_sent",
    "packets_received",
    "bytes_received",
]


def written(folder: Path, shape: str) -> Path:
    rows = older_rows()
    path = folder / f"rows.{shape}"
    if shape == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif shape == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8")
    else:
        columns = [{"name": name, "type": "string"} for name in rows[0]]
        table = {"name": "PrimaryResult", "columns": columns, "rows": [list(row.values()) for row in rows]}
        path.write_text(json.dumps({"tables": [table]}), encoding="utf-8")
    return path


def sums(source: Path) -> list[tuple[object, ...]]:
    rows = fl.scan(source).conversations.group_by(KEY).agg(pl.col(SUMS).sum()).select(*KEY, *SUMS)
    return rows.sort(*KEY, *SUMS, nulls_last=True).collect().rows()


@pytest.mark.parametrize("shape", ["json", "csv", "answer"])
def test_the_same_traffic_gives_the_same_conversations(shape: str, tmp_path: Path) -> None:
    path = written(tmp_path, shape)
    assert sums(path) == sums(EXPORT)
    ledger = fl.scan(path).ledger
    assert (ledger.rejected, ledger.rejected_records, ledger.balanced) == (0, 0, True)


def test_names_are_those_of_the_schema_page() -> None:
    assert {name for name in NEWER_NAMES if name not in ("Subscription1_s", "Subscription2_s")} <= set(
        tables()["AzureNetworkAnalytics_CL"]
    )
    newer = {"AclRule": "NsgRule"}
    assert {name: newer.get(meant, meant) for name, meant in COLUMNS.items()}.items() <= NEWER_NAMES.items()


def test_workloads_and_rules_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "json")
    found, expected = (
        dict(fl.scan(source).inventory.select("address", "workload").rows()) for source in (path, EXPORT)
    )
    # The older table has no column for private endpoints.
    assert {address: name for address, name in expected.items() if found[address] != name} == {
        "10.10.5.4": "rg-app/pe-storage"
    }
    assert {row["acl_rule"] for row in fl.rule_usage(fl.scan(path)).collect().to_dicts()} >= {"denyinternet443"}


def test_a_migration_is_compared_by_what_both_have(tmp_path: Path) -> None:
    window = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")
    ran = run("compare", EXPORT, written(tmp_path, "json"), *window, "--format", "json")
    assert (ran.code, ran.document["verdict"]["status"]) == (DONE, "agree")
    assert not {"encryption_code", "target_resource_id"} & set(ran.document["compared"])


@pytest.mark.slow
def test_the_query_over_the_older_table_passes_the_language_service() -> None:
    start = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
    checked = check_query(text_of("AzureNetworkAnalytics_CL")(Slice(start, start + dt.timedelta(hours=1))))
    assert checked.diagnostics == ()
