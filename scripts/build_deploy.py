"""Write what deploy/ makes of kql/: alert rules and a workbook, as templates of Azure Resource Manager.

    python scripts/build_deploy.py           # writes
    python scripts/build_deploy.py --check   # says whether what stands there is what kql/ gives

The queries stand in them as they are; only their `let` lines are set, to the parameters of the template or of the workbook.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flowlens import schema
from flowlens.queries import decode, find_query
from flowlens.query_values import required_endpoints

TOP = Path(__file__).resolve().parents[1]
ALERTS = TOP / "deploy" / "alerts" / "alerts.json"
WORKBOOK = TOP / "deploy" / "workbook" / "flowlens.workbook"
WORKBOOK_TEMPLATE = TOP / "deploy" / "workbook" / "workbook.json"

ARM_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
WORKBOOK_SCHEMA = "https://github.com/Microsoft/Application-Insights-Workbooks/blob/master/schema/workbook.json"
ALERT_RULE, WORKBOOK_RESOURCE = "Microsoft.Insights/scheduledQueryRules", "Microsoft.Insights/workbooks"
WORKSPACE_TYPE = "microsoft.operationalinsights/workspaces"

# What an alert looks back over, by the length that Azure Monitor takes; it reads two days of rows at most, so the window
# and the time that rows take to arrive must fit into them.
SPANS = {"PT1H": "1h", "PT2H": "2h", "PT6H": "6h", "P1D": "1d"}
LOOKS_BACK = "P2D"
SETTLED = "2h"
"""Rows are in the workspace by then: an interval of up to an hour, and up to another until it is written."""
DAY_MS = 86_400_000

# Kinds of workbook items, parameters and cells: https://github.com/microsoft/Application-Insights-Workbooks (schema/workbook.json)
TEXT_ITEM, QUERY_ITEM, PARAMETERS_ITEM, GROUP_ITEM = 1, 3, 9, 12
TEXT_PARAMETER, DROPDOWN, TIME_RANGE, RESOURCE_PICKER = 1, 2, 4, 5
ICONS, BYTES = 18, 8
PROFILES = ("windows-kms", "rhui", "entra-id", "windows-update")
"""Profiles that the workbook offers: such as addresses are published for, and short enough for a drop-down."""


class Question(NamedTuple):
    """A query of kql/, when it alerts, and how the workbook shows it."""

    query: str
    alert: str
    """Which rows are worth an alert, as conditions of the query language, on one line."""
    severity: int
    alert_text: str
    status: str | None
    """The column with a status word, which the workbook marks."""
    good: Sequence[str]
    doubtful: Sequence[str]
    bad: Sequence[str]
    read: str


def words(values: Sequence[str]) -> str:
    """A list of the query language."""
    return ", ".join(f'"{value}"' for value in values)


QUESTIONS = (
    Question(
        "encryption_status",
        f'eligibility == "eligible" and encryption_status in ({words(schema.PAIR_STATUSES[1:4])})',
        2,
        "Traffic between VMs that VNet encryption can cover went in clear text, or encryption dropped it.",
        "encryption_status",
        ("Encrypted",),
        ("Mixed",),
        ("Unencrypted", "Dropped"),
        "Only pairs that are *eligible* are judged. *Mixed* with `first_encrypted` after `last_unencrypted` has turned: ask for a "
        "time range after the change. What each code asks for: `flowlens encryption`.",
    ),
    Question(
        "denied_egress",
        f"status in ({words(schema.EGRESS_PROBLEMS)})",
        1,
        "An endpoint that workloads need is denied, or does not answer.",
        "status",
        ("Reached", "Service reached"),
        ("Recovered", "Pending"),
        schema.EGRESS_PROBLEMS,
        "*Unanswered* is allowed, sent and never answered: no way out, or a firewall that drops in silence. Choose what is needed "
        "above; `flowlens query denied_egress --profile NAME` prints other lists, and `flowlens egress --fix nsg` what mends it.",
    ),
    Question(
        "unexpected_destinations",
        'reason == "not in the expected list"',
        3,
        "A workload talks to a destination that is not in the list of expected ones. Enabled once there is a list.",
        None,
        (),
        (),
        (),
        "Without a list of what is expected this is an inventory. `flowlens destinations` adds service tags, owners and what is new.",
    ),
    Question(
        "rule_usage",
        'direction == "Outbound" and flows_denied > {deniedFlows}',
        3,
        "A rule denied more outbound flows than usual: a new rule may break what workloads need.",
        None,
        (),
        (),
        (),
        "What each rule allowed and denied, for each direction. Every NIC's decision counts, so a flow between two logged NICs "
        "shows under the outbound rule of one and the inbound rule of the other.",
    ),
    Question(
        "coverage",
        # A window holds hours from before a new flow log too, which the query cannot tell from a gap.
        'state == "missing" '
        "| join kind=inner (seen | summarize first_read = min(hour) by flow_log_id) on flow_log_id "
        "| where hour >= first_read | project-away flow_log_id1, first_read",
        2,
        "Hours of a NIC are missing although its flow log had begun: answers about them are not determined.",
        "state",
        ("read",),
        ("open",),
        ("missing",),
        "*missing*: another NIC logged a flow with it in that hour, or the whole flow log has a gap. *silent*: nobody did, which is no loss.",
    ),
)


def bound(name: str, expressions: Mapping[str, str]) -> str:
    """The query's text with these of its parameters set to expressions of the query language or of what fills them in."""
    query = find_query(name)
    text = query.text
    for parameter in query.parameters:
        if parameter.name in expressions:
            line = re.compile(rf"^let {parameter.name} = [^\n]+;$", re.MULTILINE)
            text, count = line.subn(lambda _, p=parameter: f"let {p.name} = {expressions[p.name]};", text)
            if count != 1:
                raise SystemExit(f"kql/{name}.kql: expected one line let {parameter.name} = ...;, found {count}")
    return text


def default(name: str, parameter: str) -> list[Any]:
    """The list that a parameter of a query is by itself."""
    (found,) = (one for one in find_query(name).parameters if one.name == parameter)
    value = decode(found.default)
    assert isinstance(value, tuple)
    return list(value)


def alerts() -> dict[str, Any]:
    """One scheduled query rule for each question."""
    parameters = {
        "workspaceId": text("Resource id of the Log Analytics workspace that Traffic Analytics writes to."),
        "actionGroupIds": {
            "type": "array",
            "metadata": {
                "description": "Resource ids of the action groups that are told; none to only see the alerts in the portal."
            },
        },
        "location": text("Region of the rules: that of the workspace.", "[resourceGroup().location]"),
        "namePrefix": text("What the names of the rules begin with.", "flowlens"),
        "evaluationFrequency": {
            **text("How often the rules ask.", "PT1H"),
            "allowedValues": list(SPANS),
        },
        "window": {
            **text(f"What they look at: this long up to {SETTLED} ago, when rows have arrived.", "PT6H"),
            "allowedValues": list(SPANS),
        },
        "autoMitigate": {
            "type": "bool",
            "defaultValue": True,
            "metadata": {
                "description": "True: one alert until the finding is gone. False: one at each evaluation that finds it."
            },
        },
        "endpoints": listed(
            "What workloads need, as `flowlens query denied_egress --profile NAME` prints it.",
            default("denied_egress", "endpoints"),
        ),
        "expected": listed("Expected destinations: prefix|port|protocol, of which port and protocol may be empty.", []),
        "internal": listed("Your own IPv4 ranges.", default("unexpected_destinations", "internal")),
        "internalIpv6": listed("Your own IPv6 ranges.", default("unexpected_destinations", "internal_ipv6")),
        "deniedFlows": {
            "type": "int",
            "defaultValue": 100,
            "minValue": 0,
            "metadata": {"description": "How many outbound flows a rule may deny in a window without an alert."},
        },
    }
    tokens = {
        "window": "variables('spans')[parameters('window')]",
        "endpoints": "string(parameters('endpoints'))",
        "expected": "string(parameters('expected'))",
        "internal": "string(parameters('internal'))",
        "internalIpv6": "string(parameters('internalIpv6'))",
        "deniedFlows": "string(parameters('deniedFlows'))",
    }
    window = {"end": f"bin(ago({SETTLED}), 1h)", "start": f"bin(ago({SETTLED}), 1h) - {{window}}"}
    lists = {
        "endpoints": "dynamic({endpoints})",
        "expected": "dynamic({expected})",
        "internal": "dynamic({internal})",
        "internal_ipv6": "dynamic({internalIpv6})",
    }
    variables: dict[str, Any] = {"spans": SPANS}
    resources = []
    for question in QUESTIONS:
        query = bound(question.query, {**window, **lists}) + f"| where {question.alert}\n"
        variables[question.query] = query
        expression = f"variables('{question.query}')"
        for token, value in tokens.items():
            if f"{{{token}}}" in query:
                expression = f"replace({expression}, '{{{token}}}', {value})"
        resources.append(alert(question, f"[{expression}]"))
    return {
        "$schema": ARM_SCHEMA,
        "contentVersion": "1.0.0.0",
        "metadata": {"description": "Alerts on what flow logs tell. Written by scripts/build_deploy.py from kql/."},
        "parameters": parameters,
        "variables": variables,
        "resources": resources,
    }


def alert(question: Question, query: str) -> dict[str, Any]:
    """The rule of one question; it fires on any row."""
    stem = question.query.replace("_", "-")
    return {
        "type": ALERT_RULE,
        "apiVersion": "2023-12-01",
        "name": f"[concat(parameters('namePrefix'), '-{stem}')]",
        "location": "[parameters('location')]",
        "kind": "LogAlert",
        "properties": {
            "displayName": f"[concat(parameters('namePrefix'), ': {find_query(question.query).title.lower()}')]",
            "description": question.alert_text,
            "severity": question.severity,
            "enabled": "[not(empty(parameters('expected')))]" if question.query == "unexpected_destinations" else True,
            "scopes": ["[parameters('workspaceId')]"],
            "targetResourceTypes": [WORKSPACE_TYPE],
            "evaluationFrequency": "[parameters('evaluationFrequency')]",
            "windowSize": "[parameters('window')]",
            "overrideQueryTimeRange": LOOKS_BACK,
            "autoMitigate": "[parameters('autoMitigate')]",
            "criteria": {
                "allOf": [
                    {
                        "query": query,
                        "timeAggregation": "Count",
                        "operator": "GreaterThan",
                        "threshold": 0,
                        "failingPeriods": {"numberOfEvaluationPeriods": 1, "minFailingPeriodsToAlert": 1},
                    }
                ]
            },
            "actions": {"actionGroups": "[parameters('actionGroupIds')]"},
        },
    }


def text(description: str, value: str | None = None) -> dict[str, Any]:
    """A parameter of a template that is a text."""
    given = {} if value is None else {"defaultValue": value}
    return {"type": "string", **given, "metadata": {"description": description}}


def listed(description: str, value: Sequence[Any]) -> dict[str, Any]:
    """A parameter of a template that is a list."""
    return {"type": "array", "defaultValue": list(value), "metadata": {"description": description}}


def workbook() -> dict[str, Any]:
    """A section for each question, over the workspace and the time range that the reader chooses."""
    # Written in full, since the picker of times would cut rows that arrived after the range, which the queries look for.
    values = {
        "start": "datetime({TimeRange:startISO})",
        "end": "datetime({TimeRange:endISO})",
        "endpoints": "array_concat(dynamic([{Endpoints}]), dynamic({MoreEndpoints}))",
        "expected": "dynamic({Expected})",
    }
    return {
        "version": "Notebook/1.0",
        "items": [
            {"type": TEXT_ITEM, "content": {"json": INTRODUCTION}, "name": "introduction"},
            parameters_item(),
            *(section(question, bound(question.query, values)) for question in QUESTIONS),
        ],
        "fallbackResourceIds": ["Azure Monitor"],
        "$schema": WORKBOOK_SCHEMA,
    }


INTRODUCTION = """# flowlens: what flow logs tell

Answers from Traffic Analytics (`NTANetAnalytics`) to the questions of flowlens: encryption between VMs, \
required endpoints that fail, destinations that nobody expected, what rules did, and which hours were there to read. A window \
holds whole intervals; rows of the last two hours may still arrive. Begin with **Coverage**: where hours are missing, no other answer is complete."""


def parameters_item() -> dict[str, Any]:
    """What the reader chooses."""

    def parameter(name: str, label: str, kind: int, **more: Any) -> dict[str, Any]:
        head = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"flowlens/workbook/{name}")),
            "version": "KqlParameterItem/1.0",
        }
        return {**head, "name": name, "label": label, "type": kind, "isRequired": True, **more}

    # Without the brackets, in which a drop-down would see several choices.
    lists = [
        {"value": json.dumps(required_endpoints([name]))[1:-1], "label": name, "selected": name == PROFILES[0]}
        for name in PROFILES
    ]
    return {
        "type": PARAMETERS_ITEM,
        "content": {
            "version": "KqlParameterItem/1.0",
            "parameters": [
                parameter(
                    "Workspace",
                    "Workspace",
                    RESOURCE_PICKER,
                    multiSelect=False,
                    query=f"where type =~ '{WORKSPACE_TYPE}' | project id",
                    crossComponentResources=["value::all"],
                    typeSettings={"additionalResourceOptions": ["value::1"]},
                    queryType=1,
                    resourceType="microsoft.resourcegraph/resources",
                    value="value::1",
                ),
                parameter(
                    "TimeRange",
                    "Time range",
                    TIME_RANGE,
                    value={"durationMs": DAY_MS},
                    typeSettings={
                        "selectableValues": [
                            {"durationMs": DAY_MS * hours // 24} for hours in (4, 12, 24, 48, 168, 720)
                        ],
                        "allowCustom": True,
                    },
                ),
                parameter(
                    "Endpoints",
                    "Required endpoints",
                    DROPDOWN,
                    jsonData=json.dumps(lists),
                    typeSettings={"additionalResourceOptions": []},
                ),
                parameter("MoreEndpoints", "More endpoints (list)", TEXT_PARAMETER, value="[]"),
                parameter("Expected", "Expected destinations (list)", TEXT_PARAMETER, value="[]"),
            ],
            "style": "above",
            "queryType": 0,
            "resourceType": WORKSPACE_TYPE,
        },
        "name": "parameters",
    }


def section(question: Question, query: str) -> dict[str, Any]:
    """A heading that says how to read the answer, and the answer."""
    found = find_query(question.query)
    formatters: list[dict[str, Any]] = []
    if question.status is not None:
        groups = ((question.good, "success"), (question.doubtful, "2"), (question.bad, "4"))
        marks = [(word, mark) for group, mark in groups for word in group]
        grid: list[dict[str, Any]] = [
            {"operator": "==", "thresholdValue": word, "representation": mark, "text": "{0}{1}"} for word, mark in marks
        ]
        grid.append({"operator": "Default", "thresholdValue": None, "representation": "unknown", "text": "{0}{1}"})
        formatters.append(
            {
                "columnMatch": f"^{question.status}$",
                "formatter": ICONS,
                "formatOptions": {"thresholdsOptions": "icons", "thresholdsGrid": grid},
            }
        )
    if any(column.startswith("bytes") for column in found.columns):
        formatters.append(
            {
                "columnMatch": "^bytes",
                "formatter": BYTES,
                "formatOptions": {"palette": "blue"},
                "numberFormat": {"unit": 2, "options": {"style": "decimal", "maximumFractionDigits": 1}},
            }
        )
    table = {
        "type": QUERY_ITEM,
        "content": {
            "version": "KqlItem/1.0",
            "query": query,
            "size": 0,
            "showAnalytics": True,
            "title": found.title,
            "noDataMessage": "No rows: nothing of the kind in this time range, or Traffic Analytics wrote none. Coverage tells which.",
            "showExportToExcel": True,
            "queryType": 0,
            "resourceType": WORKSPACE_TYPE,
            "crossComponentResources": ["{Workspace}"],
            "visualization": "table",
            "gridSettings": {"formatters": formatters, "rowLimit": 10_000, "filter": True},
        },
        "name": question.query,
    }
    purpose = found.purpose[0].upper() + found.purpose[1:]
    heading = {
        "type": TEXT_ITEM,
        "content": {"json": f"## {found.title}\n\n{purpose}\n\n{question.read}"},
        "name": f"{question.query} - text",
    }
    return {
        "type": GROUP_ITEM,
        "content": {"version": "NotebookGroup/1.0", "groupType": "editable", "items": [heading, table]},
        "name": f"{question.query} - section",
    }


def workbook_template() -> dict[str, Any]:
    """The workbook as a resource to deploy."""
    return {
        "$schema": ARM_SCHEMA,
        "contentVersion": "1.0.0.0",
        "metadata": {"description": "The flowlens workbook. Written by scripts/build_deploy.py from kql/."},
        "parameters": {
            "displayName": text("The workbook's name in the gallery.", "flowlens"),
            "location": text("Region of the workbook.", "[resourceGroup().location]"),
            "workbookId": text(
                "A GUID; the same one again replaces the workbook.", "[guid(resourceGroup().id, 'flowlens')]"
            ),
        },
        "resources": [
            {
                "type": WORKBOOK_RESOURCE,
                "apiVersion": "2023-06-01",
                "name": "[parameters('workbookId')]",
                "location": "[parameters('location')]",
                "kind": "shared",
                "properties": {
                    "displayName": "[parameters('displayName')]",
                    # As a text, since Azure Resource Manager takes texts in brackets for expressions, also deep inside.
                    "serializedData": json.dumps(workbook(), ensure_ascii=False),
                    "version": "1.0",
                    "sourceId": "azure monitor",
                    "category": "workbook",
                },
            }
        ],
        "outputs": {
            "workbookId": {"type": "string", "value": f"[resourceId('{WORKBOOK_RESOURCE}', parameters('workbookId'))]"}
        },
    }


BUILT = {ALERTS: alerts, WORKBOOK: workbook, WORKBOOK_TEMPLATE: workbook_template}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    stale = []
    for path, build in BUILT.items():
        made = json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made, encoding="utf-8", newline="\n")
        elif not path.exists() or path.read_text(encoding="utf-8") != made:
            stale.append(path.relative_to(TOP).as_posix())
    if stale:
        print(f"stale: {', '.join(stale)}; run python scripts/build_deploy.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
