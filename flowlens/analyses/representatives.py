"""The few attempts that decide a status, of the many that a workload makes: for each requirement some of each kind.

A workload may try a million addresses of one service. Judging asks for no more than the earliest and the latest of each kind
and for sums, and both are the same whether they are taken of all attempts or of parts of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from flowlens import schema
from flowlens.analyses.attempts import WORKLOAD
from flowlens.analyses.judgement import ANSWERED, LISTED
from flowlens.analyses.needs import EXACT

REQUIREMENT = [*WORKLOAD, "requirement"]
"""What a status is of."""

_ORDER = [*REQUIREMENT, "dst_ip", "dst_port", "match", "endpoint"]
_TOLD = ["dst_port", "endpoint"]


def representatives(matched: pl.DataFrame) -> pl.DataFrame:
    """Of attempts tied to requirements those that ``judge`` needs, in a total order; the others change no status.

    An address that meets a requirement exactly speaks for that and not for its service too.
    """
    exact = pl.col("match").is_in(EXACT)
    matched = matched.with_columns(denied=pl.col("last_denied").is_not_null())
    own = matched.filter(exact)
    by_service = matched.filter(~exact).join(own, on=[*REQUIREMENT, "dst_ip"], how="anti", nulls_equal=True)
    failed = own.filter(pl.col("status").is_in(schema.EGRESS_PROBLEMS))
    group = [*REQUIREMENT, "match", "confidence", "status", "denied"]
    chosen = [
        # The best of the addresses, and the first of those that fail beside it.
        _first(own, [*REQUIREMENT, "status"], ["endpoint", "dst_ip", "dst_port"]),
        failed.unique([*REQUIREMENT, "dst_ip"], keep="any")
        .sort("dst_ip")
        .filter(pl.int_range(pl.len()).over(REQUIREMENT) < LISTED)
        .select(own.columns),
        # Of a service the latest success, the latest denial, the first and the last by address.
        _first(by_service, group, ["last_answered", "dst_ip", *_TOLD], descending=2),
        _first(by_service, group, ["last_denied", "dst_ip", *_TOLD], descending=2),
        _first(by_service, group, ["endpoint", "dst_ip", "dst_port"]),
        _first(by_service, group, ["dst_ip", *_TOLD], descending=1),
    ]
    return pl.concat(chosen).drop("denied").unique().sort(_ORDER, nulls_last=True)


def _first(rows: pl.DataFrame, group: Sequence[str], order: Sequence[str], *, descending: int = 0) -> pl.DataFrame:
    """The first row of each group; the first ``descending`` columns of the order run backwards, nulls come last."""
    backwards = [n < descending for n in range(len(order))]
    first = pl.col("row").sort_by(order, descending=backwards, nulls_last=True).first()
    chosen = rows.with_row_index("row").group_by(group).agg(first)["row"]
    return rows[chosen]


def totals_of(matched: pl.DataFrame) -> pl.DataFrame:
    """Sums over all attempts at a requirement: attempts, last_success, first_failure, last_failure, failed (addresses that
    fail exactly).
    """
    failing = pl.col("match").is_in(EXACT) & pl.col("status").is_in(schema.EGRESS_PROBLEMS)
    # One flow may meet a requirement by several endpoints and counts once.
    once = matched.unique([*REQUIREMENT, "dst_ip", "dst_port", "protocol"], keep="any")
    sums = once.group_by(REQUIREMENT).agg(
        pl.col("attempts").sum(),
        last_success=pl.col("last_answered").filter(pl.col("status").is_in(ANSWERED)).max(),
        first_failure=pl.col("first_failure").min(),
        last_failure=pl.col("last_failure").max(),
    )
    failed = matched.filter(failing).group_by(REQUIREMENT).agg(failed=pl.col("dst_ip").n_unique().cast(pl.Int64))
    return sums.join(failed, on=REQUIREMENT, how="left", nulls_equal=True).with_columns(pl.col("failed").fill_null(0))


def added(totals: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The totals of parts that share no destination, as one."""
    return (
        pl.concat(totals)
        .group_by(REQUIREMENT)
        .agg(
            pl.col("attempts", "failed").sum(),
            pl.col("first_failure").min(),
            pl.col("last_success", "last_failure").max(),
        )
    )
