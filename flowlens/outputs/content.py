"""What every face of a report shows, in which order and in which words: sections of rows with what to do, and the evidence.

What a first look does not need is counted in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from flowlens import schema
from flowlens.acceptance import Acceptance
from flowlens.evidence import Ledger
from flowlens.findings import Finding
from flowlens.outputs.page import Clock, Row, Shown
from flowlens.outputs.text import counted, listed, size
from flowlens.reporting import Report

TITLES = {
    "encryption_status": "Encryption between VMs",
    "denied_egress": "Required endpoints",
    "unexpected_destinations": "Unexpected destinations",
    "rule_usage": "Rules",
    "rule_dependencies": "What depends on the rule",
    "private_subnet_readiness": "If the subnets were private",
    "coverage": "Coverage",
    "flows": "Flow tuples",
}
_PART = {"_before": "before the change", "_after": "after the change"}
_QUIET = ("Cannot tell", "Not observable", "Not seen")
_UNCHANGED = ("private endpoint", "private peer", "platform")
_GOOD = ("Service reached", "Reached")
_SEEN_AS_ONE = ("vnet", "workload", "protocol", "port", "status", "dst_ip", "acl_rule", "acl_id", "attempts")
_BARE = re.compile(r"^(\S+) \([0-9A-F]{12}\)$")


@dataclass(frozen=True, slots=True)
class Section:
    """One table as a face shows it: the rows that matter first, a sentence on the others, and what to do.

    ``advice`` is whom each piece of it concerns, and the piece.
    """

    name: str
    title: str
    rows: pl.DataFrame
    columns: Callable[[Clock], Sequence[Shown]]
    note: str
    advice: tuple[tuple[str, str], ...]


def sections(report: Report) -> Iterator[Section]:
    """The report's tables in the order in which they are told, without those that have nothing to say."""
    questions = list(dict.fromkeys(stem(name)[0] for name in report.tables))
    for name in sorted(report.tables, key=lambda name: questions.index(stem(name)[0])):
        question, part = stem(name)
        alone = len(questions) == 1 and name in questions
        rows, note = _worth_showing(question, report.tables[name], alone=alone)
        rows = with_bare_addresses(ranked(question, rows))
        if question in ("coverage", "rule_dependencies") and rows.is_empty():
            continue
        # The state after a change is what there is to act on.
        acting = f"{name}_after" not in report.tables and not name.endswith("_before")
        shown = _as_one(rows) if question == "denied_egress" and rows.height else rows
        if question == "encryption_status" and set(rows["eligibility"]) == {"eligible"}:
            shown = shown.with_columns(eligibility=pl.lit(""))
        told = tuple(advice(question, rows)) if acting else ()
        title = f"{TITLES[question]}{f' {part}' if part else ''}"
        yield Section(name, title, shown, partial(columns_of, question), note, told)


def window_text(report: Report, clock: Clock) -> str:
    """From when to when, in a sentence; the day once where both are on one."""
    start, end = clock(report.window.start), clock(report.window.end)
    if start[:10] == end[:10]:
        end = end[11:]
    return f"From {start} to {end}." if start and end else "No flow log was read."


def by_state(report: Report) -> dict[str, list[Finding]]:
    """The findings by what became of them since the baseline; empty where nothing shows that there was one."""
    if not any(finding.state != "new" for finding in report.findings):
        return {}
    return {state: [f for f in report.findings if f.state == state] for state in ("new", "ongoing", "resolved")}


def accepted_findings(report: Report) -> list[tuple[Finding, Acceptance]]:
    """What somebody took upon himself; it counts for no verdict and no gate."""
    return [(finding, finding.accepted) for finding in report.findings if finding.accepted is not None]


def acceptance_text(entry: Acceptance) -> str:
    """Why, by whom and until when a finding is accepted."""
    return f"{entry.reason} ({entry.owner}, until {entry.expires.isoformat()})"


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else str(row[name])


def _last_part(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name] or "").rsplit("/", 1)[-1]


def _bytes(name: str) -> Callable[[Row], str]:
    return lambda row: size(row[name])  # type: ignore[arg-type]


def share(row: Row) -> str:
    encrypted, clear = row["bytes_encrypted"], row["bytes_unencrypted"]
    if not isinstance(encrypted, int) or not isinstance(clear, int) or not encrypted + clear:
        return "-"
    return f"{100 * encrypted / (encrypted + clear):.0f} %"


def destination(row: Row) -> str:
    """The address of a row of unexpected_destinations, or of how many others it is."""
    return str(row["dst_ip"]) if row["dst_ip"] is not None else f"{row['destinations']:,} others"


def _service(row: Row) -> str:
    return str(row["protocol"]) + (f" {row['dst_port']}" if row["dst_port"] is not None else "")


def _port(row: Row) -> str:
    return f"{row['protocol'] or ''} {'' if row['port'] is None else row['port']}".strip()


def columns_of(name: str, clock: Clock) -> tuple[Shown, ...]:
    """What people are shown of a table; everything else is in JSON, CSV and Parquet."""
    return {
        "encryption_status": (
            Shown("from", _text("src_workload")),
            Shown("to", _text("dst_workload")),
            Shown("status", _text("encryption_status")),
            Shown("worst code", _text("encryption_code"), whole=True),
            Shown("eligibility", _text("eligibility")),
            Shown("encrypted", share, right=True, minor=2),
            Shown("last clear", lambda row: clock(row["last_unencrypted"])),
            Shown("first encrypted", lambda row: clock(row["first_encrypted"]), minor=1),
        ),
        "denied_egress": (
            Shown("workload", _text("workload")),
            Shown("endpoint", _text("endpoint"), name=True),
            Shown("port", lambda row: f"{row['protocol']} {row['port']}", whole=True),
            Shown("status", _text("status")),
            Shown("address", _text("dst_ip"), whole=True),
            Shown("by rule", _text("acl_rule"), name=True),
            Shown("needed by", _text("profile"), minor=2),
            Shown("match", _text("match"), minor=3),
            Shown("tries", _text("attempts"), right=True, minor=1),
        ),
        "unexpected_destinations": (
            Shown("workload", _text("workload")),
            Shown("destination", destination, whole=True),
            Shown("port", _service, whole=True),
            Shown("service tag", _text("service_tag"), name=True),
            Shown("owner", _text("owner"), name=True),
            Shown("country", _text("country"), minor=1),
            Shown("sent", _bytes("bytes_sent"), right=True),
            Shown("received", _bytes("bytes_received"), right=True, minor=2),
            Shown("flows", _text("flows"), right=True, minor=3),
            Shown("last seen", lambda row: clock(row["last_seen"]), minor=1),
        ),
        "rule_usage": (
            Shown("rule", _text("acl_rule"), name=True),
            Shown("of", _last_part("acl_id"), name=True),
            Shown("kind", _text("rule_kind"), minor=2),
            Shown("direction", _text("direction"), minor=1),
            Shown("allowed", _text("flows_allowed"), right=True),
            Shown("denied", _text("flows_denied"), right=True),
            Shown("bytes", _bytes("bytes"), right=True),
            Shown("workloads", _text("workloads"), right=True, minor=3),
        ),
        "rule_dependencies": (
            Shown("workload", _text("workload")),
            Shown("direction", _text("direction"), minor=1),
            Shown("peer", _text("peer"), whole=True),
            Shown("port", _port, whole=True),
            Shown("decided", _text("flow_status")),
            Shown("flows", _text("flows"), right=True),
            Shown("bytes", _bytes("bytes"), right=True, minor=2),
            Shown("rule", _text("acl_rule"), name=True, minor=4),
            Shown("of", _last_part("acl_id"), name=True, minor=3),
            Shown("last seen", lambda row: clock(row["last_seen"]), minor=1),
        ),
        "private_subnet_readiness": (
            Shown("subnet", _text("subnet"), name=True),
            Shown("out by", _text("outbound"), minor=2),
            Shown("destination", _text("destination"), name=True),
            Shown("port", _port, whole=True),
            Shown("status", _text("status")),
            Shown("path", _text("path"), minor=1),
            Shown("needed by", _text("profiles"), minor=3),
            Shown("reached", _text("flows_reached"), right=True, minor=4),
        ),
        "coverage": (
            Shown("flow log", _last_part("flow_log_id"), name=True),
            Shown("NIC", lambda row: str(row["workload"] or row["mac_address"] or "")),
            Shown("hour", lambda row: clock(row["hour"]), whole=True),
            Shown("state", _text("state")),
            Shown("tuples", _text("tuples"), right=True),
            Shown("rejected", _text("rejected"), right=True, minor=1),
        ),
        "flows": (
            Shown("time", lambda row: clock(row["time"])),
            Shown("source", _text("src_ip"), whole=True),
            Shown("port", _text("src_port"), right=True, minor=2),
            Shown("destination", _text("dst_ip"), whole=True),
            Shown("port", _text("dst_port"), right=True),
            Shown("proto", lambda row: schema.PROTOCOL_NAME.get(row["protocol"], str(row["protocol"]))),  # type: ignore[call-overload]
            Shown("state", _text("flow_state")),
            Shown("code", _text("encryption_code"), minor=3),
            Shown("sent", _bytes("bytes_sent"), right=True, minor=4),
            Shown("received", _bytes("bytes_received"), right=True, minor=4),
            Shown("rule", _text("acl_rule"), name=True),
        ),
    }[name]


def stem(name: str) -> tuple[str, str]:
    """A table's question, and which part of the time it is about."""
    for suffix, words in _PART.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), words
    return name, ""


def _worth_showing(name: str, table: pl.DataFrame, *, alone: bool) -> tuple[pl.DataFrame, str]:
    """The rows that a first look needs, and a sentence on the rest; a question asked alone gets more of them."""
    if name == "rule_dependencies":
        # The verdict says why there is nothing to list.
        return table.filter(pl.col("status") == "Depends"), ""
    if name == "private_subnet_readiness":
        hidden = pl.col("path").is_in(_UNCHANGED).fill_null(False)
        unchanged = counted(table.filter(hidden).height, "destination")
        note = (
            f"Not shown: {unchanged} that no subnet loses, private or the platform's (--format csv or json lists them)."
        )
        return table.filter(~hidden), note
    if name == "denied_egress":
        hidden = pl.col("status").is_in(_QUIET if alone else (*_QUIET, *_GOOD))
        left = dict(table.filter(hidden).group_by("status").len().sort("status").iter_rows())
        told = ", ".join(f"{n} {status.lower()}" for status, n in left.items())
        where = "flowlens egress lists what was reached" if {*_GOOD} & {*left} else "--format csv or json lists them"
        return table.filter(~hidden), f"Not shown: {told} ({where})." if told else ""
    if alone:
        return table, ""
    if name == "encryption_status":
        hidden = pl.col("eligibility") != "eligible"
        rest = table.filter(hidden).group_by("eligibility").len().sort("eligibility")
        told = ", ".join(f"{n} {kind}" for kind, n in rest.iter_rows())
        note = f"Not shown, since VNet encryption does not cover them or nobody can judge them: {told}." if told else ""
        return table.filter(~hidden), note
    if name == "rule_usage":
        rows = table.filter(pl.col("flows_denied") > 0)
        idle = table.height - rows.height
        note = f"Not shown: {counted(idle, 'rule')} that only allowed (flowlens rules lists them)." if idle else ""
        return rows, note
    if name == "coverage":
        return table.filter(pl.col("state") != "read"), ""
    return table, ""


def ranked(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows in the order in which a person wants to read them."""
    if name == "denied_egress":
        order = {status: n for n, status in enumerate(schema.EGRESS_STATUSES)}
        return rows.sort(
            pl.col("status").replace_strict(order, default=99), "workload", "endpoint", maintain_order=True
        )
    if name == "unexpected_destinations":
        known = pl.col("service_tag").is_not_null()
        others = pl.col("dst_ip").is_null()
        return rows.sort(others, known, pl.col("bytes_sent").fill_null(0) * -1, "dst_ip", maintain_order=True)
    if name == "encryption_status":
        order = {status: n for n, status in enumerate(("Dropped", "Unencrypted", "Mixed", "Unknown", "Encrypted"))}
        first = pl.col("eligibility") != "eligible"
        return rows.sort(first, pl.col("encryption_status").replace_strict(order, default=9), maintain_order=True)
    if name == "private_subnet_readiness":
        order = {status: n for n, status in enumerate(schema.READINESS_STATUSES)}
        return rows.sort(pl.col("status").replace_strict(order, default=99), "vnet", "subnet", maintain_order=True)
    if name == "rule_dependencies":
        return rows.sort(pl.col("flows") * -1, "workload", "peer", maintain_order=True)
    if name == "rule_usage":
        return rows.sort(pl.col("flows_denied") * -1, "acl_rule", maintain_order=True)
    if name == "coverage":
        return rows.sort(pl.col("state") == "read", maintain_order=True)
    return rows


def with_bare_addresses(rows: pl.DataFrame) -> pl.DataFrame:
    """Workloads named ``10.0.0.4 (0022480A1B2C)`` as ``10.0.0.4`` where no other workload of the table has the address."""
    names = [name for name in ("workload", "src_workload", "dst_workload") if name in rows.columns]
    if not names:
        return rows
    labels = {label for name in names for label in rows[name].drop_nulls().unique()}
    bare = {label: found[1] for label in labels if (found := _BARE.match(label))}
    taken = [bare.get(label, label) for label in labels]
    short = {label: address for label, address in bare.items() if taken.count(address) == 1}
    return rows.with_columns(pl.col(names).replace(short)) if short else rows


def _as_one(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows that differ only in which endpoint was wanted, and by which profile, as one."""
    together = ["endpoint", "profile", "match"]
    one = rows.group_by(_SEEN_AS_ONE, maintain_order=True).agg(
        pl.col(together).drop_nulls().unique(maintain_order=True)
    )
    return one.with_columns(pl.col(name).map_elements(listed, return_dtype=pl.String) for name in together)


def advice(name: str, rows: pl.DataFrame) -> Iterable[tuple[str, str]]:
    """Whom each piece of advice concerns, and the advice, each sentence once."""
    # Under whom it concerns and the pieces of the sentence between their names.
    said: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    if name == "encryption_status":
        bad = rows.filter(pl.col("encryption_status") != "Encrypted", pl.col("eligibility") == "eligible")
        for row in bad.iter_rows(named=True):
            said.setdefault(("", (row["advice"],)), []).append(f"{row['src_workload']} to {row['dst_workload']}")
    elif name == "denied_egress":
        for row in rows.filter(pl.col("fix").is_not_null()).iter_rows(named=True):
            # Endpoints of one service are mended by one change, which then names them all.
            pieces = tuple(str(row["fix"]).split(row["endpoint"] or None, -1 if row["endpoint"] else 0))
            said.setdefault((row["workload"], pieces), []).append(row["endpoint"])
    for (whom, pieces), concerned in said.items():
        names = listed(dict.fromkeys(concerned))
        yield f"{f'{whom}, ' if whom else ''}{names}: ", names.join(pieces)


def evidence(report: Report) -> list[str]:
    """How complete the evidence was and of when the catalogue is, in sentences, and what was not determined beside verdicts."""
    return [*evidence_lines(report.ledger), *coverage_lines(report), *report.notes]


def coverage_lines(report: Report) -> list[str]:
    """Which hours were there, how much traffic they hold and how old the catalogue is, in sentences."""
    summary, catalogue = report.coverage, report.catalogue
    counts = {state: int(str(summary[state.replace(" ", "_")])) for state in schema.COVERAGE_STATES}
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    meaning = " A silent hour had no traffic to log; a missing one should be there."
    return [
        f"NIC-hours: {told or 'none'}.{meaning if counts['silent'] or counts['missing'] else ''}",
        (
            f"Bytes observed {size(int(str(summary['observed_bytes'])))}, counted once "
            f"{size(int(str(summary['counted_bytes'])))}. Endpoint profiles of {catalogue['date']}, service tags of "
            f"{catalogue['tags_date']}{' (older than 30 days)' if catalogue['stale'] else ''}."
        ),
    ]


def evidence_lines(ledger: Ledger) -> list[str]:
    """The ledger in sentences."""
    lines = [
        (
            f"{counted(ledger.blobs, 'file')}, {counted(ledger.records, 'record')}, {counted(ledger.tuples, 'flow tuple')}: "
            f"{ledger.rows:,} read, {ledger.outside_window:,} outside the window, {ledger.rejected:,} rejected."
        )
    ]
    if ledger.rejected_records:
        lines.append(f"{counted(ledger.rejected_records, 'record')} could not be decoded.")
    if ledger.unread:
        lines.append(f"{counted(ledger.unread, 'file')} could not be read to the end.")
    if ledger.unknown_codes:
        codes = ", ".join(f"{code} x{n}" for code, n in sorted(ledger.unknown_codes.items())[:5])
        lines.append(f"Codes that no documentation names, kept as they are: {codes}.")
    if ledger.restarted_bytes_in_doubt:
        lines.append(
            f"{size(ledger.restarted_bytes_in_doubt)} may be counted twice: flows re-created in place kept their counters."
        )
    lines += [f"{reject.blob} at byte {reject.offset:,}: {reject.reason}" for reject in ledger.rejects[:5]]
    if len(ledger.rejects) > 5:
        lines.append(f"and {counted(len(ledger.rejects) - 5, 'more reject')} in the JSON output.")
    return [*lines, *ledger.notes]
