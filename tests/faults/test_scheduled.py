"""A scheduled report over a storage account and a workspace: all outputs, the exit code of its gates, and the next day the difference."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from azure.core.exceptions import ResourceNotFoundError

from flowlens.outputs import OUTPUTS, SUFFIXES
from flowlens.outputs.tables import BY_TABLE
from flowlens.schedule import JOINED
from tests.faults.azurite import KEY, SECOND_ACCOUNT, Azurite, make_certificate
from tests.faults.conftest import Stored
from tests.faults.day import upload
from tests.faults.identity import identity_server
from tests.faults.loopback import Handler, serving
from tests.flow_logs import SAMPLE, Ran, run
from tests.make_logs import MACS, flow, write_blob
from tests.workspace.server import WORKSPACE, Logs, logs_server, newer_table

WEB, APP, KMS = "10.0.1.4", "10.0.2.4", "20.118.99.224"
KNOWN, STRANGE = "192.0.2.1", "198.51.100.9"
DAY_MS = 86_400_000


@dataclass
class World:
    """Logs in an account and a workspace, another account for reports, and where messages arrive."""

    folder: Path
    logs: Stored
    reports: Azurite
    workspace: Logs
    messages: list[dict[str, Any]]
    status: dict[str, int]

    def report(self, day: str, config: str = "report.toml") -> Ran:
        return run("report", self.folder / config, "--window", day)

    def kept(self) -> dict[str, bytes]:
        """What stands in the container for reports."""
        client = self.reports.service().get_container_client("reports")
        return {name: client.download_blob(name).readall() for name in client.list_blob_names()}


def write_day(folder: Path, out: list[str], *, shift: int) -> None:
    """The day of two NICs with an hour of traffic, ``shift`` days after 15 June; every other hour is there and empty."""
    plain = folder / f"plain-{shift}"
    for hour in range(24):
        encrypted = flow(WEB, APP, 443, code="X", minute=60 * (hour - 9) + 7)
        seen = flow(WEB, APP, 443, "I", code="X", minute=60 * (hour - 9) + 7)
        write_blob(plain, MACS[1], [encrypted, *out] if hour == 9 else [], hour=hour, rule="UserRule_Some")
        write_blob(plain, MACS[2], [seen] if hour == 9 else [], hour=hour)
    for path in plain.rglob("PT1H.json"):
        name = path.relative_to(plain).as_posix().replace("/d=15/", f"/d={15 + shift}/")
        text = path.read_text().replace("2026-06-15T", f"2026-06-{15 + shift}T")
        moved = folder / "logs" / name
        moved.parent.mkdir(parents=True, exist_ok=True)
        moved.write_text(re.sub(r"\b1781\d{9}\b", lambda found: str(int(found[0]) + shift * DAY_MS), text))


def rows_of_day(shift: int) -> list[dict[str, object]]:
    """The rows of sample_logs between VMs, ``shift`` days later."""
    text = (SAMPLE / "traffic_analytics" / "ntanetanalytics.json").read_text("utf-8")
    rows = json.loads(text.replace("2026-06-15T", f"2026-06-{15 + shift}T"))
    return [row for row in rows if row["FlowType"] == "IntraVNet" and row["FlowStatus"] == "Allowed"]


CONFIG = """
title = "Network, production"
timezone = "UTC"
profiles = ["windows-kms"]
fail_on = ["denied_required > 0", "new_destinations > 10", "unanswered > 0"]

[history]
blob = "{reports}/reports/history"
auth = "key"
secret_variable = "REPORTS_KEY"
account_url = "{reports}"

[[source]]
name = "blobs"
address = "{container}"
auth = "key"
account_url = "{account}"

[[source]]
name = "rows"
address = "workspace:{workspace}"
auth = "environment"
account_url = "{endpoint}"
ca_file = "{ca_file}"

[[output]]
blob = "{reports}/reports/{{window}}/report.md"
auth = "key"
secret_variable = "REPORTS_KEY"
account_url = "{reports}"

[[output]]
webhook = "teams"
url_variable = "TEAMS_URL"
only_new = true

[[output]]
webhook = "slack"
url_variable = "SLACK_URL"
"""


def files() -> Iterator[tuple[str, str]]:
    """A file of each format, by name."""
    suffix = {face: suffix for suffix, face in SUFFIXES.items()}
    for face in ("table", *OUTPUTS):
        apart = "" if face in JOINED else "-{section}"
        yield face, f"out/{{window}}{apart}-{face}/" if face in BY_TABLE else f"out/{{window}}{apart}{suffix[face]}"


@pytest.fixture
def world(stored: Stored, azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    reports = Azurite(azurite.port, account=SECOND_ACCOUNT)
    container = reports.container("reports")
    messages: list[dict[str, Any]] = []
    status = {"/teams/secret-of-teams": 202, "/slack/secret-of-slack": 200}

    class Hook(Handler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code = status.get(self.path, 404)
            if code < 300:
                messages.append({"path": self.path, "body": json.loads(body)})
            self.answer(code, b"ok")

    with ExitStack() as stack:
        tls = make_certificate(tmp_path / "tls")
        identity = stack.enter_context(identity_server(tls))
        workspace = stack.enter_context(logs_server(tls, [newer_table()]))
        port = stack.enter_context(serving(Hook))
        for name, value in identity.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("REPORTS_KEY", KEY)
        monkeypatch.setenv("TEAMS_URL", f"http://127.0.0.1:{port}/teams/secret-of-teams")
        monkeypatch.setenv("SLACK_URL", f"http://127.0.0.1:{port}/slack/secret-of-slack")
        text = CONFIG.format(
            reports=reports.account_url,
            container=stored.url,
            account=azurite.account_url,
            workspace=WORKSPACE,
            endpoint=workspace.endpoint,
            ca_file=workspace.ca_file,
        )
        text += "".join(f'\n[[output]]\nfile = "{name}"\nformat = "{face}"\n' for face, name in files())
        (tmp_path / "report.toml").write_text(text, encoding="utf-8")
        rows_only = text.index('[[source]]\nname = "rows"'), text.index("[[output]]")
        (tmp_path / "blobs.toml").write_text(text[: rows_only[0]] + text[rows_only[1] :], encoding="utf-8")
        refused, known = flow(WEB, KMS, 1688, state="D"), flow(WEB, KNOWN, 443)
        write_day(tmp_path, [refused, known], shift=0)
        write_day(tmp_path, [flow(WEB, KMS, 1688), known, flow(WEB, STRANGE, 22, minute=8)], shift=1)
        upload(tmp_path / "logs" / "insights-logs-flowlogflowevent", stored.client)
        for shift in (0, 1):
            workspace.tables["NTANetAnalytics"].add(rows_of_day(shift))
        yield World(tmp_path, stored, reports, workspace, messages, status)
    container.delete_container()


@pytest.mark.slow
def test_all_outputs_then_the_gate_and_the_next_day_the_difference(world: World) -> None:
    before = {blob.name: blob.etag for blob in world.logs.client.list_blobs()}
    checked = run("report", world.folder / "report.toml", "--check")
    assert (checked.code, "nothing is wrong" in checked.err) == (0, True), checked.err
    assert (world.workspace.asked, world.messages, world.kept()) == ([], [], {})

    first = world.report("2026-06-15")
    assert first.code == 1, first.err
    assert "fail_on: denied_required > 0 (blobs)\n" in first.err
    assert "everything counts as new" in first.err
    for face, name in files():
        for section in ("blobs", "rows"):
            path = world.folder / name.replace("{window}", "2026-06-15").replace("{section}", section)
            assert path.is_dir() if face in BY_TABLE else path.stat().st_size > 500, face
    kept = world.kept()
    assert set(kept) >= {"2026-06-15/report.md", "history/blobs/2026-06-15.json", "history/rows/2026-06-15.json"}
    assert b"# Network, production: blobs\n" in kept["2026-06-15/report.md"]
    assert b"# Network, production: rows\n" in kept["2026-06-15/report.md"]
    assert [message["path"].split("/")[1] for message in world.messages] == ["teams", "slack"]
    assert "denied_required" in json.dumps(world.messages[0])

    second = world.report("2026-06-16")
    assert second.code == 0, second.err
    document = json.loads((world.folder / "out" / "2026-06-16.json").read_bytes())
    assert list(document["sections"]) == ["blobs", "rows"]
    blobs, rows = document["sections"].values()
    states = {(finding["state"], finding["subject"].split(" ")[0]) for finding in blobs["findings"]}
    assert states == {("resolved", "KMS"), ("new", STRANGE)}
    assert blobs["window"] == {"start": "2026-06-16T00:00:00Z", "end": "2026-06-17T00:00:00Z"}
    assert rows["findings"] and {finding["state"] for finding in rows["findings"]} == {"ongoing"}
    # Never added up: each section has its own ledger.
    assert blobs["ledger"]["blobs"] != rows["ledger"]["blobs"]
    teams = json.dumps(world.messages[2]["body"])
    assert STRANGE in teams and "1 new" in teams and "ongoing" not in teams
    listed = pl.read_csv(world.folder / "out" / "2026-06-16-blobs-csv" / "unexpected_destinations.csv")
    assert listed.select("dst_ip", "is_new").rows() == [(KNOWN, False), (STRANGE, True)]

    # Nothing but reads and lists went to the account of the logs.
    assert {blob.name: blob.etag for blob in world.logs.client.list_blobs()} == before


@pytest.mark.slow
def test_the_same_window_again_replaces_and_sends_nothing_twice(world: World) -> None:
    for day in ("2026-06-15", "2026-06-16"):
        world.report(day, "blobs.toml")
    kept, sent = world.kept(), len(world.messages)
    on_disk = {path: path.read_bytes() for path in (world.folder / "out").rglob("*") if path.is_file()}
    again = world.report("2026-06-16", "blobs.toml")
    assert again.code == 0, again.err
    assert "the same message was sent for 2026-06-16 already" in again.err
    assert len(world.messages) == sent
    assert world.kept() == kept
    assert {path: path.read_bytes() for path in (world.folder / "out").rglob("*") if path.is_file()} == on_disk
    # Late logs change the day: the message goes out once more, and says so.
    (name,) = [n for n in world.logs.client.list_blob_names() if f"d=16/h=10/m=00/macAddress={MACS[1]}" in n]
    plain = write_blob(world.folder / "late", MACS[1], [flow(WEB, "203.0.113.9", 25, minute=70)], hour=10)
    text = re.sub(r"\b1781\d{9}\b", lambda found: str(int(found[0]) + DAY_MS), plain.read_text())
    world.logs.client.upload_blob(name, text.encode(), overwrite=True)
    assert world.report("2026-06-16", "blobs.toml").code == 0
    told = [json.dumps(message["body"]) for message in world.messages[sent:]]
    assert len(told) == 2 and all("again: it has changed" in text and "203.0.113.9" in text for text in told)


@pytest.mark.slow
def test_every_output_is_tried_and_no_secret_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.status["/teams/secret-of-teams"] = 404
    world.reports.service().get_container_client("reports").delete_container()
    ran = world.report("2026-06-15", "blobs.toml")
    assert ran.code == 3
    assert "error: teams (TEAMS_URL): answered HTTP 404" in ran.err
    # The history, the blob and the mark of the message that was sent after all.
    assert ran.err.count("/reports/history/") >= 2 and "/reports/2026-06-15/report.md: " in ran.err
    assert "secret-of" not in ran.err + ran.out and KEY not in ran.err + ran.out
    assert (world.folder / "out" / "2026-06-15.md").exists()
    with pytest.raises(ResourceNotFoundError):
        world.kept()
    world.reports.container("reports")
    assert [message["path"] for message in world.messages] == ["/slack/secret-of-slack"]
    assert "There is nothing to compare with." in ran.err


@pytest.mark.slow
def test_a_source_that_says_no_keeps_no_other_from_being_told(world: World) -> None:
    world.workspace.tables.clear()
    ran = world.report("2026-06-15")
    assert ran.code == 3
    assert "error: rows: workspace:" in ran.err
    document = json.loads((world.folder / "out" / "2026-06-15.json").read_bytes())
    assert document["settings"]["title"] == "Network, production: blobs"
    assert all("Not read: rows" in json.dumps(message["body"]) for message in world.messages)
