"""Verdicts: what the result tables and the completeness of the evidence say together, and the figures that gates ask for.

A question is *ok* only on evidence without gaps; without it, it is *not determined*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import polars as pl

from flowlens import schema
from flowlens.analyses.encryption import TURNED
from flowlens.analyses.tables import each_of
from flowlens.evidence import Ledger, Parts
from flowlens.findings import QUESTIONS
from flowlens.nic_hours import COVERED

OK, FINDINGS, NOT_DETERMINED = schema.VERDICTS
BAD_PAIRS = ("Unencrypted", "Mixed", "Dropped")

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


def summarise(coverage: pl.DataFrame, parts: Parts) -> dict[str, object]:
    """NIC-hours by state, and the bytes observed beside the bytes counted once; ``parts`` are those of the evidence."""
    states = dict(coverage.group_by("state").len().iter_rows())
    total = pl.sum_horizontal("bytes_sent", "bytes_received")
    told = {
        "observed": total.sum(),
        "counted": total.filter(pl.col("counted")).sum(),
        "begun": pl.col("flows_started").sum(),
        "traffic": pl.col("first_traffic").count(),
        "denied": pl.col("flows_denied").sum(),
    }
    # One part after the other: all at once would be hundreds of files at once where conversations are many.
    by_part = each_of(parts, lambda part: part.group_by("flow_log_id").agg(**told).collect(engine="streaming"))
    by_log = pl.concat(by_part).group_by("flow_log_id").agg(pl.col(list(told)).sum()).sort("flow_log_id")
    without_traffic = by_log.filter(pl.col("begun") >= _TRAFFIC_FROM, pl.col("traffic") == 0)
    without_denied = by_log.filter(pl.col("begun") >= _DENIED_FROM, pl.col("denied") == 0)
    return {
        "nic_hours": coverage.height,
        **{state.replace(" ", "_"): int(states.get(state, 0)) for state in schema.COVERAGE_STATES},
        "flow_logs": coverage["flow_log_id"].n_unique(),
        "nics": coverage["mac_address"].n_unique(),
        "observed_bytes": int(by_log["observed"].sum()),
        "counted_bytes": int(by_log["counted"].sum()),
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


def verdicts_of(
    tables: Mapping[str, pl.DataFrame],
    coverage: Mapping[str, object],
    ledger: Ledger,
    judged: bool,
    since: pl.DataFrame | None = None,
) -> dict[str, Verdict]:
    """The verdict of each question that was asked, from its rows with ``accepted``; ``judged`` says whether anything was expected.

    ``since`` is the egress since a change, with such a column: what fails there counts, however much was reached before.
    """
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
        if name == "denied_egress" and since is not None and verdict.status != FINDINGS:
            later = _egress_verdict(since, coverage)
            verdict = replace(later, text=f"Since the change: {later.text}") if later.status == FINDINGS else verdict
        verdicts[name] = verdict
    return verdicts


def is_turned() -> pl.Expr:
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
    worse = eligible.filter(pl.col("encryption_status").is_in(BAD_PAIRS) & ~is_turned())
    bad, accepted = worse.filter(~pl.col("accepted")), worse.filter("accepted").height
    turned = eligible.filter(is_turned()).height
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


def failing(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of denied_egress that are findings."""
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
    worse = failing(table)
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


def _destinations_verdict(table: pl.DataFrame, judged: bool) -> Verdict:
    if not judged:
        untagged = _destinations(table.filter(pl.col("service_tag").is_null()))
        return Verdict(
            NOT_DETERMINED,
            f"Not determined: no expected list or baseline was given. {_destinations(table)} destination(s) are listed, "
            f"{untagged} of them in no Azure service tag.",
        )
    bad, accepted = (_destinations(table.filter(pl.col("accepted") == is_so)) for is_so in (False, True))
    if not bad:
        but = f" but {accepted}, which are accepted" if accepted else ""
        return Verdict(OK, f"Every destination was expected{but}.", 0)
    return Verdict(FINDINGS, f"{bad} destination(s) nobody expected{_beside(accepted)}.", bad)


def _destinations(table: pl.DataFrame) -> int:
    """How many destinations the rows are of; the rows of a query are of one each."""
    return int(table["destinations"].sum()) if "destinations" in table.columns else table.height


def counted_rows(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
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
        turned = is_turned() if "advice" in pairs.columns else since
        metrics["unencrypted"] = eligible.filter(pl.col("encryption_status").is_in(BAD_PAIRS) & ~turned).height
    # What fails since a change counts, however much was reached before.
    egress = [tables[name] for name in ("denied_egress", "denied_egress_after") if name in tables]
    if egress:
        bad = [failing(table) for table in egress]
        metrics["denied_required"] = max(rows.filter(pl.col("requirement") == "required").height for rows in bad)
        metrics["unanswered"] = max(rows.filter(pl.col("status") == "Unanswered").height for rows in bad)
    if (found := tables.get("unexpected_destinations")) is not None:
        metrics["unexpected_destinations"] = _destinations(found)
        if "is_new" in found.columns:
            metrics["new_destinations"] = _destinations(found.filter(pl.col("is_new").fill_null(True)))
    return metrics
