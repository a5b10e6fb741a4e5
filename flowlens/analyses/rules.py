"""Which rules decided, and for how much traffic?"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from flowlens import schema
from flowlens.analyses.tables import both_ways, condensed, flows_of, null_sum, result, rule_name
from flowlens.evidence import Scan

# Names of the rules that SQL Managed Instance puts into its subnet's NSG (Microsoft Learn, service-aided subnet
# configuration, 2024-07-10). The optional prefix contains the mandatory one, so it is tested first.
_SQL_MI = "microsoft.sql-managedinstances_useonly_mi-"
_SQL_MI_OPTIONAL = f"{_SQL_MI}optional-"
_SQL_MI_CURRENT = ("healthprobe-in", "internal-in", "internal-out")
_GUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


def rule_usage(scan: Scan) -> pl.LazyFrame:
    """What each rule of each ACL allowed and denied, per direction.

    Every NIC's decision counts, so a flow between two logged NICs shows under the outbound rule of one and the inbound rule
    of the other; a NIC covered by several flow logs counts once. Rule names come without UserRule_ and DefaultRule_.

    >>> import flowlens as fl
    >>> fl.rule_usage(fl.scan("sample_logs")).collect().columns[:3]
    ['acl_id', 'acl_rule', 'rule_kind']
    """
    return result("rule_usage", lambda: _usage(scan.evidence.parts))


def rule_kind() -> pl.Expr:
    """One of RULE_KINDS for each row's ``acl_rule`` and ``acl_id``."""
    rule, acl = pl.col("acl_rule"), pl.col("acl_id").str.to_lowercase()
    name = rule_name().str.to_lowercase()
    default = [rule.lower() for rule in schema.DEFAULT_RULES]
    after = name.str.strip_prefix(_SQL_MI)
    current = pl.any_horizontal(after.str.starts_with(part) for part in _SQL_MI_CURRENT)
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


def _usage(parts: Iterable[pl.LazyFrame]) -> pl.LazyFrame:
    allowed = pl.col("flow_status") == "Allowed"
    deciding = [part.filter(pl.col("logged_once"), ~pl.col("is_reply")) for part in parts]
    return (
        condensed(deciding, ["acl_id", "acl_rule", "direction", "flow_status", "mac_address"])
        .with_columns(rule_kind=rule_kind().fill_null("user"), acl_rule=rule_name(), bytes=both_ways())
        .group_by("acl_id", "acl_rule", "rule_kind", "direction")
        .agg(
            flows_of(allowed).alias("flows_allowed"),
            pl.col("flows_denied").sum(),
            null_sum(pl.col("bytes")).alias("bytes"),
            pl.col("mac_address").n_unique().alias("workloads"),
            pl.col("first_seen").min(),
            pl.col("last_seen").max(),
        )
    )
