"""Markdown for tickets, pull requests, wikis and job summaries: what the terminal tells, in its order.

Text of logs is put into code spans wherever it holds anything but words. That is the one form in which the Markdown of GitHub
neither renders nor links, mentions or counts on anything (https://github.github.com/gfm, 6.1; mentions, issue numbers and emoji
are put in only afterwards, outside of code).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from flowlens.findings import Finding
from flowlens.outputs.content import (
    TITLES,
    Section,
    acceptance_text,
    accepted_findings,
    by_state,
    evidence,
    sections,
    window_text,
)
from flowlens.outputs.page import Shown
from flowlens.outputs.text import clean, counted
from flowlens.reporting import Report

_ROWS = 100
"""Rows of a table; an issue takes 65,536 characters, a job summary 1 MiB."""
_TOKEN = re.compile(r"(\(?)(.*?)([,.;:!?)]*)")
"""A word between the punctuation that may stand around it."""
_WORD = re.compile(r"[^\W_](?:[^\W_]|[,.;()%'/+?!-])*|\d\d:\d\dZ?|%|")
"""A word that means nothing but itself anywhere in a line."""
_LINKED = re.compile(r"www\.|gh-\d|.*(?<![0-9a-z])[0-9a-f]{7,40}(?![0-9a-z])", re.IGNORECASE)
"""What is made into a link: addresses, issues and whatever may be a commit."""
_NUMBERED = re.compile(r"\d+[.)]")
"""What begins a list at the start of a line."""


def write_markdown(report: Report, file: BinaryIO) -> None:
    """Write the report as GitHub-flavoured Markdown, at most 100 rows of a table; times are UTC."""
    file.write("\n\n".join(_blocks(report)).encode() + b"\n")


def inline(text: object) -> str:
    """The text for any place inside a line: words as they are, all else in code spans.

    >>> inline("allow *.data.mcr.microsoft.com | @all")
    'allow `*.data.mcr.microsoft.com` `\\\\x7c` `@all`'
    """
    return " ".join(map(_safe, filter(None, clean(text).split(" "))))


def _safe(word: str) -> str:
    if word == "-":
        return "\\-"
    if _NUMBERED.fullmatch(word):
        return _code(word)
    found = _TOKEN.fullmatch(word)
    assert found is not None
    before, inner, after = found.groups()
    if _WORD.fullmatch(inner) and not _LINKED.match(inner):
        return word
    return f"{before}{_code(inner)}{after}"


def _code(word: str) -> str:
    """The word as a code span. In a table a pipe ends the cell even there, so it is written as an escape."""
    word = word.replace("|", "\\x7c")
    fence = "`" * (max(map(len, re.findall("`+", word)), default=0) + 1)
    pad = " " if word.startswith("`") or word.endswith("`") else ""
    return f"{fence}{pad}{word}{pad}{fence}"


def _blocks(report: Report) -> Iterator[str]:
    yield f"# {inline(report.settings.get('title') or 'Flow log report')}"
    yield window_text(report, _clock)
    if report.verdicts:
        rows = [
            (TITLES[name], verdict.status.replace("_", " "), verdict.text) for name, verdict in report.verdicts.items()
        ]
        yield _table(("question", "verdict", "why"), ([inline(q), f"**{s}**", inline(t)] for q, s, t in rows))
    states = by_state(report)
    if states:
        yield f"Since the baseline: {', '.join(f'{len(found)} {state}' for state, found in states.items())}."
    taken = accepted_findings(report)
    if taken:
        yield f"Accepted: {counted(len(taken), 'finding')}."
        yield _list(f"{_about(finding)}: {inline(acceptance_text(entry))}" for finding, entry in taken)
    for section in sections(report):
        yield from _section(section)
    if report.findings:
        yield from _findings(report.findings)
    yield "## Evidence"
    yield _list(map(inline, evidence(report)))


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    rows = section.rows.head(_ROWS)
    if rows.height:
        columns = section.columns(_clock)
        cells = [[inline(column.cell(row)) for column in columns] for row in rows.iter_rows(named=True)]
        filled = [n for n in range(len(columns)) if any(row[n] for row in cells)]
        yield _table([columns[n] for n in filled], ([row[n] for n in filled] for row in cells))
    if section.rows.height > rows.height:
        yield f"And {counted(section.rows.height - rows.height, 'more row')}: the JSON and CSV outputs have all."
    if section.note or not rows.height:
        yield inline(section.note or "no rows")
    if section.advice:
        yield _list(f"{inline(whom)} {inline(text)}" for whom, text in section.advice)


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    yield "## Findings"
    rows = (
        [
            f"`{clean(finding.id)}`",
            finding.severity,
            f"{finding.state}, accepted" if finding.accepted else finding.state,
            inline(finding.workload),
            inline(finding.subject),
            inline(finding.rule or ""),
            _clock(finding.first_seen),
            _clock(finding.last_seen),
        ]
        for finding in findings[:_ROWS]
    )
    heads = ("id", "severity", "state", "workload", "finding", "rule", "first seen", "last seen")
    yield _table(heads, rows)
    if len(findings) > _ROWS:
        yield f"And {counted(len(findings) - _ROWS, 'more finding')}: the JSON output has all."


def _about(finding: Finding) -> str:
    return f"{inline(finding.workload)} {inline(finding.subject)}"


def _table(heads: Iterable[str | Shown], rows: Iterable[Sequence[str]]) -> str:
    columns = [(head, False) if isinstance(head, str) else (head.heading, head.right) for head in heads]
    lines = [[name for name, _ in columns], ["---:" if right else "---" for _, right in columns], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _clock(time: object) -> str:
    """A time for people, in UTC to the minute."""
    return f"{time.astimezone(dt.UTC):%Y-%m-%d %H:%M}Z" if isinstance(time, dt.datetime) else ""
