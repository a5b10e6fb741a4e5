"""The alert rules and the workbook of deploy/: what kql/ gives, in templates that hold together, with queries that run."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowlens import schema
from flowlens.queries import find_query
from flowlens.query_check import check_query
from flowlens.query_values import required_endpoints
from tests import kql_engine
from tests.arm import SUBSCRIPTION, Template

TOP = Path(__file__).resolve().parents[1]
ALERTS, WORKBOOK = TOP / "deploy" / "alerts" / "alerts.json", TOP / "deploy" / "workbook" / "flowlens.workbook"
QUESTIONS = {"encryption_status", "denied_egress", "unexpected_destinations", "rule_usage", "coverage"}
ROWS = json.loads((TOP / "sample_logs" / "traffic_analytics" / "ntanetanalytics.json").read_bytes())
WORKSPACE = f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.OperationalInsights/workspaces/w"
# The sample's day ends at 16:00; two hours later its rows are all there.
EVENING = dt.datetime(2026, 6, 15, 18, tzinfo=dt.UTC)
# An alert rule as a whole may not be larger: https://learn.microsoft.com/azure/azure-monitor/alerts/alerts-create-log-alert-rule
LARGEST_RULE = 64 * 1024


def rendered(**given: object) -> list[dict[str, Any]]:
    """The rules that a deployment of the alerts makes."""
    template = Template(json.loads(ALERTS.read_bytes()), {"workspaceId": WORKSPACE, "actionGroupIds": [], **given})
    made = template.resources()
    assert template.unused() == set()
    return made


def query_of(rule: Mapping[str, Any]) -> str:
    (condition,) = rule["properties"]["criteria"]["allOf"]
    return str(condition["query"])


def rule(question: str, **given: object) -> dict[str, Any]:
    """The rule of one question."""
    stem = question.replace("_", "-")
    (found,) = (one for one in rendered(**given) if one["name"] == f"flowlens-{stem}")
    return found


def items(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items of a workbook, those inside of groups among them."""
    return [one for part in parts for one in [part, *items(part["content"].get("items", []))]]


def in_the_workbook() -> list[dict[str, Any]]:
    return items(json.loads(WORKBOOK.read_bytes())["items"])


def filled(text: str, **values: str) -> str:
    """A query of the workbook as it is sent: what the reader chose in the place of its name."""
    chosen = {
        "TimeRange:startISO": "2026-06-15T06:00:00.000Z",
        "TimeRange:endISO": "2026-06-15T16:00:00.000Z",
        "Endpoints": json.dumps(required_endpoints(["windows-kms"]))[1:-1],
        "MoreEndpoints": "[]",
        "Expected": "[]",
    }
    for name, value in {**chosen, **values}.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def workbook_queries() -> dict[str, str]:
    return {one["name"]: one["content"]["query"] for one in in_the_workbook() if one["type"] == 3}


def rows(query: str, *, now: dt.datetime = EVENING) -> list[dict[str, Any]]:
    return kql_engine.executed(query, ROWS, now=now).to_dicts()


def test_what_stands_in_deploy_is_what_kql_gives() -> None:
    script = TOP / "scripts" / "build_deploy.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_is_an_alert_for_every_question() -> None:
    made = rendered(actionGroupIds=[f"{SUBSCRIPTION}/resourceGroups/rg/providers/microsoft.insights/actionGroups/mail"])
    assert {one["name"] for one in made} == {f"flowlens-{name.replace('_', '-')}" for name in QUESTIONS}
    for one in made:
        assert (one["type"], one["kind"]) == ("Microsoft.Insights/scheduledQueryRules", "LogAlert")
        assert one["properties"]["scopes"] == [WORKSPACE]
        assert [group.rpartition("/")[2] for group in one["properties"]["actions"]["actionGroups"]] == ["mail"]
        assert len(json.dumps(one["properties"])) < LARGEST_RULE


@pytest.mark.parametrize("window", ["PT1H", "PT2H", "PT6H", "P1D"])
def test_alerts_look_at_the_window_that_was_asked_for(window: str) -> None:
    for one in rendered(window=window):
        spans = {"PT1H": "1h", "PT2H": "2h", "PT6H": "6h", "P1D": "1d"}
        assert f"let start = bin(ago(2h), 1h) - {spans[window]};\n" in query_of(one)
        # Two days of rows are read at most, so window, the time that rows take and the hour that is begun must fit.
        assert one["properties"]["overrideQueryTimeRange"] == "P2D"
        assert one["properties"]["windowSize"] == window


@pytest.mark.slow
@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_queries_of_the_alerts_pass_the_language_service(question: str) -> None:
    query = query_of(rule(question, expected=['203.0.113.0/24|443|"TCP"'], internalIpv6=[]))
    assert re.findall(r"\{[a-z]\w*\}", query) == []
    assert check_query(query).diagnostics == ()


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_alerts_and_workbook_change_nothing_but_the_parameters(question: str) -> None:
    query = find_query(question)
    *body, condition = query_of(rule(question)).splitlines()
    assert condition.startswith("| where ")
    for lines in (body, workbook_queries()[question].splitlines()):
        changed = [old for old, new in zip(query.text.splitlines(), lines, strict=True) if old != new]
        names = {re.match(r"let (\w+) = ", line)[1] for line in changed}
        assert {"start", "end"} <= names <= {one.name for one in query.parameters}


def test_alert_fires_on_what_is_denied_or_never_answered() -> None:
    """What the query itself finds is tested where it stands, and the alert changes nothing but its parameters: this is the rest."""
    *_, condition = query_of(rule("denied_egress")).splitlines()
    given = ", ".join(f'"{status}"' for status in schema.EGRESS_STATUSES)
    found = rows(f"datatable(status: string) [{given}]\n{condition}")
    assert {"Denied", "Unanswered"} < {row["status"] for row in found} < set(schema.EGRESS_STATUSES) - {"Reached"}


def test_alerts_tell_of_the_words_that_are_problems() -> None:
    condition = query_of(rule("encryption_status")).splitlines()[-1]
    assert re.findall('"(.*?)"', condition) == ["eligible", "Unencrypted", "Mixed", "Dropped"]
    condition = query_of(rule("denied_egress")).splitlines()[-1]
    assert tuple(re.findall('"(.*?)"', condition)) == schema.EGRESS_PROBLEMS


@pytest.mark.slow
def test_destinations_alert_once_there_is_a_list() -> None:
    quiet, watching = (
        rule("unexpected_destinations", window="P1D", expected=given) for given in ([], ["20.0.0.0/8||"])
    )
    assert (quiet["properties"]["enabled"], watching["properties"]["enabled"]) == (False, True)
    found = {row["dst_ip"] for row in rows(query_of(watching))}
    assert {"203.0.113.77", "198.51.100.23"} <= found
    assert not any(address.startswith("20.") for address in found)


@pytest.mark.slow
def test_denied_flows_alert_above_the_number_that_was_given() -> None:
    found = rows(query_of(rule("rule_usage", window="P1D", deniedFlows=20)))
    assert [(row["acl_rule"], row["flows_denied"]) for row in found] == [("denyinternet443", 60)]


@pytest.mark.slow
def test_coverage_alerts_on_gaps_and_not_on_the_time_before_a_flow_log_began() -> None:
    def at(row: Mapping[str, Any]) -> int:
        return int(str(row["FlowIntervalStartTime"])[11:13])

    def of_new(row: Mapping[str, Any]) -> bool:
        return "data" in str(row["FlowLogResourceId"])

    # Flow logs of VNET-DATA begin at 10:00 here, and have nothing at 13:00.
    given = [row for row in ROWS if not (of_new(row) and (at(row) < 10 or at(row) == 13))]
    assert 0 < len(given) < len(ROWS)
    found = kql_engine.executed(query_of(rule("coverage", window="P1D")), given, now=EVENING).to_dicts()
    assert {(row["state"]) for row in found} == {"missing"}
    missing = {(str(row["workload"]).rpartition("/")[2], row["hour"].hour) for row in found}
    nics = {name for name, _ in missing} - {"vm-web2"}
    assert nics >= {"vm-sql1"}
    # What the sample lacks by itself, and the gap.
    assert missing == {("vm-web2", 9), *((name, 13) for name in nics)}


def test_workbook_has_the_form_of_workbooks() -> None:
    book = json.loads(WORKBOOK.read_bytes())
    assert book["version"] == "Notebook/1.0"
    assert book["$schema"].endswith("/schema/workbook.json")
    versions = {3: "KqlItem/1.0", 9: "KqlParameterItem/1.0", 12: "NotebookGroup/1.0"}
    names = [one["name"] for one in in_the_workbook()]
    assert len(names) == len(set(names))
    for one in in_the_workbook():
        assert one["type"] in {1, *versions}
        assert one["content"].get("version") == versions.get(one["type"])
        assert "json" in one["content"] or one["type"] != 1


def test_workbook_asks_each_question_of_the_chosen_workspace() -> None:
    assert set(workbook_queries()) == QUESTIONS
    for one in in_the_workbook():
        if one["type"] == 3:
            assert one["content"]["crossComponentResources"] == ["{Workspace}"]
            # A range of the item's own would cut rows that arrived later.
            assert not {"timeContext", "timeContextFromParameter"} & set(one["content"])


def test_workbook_uses_what_it_declares() -> None:
    (chosen,) = (one["content"]["parameters"] for one in in_the_workbook() if one["type"] == 9)
    ids = [one["id"] for one in chosen]
    assert len(ids) == len(set(ids))
    text = json.dumps([one["content"] for one in in_the_workbook() if one["type"] == 3])
    assert set(re.findall(r"\{([A-Z]\w+)(?::\w+)?\}", text)) == {one["name"] for one in chosen}


@pytest.mark.slow
@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_queries_of_the_workbook_pass_the_language_service(question: str) -> None:
    assert check_query(filled(workbook_queries()[question])).diagnostics == ()


def test_workbook_offers_lists_of_what_profiles_need() -> None:
    (chosen,) = (one["content"]["parameters"] for one in in_the_workbook() if one["type"] == 9)
    (offered,) = (json.loads(one["jsonData"]) for one in chosen if one["name"] == "Endpoints")
    assert [one["label"] for one in offered if one["selected"]] == ["windows-kms"]
    for one in offered:
        entries = [entry.split("|") for entry in json.loads(f"[{one['value']}]")]
        assert {entry[0] for entry in entries} == {one["label"]}
        assert {len(entry) for entry in entries} == {8}
        # A list of which nothing can be tested would say nothing.
        assert any(entry[6] == "address" for entry in entries) or any(entry[6] == "service tag" for entry in entries)


def test_template_deploys_the_same_workbook() -> None:
    template = Template(json.loads((TOP / "deploy" / "workbook" / "workbook.json").read_bytes()))
    (made,) = template.resources()
    assert made["type"] == "Microsoft.Insights/workbooks"
    assert json.loads(made["properties"]["serializedData"]) == json.loads(WORKBOOK.read_bytes())
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["name"])
    assert template.unused() == set()
