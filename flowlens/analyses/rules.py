"""Which rules decided, and for how much traffic, and which flows depend on one of them?"""

from __future__ import annotations

import functools

import polars as pl

from flowlens import schema
from flowlens.analyses.tables import (
    both_ways,
    condensed,
    each_of,
    flows_of,
    null_sum,
    protocol_name,
    result,
    rule_name,
    stateless,
)
from flowlens.errors import ConfigError, is_unicode, near_matches
from flowlens.evidence import Evidence, Parts, Scan

# Names of the rules that SQL Managed Instance puts into its subnet's NSG (Microsoft Learn, service-aided subnet
# configuration, 2024-07-10). The optional prefix contains the mandatory one, so it is tested first.
_SQL_MI = "microsoft.sql-managedinstances_useonly_mi-"
_SQL_MI_OPTIONAL = f"{_SQL_MI}optional-"
# Real names go on with the subnet and a version, as in …mi-internal-out-10-0-0-0-27-v11.
_SQL_MI_CURRENT = r"^(healthprobe-in|internal-in|internal-out)(-|$)"
OPTIONAL = "optional"
"""Stands for the optional rules of SQL Managed Instance where a rule is asked for."""
_GUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


def rule_usage(scan: Scan) -> pl.LazyFrame:
    """What each rule of each ACL allowed and denied, per direction.

    Every NIC's decision counts, so a flow between two logged NICs shows under the outbound rule of one and the inbound rule
    of the other; a NIC covered by several flow logs counts once. NICs of one workload, such as a scale set, are one. Rule names come without UserRule_ and DefaultRule_.

    >>> import flowlens as fl
    >>> fl.rule_usage(fl.scan("sample_logs")).collect().columns[:3]
    ['acl_id', 'acl_rule', 'rule_kind']
    """
    return result("rule_usage", lambda: _usage(scan.evidence))


def rule_dependencies(scan: Scan, rule: str) -> pl.LazyFrame:
    """The flows that a rule decided, by workload, direction, peer and port; one row that says so where none was logged.

    ``rule`` is a name in any case, with or without UserRule_ and DefaultRule_, or ``optional`` for the optional rules of SQL
    Managed Instance. Flows are those of every NIC that the rule decided for; several flow logs of one NIC count once. No row
    ever says that a rule may be removed: NICs without a flow log are not seen.

    Raises ConfigError for an empty name and for one that is not Unicode.

    >>> import flowlens as fl
    >>> fl.rule_dependencies(fl.scan("sample_logs"), "DenyKms").collect()["status"].unique().to_list()
    ['Depends']
    """
    if not rule.strip():
        raise ConfigError("--depends", "expected the name of a rule, found none")
    if not is_unicode(rule):
        raise ConfigError(f"--depends {rule!r:.60}", "is not Unicode, as the name of a rule is")
    return result("rule_dependencies", lambda: _dependencies(scan.evidence, rule.strip()))


@functools.lru_cache(maxsize=4096)
def kind_of(acl_rule: str | None, acl_id: str | None) -> str:
    """One of RULE_KINDS for one rule of one ACL.

    >>> kind_of("DenyAllOutBound", None), kind_of("BlockRdp", "00000000-0000-0000-0000-0000000000a1")
    ('default', 'admin')
    """
    one = pl.DataFrame(
        {"acl_rule": [acl_rule], "acl_id": [acl_id]}, schema={"acl_rule": pl.String, "acl_id": pl.String}
    )
    return str(one.select(rule_kind().fill_null("user")).item())


def rule_kind() -> pl.Expr:
    """One of RULE_KINDS for each row's ``acl_rule`` and ``acl_id``."""
    rule, acl = pl.col("acl_rule"), pl.col("acl_id").str.to_lowercase()
    name = rule_name().str.to_lowercase()
    default = [rule.lower() for rule in schema.DEFAULT_RULES]
    after = name.str.strip_prefix(_SQL_MI)
    current = after.str.contains(_SQL_MI_CURRENT)
    return (
        pl.when(rule.str.to_lowercase() == schema.PLATFORM_RULE.lower())
        .then(pl.lit("platform"))
        .when((rule.str.to_lowercase() == schema.UNSPECIFIED) & (acl == schema.UNSPECIFIED))
        .then(pl.lit("encryption"))
        .when(name.str.starts_with(_SQL_MI_OPTIONAL))
        .then(pl.lit("sql-mi-optional"))
        .when(name.str.starts_with(_SQL_MI) & current)
        .then(pl.lit("sql-mi-mandatory"))
        .when(name.str.starts_with(_SQL_MI))
        .then(pl.lit("sql-mi-obsolete"))
        .when(rule.str.starts_with(schema.RULE_PREFIX["default"]) | name.is_in(default))
        .then(pl.lit("default"))
        .when(
            rule.str.starts_with(schema.RULE_PREFIX["user"]) | acl.str.contains("/networksecuritygroups/", literal=True)
        )
        .then(pl.lit("user"))
        .when(acl.str.contains(_GUID) | acl.str.contains("/networkmanagers/", literal=True))
        .then(pl.lit("admin"))
        .otherwise(pl.lit("user"))
    )


def _usage(evidence: Evidence) -> pl.LazyFrame:
    allowed = pl.col("flow_status") == "Allowed"
    nics = evidence.inventory.nics.lazy().select("mac_address", "workload", of="vnet")
    # A row that names no NIC tells of no workload.
    workload = pl.struct("of", pl.coalesce("workload", "mac_address")).filter(pl.col("mac_address").is_not_null())
    return (
        condensed(
            evidence.parts,
            _deciding,
            ["acl_id", "acl_rule", "direction", "flow_status", "mac_address", "stateless"],
        )
        .join(nics, on="mac_address", how="left")
        .with_columns(rule_kind=rule_kind().fill_null("user"), acl_rule=rule_name(), bytes=both_ways())
        .group_by("acl_id", "acl_rule", "rule_kind", "direction")
        .agg(
            flows_of(allowed).alias("flows_allowed"),
            pl.col("flows_denied").sum(),
            null_sum(pl.col("bytes")).alias("bytes"),
            workload.n_unique().alias("workloads"),
            pl.col("first_seen").min(),
            pl.col("last_seen").max(),
        )
    )


def _deciding(part: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that tell a decision, each once; ``stateless`` keeps those apart that would be lost among others."""
    return part.filter(pl.col("decides"), ~pl.col("is_reply")).with_columns(stateless=stateless())


_IF_GONE = "Without the rule those of lower priority decide, after the admin rules of Virtual Network Manager, which come first"


def _dependencies(evidence: Evidence, rule: str) -> pl.LazyFrame:
    if rule.lower() == OPTIONAL:
        wanted = rule_kind() == "sql-mi-optional"
    else:
        bare = rule.lower()
        for prefix in schema.RULE_PREFIX.values():
            bare = bare.removeprefix(prefix.lower())
        wanted = rule_name().str.to_lowercase() == bare
    allowed = pl.col("flow_status") == "Allowed"
    outbound = pl.col("direction") == "Outbound"
    nics = evidence.inventory.nics.select("mac_address", "workload", "subnet", of="vnet")
    by = ["acl_id", "acl_rule", "rule_kind", "vnet", "subnet", "workload", "direction", "peer", "port", "protocol"]

    def decided(part: pl.LazyFrame) -> pl.LazyFrame:
        return (
            _deciding(part)
            .filter(wanted.fill_null(False))
            .join(nics.lazy(), on="mac_address", how="left")
            .with_columns(
                rule_kind=rule_kind().fill_null("user"),
                acl_rule=rule_name(),
                vnet=pl.coalesce("of", "vnet"),
                peer=pl.when(outbound).then("dst_ip").otherwise("src_ip"),
                port="dst_port",
                protocol=protocol_name(),
            )
        )

    found = (
        condensed(evidence.parts, decided, [*by, "flow_status", "stateless"])
        .with_columns(bytes=both_ways())
        .group_by(*by, "flow_status")
        .agg(
            flows=flows_of(allowed) + pl.col("flows_denied").sum(),
            bytes=null_sum(pl.col("bytes")),
            first_seen=pl.col("first_seen").min(),
            last_seen=pl.col("last_seen").max(),
        )
        .collect(engine="streaming")
    )
    if found.is_empty():
        return _not_observable(evidence.parts, rule)
    unlogged = _unlogged(evidence).rename({"of": "vnet"})
    return (
        found.join(unlogged, on=["vnet", "subnet"], how="left")
        .with_columns(
            status=pl.lit(schema.DEPENDENCY_STATUSES[0]),
            note=pl.when(pl.col("unlogged").is_not_null())
            .then(pl.format("{} NIC(s) of the subnet have no flow log: what they send is not seen. ", "unlogged"))
            .otherwise(pl.lit(""))
            + pl.lit(f"{_IF_GONE}."),
        )
        .lazy()
    )


def _unlogged(evidence: Evidence) -> pl.DataFrame:
    """(of, subnet, unlogged): NICs that the inventory knows and no flow log covers."""
    return (
        evidence.inventory.table.filter(pl.col("kind") == "nic", pl.col("mac_address").is_not_null())
        .join(evidence.logged_nics.to_frame(), on="mac_address", how="anti")
        .group_by(pl.col("vnet").alias("of"), "subnet")
        .agg(unlogged=pl.col("mac_address").n_unique())
    )


def _not_observable(parts: Parts, rule: str) -> pl.LazyFrame:
    """The one row for a rule of which these logs hold no decision."""
    told = each_of(parts, lambda part: _deciding(part).select(rule_name()).unique().collect(engine="streaming"))
    names = pl.concat(told).to_series().unique().drop_nulls().to_list()
    near = near_matches(rule, names) if rule.lower() != OPTIONAL else ""
    reason = (
        "SQL Managed Instance writes no flow logs, so an optional rule shows only where logged NICs share its NSG"
        if rule.lower() == OPTIONAL
        else "An idle rule, one whose NICs have no flow log and a misspelt one look alike"
    )
    hint = f" Near it: {near.removeprefix('did you mean ').removesuffix('?')}." if near.startswith("did") else ""
    return pl.LazyFrame(
        {
            "acl_rule": [rule],
            "rule_kind": ["sql-mi-optional" if rule.lower() == OPTIONAL else kind_of(rule, None)],
            "flows": [0],
            "status": [schema.DEPENDENCY_STATUSES[1]],
            "note": [
                f"No logged NIC has a flow that it decided. {reason}; nothing says that it may go.{hint} {_IF_GONE}."
            ],
        }
    ).with_columns(
        pl.lit(None, kind).alias(name)
        for name, kind in schema.polars_schema(schema.RESULTS["rule_dependencies"]).items()
        if name not in ("acl_rule", "rule_kind", "flows", "status", "note")
    )
