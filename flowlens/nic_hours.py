"""Coverage: which hours of which NIC were there to read.

A NIC-hour without a blob is *silent*, unless another NIC logged a flow with it in that hour, or the whole flow log has a
gap: then it is *missing*. Only a NIC-hour whose blob was read is covered. The current hour is *open*.
"""

from __future__ import annotations

import datetime as dt

import polars as pl

from flowlens import schema
from flowlens.evidence import Inventory, Window

SCHEMA = schema.polars_schema(schema.RESULTS["coverage"])
NIC = ["flow_log_id", "target_resource_id", "mac_address"]
READ = pl.Schema(
    [
        *((name, pl.String()) for name in NIC),
        ("hour", pl.Datetime("us", "UTC")),
        ("state", pl.String()),
        ("tuples", pl.Int64()),
        ("rejected", pl.Int64()),
        ("root", pl.String()),
    ]
)
"""What a scan notes of each NIC-hour that it read or failed to read; ``root`` is the flow log as the blob's path names it."""
COVERED = ("read", "partly read", "empty")

_WORST_FIRST = ("failed", "partly read", "read", "empty")


def coverage(
    read: pl.DataFrame, mentions: pl.DataFrame, inventory: Inventory, window: Window, now: dt.datetime
) -> pl.DataFrame:
    """The coverage table: ``read`` NIC-hours (schema READ) and those that should be there and are not.

    ``mentions`` (mac_address, hour) are NIC-hours of which another NIC logged a flow. Without a window each flow log is
    judged from its first to its last hour.
    """
    order = pl.col("state").replace_strict({s: n for n, s in enumerate(_WORST_FIRST)}, return_dtype=pl.Int32)
    seen = (
        read.filter(_hour_touches(window))
        .with_columns(order=order)
        .sort("order")
        .group_by(*NIC, "hour")
        .agg(pl.col("state").first(), pl.col("tuples").sum(), pl.col("rejected").sum())
        # An hour of which one blob was empty and another read is read.
        .with_columns(
            state=pl.when((pl.col("state") == "empty") & (pl.col("tuples") > 0)).then(pl.lit("read")).otherwise("state")
        )
    )
    grid = _grid(seen, window)
    rows = (
        pl.concat([grid, seen.select(*NIC, "hour")])
        .unique()
        .join(seen, on=[*NIC, "hour"], how="left", nulls_equal=True)
    )
    log_hours = seen.select("flow_log_id", "hour").unique().with_columns(log_has=pl.lit(True))
    told = mentions.unique().with_columns(mentioned=pl.lit(True))
    this_hour = now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    absent = (
        pl.when(pl.col("hour") >= this_hour)
        .then(pl.lit("open"))
        .when(pl.col("mentioned").is_not_null() | pl.col("log_has").is_null())
        .then(pl.lit("missing"))
        .otherwise(pl.lit("silent"))
    )
    named = inventory.nics.select("mac_address", "workload")
    return (
        rows.join(log_hours, on=["flow_log_id", "hour"], how="left", nulls_equal=True)
        .join(told, on=["mac_address", "hour"], how="left")
        .with_columns(
            state=pl.when(pl.col("state").is_null())
            .then(absent)
            .when((pl.col("hour") >= this_hour) & (pl.col("state") != "failed"))
            .then(pl.lit("open"))
            .otherwise("state"),
            tuples=pl.col("tuples").fill_null(0),
            rejected=pl.col("rejected").fill_null(0),
        )
        .join(named, on="mac_address", how="left")
        .select(list(SCHEMA))
        .sort(*NIC, "hour", nulls_last=True)
    )


def _hour_touches(window: Window) -> pl.Expr:
    """Whether the hour that begins at ``hour`` holds any time of the window."""
    touches = pl.lit(True)
    if window.start is not None:
        touches &= pl.col("hour") + pl.duration(hours=1) > window.start
    if window.end is not None:
        touches &= pl.col("hour") < window.end
    return touches


def _grid(seen: pl.DataFrame, window: Window) -> pl.DataFrame:
    """Every hour that each NIC of a flow log is expected to have."""
    spans = seen.group_by("flow_log_id").agg(first=pl.col("hour").min(), last=pl.col("hour").max())
    if window.start is not None:
        spans = spans.with_columns(first=pl.lit(window.start, SCHEMA["hour"]).dt.truncate("1h"))
    if window.end is not None:
        last = pl.lit(window.end, SCHEMA["hour"]) - pl.duration(microseconds=1)
        spans = spans.with_columns(last=last.dt.truncate("1h"))
    hours = (
        spans.filter(pl.col("first") <= pl.col("last"))
        .with_columns(hour=pl.datetime_ranges("first", "last", interval="1h"))
        .select("flow_log_id", "hour")
        .explode("hour")
    )
    nics = seen.select(NIC).unique()
    return nics.join(hours, on="flow_log_id", nulls_equal=True).select(*NIC, "hour")
