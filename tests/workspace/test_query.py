"""`flowlens query NAME --workspace`: the query's own rows, whole, with gates and exit codes for a schedule."""

from __future__ import annotations

import datetime as dt
import json

import pytest

import flowlens as fl
from flowlens.cli import DONE, ERROR, GATE_FIRED, INCOMPLETE, WRONG_USAGE
from flowlens.queries import find_query, part_of, query_names
from flowlens.query_check import check_query
from flowlens.sources.accounts import Access
from tests.flow_logs import SAMPLE, run
from tests.workspace import server
from tests.workspace.server import RESOURCE, WORKSPACE, Asked, Logs, Told

EXPORT = SAMPLE / "traffic_analytics" / "ntanetanalytics.json"
DAY = ("--start", "2026-06-15T00:00Z", "--end", "2026-06-16T00:00Z")
SOURCE = ("--workspace", WORKSPACE)


@pytest.fixture
def filled(logs: Logs) -> Logs:
    logs.tables["NTANetAnalytics"].add(json.loads(EXPORT.read_bytes()))
    return logs


@pytest.mark.slow
def test_rules_are_those_of_the_analysis(filled: Logs) -> None:
    ran = run("query", "rule_usage", *SOURCE, *DAY, *filled.options, "--format", "json")
    assert ran.code == DONE, ran.err
    expected = run("rules", str(EXPORT), *DAY, "--format", "json").document["tables"]["rule_usage"]
    found = ran.document["tables"]["rule_usage"]
    keys = ("acl_rule", "direction", "flows_allowed", "flows_denied", "bytes")
    assert sorted([[row[key] for key in keys] for row in found]) == sorted(
        [[row[key] for key in keys] for row in expected]
    )
    assert ran.document["metrics"]["rows"] == len(found) == ran.document["ledger"]["rows"]
    assert ran.document["window"] == {"start": "2026-06-15T00:00:00Z", "end": "2026-06-16T00:00:00Z"}
    assert ran.document["settings"]["identities"]


@pytest.mark.slow
def test_gates_fire_and_no_gate_is_zero(filled: Logs) -> None:
    asked = ("query", "encryption-status", *SOURCE, *DAY, *filled.options, "--format", "csv")
    ran = run(*asked, "--fail-on", "unencrypted > 0")
    assert (ran.code, "--fail-on: unencrypted > 0" in ran.err) == (GATE_FIRED, True)
    assert len(ran.out.splitlines()) == 15
    exact = fl.report(fl.scan(EXPORT)).metrics["unencrypted"]
    assert exact > 1
    assert run(*asked, "--fail-on", f"unencrypted == {exact}").code == GATE_FIRED
    assert run(*asked, "--fail-on", "rows > 100").code == DONE
    ran = run(*asked, "--fail-on", "denied_required")
    assert (ran.code, "no metric of encryption_status" in ran.err) == (WRONG_USAGE, True)


@pytest.mark.slow
def test_every_query_can_be_asked_in_parts() -> None:
    for name in query_names():
        query = find_query(name)
        own = {"slices", "slice"} <= {parameter.name for parameter in query.parameters}
        assert own != bool(query.order), name
        if query.order:
            checked = check_query(part_of(query, query.text, 2, 1))
            assert checked.diagnostics == (), name
            assert tuple(column for column, _ in checked.columns) == query.columns, name


def test_a_limit_of_memory_changes_no_row_and_one_too_low_is_refused_before_anything_is_asked(filled: Logs) -> None:
    asked = ("query", "rule_usage", *SOURCE, *DAY, *filled.options, "--format", "csv")
    ran = run(*asked, "--memory-limit", "100MB")
    assert (ran.code, "too low to work with" in ran.err, filled.asked) == (WRONG_USAGE, True, [])
    whole, limited = run(*asked), run(*asked, "--memory-limit", "800MB")
    assert (limited.code, limited.out) == (DONE, whole.out)


@pytest.mark.slow
def test_conversations_come_in_slices_and_none_is_lost(filled: Logs) -> None:
    whole = run("query", "conversations", "--resource-id", RESOURCE, *DAY, *filled.options, "--format", "csv")
    assert whole.code == DONE, whole.err
    # So that it is cut, and its halves hardly: each query takes the interpreter seconds.
    most = len(whole.out.splitlines()) * 2 // 3
    filled.after = lambda asked, rows: rows if asked.is_count else rows[:most]
    cut = run("query", "conversations", *SOURCE, *DAY, *filled.options, "--format", "csv")
    assert cut.code == DONE
    assert sorted(cut.out.splitlines()) == sorted(whole.out.splitlines())
    assert len(whole.out.splitlines()) > 300
    assert {asked.target for asked in filled.asked} == {RESOURCE, WORKSPACE}
    assert len({asked.span for asked in filled.asked}) > 2


@pytest.mark.slow
def test_a_result_that_one_answer_cannot_hold_comes_in_parts(filled: Logs) -> None:
    asked = ("query", "rule_usage", *SOURCE, *DAY, *filled.options, "--format", "csv")
    whole = run(*asked)
    # So that one of two parts is cut again: each query takes the interpreter seconds.
    most = (len(whole.out.splitlines()) - 1) // 2
    assert most > 10
    filled.asked.clear()
    # The first answers are cut with a word, those of the parts in silence.
    first = [True]

    def after(asked: Asked, rows: list[list[object]]) -> Told | list[list[object]]:
        if asked.is_count or len(rows) <= most:
            return rows
        if "result_part" not in asked.query and first.pop():
            return server.partial(["a"], rows[:most])
        return rows[:most]

    filled.after = after
    cut = run(*asked)
    assert (cut.code, cut.out) == (DONE, whole.out), cut.err
    assert sum("result_parts" in each.query for each in filled.asked) > 4
    assert {each.prefer for each in filled.asked} == {"wait=600"}


def test_a_part_that_stays_away_is_an_error_and_never_fewer_rows(filled: Logs) -> None:
    def after(asked: Asked, rows: list[list[object]]) -> Told | list[list[object]]:
        if "result_part " not in asked.query:
            return rows if asked.is_count else server.partial(["a"], rows[:1])
        if "let result_part = long(1);" not in asked.query:
            return rows
        return [[0]] if asked.is_count else []

    filled.after = after
    ran = run("query", "rule_usage", *SOURCE, *DAY, *filled.options)
    assert (ran.code, ran.out) == (ERROR, "")
    assert "as the workspace counts them, found" in ran.err


@pytest.mark.parametrize(
    "told",
    [
        Told(504, server.TIMED_OUT),
        Told(400, server.error("BadRequest", "x", ("E_LOW_MEMORY_CONDITION", "exceeded memory budget"))),
        Told(200, {"tables": [], **server.error("PartialError", "x", ("QueryTimeout", "query execution timed out"))}),
    ],
    ids=["time-out", "memory", "partial by time"],
)
def test_what_is_too_much_for_one_query_is_an_error_with_the_way_out(filled: Logs, told: Told) -> None:
    filled.fault = lambda _asked: told
    ran = run("query", "rule_usage", *SOURCE, *DAY, *filled.options)
    assert (ran.code, ran.out) == (ERROR, "")
    assert "FL-W16" in ran.err
    assert f"flowlens analyze workspace:{WORKSPACE}" in ran.err
    # Parts of the result would take as long.
    assert len(filled.asked) == 1


def test_of_two_workspaces_one_that_refuses_makes_it_incomplete(filled: Logs) -> None:
    other = "00000000-bbbb-cccc-dddd-eeeeeeeeeeee"
    ran = run("query", "rule_usage", *SOURCE, "--workspace", other, *DAY, *filled.options, "--format", "json")
    assert (ran.code, ran.document["metrics"]["incomplete"]) == (INCOMPLETE, 1)
    ran = run("query", "rule_usage", "--workspace", other, *DAY, *filled.options)
    assert (ran.code, "FL-W03" in ran.err) == (ERROR, True)


@pytest.mark.slow
def test_the_default_window_is_said(filled: Logs) -> None:
    ran = run("query", "rule_usage", *SOURCE, *filled.options, "--format", "json")
    assert (ran.code, ran.document["metrics"]["rows"]) == (DONE, 0)
    assert "the default for a workspace" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rule_usages", *SOURCE), "did you mean rule_usage?"),
        (("rule_usage", *SOURCE, "--set", "start=2026-06-15T00:00Z"), "--start"),
        (("rule_usage", *SOURCE, "--set", "slices=2"), "no parameter"),
        (("rule_usage", "--workspace", "law-1"), "FL-W01"),
        (("rule_usage", *DAY), "--workspace"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_asked(arguments: tuple[str, ...], words: str) -> None:
    ran = run("query", *arguments)
    assert (ran.code, words in ran.err) == (WRONG_USAGE, True)


@pytest.mark.slow
def test_a_notebook_gets_a_frame(filled: Logs) -> None:
    access = Access(auth="environment", account_url=filled.endpoint, ca_file=filled.ca_file)
    start = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
    result = fl.run_query("coverage", workspace=WORKSPACE, start=start, end=start + dt.timedelta(days=1), access=access)
    assert {"read", "missing"} <= set(result.rows["state"])
    assert result.ledger.complete
