"""Coverage: which hours of which NIC were there to read.

A NIC-hour without a blob is *silent*, unless another NIC logged a flow with it in that hour, or the whole flow log has a
gap: then it is *missing*. Only a NIC-hour whose blob was read is covered. The current hour is *open*. The hours that a NIC
is expected to have are those of the window for every NIC that any blob tells of, also one outside the window.
"""

from __future__ import annotations

import datetime as dt

import polars as pl

from flowlens import schema
from flowlens.errors import SourceError
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
PRESENT = dt.timedelta(days=31)
"""How long ago a window may start and, with an open end, still be a question about the present, which ends now."""
MOST = 10_000_000
"""NIC-hours that a run tells of: 1,100 NICs for a year. They take some 5 GB, and a window that begins in 1970 would take all there is."""

_WORST_FIRST = ("failed", "partly read", "read", "empty")


def coverage(
    read: pl.DataFrame, mentions: pl.DataFrame, inventory: Inventory, window: Window, now: dt.datetime
) -> pl.DataFrame:
    """The coverage table: ``read`` NIC-hours (schema READ) and those that should be there and are not.

    ``mentions`` (mac_address, hour, told_by) are NIC-hours of which another NIC logged a flow. Without a window each flow log
    is judged from its first to its last hour, and beyond where another NIC's log of that very hour mentions a logged NIC
    that has no log of it. Raises SourceError for a window of more than `MOST` NIC-hours.
    """
    nics = _numbered(read)
    order = pl.col("state").replace_strict({s: n for n, s in enumerate(_WORST_FIRST)}, return_dtype=pl.Int32)
    by_number = read.join(nics, on=NIC, nulls_equal=True).select("nic", "log", "hour", "state", "tuples", "rejected")
    seen = (
        by_number.filter(_hour_touches(window))
        .with_columns(order=order)
        .sort("order")
        .group_by("nic", "hour")
        .agg(pl.col("log").first(), pl.col("state").first(), pl.col("tuples").sum(), pl.col("rejected").sum())
        # An hour of which one blob was empty and another read is read.
        .with_columns(
            state=pl.when((pl.col("state") == "empty") & (pl.col("tuples") > 0)).then(pl.lit("read")).otherwise("state")
        )
    )
    this_hour = now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    asked = [
        _grid(by_number, nics, window, this_hour),
        _mentioned(by_number, nics, mentions),
        seen.select("nic", "hour"),
    ]
    rows = (
        pl.concat(asked)
        .filter(_hour_touches(window))
        .unique()
        .sort("nic", "hour", nulls_last=True)
        .join(seen.drop("log"), on=["nic", "hour"], how="left", nulls_equal=True, maintain_order="left")
        .join(nics.select("nic", "log"), on="nic", how="left", maintain_order="left")
    )
    log_hours = seen.select("log", "hour").unique().with_columns(log_has=pl.lit(True))
    told = _of_nics(mentions.select("mac_address", "hour"), nics).unique().with_columns(mentioned=pl.lit(True))
    absent = (
        pl.when(pl.col("hour") >= this_hour)
        .then(pl.lit("open"))
        .when(pl.col("mentioned").is_not_null() | pl.col("log_has").is_null())
        .then(pl.lit("missing"))
        .otherwise(pl.lit("silent"))
    )
    named = nics.join(
        inventory.nics.select("mac_address", "workload"), on="mac_address", how="left", maintain_order="left"
    )
    return (
        rows.join(log_hours, on=["log", "hour"], how="left", nulls_equal=True, maintain_order="left")
        .join(told, on=["nic", "hour"], how="left", maintain_order="left")
        .select(
            "nic",
            "hour",
            state=pl.when(pl.col("state").is_null())
            .then(absent)
            .when((pl.col("hour") >= this_hour) & (pl.col("state") != "failed"))
            .then(pl.lit("open"))
            .otherwise("state"),
            tuples=pl.col("tuples").fill_null(0),
            rejected=pl.col("rejected").fill_null(0),
        )
        .join(named, on="nic", how="left", maintain_order="left")
        .select(list(SCHEMA))
    )


def _numbered(read: pl.DataFrame) -> pl.DataFrame:
    """Each NIC of a flow log with a number, ``nic``, in the order of the table, and its flow log's: rows of numbers take little."""
    return (
        read.select(NIC)
        .unique()
        .sort(NIC, nulls_last=True)
        .with_row_index("nic")
        .with_columns(log=pl.col("flow_log_id").rank("dense").fill_null(0))
    )


def _of_nics(rows: pl.DataFrame, nics: pl.DataFrame) -> pl.DataFrame:
    """Hours of MAC addresses as hours of the NICs that have them."""
    return rows.join(nics.select("nic", "mac_address"), on="mac_address").select("nic", "hour")


def _hour_touches(window: Window) -> pl.Expr:
    """Whether the hour that begins at ``hour`` holds any time of the window."""
    touches = pl.lit(True)
    if window.start is not None:
        touches &= pl.col("hour") + pl.duration(hours=1) > window.start
    if window.end is not None:
        touches &= pl.col("hour") < window.end
    return touches


def _grid(read: pl.DataFrame, nics: pl.DataFrame, window: Window, this_hour: dt.datetime) -> pl.DataFrame:
    """Every hour that each NIC of a flow log is expected to have.

    A window that is open at its end reaches to the last full hour before now where it starts in the present, so that logging
    that stopped is seen; else to the last hour of any flow log, since an archive does not go on, and years without a blob
    would say nothing.
    """
    spans = read.group_by("log").agg(first=pl.col("hour").min(), last=pl.col("hour").max())
    if window.start is not None:
        spans = spans.with_columns(
            first=pl.lit(window.start, SCHEMA["hour"]).dt.truncate("1h"), last=pl.col("last").max()
        )
        if window.start >= this_hour - PRESENT:
            before = pl.lit(this_hour - dt.timedelta(hours=1), SCHEMA["hour"])
            spans = spans.with_columns(last=pl.max_horizontal("last", before))
    if window.end is not None:
        last = pl.lit(window.end, SCHEMA["hour"]) - pl.duration(microseconds=1)
        spans = spans.with_columns(last=last.dt.truncate("1h"))
    spans = spans.filter(pl.col("first") <= pl.col("last"))
    counted = nics.join(spans, on="log")
    asked = counted.select(((pl.col("last") - pl.col("first")).dt.total_hours() + 1).sum()).item()
    if asked > MOST:
        edges = counted.select(pl.col("first").min(), pl.col("last").max()).row(0)
        begins, ends = (f"{edge:%Y-%m-%dT%H}:00Z" for edge in edges)
        raise SourceError(
            "coverage",
            f"from {begins} to {ends} are {asked:,} NIC-hours, and at most {MOST:,} are told one by one",
            hint="ask for a shorter window, such as --window last-month",
        )
    hours = (
        spans.with_columns(hour=pl.datetime_ranges("first", "last", interval="1h"))
        .select("log", "hour")
        .explode("hour")
    )
    return nics.select("nic", "log").join(hours, on="log").select("nic", "hour")


def _mentioned(read: pl.DataFrame, nics: pl.DataFrame, mentions: pl.DataFrame) -> pl.DataFrame:
    """Hours of logged NICs that none of their flow logs holds, although another NIC's log of that very hour tells of a flow.

    A late tuple in the blob of the next hour is no such mention: the first blobs of every archive hold some.
    """
    logged = read.join(nics.select("nic", "mac_address"), on="nic").select("mac_address", "hour").unique()
    told = (
        mentions.join(logged, left_on=["told_by", "hour"], right_on=["mac_address", "hour"], how="semi")
        .select("mac_address", "hour")
        .unique()
        .join(logged, on=["mac_address", "hour"], how="anti")
    )
    return _of_nics(told, nics)
