"""Countries of public addresses, as Traffic Analytics tells them: one in each row, of all addresses that the row lists."""

from __future__ import annotations

import polars as pl

from flowlens import schema

COUNTRY = "Country"
"""Two letters, in lower case in real rows; of external addresses only (Azure documentation, NTANetAnalytics, 2026-07)."""
COUNTRIES = pl.Schema({"address": pl.String(), "country": pl.String()})


def countries_of(lines: pl.DataFrame) -> pl.DataFrame:
    """Addresses with their country in capitals, each pair once; ``lines`` have one address on either side.

    The address is that of the side that was unpacked from a list; where none was (a malicious peer stands alone) that of the
    far side. Text that is no country is left out.

    >>> line = {"src_ip": "10.0.0.4", "dst_ip": "203.0.113.7", "direction": "Outbound", "unpacked": "Dest", "Country": "nl"}
    >>> countries_of(pl.DataFrame([line])).rows()
    [('203.0.113.7', 'NL')]
    """
    outbound = pl.col("direction") == schema.DIRECTION_NAME["O"]
    source = pl.when(pl.col("unpacked").is_null()).then(~outbound).otherwise(pl.col("unpacked") == "Src")
    return (
        lines.filter(pl.col(COUNTRY).str.contains("^[A-Za-z]{2}$"))
        .select(
            pl.when(source).then("src_ip").otherwise("dst_ip").alias("address"),
            pl.col(COUNTRY).str.to_uppercase().alias("country"),
        )
        .unique()
        .drop_nulls()
        .cast(pl.String)
    )


def one_each(told: list[pl.DataFrame]) -> pl.DataFrame:
    """One row per address; where several countries were told of one, the first by the alphabet, so that runs agree.

    >>> one_each([pl.DataFrame({"address": ["203.0.113.7"] * 2, "country": ["NL", "DE"]})]).rows()
    [('203.0.113.7', 'DE')]
    """
    return pl.concat([pl.DataFrame(schema=COUNTRIES), *told]).group_by("address").agg(pl.col("country").min())
