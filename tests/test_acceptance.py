"""Accepted findings: which files are taken, and what an entry changes in a report and in nothing else."""

from __future__ import annotations

import datetime as dt
import json
from functools import cache
from pathlib import Path

import pytest

import flowlens as fl
from flowlens.acceptance import Acceptance, read_acceptances
from flowlens.findings import QUESTIONS
from flowlens.outputs.tables import read_baseline
from flowlens.reporting import new_part
from tests.flow_logs import CONTAINER, SAMPLE, run
from tests.make_logs import LATER, MACS, flow, write_blob

TODAY = dt.date(2026, 6, 16)
FIRST, SECOND = "0123456789abcdef", "fedcba9876543210"
ENTRY = """
[[accept]]
id = "{id}"
reason = "until the move"
owner = "net-team"
expires = {expires}
"""


def written(folder: Path, *entries: str) -> Path:
    path = folder / "accepted.toml"
    path.write_text("".join(entries), encoding="utf-8")
    return path


def entry(finding: str = FIRST, expires: str = "2026-12-31") -> str:
    return ENTRY.format(id=finding, expires=expires)


# ---- the file


def test_entries_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, entry(), entry(SECOND, "2026-06-16"))
    assert read_acceptances(path) == (
        Acceptance(FIRST, "until the move", "net-team", dt.date(2026, 12, 31)),
        Acceptance(SECOND, "until the move", "net-team", dt.date(2026, 6, 16)),
    )
    assert read_acceptances(written(tmp_path, "# nothing yet\n")) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[accept]", "cannot be read"),
        (entry().replace("[[accept]]", "[[acept]]"), "unknown section 'acept'"),
        (entry().replace("[[accept]]", "[accept]"), "expected [[accept]] entries"),
        (entry().replace("reason", "raeson"), "entry 1: unknown key 'raeson'"),
        (entry() + entry(), "entry 2: 0123456789abcdef is accepted twice"),
        (entry("0123"), "is no id of a finding"),
        (entry().replace('"net-team"', '" "'), "expected owner as a text"),
        (entry().replace('owner = "net-team"', ""), "expected owner as a text"),
        (entry().replace("expires = 2026-12-31", ""), "expected expires as a date"),
        (entry(expires='"2026-12-31"'), "expected expires as a date"),
        (entry(expires="2026-12-31T00:00:00Z"), "expected expires as a date"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_before_anything_is_read(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)
    # The source is not there either: had it been looked at, that would be what is told.
    ran = run("analyze", tmp_path / "no-such-logs", "--accept", path)
    assert ran.code == 2
    assert told in ran.err and "accepted.toml" in ran.err


# ---- what it changes


@cache
def sample() -> fl.Report:
    return fl.report(fl.scan(SAMPLE / CONTAINER, now=LATER), expected=SAMPLE / "expected.toml", today=TODAY)


def accepting(*entries: Acceptance, today: dt.date = TODAY) -> fl.Report:
    scan = fl.scan(SAMPLE / CONTAINER, now=LATER)
    return fl.report(scan, expected=SAMPLE / "expected.toml", accept=entries, today=today)


def entries_for(findings: list[str], expires: dt.date = TODAY) -> list[Acceptance]:
    return [Acceptance(each, "until the move", "net-team", expires) for each in findings]


def test_what_is_accepted_stays_marked_and_counts_for_nothing() -> None:
    report = accepting(*entries_for([finding.id for finding in sample().findings]))
    assert [finding.id for finding in report.findings] == [finding.id for finding in sample().findings]
    assert all(finding.accepted and finding.accepted.owner == "net-team" for finding in report.findings)
    for name, table in sample().tables.items():
        assert report.tables[name].equals(table)
    assert {name for name, value in report.metrics.items() if value} == {"incomplete"}
    # One hour is missing in these logs, so that nothing is a pass.
    assert [report.verdicts[name].status for name in QUESTIONS] == ["not_determined"] * 3
    assert all("accepted" in report.verdicts[name].text for name in QUESTIONS)
    assert report.notes == ()


@pytest.mark.parametrize(
    ("question", "metric"),
    [
        ("encryption_status", "unencrypted"),
        ("denied_egress", "denied_required"),
        ("unexpected_destinations", "unexpected_destinations"),
    ],
)
def test_one_accepted_finding_counts_its_rows_less(question: str, metric: str) -> None:
    chosen = next(finding for finding in sample().findings if finding.question == question)
    rows = int(str(chosen.evidence.get("rows", 1)))
    report = accepting(*entries_for([chosen.id]))
    assert report.metrics[metric] == sample().metrics[metric] - rows
    assert report.metrics["findings"] == sample().metrics["findings"] - 1
    assert f"{rows} more accepted" in report.verdicts[question].text
    others = [name for name in QUESTIONS if name != question]
    assert [report.verdicts[name] for name in others] == [sample().verdicts[name] for name in others]


def test_rows_know_their_findings() -> None:
    for name, of_rows in sample().row_findings.items():
        assert len(of_rows) == sample().tables[name].height
        assert set(of_rows.drop_nulls()) == {f.id for f in sample().findings if f.question == name}


def test_an_entry_holds_to_the_end_of_its_day_and_then_counts_again() -> None:
    (chosen,) = [finding for finding in sample().findings if finding.question == "denied_egress"][:1]
    held = accepting(*entries_for([chosen.id]), today=TODAY)
    over = accepting(*entries_for([chosen.id]), today=TODAY + dt.timedelta(days=1))
    assert held.metrics["findings"] == sample().metrics["findings"] - 1
    assert (over.metrics, over.verdicts) == (sample().metrics, sample().verdicts)
    assert all(finding.accepted is None for finding in over.findings)
    assert over.notes == (
        f"Finding {chosen.id} counts again: it was accepted by net-team until 2026-06-16 (until the move).",
    )


def test_an_id_that_matches_nothing_is_said() -> None:
    report = accepting(*entries_for([FIRST]))
    assert report.notes == (
        f"No finding here has the id {FIRST}, accepted by net-team until 2026-06-16 (until the move).",
    )
    assert report.metrics == sample().metrics


def test_the_command_line_says_who_accepted_and_its_gate_passes(tmp_path: Path) -> None:
    write_blob(tmp_path / "logs", MACS[1], [flow("10.0.1.4", "20.118.99.224", 1688, state="D")], rule="UserRule_Deny")
    asked = ("egress", tmp_path / "logs", "--profile", "windows-kms", "--fail-on", "denied_required")
    ran = run(*asked, "--format", "json")
    (finding,) = ran.document["findings"]
    assert (ran.code, finding["accepted"]) == (1, None)
    path = written(tmp_path, entry(finding["id"], "2999-12-31"))
    ran = run(*asked, "--accept", path, "--format", "json")
    (finding,) = ran.document["findings"]
    assert ran.code == 0
    assert finding["accepted"] == {"reason": "until the move", "owner": "net-team", "expires": "2999-12-31"}
    shown = run(*asked, "--accept", path)
    assert shown.code == 0
    assert "Accepted: 1 finding\n" in shown.out
    assert "until the move (net-team, until 2999-12-31)" in shown.out


# ---- only what is new


def denied(folder: Path, *addresses: str) -> Path:
    for n, address in enumerate(addresses, 1):
        tuples = [flow(address, "20.118.99.224", 1688, state="D"), flow(address, "192.0.2.1", 443)]
        write_blob(folder, MACS[n], tuples, rule="UserRule_Rule")
    return folder


@pytest.mark.parametrize("by_file", [True, False])
def test_only_new_keeps_what_the_baseline_did_not_have(tmp_path: Path, by_file: bool) -> None:
    before = denied(tmp_path / "before", "10.0.1.4")
    after = denied(tmp_path / "after", "10.0.1.4", "10.0.2.4")
    earlier = tmp_path / "last.json" if by_file else before
    window = ("--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")
    if by_file:
        assert run("analyze", before, *window, "--profile", "windows-kms", "-o", earlier).code == 0
    asked = ("analyze", after, *window, "--profile", "windows-kms", "--baseline", earlier, "--format", "json")
    whole, new = run(*asked).document, run(*asked, "--only-new").document
    assert len(whole["findings"]) > len(new["findings"])
    assert {(f["state"], f["workload"].split(" ")[0]) for f in new["findings"]} == {("new", "10.0.2.4")}
    assert {f["question"] for f in new["findings"]} == {"denied_egress", "unexpected_destinations"}
    for name in ("denied_egress", "unexpected_destinations"):
        assert {row["workload"].split(" ")[0] for row in new["tables"][name]} == {"10.0.2.4"}
    assert new["tables"]["coverage"] == whole["tables"]["coverage"]
    assert new["verdicts"]["denied_egress"]["status"] == "findings"
    assert new["verdicts"]["denied_egress"]["text"].startswith("1 new since the baseline. 2 required endpoint(s) fail")


@pytest.mark.parametrize(("limit", "code"), [(0, 1), (1, 0)])
def test_gates_count_what_is_new(tmp_path: Path, limit: int, code: int) -> None:
    before = denied(tmp_path / "before", "10.0.1.4")
    assert run("analyze", before, "--profile", "windows-kms", "-o", tmp_path / "last.json").code == 0
    after = denied(tmp_path / "after", "10.0.1.4", "10.0.2.4")
    asked = ("analyze", after, "--profile", "windows-kms", "--baseline", tmp_path / "last.json", "--only-new")
    assert run(*asked, "--fail-on", f"denied_required > {limit}", "-o", tmp_path / "new.json").code == code
    # What holds only the news would make everything else new again tomorrow.
    with pytest.raises(fl.ConfigError, match="holds only what was new"):
        read_baseline(tmp_path / "new.json")


def test_only_new_needs_a_baseline(tmp_path: Path) -> None:
    ran = run("analyze", tmp_path / "no-such-logs", "--only-new")
    assert (ran.code, "--only-new: needs something to compare with" in ran.err) == (2, True)
    with pytest.raises(fl.ConfigError, match="--only-new"):
        fl.report(fl.scan(SAMPLE), only_new=True)


def test_one_more_address_of_a_reported_service_is_new(tmp_path: Path) -> None:
    storage, other = "20.60.172.11", "20.60.172.12"
    write_blob(tmp_path / "before", MACS[1], [flow("10.0.1.4", storage, 443)])
    both = [flow("10.0.1.4", storage, 443), flow("10.0.1.4", other, 443)]
    write_blob(tmp_path / "after", MACS[1], both)
    assert run("destinations", tmp_path / "before", "-o", tmp_path / "last.json", "--expect", empty(tmp_path)).code == 0
    report = fl.report(
        fl.scan(tmp_path / "after", now=LATER),
        questions=["unexpected_destinations"],
        baseline=read_baseline(tmp_path / "last.json"),
    )
    assert [finding.state for finding in report.findings] == ["ongoing"]
    new = new_part(report)
    assert new.tables["unexpected_destinations"]["dst_ip"].to_list() == [other]
    assert (new.metrics["new_destinations"], new.metrics["findings"]) == (1, 0)


def empty(folder: Path) -> Path:
    path = folder / "expected.toml"
    path.write_text("expected = []\n")
    return path


def test_the_json_says_what_was_asked(tmp_path: Path) -> None:
    path = written(tmp_path, entry())
    ran = run("encryption", SAMPLE / CONTAINER, "--accept", path, "--format", "json")
    assert ran.document["settings"]["accept"] == str(path)
    assert json.loads(ran.stdout)["notes"] == [
        f"No finding here has the id {FIRST}, accepted by net-team until 2026-12-31 (until the move)."
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("egress", "--fix", "nsg", "--accept"), "--accept: does not go with --what-if or --fix"),
        (("egress", "--what-if", "private-subnet", "--accept"), "--accept: does not go with --what-if or --fix"),
    ],
)
def test_what_judges_no_finding_takes_no_acceptance(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    command, *options = arguments
    ran = run(command, tmp_path / "no-such-logs", *options, written(tmp_path, entry()))
    assert (ran.code, told in ran.err) == (2, True)
