"""Markdown as GitHub's own renderer shows it: the report's cells and nothing that acts, whatever stands in names."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import cmarkgfm
import polars as pl
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given
from hypothesis import strategies as st

import flowlens as fl
from flowlens.outputs.markdown import inline, write_markdown
from flowlens.outputs.page import Page as TerminalPage
from flowlens.outputs.terminal import render
from flowlens.outputs.text import clean
from tests.hostile_report import hostile_report, sample_report
from tests.payloads import PAYLOADS

SHOWN = {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code", "strong"}
AT_A_TIME = 90
# What GitHub itself makes of text outside of code: mentions, issues, emoji, mathematics, addresses.
ACTIVE = re.compile(r"@|#\d|\$|:\w+:|www\.|://|~|\bGH-\d|\b[0-9a-f]{7,40}\b", re.IGNORECASE)


class Page(HTMLParser):
    """What is on a rendered page: its tags, its tables as lists of cells, its list items, and the text outside of code."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.tables: list[list[list[str]]] = []
        self.items: list[str] = []
        self.prose = ""
        self._inside: list[str] = []
        # Raw HTML is let through, so that anything of it shows.
        self.feed(cmarkgfm.github_flavored_markdown_to_html(markdown, options=Options.CMARK_OPT_UNSAFE))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= set(attrs)
        self._inside.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "li":
            self.items.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "td" in self._inside or "th" in self._inside:
            self.tables[-1][-1][-1] += data
        elif "li" in self._inside:
            self.items[-1] += data
        if "code" not in self._inside:
            self.prose += data


def markdown(report: fl.Report) -> str:
    file = io.BytesIO()
    write_markdown(report, file)
    return file.getvalue().decode()


def squeezed(text: str) -> str:
    return "".join(clean(text).replace("|", "\\x7c").split(" "))


def test_the_report_on_the_sample_is_as_it_was_reviewed(golden: Callable[[str, str], None]) -> None:
    golden("report.md", markdown(sample_report()))


def test_it_says_what_the_terminal_says() -> None:
    page = Page(markdown(sample_report()))
    out = io.StringIO()
    render(sample_report(), TerminalPage(out, width=400))
    shown = re.sub(r"\s+", " ", out.getvalue())
    for item in page.items:
        assert " ".join(item.split()) in shown
    told = [cell for table in page.tables[1:-1] for row in table[1:] for cell in row if not re.match(r"2026-06", cell)]
    assert len(told) > 100
    assert [cell for cell in told if " ".join(cell.split()) not in shown] == []


def test_findings_stand_there_with_the_ids_that_accept_takes() -> None:
    table = Page(markdown(sample_report())).tables[-1]
    assert [row[0] for row in table[1:]] == [finding.id for finding in sample_report().findings]


def test_a_long_table_is_cut_and_says_how_much_is_left() -> None:
    rows = pl.concat([sample_report().tables["unexpected_destinations"].head(1)] * 250)
    cut = markdown(replace(sample_report(), tables={"unexpected_destinations": rows}))
    assert "And 150 more rows: the JSON and CSV outputs have all." in cut
    assert len(Page(cut).tables[1]) == 101


@pytest.mark.parametrize("start", range(0, len(PAYLOADS), AT_A_TIME))
def test_no_payload_acts_and_each_stands_where_it_belongs(start: int) -> None:
    texts = PAYLOADS[start : start + AT_A_TIME]
    report = hostile_report(texts)
    page = Page(markdown(report))
    assert page.tags <= SHOWN
    assert {name for name, _ in page.attributes} <= {"align"}
    assert not ACTIVE.search(page.prose), ACTIVE.search(page.prose)
    assert len(page.tables) == 1 + len(report.tables) + 1
    for table in page.tables:
        assert {len(row) for row in table} == {len(table[0])}
    rules = page.tables[list(report.tables).index("rule_usage") + 1]
    heads, rows = rules[0], rules[1:]
    assert sorted(map(squeezed, texts)) == sorted("".join(row[heads.index("rule")].split()) for row in rows)
    # Numbers are those of the one row that was repeated.
    assert len({row[heads.index("denied")] for row in rows}) == 1 and rows[0][heads.index("denied")].isdigit()
    for text in filter(str.strip, texts):
        assert squeezed(text) in {"".join(item.split()) for item in page.items}


@given(st.text() | st.text(alphabet="`|\\[]()<>*_~#@:!.-+=$&;/ ahttpsw1\n"))
def test_any_text_is_one_paragraph_of_itself(text: str) -> None:
    page = Page(f"- {inline(text)} end")
    assert page.tags <= {"ul", "li", "code"}
    assert not ACTIVE.search(page.prose)
    (item,) = page.items
    assert "".join(item.split()).removesuffix("end") == "".join(squeezed(text).split())
