"""Encryption of pairs, from a few flow tuples whose answer is plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flowlens as fl
from tests.make_logs import LATER, MACS, flow, write_blob

WEB, APP = "10.0.1.4", "10.0.2.4"
ONE, MANY = (1, 100, 1, 200), (9, 90_000, 9, 10_000)


def report_on(folder: Path, *tuples: str) -> fl.Report:
    """What WEB's flow tuples to APP say; a flow that APP opened tells whose its NIC is."""
    write_blob(folder, MACS[1], tuples)
    write_blob(folder, MACS[2], [flow(APP, "203.0.113.7", 443)])
    return fl.report(fl.scan(folder, threads=1, now=LATER), questions=["encryption_status"])


def pair_of(report: fl.Report) -> dict[str, Any]:
    (row,) = [row for row in report.tables["encryption_status"].to_dicts() if row["dst_workload"].startswith(APP)]
    return row


def test_one_tuple_between_vms_of_a_host_hides_no_clear_text(tmp_path: Path) -> None:
    local = flow(WEB, APP, 443, code="NX_LOCAL_DST", counters=ONE)
    report = report_on(tmp_path, flow(WEB, APP, 443, code="NX", counters=MANY), local)
    pair = pair_of(report)
    assert (pair["encryption_status"], pair["eligibility"], pair["encryption_code"]) == (
        "Unencrypted",
        "eligible",
        "NX",
    )
    assert (pair["bytes_unencrypted"], pair["flows_unencrypted"]) == (100_000, 1)
    assert report.verdicts["encryption_status"].status == "findings"


def test_vms_that_shared_a_host_for_a_while_are_encrypted(tmp_path: Path) -> None:
    local = flow(WEB, APP, 443, code="NX_LOCAL_DST", counters=MANY, minute=20)
    report = report_on(tmp_path, flow(WEB, APP, 443, code="X", counters=ONE), local)
    pair = pair_of(report)
    assert (pair["encryption_status"], pair["eligibility"]) == ("Encrypted", "eligible")
    assert (pair["bytes_encrypted"], pair["bytes_unencrypted"], pair["last_unencrypted"]) == (300, 0, None)
    assert report.verdicts["encryption_status"].status == "ok"


def test_vms_that_always_share_a_host_are_by_design(tmp_path: Path) -> None:
    report = report_on(tmp_path, flow(WEB, APP, 443, code="NX_LOCAL_DST", counters=MANY))
    pair = pair_of(report)
    assert (pair["encryption_status"], pair["eligibility"]) == ("Unencrypted", "by design")
    assert (pair["bytes_unencrypted"], pair["flows_unencrypted"]) == (100_000, 1)
    assert report.verdicts["encryption_status"].status == "not_determined"


@pytest.mark.parametrize("code", ["NX_FUTURE", "Y"])
def test_nothing_is_claimed_of_an_unknown_code(tmp_path: Path, code: str) -> None:
    report = report_on(tmp_path, flow(WEB, APP, 443, code=code))
    assert pair_of(report)["encryption_status"] == "Unknown"
    verdict = report.verdicts["encryption_status"]
    assert (verdict.status, report.findings, report.metrics["unencrypted"]) == ("not_determined", (), 0)
    assert code in verdict.text


def test_an_unknown_code_after_the_change_is_no_pass(tmp_path: Path) -> None:
    steps = [flow(WEB, APP, 443, code=code, minute=10 * n) for n, code in enumerate(("NX", "X", "NX_FUTURE"), 1)]
    report = report_on(tmp_path, *steps)
    assert "nothing was unencrypted after it" not in pair_of(report)["advice"]
    assert (report.verdicts["encryption_status"].status, report.metrics["unencrypted"]) == ("findings", 1)
