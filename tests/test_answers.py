"""flowlens gives the answers of sample_logs/expected.json, from the blobs and from the Traffic Analytics export."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

import flowlens as fl

FOLDER = Path(__file__).resolve().parents[1] / "sample_logs"
EXPECTED = json.loads((FOLDER / "expected.json").read_text("utf-8"))
BLOBS, ROWS = "blobs", "rows"
SOURCES = {BLOBS: FOLDER, ROWS: FOLDER / "traffic_analytics" / "ntanetanalytics.json"}
# All that are asked about, so that a profile that "auto" leaves out can hide nothing.
PROFILES = ("windows-kms", "aks-core", "rhui", "entra-id", "azure-monitor-agent")

# What Traffic Analytics does not keep, and so may be told differently from its rows. The list is closed: the tests fail
# when a cell differs that is not in it, and when a cell in it no longer differs.
NOT_KEPT = {
    ("encryption_status", "first_encrypted"): (
        "a row has the time of its first tuple, a Begin; the blobs tell when the first traffic was counted"
    ),
    ("denied_egress", "acl_rule"): "rules are written in lower case",
    ("denied_egress", "last_success"): (
        "a row holds every address of one region on one port for an hour, so an address has the time of the row"
    ),
    ("rule_usage", "acl_id"): "ACLs are written in lower case",
    ("rule_usage", "acl_rule"): "rules are written in lower case",
    (
        "rule_usage",
        "flows_allowed",
    ): "without a source port a reply cannot be told from a flow; two are under PlatformRule",
    ("rule_usage", "bytes"): "as above: two replies of 108 bytes",
    ("rule_usage", "workloads"): "as above: one more NIC got a reply",
    ("totals", "counted_bytes"): "as above: a reply that cannot be told counts",
}
REPLIES = 2
REPLY_BYTES = 108


class Difference(NamedTuple):
    table: str
    column: str
    key: tuple[object, ...]
    found: object
    expected: object


@cache
def scan(source: str) -> fl.Scan:
    changed_at = dt.datetime.fromisoformat(EXPECTED["changed_at"])
    return fl.scan(SOURCES[source], inventory_file=FOLDER / "inventory.csv", changed_at=changed_at)


@cache
def report(source: str) -> fl.Report:
    return fl.report(
        scan(source), profiles=PROFILES, placeholders={"region": "japaneast"}, expected=FOLDER / "expected.toml"
    )


@cache
def table(source: str, name: str) -> list[dict[str, object]]:
    return report(source).tables[name].to_dicts()


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    return request.param


def shown(value: object) -> object:
    """A time as expected.json writes it; anything else as it is."""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def bare(rule: str | None) -> str | None:
    """The rule without the prefix of flow logs, as result tables name it."""
    return rule and rule.removeprefix("UserRule_").removeprefix("DefaultRule_")


def cells(
    name: str, key: tuple[object, ...], found: Mapping[str, object], expected: Mapping[str, object]
) -> list[Difference]:
    """The cells of one row that are not as expected."""
    return [
        Difference(name, column, key, shown(found[column]), value)
        for column, value in expected.items()
        if shown(found[column]) != value
    ]


def only(rows: Iterable[dict[str, object]], **wanted: object) -> dict[str, object]:
    (row,) = (row for row in rows if all(row[column] == value for column, value in wanted.items()))
    return row


def pair_of(row: Mapping[str, object]) -> tuple[object, ...]:
    return row["src_workload"], row["dst_workload"]


def encryption_differences(source: str) -> list[Difference]:
    columns = ("encryption_status", "encryption_code", "eligibility", "last_unencrypted", "first_encrypted")
    columns += ("bytes_encrypted", "bytes_unencrypted", "flows_encrypted", "flows_unencrypted", "flows_dropped")
    rows = {pair_of(row): row for row in table(source, "encryption_status")}
    return [
        difference
        for pair in EXPECTED["encryption"]
        for difference in cells(
            "encryption_status", pair_of(pair), rows[pair_of(pair)], {column: pair[column] for column in columns}
        )
    ]


def egress_row(source: str, answer: Mapping[str, object]) -> dict[str, object]:
    words = ("workload", "profile", "endpoint", "protocol")
    return only(table(source, "denied_egress"), **{word: answer[word] for word in words})


def egress_differences(source: str) -> list[Difference]:
    found = []
    for answer in EXPECTED["egress"]:
        expected = {
            column: answer[column] for column in ("status", "match", "attempts", "last_success", "last_failure")
        }
        expected |= {"port": str(answer["port"]), "acl_rule": bare(answer["acl_rule"])}
        key = (answer["workload"], answer["endpoint"])
        found += cells("denied_egress", key, egress_row(source, answer), expected)
    return found


def destination_differences(source: str) -> list[Difference]:
    found = []
    for answer in EXPECTED["unexpected_destinations"]:
        row = only(table(source, "unexpected_destinations"), workload=answer["workload"], dst_ip=answer["dst_ip"])
        found += cells("unexpected_destinations", (answer["workload"], answer["dst_ip"]), row, answer)
    return found


def rule_key(row: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(str(row[column]).lower() for column in ("acl_id", "acl_rule", "direction"))


def expected_rules() -> dict[tuple[str, ...], dict[str, object]]:
    rows = [row | {"acl_rule": bare(row["acl_rule"])} for row in EXPECTED["rules"]]
    return {rule_key(row): row for row in rows}


def rule_differences(source: str) -> list[Difference]:
    rows = {rule_key(row): row for row in table(source, "rule_usage")}
    return [
        difference for key, row in expected_rules().items() for difference in cells("rule_usage", key, rows[key], row)
    ]


def total_differences(source: str) -> list[Difference]:
    totals = EXPECTED["totals"]
    expected = {
        f"{word}_bytes": totals[group]["bytes_sent"] + totals[group]["bytes_received"]
        for word, group in (("observed", "observed"), ("counted", "counted_once"))
    }
    return cells("totals", (), report(source).coverage, expected)


def differences(source: str) -> list[Difference]:
    return [
        *encryption_differences(source),
        *egress_differences(source),
        *destination_differences(source),
        *rule_differences(source),
        *total_differences(source),
    ]


def test_blobs_give_every_answer() -> None:
    assert differences(BLOBS) == []


def test_rows_give_every_answer_but_what_they_do_not_keep() -> None:
    assert {(d.table, d.column) for d in differences(ROWS)} == set(NOT_KEPT)


def test_names_differ_in_case_only() -> None:
    named = [d for d in differences(ROWS) if d.column in ("acl_rule", "acl_id")]
    assert [d for d in named if str(d.found).lower() != str(d.expected).lower()] == []


def test_times_of_rows_differ_within_the_interval() -> None:
    timed = [d for d in differences(ROWS) if d.column in ("first_encrypted", "last_success")]
    assert timed
    for d in timed:
        found, expected = (dt.datetime.fromisoformat(str(value)) for value in (d.found, d.expected))
        assert abs(found - expected) < dt.timedelta(hours=1)
        assert (found < expected) == (d.column != "last_success")


def test_replies_are_all_that_rows_count_more() -> None:
    more = {
        d.column: d for d in differences(ROWS) if d.table in ("rule_usage", "totals") and not isinstance(d.found, str)
    }
    assert {d.key[1] for d in more.values() if d.table == "rule_usage"} == {"platformrule"}
    assert {column: d.found - d.expected for column, d in more.items()} == {
        "flows_allowed": REPLIES,
        "bytes": REPLIES * REPLY_BYTES,
        "workloads": 1,
        "counted_bytes": REPLIES * REPLY_BYTES,
    }


def test_pairs_of_private_addresses_are_the_expected_ones(source: str) -> None:
    judged = [
        row for row in table(source, "encryption_status") if row["eligibility"] not in ("public peer", "platform")
    ]
    assert sorted(map(pair_of, judged)) == sorted(map(pair_of, EXPECTED["encryption"]))


@pytest.mark.parametrize(("part", "column"), [("before", "status_before"), ("after", "status_after")])
def test_pairs_turn_at_the_change(source: str, part: str, column: str) -> None:
    found = {pair_of(row): row["encryption_status"] for row in table(source, f"encryption_status_{part}")}
    expected = {pair_of(pair): pair[column] for pair in EXPECTED["encryption"]}
    assert {pair: found.get(pair) for pair in expected} == expected


def test_pairs_with_public_and_platform_peers_stand_apart(source: str) -> None:
    rows = [row for row in table(source, "encryption_status") if row["eligibility"] in ("public peer", "platform")]
    assert {row["encryption_status"] for row in rows} == {"Unencrypted"}
    assert {row["encryption_code"] for row in rows} == {"NX"}
    # The way back from storage is a flow of its own where the source port is not kept.
    opened_outside = {row["dst_workload"] for row in rows if row["src_workload"] == "public addresses"}
    assert opened_outside == {"vm-web1", "vm-web2"} | ({"vm-app1"} if source == ROWS else set())


def test_matched_addresses_and_tags_are_the_expected_ones(source: str) -> None:
    tags = fl.load_tags()
    for answer in EXPECTED["egress"]:
        row = egress_row(source, answer)
        assert row["dst_ip"] in answer["addresses"]
        (held,) = tags.identify(pl.Series([row["dst_ip"]]))["service_tags"].to_list()
        assert row["service_tag"] == held[0]
        assert answer["matched_tag"] is None or answer["matched_tag"].lower() in {tag.lower() for tag in held}


def test_nothing_but_the_expected_requirements_fails(source: str) -> None:
    failing = {
        (answer["workload"], answer["status"], frozenset(answer["addresses"]))
        for answer in EXPECTED["egress"]
        if answer["status"] in ("Denied", "Unanswered")
    }
    quiet = ("Reached", "Service reached", "Cannot tell", "Not seen")
    for row in table(source, "denied_egress"):
        if row["status"] not in quiet:
            fits = [
                w
                for w, status, held in failing
                if (w, status) == (row["workload"], row["status"]) and row["dst_ip"] in held
            ]
            assert fits, row


def test_unexpected_destinations_are_the_two(source: str) -> None:
    # The list alone leaves them, whatever profiles explain beside it.
    alone = fl.unexpected_destinations(scan(source), expected=FOLDER / "expected.toml").collect().to_dicts()
    expected = sorted((row["workload"], row["dst_ip"]) for row in EXPECTED["unexpected_destinations"])
    for rows in (alone, table(source, "unexpected_destinations")):
        assert sorted((row["workload"], row["dst_ip"]) for row in rows) == expected
        assert {row["reason"] for row in rows} == {"not in the expected list"}


def test_every_expected_destination_is_one(source: str) -> None:
    everything = fl.unexpected_destinations(scan(source)).collect()
    denied, platform = {"150.171.69.10", "150.171.70.10"}, {"168.63.129.16"}
    unexpected = {row["dst_ip"] for row in EXPECTED["unexpected_destinations"]}
    # Of the two activation servers the first alone was allowed to vm-win1, both were to vm-win3.
    assert set(everything["dst_ip"]) == (set(EXPECTED["expected_destinations"]) | unexpected) - denied - platform


def test_rules_are_the_expected_ones(source: str) -> None:
    assert sorted(map(rule_key, table(source, "rule_usage"))) == sorted(expected_rules())


def test_coverage_is_the_expected_one(source: str) -> None:
    coverage, expected = table(source, "coverage"), EXPECTED["coverage"]
    assert Counter(row["state"] for row in coverage) == {"read": expected["read"], "silent": 1, "missing": 1}
    assert len(coverage) == expected["nic_hours"]
    for state in ("silent", "missing"):
        found = [
            {"workload": r["workload"], "mac_address": r["mac_address"], "hour": shown(r["hour"])}
            for r in coverage
            if r["state"] == state
        ]
        assert found == expected[state]


def test_findings_are_the_same_from_both_sources() -> None:
    found = {source: {finding.id: finding for finding in report(source).findings} for source in SOURCES}
    assert set(found[BLOBS]) == set(found[ROWS])
    for key, finding in found[BLOBS].items():
        other = found[ROWS][key]
        words = ("question", "severity", "workload", "subject", "state")
        assert [getattr(finding, word) for word in words] == [getattr(other, word) for word in words]


def test_verdicts_name_what_is_wrong(source: str) -> None:
    verdicts = report(source).verdicts
    assert {name: verdict.status for name, verdict in verdicts.items()} == dict.fromkeys(verdicts, "findings")
    eligible = [pair for pair in EXPECTED["encryption"] if pair["eligibility"] == "eligible"]
    # A pair that is encrypted since the change, and nothing of it dropped, needs nobody.
    turned = [
        pair
        for pair in eligible
        if pair["first_encrypted"] and pair["first_encrypted"] > pair["last_unencrypted"] and not pair["flows_dropped"]
    ]
    bad = len(eligible) - len(turned)
    assert verdicts["encryption_status"].text.startswith(f"{bad} of {len(eligible)} pairs")


def test_totals_are_the_expected_ones() -> None:
    totals, evidence = EXPECTED["totals"], scan(BLOBS).evidence
    ledger = evidence.ledger
    assert ledger.balanced
    assert ledger.complete
    assert (ledger.blobs, ledger.records, ledger.tuples, ledger.rows) == (
        *(totals[name] for name in ("blobs", "records", "tuples")),
        totals["tuples"],
    )
    assert ledger.restarted_bytes_in_doubt == totals["bytes_in_doubt"]
    names = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")
    counted = evidence.views.filter("counted").select(
        tuples=pl.col("flow_tuples").sum(), **{n: pl.col(n).sum() for n in names}
    )
    assert counted.collect().to_dicts() == [totals["counted_once"]]
    assert evidence.conversations.select(pl.col(names).sum()).collect().to_dicts() == [totals["observed"]]


def test_flows_are_the_expected_ones() -> None:
    totals, flows = EXPECTED["totals"], scan(BLOBS).flows.collect()
    letters = {"Begin": "B", "Continuing": "C", "End": "E", "Deny": "D"}
    assert Counter(letters[state] for state in flows["flow_state"]) == totals["tuples_by_state"]
    assert Counter(flows["encryption_code"]) == totals["tuples_by_code"]
    assert flows["restarted"].sum() == totals["restarted"]
    late = flows.filter(pl.col("record_time").dt.truncate("1h") > pl.col("time").dt.truncate("1h"))
    assert late.height == totals["tuples_in_the_next_hours_blob"]


def test_every_row_of_the_export_is_read() -> None:
    ledger = scan(ROWS).ledger
    assert ledger.records == EXPECTED["totals"]["traffic_analytics_rows"]
    assert ledger.complete
    assert ledger.balanced
