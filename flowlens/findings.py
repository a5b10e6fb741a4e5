"""Findings: what a person should look at, told in a way that stays the same tomorrow, and compared with an earlier report."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from flowlens.acceptance import Acceptance
from flowlens.evidence import Inventory, Window
from flowlens.nic_hours import COVERED
from flowlens.prefixes import subnet_of

QUESTIONS = ("encryption_status", "denied_egress", "unexpected_destinations")
"""The tables that carry a verdict, in the order in which they are told."""

SEVERITIES = ("high", "medium", "low")
"""How bad a finding is, worst first."""

_READ_ALIKE = ("scope", "inventory", "config")
_REQUIRED_ALIKE = ("profiles", "cloud", "placeholders", "names")
"""Settings that decide what is a finding; ``_READ_ALIKE`` decide what can be one, and under which name."""
_AS_LONG = 0.8
"""How much of the baseline's window a window needs: months differ, and days where clocks change, but an hour is no day."""
_NIC = re.compile(r"\(([0-9A-F]{12})\)$")
"""The NIC that a workload without a name goes by."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a person should look at.

    ``id`` hashes the question, the workload's group, the named destination and the port, never a MAC or an ephemeral
    address, so that it is the same tomorrow. ``state`` is new, ongoing or resolved against a baseline. Times are UTC.
    ``accepted`` says who took it, why and until when; it then counts neither for a verdict nor for a gate.

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
    accepted: Acceptance | None = None

    @property
    def counts(self) -> bool:
        """Whether it is there and nobody accepted it."""
        return self.state != "resolved" and self.accepted is None


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier report's findings and destinations, as its JSON document holds them; times of findings are UTC.

    ``destinations`` is None where the report did not ask for them. ``settings`` are those that it was made with; without
    them nothing is called resolved, nor without the ``window`` that it is about.

    >>> Baseline().findings
    ()
    """

    findings: tuple[Mapping[str, object], ...] = ()
    destinations: tuple[Mapping[str, object], ...] | None = ()
    settings: Mapping[str, object] | None = None
    window: Window | None = None


def _id(*parts: object) -> str:
    return hashlib.blake2b("\x1f".join(str(p).lower() for p in parts).encode(), digest_size=8).hexdigest()


def _groups(inventory: Inventory) -> dict[tuple[str | None, str], str]:
    """(vnet, workload) -> the name that outlives a NIC: the workload's own where it has one, else its subnet's."""
    return {
        (row["vnet"], row["workload"]): row["workload"] if row["named"] else str(row["subnet"])
        for row in inventory.nics.iter_rows(named=True)
    }


def find(
    problems: Mapping[str, pl.DataFrame], inventory: Inventory
) -> tuple[tuple[Finding, ...], Mapping[str, Sequence[str]]]:
    """The findings, worst first, of rows that are problems, by the tables of QUESTIONS that they are of.

    Rows of encryption_status have two more columns, first_seen and last_seen, those of denied_egress one more, first_failure.
    Beside the findings stand, for each table, the id of the finding that each of its rows belongs to.
    """
    groups = _groups(inventory)
    make = {
        "encryption_status": _pair_findings,
        "denied_egress": _egress_findings,
        "unexpected_destinations": _destination_findings,
    }
    found = {name: list(make[name](problems[name], groups)) for name in QUESTIONS if name in problems}
    folded: dict[str, list[Finding]] = {}
    for finding in itertools.chain(*found.values()):
        folded.setdefault(finding.id, []).append(finding)
    ordered = sorted(
        map(_fold, folded.values()),
        key=lambda f: (SEVERITIES.index(f.severity), QUESTIONS.index(f.question), f.workload, f.subject, f.id),
    )
    return tuple(ordered), {question: [finding.id for finding in rows] for question, rows in found.items()}


def _fold(found: Sequence[Finding]) -> Finding:
    """The rows of one group, destination and port as one finding."""
    if len(found) == 1:
        return found[0]
    firsts = [finding.first_seen for finding in found if finding.first_seen is not None]
    lasts = [finding.last_seen for finding in found if finding.last_seen is not None]
    return replace(
        found[0],
        workload=", ".join(dict.fromkeys(finding.workload for finding in found)),
        subject=", ".join(dict.fromkeys(finding.subject for finding in found)),
        first_seen=min(firsts, default=None),
        last_seen=max(lasts, default=None),
        evidence={**found[0].evidence, "rows": len(found)},
    )


def _named_destination(row: Mapping[str, object]) -> object:
    """What a finding on an endpoint is about: the endpoint, or the service where only that is known."""
    exact = row["match"] in ("address", "name") or row["service_tag"] is None
    return row["endpoint"] if exact else row["service_tag"]


def _pair_findings(bad: pl.DataFrame, groups: Mapping[tuple[str | None, str], str]) -> Iterator[Finding]:
    for row in bad.iter_rows(named=True):
        source = groups.get((row["vnet"], row["src_workload"]), row["src_workload"])
        peer = groups.get((row["dst_vnet"], row["dst_workload"]), row["dst_workload"])
        yield Finding(
            id=_id("encryption_status", row["vnet"], source, row["dst_vnet"], peer),
            question="encryption_status",
            severity="high" if row["encryption_status"] in ("Unencrypted", "Dropped") else "medium",
            workload=row["src_workload"],
            subject=f"to {row['dst_workload']}: {row['encryption_status']} ({row['encryption_code']})",
            rule=None,
            state="new",
            first_seen=row["first_seen"],
            last_seen=row["last_seen"],
            evidence={k: row[k] for k in ("bytes_encrypted", "bytes_unencrypted", "flows_dropped", "advice")},
        )


def _egress_findings(bad: pl.DataFrame, groups: Mapping[tuple[str | None, str], str]) -> Iterator[Finding]:
    severe = {"required": "high", "conditional": "medium", "recommended": "low"}
    for row in bad.iter_rows(named=True):
        group = groups.get((row["vnet"], row["workload"]), row["workload"])
        yield Finding(
            id=_id("denied_egress", row["vnet"], group, row["profile"], _named_destination(row), row["port"]),
            question="denied_egress",
            severity=severe[row["requirement"]],
            workload=row["workload"],
            subject=f"{row['endpoint']} ({row['protocol']} {row['port']}): {row['status']}",
            rule=row["acl_rule"],
            state="new",
            first_seen=row["first_failure"],
            last_seen=row["last_failure"],
            evidence={k: row[k] for k in ("profile", "match", "dst_ip", "service_tag", "acl_id", "attempts", "fix")},
        )


def _destination_findings(table: pl.DataFrame, groups: Mapping[tuple[str | None, str], str]) -> Iterator[Finding]:
    if table.is_empty():
        return
    for row in table.with_columns(subnet_of(table["dst_ip"]).alias("prefix")).iter_rows(named=True):
        port = row["dst_port"] if row["dst_port"] is not None else ""
        address = row["dst_ip"] or f"{row['destinations']} other destinations"
        yield Finding(
            id=_id(
                "unexpected_destinations",
                row["vnet"],
                groups.get((row["vnet"], row["workload"]), row["workload"]),
                row["service_tag"] or row["owner"] or row["prefix"] or "others",
                row["dst_port"],
            ),
            question="unexpected_destinations",
            severity="medium" if row["service_tag"] is None else "low",
            workload=row["workload"],
            subject=f"{address} {row['protocol']} {port}".strip(),
            rule=None,
            state="new",
            first_seen=row["first_seen"],
            last_seen=row["last_seen"],
            evidence={
                k: row[k]
                for k in ("service_tag", "owner", "country", "flows", "bytes_sent", "bytes_received", "reason")
            },
        )


def reported_before(table: pl.DataFrame, baseline: Baseline, inventory: Inventory) -> pl.Series:
    """Whether each row of unexpected_destinations was a finding of the baseline already.

    Such a destination is known, and still nobody expects it: were it left out, every finding would heal itself overnight.
    """
    before = {
        str(old["id"]): set(str(old.get("subject")).split(", "))
        for old in _unresolved(baseline)
        if old.get("question") == "unexpected_destinations"
    }
    addresses = {subject.partition(" ")[0] for subjects in before.values() for subject in subjects}
    likely = table.with_row_index("row").filter(pl.col("dst_ip").is_in(list(addresses)))
    findings = _destination_findings(likely, _groups(inventory))
    rows = [row for row, f in zip(likely["row"], findings, strict=True) if f.subject in before.get(f.id, ())]
    return pl.int_range(table.height, eager=True).is_in(rows).alias("reported")


def compared(
    findings: tuple[Finding, ...],
    baseline: Baseline,
    *,
    asked: Collection[str],
    settings: Mapping[str, object],
    window: Window,
    coverage: pl.DataFrame,
    whole: bool,
) -> tuple[tuple[Finding, ...], list[str]]:
    """Findings marked new or ongoing against an earlier report, those that are gone behind them as resolved; and in words why
    others that are gone are not called resolved.

    Resolved is said only of questions ``asked`` now, of the same scope and profiles as then, over a window not much shorter,
    of workloads of which some hour was read, and where ``whole`` says that nothing of the evidence is missing, still being
    written or rejected. What goes on keeps the time it was first seen.
    """
    before = {str(old["id"]): old for old in _unresolved(baseline)}
    marked = tuple(_ongoing(f, before[f.id]) if f.id in before else f for f in findings)
    now = {finding.id for finding in findings}
    gone = {key: old for key, old in sorted(before.items()) if key not in now and old.get("question") in asked}
    doubts = {name: _doubt(name, baseline, settings, window, whole) for name in QUESTIONS if name in asked}
    notes = [
        f"{number} finding(s) of the baseline on {question} are not found again, yet not called resolved: {doubt}."
        for question, doubt in doubts.items()
        if doubt and (number := sum(old.get("question") == question for old in gone.values()))
    ]
    unread = _unread_workloads(gone, coverage)
    hidden = [
        str(old.get("workload")) for key, old in gone.items() if key in unread and not doubts[str(old["question"])]
    ]
    if hidden:
        notes.append(
            f"{len(hidden)} finding(s) of the baseline are not found again, yet not called resolved: no hour of their workloads "
            f"was read ({', '.join(dict.fromkeys(hidden))})."
        )
    resolved = tuple(
        Finding(
            id=key,
            question=str(old.get("question")),
            severity="low",
            workload=str(old.get("workload")),
            subject=str(old.get("subject")),
            rule=None,
            state="resolved",
            first_seen=_time(old, "first_seen"),
            last_seen=_time(old, "last_seen"),
            evidence={},
        )
        for key, old in gone.items()
        if key not in unread and not doubts[str(old["question"])]
    )
    return marked + resolved, notes


def _doubt(question: str, baseline: Baseline, settings: Mapping[str, object], window: Window, whole: bool) -> str:
    """Why what is gone of a question can't be called resolved; empty where it can."""
    if not whole:
        return "the evidence has gaps"
    if baseline.settings is None:
        return "the baseline does not say how it was made"
    names = _READ_ALIKE if question == "encryption_status" else (*_READ_ALIKE, *_REQUIRED_ALIKE)
    if question == "unexpected_destinations":
        # An owner's name is part of what a finding is known by.
        names = (*names, "owners")
    other = [name for name in names if _comparable(name, baseline.settings) != _comparable(name, settings)]
    if other:
        return f"the baseline was made with other {' and '.join(other)}"
    then, now = _length(baseline.window), _length(window)
    if then is None or now is None or now < _AS_LONG * then:
        return "the baseline looked at a longer time"
    return ""


def _length(window: Window | None) -> dt.timedelta | None:
    return window.end - window.start if window and window.start and window.end else None


def _unread_workloads(gone: Mapping[str, Mapping[str, object]], coverage: pl.DataFrame) -> set[str]:
    """Which findings are on workloads none of which has an hour that was read."""
    read = coverage.filter(pl.col("state").is_in(COVERED)).select("workload", "mac_address").unique()
    names = set(read["workload"].drop_nulls())
    nics = set(read["mac_address"].drop_nulls())

    def is_read(workload: str) -> bool:
        nic = _NIC.search(workload)
        return workload in names or (nic is not None and nic[1] in nics)

    return {key for key, old in gone.items() if not any(map(is_read, str(old.get("workload")).split(", ")))}


def accepted_of(
    findings: tuple[Finding, ...], acceptances: Sequence[Acceptance], today: dt.date
) -> tuple[tuple[Finding, ...], list[str]]:
    """The findings, those that somebody accepted marked, and in words which entries have expired or match nothing."""
    by_id = {acceptance.id: acceptance for acceptance in acceptances}
    marked = tuple(
        replace(f, accepted=entry) if (entry := by_id.get(f.id)) and entry.holds(today) and f.state != "resolved" else f
        for f in findings
    )
    states = {finding.id: finding.state for finding in findings}
    notes = []
    for entry in acceptances:
        told = f"accepted by {entry.owner} until {entry.expires.isoformat()} ({entry.reason})"
        if entry.id not in states:
            notes.append(f"No finding here has the id {entry.id}, {told}.")
        elif states[entry.id] == "resolved":
            notes.append(f"Finding {entry.id} is resolved and need not be {told}.")
        elif not entry.holds(today):
            notes.append(f"Finding {entry.id} counts again: it was {told}.")
    return marked, notes


def _unresolved(baseline: Baseline) -> list[Mapping[str, object]]:
    return [old for old in baseline.findings if old.get("id") is not None and old.get("state") != "resolved"]


def _ongoing(finding: Finding, old: Mapping[str, object]) -> Finding:
    firsts = [time for time in (finding.first_seen, _time(old, "first_seen")) if time is not None]
    return replace(finding, state="ongoing", first_seen=min(firsts, default=None))


def _time(old: Mapping[str, object], name: str) -> dt.datetime | None:
    time = old.get(name)
    return time if isinstance(time, dt.datetime) else None


def _comparable(name: str, settings: Mapping[str, object]) -> object:
    value = settings.get(name)
    if name in ("names", "owners"):
        # Such files grow or are renewed from day to day; what matters is whether there is one.
        return value is None
    return list(value) if isinstance(value, tuple) else value
