"""What a subnet would lose if it were private, that is, had no default outbound access?

API versions released after 2026-03-31 make the subnets of new virtual networks private; existing virtual networks, and new
VMs in them, do not change. In a private subnet the internet is reached by an explicit outbound method alone: NAT gateway,
load balancer with outbound rules, public IP, route to a firewall; routes with next hop Internet stop working. Storage
accounts of the same region and service endpoints stay (Microsoft Learn, "Default outbound access in Azure", 2025-12-03).
Azure SQL in the same region was seen to stay too, sign-in through Entra ID was not (a third party's test, 2024-06).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import polars as pl

from flowlens import schema
from flowlens.analyses.attempts import WORKLOAD, attempts_of
from flowlens.analyses.egress import tying
from flowlens.analyses.needs import AUTO, EXACT
from flowlens.analyses.representatives import REQUIREMENT
from flowlens.analyses.tables import protocol_name, result, slim
from flowlens.catalog import Names, ServiceTags, load_tags, read_names
from flowlens.catalog.placeholders import Settings, given
from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import Evidence, Inventory, Scan, together
from flowlens.inventory import INTERNAL, PLATFORM
from flowlens.views import subjects_of

NAT, LOAD_BALANCER, PUBLIC_IP, FIREWALL, DEFAULT = schema.OUTBOUND_METHODS
INTERNET, STORAGE, SQL, SERVICE_ENDPOINT, PRIVATE_ENDPOINT, PRIVATE_PEER, THE_PLATFORM = schema.PATHS
LOST, AT_RISK, UNANSWERED, DENIED, UNSURE, NOT_OBSERVABLE, STAYS = schema.READINESS_STATUSES

# Service endpoint -> service tag whose prefixes its route takes, and whether it holds for every region (Microsoft Learn,
# "Virtual Network service endpoints").
SERVICE_ENDPOINTS = {
    "Microsoft.AzureCosmosDB": ("AzureCosmosDB", True),
    "Microsoft.ContainerRegistry": ("AzureContainerRegistry", True),
    "Microsoft.EventHub": ("EventHub", True),
    "Microsoft.KeyVault": ("AzureKeyVault", True),
    "Microsoft.ServiceBus": ("ServiceBus", True),
    "Microsoft.Sql": ("Sql", False),
    "Microsoft.Storage": ("Storage", False),
    "Microsoft.Storage.Global": ("Storage", True),
    "Microsoft.Web": ("AppService", True),
}

_REACHED = ("Reached", "Recovered", "Partly denied", "Answered without data")
_SILENT = ("Unanswered", "Denied at destination")
_SUBNET = ["vnet", "subnet"]
_DESTINATION = [*_SUBNET, "destination", "dst_port", "protocol", "path"]
# Network Watcher is a regional service and its own instances are named NetworkWatcher_<region>, so a flow log's id tells the
# region of what it is on (Microsoft Learn, "Enable or disable Azure Network Watcher").
_WATCHER = r"(?i)/networkwatcher_([a-z0-9]+)/"
_NOTES = {
    NAT: "By the NAT gateway of the subnet",
    LOAD_BALANCER: "Only NICs in the back-end pool of a Standard load balancer with outbound rules keep it",
    PUBLIC_IP: "Only NICs that have a public IP keep it",
    FIREWALL: "By the route to the firewall, if the firewall allows it; routes with next hop Internet stop working",
}
_NO_IPV6 = "Default outbound access is an IPv4 address, so IPv6 goes some other way, which may stay"
_NO_REGION = "Stays if it is in the VNet's own region, which is not known: say which with --set region=NAME"
_PRIVATE_ALREADY = "Nothing that the subnet tries over the internet answers: it looks private already"
_SAY_HOW = "Lost unless the subnet has an explicit outbound method: say which with --outbound SUBNET=METHOD"

T = TypeVar("T")


def private_subnet_readiness(
    scan: Scan,
    *,
    outbound: Mapping[str, str] | None = None,
    service_endpoints: Mapping[str, Sequence[str]] | None = None,
    profiles: Sequence[str] | str = AUTO,
    cloud: str = "global",
    placeholders: Settings | None = None,
    tags: ServiceTags | None = None,
    names: Names | str | Path | None = None,
) -> pl.LazyFrame:
    """What becomes of each subnet's destinations if it is private: lost, at risk, unanswered or denied already, or stays.

    ``outbound`` tells how a subnet goes out (``{"snet-app": "nat"}``, one of OUTBOUND_METHODS), ``service_endpoints`` which
    it has (``{"snet-app": ["Microsoft.Storage"]}``); a subnet is named by its name, ``vnet/subnet`` or ``sub/rg/vnet/subnet``,
    in any case. Where nobody says how a subnet goes out, what it reached over the internet is at risk, not lost. Addresses of
    one service tag on one port are one row; private peers are one row per subnet. Only what was tried in the window is here.

    Raises ConfigError for an unknown subnet, method or service endpoint, with near matches.

    >>> import flowlens as fl
    >>> table = fl.private_subnet_readiness(fl.scan("sample_logs"), outbound={"10.10.3.0/24": "nat"}).collect()
    >>> sorted(set(table.filter(pl.col("subnet") == "10.10.3.0/24")["status"]))
    ['Denied already', 'Stays']
    """
    for method in (outbound or {}).values():
        known_method(method)
    for listed in (service_endpoints or {}).values():
        for name in listed:
            known_service_endpoint(name)
    known_tags = tags or load_tags(cloud)
    known_names = read_names(names) if isinstance(names, (str, Path)) else names

    def compute() -> pl.LazyFrame:
        inventory = scan.evidence.inventory
        methods = by_subnet(inventory, outbound or {})
        services = by_subnet(inventory, service_endpoints or {})
        tie, needed = tying(
            scan, profiles=profiles, cloud=cloud, placeholders=placeholders, tags=known_tags, names=known_names
        )
        regions = regions_of(scan.evidence, placeholders or {})

        def of_part(part: pl.LazyFrame) -> tuple[pl.DataFrame, ...]:
            # A destination is in one part alone, so its addresses are counted there.
            attempts = attempts_of(part)
            paths = _with_paths(attempts, inventory, regions, services, known_tags)
            tied, active, tried = tie(attempts)
            workloads = slim(paths.select(*_DESTINATION, "unsure", "workload").unique(), WORKLOAD)
            named = slim(_by_destination(tied, paths), WORKLOAD)
            return slim(_sums(paths), [*_SUBNET, "destination"]), workloads, named, active, tried

        sums, workloads, named, active, tried = together(scan.evidence.parts, of_part)
        return _readiness(sums, workloads, needed(named, active, tried), methods, scan.evidence).lazy()

    return result("private_subnet_readiness", compute)


def known_method(method: str) -> str:
    """The outbound method in its own spelling; raises ConfigError for an unknown one."""
    if method.lower() not in schema.OUTBOUND_METHODS:
        raise ConfigError(
            f"outbound {method!r:.40}", "is no outbound method", hint=near_matches(method, schema.OUTBOUND_METHODS)
        )
    return method.lower()


def known_service_endpoint(name: str) -> str:
    """The service endpoint in its own spelling; raises ConfigError for an unknown one."""
    spelling = {known.lower(): known for known in SERVICE_ENDPOINTS}
    if name.lower() not in spelling:
        raise ConfigError(f"service endpoint {name!r:.60}", "is not known", hint=near_matches(name, SERVICE_ENDPOINTS))
    return spelling[name.lower()]


def by_subnet(inventory: Inventory, given: Mapping[str, T], *, strict: bool = True) -> dict[tuple[str, str], T]:
    """What is ``given`` by a subnet's name, by (vnet, subnet); the last of several that name one subnet counts.

    Raises ConfigError for a name that fits subnets of several VNets and, where ``strict``, for one that fits none.
    """
    known = inventory.table.select(_SUBNET).drop_nulls().unique().sort(_SUBNET).rows()
    found: dict[tuple[str, str], T] = {}
    for name, value in given.items():
        wanted = name.lower()
        fitting = [
            (vnet, subnet)
            for vnet, subnet in known
            if wanted == subnet.lower() or f"/{vnet}/{subnet}".lower().endswith(f"/{wanted}")
        ]
        if len(fitting) > 1:
            told = ", ".join(f"{vnet}/{subnet}" for vnet, subnet in fitting[:5])
            raise ConfigError(f"subnet {name!r:.80}", "fits several", hint=f"write one of {told}")
        if not fitting and strict:
            labels = {subnet for _, subnet in known} | {f"{vnet.split('/')[-1]}/{subnet}" for vnet, subnet in known}
            raise ConfigError(f"subnet {name!r:.80}", "is in none of these logs", hint=near_matches(name, labels))
        found.update(dict.fromkeys(fitting, value))
    return found


def methods_by_subnet(
    inventory: Inventory, outbound: Mapping[str, str] | None, known: Sequence[Mapping[str, str]] = ()
) -> dict[tuple[str, str], str]:
    """How each subnet goes out, by (vnet, subnet): the last word counts, of ``known`` and then of ``outbound``.

    Raises what by_subnet raises: ``outbound`` must name subnets of these logs, ``known`` may name others too.
    """
    methods: dict[tuple[str, str], str] = {}
    for mapping in known:
        methods |= by_subnet(inventory, mapping, strict=False)
    return methods | by_subnet(inventory, outbound or {})


def regions_of(evidence: Evidence, settings: Settings) -> pl.DataFrame:
    """(vnet, region): by the Network Watcher of its flow logs, else by the user's setting; null where neither tells."""
    told = given(settings).get("region", [])
    # Of several regions none is that of each VNet.
    setting = told[0] if len(told) == 1 else None
    watched = (
        evidence.coverage.select("mac_address", region=pl.col("flow_log_id").str.extract(_WATCHER).str.to_lowercase())
        .unique()
        .drop_nulls()
        .join(evidence.inventory.nics.select("mac_address", "vnet"), on="mac_address")
        .group_by("vnet")
        # Two watchers of one VNet cannot be; then neither is believed.
        .agg(region=pl.when(pl.col("region").n_unique() == 1).then(pl.col("region").min()))
    )
    vnets = evidence.inventory.table.select("vnet").unique()
    return vnets.join(watched, on="vnet", how="left").with_columns(
        region=pl.coalesce("region", pl.lit(setting, pl.String))
    )


def _with_paths(
    attempts: pl.DataFrame,
    inventory: Inventory,
    regions: pl.DataFrame,
    services: Mapping[tuple[str, str], Sequence[str]],
    tags: ServiceTags,
) -> pl.DataFrame:
    """Attempts with ``destination``, ``path`` and ``unsure``: whether the path hangs on a region that is not known."""
    external = (pl.col("dst_place") != INTERNAL) & (pl.col("dst_place") != PLATFORM)
    identified = tags.identify(attempts.filter(external)["dst_ip"].unique()).rename({"address": "dst_ip"})
    kinds = subjects_of(inventory).select("seen_in", "address", "kind")
    region_of = dict(tags.table.select("name", "region").iter_rows())
    held = (
        identified.select("dst_ip", tag="service_tags")
        .explode("tag", empty_as_null=False)
        .with_columns(
            service=pl.col("tag").str.split(".").list.first(),
            tag_region=pl.col("tag").replace_strict(region_of, default=None, return_dtype=pl.String),
        )
    )

    def region_in(service: str) -> pl.DataFrame:
        of = held.filter(pl.col("service") == service)
        return of.group_by("dst_ip").agg(
            pl.col("tag_region").drop_nulls().min().alias(f"{service}_region"), pl.lit(True).alias(service)
        )

    endpoints = pl.DataFrame(
        [
            (
                *subnet,
                SERVICE_ENDPOINTS[known_service_endpoint(name)][0],
                SERVICE_ENDPOINTS[known_service_endpoint(name)][1],
            )
            for subnet, names in services.items()
            for name in names
        ],
        schema={"vnet": pl.String, "subnet": pl.String, "service": pl.String, "everywhere": pl.Boolean},
        orient="row",
    )
    tried = attempts.join(regions, on="vnet", how="left").join(
        identified.select("dst_ip", "service_tag"), on="dst_ip", how="left"
    )
    taken = (
        tried.select(*_SUBNET, "dst_ip", "region")
        .unique()
        .join(endpoints, on=_SUBNET)
        .join(held, on=["dst_ip", "service"])
        .filter(pl.col("everywhere") | (pl.col("tag_region") == pl.col("region")))
        .select(*_SUBNET, "dst_ip", by_endpoint=pl.lit(True))
        .unique()
    )
    rows = (
        tried.join(region_in("Storage"), on="dst_ip", how="left")
        .join(region_in("Sql"), on="dst_ip", how="left")
        .join(taken, on=[*_SUBNET, "dst_ip"], how="left")
        .join(kinds, left_on=["vnet", "dst_ip"], right_on=["seen_in", "address"], how="left")
    )
    same = {
        service: (pl.col(f"{service}_region") == pl.col("region")).fill_null(False) for service in ("Storage", "Sql")
    }
    # Without one of the two regions nobody can say whether they are the same.
    unsure = pl.any_horizontal(
        pl.col(service).fill_null(False) & (pl.col(f"{service}_region").is_null() | pl.col("region").is_null())
        for service in ("Storage", "Sql")
    )
    path = (
        pl.when(pl.col("dst_place") == PLATFORM)
        .then(pl.lit(THE_PLATFORM))
        .when((pl.col("dst_place") == INTERNAL) & (pl.col("kind") == "private endpoint"))
        .then(pl.lit(PRIVATE_ENDPOINT))
        .when(pl.col("dst_place") == INTERNAL)
        .then(pl.lit(PRIVATE_PEER))
        .when(pl.col("by_endpoint").fill_null(False))
        .then(pl.lit(SERVICE_ENDPOINT))
        .when(same["Storage"])
        .then(pl.lit(STORAGE))
        .when(same["Sql"])
        .then(pl.lit(SQL))
        .otherwise(pl.lit(INTERNET))
    )
    inside = pl.col("path").is_in([PRIVATE_ENDPOINT, PRIVATE_PEER])
    return rows.with_columns(path=path).with_columns(
        unsure=unsure & (pl.col("path") == INTERNET),
        destination=pl.when(pl.col("path") == PRIVATE_ENDPOINT)
        .then(pl.lit("private endpoints"))
        .when(pl.col("path") == PRIVATE_PEER)
        .then(pl.lit("private addresses"))
        .otherwise(pl.coalesce("service_tag", "dst_ip")),
        # Who talks to whom inside does not change, so it is one line.
        dst_ip=pl.when(~inside).then("dst_ip"),
        peer="dst_ip",
        peer_port="dst_port",
        number="protocol",
        dst_port=pl.when(~inside).then("dst_port"),
        protocol=pl.when(~inside).then(protocol_name()),
    )


def _sums(tried: pl.DataFrame) -> pl.DataFrame:
    """What came of each subnet's attempts at a destination, in one part."""

    def flows(statuses: Sequence[str]) -> pl.Expr:
        return pl.col("attempts").filter(pl.col("status").is_in(list(statuses))).sum()

    inside = pl.col("path").is_in([PRIVATE_ENDPOINT, PRIVATE_PEER, THE_PLATFORM])
    # A source that no subnet is known for, such as one on premises, loses nothing that stays for everybody.
    concerned = tried.filter(pl.col("subnet").is_not_null() | ~inside)
    return concerned.group_by([*_DESTINATION, "unsure"]).agg(
        pl.col("dst_ip").min(),
        addresses=pl.col("peer").n_unique(),
        flows_reached=flows(_REACHED),
        flows_unanswered=flows(_SILENT),
        flows_denied=flows(("Denied",)),
        last_success=pl.col("last_answered").max(),
        ipv6=pl.col("dst_ip").str.contains(":", literal=True).any().fill_null(False),
    )


def _readiness(
    sums: pl.DataFrame,
    workloads: pl.DataFrame,
    named: pl.DataFrame,
    methods: Mapping[tuple[str, str], str],
    evidence: Evidence,
) -> pl.DataFrame:
    told = pl.DataFrame(
        [(*subnet, method.lower()) for subnet, method in methods.items()],
        schema={"vnet": pl.String, "subnet": pl.String, "outbound": pl.String},
        orient="row",
    )
    key = [*_DESTINATION, "unsure"]
    silent = (pl.col("flows_unanswered").sum() > 0) & (pl.col("flows_reached").sum() == 0)
    rows = (
        sums.group_by(key)
        .agg(
            pl.col("dst_ip").min(),
            pl.col("addresses", "flows_reached", "flows_unanswered", "flows_denied").sum(),
            pl.col("last_success").max(),
            pl.col("ipv6").any(),
        )
        .join(
            workloads.group_by(key).agg(workloads=pl.col("workload").n_unique()), on=key, how="left", nulls_equal=True
        )
        .join(told, on=_SUBNET, how="left", nulls_equal=True)
        .join(_names(named), on=_DESTINATION, how="left", nulls_equal=True)
        .with_columns(_status(), no_answer=silent.over([*_SUBNET, "path"]))
        .with_columns(_note())
        .rename({"dst_port": "port"})
    )
    columns = schema.polars_schema(schema.RESULTS["private_subnet_readiness"])
    unlogged = _unlogged(evidence).join(told, on=_SUBNET, how="left")
    return pl.concat([rows.select(pl.col(c).cast(k) for c, k in columns.items()), _blind(unlogged, columns)])


def _by_destination(tied: pl.DataFrame, tried: pl.DataFrame) -> pl.DataFrame:
    """Workload, requirement, destination and ``exact`` of what was tied to requirements, each once."""
    key = [*WORKLOAD, "peer", "peer_port", "number"]
    rows = tied.select(
        *REQUIREMENT, peer="dst_ip", peer_port="dst_port", number="protocol", exact=pl.col("match").is_in(EXACT)
    ).join(tried.select(*key, *_DESTINATION[2:]).unique(), on=key, nulls_equal=True)
    return rows.select(*REQUIREMENT, *_DESTINATION[2:], "exact").unique()


def _names(rows: pl.DataFrame) -> pl.DataFrame:
    """Profiles and endpoints by destination; where some are tied to an address, those of the mere service are left out."""
    exact = pl.col("exact") | ~pl.col("exact").any()
    listed = {
        column: pl.col(source).filter(exact).unique().sort().str.join(", ")
        for column, source in (("profiles", "profile"), ("endpoints", "name"))
    }
    return rows.group_by(_DESTINATION).agg(**listed)


def _status() -> pl.Expr:
    outside = pl.col("path") == INTERNET
    explicit = pl.col("outbound").is_not_null() & (pl.col("outbound") != DEFAULT)
    public = outside | pl.col("path").is_in([STORAGE, SQL, SERVICE_ENDPOINT])
    return (
        pl.when(~public)
        .then(pl.lit(STAYS))
        .when((pl.col("flows_reached") == 0) & (pl.col("flows_unanswered") > 0))
        .then(pl.lit(UNANSWERED))
        .when((pl.col("flows_reached") == 0) & (pl.col("flows_denied") > 0))
        .then(pl.lit(DENIED))
        .when(pl.col("flows_reached") == 0)
        .then(pl.lit(UNSURE))
        .when(~outside | explicit)
        .then(pl.lit(STAYS))
        .when(pl.col("unsure") | pl.col("ipv6"))
        .then(pl.lit(UNSURE))
        .when(pl.col("outbound") == DEFAULT)
        .then(pl.lit(LOST))
        .otherwise(pl.lit(AT_RISK))
        .alias("status")
    )


def _note() -> pl.Expr:
    reached, outside = pl.col("flows_reached") > 0, pl.col("path") == INTERNET
    by_method = pl.col("outbound").replace_strict(_NOTES, default=None, return_dtype=pl.String)
    return (
        pl.when(reached & outside & (pl.col("status") == STAYS))
        .then(by_method)
        .when(reached & pl.col("unsure"))
        .then(pl.lit(_NO_REGION))
        .when(reached & outside & pl.col("ipv6"))
        .then(pl.lit(_NO_IPV6))
        .when(pl.col("status") == AT_RISK)
        .then(pl.lit(_SAY_HOW))
        .when(pl.col("no_answer") & (pl.col("status") == UNANSWERED) & outside)
        .then(pl.lit(_PRIVATE_ALREADY))
        .when((pl.col("status") == STAYS) & (pl.col("path") == SQL))
        .then(pl.lit("Seen to stay in a test of 2024-06, not documented; sign-in through Entra ID needs the internet"))
        .when((pl.col("status") == STAYS) & (pl.col("path") == STORAGE))
        .then(pl.lit("Storage accounts of the same region need no outbound method"))
        .alias("note")
    )


def _unlogged(evidence: Evidence) -> pl.DataFrame:
    """Subnets of which the inventory knows NICs and none has a flow log."""
    return (
        evidence.inventory.table.filter(pl.col("kind").is_in(["nic", "forwarder"]), pl.col("mac_address").is_not_null())
        .group_by(_SUBNET)
        .agg(logged=pl.col("mac_address").is_in(evidence.logged_nics.implode()).any())
        .filter(~pl.col("logged"))
        .select(_SUBNET)
    )


def _blind(unlogged: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """One row for each subnet without flow logs."""
    known = unlogged.with_columns(
        status=pl.lit(NOT_OBSERVABLE),
        note=pl.lit("No flow log covers the subnet"),
        **{name: pl.lit(0) for name in columns if name.startswith("flows_") or name in ("workloads", "addresses")},
    )
    return known.select(
        (pl.col(name) if name in known.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in columns.items()
    )
