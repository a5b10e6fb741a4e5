"""What came of each attempt: a workload, a destination and a port, over the whole window."""

from __future__ import annotations

import polars as pl

from flowlens.analyses.rules import rule_kind
from flowlens.analyses.tables import flows_of, rule_name, stateless
from flowlens.inventory import INTERNAL
from flowlens.schema import SMALL_REPLY_BYTES, TCP, TLS_PORTS
from flowlens.views import HOP, SOURCE

WORKLOAD = ["vnet", "subnet", "workload"]


def attempts_of(views: pl.LazyFrame) -> pl.DataFrame:
    """Flows from internal addresses by workload, destination and port, counted once, each with what came of it.

    Columns: the workload's, dst_ip, dst_port, protocol, dst_place, status (one of EGRESS_STATUSES), attempts, acl_rule,
    acl_id and acl_kind of what denied it, last_answered, last_denied, first_failure, last_failure, unseen (a private address of
    which no NIC is known, so that only the source tells of it).
    """
    allowed, denied = (pl.col("flow_status") == status for status in ("Allowed", "Denied"))
    at_source = pl.col("view") == SOURCE
    traffic = pl.col("first_traffic").is_not_null()
    at_hop = allowed & (pl.col("view") == HOP)
    # Its name without the log's prefix no longer tells the kind of a rule.
    deciding = pl.struct(rule_name().alias("acl_rule"), "acl_id", acl_kind=rule_kind())
    return (
        views.filter(pl.col("src_place") == INTERNAL, pl.col("counted"))
        .join(
            _denied_inbound(views).lazy(),
            on=["src_ip", "dst_vnet", "dst_ip", "dst_port", "protocol"],
            how="left",
            nulls_equal=True,
        )
        .with_columns(
            vnet=pl.coalesce("src_vnet", "vnet"),
            workload=pl.coalesce("src_workload", "src_ip"),
            subnet="src_subnet",
            # Traffic Analytics keeps no tuples; an interval whose replies are small all together had none that was not.
            tuples_answered=pl.coalesce("tuples_answered", pl.col("last_answered").is_not_null().cast(pl.Int64)),
            tuples_small_reply=pl.coalesce(
                "tuples_small_reply",
                (pl.col("last_answered").is_not_null() & (pl.col("bytes_received") < SMALL_REPLY_BYTES)).cast(pl.Int64),
            ),
        )
        .group_by(*WORKLOAD, "dst_ip", "dst_port", "protocol", "dst_place")
        .agg(
            flows_of(allowed).alias("flows"),
            pl.col("flows_denied").sum(),
            pl.col("last_answered").max(),
            pl.col("last_unanswered").filter(at_source).max(),
            pl.col("last_seen").filter(denied).max().alias("last_denied"),
            # The rollup keeps when traffic without an answer was last; its hour's first traffic is the nearest to when first.
            pl.col("first_seen").filter(denied).min().alias("first_denied"),
            pl.col("first_traffic")
            .filter(at_source & pl.col("last_unanswered").is_not_null())
            .min()
            .alias("first_unanswered"),
            pl.col("first_traffic").filter(pl.col("last_answered").is_not_null()).min().alias("first_answered"),
            pl.col("tuples_answered").sum(),
            pl.col("tuples_small_reply").sum(),
            pl.col("flows_started").filter(allowed).sum(),
            # Without states nothing tells whether traffic followed.
            pl.col("last_seen").filter(allowed & ~traffic & ~at_hop & ~stateless()).max().alias("last_begun"),
            at_hop.any().alias("at_hop"),
            ((pl.col("dst_place") == INTERNAL) & pl.col("dst_nic").is_null()).all().alias("unseen"),
            # The rule that denied last decides whom to ask; equal times fall back to the name, so runs are identical.
            deciding.filter(denied)
            .sort_by(pl.col("last_seen").filter(denied), deciding.filter(denied))
            .last()
            .alias("by"),
            pl.col("far_rule", "far_acl", "far_kind").drop_nulls().min(),
        )
        .collect(engine="streaming")
        .unnest("by")
        .with_columns(status=_status())
        .with_columns(
            acl_rule=pl.when(pl.col("status") == "Denied at destination").then("far_rule").otherwise("acl_rule"),
            acl_id=pl.when(pl.col("status") == "Denied at destination").then("far_acl").otherwise("acl_id"),
            acl_kind=pl.when(pl.col("status") == "Denied at destination").then("far_kind").otherwise("acl_kind"),
            attempts=pl.col("flows") + pl.col("flows_denied"),
            first_failure=pl.min_horizontal(_failures("first")),
            last_failure=pl.max_horizontal(_failures("last")),
        )
    )


def _failures(edge: str) -> list[pl.Expr]:
    """When an attempt was ``first`` or ``last`` denied, without an answer where there never was one, or answered without data."""
    return [
        pl.col(f"{edge}_denied"),
        pl.when(pl.col("last_answered").is_null()).then(f"{edge}_unanswered"),
        pl.when(pl.col("status") == "Answered without data").then(f"{edge}_answered"),
    ]


def _denied_inbound(views: pl.LazyFrame) -> pl.DataFrame:
    """What the destination's own NIC logged as denied: the rule that the source cannot see."""
    deciding = pl.struct(far_rule=rule_name(), far_acl=pl.col("acl_id"), far_kind=rule_kind())
    return (
        # A scan from outside is denied thousands of times at one NIC, and no attempt of an internal address.
        views.filter(
            pl.col("src_place") == INTERNAL, pl.col("view") == "destination", pl.col("flow_status") == "Denied"
        )
        .group_by("src_ip", "dst_vnet", "dst_ip", "dst_port", "protocol")
        .agg(deciding.sort_by("last_seen", deciding).last().alias("far"))
        .collect(engine="streaming")
        .unnest("far")
    )


def _status() -> pl.Expr:
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
        & (pl.col("protocol") == TCP)
        & pl.col("dst_port").is_in(list(TLS_PORTS)).fill_null(False)
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
        .when(pl.col("last_begun").is_not_null())
        .then(pl.lit("Pending"))
        .otherwise(pl.lit("Cannot tell"))
    )
