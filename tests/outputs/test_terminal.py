"""What a person sees: nothing cut, nothing said twice, and what is left out is counted."""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import flowlens as fl
from flowlens import schema
from flowlens.evidence import LocalParts
from flowlens.outputs.content import evidence_lines
from flowlens.outputs.page import Page, Shown
from flowlens.outputs.progress import progress_on
from flowlens.outputs.terminal import COLOURS, render, render_flows
from flowlens.verdicts import summarise
from tests.flow_logs import CONTAINER, SAMPLE
from tests.make_logs import LATER

NINE = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)


def page(width: int = 100, **options: Any) -> tuple[Page, io.StringIO]:
    out = io.StringIO()
    return Page(out, width=width, **options), out


@pytest.fixture(scope="module")
def sample() -> fl.Report:
    return fl.report(fl.scan(SAMPLE / CONTAINER, now=LATER))


def shown(report: fl.Report, width: int = 120, limit: int | None = None) -> str:
    told, out = page(width)
    render(report, told, limit=limit)
    return out.getvalue()


def rows_of(name: str, rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Rows of a result table; what is not given is null."""
    kinds = schema.polars_schema(schema.RESULTS[name])
    return pl.DataFrame([{**dict.fromkeys(kinds), **row} for row in rows], schema=kinds)


def report_of(**tables: pl.DataFrame) -> fl.Report:
    coverage = rows_of("coverage", [])
    views = pl.LazyFrame(
        schema={
            **dict.fromkeys(("bytes_sent", "bytes_received", "flows_started", "flows_denied"), pl.Int64),
            "counted": pl.Boolean,
            "flow_log_id": pl.String,
            "first_traffic": pl.Datetime("us", "UTC"),
        }
    )
    return fl.Report(
        window=fl.Window(NINE, NINE + dt.timedelta(hours=1)),
        settings={},
        catalogue={"date": "2026-06-26", "tags_date": "2026-06-26", "stale": False},
        ledger=fl.Ledger(),
        coverage=summarise(coverage, LocalParts((views,))),
        verdicts={},
        findings=(),
        tables=tables,
    )


def denied(**values: Any) -> dict[str, Any]:
    return {
        "workload": "10.0.0.4 (00005E005301)",
        "profile": "aks-core",
        "endpoint": "mcr.microsoft.com",
        "protocol": "TCP",
        "port": "443",
        "status": "Denied",
        "match": "approximate tag",
        "dst_ip": "150.171.70.10",
        "acl_rule": "DenyAll",
        "acl_id": "nsg-a",
        "attempts": 7,
        "fix": f"Allow outbound TCP 443 to {values.get('endpoint', 'mcr.microsoft.com')} before DenyAll in nsg-a.",
        **values,
    }


# ---- pages

words = st.text("abz-.", min_size=1, max_size=12)
names = st.lists(words, min_size=1, max_size=4).map(" ".join)
addresses = st.ip_addresses().map(str)
tables = st.lists(st.tuples(addresses, names, names, st.integers(0, 10**9).map(str)), min_size=1, max_size=5)


def columns(_clock: Any) -> list[Shown]:
    return [
        Shown("destination", lambda row: str(row["a"]), whole=True),
        Shown("name", lambda row: str(row["b"]), name=True),
        Shown("note", lambda row: str(row["c"]), minor=1),
        Shown("number", lambda row: str(row["d"]), right=True, minor=2),
    ]


@given(tables, st.integers(40, 160))
def test_a_table_keeps_to_the_width_and_cuts_no_address(rows: list[tuple[str, ...]], width: int) -> None:
    told, out = page(width)
    told.table("Title", pl.DataFrame(rows, schema=["a", "b", "c", "d"], orient="row"), columns)
    text = out.getvalue()
    assert all(cell_len(line) <= width for line in text.splitlines())
    seen = text.split()
    for address, name, *_ in rows:
        assert address in seen
        # A name may be folded anywhere, yet each of its characters is there.
        for character in set(name.replace(" ", "")):
            assert text.count(character) >= name.count(character)
    if width >= 150:
        assert all(word in text for row in rows for cell in row for word in cell.split())


@pytest.mark.slow
@given(tables, st.integers(60, 160))
def test_columns_stand_under_their_headings(rows: list[tuple[str, ...]], width: int) -> None:
    told, out = page(width)
    told.table("Title", pl.DataFrame(rows, schema=["a", "b", "c", "d"], orient="row"), columns)
    lines = out.getvalue().splitlines()
    if lines[1].startswith("destination"):
        start = lines[1].index("name") if "name" in lines[1] else lines[2].index("name")
        for line in lines[3:]:
            assert line[start - 2 : start].strip() == ""


def test_a_narrow_page_lists_every_field(sample: fl.Report) -> None:
    text = shown(sample, 40)
    assert "- from: 10.10.2.5\n  to: 10.10.1.4\n  status: Dropped\n" in text


@pytest.mark.parametrize(("width", "listed"), [(59, True), (60, False)])
def test_below_sixty_columns_a_table_is_a_list_of_all_fields(width: int, listed: bool) -> None:
    told, out = page(width)
    told.table("T", pl.DataFrame({"a": ["1.2.3.4"], "b": ["x"], "c": ["y"], "d": ["5"]}), columns)
    assert ("- destination: 1.2.3.4\n  name: x\n  note: y\n  number: 5\n" in out.getvalue()) is listed


def test_a_column_that_is_empty_everywhere_is_left_out() -> None:
    told, out = page(120)
    told.table("T", pl.DataFrame({"a": ["1.2.3.4"], "b": ["x"], "c": [""], "d": ["5"]}), columns)
    assert out.getvalue().split("\n")[1].split() == ["destination", "name", "number"]


def test_times_of_one_day_leave_the_date_to_the_title() -> None:
    def when(clock: Any) -> list[Shown]:
        return [Shown("seen", lambda row: clock(row["t"]))]

    def told(times: list[dt.datetime | None], zone: str | None = None) -> list[str]:
        view, out = page(zone=ZoneInfo(zone) if zone else None)
        view.table("T", pl.DataFrame({"t": times}, schema={"t": pl.Datetime("us", "UTC")}), when)
        return [line for line in out.getvalue().splitlines() if line and "─" not in line]

    late = NINE + dt.timedelta(hours=7)
    assert told([NINE, late]) == ["T, 2026-06-15", "seen", "09:00Z", "16:00Z"]
    assert told([NINE, late], "Asia/Tokyo") == ["T", "seen", "2026-06-15 18:00+0900", "2026-06-16 01:00+0900"]
    assert told([None, NINE]) == ["T, 2026-06-15", "seen", "09:00Z"]
    assert told([None]) == ["T"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_what_a_limit_hides_is_counted(limit: int) -> None:
    told, out = page(120)
    told.table("T", pl.DataFrame({"a": ["1.2.3.4"] * 3, "b": "x", "c": "y", "d": "5"}), columns, limit=limit)
    assert out.getvalue().count("1.2.3.4") == limit
    assert (f"and {3 - limit} more" in out.getvalue()) is (limit < 3)


@pytest.mark.parametrize(
    ("encoding", "kept"), [("utf-8", "規則 é"), ("cp932", "規則 \\xe9"), ("cp1252", "\\u898f\\u5247 é")]
)
def test_what_an_encoding_lacks_is_escaped_before_it_is_measured(encoding: str, kept: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    told = Page(out, width=60)
    assert told.safe("規則 é") == kept
    told.line("規則 é " * 12)
    told.marked([("[規]", "", "則: ", "é" * 80)])
    out.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    assert max(map(cell_len, lines)) <= 60
    assert kept.split(maxsplit=1)[0] in lines[0]


def test_a_page_is_never_narrower_than_twenty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert Page(io.StringIO()).width == 20


# ---- reports


def test_verdicts_come_first_and_say_their_word_once(sample: fl.Report) -> None:
    lines = shown(sample).splitlines()
    assert lines[0] == "From 2026-06-15 06:00Z to 16:00Z."
    assert [line.split("]")[0] for line in lines if line.startswith("[")] == [
        "[findings",
        "[findings",
        "[not determined",
    ]
    assert lines[2].startswith("[findings]        Encryption between VMs: 6 of 10 pairs")
    assert not any(line.lower().count("not determined") > 1 for line in lines)
    first_table = next(n for n, line in enumerate(lines) if "─" in line)
    assert all(n < first_table for n, line in enumerate(lines) if line.startswith("["))


@pytest.mark.parametrize("alone", [True, False])
def test_rows_that_are_not_shown_are_counted(sample: fl.Report, alone: bool) -> None:
    table = sample.tables["denied_egress"]
    report = fl.Report(**{**_fields(sample), "tables": {"denied_egress": table}}) if alone else sample
    text = shown(report, 200)
    hidden = ("Cannot tell", "Not seen", "Not observable") + (() if alone else ("Reached", "Service reached"))
    counts = dict(table.filter(pl.col("status").is_in(hidden)).group_by("status").len().iter_rows())
    assert counts
    for status, count in counts.items():
        assert f"{count} {status.lower()}" in text
    (section,) = re.findall(r"\nRequired endpoints\n(.*?)\n\n", text, re.DOTALL)
    assert not any(f" {status} " in section for status in counts)


def _fields(report: fl.Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in fl.Report.__slots__}


def test_rows_that_differ_in_the_endpoint_alone_are_one() -> None:
    hosts = ("mcr.microsoft.com", "a.mcr.microsoft.com", "b.mcr.microsoft.com", "c.mcr.microsoft.com")
    table = rows_of("denied_egress", [*(denied(endpoint=host) for host in hosts), denied(acl_rule="Other", fix=None)])
    text = shown(report_of(denied_egress=table), 200)
    grid = [line for line in text.splitlines() if line.startswith("10.0.0.4 ")]
    assert len(grid) == 2
    assert "a.mcr.microsoft.com, b.mcr.microsoft.com, c.mcr.microsoft.com and 1 more" in grid[0]
    assert text.count("Allow outbound") == 1
    together = "to a.mcr.microsoft.com, b.mcr.microsoft.com, c.mcr.microsoft.com and 1 more before DenyAll"
    assert together in " ".join(text.split())


@pytest.mark.parametrize(
    "difference",
    [
        {"workload": "10.0.0.5 (00005E005302)"},
        {"dst_ip": "150.171.69.10"},
        {"port": "80"},
        {"protocol": "UDP"},
        {"status": "Unanswered"},
        {"attempts": 8},
        {"acl_id": "nsg-b"},
        {"vnet": "s/r/other"},
    ],
    ids=str,
)
def test_rows_that_differ_in_anything_else_stay_apart(difference: dict[str, Any]) -> None:
    table = rows_of("denied_egress", [denied(), denied(endpoint="other.example", **difference)])
    grid = [line for line in shown(report_of(denied_egress=table), 200).splitlines() if line.startswith("10.0.0.")]
    assert len(grid) == 2


def test_an_address_stands_alone_only_where_it_names_one_workload() -> None:
    one, two, three = "10.0.0.4 (00005E005301)", "10.0.0.4 (00005E005302)", "10.0.0.5 (00005E005303)"
    table = rows_of("denied_egress", [denied(workload=workload) for workload in (one, two, three)])
    text = shown(report_of(denied_egress=table), 200)
    assert one in text and two in text
    assert three not in text and "\n10.0.0.5 " in text
    named = rows_of("denied_egress", [denied(workload=workload) for workload in (one, "10.0.0.4")])
    assert one in shown(report_of(denied_egress=named), 200)


def test_advice_is_given_once(sample: fl.Report) -> None:
    for width in (60, 120):
        text = " ".join(shown(sample, width).split())
        for sentence in (
            sample.tables["encryption_status"].filter(pl.col("eligibility") == "eligible")["advice"].unique()
        ):
            assert text.count(sentence) == 1
        assert text.count("number than DenyInternet443 in nsg-aks") == 1


def test_advice_holds_a_rule_s_name_as_it_is() -> None:
    rows = [
        denied(endpoint=name, fix=f"Allow {name} above Deny\0{name[0]}.") for name in ("a.example.com", "b.example.com")
    ]
    text = shown(report_of(denied_egress=rows_of("denied_egress", rows)), 200)
    assert "Allow a.example.com above Deny\\x00a." in text and "Allow b.example.com above Deny\\x00b." in text


def test_advice_after_a_change_is_about_the_time_after_it() -> None:
    report = fl.report(fl.scan(SAMPLE / CONTAINER, now=LATER, changed_at=NINE + dt.timedelta(hours=2)))
    text = shown(report, 120)
    order = [
        text.index(f"Encryption between VMs{part}, 2026") for part in ("", " before the change", " after the change")
    ]
    assert order == sorted(order)
    (only,) = [match.start() for match in re.finditer("Advice:", text[: text.index("Required endpoints\n")])]
    assert only > order[2]


def test_coverage_shows_what_is_not_read_first(sample: fl.Report) -> None:
    alone = fl.Report(**{**_fields(sample), "tables": {"coverage": sample.tables["coverage"]}})
    lines = shown(alone, 120, limit=3).splitlines()
    start = next(n for n, line in enumerate(lines) if "─" in line) + 1
    assert [line.split()[3] for line in lines[start : start + 3]] == ["missing", "silent", "read"]
    assert "and 97 more" in lines[start + 3]
    whole = report_of(coverage=rows_of("coverage", [{"hour": NINE, "state": "read", "tuples": 1, "rejected": 0}]))
    assert "Coverage" not in shown(
        fl.Report(**{**_fields(whole), "tables": {**whole.tables, "rule_usage": rows_of("rule_usage", [])}})
    )


def test_what_changed_since_a_baseline_is_told(sample: fl.Report) -> None:
    assert "Since the baseline" not in shown(sample)
    first, *rest = sample.findings
    states = ["new", "ongoing", "resolved"]
    changed = [
        fl.Finding(**{**{n: getattr(first, n) for n in fl.Finding.__slots__}, "state": state}) for state in states
    ]
    text = shown(fl.Report(**{**_fields(sample), "findings": tuple(changed)}))
    assert "Since the baseline: 1 new, 1 ongoing, 1 resolved" in text
    assert f"new: {first.workload}" in text and f"resolved: {first.workload}" in text
    assert rest


def test_every_status_has_a_colour_or_none_on_purpose() -> None:
    words_of_tables = {
        *(*schema.PAIR_STATUSES, *schema.EGRESS_STATUSES),
        *(*schema.COVERAGE_STATES, *schema.READINESS_STATUSES),
    }
    assert set(COLOURS) <= words_of_tables
    assert {*schema.EGRESS_PROBLEMS} <= set(COLOURS)


def test_flows_that_were_not_found_are_told() -> None:
    told, out = page(80)
    empty = pl.DataFrame(schema=schema.polars_schema(schema.FLOWS))
    render_flows(empty, fl.Ledger(blobs=1, tuples=5, rows=5), told)
    assert "none that fits" in out.getvalue()
    assert "1 file, 0 records, 5 flow tuples: 5 read" in out.getvalue()


def test_the_ledger_in_sentences() -> None:
    rejects = tuple(fl.Reject(f"{n}.json", n, "why", "") for n in range(7))
    ledger = fl.Ledger(
        blobs=2,
        records=1,
        tuples=1234,
        rows=1230,
        rejected=4,
        rejected_records=1,
        unread=2,
        restarted_bytes_in_doubt=41_900_000,
        unknown_codes={"NX_NEW": 3},
        rejects=rejects,
        notes=("a note",),
    )
    told = evidence_lines(ledger)
    assert told[0] == "2 files, 1 record, 1,234 flow tuples: 1,230 read, 0 outside the window, 4 rejected."
    assert told[1:5] == [
        "1 record could not be decoded.",
        "2 files could not be read to the end.",
        "Codes that no documentation names, kept as they are: NX_NEW x3.",
        "41.9 MB may be counted twice: flows re-created in place kept their counters.",
    ]
    assert told[5:] == [
        *(f"{n}.json at byte {n}: why" for n in range(5)),
        "and 2 more rejects in the JSON output.",
        "a note",
    ]
    assert len(evidence_lines(fl.Ledger())) == 1


def test_progress_is_for_terminals() -> None:
    assert progress_on(io.StringIO()) is None
