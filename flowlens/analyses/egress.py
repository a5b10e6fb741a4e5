"""Which endpoints that Azure services need are denied, get no answer, or were never tried, and by whose rule?

The way: attempts (egress by workload, address and port) meet the endpoints of the profiles by prefix, protocol and
port; each requirement then gets one status per workload, from its best alternative.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence

import polars as pl

from flowlens import schema
from flowlens.analyses.attempts import WORKLOAD, attempts_of, destinations_tried
from flowlens.analyses.judgement import APPROXIMATE_TAG, EXACT, PORT_ONLY, Attempt, Length, judge
from flowlens.analyses.needs import SURE, Need
from flowlens.analyses.tables import result
from flowlens.catalog import (
    Profile,
    ServiceTags,
    expand,
    load_profile,
    load_tags,
    profile_names,
)
from flowlens.evidence import Evidence, Scan
from flowlens.nic_hours import COVERED
from flowlens.prefixes import PrefixTable

AUTO = "auto"


def denied_egress(
    scan: Scan,
    *,
    profiles: Sequence[str] | str = AUTO,
    cloud: str = "global",
    placeholders: Mapping[str, str | list[str]] | None = None,
    tags: ServiceTags | None = None,
) -> pl.LazyFrame:
    """The status of every required endpoint for every workload: reached, denied, unanswered, not seen, and so on.

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


def explained(
    table: pl.DataFrame, scan: Scan, *, tags: ServiceTags | None = None, cloud: str = "global"
) -> pl.DataFrame:
    """dst_ip, dst_port and protocol of all egress that the profiles named in ``table`` (a denied_egress table) explain."""
    profiles = [load_profile(name) for name in table["profile"].unique().sort()]
    match = _matcher(_needs(profiles, cloud, {}, tags or load_tags(cloud)))

    def tied(views: pl.LazyFrame) -> pl.DataFrame:
        # A port alone explains nothing: any address answers there.
        matched = match(destinations_tried(views)).filter(pl.col("match") != PORT_ONLY)
        return matched.select("dst_ip", "dst_port", "protocol").unique()

    return pl.concat([tied(part) for part in scan.evidence.parts])


def met(
    scan: Scan,
    attempts: pl.DataFrame,
    profiles: Sequence[str] | str,
    cloud: str,
    settings: Mapping[str, str | list[str]],
) -> pl.DataFrame:
    """``attempts`` tied to the endpoints of the profiles that their workloads need, with ``profile`` and ``name``.

    A port alone and a service tag that is only plausible tie nothing.
    """
    auto = AUTO in ([profiles] if isinstance(profiles, str) else profiles)
    tags = load_tags(cloud)
    needs = needs_of(profiles, cloud, settings, tags)
    matched = _matcher(needs)(attempts)
    wanted = _wanted(_workloads(scan.evidence, attempts), needs, matched, tags, auto)
    names = pl.DataFrame(
        [(n, need.profile, need.requirement.name) for n, need in enumerate(needs)],
        schema={"requirement": pl.Int64, "profile": pl.String, "name": pl.String},
        orient="row",
    )
    return (
        matched.filter(
            pl.col("match") != PORT_ONLY, (pl.col("match") != APPROXIMATE_TAG) | pl.col("confidence").is_in(SURE)
        )
        .join(wanted, on=[*WORKLOAD, "requirement"], how="semi", nulls_equal=True)
        .join(names, on="requirement")
    )


def needs_of(
    profiles: Sequence[str] | str, cloud: str, placeholders: Mapping[str, str | list[str]], tags: ServiceTags
) -> list[Need]:
    """What the profiles of these names or paths need; ``auto`` stands for all in the package."""
    named = [profiles] if isinstance(profiles, str) else list(profiles)
    names = profile_names() if AUTO in named else dict.fromkeys(named)
    return _needs([load_profile(name) for name in names], cloud, placeholders, tags)


def _needs(
    profiles: Iterable[Profile], cloud: str, placeholders: Mapping[str, str | list[str]], tags: ServiceTags
) -> list[Need]:
    return [
        Need(profile.name, requirement, expand(requirement, tags, placeholders))
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
    match = _matcher(needs)
    tried: list[pl.DataFrame] = []

    def tied(views: pl.LazyFrame) -> pl.DataFrame:
        attempts = attempts_of(views)
        tried.append(attempts.select(WORKLOAD).unique())
        return match(attempts)

    matched = pl.concat([tied(part) for part in scan.evidence.parts])
    matched = matched.sort("requirement", *WORKLOAD, "dst_ip", "dst_port", "match", "endpoint", nulls_last=True)
    workloads = _workloads(scan.evidence, pl.concat(tried))
    wanted = _wanted(workloads, needs, matched, tags, auto)
    named = tags.identify(matched["dst_ip"].unique())
    tag_of = dict(zip(named["address"], named["service_tag"], strict=True))
    found: dict[tuple[object, ...], list[Attempt]] = {}
    for row in matched.iter_rows(named=True):
        key = (*(row[k] for k in WORKLOAD), row["requirement"])
        found.setdefault(key, []).append(Attempt(**{name: row[name] for name in Attempt.__slots__}))
    evidence = _evidence(scan)
    rows = []
    for row in wanted.iter_rows(named=True):
        workload = {k: row[k] for k in WORKLOAD}
        need = needs[row["requirement"]]
        judged = judge(need, found.get((*workload.values(), row["requirement"]), []), row["logged"], evidence)
        if judged is not None:
            tag = tag_of.get(judged.dst_ip) if judged.dst_ip else None
            rows.append({**workload, **judged._asdict(), "service_tag": tag})
    return pl.DataFrame(rows, schema=columns) if rows else pl.DataFrame(schema=columns)


def _matcher(needs: Sequence[Need]) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """What joins attempts to the requirements whose endpoint, protocol and port they meet."""
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
    if not pairs:
        return lambda attempts: attempts.clear().with_columns(pl.lit(None, kind).alias(c) for c, kind in empty.items())
    table = PrefixTable.build(pairs)
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
    met = ["set", "protocol", "dst_port", "dst_place"]

    def tied(attempts: pl.DataFrame) -> pl.DataFrame:
        addresses = attempts["dst_ip"].unique()
        sets = pl.DataFrame({"dst_ip": addresses, "set": table.sets(addresses).cast(pl.Int64)}).drop_nulls()
        attempts = attempts.join(sets, on="dst_ip")
        # What a requirement asks is the same for many attempts, so it is judged once for all that agree in it.
        fitting = (
            attempts.select(met)
            .unique()
            .join(members, on="set")
            .join(ports, on="requirement")
            .filter(
                pl.col("needs").is_null() | (pl.col("needs") == pl.col("protocol")),
                any_port | pl.col("dst_port").is_between("low", "high").fill_null(False),
                # A private address is met only by its own address or name: 0.0.0.0/0 in a profile means the internet.
                (pl.col("dst_place") != "internal") | pl.col("match").is_in(EXACT),
            )
            .select(*met, *empty)
            .unique()
        )
        return attempts.join(fitting, on=met, nulls_equal=True).drop("set")

    return tied


def _workloads(evidence: Evidence, tried: pl.DataFrame) -> pl.DataFrame:
    """Every workload that could need an endpoint, and whether its NIC is logged: the inventory knows others too."""
    logged = evidence.coverage["mac_address"].drop_nulls().unique().to_list()
    own = (
        evidence.inventory.table.filter(pl.col("kind").is_in(["nic", "forwarder"]), pl.col("workload").is_not_null())
        .with_columns(logged=pl.col("mac_address").is_in(logged).fill_null(False))
        .select(*WORKLOAD, "logged")
    )
    tried = tried.select(*WORKLOAD, logged=pl.lit(True))
    return pl.concat([own, tried]).group_by(WORKLOAD).agg(pl.col("logged").any())


def _wanted(
    workloads: pl.DataFrame,
    needs: Sequence[Need],
    matched: pl.DataFrame,
    tags: ServiceTags,
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
    # An attempt on nothing but a port tells of a profile only where the address is Azure's: VPNs use 1194 too.
    telling = [n for n, need in enumerate(needs) if need.requirement.telling]
    hosted = tags.identify(matched["dst_ip"].unique()).select(dst_ip="address", hosted="service_tag").drop_nulls()
    active = (
        matched.filter(pl.col("requirement").is_in(telling))
        .join(hosted, on="dst_ip", how="left")
        .filter((pl.col("match") != PORT_ONLY) | pl.col("hosted").is_not_null())
        .join(table, on="requirement")
        .select(*WORKLOAD, "profile")
        .unique()
    )
    return workloads.join(active, on=WORKLOAD, nulls_equal=True).join(table, on="profile")


def _evidence(scan: Scan) -> Length:
    """How long the evidence is, and how many NIC-hours were covered of how many."""
    coverage = scan.evidence.coverage
    first, last = coverage["hour"].min(), coverage["hour"].max()
    if not isinstance(first, dt.datetime) or not isinstance(last, dt.datetime):
        return Length(dt.timedelta(), 0, 0)
    covered = coverage.filter(pl.col("state").is_in(COVERED)).height
    return Length(last - first + dt.timedelta(hours=1), covered, coverage.height)
