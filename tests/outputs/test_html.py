"""The page and the notebook's cell as text; what a browser makes of them is in tests/browser."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import flowlens as fl
from flowlens import schema
from flowlens.errors import ConfigError
from flowlens.outputs import html_charts, html_tables
from flowlens.outputs.delivery import target_of
from flowlens.outputs.html import write_html
from flowlens.outputs.terminal import TITLES
from flowlens.outputs.text import clean
from tests.flow_logs import CONTAINER, SAMPLE, run
from tests.make_logs import LATER

BIDI = "vm\u202e\u2066\x1b[31m<b>&\"'</b>"


class Reader(HTMLParser):
    """Tags with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "elements are closed in their order"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


@pytest.fixture(scope="module")
def report() -> fl.Report:
    return fl.report(fl.scan(SAMPLE / CONTAINER, now=LATER))


def page_of(report: fl.Report, **how: Any) -> str:
    file = io.BytesIO()
    write_html(report, file, **how)
    return file.getvalue().decode()


def policy(read: Reader) -> dict[str, str]:
    (found,) = [a["content"] for tag, a in read.tags if tag == "meta" and a.get("http-equiv")]
    assert found
    return dict(part.strip().split(" ", 1) for part in found.split(";"))


def hashed(texts: list[str]) -> str:
    (text,) = texts
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_allows_its_own_style_and_script_and_nothing_else(report: fl.Report) -> None:
    read = Reader(page_of(report))
    assert policy(read) == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": hashed(read.texts["style"]),
        "script-src": hashed(read.texts["script"]),
    }


def test_a_page_for_mail_has_no_script(report: fl.Report) -> None:
    text = page_of(report, static=True)
    read = Reader(text)
    assert "script" not in read.texts and "script-src" not in policy(read)
    assert "svg" in {tag for tag, _ in read.tags}


def test_nothing_leads_out_of_the_page(report: fl.Report) -> None:
    for tag, attributes in Reader(page_of(report)).tags:
        assert not {"src", "srcset", "action", "ping", "style"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")


def test_it_is_the_same_every_time(report: fl.Report) -> None:
    assert page_of(report) == page_of(report)


def test_every_verdict_and_sentence_of_the_evidence_is_there(report: fl.Report) -> None:
    text = " ".join("".join(Reader(page_of(report)).texts["p"]).split())
    for verdict in report.verdicts.values():
        assert verdict.text.removeprefix("Not determined: ")[1:] in text


@pytest.mark.parametrize("name", schema.RESULTS)
def test_every_result_table_has_its_columns_title_and_caption(name: str) -> None:
    columns = {column.name for column in html_tables.COLUMNS[name]}
    assert columns <= set(schema.RESULTS[name].names)
    assert name in TITLES and name in html_tables.CAPTIONS
    headings = [column.heading for column in html_tables.COLUMNS[name]]
    assert len(headings) == len(set(headings))


@pytest.mark.parametrize("state", schema.COVERAGE_STATES)
def test_every_state_of_an_hour_has_a_look_of_its_own(state: str) -> None:
    looks = [(tall, letter) for _, tall, letter in html_charts.STATE_LOOK.values()]
    assert looks.count(html_charts.STATE_LOOK[state][1:]) == 1


def test_text_is_escaped_and_what_would_hide_is_written_out(report: fl.Report) -> None:
    table = report.tables["coverage"].with_columns(workload=pl.lit(BIDI))
    alone = replace(report, tables={"coverage": table}, settings={"sources": [BIDI]}, charts={})
    for text in (page_of(alone), alone._repr_html_()):
        assert not re.search("[\u202e\u2066\x1b]", text)
        assert "<b>" not in text
    assert clean(BIDI) in Reader(page_of(alone)).texts["td"]


def test_rows_beyond_the_limit_are_added_up(report: fl.Report) -> None:
    table = report.tables["coverage"]
    shown = html_tables.result_table("coverage", "coverage", table, "x", str, limit=10)
    assert len(shown.rows) == 10 and shown.total == table.height == 100
    assert shown.others is not None
    assert shown.others[0].text == "90 others"
    place = [column.name for column in shown.columns].index("tuples")
    told = sum(int(str(row[place].value)) for row in shown.rows) + int(str(shown.others[place].value))
    assert told == table["tuples"].sum()
    assert "the others are 90 read" in shown.note


def test_a_zone_tells_the_times(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    ran = run("coverage", SAMPLE / CONTAINER, "--tz", "Asia/Tokyo", "-o", path)
    assert ran.code == 0
    assert "2026-06-15 15:00+0900" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    [
        ["encryption", "--changed-at", "2026-06-15T11:00Z"],
        ["egress", "--what-if", "private-subnet"],
        ["rules", "--depends", "DenyKms"],
    ],
    ids=lambda command: command[0],
)
def test_every_kind_of_report_has_a_page(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert run(command[0], SAMPLE / CONTAINER, *command[1:], "-o", path).code == 0
    assert "<table" in path.read_text(encoding="utf-8")


def test_a_report_on_nothing_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    fl.report(fl.scan(tmp_path / "logs")).write(tmp_path / "report.html")
    assert "no flow log was read" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_writes_itself_by_the_suffix(report: fl.Report, tmp_path: Path) -> None:
    report.write(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_bytes().startswith(b"{")
    report.write(f"{tmp_path}/tables/report.html", static=True)
    assert "<script" not in (tmp_path / "tables" / "report.html").read_text(encoding="utf-8")
    for name in ("report.htlm", "report", "report.txt"):
        with pytest.raises(ConfigError):
            report.write(tmp_path / name)
    assert not (tmp_path / "report.htlm").exists()


def test_a_notebook_shows_verdicts_and_findings(report: fl.Report) -> None:
    text = report._repr_html_()
    read = Reader(text)
    told = "".join(part for parts in read.texts.values() for part in parts)
    assert all(TITLES[name] in told for name in report.verdicts)
    assert all(finding.subject in told for finding in report.findings)
    assert "script" not in read.texts
    # Nothing but this cell is touched by its styles.
    rules = re.findall(r"^(.*?)\{", "".join(read.texts["style"]), re.MULTILINE)
    assert rules
    assert all(one.strip().startswith(".flowlens-report") for rule in rules for one in rule.split(","))


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ConfigError, match=r"pip install 'flowlens\[html\]'"):
        target_of("html", None, report=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["flows", "--format", "html"],
        ["convert", "-o", "x.html"],
        ["analyze", "--static"],
        ["analyze", "--static", "-o", "x.csv"],
    ],
    ids=" ".join,
)
def test_what_has_no_page_says_so(arguments: list[str]) -> None:
    ran = run(arguments[0], SAMPLE / CONTAINER, *arguments[1:])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
