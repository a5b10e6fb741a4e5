"""Findings and verdicts of reports on small logs whose answers are plain, and on sample_logs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import flowlens as fl
from flowlens.findings import QUESTIONS
from flowlens.outputs.tables import read_baseline, write_json
from tests.flow_logs import CONTAINER, SAMPLE, run, sample_container
from tests.make_logs import LATER, MACS, NINE, at, flow, vnet_log, write_blob, write_text

KMS = "20.118.99.224"
EXPECTED = [fl.analyses.destinations.Expected("203.0.113.0/24", None, (443,), 6, "partner")]
WEB, APP = "10.0.1.4", "10.0.2.4"


def report_on(folder: Path, **options: Any) -> fl.Report:
    scanned = fl.scan(folder, now=options.pop("now", LATER), threads=1)
    return fl.report(scanned, **{"profiles": ["windows-kms"], "expected": EXPECTED, **options})


def healthy(folder: Path, *, hours: tuple[int, ...] = (9, 10)) -> Path:
    """Logs with which nothing is wrong: an encrypted pair, an activation server that answers, one expected destination."""
    for hour in hours:
        minute = 60 * (hour - 9) + 5
        pair = flow(WEB, APP, 443, code="X", minute=minute)
        out = [flow(WEB, KMS, 1688, minute=minute), flow(WEB, "203.0.113.7", 443, minute=minute)]
        write_blob(folder, MACS[1], [pair, *out], hour=hour)
        write_blob(folder, MACS[2], [flow(WEB, APP, 443, "I", code="X", minute=minute)], hour=hour)
    return folder


def statuses(report: fl.Report) -> list[str]:
    return [report.verdicts[name].status for name in QUESTIONS]


# ---- verdicts


def test_healthy_logs_are_ok(tmp_path: Path) -> None:
    report = report_on(healthy(tmp_path))
    assert statuses(report) == ["ok", "ok", "ok"]
    assert report.findings == ()
    assert (report.window.start, report.window.end) == (NINE, NINE + dt.timedelta(hours=2))


def without_a_blob(folder: Path) -> dict[str, Any]:
    # The other NIC's log tells that there was traffic in that hour.
    (path,) = folder.rglob(f"h=10/m=00/macAddress={MACS[2]}/PT1H.json")
    path.unlink()
    return {}


def without_an_hour(folder: Path) -> dict[str, Any]:
    healthy(folder, hours=(12,))
    return {}


def with_a_cut_blob(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob(f"h=10/m=00/macAddress={MACS[2]}/PT1H.json")
    path.write_bytes(path.read_bytes()[:-60])
    return {}


def with_a_bad_tuple(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob(f"h=10/m=00/macAddress={MACS[2]}/PT1H.json")
    text = path.read_text("utf-8")
    path.write_text(text.replace('"flowTuples": [', '"flowTuples": ["not a flow tuple", '), encoding="utf-8")
    return {}


def with_a_web_page_beside_it(folder: Path) -> dict[str, Any]:
    write_text(folder, MACS[3], "<html></html>", hour=10)
    return {}


def in_the_current_hour(folder: Path) -> dict[str, Any]:
    return {"now": NINE + dt.timedelta(minutes=100)}


GAPS = [
    without_a_blob,
    without_an_hour,
    with_a_cut_blob,
    with_a_bad_tuple,
    with_a_web_page_beside_it,
    in_the_current_hour,
]


@pytest.mark.parametrize("gap", GAPS, ids=lambda gap: gap.__name__)
def test_no_verdict_is_ok_with_a_gap(tmp_path: Path, gap: Callable[[Path], dict[str, Any]]) -> None:
    report = report_on(tmp_path, **gap(healthy(tmp_path)))
    assert statuses(report) == ["not_determined"] * 3
    assert report.metrics["incomplete"] == 1
    assert report.findings == ()


@pytest.mark.parametrize("gap", GAPS[:3], ids=lambda gap: gap.__name__)
def test_a_gap_hides_no_finding(tmp_path: Path, gap: Callable[[Path], dict[str, Any]]) -> None:
    options = gap(healthy(tmp_path))
    write_blob(tmp_path, MACS[4], [flow("10.0.4.4", KMS, 1688, state="D", minute=2)], rule="UserRule_Deny")
    assert report_on(tmp_path, **options).verdicts["denied_egress"].status == "findings"


def test_a_silent_hour_is_no_gap(tmp_path: Path) -> None:
    write_blob(healthy(tmp_path), MACS[3], [flow("10.0.3.4", "203.0.113.8", 443)])
    report = report_on(tmp_path)
    assert report.coverage["silent"] == 1
    assert statuses(report) == ["ok", "ok", "ok"]


def test_without_a_list_or_baseline_destinations_are_not_judged(tmp_path: Path) -> None:
    report = report_on(healthy(tmp_path), expected=None)
    assert report.verdicts["unexpected_destinations"].status == "not_determined"
    assert report.tables["unexpected_destinations"].height == 1
    assert report.metrics["findings"] == 0


def test_traffic_between_one_logged_nic_and_others_says_nothing_of_encryption(tmp_path: Path) -> None:
    write_blob(tmp_path, MACS[1], [flow(WEB, APP, 443)])
    report = report_on(tmp_path)
    assert report.verdicts["encryption_status"].status == "not_determined"


def test_no_flows_no_verdict(tmp_path: Path) -> None:
    for report in (report_on(tmp_path), report_on(write_blob(tmp_path, MACS[1]).parents[8])):
        assert statuses(report) == ["not_determined"] * 3
        assert {verdict.text for verdict in report.verdicts.values()} == {"Not determined: no flow was read."}


# ---- what is judged


def kms_row(folder: Path) -> dict[str, Any]:
    table = fl.denied_egress(fl.scan(folder, now=LATER), profiles=["windows-kms"]).collect()
    (row,) = table.filter(pl.col("endpoint") == "KMS activation").to_dicts()
    return row


UNANSWERED = (3, 198, 0, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_answered_and_one_unanswered_flow_are_reached(tmp_path: Path, order: tuple[int, int]) -> None:
    answered, unanswered = order
    tuples = [
        flow(WEB, KMS, 1688, minute=5 + answered, src_port=50_001),
        flow(WEB, KMS, 1688, minute=5 + unanswered, src_port=50_002, counters=UNANSWERED),
    ]
    write_blob(tmp_path, MACS[1], tuples)
    assert kms_row(tmp_path)["status"] == "Reached"


@pytest.mark.parametrize(
    ("tuples", "status"),
    [
        ([flow(WEB, KMS, 1688, state="B")], "Pending"),
        ([flow(WEB, KMS, 1688, state="B"), flow(WEB, KMS, 1688, counters=UNANSWERED)], "Unanswered"),
        ([flow(WEB, KMS, 1688, state="B"), flow(WEB, KMS, 1688)], "Reached"),
        ([flow(WEB, KMS, 1688, state="D")], "Denied"),
        ([flow(WEB, KMS, 1688, state="D"), flow(WEB, KMS, 1688, minute=9)], "Recovered"),
        ([flow(WEB, KMS, 1688, state="D", minute=9), flow(WEB, KMS, 1688)], "Partly denied"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_status_of_a_required_endpoint(tmp_path: Path, tuples: list[str], status: str) -> None:
    write_blob(tmp_path, MACS[1], tuples)
    assert kms_row(tmp_path)["status"] == status


def test_what_fails_since_a_change_is_no_pass_however_much_was_reached_before(tmp_path: Path) -> None:
    write_blob(tmp_path, MACS[1], [flow(WEB, KMS, 1688)])
    write_blob(tmp_path, MACS[1], [flow(WEB, KMS, 1688, minute=65, counters=UNANSWERED)], hour=10)
    changed = fl.scan(tmp_path, now=LATER, threads=1, changed_at=at(60))
    report = fl.report(changed, profiles=["windows-kms"], questions=["denied_egress"])
    assert report.tables["denied_egress"]["status"].unique().to_list() == ["Reached"]
    assert report.verdicts["denied_egress"].status == "findings"
    assert report.verdicts["denied_egress"].text.startswith(
        "Since the change: 1 required endpoint(s) fail: 1 unanswered"
    )
    assert (report.metrics["unanswered"], report.metrics["denied_required"]) == (1, 1)
    assert fl.report(fl.scan(tmp_path, now=LATER), profiles=["windows-kms"]).verdicts["denied_egress"].status == "ok"


def test_a_source_without_a_log_counts_once_from_the_other_end(tmp_path: Path) -> None:
    unlogged = "10.0.9.9"
    write_blob(tmp_path, MACS[1], [flow(WEB, APP, 443, src_port=1025), flow(WEB, APP, 443, src_port=1026)])
    both = [flow(WEB, APP, 443, "I", src_port=1025), flow(WEB, APP, 443, "I", src_port=1026)]
    write_blob(tmp_path, MACS[2], [*both, flow(unlogged, APP, 443, "I"), flow(unlogged, APP, 80, "I")])
    views = fl.scan(tmp_path, now=LATER).evidence.views.filter("counted").collect()
    counted = (
        views.group_by("src_ip", "dst_port", "mac_address").agg(pl.col("flows_ended").sum()).sort("src_ip", "dst_port")
    )
    assert counted.rows() == [
        (WEB, 443, MACS[1], 2),
        (unlogged, 80, MACS[2], 1),
        (unlogged, 443, MACS[2], 1),
    ]


# ---- findings

BLOBS = SAMPLE / CONTAINER


@cache
def sample_report() -> fl.Report:
    return fl.report(fl.scan(BLOBS, now=LATER), expected=EXPECTED)


def moved(folder: Path, *changes: tuple[str, str]) -> Path:
    """The sample's container after these words were replaced in its paths and blobs."""
    source = sample_container(folder / "before")
    for path in source.rglob("PT1H.json"):
        name, text = str(path.relative_to(source.parent)), path.read_text("utf-8")
        for old, new in changes:
            name, text = name.replace(old, new), text.replace(old, new)
        target = folder / "after" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return folder / "after"


def ids(report: fl.Report) -> list[tuple[str, str]]:
    return sorted((finding.question, finding.id) for finding in report.findings)


def test_the_sample_has_findings_of_every_question() -> None:
    assert {finding.question for finding in sample_report().findings} == set(QUESTIONS)
    assert len({finding.id for finding in sample_report().findings}) == len(sample_report().findings)


def test_ids_outlive_the_nic_and_its_address(tmp_path: Path) -> None:
    # A VM made anew has another MAC and another address of its subnet.
    changes = [("00005E0053", "0022480A0B"), (",10.10.3.5,", ",10.10.3.77,"), (",10.10.8.4,", ",10.10.8.99,")]
    other = fl.report(fl.scan(moved(tmp_path, *changes), now=LATER), expected=EXPECTED)
    assert {finding.workload for finding in other.findings} != {
        finding.workload for finding in sample_report().findings
    }
    assert ids(other) == ids(sample_report())


def test_ids_outlive_ephemeral_addresses_of_one_service(tmp_path: Path) -> None:
    # Two addresses of the registry's front end, in the same service tag.
    other = fl.report(fl.scan(moved(tmp_path, (",150.171.70.10,", ",150.171.69.10,")), now=LATER), expected=EXPECTED)
    assert {f.evidence.get("dst_ip") for f in other.findings} != {
        f.evidence.get("dst_ip") for f in sample_report().findings
    }
    assert ids(other) == ids(sample_report())


@pytest.mark.parametrize(
    ("old", "new", "question"),
    [
        (",203.0.113.77,", ",192.0.2.77,", "unexpected_destinations"),
        (",8443,6,", ",8444,6,", "unexpected_destinations"),
        (",10.10.3.5,", ",10.10.33.5,", "denied_egress"),
        ("virtualNetworks/vnet-app", "virtualNetworks/vnet-two", "encryption_status"),
    ],
)
def test_ids_tell_different_findings_apart(tmp_path: Path, old: str, new: str, question: str) -> None:
    other = fl.report(fl.scan(moved(tmp_path, (old, new)), now=LATER), expected=EXPECTED)
    before = {finding.id for finding in sample_report().findings if finding.question == question}
    after = {finding.id for finding in other.findings if finding.question == question}
    assert after - before


def test_workloads_of_one_subnet_fold_into_one_finding(tmp_path: Path) -> None:
    for n, address in ((1, "10.0.4.4"), (2, "10.0.4.5"), (3, "10.0.5.4")):
        write_blob(tmp_path, MACS[n], [flow(address, KMS, 1688, state="D", minute=n)], rule="UserRule_Deny")
    report = report_on(tmp_path)
    assert report.metrics["denied_required"] == 3
    first, second = sorted(report.findings, key=lambda finding: finding.workload)
    assert [MACS[n] in first.workload for n in (1, 2, 3)] == [True, True, False]
    assert (first.evidence["rows"], first.last_seen) == (2, NINE + dt.timedelta(minutes=2))
    assert first.rule == "Deny" and MACS[3] in second.workload


def test_findings_are_ordered_by_severity() -> None:
    order = ("high", "medium", "low")
    ranks = [order.index(finding.severity) for finding in sample_report().findings]
    assert ranks == sorted(ranks) and len(set(ranks)) > 1


def test_a_finding_on_a_pair_tells_when_it_was_first_and_last_seen(tmp_path: Path) -> None:
    # In clear at 9:03 and 10:05, encrypted before and between; a Begin carries no traffic yet.
    first = [flow(WEB, APP, 443, code="X", minute=1), flow(WEB, APP, 443, state="B", minute=2)]
    write_blob(tmp_path, MACS[1], [*first, flow(WEB, APP, 443, minute=3), flow(WEB, APP, 443, code="X", minute=4)])
    write_blob(tmp_path, MACS[1], [flow(WEB, APP, 443, minute=65)], hour=10)
    write_blob(tmp_path, MACS[2], [flow(WEB, APP, 443, "I", code="X", minute=minute) for minute in (1, 4)])
    write_blob(tmp_path, MACS[2], hour=10)
    (finding,) = report_on(tmp_path).findings
    assert (finding.first_seen, finding.last_seen) == (at(3), at(65))


def test_a_dropped_pair_tells_when_it_was_first_and_last_seen(tmp_path: Path) -> None:
    denied = [flow(WEB, APP, 443, "I", "D", minute=minute) for minute in (7, 12)]
    write_blob(tmp_path, MACS[1], [flow(WEB, "203.0.113.7", 443)])
    write_blob(tmp_path, MACS[2], denied, acl="unspecified", rule="unspecified")
    (finding,) = report_on(tmp_path).findings
    assert "Dropped" in finding.subject
    assert (finding.first_seen, finding.last_seen) == (at(7), at(12))


SMALL_REPLY = (5, 500, 4, 420)
FAILURES = {
    "Denied": ("windows-kms", KMS, 1688, "D", ()),
    "Unanswered": ("windows-kms", KMS, 1688, "E", (4, 400, 0, 0)),
    "Answered without data": ("rhui", "20.225.226.182", 443, "E", SMALL_REPLY),
}


@pytest.mark.parametrize("status", FAILURES)
def test_a_finding_on_an_endpoint_tells_when_it_was_first_and_last_seen(tmp_path: Path, status: str) -> None:
    profile, address, port, state, counters = FAILURES[status]
    for hour, minutes in ((9, (7, 12)), (10, (65, 70))):
        # What begins carries no traffic yet, and an address that answered failed never.
        begun = [flow(WEB, address, port, state="B", minute=minute - 2) for minute in minutes]
        failed = [flow(WEB, address, port, state=state, minute=minute, counters=counters) for minute in minutes]
        write_blob(tmp_path, MACS[1], [*begun, *failed], hour=hour)
    (finding, *others) = report_on(tmp_path, profiles=[profile], questions=["denied_egress"]).findings
    assert others == [] and status in finding.subject
    assert (finding.first_seen, finding.last_seen) == (at(7), at(70))


def test_what_failed_before_the_window_is_not_when_a_finding_was_first_seen(tmp_path: Path) -> None:
    write_blob(tmp_path, MACS[1], [flow(WEB, KMS, 1688, state="D", minute=minute) for minute in (3, 7.5, 9, 12)])
    window = {"start": at(7.5), "end": at(12)}
    (finding,) = fl.report(fl.scan(tmp_path, now=LATER, **window), profiles=["windows-kms"], expected=EXPECTED).findings
    assert (finding.first_seen, finding.last_seen) == (at(7.5), at(9))


def test_a_failure_beside_an_answer_is_first_seen_when_it_was_denied(tmp_path: Path) -> None:
    knocks = [flow(WEB, KMS, 1688, minute=3, counters=(4, 400, 0, 0)), flow(WEB, KMS, 1688, minute=5)]
    write_blob(tmp_path, MACS[1], [*knocks, *(flow(WEB, KMS, 1688, state="D", minute=minute) for minute in (8, 9))])
    (finding,) = report_on(tmp_path, questions=["denied_egress"]).findings
    assert "Partly denied" in finding.subject
    assert (finding.first_seen, finding.last_seen) == (at(8), at(9))


# ---- an earlier report


def earlier(folder: Path, report_of: Path) -> fl.Baseline:
    """A baseline by way of the JSON document, as a user has it."""
    path = folder / "last.json"
    ran = run("analyze", report_of, "--profile", "windows-kms", "-o", path)
    assert ran.code == 0
    baseline = read_baseline(path)
    assert baseline is not None
    return baseline


def denied(folder: Path, *addresses: str, hour: int = 9) -> Path:
    for n, address in enumerate(addresses, 5):
        tuples = [flow(address, KMS, 1688, state="D", minute=60 * (hour - 9) + 3)]
        write_blob(folder, MACS[n], tuples, rule="UserRule_Deny", hour=hour)
    return folder


def mended(folder: Path, *, nic: int = 5) -> Path:
    """Healthy logs, also of the NIC that `denied` writes first, which asks for nothing there."""
    for hour in (9, 10):
        write_blob(
            healthy(folder), MACS[nic], [flow("10.0.4.4", WEB, 22, code="X", minute=60 * (hour - 9) + 7)], hour=hour
        )
    return folder


def states(report: fl.Report) -> list[tuple[str, str]]:
    return sorted((finding.workload.split(" ")[0], finding.state) for finding in report.findings)


def test_new_ongoing_and_resolved(tmp_path: Path) -> None:
    before = earlier(tmp_path, denied(tmp_path / "before", "10.0.4.4", "10.0.5.4"))
    after = write_blob(tmp_path / "after", MACS[5], [flow("10.0.4.4", WEB, 22)]).parents[8]
    for nic, address in ((6, "10.0.5.4"), (7, "10.0.6.4")):
        write_blob(after, MACS[nic], [flow(address, KMS, 1688, state="D", minute=3)], rule="UserRule_Deny")
    report = report_on(after, baseline=before)
    assert states(report) == [("10.0.4.4", "resolved"), ("10.0.5.4", "ongoing"), ("10.0.6.4", "new")]
    assert (report.metrics["findings"], report.metrics["new_findings"]) == (2, 1)


@pytest.mark.parametrize("gap", GAPS)
def test_what_could_not_be_seen_is_not_resolved(tmp_path: Path, gap: Callable[[Path], dict[str, Any]]) -> None:
    before = earlier(tmp_path, denied(tmp_path / "before", "10.0.4.4"))
    after = mended(tmp_path / "after")
    assert states(report_on(after, baseline=before)) == [("10.0.4.4", "resolved")]
    blind = report_on(after, baseline=before, **gap(after))
    assert states(blind) == []
    assert blind.notes == (
        "1 finding(s) of the baseline on denied_egress are not found again, yet not called resolved: the evidence has gaps.",
    )


def test_a_workload_whose_log_is_gone_is_not_resolved(tmp_path: Path) -> None:
    before = earlier(tmp_path, denied(tmp_path / "before", "10.0.4.4"))
    report = report_on(healthy(tmp_path / "after"), baseline=before)
    assert (report.metrics["incomplete"], report.findings) == (0, ())
    (note,) = report.notes
    assert "not called resolved: no hour of their workloads was read (10.0.4.4" in note


def test_a_short_look_resolves_nothing(tmp_path: Path) -> None:
    before = earlier(tmp_path, healthy(denied(tmp_path / "before", "10.0.4.4")))
    after = mended(tmp_path / "after")
    # Two hours then: two hours now are as good, one is not.
    for end, state in ((11, ["resolved"]), (10, [])):
        scanned = fl.scan(after, start=NINE, end=NINE.replace(hour=end), now=LATER, threads=1)
        report = fl.report(scanned, profiles=["windows-kms"], expected=EXPECTED, baseline=before)
        assert [finding.state for finding in report.findings] == state
    assert "the baseline looked at a longer time" in report.notes[0]


def test_what_was_resolved_is_not_resolved_again(tmp_path: Path) -> None:
    last = earlier(tmp_path, denied(tmp_path / "before", "10.0.4.4"))
    gone = tuple({**finding, "state": "resolved"} for finding in last.findings)
    assert report_on(mended(tmp_path / "after"), baseline=replace(last, findings=gone)).findings == ()


def test_an_empty_run_resolves_nothing(tmp_path: Path) -> None:
    before = earlier(tmp_path, denied(tmp_path / "before", "10.0.4.4"))
    (tmp_path / "nothing").mkdir()
    assert report_on(tmp_path / "nothing", baseline=before).findings == ()


@pytest.mark.parametrize("by_file", [True, False])
def test_what_the_baseline_knew_is_expected(tmp_path: Path, by_file: bool) -> None:
    write_blob(tmp_path / "before", MACS[1], [flow(WEB, "192.0.2.1", 443)])
    write_blob(tmp_path / "after", MACS[1], [flow(WEB, "192.0.2.1", 443, minute=2)])
    before = earlier(tmp_path, tmp_path / "before") if by_file else fl.scan(tmp_path / "before", now=LATER)
    known = report_on(tmp_path / "after", expected=None, baseline=before)
    assert (known.verdicts["unexpected_destinations"].status, known.findings) == ("ok", ())
    assert known.tables["unexpected_destinations"]["is_new"].to_list() == [False]

    write_blob(tmp_path / "after", MACS[1], [flow(WEB, "192.0.2.1", 443), flow(WEB, "198.51.100.9", 22)])
    more = report_on(tmp_path / "after", expected=None, baseline=before)
    assert more.verdicts["unexpected_destinations"].status == "findings"
    assert [finding.subject for finding in more.findings] == ["198.51.100.9 TCP 22"]
    assert (more.metrics["new_destinations"], more.metrics["unexpected_destinations"]) == (1, 1)


def test_a_question_that_is_not_asked_is_not_resolved(tmp_path: Path) -> None:
    before = earlier(tmp_path, denied(tmp_path / "before", "10.0.4.4"))
    after = mended(tmp_path / "after")
    assert report_on(after, baseline=before, questions=["unexpected_destinations"]).findings == ()
    assert states(report_on(after, baseline=before, questions=["denied_egress"])) == [("10.0.4.4", "resolved")]


def test_another_scope_or_profile_resolves_nothing(tmp_path: Path) -> None:
    before = earlier(tmp_path, denied(tmp_path / "before", "10.0.4.4"))
    after = mended(tmp_path / "after")
    assert report_on(after, baseline=before, profiles=["windows-kms", "azure-platform"]).findings == ()
    assert report_on(after, baseline=replace(before, settings=None)).findings == ()
    narrow = fl.scan(after, now=LATER, threads=1, scope=fl.Scope(nics=(MACS[1],)))
    narrow_report = fl.report(narrow, profiles=["windows-kms"], expected=EXPECTED, baseline=before)
    assert narrow_report.findings == ()


def test_what_a_report_found_does_not_heal_because_it_was_found(tmp_path: Path) -> None:
    known, found = flow(WEB, "192.0.2.1", 443), flow(WEB, "198.51.100.9", 22, minute=7)
    write_blob(tmp_path / "first", MACS[1], [known])
    write_blob(tmp_path / "second", MACS[1], [known, found])
    first = earlier(tmp_path, tmp_path / "first")
    days = []
    for _ in range(3):
        path = tmp_path / "next.json"
        days.append(report_on(tmp_path / "second", expected=None, baseline=first, profiles=["windows-kms"]))
        with path.open("wb") as file:
            write_json(days[-1], file)
        first = read_baseline(path) or first
    assert [day.verdicts["unexpected_destinations"].status for day in days] == ["findings"] * 3
    assert [[(f.subject, f.state) for f in day.findings] for day in days] == [
        [("198.51.100.9 TCP 22", state)] for state in ("new", "ongoing", "ongoing")
    ]
    assert [day.metrics["new_destinations"] for day in days] == [1, 0, 0]
    assert days[2].tables["unexpected_destinations"].select("dst_ip", "reason").rows() == [
        ("192.0.2.1", "no expected list: inventory only"),
        ("198.51.100.9", "reported by the baseline and not expected since"),
    ]


def test_an_ongoing_finding_keeps_the_time_it_was_first_seen(tmp_path: Path) -> None:
    write_blob(tmp_path / "before", MACS[1], [flow(WEB, "192.0.2.1", 443, minute=3)])
    write_blob(tmp_path / "after", MACS[1], [flow(WEB, "192.0.2.1", 443, minute=65)], hour=10)
    path = tmp_path / "last.json"
    with path.open("wb") as file:
        write_json(report_on(tmp_path / "before"), file)
    (ongoing,) = report_on(tmp_path / "after", baseline=read_baseline(path)).findings
    assert (ongoing.state, ongoing.first_seen, ongoing.last_seen) == ("ongoing", at(3), at(65))
    (gone,) = report_on(healthy(tmp_path / "healthy"), baseline=read_baseline(path)).findings
    assert (gone.state, gone.first_seen, gone.last_seen) == ("resolved", at(3), at(3))


def test_an_endpoint_that_goes_on_failing_keeps_the_time_it_was_first_seen(tmp_path: Path) -> None:
    before = earlier(tmp_path, denied(tmp_path / "before", "10.0.5.4"))
    (ongoing,) = report_on(denied(tmp_path / "after", "10.0.5.4", hour=10), baseline=before).findings
    assert (ongoing.state, ongoing.first_seen, ongoing.last_seen) == ("ongoing", at(3), at(63))


def test_a_report_that_lists_no_destinations_is_no_baseline_for_them(tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    assert run("encryption", healthy(tmp_path / "logs"), "-o", path).code == 0
    ran = run("destinations", tmp_path / "logs", "--baseline", path)
    assert ran.code == 2
    assert "expected a report that lists destinations" in ran.err
    before = read_baseline(path)
    assert report_on(tmp_path / "logs", baseline=before, questions=["encryption_status"]).findings == ()


@pytest.mark.parametrize("time", ["yesterday", "0001-01-01T00:00:00+14:00"])
def test_a_baseline_with_a_wrong_time_is_refused(tmp_path: Path, time: str) -> None:
    path = tmp_path / "last.json"
    write = run("analyze", denied(tmp_path / "logs", "10.0.4.4"), "--profile", "windows-kms", "-o", path)
    assert write.code == 0
    document = json.loads(path.read_text())
    document["findings"][0]["last_seen"] = time
    path.write_text(json.dumps(document))
    with pytest.raises(fl.ConfigError, match="wrong time"):
        read_baseline(path)


# ---- what a filter on a flow log takes away


def verdict_beside(folder: Path, tuples: list[str]) -> fl.Verdict:
    """The verdict on egress: one flow log shows a server that answers, another flow log, of another NIC, has ``tuples``."""
    write_blob(folder, MACS[1], [flow(WEB, KMS, 1688)])
    write_blob(folder, MACS[2], tuples, log=vnet_log("vnet-a", "other"))
    return report_on(folder).verdicts["denied_egress"]


def begun(count: int) -> list[str]:
    return [flow(APP, KMS, 1688, state="B", src_port=1024 + n) for n in range(count)]


@pytest.mark.parametrize("count", [20, 900])
def test_a_flow_log_whose_filter_removes_traffic_gives_no_verdict(tmp_path: Path, count: int) -> None:
    # Without Continuing and End nothing unanswered can be seen, whatever another flow log shows.
    verdict = verdict_beside(tmp_path, begun(count))
    assert verdict.status == "not_determined"
    assert "1 flow log(s) hold no Continuing or End tuple" in verdict.text


@pytest.mark.parametrize("tuples", [begun(19), [*begun(900), flow(APP, WEB, 443)]], ids=["few", "some traffic"])
def test_few_flows_or_a_little_traffic_show_no_filter(tmp_path: Path, tuples: list[str]) -> None:
    verdict = verdict_beside(tmp_path, tuples)
    assert (verdict.status, "flow log(s) hold" in verdict.text) == ("ok", False)


@pytest.mark.parametrize(
    ("flows", "more", "condition"),
    [(999, [], False), (1000, [], True), (1000, [flow(APP, WEB, 22, state="D")], False)],
    ids=["few", "many", "one denied"],
)
def test_a_pass_without_any_denied_flow_among_many_has_its_condition(
    tmp_path: Path, flows: int, more: list[str], condition: bool
) -> None:
    both = [flow(APP, KMS, 1688, state=state, src_port=1024 + n) for n in range(flows) for state in "BE"]
    verdict = verdict_beside(tmp_path, both + more)
    assert verdict.status == "ok"
    assert (", unless a filter removes denied flows" in verdict.text) is condition
    assert ("1 flow log(s) hold no Deny tuple" in verdict.text) is condition
