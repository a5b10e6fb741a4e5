"""OCSF events: each is of the published class, and each row that is a finding has one."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

import flowlens as fl
from flowlens.findings import QUESTIONS, SEVERITIES
from flowlens.outputs.ocsf import VERSION, write_ocsf
from flowlens.reporting import new_part
from tests.flow_logs import CONTAINER, SAMPLE, run
from tests.hostile_report import hostile_report, sample_report
from tests.payloads import PAYLOADS

PROFILES = ["cloud", "security_control"]


@cache
def validator(version: str) -> jsonschema.Draft202012Validator:
    published = OcsfJsonSchemaEmbedded(get_ocsf_schema(version))
    return jsonschema.Draft202012Validator(published.get_class_schema("network_activity", PROFILES))


def events(report: fl.Report) -> list[dict[str, Any]]:
    file = io.BytesIO()
    write_ocsf(report, file)
    text = file.getvalue().decode("ascii")
    assert text.count("\n") == len(text.splitlines())
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("version", [VERSION, "1.8.0"])
def test_events_are_of_the_published_class(version: str) -> None:
    for event in events(sample_report()):
        errors = [f"{error.json_path}: {error.message}" for error in validator(version).iter_errors(event)]
        assert errors == []


@pytest.mark.parametrize("wrong", [{"class_uid": 4002}, {"severity_id": 7}, {"time": "today"}, {"metadata": {}}])
def test_the_class_refuses_what_is_wrong(wrong: Mapping[str, Any]) -> None:
    event = {**events(sample_report())[0], **wrong}
    assert list(validator(VERSION).iter_errors(event))


def test_the_published_class_is_the_one_that_is_meant() -> None:
    published = get_ocsf_schema(VERSION)
    meant = published["classes"]["network_activity"]
    assert (meant["uid"], meant["caption"]) == (4001, "Network Activity")
    enums = {
        name: {int(key): v["caption"] for key, v in meant["attributes"][name]["enum"].items()}
        for name in ("activity_id", "severity_id", "action_id", "disposition_id", "type_uid")
    }
    for event in events(sample_report()):
        for name, caption in (
            ("activity_id", "activity_name"),
            ("severity_id", "severity"),
            ("action_id", "action"),
            ("disposition_id", "disposition"),
            ("type_uid", "type_name"),
        ):
            assert enums[name][event[name]] == event[caption]
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]


def test_each_row_that_is_a_finding_has_one_event() -> None:
    report = sample_report()
    told = [event["metadata"]["correlation_uid"] for event in events(report)]
    assert sorted(told) == sorted(each for name in QUESTIONS for each in report.row_findings[name].drop_nulls())
    assert len({event["metadata"]["uid"] for event in events(report)}) == len(told)


def test_an_event_tells_who_was_denied_what_by_whom() -> None:
    (event,) = [e for e in events(sample_report()) if e.get("firewall_rule", {}).get("name") == "DenyKms"]
    assert event["src_endpoint"]["ip"] == "10.10.3.5"
    assert event["src_endpoint"]["mac"] == "00:00:5E:00:53:06"
    assert (event["dst_endpoint"]["ip"], event["dst_endpoint"]["port"]) == ("20.118.99.224", 1688)
    assert (event["activity_name"], event["action"], event["disposition"]) == ("Refuse", "Denied", "Blocked")
    assert (event["connection_info"]["protocol_num"], event["connection_info"]["direction"]) == (6, "Outbound")
    assert (event["severity"], event["is_alert"], event["count"]) == ("High", True, 10)
    # 14:02 of 15 June 2026 and some seconds, in milliseconds.
    assert 1_781_532_120_000 <= event["time"] < 1_781_532_180_000


def test_a_destination_tells_its_bytes() -> None:
    (event,) = [e for e in events(sample_report()) if e["dst_endpoint"].get("ip") == "203.0.113.77"]
    assert event["traffic"] == {"bytes": 41304235 + 1503445, "bytes_out": 41304235, "bytes_in": 1503445}
    assert (event["activity_name"], event["action"]) == ("Traffic", "Allowed")
    assert event["start_time"] < event["end_time"] == event["time"]


def test_severities_are_all_mapped() -> None:
    base = sample_report()
    for severity in SEVERITIES:
        each = replace(base, findings=tuple(replace(f, severity=severity) for f in base.findings))
        assert {event["severity"].lower() for event in events(each)} == {severity}


def test_what_is_accepted_is_no_alert_and_what_is_over_no_event() -> None:
    report = hostile_report(["one", "two", "three"])
    found = events(report)
    # Of three findings a question the second is accepted, and the third is resolved; its row still stands here.
    assert {(event["metadata"]["correlation_uid"][-1], event["is_alert"]) for event in found} == {
        ("0", True),
        ("1", False),
        ("2", False),
    }
    assert {event["status_detail"] for event in found if event["metadata"]["correlation_uid"][-1] == "1"} == {
        "accepted: two (two, until 2026-12-31)"
    }
    assert {event["unmapped"]["state"] for event in events(new_part(report))} == {"new"}


def test_the_same_report_gives_the_same_events() -> None:
    asked = ("egress", SAMPLE / CONTAINER, "--profile", "windows-kms", "--format", "ocsf")
    first, second = run(*asked), run(*asked)
    assert first.stdout == second.stdout and first.out.count("\n") > 1
    assert "98 files" in first.err


def test_payloads_stay_in_their_fields_and_the_events_in_their_class() -> None:
    found = events(hostile_report(PAYLOADS))
    assert len(found) == 3 * len(PAYLOADS)
    kept = [event["message"] for event in found if event["metadata"]["log_name"] == "denied_egress"]
    assert kept == [f"{text} {text}" for text in PAYLOADS]
    check = validator(VERSION)
    for event in found[:: len(found) // 60]:
        assert [f"{error.json_path}: {error.message}" for error in check.iter_errors(event)] == []
