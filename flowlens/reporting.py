"""From tables to an answer: findings, verdicts and how complete the evidence was.

One Report feeds every output. A verdict is never better than the evidence: without eligible traffic, without logs or
with hours missing, a question is *not determined* rather than *ok*.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from flowlens import schema
from flowlens.analyses import ANALYSES, denied_egress, unexpected_destinations
from flowlens.analyses.destinations import Expected
from flowlens.analyses.egress import AUTO, explained
from flowlens.analyses.encryption import TURNED
from flowlens.catalog import Names, ServiceTags, load_profile, load_tags, profile_names, read_names
from flowlens.catalog.tags import UNKNOWN_DATE
from flowlens.evidence import Inventory, Ledger, Scan, Window
from flowlens.nic_hours import COVERED
from flowlens.prefixes import subnet_of

SCHEMA_VERSION = 1
OK, FINDINGS, NOT_DETERMINED = schema.VERDICTS
QUESTIONS = ("encryption_status", "denied_egress", "unexpected_destinations")
"""The tables that carry a verdict, in the order in which they are told."""

_BAD_PAIRS = ("Unencrypted", "Mixed", "Dropped")
_FILTERED_FROM = 1000
"""Flows begun from which a flow log without any tuple of a state looks filtered at its source."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one question in a word and a sentence.

    >>> Verdict("ok", "Every destination was expected.").status
    'ok'
    """

    status: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a person should look at.

    ``id`` hashes the question, the workload's group, the named destination and the port, never a MAC or an ephemeral
    address, so that it is the same tomorrow. ``state`` is new, ongoing or resolved against a baseline. Times are UTC.

    >>> import flowlens as fl
    >>> {finding.state for finding in fl.report(fl.scan("sample_logs")).findings}
    {'new'}
    """

    id: str
    question: str
    severity: str
    workload: str
    subject: str
    rule: str | None
    state: str
    first_seen: dt.datetime | None
    last_seen: dt.datetime | None
    evidence: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier report's findings and destinations, as its JSON document holds them.

    >>> Baseline().findings
    ()
    """

    findings: tuple[Mapping[str, object], ...] = ()
    destinations: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything an output shows; plain data.

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

    def __repr__(self) -> str:
        told = "; ".join(f"{name}: {verdict.text}" for name, verdict in self.verdicts.items())
        return f"<flowlens.Report {told}>"


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
    today: dt.date | None = None,
) -> Report:
    """A Report on ``questions`` (names of result tables), computed in one pass over the scan's source.

    >>> import flowlens as fl
    >>> fl.report(fl.scan("sample_logs")).verdicts["denied_egress"].status
    'findings'
    """
    wanted = list(questions)
    known_tags = tags or load_tags(cloud)
    known_names = read_names(names) if isinstance(names, (str, Path)) else names
    asked: dict[str, Any] = {"profiles": profiles, "cloud": cloud, "placeholders": dict(placeholders or {})}
    # Read here, not inside a collect: polars would read in a thread of its own and hear of no Ctrl-C until all is read.
    evidence = scan.evidence
    if isinstance(baseline, Scan):
        _ = baseline.evidence
    earlier = baseline.destinations if isinstance(baseline, Baseline) else baseline
    tables: dict[str, pl.DataFrame] = {}
    parts = [("", scan)]
    if scan.changed_at is not None:
        parts += [("_before", scan.before_change()), ("_after", scan.after_change())]
    for suffix, part in parts:
        egress = (
            denied_egress(part, tags=known_tags, names=known_names, **asked).collect()
            if {"denied_egress", "unexpected_destinations"} & set(wanted)
            else None
        )
        for name in wanted:
            if suffix and name not in ("encryption_status", "denied_egress"):
                continue
            if name == "denied_egress" and egress is not None:
                tables[name + suffix] = egress
            elif name == "unexpected_destinations" and egress is not None:
                required = explained(egress, part, tags=known_tags, names=known_names, **asked)
                tables[name] = unexpected_destinations(
                    part, expected=expected, baseline=earlier, required=required, tags=known_tags
                ).collect()
            else:
                tables[name + suffix] = ANALYSES[name](part).collect()
    coverage = summarise(evidence.coverage, evidence.views)
    judged = expected is not None or baseline is not None
    told = _with_new_destinations_alone(tables) if expected is None else tables
    findings = _findings(told, evidence.inventory, judged)
    findings = _compared(findings, baseline, coverage)
    verdicts = _verdicts(told, coverage, evidence.ledger, judged)
    return Report(
        window=_told_window(scan, evidence.coverage),
        settings={**scan.settings, **asked, "names": known_names.describe() if known_names else None},
        catalogue={
            "date": max(date for name in profile_names() if (date := load_profile(name).as_of) != UNKNOWN_DATE),
            "tags_date": known_tags.date,
            "stale": known_tags.stale(today),
        },
        ledger=evidence.ledger,
        coverage=coverage,
        verdicts=verdicts,
        findings=findings,
        tables=tables,
        metrics=_metrics(told, findings, coverage, evidence.ledger),
    )


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
    without_traffic = by_log.filter(pl.col("begun") >= _FILTERED_FROM, pl.col("traffic") == 0)
    without_denied = by_log.filter(pl.col("begun") >= _FILTERED_FROM, pl.col("denied") == 0)
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
                NOT_DETERMINED, f"{verdict.text} But the evidence has gaps{_gap_text(coverage)}, so this is no pass."
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
    bad = eligible.filter(pl.col("encryption_status").is_in(_BAD_PAIRS) & ~_turned())
    turned = eligible.filter(_turned()).height
    since = f", {turned} encrypted only since a change" if turned else ""
    unknown_codes = eligible.filter(pl.col("encryption_status") == "Unknown")["encryption_code"].unique().sort()
    if len(unknown_codes):
        aside += f" Nothing is claimed of pairs with the unknown code {', '.join(unknown_codes)}."
    if bad.is_empty() and len(unknown_codes):
        return Verdict(NOT_DETERMINED, f"Not determined:{aside}")
    if bad.is_empty():
        return Verdict(
            OK, f"All {eligible.height} pairs that can be encrypted are{since} ({share} of their bytes).{aside}"
        )
    kinds = ", ".join(
        f"{n} {status.lower()}"
        for status, n in bad.group_by("encryption_status").len().sort("encryption_status").iter_rows()
    )
    return Verdict(
        FINDINGS,
        f"{bad.height} of {eligible.height} pairs that can be encrypted are not fully: {kinds}{since}; "
        f"{share} of the bytes are encrypted.{aside}",
    )


def _problems(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(
        pl.col("status").is_in(schema.EGRESS_PROBLEMS),
        pl.col("requirement").is_in(["required", "conditional", "recommended"]),
    )


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
    bad = _problems(table)
    reached = table.filter(pl.col("status").is_in(["Reached", "Service reached", "Recovered"])).height
    unsure = table.filter(pl.col("status").is_in(["Cannot tell", "Not observable"])).height
    tail = f"{reached} reached, {unsure} cannot be told without names.{_filter_text(coverage)}"
    # Without anything that answered there is nothing to call a pass.
    if bad.is_empty() and (not reached or coverage["logs_without_traffic"]):
        return Verdict(NOT_DETERMINED, f"Not determined: {tail}")
    if bad.is_empty():
        return Verdict(OK, f"No required endpoint is denied or unanswered; {tail}")
    kinds = ", ".join(f"{n} {status.lower()}" for status, n in bad.group_by("status").len().sort("status").iter_rows())
    return Verdict(FINDINGS, f"{bad.height} required endpoint(s) fail: {kinds}; {tail}")


def _with_new_destinations_alone(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The tables as they are judged without an expected list: what the baseline knew is expected."""
    name = "unexpected_destinations"
    if name not in tables or tables[name]["is_new"].all():
        return dict(tables)
    return {**tables, name: tables[name].filter(pl.col("is_new").fill_null(True))}


def _destinations_verdict(table: pl.DataFrame, judged: bool) -> Verdict:
    if not judged:
        untagged = table["service_tag"].null_count()
        return Verdict(
            NOT_DETERMINED,
            f"Not determined: no expected list or baseline was given. {table.height} destination(s) are listed, "
            f"{untagged} of them in no Azure service tag.",
        )
    if table.is_empty():
        return Verdict(OK, "Every destination was expected.")
    return Verdict(FINDINGS, f"{table.height} destination(s) nobody expected.")


def _metrics(
    tables: Mapping[str, pl.DataFrame],
    findings: Sequence[Finding],
    coverage: Mapping[str, object],
    ledger: Ledger,
) -> dict[str, int]:
    """What ``--fail-on`` can ask for; a question that was not asked has no metric."""
    metrics = {
        "findings": sum(f.state != "resolved" for f in findings),
        "new_findings": sum(f.state == "new" for f in findings),
        "rejected": ledger.rejected + ledger.rejected_records,
        "incomplete": int(incomplete(coverage, ledger)),
    }
    if (pairs := tables.get("encryption_status")) is not None:
        eligible = pairs.filter(pl.col("eligibility") == "eligible")
        metrics["unencrypted"] = eligible.filter(pl.col("encryption_status").is_in(_BAD_PAIRS) & ~_turned()).height
    if (egress := tables.get("denied_egress")) is not None:
        metrics["denied_required"] = _problems(egress).filter(pl.col("requirement") == "required").height
        metrics["unanswered"] = _problems(egress).filter(pl.col("status") == "Unanswered").height
    if (found := tables.get("unexpected_destinations")) is not None:
        metrics["unexpected_destinations"] = found.height
        metrics["new_destinations"] = int(found["is_new"].fill_null(True).sum())
    return metrics


def _id(*parts: object) -> str:
    return hashlib.blake2b("\x1f".join(str(p).lower() for p in parts).encode(), digest_size=8).hexdigest()


def _groups(inventory: Inventory) -> dict[tuple[str | None, str], str]:
    """(vnet, workload) -> the name that outlives a NIC: the workload's own where it has one, else its subnet's."""
    return {
        (row["vnet"], row["workload"]): row["workload"] if row["named"] else str(row["subnet"])
        for row in inventory.nics.iter_rows(named=True)
    }


def _findings(tables: Mapping[str, pl.DataFrame], inventory: Inventory, judged: bool) -> tuple[Finding, ...]:
    groups = _groups(inventory)
    found = [*_pair_findings(tables, groups), *_egress_findings(tables, groups)]
    if judged:
        found += _destination_findings(tables, groups)
    folded: dict[str, Finding] = {}
    for finding in found:
        before = folded.get(finding.id)
        folded[finding.id] = finding if before is None else _fold(before, finding)
    order = ("high", "medium", "low")
    return tuple(
        sorted(
            folded.values(),
            key=lambda f: (order.index(f.severity), QUESTIONS.index(f.question), f.workload, f.subject, f.id),
        )
    )


def _fold(one: Finding, other: Finding) -> Finding:
    """Two rows of the same group, destination and port as one finding."""
    firsts = [t for t in (one.first_seen, other.first_seen) if t is not None]
    lasts = [t for t in (one.last_seen, other.last_seen) if t is not None]
    rows = int(str(one.evidence.get("rows", 1))) + int(str(other.evidence.get("rows", 1)))
    return replace(
        one,
        workload=_joined(one.workload, other.workload),
        subject=_joined(one.subject, other.subject),
        first_seen=min(firsts, default=None),
        last_seen=max(lasts, default=None),
        evidence={**one.evidence, "rows": rows},
    )


def _joined(one: str, other: str) -> str:
    """Both texts, each part once."""
    return ", ".join(dict.fromkeys([*one.split(", "), *other.split(", ")]))


def _named_destination(row: Mapping[str, object]) -> object:
    """What a finding on an endpoint is about: the endpoint, or the service where only that is known."""
    exact = row["match"] in ("address", "name") or row["service_tag"] is None
    return row["endpoint"] if exact else row["service_tag"]


def _pair_findings(tables: Mapping[str, pl.DataFrame], groups: Mapping[tuple[str | None, str], str]) -> list[Finding]:
    table = tables.get("encryption_status")
    if table is None:
        return []
    bad = table.filter(pl.col("eligibility") == "eligible", pl.col("encryption_status").is_in(_BAD_PAIRS), ~_turned())
    found = []
    for row in bad.iter_rows(named=True):
        source = groups.get((row["vnet"], row["src_workload"]), row["src_workload"])
        peer = groups.get((row["dst_vnet"], row["dst_workload"]), row["dst_workload"])
        found.append(
            Finding(
                id=_id("encryption_status", row["vnet"], source, row["dst_vnet"], peer),
                question="encryption_status",
                severity="high" if row["encryption_status"] in ("Unencrypted", "Dropped") else "medium",
                workload=row["src_workload"],
                subject=f"to {row['dst_workload']}: {row['encryption_status']} ({row['encryption_code']})",
                rule=None,
                state="new",
                first_seen=None,
                last_seen=row["last_unencrypted"],
                evidence={k: row[k] for k in ("bytes_encrypted", "bytes_unencrypted", "flows_dropped", "advice")},
            )
        )
    return found


def _egress_findings(tables: Mapping[str, pl.DataFrame], groups: Mapping[tuple[str | None, str], str]) -> list[Finding]:
    table = tables.get("denied_egress")
    if table is None:
        return []
    severe = {"required": "high", "conditional": "medium", "recommended": "low"}
    return [
        Finding(
            id=_id(
                "denied_egress",
                row["vnet"],
                groups.get((row["vnet"], row["workload"]), row["workload"]),
                row["profile"],
                _named_destination(row),
                row["port"],
            ),
            question="denied_egress",
            severity=severe[row["requirement"]],
            workload=row["workload"],
            subject=f"{row['endpoint']} ({row['protocol']} {row['port']}): {row['status']}",
            rule=row["acl_rule"],
            state="new",
            first_seen=None,
            last_seen=row["last_failure"],
            evidence={k: row[k] for k in ("profile", "match", "dst_ip", "service_tag", "acl_id", "attempts", "fix")},
        )
        for row in _problems(table).iter_rows(named=True)
    ]


def _destination_findings(
    tables: Mapping[str, pl.DataFrame], groups: Mapping[tuple[str | None, str], str]
) -> list[Finding]:
    table = tables.get("unexpected_destinations")
    if table is None or table.is_empty():
        return []
    table = table.with_columns(subnet_of(table["dst_ip"]).alias("prefix"))
    return [
        Finding(
            id=_id(
                "unexpected_destinations",
                row["vnet"],
                groups.get((row["vnet"], row["workload"]), row["workload"]),
                row["service_tag"] or row["owner"] or row["prefix"],
                row["dst_port"],
            ),
            question="unexpected_destinations",
            severity="medium" if row["service_tag"] is None else "low",
            workload=row["workload"],
            subject=f"{row['dst_ip']} {row['protocol']} {row['dst_port'] if row['dst_port'] is not None else ''}".strip(),
            rule=None,
            state="new",
            first_seen=row["first_seen"],
            last_seen=row["last_seen"],
            evidence={k: row[k] for k in ("service_tag", "flows", "bytes_sent", "bytes_received", "reason")},
        )
        for row in table.iter_rows(named=True)
    ]


def _compared(
    findings: tuple[Finding, ...], baseline: Scan | Baseline | None, coverage: Mapping[str, object]
) -> tuple[Finding, ...]:
    """Findings marked new or ongoing against an earlier report; what is gone is resolved only where coverage has no gap."""
    if not isinstance(baseline, Baseline):
        return findings
    before = {str(old.get("id")): old for old in baseline.findings if old.get("state") != "resolved"}
    now = {finding.id for finding in findings}
    marked = tuple(replace(f, state="ongoing" if f.id in before else "new") for f in findings)
    if coverage["missing"] or coverage["failed"] or not coverage["nic_hours"]:
        return marked
    gone = tuple(
        Finding(
            id=key,
            question=str(old.get("question")),
            severity="low",
            workload=str(old.get("workload")),
            subject=str(old.get("subject")),
            rule=None,
            state="resolved",
            first_seen=None,
            last_seen=None,
            evidence={},
        )
        for key, old in sorted(before.items())
        if key not in now and old.get("question") in QUESTIONS
    )
    return marked + gone
