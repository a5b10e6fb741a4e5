"""A report in which every text that logs, names or files decide is a payload."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import polars as pl

import flowlens as fl
from flowlens.acceptance import Acceptance
from tests.flow_logs import CONTAINER, SAMPLE
from tests.make_logs import LATER

CLOSED = {
    "encryption_status",
    "eligibility",
    "requirement",
    "status",
    "match",
    "protocol",
    "rule_kind",
    "direction",
    "state",
    "reason",
    "dst_ip",
    "port",
    "mac_address",
}
"""Columns whose words are the program's own, or which hold nothing but an address, a port or a NIC."""


@cache
def sample_report() -> fl.Report:
    return fl.report(
        fl.scan(SAMPLE / CONTAINER, now=LATER), expected=SAMPLE / "expected.toml", today=dt.date(2026, 6, 16)
    )


def hostile_report(texts: Sequence[str]) -> fl.Report:
    """The report on sample_logs with a row and a finding for each text, which stands in each of their fields that can hold it."""
    whole = sample_report()
    tables, row_findings, findings = {}, {}, []
    for name, table in whole.tables.items():
        of_rows = whole.row_findings.get(name)
        first = of_rows.is_not_null().arg_max() if of_rows is not None else 0
        if name == "coverage":
            first = table["state"].to_list().index("missing")
        if name == "rule_usage":
            first = int(table["flows_denied"].arg_max() or 0)
        row = table.slice(int(first or 0), 1)
        open_columns = [c for c, kind in table.schema.items() if kind == pl.String and c not in CLOSED]
        many = pl.concat([row] * len(texts))
        tables[name] = many.with_columns(pl.Series(column, texts) for column in open_columns)
        if of_rows is None:
            continue
        old = next(finding for finding in whole.findings if finding.question == name)
        ids = [f"{len(row_findings) + 1:x}{n:015x}" for n in range(len(texts))]
        row_findings[name] = pl.Series(ids)
        findings += [
            replace(
                old,
                id=each,
                workload=text,
                subject=text,
                rule=text,
                evidence={key: text if isinstance(value, str) else value for key, value in old.evidence.items()},
                accepted=Acceptance(each, text, text, dt.date(2026, 12, 31)) if n % 2 else None,
                state=("new", "ongoing", "resolved")[n % 3],
            )
            for n, (each, text) in enumerate(zip(ids, texts, strict=True))
        ]
    rejects = tuple(fl.Reject(text, 12, text, text) for text in texts)
    return replace(
        whole,
        settings={**whole.settings, "sources": list(texts), "expected": texts[0]},
        ledger=replace(whole.ledger, rejects=rejects, notes=tuple(texts), unknown_codes={texts[0]: 1}),
        verdicts={name: replace(verdict, text=texts[-1]) for name, verdict in whole.verdicts.items()},
        findings=tuple(findings),
        tables=tables,
        row_findings=row_findings,
        notes=tuple(texts),
    )
