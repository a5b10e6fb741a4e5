"""The terminal: the answer first, then the rows behind it and what to do, then how complete the evidence was.

Status is always a word; colour only repeats it.
"""

from __future__ import annotations

from functools import partial

import polars as pl

from flowlens.evidence import Ledger
from flowlens.outputs.content import (
    TITLES,
    Section,
    acceptance_text,
    accepted_findings,
    by_state,
    columns_of,
    evidence,
    evidence_lines,
    sections,
    window_text,
)
from flowlens.outputs.page import Page
from flowlens.outputs.text import counted
from flowlens.reporting import Report
from flowlens.verdicts import FINDINGS, OK

COLOURS = {
    **dict.fromkeys(("Encrypted", "Reached", "Service reached", "Recovered", "read", "Stays"), "green"),
    **dict.fromkeys(
        ("Unencrypted", "Dropped", "Denied", "Denied at destination", "Unanswered", "failed", "Lost"), "red"
    ),
    **dict.fromkeys(("Mixed", "Partly denied", "Answered without data", "missing", "partly read", "At risk"), "yellow"),
}
"""The style of a cell that holds just this word."""

_MARK = {OK: ("ok", "bold green"), FINDINGS: ("findings", "bold red")}
_UNDETERMINED = ("not determined", "bold yellow")
_FIRST = 5
"""How many findings of a kind are named."""


def render_flows(found: pl.DataFrame, ledger: Ledger, page: Page, *, limit: int | None = None) -> None:
    """Write the flow tuples that were found, then how complete the evidence was."""
    if found.is_empty():
        page.line(TITLES["flows"], "bold")
        page.line("none that fits", "dim", indent=2)
    else:
        page.table(f"{counted(found.height, 'flow tuple')}", found, partial(columns_of, "flows"), limit=limit)
    page.line()
    page.line("Evidence", "bold")
    for line in evidence_lines(ledger):
        page.line(line, indent=2)


def render(report: Report, page: Page, *, limit: int | None = None) -> None:
    """Write the report: verdicts first, then each table with what to do, then the evidence."""
    page.line(window_text(report, page.clock))
    if report.verdicts:
        page.line()
    page.marked(
        [
            (f"[{word}]", style, f"{TITLES[name]}: ", verdict.text.removeprefix("Not determined: "))
            for name, verdict in report.verdicts.items()
            for word, style in [_MARK.get(verdict.status, _UNDETERMINED)]
        ]
    )
    _changes(page, report)
    _accepted(page, report)
    for section in sections(report):
        _section(page, section, limit)
    page.line()
    page.line("Evidence", "bold")
    for line in evidence(report):
        page.line(line, indent=2)


def _changes(page: Page, report: Report) -> None:
    """What is new, what goes on and what is over, where there was an earlier report to compare with."""
    states = by_state(report)
    if not states:
        return
    page.line()
    told = ", ".join(f"{len(found)} {state}" for state, found in states.items())
    page.line(f"Since the baseline: {told}", "bold")
    for state in ("new", "resolved"):
        for finding in states[state][:_FIRST]:
            page.line(f"{state}: {finding.workload} {finding.subject}", indent=2)
        if len(states[state]) > _FIRST:
            page.line(f"and {len(states[state]) - _FIRST} more {state}", "dim", indent=2)


def _accepted(page: Page, report: Report) -> None:
    taken = accepted_findings(report)
    if not taken:
        return
    page.line()
    page.line(f"Accepted: {counted(len(taken), 'finding')}", "bold")
    for finding, entry in taken:
        page.line(f"{finding.workload} {finding.subject}: {acceptance_text(entry)}", indent=2)


def _section(page: Page, section: Section, limit: int | None) -> None:
    page.line()
    if section.rows.is_empty():
        page.line(section.title, "bold")
        page.line(section.note or "no rows", "dim", indent=2)
        return
    page.table(section.title, section.rows, section.columns, limit=limit)
    if section.note:
        page.line(section.note, "dim", indent=2)
    if section.advice:
        page.line("Advice:", indent=2)
    page.marked([("  >", "", start, text) for start, text in section.advice])
