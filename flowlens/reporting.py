"""From tables to an answer: findings, verdicts and how complete the evidence was.

One Report feeds every output. A verdict is never better than the evidence: without eligible traffic, without logs or
with hours missing, a question is *not determined* rather than *ok*.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from flowlens import schema
from flowlens.acceptance import Acceptance, read_acceptances
from flowlens.analyses import ANALYSES, unexpected_destinations
from flowlens.analyses.charts import charts_of
from flowlens.analyses.destinations import Expected
from flowlens.analyses.egress import dated_egress, explained
from flowlens.analyses.encryption import PAIR, TURNED, unprotected
from flowlens.analyses.needs import AUTO
from flowlens.catalog import Names, ServiceTags, load_profile, load_tags, profile_names, read_names
from flowlens.catalog.tags import UNKNOWN_DATE
from flowlens.errors import ConfigError
from flowlens.evidence import Evidence, Ledger, Scan, Window
from flowlens.findings import QUESTIONS, Baseline, Finding, accepted_of, compared, find, reported_before
from flowlens.nic_hours import COVERED

SCHEMA_VERSION = 1
OK, FINDINGS, NOT_DETERMINED = schema.VERDICTS

_BAD_PAIRS = ("Unencrypted", "Mixed", "Dropped")
_ROW = "row"
_TRAFFIC_FROM, _DENIED_FROM = 20, 1000
"""Flows begun from which a flow log without any traffic, or without any denial, may be filtered at its source.

What begins goes on or ends within minutes, so few flows tell; that nothing is denied is common, so that many tell little.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one question in a word and a sentence.

    ``number`` counts what the sentence calls wrong: pairs, required endpoints, destinations; None where nothing was judged.

    >>> Verdict("ok", "Every destination was expected.").status
    'ok'
    """

    status: str
    text: str
    number: int | None = None


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
    accept: str | Path | Sequence[Acceptance] = (),
    only_new: bool = False,
    today: dt.date | None = None,
) -> Report:
    """A Report on ``questions`` (names of result tables), computed in one pass over the scan's source.

    ``accept`` is a TOML file of accepted findings or its entries. ``only_new`` keeps what is new since the ``baseline``; a
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
    asked: dict[str, Any] = {"profiles": profiles, "cloud": cloud, "placeholders": dict(placeholders or {})}
    # Read here, not inside a collect: polars would read in a thread of its own and hear of no Ctrl-C until all is read.
    evidence = scan.evidence
    if isinstance(baseline, Scan):
        _ = baseline.evidence
    dated = _asked_tables(scan, wanted, expected, earlier, known_tags, known_names, asked)
    tables = {name: table.drop("first_failure", strict=False) for name, table in dated.items()}
    coverage = summarise(evidence.coverage, evidence.views)
    judged = expected is not None or baseline is not None
    settings = {**scan.settings, **asked, "names": known_names.describe() if known_names else None}
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
    notes: list[str] = []
    if isinstance(baseline, Scan) and only_new:
        baseline = _judged_baseline(baseline, wanted, expected, known_tags, known_names, asked)
    if isinstance(baseline, Baseline):
        whole = not incomplete(coverage, evidence.ledger)
        findings, notes = compared(
            findings,
            baseline,
            asked=tables,
            settings=settings,
            window=window,
            coverage=evidence.coverage,
            whole=whole,
        )
    findings, more = accepted_of(findings, acceptances, today or dt.datetime.now(dt.UTC).date())
    accepted = {finding.id for finding in findings if finding.accepted is not None}
    told = {
        name: table.with_columns(accepted=_accepted_rows(table, row_findings.get(name), accepted))
        for name, table in told.items()
    }
    whole_report = Report(
        window=window,
        settings=settings,
        catalogue=_catalogue(known_tags, today),
        ledger=evidence.ledger,
        coverage=coverage,
        verdicts=_verdicts(told, coverage, evidence.ledger, judged),
        findings=findings,
        tables=tables,
        metrics=_metrics(told, findings, coverage, evidence.ledger),
        notes=(*notes, *more),
        row_findings=row_findings,
        charts=charts_of(scan, tables),
    )
    return new_part(whole_report) if only_new else whole_report


def _asked_tables(
    scan: Scan,
    wanted: Sequence[str],
    expected: str | Path | Sequence[Expected] | None,
    earlier: Scan | Sequence[Mapping[str, object]] | None,
    tags: ServiceTags,
    names: Names | None,
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
                    part, expected=expected, baseline=earlier, required=required, tags=tags
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
        metrics={**report.metrics, **_counts(findings), **table_metrics(_counted(told))},
    )


def _judged_baseline(
    scan: Scan,
    questions: Sequence[str],
    expected: str | Path | Sequence[Expected] | None,
    tags: ServiceTags,
    names: Names | None,
    asked: Mapping[str, Any],
) -> Baseline:
    """An earlier source as the report on it would be kept; without a list nothing in it was unexpected."""
    before = report(scan, questions=questions, expected=expected, tags=tags, names=names, **asked)
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


def summarise(coverage: pl.DataFrame, views: pl.LazyFrame) -> dict[str, object]:
    """NIC-hours by state, and the bytes observed beside the bytes counted once."""
    states = dict(coverage.group_by("state").len().iter_rows())
    total = pl.sum_horizontal("bytes_sent", "bytes_received")
    sums = views.select(observed=total.sum(), counted=total.filter(pl.col("counted")).sum()).collect(engine="streaming")
    by_log = (
        views.group_by("flow_log_id")
        .agg(
            begun=pl.col("flows_started").sum(),
            traffic=pl.col("first_traffic").count(),
            denied=pl.col("flows_denied").sum(),
        )
        .sort("flow_log_id")
        .collect(engine="streaming")
    )
    without_traffic = by_log.filter(pl.col("begun") >= _TRAFFIC_FROM, pl.col("traffic") == 0)
    without_denied = by_log.filter(pl.col("begun") >= _DENIED_FROM, pl.col("denied") == 0)
    return {
        "nic_hours": coverage.height,
        **{state.replace(" ", "_"): int(states.get(state, 0)) for state in schema.COVERAGE_STATES},
        "flow_logs": coverage["flow_log_id"].n_unique(),
        "nics": coverage["mac_address"].n_unique(),
        "observed_bytes": int(sums["observed"].item() or 0),
        "counted_bytes": int(sums["counted"].item() or 0),
        "logs_without_traffic": without_traffic["flow_log_id"].to_list(),
        "logs_without_denied": without_denied["flow_log_id"].to_list(),
    }


def incomplete(coverage: Mapping[str, object], ledger: Ledger) -> bool:
    """Whether anything that should be there was not read."""
    gaps = sum(int(str(coverage[state])) for state in ("missing", "failed", "partly_read", "open"))
    return gaps > 0 or not _covered(coverage) or not ledger.complete


def _covered(coverage: Mapping[str, object]) -> bool:
    """Whether the blob of any NIC-hour was read; late tuples of an hour are no evidence of it."""
    return any(coverage[state.replace(" ", "_")] for state in (*COVERED, "open"))


def _gap_text(coverage: Mapping[str, object]) -> str:
    parts = [
        f"{coverage[state]} {state.replace('_', ' ')}"
        for state in ("missing", "failed", "partly_read", "open")
        if coverage[state]
    ]
    if not parts:
        return "" if _covered(coverage) else " (no NIC-hour was read)"
    return f" ({' and '.join(parts)} of {coverage['nic_hours']} NIC-hours)"


def _verdicts(
    tables: Mapping[str, pl.DataFrame], coverage: Mapping[str, object], ledger: Ledger, judged: bool
) -> dict[str, Verdict]:
    judge: dict[str, Callable[[pl.DataFrame], Verdict]] = {
        "encryption_status": _encryption_verdict,
        "denied_egress": lambda table: _egress_verdict(table, coverage),
        "unexpected_destinations": lambda table: _destinations_verdict(table, judged),
    }
    verdicts = {}
    for name in QUESTIONS:
        if name not in tables:
            continue
        if not ledger.rows:
            verdicts[name] = Verdict(NOT_DETERMINED, "Not determined: no flow was read.")
            continue
        verdict = judge[name](tables[name])
        if verdict.status == OK and incomplete(coverage, ledger):
            verdict = Verdict(
                NOT_DETERMINED, f"{verdict.text} But the evidence has gaps{_gap_text(coverage)}, so this is no pass.", 0
            )
        verdicts[name] = verdict
    return verdicts


def _turned() -> pl.Expr:
    """Pairs that were unencrypted and are encrypted since: nothing is left to do."""
    return pl.col("advice") == TURNED


def _encryption_verdict(table: pl.DataFrame) -> Verdict:
    eligible = table.filter(pl.col("eligibility") == "eligible")
    unknown = table.filter(pl.col("eligibility") == "unknown peer").height
    aside = f" {unknown} pair(s) with private peers that no logged NIC owns are not judged." if unknown else ""
    if eligible.is_empty():
        return Verdict(NOT_DETERMINED, f"Not determined: no traffic between two logged NICs.{aside}")
    encrypted, clear = (int(eligible[f"bytes_{kind}"].sum() or 0) for kind in ("encrypted", "unencrypted"))
    share = f"{100 * encrypted / (encrypted + clear):.1f} %" if encrypted + clear else "an unknown share"
    worse = eligible.filter(pl.col("encryption_status").is_in(_BAD_PAIRS) & ~_turned())
    bad, accepted = worse.filter(~pl.col("accepted")), worse.filter("accepted").height
    turned = eligible.filter(_turned()).height
    since = f", {turned} encrypted only since a change" if turned else ""
    unknown_codes = eligible.filter(pl.col("encryption_status") == "Unknown")["encryption_code"].unique().sort()
    if len(unknown_codes):
        aside += f" Nothing is claimed of pairs with the unknown code {', '.join(unknown_codes)}."
    if bad.is_empty() and len(unknown_codes):
        return Verdict(NOT_DETERMINED, f"Not determined:{aside}")
    if bad.is_empty():
        but = f" but {accepted}, which are accepted," if accepted else ""
        return Verdict(
            OK, f"All {eligible.height} pairs that can be encrypted{but} are{since} ({share} of their bytes).{aside}", 0
        )
    kinds = ", ".join(
        f"{n} {status.lower()}"
        for status, n in bad.group_by("encryption_status").len().sort("encryption_status").iter_rows()
    )
    return Verdict(
        FINDINGS,
        f"{bad.height} of {eligible.height} pairs that can be encrypted are not fully: {kinds}{since}{_beside(accepted)}; "
        f"{share} of the bytes are encrypted.{aside}",
        bad.height,
    )


def _problems(table: pl.DataFrame) -> pl.DataFrame:
    return _needed(table).filter(pl.col("status").is_in(schema.EGRESS_PROBLEMS))


def _needed(table: pl.DataFrame) -> pl.DataFrame:
    """The requirements that can be a finding."""
    return table.filter(pl.col("requirement").is_in(["required", "conditional", "recommended"]))


def _filter_text(coverage: Mapping[str, object]) -> str:
    """What a filter on a flow log may have taken away (Microsoft Learn, "Virtual network flow logs filtering", preview)."""
    told = []
    for key, words in (
        ("logs_without_traffic", "no Continuing or End tuple, so nothing unanswered can be seen"),
        ("logs_without_denied", "no Deny tuple: either nothing was denied or a filter removes them"),
    ):
        logs = coverage[key]
        if isinstance(logs, list) and logs:
            told.append(f"{len(logs)} flow log(s) hold {words}")
    return f" {'; '.join(told)}." if told else ""


def _egress_verdict(table: pl.DataFrame, coverage: Mapping[str, object]) -> Verdict:
    if table.is_empty():
        return Verdict(
            NOT_DETERMINED, "Not determined: no workload tried an endpoint of a known profile; name one with --profile."
        )
    worse = _problems(table)
    bad, accepted = worse.filter(~pl.col("accepted")), worse.filter("accepted").height
    reached = table.filter(pl.col("status").is_in(["Reached", "Service reached", "Recovered"])).height
    unsure = table.filter(pl.col("status") == "Cannot tell").height
    hidden = _needed(table).filter(pl.col("status") == "Not observable").height
    unlogged = f"{hidden} not observable since no flow log covers their workloads, " if hidden else ""
    tail = f"{reached} reached, {unlogged}{unsure} cannot be told from the logs alone.{_filter_text(coverage)}"
    # Without anything that answered, or with a workload that nobody observes, there is nothing to call a pass.
    if bad.is_empty() and (not reached or hidden or coverage["logs_without_traffic"]):
        return Verdict(NOT_DETERMINED, f"Not determined: {tail}")
    if bad.is_empty():
        # Many a healthy network denies nothing, so this is no more than a condition.
        unless = ", unless a filter removes denied flows" if coverage["logs_without_denied"] else ""
        but = f" but {accepted}, which are accepted" if accepted else ""
        return Verdict(OK, f"No required endpoint is denied or unanswered{but}{unless}; {tail}", 0)
    kinds = ", ".join(f"{n} {status.lower()}" for status, n in bad.group_by("status").len().sort("status").iter_rows())
    return Verdict(FINDINGS, f"{bad.height} required endpoint(s) fail: {kinds}{_beside(accepted)}; {tail}", bad.height)


def _beside(accepted: int) -> str:
    return f", {accepted} more accepted" if accepted else ""


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
            pl.col("encryption_status").is_in(_BAD_PAIRS) & ~_turned() & (pl.col("eligibility") == "eligible")
        )
        times = unprotected(scan) if pairs.height else None
        problems["encryption_status"] = (
            pairs.join(times, on=PAIR, how="left", nulls_equal=True, maintain_order="left")
            if times is not None
            else pairs
        )
    if (egress := tables.get("denied_egress")) is not None:
        problems["denied_egress"] = _problems(egress)
    if judged and (found := tables.get("unexpected_destinations")) is not None:
        problems["unexpected_destinations"] = found
    return problems


def _destinations_verdict(table: pl.DataFrame, judged: bool) -> Verdict:
    if not judged:
        untagged = table["service_tag"].null_count()
        return Verdict(
            NOT_DETERMINED,
            f"Not determined: no expected list or baseline was given. {table.height} destination(s) are listed, "
            f"{untagged} of them in no Azure service tag.",
        )
    bad, accepted = table.filter(~pl.col("accepted")), table.filter("accepted").height
    if bad.is_empty():
        but = f" but {accepted}, which are accepted" if accepted else ""
        return Verdict(OK, f"Every destination was expected{but}.", 0)
    return Verdict(FINDINGS, f"{bad.height} destination(s) nobody expected{_beside(accepted)}.", bad.height)


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
        **table_metrics(_counted(tables)),
    }


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {
        "findings": sum(f.counts for f in findings),
        "new_findings": sum(f.counts and f.state == "new" for f in findings),
    }


def _counted(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The rows that nobody accepted."""
    return {name: table.filter(~pl.col("accepted")) for name, table in tables.items()}


def table_metrics(tables: Mapping[str, pl.DataFrame]) -> dict[str, int]:
    """What ``--fail-on`` can ask of result tables by their names, whichever way they were made."""
    metrics: dict[str, int] = {}
    if (pairs := tables.get("encryption_status")) is not None:
        eligible = pairs.filter(pl.col("eligibility") == "eligible")
        # A query gives no advice, but the times that it rests on.
        since = (pl.col("last_unencrypted") < pl.col("first_encrypted")).fill_null(False) & (
            pl.col("flows_dropped") == 0
        )
        turned = _turned() if "advice" in pairs.columns else since
        metrics["unencrypted"] = eligible.filter(pl.col("encryption_status").is_in(_BAD_PAIRS) & ~turned).height
    if (egress := tables.get("denied_egress")) is not None:
        metrics["denied_required"] = _problems(egress).filter(pl.col("requirement") == "required").height
        metrics["unanswered"] = _problems(egress).filter(pl.col("status") == "Unanswered").height
    if (found := tables.get("unexpected_destinations")) is not None:
        metrics["unexpected_destinations"] = found.height
        if "is_new" in found.columns:
            metrics["new_destinations"] = int(found["is_new"].fill_null(True).sum())
    return metrics
