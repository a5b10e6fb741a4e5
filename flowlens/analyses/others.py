"""Tables that stay readable when there are millions of rows: the largest as they are, all others added up, none left out."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from flowlens.analyses.tables import null_sum, slim

MOST_DESTINATIONS = 100_000
"""Destinations listed one by one; a scan of the Internet meets millions, which nobody reads and no memory holds."""
_KEY = ["vnet", "subnet", "workload", "dst_ip", "dst_port", "protocol"]
_ALIKE = ["vnet", "subnet", "workload", "protocol", "service_tag", "region", "owner", "country", "is_new", "reason"]
"""What the others that share a row have in common."""


def largest_and_others(parts: Iterable[pl.DataFrame], most: int = MOST_DESTINATIONS) -> pl.DataFrame:
    """The rows of unexpected_destinations that come in ``parts``, each destination in one of them.

    Of more than ``most`` the new ones and those with most bytes stay as they are. The others are added up by workload,
    protocol, service tag, owner and country: address and port are null there, and ``destinations`` says of how many a row is. Which
    ones stay does not depend on how the rows come in parts.
    """
    kept: list[pl.DataFrame] = []
    others: list[pl.DataFrame] = []
    held = 0
    for part in parts:
        kept.append(part)
        held += part.height
        if held > 2 * most:
            kept, others, held = _cut(kept, others, most)
    if held > most:
        kept, others, held = _cut(kept, others, most)
    return pl.concat([*kept, *others])


def _cut(
    kept: list[pl.DataFrame], others: list[pl.DataFrame], most: int
) -> tuple[list[pl.DataFrame], list[pl.DataFrame], int]:
    """The largest of the rows, the others added to those before, and how many rows are kept."""
    carried = pl.sum_horizontal("bytes_sent", "bytes_received")
    order = [pl.col("is_new"), carried, pl.col("flows"), *map(pl.col, _KEY)]
    backwards = [True, True, True, *(False for _ in _KEY)]
    rows = pl.concat(kept).sort(order, descending=backwards, nulls_last=True)
    return [slim(rows.head(most))], [_added([*others, rows.slice(most)])], most


def _added(rows: list[pl.DataFrame]) -> pl.DataFrame:
    together = pl.concat(rows)
    return slim(
        together.group_by(_ALIKE)
        .agg(
            pl.col("flows", "destinations").sum(),
            *(null_sum(pl.col(name)).alias(name) for name in ("bytes_sent", "bytes_received")),
            pl.col("first_seen").min(),
            pl.col("last_seen").max(),
        )
        .with_columns(dst_ip=pl.lit(None, pl.String), dst_port=pl.lit(None, together.schema["dst_port"]))
        .select(together.columns)
    )
