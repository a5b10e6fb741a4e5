"""A schedule's runs, as programs of their own: a managed identity, no terminal, no input, one document, an exit code that says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

from flowlens.cli import DONE, ERROR, GATE_FIRED, INCOMPLETE
from tests.faults.identity import Identity
from tests.flow_logs import SAMPLE, TOP
from tests.workspace import server
from tests.workspace.server import WORKSPACE, Logs, Told

DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")
SOURCE = f"workspace:{WORKSPACE}"
QUERY = ("query", "rule_usage", "--workspace", WORKSPACE)
# The lines for cron as the docs show them, but for the names of workspace, window, file and gate.
_OTHERS = r" (?:--window \S+|-o \S+|--fail-on '.*')"
LINES = [
    shlex.split(re.sub(_OTHERS, "", line.replace("11111111-2222-3333-4444-555555555555", WORKSPACE)))[1:]
    for line in (TOP / "docs" / "reading.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"flowlens (?:analyze workspace:|query ).* --fail-on '", line)
]


@pytest.fixture
def filled(logs: Logs) -> Logs:
    rows = json.loads((SAMPLE / "traffic_analytics" / "ntanetanalytics.json").read_bytes())
    logs.tables["NTANetAnalytics"].add(rows)
    return logs


def scheduled(logs: Logs, identity: Identity, *arguments: str) -> tuple[int, dict[str, Any] | None, str]:
    """Exit code, document and what was said of a run that can ask nobody anything."""
    names = ("AZURE_", "IDENTITY_", "MSI_", "IMDS_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    command = "import sys; from flowlens.__main__ import main; sys.argv[0] = 'flowlens'; main()"
    access = ("--auth", "managed-identity", "--account-url", logs.endpoint, "--ca-file", str(logs.ca_file))
    ran = subprocess.run(
        [sys.executable, "-c", command, *arguments, *DAY, *access, "--format", "json"],
        env=variables | identity.managed_identity(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=TOP,
        timeout=300,
        check=False,
    )
    return ran.returncode, json.loads(ran.stdout) if ran.stdout else None, ran.stderr.decode()


def test_the_docs_show_a_line_for_either_command() -> None:
    assert sorted(line[0] for line in LINES) == ["analyze", "query"]
    assert all({"--auth", "managed-identity", "--format", "json"} <= set(line) for line in LINES)


@pytest.mark.slow
@pytest.mark.parametrize("what", [(*line, "--fail-on") for line in LINES], ids=[line[0] for line in LINES])
def test_a_schedule_gets_one_document_and_an_exit_code(filled: Logs, identity: Identity, what: tuple[str, ...]) -> None:
    before = len(identity.asked)
    metric = "rows" if what[0] == "query" else "unencrypted"
    code, document, said = scheduled(filled, identity, *what, f"{metric} > 1000")
    assert (code, document is not None) == (DONE, True), said
    assert document is not None and document["ledger"]["complete"]
    code, document, said = scheduled(filled, identity, *what, f"{metric} > 1")
    assert (code, f"--fail-on: {metric} > 1" in said) == (GATE_FIRED, True)
    # The document of a report has findings and tables; that of a query the numbers that a gate can ask for.
    assert document is not None and (document["metrics"][metric] > 1 if what[0] == "query" else document["findings"])
    assert "ManagedIdentityCredential" in str(document["settings"]["identities"])
    assert set(identity.asked[before:]) == {"GET /msi/token"}


@pytest.mark.slow
def test_what_is_refused_is_an_error_without_a_document(filled: Logs, identity: Identity) -> None:
    filled.fault = lambda _asked: Told(403, server.NO_ROLE)
    code, document, said = scheduled(filled, identity, *QUERY)
    assert (code, document) == (ERROR, None)
    assert len(said.splitlines()) == 2 and "Log Analytics Reader" in said and "Traceback" not in said


@pytest.mark.slow
def test_nothing_in_the_window_is_told_by_the_exit_code(logs: Logs, identity: Identity) -> None:
    code, document, said = scheduled(logs, identity, "analyze", SOURCE)
    assert (code, document is not None) == (INCOMPLETE, True), said
