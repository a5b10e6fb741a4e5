"""Which endpoints that Azure services need are denied, get no answer, or were never tried, and by whose rule?

The way: attempts (egress by workload, address and port) meet the endpoints of the profiles by prefix, protocol and
port; each requirement then gets one status per workload, from its best alternative.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars as pl

from flowlens import schema
from flowlens.analyses.attempts import WORKLOAD, attempts_of
from flowlens.analyses.judgement import NOTHING, Attempt, Length, Totals, judge
from flowlens.analyses.needs import APPROXIMATE_TAG, AUTO, EXACT, NAME, OTHER_NAME, PORT_ONLY, SURE, TAG, Need
from flowlens.analyses.representatives import REQUIREMENT, added, representatives, totals_of
from flowlens.analyses.tables import result, slim
from flowlens.catalog import (
    Names,
    Profile,
    ServiceTags,
    expand,
    load_profile,
    load_tags,
    profile_names,
    read_names,
)
from flowlens.catalog.names import endpoint_names
from flowlens.catalog.placeholders import Settings, check_settings
from flowlens.catalog.profiles import EGRESS
from flowlens.evidence import Evidence, Inventory, Scan
from flowlens.inventory import EXTERNAL
from flowlens.nic_hours import COVERED
from flowlens.prefixes import PrefixTable
from flowlens.views import subjects_of

_SINCE = {"first_failure": pl.Datetime("us", "UTC")}
_HOUR = dt.timedelta(hours=1)
# On a port alone any address answers, and a tag that is only plausible, such as AzureCloud, holds what anybody runs there.
_TIES = (pl.col("match") != PORT_ONLY) & ((pl.col("match") != APPROXIMATE_TAG) | pl.col("confidence").is_in(SURE))


def denied_egress(
    scan: Scan,
    *,
    profiles: Sequence[str] | str = AUTO,
    cloud: str = "global",
    placeholders: Settings | None = None,
    tags: ServiceTags | None = None,
    names: Names | str | Path | None = None,
) -> pl.LazyFrame:
    """The status of every required endpoint for every workload: reached, denied, unanswered, not seen, and so on.

    ``profiles`` are names or paths; ``auto`` takes, for each workload, the profiles whose own endpoints it tried.
    ``placeholders`` fill what a profile leaves open, such as ``{"region": "japaneast"}``. A tag match gives at most
    Service reached; a row whose evidence cannot tell says so. Times are UTC.
    ``names`` (a file, see read_names) tie the names that a profile lists to the addresses they stood for: such a match is
    exact. Raises CatalogError for an unknown or broken profile or names file, ConfigError for a placeholder that no profile has.

    >>> import flowlens as fl
    >>> table = fl.denied_egress(fl.scan("sample_logs"), profiles=["windows-kms"]).collect()
    >>> {"Denied", "Unanswered", "Reached"} <= set(table["status"])
    True
    """
    dated = dated_egress(scan, profiles=profiles, cloud=cloud, placeholders=placeholders, tags=tags, names=names)
    return dated.drop(_SINCE)


def dated_egress(
    scan: Scan,
    *,
    profiles: Sequence[str] | str = AUTO,
    cloud: str = "global",
    placeholders: Settings | None = None,
    tags: ServiceTags | None = None,
    names: Names | str | Path | None = None,
) -> pl.LazyFrame:
    """The table of denied_egress with one column more: first_failure, when the requirement first failed; UTC, null if never.

    Where nothing answered that is the first traffic of the first hour without an answer. Raises what denied_egress raises.

    >>> import flowlens as fl
    >>> dated_egress(fl.scan("sample_logs"), profiles=["windows-kms"]).collect().columns[-1]
    'first_failure'
    """
    loaded, asked = _loaded(profiles)
    check_settings(placeholders or {}, loaded)
    known = _names(names)

    def compute() -> pl.LazyFrame:
        current = _of_its_time(known, scan)
        known_tags = tags or load_tags(cloud)
        needs, match = _matched_by(loaded, cloud, placeholders or {}, known_tags, current)
        named = pl.Series(current.known_addresses if current else [], dtype=pl.String)
        return _statuses(scan, needs, match, asked, known_tags, named).lazy()

    return result("denied_egress", compute, more=_SINCE)


def explained(
    table: pl.DataFrame,
    scan: Scan,
    *,
    profiles: Sequence[str] | str = AUTO,
    placeholders: Settings | None = None,
    tags: ServiceTags | None = None,
    cloud: str = "global",
    names: Names | str | Path | None = None,
) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """What picks, of egress to external addresses, the rows that a profile of the same workload explains.

    ``table`` is a denied_egress table and names the profiles of each workload; the other arguments are those that it was made
    with. What is returned takes and gives rows with vnet, subnet, workload, dst_ip, dst_port and protocol, in any number.
    """
    active = table.select(*WORKLOAD, "profile").unique()
    named = set(active["profile"])
    known = _of_its_time(_names(names), scan)
    loaded = [profile for profile in _loaded(profiles)[0] if profile.name in named]
    needs, match = _matched_by(loaded, cloud, placeholders or {}, tags or load_tags(cloud), known)
    profile_of = pl.DataFrame(
        [(n, need.profile) for n, need in enumerate(needs)],
        schema={"requirement": pl.Int64, "profile": pl.String},
        orient="row",
    )
    destination = ["dst_ip", "dst_port", "protocol"]

    def tied(found: pl.DataFrame) -> pl.DataFrame:
        # What fits is the same for all workloads, so it is asked once for each destination.
        matched = match(found.select(destination).unique().with_columns(dst_place=pl.lit(EXTERNAL)))
        told = matched.filter(_TIES).join(profile_of, on="requirement")
        # Few sets of profiles stand for many destinations, so that no row is there once for each of its profiles.
        together = pl.col("profile").unique().sort().str.join("\n")
        meant = told.group_by(destination).agg(together.alias("profiles"))
        members = meant.select("profiles", profile=pl.col("profiles").str.split("\n")).unique().explode("profile")
        own = active.join(members, on="profile").select(*WORKLOAD, "profiles").unique()
        return (
            found.join(meant, on=destination, nulls_equal=True)
            .join(own, on=[*WORKLOAD, "profiles"], how="semi", nulls_equal=True)
            .select(found.columns)
        )

    return tied


def tying(
    scan: Scan,
    *,
    profiles: Sequence[str] | str = AUTO,
    cloud: str = "global",
    placeholders: Settings | None = None,
    tags: ServiceTags | None = None,
    names: Names | str | Path | None = None,
) -> tuple[
    Callable[[pl.DataFrame], tuple[pl.DataFrame, ...]],
    Callable[[pl.DataFrame, pl.DataFrame, pl.DataFrame], pl.DataFrame],
]:
    """What ties the attempts of a part of the scan to requirements, and what keeps of all that was tied what a workload needs.

    The first gives workload, requirement, dst_ip, dst_port, protocol and match; a port alone and a service tag that is only
    plausible tie nothing. Besides it gives the profiles that workloads have a part in, and the workloads. The second takes rows
    with workload and requirement, and both of these of every part; it drops what is of other profiles, and adds profile and name
    (of the requirement).
    """
    known_tags = tags or load_tags(cloud)
    needs = needs_of(scan, profiles=profiles, cloud=cloud, placeholders=placeholders, tags=known_tags, names=names)
    match = _in_its_vnet(_matcher(needs), _others(scan.evidence.inventory, needs))
    telling = _telling(needs)

    def tie(attempts: pl.DataFrame) -> tuple[pl.DataFrame, ...]:
        matched = match(attempts)
        tied = matched.filter(_TIES).select(*REQUIREMENT, "dst_ip", "dst_port", "protocol", "match").unique()
        return tied, slim(_active(matched, telling, known_tags), WORKLOAD), attempts.select(WORKLOAD).unique()

    def needed(rows: pl.DataFrame, active: pl.DataFrame, tried: pl.DataFrame) -> pl.DataFrame:
        _, asked = _loaded(profiles)
        wanted = _wanted(_workloads(scan.evidence, tried), needs, active, asked)
        named = pl.DataFrame(
            [(n, need.profile, need.requirement.name) for n, need in enumerate(needs)],
            schema={"requirement": pl.Int64, "profile": pl.String, "name": pl.String},
            orient="row",
        )
        return rows.join(wanted, on=REQUIREMENT, how="semi", nulls_equal=True).join(named, on="requirement")

    return tie, needed


def needs_of(
    scan: Scan,
    *,
    profiles: Sequence[str] | str = AUTO,
    cloud: str = "global",
    placeholders: Settings | None = None,
    tags: ServiceTags | None = None,
    names: Names | str | Path | None = None,
) -> list[Need]:
    """What the profiles of these names or paths need in the hours of the scan; ``auto`` stands for all in the package.

    Raises what denied_egress raises.
    """
    loaded, _ = _loaded(profiles)
    check_settings(placeholders or {}, loaded)
    return _needs(loaded, cloud, placeholders or {}, tags or load_tags(cloud), _of_its_time(_names(names), scan))


def _loaded(profiles: Sequence[str] | str) -> tuple[list[Profile], frozenset[str]]:
    """The profiles to judge, and the names of those asked for; ``auto`` adds all of the package."""
    named = [profiles] if isinstance(profiles, str) else list(dict.fromkeys(profiles))
    asked = {profile.name: profile for profile in (load_profile(name) for name in named if name != AUTO)}
    others = [load_profile(name) for name in profile_names() if AUTO in named and name not in asked]
    return [*asked.values(), *others], frozenset(asked)


def _names(names: Names | str | Path | None) -> Names | None:
    return read_names(names) if isinstance(names, (str, Path)) else names


def _of_its_time(names: Names | None, scan: Scan) -> Names | None:
    """The names that count for the hours of the scan, with those that the inventory gives private endpoints."""
    table = scan.evidence.inventory.table.filter(pl.col("kind") == "private endpoint")
    own = endpoint_names(table.select("workload", "address").drop_nulls().sort("workload", "address").iter_rows())
    if names is None:
        return own
    first, last = _hours(scan)
    known = names.during(first, last + _HOUR if last is not None else None)
    return known.beside(own) if own is not None else known


def needs_of_profiles(
    profiles: Sequence[str], cloud: str, placeholders: Settings, tags: ServiceTags, names: Names | None = None
) -> list[Need]:
    """What the named profiles need in a cloud. Raises as ``denied_egress`` does."""
    loaded, _ = _loaded(profiles)
    check_settings(placeholders, loaded)
    return _needs(loaded, cloud, placeholders, tags, names)


def _needs(
    profiles: Iterable[Profile], cloud: str, placeholders: Settings, tags: ServiceTags, names: Names | None
) -> list[Need]:
    return [
        Need(profile.name, requirement, expand(requirement, tags, placeholders, names))
        for profile in profiles
        for requirement in profile.requirements
        if requirement.cloud == cloud and requirement.concerns == EGRESS
    ]


Matcher = Callable[[pl.DataFrame], pl.DataFrame]
"""What joins attempts to the requirements whose endpoint, protocol and port they meet."""


def _matched_by(
    profiles: Sequence[Profile], cloud: str, placeholders: Settings, tags: ServiceTags, names: Names | None
) -> tuple[Sequence[Need], Matcher]:
    """What the profiles need, and what ties attempts to it."""
    if names is None and not placeholders:
        return _as_published(tuple(profiles), cloud, tags)
    needs = _needs(profiles, cloud, placeholders, tags, names)
    return needs, _matcher(needs)


@functools.lru_cache(maxsize=4)
def _as_published(profiles: tuple[Profile, ...], cloud: str, tags: ServiceTags) -> tuple[Sequence[Need], Matcher]:
    """The same where nobody filled anything in; made once, since a change has three parts and a process may ask often."""
    needs = _needs(profiles, cloud, {}, tags, None)
    return needs, _matcher(needs)


def _statuses(
    scan: Scan, needs: Sequence[Need], match: Matcher, asked: frozenset[str], tags: ServiceTags, named: pl.Series
) -> pl.DataFrame:
    """The rows of dated_egress; ``named`` are all addresses that some name is known to stand for."""
    columns = {**schema.polars_schema(schema.RESULTS["denied_egress"]), **_SINCE}
    others = _others(scan.evidence.inventory, needs)
    match = _in_its_vnet(match, others)
    others_in = {vnet: frozenset(held) for vnet, held in others.group_by("vnet").agg("dst_ip").iter_rows()}
    telling = _telling(needs)

    def tied(views: pl.LazyFrame) -> tuple[pl.DataFrame, ...]:
        attempts = attempts_of(views)
        matched = match(attempts)
        # Names of one service share its tag, often its addresses too: what fails at one is hardly the failure of another.
        elsewhere = pl.col("status").is_in(schema.EGRESS_PROBLEMS) & pl.col("dst_ip").is_in(named.implode())
        matched = matched.with_columns(
            confidence=pl.when((pl.col("match") == APPROXIMATE_TAG) & elsewhere)
            .then(pl.lit(OTHER_NAME))
            .otherwise("confidence")
        )
        active = slim(_active(matched, telling, tags), WORKLOAD)
        tried = slim(attempts.select(WORKLOAD).unique(), WORKLOAD)
        return slim(representatives(matched)), slim(totals_of(matched), WORKLOAD), active, tried

    # A destination is in one part alone, so what is told of each part is told of all.
    found_in, totals, active, tried = zip(*scan.evidence.parts.each(tied), strict=True)
    matched = pl.concat(found_in)
    wanted = _wanted(_workloads(scan.evidence, pl.concat(tried)), needs, pl.concat(active), asked)
    matched = representatives(matched.join(wanted, on=REQUIREMENT, how="semi", nulls_equal=True))
    identified = tags.identify(matched["dst_ip"].unique())
    tag_of = dict(zip(identified["address"], identified["service_tag"], strict=True))
    found: dict[tuple[object, ...], list[Attempt]] = {}
    for row in matched.iter_rows(named=True):
        key = tuple(row[k] for k in REQUIREMENT)
        found.setdefault(key, []).append(Attempt(**{name: row[name] for name in Attempt.__slots__}))
    sums = {
        tuple(row[k] for k in REQUIREMENT): Totals(*(row[name] for name in Totals._fields))
        for row in added(totals).join(wanted, on=REQUIREMENT, how="semi", nulls_equal=True).iter_rows(named=True)
    }
    evidence = _evidence(scan)
    rows = []
    for row in wanted.iter_rows(named=True):
        workload = {k: row[k] for k in WORKLOAD}
        need = needs[row["requirement"]]
        key = (*workload.values(), row["requirement"])
        others_here = others_in.get(workload["vnet"], frozenset())
        judged = judge(need, found.get(key, []), sums.get(key, NOTHING), row["logged"], evidence, others_here)
        if judged is not None:
            tag = tag_of.get(judged.dst_ip) if judged.dst_ip else None
            rows.append({**workload, **judged._asdict(), "service_tag": tag})
    return pl.DataFrame(rows, schema=columns) if rows else pl.DataFrame(schema=columns)


def _matcher(needs: Sequence[Need]) -> Matcher:
    """The matcher of these needs."""
    # A tag that several requirements name stands in the table once: most of all prefixes are of a few large tags.
    meant: dict[tuple[str, ...], list[tuple[int, str, str, str]]] = {}
    for number, need in enumerate(needs):
        for reach in need.expansion.reaches:
            confidence = need.expansion.confidence.get(reach.endpoint, "")
            meant.setdefault(reach.prefixes, []).append((number, reach.match, reach.endpoint, confidence))
    pairs = [(prefix, n) for n, prefixes in enumerate(meant) for prefix in prefixes]
    labels = list(meant.values())
    empty = {"requirement": pl.Int64, "match": pl.String, "endpoint": pl.String, "confidence": pl.String}
    if not pairs:
        return lambda attempts: attempts.clear().with_columns(pl.lit(None, kind).alias(c) for c, kind in empty.items())
    table = PrefixTable.build(pairs)
    members = pl.DataFrame(
        [(n, *row) for n, held in enumerate(table.members) for label in held for row in labels[label]],
        schema={"set": pl.Int64, **empty},
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


def _others(inventory: Inventory, needs: Sequence[Need]) -> pl.DataFrame:
    """(vnet, dst_ip): private addresses that names stood for and that in this VNet are known to be somebody else's.

    Private ranges repeat across VNets. A name means the private endpoint at its address where the inventory knows one, else
    whoever has the address in the only VNet that is known to have it.
    """
    named = {prefix.partition("/")[0] for need in needs for prefix in need.expansion.private}
    owners = inventory.table.filter(pl.col("address").is_in(sorted(named))).select("address", "vnet", "kind").unique()
    endpoint = pl.col("kind") == "private endpoint"
    meant = owners.filter(endpoint | ~endpoint.any().over("address")).select("address", vnet="vnet").unique()
    alone = endpoint.any().over("address") | (pl.col("vnet").n_unique().over("address") == 1)
    sure = meant.join(owners.filter(alone).select("address", "vnet").unique(), on=["address", "vnet"])
    seen = subjects_of(inventory).filter(pl.col("address").is_in(owners["address"].unique().implode()))
    return (
        seen.join(sure.with_columns(right=pl.lit(True)), on=["address", "vnet"], how="left")
        .filter(pl.col("right").is_null() | pl.col("ambiguous"))
        .select(vnet="seen_in", dst_ip="address")
        .unique()
    )


def _in_its_vnet(match: Matcher, others: pl.DataFrame) -> Matcher:
    """The matcher, but a name ties no address that in the workload's VNet is somebody else's."""
    if others.is_empty():
        return match
    wrong = others.with_columns(match=pl.lit(NAME))
    return lambda attempts: match(attempts).join(wrong, on=["vnet", "dst_ip", "match"], how="anti")


def _workloads(evidence: Evidence, tried: pl.DataFrame) -> pl.DataFrame:
    """Every workload that could need an endpoint, and whether its NIC is logged: the inventory knows others too."""
    own = (
        evidence.inventory.table.filter(pl.col("kind").is_in(["nic", "forwarder"]), pl.col("workload").is_not_null())
        .with_columns(logged=pl.col("mac_address").is_in(evidence.logged_nics.implode()).fill_null(False))
        .select(*WORKLOAD, "logged")
    )
    tried = tried.select(*WORKLOAD, logged=pl.lit(True))
    return pl.concat([own, tried]).group_by(WORKLOAD).agg(pl.col("logged").any())


def _telling(needs: Sequence[Need]) -> pl.DataFrame:
    """(requirement, profile) of what only one profile needs."""
    return pl.DataFrame(
        [(n, need.profile) for n, need in enumerate(needs) if need.requirement.telling],
        schema={"requirement": pl.Int64, "profile": pl.String},
        orient="row",
    )


def _active(matched: pl.DataFrame, telling: pl.DataFrame, tags: ServiceTags) -> pl.DataFrame:
    """Workload and profile where the workload tried what only that profile needs."""
    tried = matched.filter(pl.col("match").is_in([*EXACT, TAG, PORT_ONLY])).join(telling, on="requirement")
    # An attempt on nothing but a port tells of a profile only where the address is Azure's: VPNs use 1194 too.
    hosted = tags.identify(tried["dst_ip"].unique()).filter(pl.col("service_tag").is_not_null())["address"]
    return (
        tried.filter((pl.col("match") != PORT_ONLY) | pl.col("dst_ip").is_in(hosted.to_list()))
        .select(*WORKLOAD, "profile")
        .unique()
    )


def _wanted(
    workloads: pl.DataFrame, needs: Sequence[Need], active: pl.DataFrame, asked: frozenset[str]
) -> pl.DataFrame:
    """Workload x requirement: of the profiles asked for all, of others where the workload tried their own endpoints."""
    table = pl.DataFrame(
        [(n, need.profile) for n, need in enumerate(needs)],
        schema={"requirement": pl.Int64, "profile": pl.String},
        orient="row",
    )
    always = workloads.join(table.filter(pl.col("profile").is_in(asked)), how="cross")
    others = active.unique().filter(~pl.col("profile").is_in(asked))
    taken = workloads.join(others, on=WORKLOAD, nulls_equal=True).join(table, on="profile")
    return pl.concat([always, taken], how="diagonal")


def _evidence(scan: Scan) -> Length:
    """How long the evidence is, and how many NIC-hours were covered of how many."""
    coverage = scan.evidence.coverage
    first, last = _hours(scan)
    if first is None or last is None:
        return Length(dt.timedelta(), 0, 0)
    covered = coverage.filter(pl.col("state").is_in(COVERED)).height
    return Length(last - first + _HOUR, covered, coverage.height)


def _hours(scan: Scan) -> tuple[dt.datetime | None, dt.datetime | None]:
    """The first and the last hour of the evidence."""
    first, last = scan.evidence.coverage["hour"].min(), scan.evidence.coverage["hour"].max()
    return first if isinstance(first, dt.datetime) else None, last if isinstance(last, dt.datetime) else None
