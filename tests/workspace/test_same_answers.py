"""A workspace gives what an export of its rows gives."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pytest

from flowlens.cli import DONE
from tests import truth
from tests.flow_logs import SAMPLE, run
from tests.older_rows import older_rows
from tests.workspace.server import WORKSPACE, Logs, older_table

EXPORT = SAMPLE / "traffic_analytics" / "ntanetanalytics.json"
SEEDS = range(50) if os.environ.get("WORKSPACE_LONG") else (5, 9)
DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")


def analyzed(source: object, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of analyze and its JSON without what names the source."""
    ran = run("analyze", str(source), *arguments, "--format", "json")
    assert ran.stdout, ran.err
    document = ran.document
    del document["settings"], document["ledger"]
    return ran.code, document


def test_sample_logs_give_the_same_answers_as_their_export(logs: Logs) -> None:
    logs.tables["NTANetAnalytics"].add(json.loads(EXPORT.read_bytes()))
    code, expected = analyzed(EXPORT, *DAY)
    assert (code, len(expected["findings"]) > 5) == (DONE, True)
    assert analyzed(f"workspace:{WORKSPACE}", *DAY, *logs.options) == (code, expected)


@pytest.mark.slow
def test_the_older_table_gives_the_same_flows(logs: Logs) -> None:
    table = older_table()
    logs.tables[table.name] = table
    table.add(older_rows())
    source = f"workspace:{WORKSPACE}/AzureNetworkAnalytics_CL"
    ran = run("compare", EXPORT, source, *DAY, *logs.options, "--format", "json")
    assert (ran.code, ran.document["verdict"]["status"]) == (DONE, "agree"), ran.err
    assert ran.document["equal"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_blobs_and_workspace_agree_on_invented_networks(logs: Logs, seed: int, tmp_path: Path) -> None:
    network = truth.generate(seed, window=False)
    network.write_blobs(tmp_path / "blobs")
    network.write_traffic_analytics(tmp_path / "rows.json")
    logs.tables["NTANetAnalytics"].add(json.loads((tmp_path / "rows.json").read_bytes()))
    hour = dt.timedelta(hours=1)
    window = ("--start", (network.start - hour).isoformat(), "--end", (network.end + 2 * hour).isoformat())
    source = f"workspace:{WORKSPACE}"
    found, expected = analyzed(source, *window, *logs.options), analyzed(tmp_path / "rows.json", *window)
    for _, document in (found, expected):
        # The intervals of an hour come as one row, so a flow that began in one interval and carried something in the next is one
        # with traffic, as it is in the blobs.
        for row in document["tables"]["encryption_status"]:
            del row["flows_encrypted"], row["flows_unencrypted"]
    assert found == expected
    ran = run("compare", tmp_path / "blobs", source, *window, *logs.options, "--format", "json")
    assert (ran.code, ran.document["verdict"]["status"], ran.document["tables"]) == (DONE, "agree", {"differences": []})
