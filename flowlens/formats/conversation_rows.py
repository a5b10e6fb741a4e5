"""What kql/conversations.kql answers: CONVERSATIONS made in the workspace, with what its rows tell of addresses.

The columns of the contract bear its names, those that only tell of addresses the names of NTANetAnalytics.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from flowlens.evidence import REJECTS_KEPT, Ledger, Reject, sample
from flowlens.formats.countries import COUNTRY, countries_of
from flowlens.formats.traffic_analytics import ROWS, DecodedRows, canonical, inventory_of, unknown_words

NOT_KEPT = (
    *("reply_from_port", "flow_tuples", "flows_restarted"),
    *("tuples_answered", "tuples_unanswered", "tuples_small_reply"),
)
"""Columns of CONVERSATIONS that Traffic Analytics cannot fill: null, never 0."""

_FILLED = tuple(name for name in ROWS if name not in NOT_KEPT)
_SIDE = ("Subscription", "Nic", "Vm", "Subnet", "LoadBalancer", "ApplicationGateway", "LocalNetworkGateway")
_TOLD = ("FlowType", *(side + name for side in ("Src", "Dest") for name in _SIDE), "PrivateEndpointResourceId", COUNTRY)
COLUMNS = ("hour", *_FILLED, "problem", "table_rows", "unpacked", *_TOLD)
"""What an answer holds, in any order; ``hour`` is where its bucket begins, by the query's own width of a bucket."""

# As the query says it of an entry; its other problems are those of a row.
_BROKEN = "a broken public address"


def convert_conversations(rows: pa.Table | pl.DataFrame, *, where: str) -> DecodedRows:
    """Rows of an answer to kql/conversations.kql as an export of the same rows would give them, intervals of a bucket in one.

    Times must be UTC, counts integers. Rows that the query marked with a ``problem``, and those with an address that is none,
    are rejected and counted; ``where`` names the answer in them. In the ledger records are rows of the table, and tuples the lines
    that they hold: entries of public addresses, else one. Raises ValueError for a missing column, which is a fault of the query.

    >>> convert_conversations(pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String)), where="w").ledger.records
    0
    """
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(pl.from_arrow(rows))
    lacking = [name for name in COLUMNS if name not in frame.columns]
    if lacking:
        raise ValueError(f"the answer lacks {', '.join(lacking)}")
    types = {**ROWS, "table_rows": pl.Int64()}
    frame = frame.select(pl.col(name).cast(types.get(name, pl.String())) for name in COLUMNS if name != "hour")
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    # The language has no null text: what is empty is not there.
    frame = frame.with_columns(pl.when(pl.col(name) != "").then(name).alias(name) for name in texts)
    known = frame.with_columns(canonical(frame[name]).alias(name) for name in ("src_ip", "dst_ip"))
    addressed = pl.col("src_ip").is_not_null() & pl.col("dst_ip").is_not_null()
    is_good = (pl.col("problem").is_null() & addressed).fill_null(False)
    # Of a row with several entries one may be broken; whatever else is wrong is wrong of the row.
    opposite = pl.when(pl.col("unpacked") == "Src").then("dst_ip").when(pl.col("unpacked") == "Dest").then("src_ip")
    is_entry = opposite.is_not_null() & (pl.col("problem").fill_null(_BROKEN) == _BROKEN)
    good, entry = (known.select(which).to_series() for which in (is_good, is_entry))
    kept, broken, bad = known.filter(good), frame.filter(~good & entry), frame.filter(~good & ~entry)
    reason = pl.coalesce("problem", pl.when(entry).then(pl.lit(_BROKEN)).otherwise(pl.lit("expected two addresses")))
    parties = pl.concat_str(pl.col("src_ip", "dst_ip").fill_null(""), separator=" to ")
    shown = frame.with_columns(reason.alias("reason"), parties.alias("parties")).filter(~good).head(REJECTS_KEPT)
    rejected = int(broken["lines"].sum())
    whole = int(kept["lines"].sum())
    ledger = Ledger(
        records=int(frame["table_rows"].sum()),
        tuples=whole + rejected,
        rows=whole,
        rejected=rejected,
        rejected_records=int(bad["table_rows"].sum()),
        unknown_codes=unknown_words(kept.with_columns(MacAddress=pl.lit(None, pl.String))),
        rejects=tuple(
            Reject(where, at, f"{reason} ({count} line(s))", sample(parties))
            for at, (count, reason, parties) in enumerate(shown.select("lines", "reason", "parties").iter_rows())
        ),
    )
    conversations = kept.select(
        (pl.col(name) if name in _FILLED else pl.lit(None)).cast(dtype).alias(name) for name, dtype in ROWS.items()
    )
    return DecodedRows(conversations, _inventory(kept), ledger, countries_of(kept))


def _inventory(rows: pl.DataFrame) -> pl.DataFrame:
    """What the rows tell of the addresses that did not stand in a list."""
    unpacked = pl.col("unpacked").fill_null("")
    return inventory_of(
        rows.with_columns(
            pl.when(unpacked != "Src").then("src_ip").alias("SrcIp"),
            pl.when(unpacked != "Dest").then("dst_ip").alias("DestIp"),
        )
    )
