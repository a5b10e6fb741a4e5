"""Reports that no logs gave: tables as large or as hostile as a test needs, with all that a page draws of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl

import flowlens as fl
from flowlens import schema
from flowlens.analyses.charts import charts_of
from flowlens.findings import QUESTIONS
from tests.flow_logs import SAMPLE
from tests.make_logs import NINE

BYTES = 123_456_789_012
"""What every counter of bytes says; other counters say 7."""
CLOSED = {
    "encryption_status": "Unencrypted",
    "eligibility": "eligible",
    "status": "Denied",
    "state": "missing",
    "requirement": "required",
}
"""Columns that hold a word of flowlens' own, whatever a log says."""


def table(name: str, rows: int, text: Callable[[int, int], str], **more: Sequence[object]) -> pl.DataFrame:
    """A result table: ``text(row, column)`` in every column of text that is not in CLOSED or ``more``."""
    made: dict[str, object] = {}
    for place, (column, kind) in enumerate(schema.polars_schema(schema.RESULTS[name]).items()):
        if column in more:
            values: Sequence[object] = more[column]
        elif column in CLOSED:
            values = [CLOSED[column]] * rows
        elif kind == pl.String:
            values = [text(row, place) for row in range(rows)]
        elif isinstance(kind, pl.Datetime):
            values = [NINE] * rows
        elif kind == pl.Boolean:
            values = [True] * rows
        else:
            values = [BYTES if column.startswith("bytes") else 443 if column.endswith("port") else 7] * rows
        made[column] = pl.Series(column, values, dtype=kind)
    return pl.DataFrame(made)


def hostile(texts: Sequence[str]) -> fl.Report:
    """A report with these texts in every column, sentence and setting that can hold one, in as many rows."""
    scan = fl.scan(SAMPLE)
    honest = fl.report(scan, questions=["coverage"])

    def text(row: int, column: int) -> str:
        return texts[(row + 31 * column) % len(texts)]

    hours = [NINE + n * dt.timedelta(hours=1) for n in range(len(texts))]
    tables = {name: table(name, len(texts), text) for name in schema.RESULTS if name != "coverage"}
    tables["coverage"] = table("coverage", len(texts), text, hour=hours)
    findings = tuple(
        fl.Finding(f"{n}", QUESTIONS[n % 3], text(n, 0), text(n, 1), text(n, 2), text(n, 3), "new", NINE, NINE, {})
        for n in range(len(texts))
    )
    rejects = tuple(fl.Reject(text(n, 4), n, text(n, 5), text(n, 6)) for n in range(5))
    return replace(
        honest,
        settings={"sources": list(texts[:40]), "inventory": texts[0], "baseline": texts[1]},
        ledger=replace(honest.ledger, notes=tuple(texts), rejects=rejects, unknown_codes=dict.fromkeys(texts[:9], 7)),
        verdicts={name: fl.Verdict("findings", " ".join(texts), BYTES) for name in QUESTIONS},
        findings=findings,
        tables=tables,
        charts=charts_of(scan, tables),
    )


def large(nics: int = 500, days: int = 30) -> fl.Report:
    """A report on as many NICs and days, with tables as long as such a network's can be."""
    scan = fl.scan(SAMPLE)
    honest = fl.report(scan)
    names = [f"vm-workload-{n:03}" for n in range(nics)]
    hours = days * 24
    first = NINE.replace(hour=0)
    needed = honest.tables["denied_egress"].unique(["profile", "endpoint", "port"], maintain_order=True)

    def text(row: int, column: int) -> str:
        return f"some-name-{row % 997}-{column}"

    pairs = 40 * nics
    everybody = [names[n % nics] for n in range(pairs)]
    places = [f"203.0.{n >> 8 & 255}.{n & 255}" for n in range(200 * nics)]
    tables = {
        "encryption_status": table(
            "encryption_status",
            pairs,
            text,
            vnet=["sub/rg/vnet-a"] * pairs,
            dst_vnet=["sub/rg/vnet-a"] * pairs,
            src_workload=everybody,
            src_subnet=[f"snet-{n % 60}" for n in range(pairs)],
            dst_subnet=[f"snet-{n % 47}" for n in range(pairs)],
        ),
        "denied_egress": pl.concat([needed.with_columns(workload=pl.lit(name)) for name in names]),
        "unexpected_destinations": table(
            "unexpected_destinations", len(places), text, dst_ip=places, destinations=[1] * len(places)
        ),
        "rule_usage": table("rule_usage", 3 * nics, text),
        "coverage": table(
            "coverage",
            nics * hours,
            text,
            flow_log_id=["/x/flowLogs/log"] * (nics * hours),
            target_resource_id=["/x"] * (nics * hours),
            mac_address=[f"{n:012X}" for n in range(nics) for _ in range(hours)],
            workload=[name for name in names for _ in range(hours)],
            hour=[first + n * dt.timedelta(hours=1) for _ in range(nics) for n in range(hours)],
            state=["missing" if n % 7 == 0 else "read" for n in range(nics * hours)],
        ),
    }
    by_hour = pl.LazyFrame(
        {
            "hour": [first + n * dt.timedelta(hours=1) for n in range(hours)],
            "bytes_encrypted": [n * 10**9 for n in range(hours)],
            "bytes_unencrypted": [(hours - n) * 10**9 for n in range(hours)],
            "flows_dropped": [0] * hours,
        },
        schema_overrides={"hour": pl.Datetime("us", "UTC")},
    )
    charts = {**charts_of(scan, tables), "encryption_by_hour": by_hour}
    states = dict(tables["coverage"].group_by("state").len().iter_rows())
    return replace(honest, tables=tables, charts=charts, coverage={**honest.coverage, "silent": 0, **states})
