"""From tables to an answer: findings, verdicts and how complete the evidence was.

One Report feeds every output. A verdict is never better than the evidence: without eligible traffic, without logs or
with hours missing, a question is *not determined* rather than *ok*.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from flowlens.acceptance import Acceptance, read_acceptances
from flowlens.analyses import ANALYSES, unexpected_destinations
from flowlens.analyses.charts import charts_of
from flowlens.analyses.destinations import Expected
from flowlens.analyses.egress import dated_egress, explained
from flowlens.analyses.encryption import PAIR, unprotected
from flowlens.analyses.needs import AUTO
from flowlens.catalog import Names, Owners, ServiceTags, load_profile, load_tags, profile_names, read_names, read_owners
from flowlens.catalog.tags import UNKNOWN_DATE
from flowlens.errors import ConfigError
from flowlens.evidence import Evidence, Ledger, Scan, Window
from flowlens.findings import QUESTIONS, Baseline, Finding, accepted_of, compared, find, reported_before
from flowlens.verdicts import (
    BAD_PAIRS,
    Verdict,
    counted_rows,
    failing,
    incomplete,
    is_turned,
    summarise,
    table_metrics,
    verdicts_of,
)

SCHEMA_VERSION = 1
_ROW = "row"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything an output shows; plain data.

    ``notes`` say in words what was not determined beside the verdicts, and why. ``row_findings`` has for each table that carries
    a verdict the id of the finding that each row belongs to, null where the row is none.
    ``charts`` is what there is to draw (see flowlens.analyses.charts), computed when it is collected.

    >>> import flowlens as fl
    >>> sorted(fl.report(fl.scan("sample_logs"), questions=["coverage"]).tables)
    ['coverage']
    """

    window: Window
    settings: Mapping[str, object]
    catalogue: Mapping[str, object]
    ledger: Ledger
    coverage: Mapping[str, object]
    verdicts: Mapping[str, Verdict]
    findings: tuple[Finding, ...]
    tables: Mapping[str, pl.DataFrame]
    metrics: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    row_findings: Mapping[str, pl.Series] = field(default_factory=dict)
    charts: Mapping[str, pl.LazyFrame] = field(default_factory=dict)

    def __repr__(self) -> str:
        told = "; ".join(f"{name}: {verdict.text}" for name, verdict in self.verdicts.items())
        return f"<flowlens.Report {told}>"

    def write(self, path: str | Path, **how: Any) -> None:
        """Write the report to a file in the format of its suffix, whole or not at all.

        ``how`` goes to that format's writer, such as ``static=True`` for a page without script.
        Raises ConfigError for a suffix that names no format, SourceError where the file cannot be written.

        >>> import flowlens as fl
        >>> fl.report(fl.scan("sample_logs"), questions=["coverage"]).write("report.htlm")
        Traceback (most recent call last):
        ...
        flowlens.errors.ConfigError: -o report.htlm: has a suffix that names no format
          hint: did you mean .html?
        """
        _faces("delivery").write_report(self, path, **how)

    def _repr_html_(self) -> str:
        """What a notebook shows: verdicts and findings."""
        shown: str = _faces("html").notebook(self)
        return shown


def _faces(module: str) -> Any:
    """A module of flowlens.outputs, which lie above: a report knows by name alone that there is something that shows it."""
    return importlib.import_module(f"flowlens.outputs.{module}")


def report(
    scan: Scan,
    *,
    questions: Iterable[str] = tuple(ANALYSES),
    profiles: Sequence[str] | str = AUTO,
    cloud: str = "global",
    placeholders: Mapping[str, str | list[str]] | None = None,
    expected: str | Path | Sequence[Expected] | None = None,
    baseline: Scan | Baseline | None = None,
    tags: ServiceTags | None = None,
    names: Names | str | Path | None = None,
    owners: Owners | Iterable[str | Path] = (),
    accept: str | Path | Sequence[Acceptance] = (),
    only_new: bool = False,
    today: dt.date | None = None,
) -> Report:
    """A Report on ``questions`` (names of result tables), computed in one pass over the scan's source.

    ``owners`` are files that name whose an address is. ``accept`` is a TOML file of accepted findings or its entries. ``only_new`` keeps what is new since the ``baseline``; a
    baseline that is a scan is then judged as well. ``today`` decides what has expired or is old.

    Raises ConfigError for an earlier report without the destinations that this one shall be compared in, and for ``only_new``
    without a baseline.

    >>> import flowlens as fl
    >>> fl.report(fl.scan("sample_logs")).verdicts["denied_egress"].status
    'findings'
    """
    wanted = list(questions)
    if only_new and baseline is None:
        raise ConfigError("--only-new", "needs something to compare with", hint="add --baseline with an earlier report")
    acceptances = read_acceptances(accept) if isinstance(accept, (str, Path)) else accept
    earlier = baseline.destinations if isinstance(baseline, Baseline) else baseline
    if isinstance(baseline, Baseline) and earlier is None and "unexpected_destinations" in wanted:
        raise ConfigError(
            "--baseline",
            "expected a report that lists destinations, found one that did not ask for them",
            hint="write it with flowlens analyze or flowlens destinations",
        )
    known_tags = tags or load_tags(cloud)
    known_names = read_names(names) if isinstance(names, (str, Path)) else names
    whose = owners if isinstance(owners, Owners) else read_owners(owners)
    asked: dict[str, Any] = {"profiles": profiles, "cloud": cloud, "placeholders": dict(placeholders or {})}
    # Read here, not inside a collect: polars would read in a thread of its own and hear of no Ctrl-C until all is read.
    evidence = scan.evidence
    if isinstance(baseline, Scan):
        _ = baseline.evidence
    dated = _asked_tables(scan, wanted, expected, earlier, known_tags, known_names, whose, asked)
    tables = {name: table.drop("first_failure", strict=False) for name, table in dated.items()}
    coverage = summarise(evidence.coverage, evidence.parts)
    judged = expected is not None or baseline is not None
    settings = {**scan.settings, **asked, "names": known_names.describe() if known_names else None}
    settings["owners"] = whose.describe() or None
    if baseline is not None:
        settings.setdefault("baseline", True)
    told = {name: table.with_row_index(_ROW) for name, table in dated.items() if name in QUESTIONS}
    if expected is None and "unexpected_destinations" in tables:
        table, judged_rows = _unlisted(tables["unexpected_destinations"], baseline, evidence)
        tables["unexpected_destinations"] = table
        told["unexpected_destinations"] = table.with_row_index(_ROW).filter(judged_rows)
    problems = _problem_rows(scan, told, judged)
    findings, ids = find(problems, evidence.inventory)
    row_findings = {
        name: _of_rows(tables[name].height, rows[_ROW], ids[name]) for name, rows in problems.items() if name in ids
    }
    window = _told_window(scan, evidence.coverage)
    notes = _of_others(tables)
    if isinstance(baseline, Scan) and only_new:
        baseline = _judged_baseline(baseline, wanted, expected, known_tags, known_names, whose, asked)
    if isinstance(baseline, Baseline):
        whole = not incomplete(coverage, evidence.ledger)
        findings, doubts = compared(
            findings,
            baseline,
            asked=tables,
            settings=settings,
            window=window,
            coverage=evidence.coverage,
            whole=whole,
        )
        notes += doubts
    findings, more = accepted_of(findings, acceptances, today or dt.datetime.now(dt.UTC).date())
    accepted = {finding.id for finding in findings if finding.accepted is not None}
    told = {
        name: table.with_columns(accepted=_accepted_rows(table, row_findings.get(name), accepted))
        for name, table in told.items()
    }
    # Accepted are findings, and those are of the whole time.
    since = {
        name: table.with_columns(accepted=pl.lit(False))
        for name, table in tables.items()
        if name == "denied_egress_after"
    }
    whole_report = Report(
        window=window,
        settings=settings,
        catalogue=_catalogue(known_tags, today),
        ledger=evidence.ledger,
        coverage=coverage,
        verdicts=verdicts_of(told, coverage, evidence.ledger, judged, since.get("denied_egress_after")),
        findings=findings,
        tables=tables,
        metrics=_metrics({**told, **since}, findings, coverage, evidence.ledger),
        notes=(*notes, *more),
        row_findings=row_findings,
        charts=charts_of(scan, tables),
    )
    return new_part(whole_report) if only_new else whole_report


def _of_others(tables: Mapping[str, pl.DataFrame]) -> list[str]:
    """In words what of a table is no row of its own."""
    found = tables.get("unexpected_destinations")
    if found is None or not found["dst_ip"].null_count():
        return []
    listed, others = (found.filter(pl.col("dst_ip").is_not_null() == is_so) for is_so in (True, False))
    every = int(found["destinations"].sum())
    told = f"{listed.height:,} of {every:,} destinations are listed, the largest"
    return [f"{told}; the others are added up in {others.height:,} row(s)."]


def _asked_tables(
    scan: Scan,
    wanted: Sequence[str],
    expected: str | Path | Sequence[Expected] | None,
    earlier: Scan | Sequence[Mapping[str, object]] | None,
    tags: ServiceTags,
    names: Names | None,
    owners: Owners,
    asked: Mapping[str, Any],
) -> dict[str, pl.DataFrame]:
    """The result table of each question, those of before and after a change, and in denied_egress when it failed first."""
    tables: dict[str, pl.DataFrame] = {}
    parts = [("", scan)]
    if scan.changed_at is not None:
        parts += [("_before", scan.before_change()), ("_after", scan.after_change())]
    for suffix, part in parts:
        egress = (
            dated_egress(part, tags=tags, names=names, **asked).collect()
            if {"denied_egress", "unexpected_destinations"} & set(wanted)
            else None
        )
        for name in wanted:
            if suffix and name not in ("encryption_status", "denied_egress"):
                continue
            if name == "denied_egress" and egress is not None:
                tables[name + suffix] = egress
            elif name == "unexpected_destinations" and egress is not None:
                required = explained(egress, part, tags=tags, names=names, **asked)
                tables[name] = unexpected_destinations(
                    part, expected=expected, baseline=earlier, required=required, tags=tags, owners=owners
                ).collect()
            else:
                tables[name + suffix] = ANALYSES[name](part).collect()
    return tables


def _catalogue(tags: ServiceTags, today: dt.date | None) -> dict[str, object]:
    """Of when what is known of Azure is."""
    dates = (load_profile(name).as_of for name in profile_names())
    return {
        "date": max(date for date in dates if date != UNKNOWN_DATE),
        "tags_date": tags.date,
        "stale": tags.stale(today),
    }


def new_part(report: Report) -> Report:
    """What of a report is new since its baseline: findings, rows of tables with a verdict, and what gates count.

    Verdicts stay those of the whole, and say how much is new; tables without a verdict, which tell how the answer came about,
    stay whole too.

    >>> import flowlens as fl
    >>> whole = fl.report(fl.scan("sample_logs"))
    >>> new_part(whole).metrics["findings"] == whole.metrics["findings"]
    True
    """
    findings = tuple(finding for finding in report.findings if finding.state == "new")
    ids = [finding.id for finding in findings]
    tables, row_findings = dict(report.tables), dict(report.row_findings)
    for name, of_rows in report.row_findings.items():
        kept = of_rows.is_in(ids).fill_null(False)
        if name == "unexpected_destinations":
            # One more address of a service that is reported already is new as well.
            kept |= of_rows.is_not_null() & report.tables[name]["is_new"].fill_null(False)
        tables[name], row_findings[name] = report.tables[name].filter(kept), of_rows.filter(kept)
    accepted = {finding.id for finding in findings if finding.accepted is not None}
    told = {
        name: tables[name].with_columns(accepted=of_rows.is_in(list(accepted)).fill_null(False))
        for name, of_rows in row_findings.items()
    }
    verdicts = {
        name: replace(
            verdict, text=f"{sum(f.question == name for f in findings)} new since the baseline. {verdict.text}"
        )
        for name, verdict in report.verdicts.items()
    }
    return replace(
        report,
        settings={**report.settings, "only_new": True},
        verdicts=verdicts,
        findings=findings,
        tables=tables,
        row_findings=row_findings,
        metrics={**report.metrics, **_counts(findings), **table_metrics(counted_rows(told))},
    )


def _judged_baseline(
    scan: Scan,
    questions: Sequence[str],
    expected: str | Path | Sequence[Expected] | None,
    tags: ServiceTags,
    names: Names | None,
    owners: Owners,
    asked: Mapping[str, Any],
) -> Baseline:
    """An earlier source as the report on it would be kept; without a list nothing in it was unexpected."""
    before = report(scan, questions=questions, expected=expected, tags=tags, names=names, owners=owners, **asked)
    table = before.tables.get("unexpected_destinations")
    return Baseline(
        findings=tuple({name: getattr(f, name) for name in f.__slots__} for f in before.findings),
        destinations=tuple(table.iter_rows(named=True)) if table is not None else None,
        settings=before.settings,
        window=before.window,
    )


def _of_rows(height: int, rows: pl.Series, ids: Sequence[str]) -> pl.Series:
    """The ids at their rows of a table of that height, null at the others."""
    found = pl.DataFrame({_ROW: rows.cast(pl.UInt32), "finding": pl.Series(ids, dtype=pl.String)})
    every = pl.DataFrame({_ROW: pl.int_range(height, dtype=pl.UInt32, eager=True)})
    return every.join(found, on=_ROW, how="left", maintain_order="left")["finding"]


def _accepted_rows(table: pl.DataFrame, of_rows: pl.Series | None, accepted: Collection[str]) -> pl.Series:
    """Which rows of a table with row numbers belong to an accepted finding."""
    if of_rows is None or not accepted:
        return pl.repeat(False, table.height, dtype=pl.Boolean, eager=True)
    return of_rows.gather(table[_ROW]).is_in(list(accepted)).fill_null(False)


def _told_window(scan: Scan, coverage: pl.DataFrame) -> Window:
    """The window asked for; an open side is told by the hours that were covered."""
    first, last = coverage["hour"].min(), coverage["hour"].max()
    start = scan.window.start or (first if isinstance(first, dt.datetime) else None)
    end = scan.window.end or (last + dt.timedelta(hours=1) if isinstance(last, dt.datetime) else None)
    return Window(start, end)


def _unlisted(
    table: pl.DataFrame, baseline: Scan | Baseline | None, evidence: Evidence
) -> tuple[pl.DataFrame, pl.Series]:
    """The destinations, and which of them are judged without an expected list.

    Those are the ones that the baseline did not know, and those that it reported itself.
    """
    new = table["is_new"].fill_null(True)
    if not isinstance(baseline, Baseline) or new.all():
        return table, new
    again = ~new & reported_before(table, baseline, evidence.inventory)
    reason = pl.when(again).then(pl.lit("reported by the baseline and not expected since")).otherwise("reason")
    return table.with_columns(reason=reason), new | again


def _problem_rows(scan: Scan, tables: Mapping[str, pl.DataFrame], judged: bool) -> dict[str, pl.DataFrame]:
    """Of each question that was asked and judged the rows that are findings, with their times."""
    problems: dict[str, pl.DataFrame] = {}
    if (pairs := tables.get("encryption_status")) is not None:
        pairs = pairs.filter(
            pl.col("encryption_status").is_in(BAD_PAIRS) & ~is_turned() & (pl.col("eligibility") == "eligible")
        )
        times = unprotected(scan) if pairs.height else None
        problems["encryption_status"] = (
            pairs.join(times, on=PAIR, how="left", nulls_equal=True, maintain_order="left")
            if times is not None
            else pairs
        )
    if (egress := tables.get("denied_egress")) is not None:
        problems["denied_egress"] = failing(egress)
    if judged and (found := tables.get("unexpected_destinations")) is not None:
        problems["unexpected_destinations"] = found
    return problems


def _metrics(
    tables: Mapping[str, pl.DataFrame],
    findings: Sequence[Finding],
    coverage: Mapping[str, object],
    ledger: Ledger,
) -> dict[str, int]:
    """What ``--fail-on`` can ask for; a question that was not asked has no metric."""
    return {
        **_counts(findings),
        "rejected": ledger.rejected + ledger.rejected_records,
        "incomplete": int(incomplete(coverage, ledger)),
        **table_metrics(counted_rows(tables)),
    }


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {
        "findings": sum(f.counts for f in findings),
        "new_findings": sum(f.counts and f.state == "new" for f in findings),
    }
