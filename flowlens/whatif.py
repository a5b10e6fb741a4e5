"""What would change: reports on one rule taken away and on subnets made private, in the form of every other report."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from flowlens import reporting, schema
from flowlens.analyses.rules import rule_dependencies
from flowlens.evidence import Scan
from flowlens.reporting import FINDINGS, NOT_DETERMINED, Report, Verdict

DEPENDS, NOT_OBSERVABLE = schema.DEPENDENCY_STATUSES
# Gates on findings belong to the questions that have some.
_OTHERS_METRICS = ("findings", "new_findings")


def dependencies_report(scan: Scan, rule: str) -> Report:
    """A Report on the flows that one rule decided, or on why nothing is known of it.

    >>> import flowlens as fl
    >>> dependencies_report(fl.scan("sample_logs"), "optional").verdicts["rule_dependencies"].status
    'not_determined'
    """
    asked = rule_dependencies(scan, rule)
    # Read here, not inside a collect: polars would hear of no Ctrl-C until all is read.
    _ = scan.evidence
    table = asked.collect()
    return _report(scan, "rule_dependencies", table, _dependencies_verdict(table, rule), depends=rule)


def _report(scan: Scan, name: str, table: pl.DataFrame, verdict: Verdict, **settings: object) -> Report:
    """The evidence as in every report, with one table and its verdict."""
    bare = reporting.report(scan, questions=[])
    return replace(
        bare,
        settings={**bare.settings, **settings},
        verdicts={name: verdict},
        tables={name: table},
        metrics={metric: value for metric, value in bare.metrics.items() if metric not in _OTHERS_METRICS},
    )


def _dependencies_verdict(table: pl.DataFrame, rule: str) -> Verdict:
    found = table.filter(pl.col("status") == DEPENDS)
    if found.is_empty():
        return Verdict(NOT_DETERMINED, f"{NOT_OBSERVABLE}: {rule}. {table['note'][0]}")
    by_status = dict(found.group_by("flow_status").agg(pl.col("flows").sum()).iter_rows())
    told = ", ".join(f"{by_status[status]} {status.lower()}" for status in sorted(by_status))
    workloads = found.select("vnet", "workload").n_unique()
    notes = " ".join(dict.fromkeys(found["note"]))
    return Verdict(FINDINGS, f"{rule} decided flows of {workloads} workload(s): {told}. {notes}")
