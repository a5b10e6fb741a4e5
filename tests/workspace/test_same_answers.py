"""A workspace gives what an export of its rows gives."""

from __future__ import annotations

import json
from typing import Any

from flowlens.cli import DONE
from tests.flow_logs import SAMPLE, run
from tests.workspace.server import WORKSPACE, Logs

EXPORT = SAMPLE / "traffic_analytics" / "ntanetanalytics.json"
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
