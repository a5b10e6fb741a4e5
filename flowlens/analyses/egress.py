"""Which endpoints that Azure services need are denied, get no answer, or were never tried, and by whose rule?

The way: attempts (egress by workload, address and port) meet the endpoints of the profiles by prefix, protocol and
port; each requirement then gets one status per workload, from its best alternative.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from flowlens import schema
from flowlens.analyses.tables import flows_of, result, rule_name
from flowlens.catalog import Expansion, Profile, Requirement, ServiceTags, expand, load_profile, load_tags, profile_names
from flowlens.evidence import Inventory, Scan
from flowlens.nic_hours import COVERED
from flowlens.prefixes import PrefixTable
from flowlens.views import SOURCE

AUTO = "auto"

_WORKLOAD = ["vnet", "subnet", "workload"]
_COMMON_PORTS = (53, 80, 123, 443)
_LEVEL = {match: number for number, match in enumerate(schema.MATCHES)}
_ADDRESS, _NAME, _TAG, _APPROXIMATE, _PORT = schema.MATCHES
_EXACT = (_ADDRESS, _NAME)
_SUCCESS = ("Reached", "Service reached", "Recovered")
_LONG_ENOUGH = dt.timedelta(days=7)
"""Windows renews its activation about every seven days (Microsoft Learn, windows-activation-stopped-working)."""


def denied_egress(
    scan: Scan,
    *,
    profiles: Sequence[str] | str = AUTO,
    cloud: str = "global",
    placeholders: Mapping[str, str | list[str]] | None = None,
    tags: ServiceTags | None = None,
) -> pl.LazyFrame:
    """The status of every required endpoint for every workload: reached, denied, unanswered, not seen …

    ``profiles`` are names or paths; ``auto`` takes, for each workload, the profiles whose own endpoints it tried.
    ``placeholders`` fill what a profile leaves open, such as ``{"region": "japaneast"}``. A tag match gives at most
    Service reached; a row whose evidence cannot tell says so. Times are UTC.

    Raises CatalogError for an unknown or broken profile.

    >>> import flowlens as fl
    >>> table = fl.denied_egress(fl.scan("sample_logs"), profiles=["windows-kms"]).collect()
    >>> {"Denied", "Unanswered", "Reached"} <= set(table["status"])
    True
    """
    auto = AUTO in profiles if not isinstance(profiles, str) else profiles == AUTO
    named = [profiles] if isinstance(profiles, str) else list(profiles)
    names = profile_names() if auto else list(dict.fromkeys(named))
    loaded = [load_profile(name) for name in names]
    return result(
        "denied_egress",
        lambda: _statuses(scan, loaded, auto, cloud, placeholders or {}, tags or load_tags(cloud)).lazy(),
    )


def explained(table: pl.DataFrame, scan: Scan, *, tags: ServiceTags | None = None, cloud: str = "global") -> pl.DataFrame:
    """dst_ip, dst_port and protocol of all egress that the profiles named in ``table`` (a denied_egress table) explain."""
    profiles = [load_profile(name) for name in table["profile"].unique().sort()]
    attempts = _attempts(scan.evidence.views)
    if attempts.is_empty() or not profiles:
        return attempts.select("dst_ip", "dst_port", "protocol").clear()
    needs = _needs(profiles, cloud, {}, tags or load_tags(cloud))
    # A port alone explains nothing: any address answers there.
    matched = _match(attempts, needs).filter(pl.col("match") != _PORT)
    return matched.select("dst_ip", "dst_port", "protocol").unique()


class _Need(NamedTuple):
    """A requirement with the profile it stands in."""

    profile: str
    requirement: Requirement
    expansion: Expansion


def _needs(
    profiles: Iterable[Profile], cloud: str, placeholders: Mapping[str, str | list[str]], tags: ServiceTags
) -> list[_Need]:
    return [
        _Need(profile.name, requirement, expand(requirement, tags, placeholders))
        for profile in profiles
        for requirement in profile.requirements
        if requirement.cloud == cloud
    ]


def _statuses(
    scan: Scan,
    profiles: Sequence[Profile],
    auto: bool,
    cloud: str,
    placeholders: Mapping[str, str | list[str]],
    tags: ServiceTags,
) -> pl.DataFrame:
    columns = schema.polars_schema(schema.RESULTS["denied_egress"])
    needs = _needs(profiles, cloud, placeholders, tags)
    attempts = _attempts(scan.evidence.views)
    matched = _match(attempts, needs)
    workloads = _workloads(scan.evidence.inventory, attempts)
    wanted = _wanted(workloads, needs, matched, profiles, auto)
    named = tags.identify(matched["dst_ip"].unique())
    tag_of = dict(zip(named["address"], named["service_tag"], strict=True))
    by_key: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in matched.iter_rows(named=True):
        by_key.setdefault((*(row[k] for k in _WORKLOAD), row["requirement"]), []).append(row)
    hours = _hours(scan)
    rows = []
    for workload in wanted.iter_rows(named=True):
        number = workload["requirement"]
        key = (*(workload[k] for k in _WORKLOAD), number)
        row = _judge(needs[number], by_key.get(key, []), bool(workload["logged"]), hours)
        if row is not None:
            rows.append({**{k: workload[k] for k in _WORKLOAD}, "service_tag": tag_of.get(str(row["dst_ip"])), **row})
    return pl.DataFrame(rows, schema=columns) if rows else pl.DataFrame(schema=columns)


def _attempts(views: pl.LazyFrame) -> pl.DataFrame:
    """Egress by workload, destination and port, counted once, each with what came of it."""
    allowed, denied = (pl.col("flow_status") == status for status in ("Allowed", "Denied"))
    at_source = pl.col("view") == SOURCE
    traffic = pl.col("first_traffic").is_not_null()
    by_hop = traffic & ~at_source & (pl.col("view") == "hop")
    deciding = pl.struct(rule_name().alias("acl_rule"), "acl_id")
    return (
        views.filter(pl.col("src_place") == "internal", pl.col("counted"))
        .with_columns(
            vnet=pl.coalesce("src_vnet", "vnet"), workload=pl.coalesce("src_workload", "src_ip"), subnet="src_subnet"
        )
        .group_by(*_WORKLOAD, "dst_ip", "dst_port", "protocol", "dst_place")
        .agg(
            flows_of(allowed).alias("flows"),
            pl.col("flows_denied").sum(),
            pl.col("last_answered").max(),
            pl.col("last_unanswered").filter(at_source).max(),
            pl.col("last_seen").filter(denied).max().alias("last_denied"),
            pl.col("tuples_answered").sum(),
            pl.col("tuples_small_reply").sum(),
            pl.col("flows_started").filter(allowed).sum(),
            pl.col("last_seen").filter(allowed & ~traffic).max().alias("last_begun"),
            by_hop.any().alias("at_hop"),
            # The rule that denied last decides whom to ask; equal times fall back to the name, so runs are identical.
            deciding.filter(denied).sort_by(pl.col("last_seen").filter(denied), deciding.filter(denied)).last().alias("by"),
            pl.col("src_ip").min(),
        )
        .collect(engine="streaming")
        .unnest("by")
        .join(_denied_inbound(views), on=["src_ip", "dst_ip", "dst_port", "protocol"], how="left", nulls_equal=True)
        .with_columns(status=_attempt_status())
        .with_columns(
            acl_rule=pl.when(pl.col("status") == "Denied at destination").then("far_rule").otherwise("acl_rule"),
            acl_id=pl.when(pl.col("status") == "Denied at destination").then("far_acl").otherwise("acl_id"),
            attempts=pl.col("flows") + pl.col("flows_denied"),
            last_failure=pl.max_horizontal(
                "last_denied", pl.when(pl.col("last_answered").is_null()).then("last_unanswered")
            ),
        )
    )


def _denied_inbound(views: pl.LazyFrame) -> pl.DataFrame:
    """What the destination's own NIC logged as denied: the rule that the source cannot see."""
    deciding = pl.struct(far_rule=rule_name(), far_acl=pl.col("acl_id"))
    return (
        views.filter(pl.col("view") == "destination", pl.col("flow_status") == "Denied")
        .group_by("src_ip", "dst_ip", "dst_port", "protocol")
        .agg(deciding.sort_by("last_seen", deciding).last().alias("far"))
        .collect(engine="streaming")
        .unnest("far")
    )


def _attempt_status() -> pl.Expr:
    """The status of one destination, seen by one workload."""
    answered = pl.col("last_answered").is_not_null()
    denied = pl.col("last_denied").is_not_null()
    # Only where every answered tuple is small and each belongs to a flow begun in the window: the keep-alive of a long-lived
    # flow is as small and means nothing.
    small = (
        answered
        & (pl.col("tuples_answered") > 0)
        & (pl.col("tuples_small_reply") == pl.col("tuples_answered"))
        & (pl.col("flows_started") >= pl.col("tuples_answered"))
        & (pl.col("protocol") == schema.TCP)
    )
    return (
        pl.when(answered & ~small & ~denied)
        .then(pl.lit("Reached"))
        .when(answered & ~small & (pl.col("last_answered") > pl.col("last_denied")))
        .then(pl.lit("Recovered"))
        .when(answered & ~small)
        .then(pl.lit("Partly denied"))
        .when(denied)
        .then(pl.lit("Denied"))
        .when(small)
        .then(pl.lit("Answered without data"))
        .when(pl.col("last_unanswered").is_not_null() & pl.col("far_acl").is_not_null())
        .then(pl.lit("Denied at destination"))
        .when(pl.col("last_unanswered").is_not_null())
        .then(pl.lit("Unanswered"))
        .when(pl.col("at_hop"))
        .then(pl.lit("Cannot tell"))
        .when(pl.col("last_begun").is_not_null())
        .then(pl.lit("Pending"))
        .otherwise(pl.lit("Cannot tell"))
    )


def _match(attempts: pl.DataFrame, needs: Sequence[_Need]) -> pl.DataFrame:
    """Attempts joined to the requirements whose endpoint, protocol and port they meet."""
    labels: list[tuple[int, str, str, str]] = []
    number_of: dict[tuple[int, str, str, str], int] = {}
    pairs: list[tuple[str, int]] = []
    for number, need in enumerate(needs):
        for prefix, match, endpoint in need.expansion.prefixes:
            label = (number, match, endpoint, need.expansion.confidence.get(endpoint, ""))
            if label not in number_of:
                number_of[label] = len(labels)
                labels.append(label)
            pairs.append((prefix, number_of[label]))
    empty = {"requirement": pl.Int64, "match": pl.String, "endpoint": pl.String, "confidence": pl.String}
    if not pairs or attempts.is_empty():
        return attempts.with_columns(pl.lit(None, kind).alias(name) for name, kind in empty.items()).clear()
    table = PrefixTable.build(pairs)
    addresses = attempts["dst_ip"].unique()
    sets = pl.DataFrame({"dst_ip": addresses, "set": table.sets(addresses).cast(pl.Int64)}).drop_nulls()
    members = pl.DataFrame(
        [(n, label, *labels[label]) for n, held in enumerate(table.members) for label in held],
        schema={"set": pl.Int64, "label": pl.Int64, **empty},
        orient="row",
    )
    ports = pl.DataFrame(
        [
            (n, schema.PROTOCOL_NUMBER.get(need.requirement.protocol.lower()), low, high)
            for n, need in enumerate(needs)
            for low, high in need.requirement.port_ranges
        ],
        schema={"requirement": pl.Int64, "needs": pl.Int16, "low": pl.Int32, "high": pl.Int32},
        orient="row",
    )
    any_port = (pl.col("low") == 0) & (pl.col("high") == 65535)
    return (
        attempts.join(sets, on="dst_ip")
        .join(members, on="set")
        .join(ports, on="requirement")
        .filter(
            pl.col("needs").is_null() | (pl.col("needs") == pl.col("protocol")),
            any_port | pl.col("dst_port").is_between("low", "high").fill_null(False),
            # A private address is met only by its own address or name: 0.0.0.0/0 in a profile means the internet.
            (pl.col("dst_place") != "internal") | pl.col("match").is_in(_EXACT),
        )
        .drop("set", "label", "needs", "low", "high")
        .unique()
        .sort("requirement", *_WORKLOAD, "dst_ip", "dst_port", "match", "endpoint", nulls_last=True)
    )


def _workloads(inventory: Inventory, attempts: pl.DataFrame) -> pl.DataFrame:
    """Every workload that could need an endpoint, and whether its NIC is logged."""
    own = (
        inventory.table.filter(pl.col("kind").is_in(["nic", "forwarder"]), pl.col("workload").is_not_null())
        .with_columns(logged=pl.col("mac_address").is_in(inventory.nics["mac_address"].to_list()).fill_null(False))
        .select(*_WORKLOAD, "logged")
    )
    tried = attempts.select(*_WORKLOAD, logged=pl.lit(True))
    return pl.concat([own, tried]).group_by(_WORKLOAD).agg(pl.col("logged").any())


def _wanted(
    workloads: pl.DataFrame,
    needs: Sequence[_Need],
    matched: pl.DataFrame,
    profiles: Sequence[Profile],
    auto: bool,
) -> pl.DataFrame:
    """Workload x requirement: all of them, or under ``auto`` those of profiles whose own endpoints the workload tried."""
    table = pl.DataFrame(
        [(n, need.profile) for n, need in enumerate(needs)],
        schema={"requirement": pl.Int64, "profile": pl.String},
        orient="row",
    )
    if not auto:
        return workloads.join(table, how="cross")
    signs = {(profile.name, name) for profile in profiles for name in getattr(profile, "signature", ())}
    telling = [n for n, need in enumerate(needs) if (need.profile, need.requirement.name) in signs]
    active = (
        matched.filter(pl.col("requirement").is_in(telling))
        .join(table, on="requirement")
        .select(*_WORKLOAD, "profile")
        .unique()
    )
    return workloads.join(active, on=_WORKLOAD, nulls_equal=True).join(table, on="profile")


def _hours(scan: Scan) -> tuple[dt.timedelta, int, int]:
    """How long the evidence is, and how many NIC-hours were covered of how many."""
    coverage = scan.evidence.coverage
    covered = coverage.filter(pl.col("state").is_in(COVERED)).height
    hours = coverage["hour"]
    first, last = hours.min(), hours.max()
    if not isinstance(first, dt.datetime) or not isinstance(last, dt.datetime):
        return dt.timedelta(), 0, 0
    return last - first + dt.timedelta(hours=1), covered, coverage.height


def _judge(
    need: _Need,
    attempts: list[dict[str, object]],
    logged: bool,
    hours: tuple[dt.timedelta, int, int],
) -> dict[str, object] | None:
    """One row of the table, or None where silence means nothing (retired and safe-to-block endpoints)."""
    requirement, expansion = need.requirement, need.expansion
    quiet = requirement.retired or requirement.need == "safe-to-block"
    if not attempts and quiet:
        return None
    notes = [requirement.note] if requirement.note else []
    best: dict[str, object] | None = None
    if attempts:
        status, match, best, why = _best(requirement, attempts)
        notes += why
    else:
        status, match = _unseen(need, logged, hours, notes)
    if status not in _SUCCESS and expansion.untestable and not best:
        notes.append(f"not tested: {'; '.join(expansion.untestable)}")
    successes = [a["last_answered"] for a in attempts if a["last_answered"] is not None and a["status"] in _SUCCESS + ("Partly denied",)]
    failures = [a["last_failure"] for a in attempts if a["last_failure"] is not None]
    seen = best or {}
    problem = status in schema.EGRESS_PROBLEMS
    return {
        "profile": need.profile,
        "cloud": requirement.cloud,
        "endpoint": requirement.name,
        "requirement": "retired" if requirement.retired else requirement.need,
        "protocol": requirement.protocol.upper(),
        "port": requirement.ports,
        "status": status,
        "match": match,
        "dst_ip": seen.get("dst_ip"),
        "acl_rule": seen.get("acl_rule") if problem else None,
        "acl_id": seen.get("acl_id") if problem else None,
        "attempts": len({(a["dst_ip"], a["dst_port"]) for a in attempts}) and _attempt_count(attempts),
        "last_success": max(successes, default=None),  # type: ignore[type-var]
        "last_failure": max(failures, default=None),  # type: ignore[type-var]
        "note": " ".join(f"{note[0].upper()}{note[1:]}." for note in dict.fromkeys(n.rstrip(".") for n in notes)) or None,
        "fix": _fix(requirement, status, seen) if problem and not quiet else None,
    }


def _attempt_count(attempts: list[dict[str, object]]) -> int:
    """Flows towards the endpoint; an address that several alternatives hold counts once."""
    once = {(a["dst_ip"], a["dst_port"], a["protocol"]): a["attempts"] for a in attempts}
    return sum(int(str(n)) for n in once.values())


def _best(
    requirement: Requirement, attempts: list[dict[str, object]]
) -> tuple[str, str, dict[str, object], list[str]]:
    """The status of the best alternative: exact success, else service success, else the most exact failure."""
    levels = {match: [a for a in attempts if a["match"] == match] for match in schema.MATCHES}
    exact = [a for match in _EXACT for a in levels[match]]
    exact_status, exact_best = _combine(exact, each_alone=True)
    if exact_status in _SUCCESS:
        others = sorted({str(a["dst_ip"]) for a in exact if a["status"] in schema.EGRESS_PROBLEMS})
        why = [f"{', '.join(others)} failed, an alternative answered"] if others else []
        return exact_status, str(exact_best["match"]), exact_best, why
    for match in (_TAG, _APPROXIMATE):
        status, best = _combine(levels[match], each_alone=False)
        if status in ("Reached", "Recovered") and not exact:
            return _tag_success(status, match, best)
    if exact:
        return exact_status, str(exact_best["match"]), exact_best, []
    for match in (_TAG, _APPROXIMATE, _PORT):
        if levels[match]:
            status, best = _combine(levels[match], each_alone=False)
            return _by_certainty(requirement, status, match, best)
    raise AssertionError("attempts without a match")


def _tag_success(status: str, match: str, best: dict[str, object]) -> tuple[str, str, dict[str, object], list[str]]:
    if match == _APPROXIMATE and best["confidence"] not in ("high", "medium"):
        return "Cannot tell", match, best, [f"some endpoint of its likely service answered ({best['endpoint']})"]
    word = "Service reached" if status == "Reached" else status
    return word, match, best, ["some endpoint of the service answered, not necessarily this one"]


def _by_certainty(
    requirement: Requirement, status: str, match: str, best: dict[str, object]
) -> tuple[str, str, dict[str, object], list[str]]:
    """What a match that names no address may claim."""
    low, high = requirement.port_ranges[0]
    if match == _PORT and (status in _SUCCESS or (low == high and low in _COMMON_PORTS)):
        return "Cannot tell", match, best, [f"only the port fits ({best['dst_ip']}, {status.lower()})"]
    if match == _APPROXIMATE and best["confidence"] not in ("high", "medium"):
        return "Cannot tell", match, best, [f"an endpoint of its likely service was {status.lower()} ({best['dst_ip']})"]
    if match == _APPROXIMATE:
        return status, match, best, ["some endpoint of the service; this name may be the one"]
    return status, match, best, []


_ORDER = ("Reached", "Recovered", "Partly denied", "Pending", "Answered without data", "Unanswered", "Denied at destination", "Denied", "Cannot tell")


def _combine(attempts: list[dict[str, object]], *, each_alone: bool) -> tuple[str, dict[str, object]]:
    """The status of several destinations: alternatives each for itself, or one service behind many addresses.

    For a service a denial beside a success is Partly denied, or Recovered where the success is the later one.
    """
    if not attempts:
        return "", {}
    ranked = sorted(attempts, key=lambda a: (_failure_rank(a, each_alone), str(a["endpoint"]), str(a["dst_ip"])))
    best = ranked[0]
    if each_alone:
        return str(best["status"]), best
    good = [a for a in attempts if a["status"] in ("Reached", "Recovered", "Partly denied")]
    denied = [a for a in attempts if a["last_denied"] is not None]
    if good and denied:
        latest = max(a["last_answered"] for a in good)  # type: ignore[type-var]
        worst = max(denied, key=lambda a: (a["last_denied"], str(a["dst_ip"])))
        return ("Recovered", good[0]) if latest > worst["last_denied"] else ("Partly denied", worst)  # type: ignore[operator]
    return str(best["status"]), best


def _failure_rank(attempt: dict[str, object], each_alone: bool) -> int:
    """Success first; of failures the best of alternatives, but the worst of a service."""
    number = _ORDER.index(str(attempt["status"]))
    if each_alone or number < 2:
        return number
    return len(_ORDER) - number + 2 if attempt["status"] != "Cannot tell" else 2 * len(_ORDER)


def _unseen(
    need: _Need,
    logged: bool,
    hours: tuple[dt.timedelta, int, int],
    notes: list[str],
) -> tuple[str, str | None]:
    """Nothing matched: never tried, or the evidence cannot tell."""
    expansion = need.expansion
    length, covered, expected = hours
    if not logged:
        notes.append("no flow log covers this workload")
        return "Not observable", None
    exact = any(match == _ADDRESS for _, match, _ in expansion.prefixes)
    tagged = any(match == _TAG for _, match, _ in expansion.prefixes)
    sure = any(
        match == _APPROXIMATE and expansion.confidence.get(endpoint) == "high"
        for _, match, endpoint in expansion.prefixes
    )
    if covered < expected:
        notes.append(f"only {covered} of {expected} NIC-hours are covered")
    if length < _LONG_ENOUGH:
        notes.append(f"{length.total_seconds() / 3600:.0f} h of logs prove little: Windows renews its activation weekly" if need.profile == "windows-kms" else f"{length.total_seconds() / 3600:.0f} h of logs")
    if not covered or not (exact or tagged or sure):
        return "Cannot tell", None
    return "Not seen", None


def _fix(requirement: Requirement, status: str, seen: Mapping[str, object]) -> str:
    """The smallest change that mends the problem, in words."""
    where = f"{requirement.protocol.upper()} {requirement.ports}"
    acl = str(seen.get("acl_id") or "").rsplit("/", 1)[-1]
    targets = ", ".join(dict.fromkeys(e.value for e in requirement.endpoints if e.kind in ("ip", "cidr", "service-tag")))
    target = targets if targets and "<" not in targets else requirement.name
    if status in ("Denied", "Partly denied"):
        by = f"{seen.get('acl_rule')} in {acl}" if acl else "the rule that denies"
        if seen.get("acl_id") == schema.UNSPECIFIED:
            return "Denied by VNet encryption: see the encryption table."
        return f"Allow outbound {where} to {target} before {by}."
    if status == "Denied at destination":
        return f"Allow inbound {where} at the destination before {seen.get('acl_rule')} in {acl}."
    if status == "Answered without data":
        return "A firewall or proxy answers and resets: allow the name there."
    return (
        f"Allowed by the NSG but nothing answers on {where}: give the subnet an outbound path (NAT gateway, firewall route or public "
        "IP), or allow it at the firewall on the way."
    )
