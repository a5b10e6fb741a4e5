"""Flows that were restarted, whose counters may go on where the former flow's ended."""

from __future__ import annotations

import polars as pl

from flowlens import schema

FLOW = ["mac_address", "target_resource_id", "direction", *schema.FIVE_TUPLE]
"""What a flow is, as one flow log on one resource tells it."""


def bytes_in_doubt(ends: pl.DataFrame) -> int:
    """Bytes that may be counted twice: an End, a Begin in its millisecond, then an End whose counters are all as large.

    Real data shows it where a flow that is re-created keeps its counters (formats.md 2.4). ``ends`` are the Ends of flows that
    were restarted; nothing is corrected, the bytes are only told. A NIC that several flow logs cover is judged once per flow.
    """
    grown = pl.all_horizontal(pl.col(c).shift(-1).over(FLOW) >= pl.col(c) for c in schema.COUNTERS)
    nic = pl.coalesce("mac_address", "target_resource_id").alias("nic")
    doubted = (
        ends.sort(*FLOW, "time", nulls_last=True)
        .filter(pl.col("restarted") & grown.fill_null(False))
        .group_by(FLOW)
        .agg(bytes=pl.col("bytes_sent").sum() + pl.col("bytes_received").sum())
        .group_by(nic, "direction", *schema.FIVE_TUPLE)
        .agg(pl.col("bytes").max())
    )
    return int(doubted["bytes"].sum())
