"""What a workspace refuses is one line with the next step; what it can not give whole is told by window."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from flowlens.cli import DONE, ERROR, INCOMPLETE, WRONG_USAGE
from flowlens.errors import ConfigError
from flowlens.sources import slices
from flowlens.sources.accounts import Access
from flowlens.sources.workspace import frame_of, parse_workspace
from tests.flow_logs import SAMPLE, run
from tests.workspace import server
from tests.workspace.server import WORKSPACE, Asked, Logs, Told

SOURCE = f"workspace:{WORKSPACE}"
EXPORT = SAMPLE / "traffic_analytics" / "ntanetanalytics.json"
DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")
HOUR = ("--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")


def told(*arguments: str) -> tuple[int, list[str]]:
    """Exit code and what is said of the error: its line and its hint."""
    ran = run("coverage", *arguments)
    assert ran.out == ""
    return ran.code, ran.err.splitlines()


def table(rows: list[Any]) -> dict[str, Any]:
    """An answer of one column, where more were asked for."""
    return {"tables": [{"name": "PrimaryResult", "columns": [{"name": "mark", "type": "datetime"}], "rows": rows}]}


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Told(404, server.NO_WORKSPACE), "FL-W03", "Workspace ID"),
        (Told(403, server.NO_ROLE), "FL-W04", "Log Analytics Reader"),
        (Told(400, server.no_table("NTANetAnalytics")), "FL-W05", "enable it on a flow log"),
        (Told(400, server.BASIC_PLAN), "FL-W06", "plan to Analytics"),
        (Told(401, server.WRONG_TOKEN), "FL-W07", "--cloud"),
        (Told(403, server.WRONG_TOKEN), "FL-W07", "--cloud"),
        (Told(400, server.error("BadArgumentError", "no", ("SEM0001", "odd [31m"))), "FL-W08", "Logs page"),
        (Told(200, {"tables": []}), "FL-W14", "proxy"),
        (Told(200, ["no object"]), "FL-W14", "proxy"),
        (Told(200, table([])), "FL-W14", "proxy"),
        (Told(200, table([1])), "FL-W14", "proxy"),
        (Told(200, table([[None]])), "FL-W14", "proxy"),
        (Told(307, None, {"Location": "https://elsewhere.example/"}), "FL-S25", "proxy"),
    ],
    ids=[
        "workspace",
        "role",
        "table",
        "plan",
        "token",
        "token 403",
        "query",
        "empty",
        "other",
        "columns",
        "rows",
        "null",
        "redirect",
    ],
)
def test_each_refusal_is_one_line_with_the_next_step(logs: Logs, fault: Told, code: str, words: str) -> None:
    logs.fault = lambda _asked: fault
    exit_code, (problem, hint) = told(SOURCE, *HOUR, *logs.options)
    assert exit_code == ERROR
    assert problem.startswith(f"error: {SOURCE}: {code} ")
    assert hint.startswith("  hint: ")
    assert words in hint
    assert "\x1b" not in problem
    assert len(logs.asked) == 1


def test_the_identity_that_lacks_the_role_is_named(logs: Logs) -> None:
    logs.fault = lambda _asked: Told(403, server.NO_ROLE)
    _, (_, hint) = told(SOURCE, *HOUR, *logs.options)
    assert "EnvironmentCredential (application" in hint


def test_another_workspace_is_none(logs: Logs) -> None:
    other = "workspace:00000000-bbbb-cccc-dddd-eeeeeeeeeeee"
    exit_code, (problem, _) = told(other, *HOUR, *logs.options)
    assert (exit_code, "FL-W03" in problem) == (ERROR, True)


def test_a_workspace_without_traffic_analytics_is_told(logs: Logs) -> None:
    logs.tables.clear()
    exit_code, (problem, _) = told(SOURCE, *HOUR, *logs.options)
    assert (exit_code, "has no table NTANetAnalytics" in problem) == (ERROR, True)


def test_a_certificate_that_nobody_trusts_names_the_option(logs: Logs) -> None:
    exit_code, (_, hint) = told(SOURCE, *HOUR, "--auth", "environment", "--account-url", logs.endpoint)
    assert (exit_code, "--ca-file" in hint) == (ERROR, True)


def test_an_endpoint_where_nobody_listens_is_told(logs: Logs) -> None:
    options = [option.replace(f":{logs.port}", ":9") for option in logs.options]
    exit_code, (problem, hint) = told(SOURCE, *HOUR, *options)
    assert (exit_code, "FL-W13" in problem, "private link" in hint) == (ERROR, True, True)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("workspace:", "names no workspace"),
        ("workspace:law-1", "names no workspace"),
        (f"workspace:{WORKSPACE}/NTANetAnalytic", "did you mean NTANetAnalytics"),
        ("workspace:/subscriptions/1/x", "names no workspace"),
        (f"workspace:{server.RESOURCE}/../x", "names no workspace"),
        (f"workspace:{server.RESOURCE}?a=1", "names no workspace"),
    ],
)
def test_an_address_that_is_none_is_wrong_usage(source: str, words: str) -> None:
    exit_code, (problem, hint) = told(source, *HOUR)
    assert exit_code == WRONG_USAGE
    assert words in problem
    assert "workspace:GUID" in hint


def test_keys_are_for_storage_accounts() -> None:
    exit_code, (problem, _) = told(SOURCE, *HOUR, "--auth", "key")
    assert (exit_code, "FL-W02" in problem) == (WRONG_USAGE, True)


def test_doctor_says_who_asks_and_how_much_there_is(logs: Logs) -> None:
    logs.tables["NTANetAnalytics"].add(json.loads(EXPORT.read_bytes()))
    ran = run("doctor", SOURCE, *DAY, *logs.options)
    assert (ran.code, "query: yes" in ran.out) == (DONE, True), ran.err
    assert "identity: EnvironmentCredential (application" in ran.out
    assert "508 flow row(s) of NTANetAnalytics in 10 hour(s)" in ran.out
    assert len(logs.asked) == 1
    logs.fault = lambda _asked: Told(403, server.NO_ROLE)
    ran = run("doctor", SOURCE, *DAY, *logs.options)
    assert (ran.code, "Log Analytics Reader" in ran.err, "query: yes" in ran.out) == (ERROR, True, False)


def test_each_cloud_has_its_own_endpoint() -> None:
    found = {cloud: parse_workspace(SOURCE, Access(cloud=cloud)).endpoint for cloud in ("global", "usgov", "china")}
    assert found == {
        "global": "https://api.loganalytics.io",
        "usgov": "https://api.loganalytics.us",
        "china": "https://api.loganalytics.azure.cn",
    }
    with pytest.raises(ConfigError, match="plain http"):
        parse_workspace(SOURCE, Access(account_url="http://localhost:1"))


def test_a_window_needs_a_start(logs: Logs) -> None:
    exit_code, (problem, _) = told(SOURCE, "--end", "2026-06-16T00:00Z", *logs.options)
    assert (exit_code, "--start" in problem) == (WRONG_USAGE, True)


def test_blobs_beside_a_workspace_are_pointed_to_compare(logs: Logs) -> None:
    exit_code, (problem, hint) = told(SOURCE, str(SAMPLE), *DAY, *logs.options)
    assert (exit_code, "same traffic" in problem, "compare" in hint) == (ERROR, True, True)


def test_a_workspace_holds_no_flow_tuples(logs: Logs) -> None:
    ran = run("flows", SOURCE, *DAY, *logs.options)
    assert (ran.code, "keeps no flow tuples" in ran.err) == (ERROR, True)


def test_nothing_in_the_window_is_nothing_selected(logs: Logs) -> None:
    ran = run("coverage", SOURCE, *HOUR, *logs.options)
    assert (ran.code, "nothing was selected" in ran.err) == (INCOMPLETE, True)
    assert "no flow rows of NTANetAnalytics in this window" in ran.out


@pytest.mark.slow
def test_a_workspace_given_twice_is_read_once(logs: Logs) -> None:
    logs.tables["NTANetAnalytics"].add(json.loads(EXPORT.read_bytes()))
    once, twice = (
        run("rules", *sources, *DAY, *logs.options, "--format", "csv") for sources in ([SOURCE], [SOURCE] * 2)
    )
    assert (once.code, once.stdout) == (DONE, twice.stdout)


def test_of_two_workspaces_the_one_that_answers_is_read_and_the_other_counted(logs: Logs) -> None:
    logs.tables["NTANetAnalytics"].add(json.loads(EXPORT.read_bytes()))
    other = "workspace:00000000-bbbb-cccc-dddd-eeeeeeeeeeee"
    ran = run("coverage", SOURCE, other, *DAY, *logs.options, "--format", "json")
    assert ran.code == INCOMPLETE
    assert ran.document["ledger"]["rows"] > 100
    assert any(other in note and "FL-W03" in note for note in ran.document["ledger"]["notes"])


@pytest.mark.slow
def test_hours_that_could_not_be_read_are_named(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "MOST_SLICES", 2)
    logs.tables["NTANetAnalytics"].add(json.loads(EXPORT.read_bytes()))
    nine, ten = (dt.datetime(2026, 6, 15, hour, tzinfo=dt.UTC) for hour in (9, 10))

    def after(asked: Asked, rows: list[list[object]]) -> Told | list[list[object]]:
        inside = not asked.is_count and any(str(row[0]).startswith("2026-06-15T09") for row in rows if len(row) > 9)
        return server.partial(["hour"], []) if inside else rows

    logs.after = after
    ran = run("coverage", SOURCE, *DAY, *logs.options, "--format", "json")
    assert ran.code == INCOMPLETE
    ledger = ran.document["ledger"]
    assert ledger["complete"] is False
    assert {reject["reason"][:25] for reject in ledger["rejects"]} == {f"{nine.isoformat()}"}
    assert all("FL-W09" in reject["reason"] for reject in ledger["rejects"])
    states = {row["hour"]: set() for row in ran.document["tables"]["coverage"]}
    for row in ran.document["tables"]["coverage"]:
        states[row["hour"]].add(row["state"])
    assert states[f"{nine:%Y-%m-%dT%H:%M:%S}Z"] == {"failed"}
    assert states[f"{ten:%Y-%m-%dT%H:%M:%S}Z"] <= {"read", "silent"}


@pytest.mark.slow
def test_rows_that_arrive_a_day_late_are_read(logs: Logs) -> None:
    rows = json.loads(EXPORT.read_bytes())
    late = dt.timedelta(hours=20)
    for row in rows[::2]:
        row["TimeGenerated"] = (dt.datetime.fromisoformat(row["TimeGenerated"]) + late).isoformat()
    logs.tables["NTANetAnalytics"].add(rows)
    ran = run("rules", SOURCE, *DAY, *logs.options, "--format", "csv")
    assert ran.stdout == run("rules", str(EXPORT), *DAY, "--format", "csv").stdout


@pytest.mark.parametrize(
    ("kind", "cells"),
    [("datetime", ["no time"]), ("long", ["1"]), ("bool", [3]), ("real", ["many"]), ("string", [1, 2])],
)
def test_cells_of_other_types_are_refused_and_never_bent(kind: str, cells: list[object]) -> None:
    rows = [[*cells]] if kind == "string" else [[cell] for cell in cells]
    with pytest.raises((ValueError, TypeError)):
        frame_of([{"name": "a", "type": kind}], rows)


def test_values_come_by_their_types() -> None:
    columns = [{"name": n, "type": n} for n in ("long", "int", "real", "bool", "datetime", "string", "dynamic", "guid")]
    rows = [
        [2**53 + 1, 1, 0.5, True, "2026-06-15T09:00:00.1234567Z", "a", {"b": 1}, "c"],
        [None, None, "NaN", None, None, None, None, None],
    ]
    first, second = frame_of(columns, rows).rows()
    time = dt.datetime(2026, 6, 15, 9, 0, 0, 123456, dt.UTC)
    assert first == (2**53 + 1, 1, 0.5, True, time, "a", '{"b": 1}', "c")
    assert second[2] != second[2]
    assert [value for n, value in enumerate(second) if n != 2] == [None] * 7
