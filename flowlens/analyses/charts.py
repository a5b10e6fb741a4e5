"""What a page draws: a report's tables and evidence, added up for a picture.

A picture shows at most what an eye can tell apart. What it leaves out is counted, and stands in the table beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from flowlens import schema
from flowlens.analyses.encryption import SAME_HOST, TURNED, judged
from flowlens.analyses.tables import both_ways, condensed, null_sum, told_apart
from flowlens.evidence import Scan

NICS_DRAWN = 30
COLUMNS_DRAWN = 168
"""Hours of a coverage heat map that stand on their own: a week; beyond that several share a column."""
MATRIX_DRAWN = 24, 16
"""Rows and columns of a matrix: more than these nobody takes in at once."""
TILES_DRAWN = 30
OTHERS = "others"
TAGGED, UNTAGGED, OWNED = "in a service tag", "in no service tag", "owner known"
"""How a destination was named; from the one that asks fewest questions to the one that asks most comes last."""

_BY_HOUR = pl.Schema(
    {
        "hour": pl.Datetime("us", "UTC"),
        "bytes_encrypted": pl.Int64(),
        "bytes_unencrypted": pl.Int64(),
        "flows_dropped": pl.Int64(),
    }
)
_RUNS = pl.Schema(
    {
        "nic": pl.String(),
        "flow_log": pl.String(),
        "state": pl.String(),
        "start": pl.Datetime("us", "UTC"),
        "end": pl.Datetime("us", "UTC"),
        "gaps": pl.Int64(),
        "step": pl.Int64(),
    }
)
_MATRIX = pl.Schema(
    {
        "source": pl.String(),
        "target": pl.String(),
        "encryption_status": pl.String(),
        "pairs": pl.Int64(),
        "dropped": pl.Int64(),
        "bytes_encrypted": pl.Int64(),
        "bytes_unencrypted": pl.Int64(),
    }
)
_NOWHERE = "unknown"
_WORST_FIRST = ("failed", "missing", "partly read", "open", "silent", "empty", "read")
_STEPS = (1, 2, 3, 4, 6, 8, 12, 24)


def charts_of(scan: Scan, tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.LazyFrame]:
    """What there is to draw of a report's ``tables``, each computed only when it is collected.

    >>> import flowlens as fl
    >>> sorted(fl.report(fl.scan("sample_logs"), questions=["coverage"]).charts)
    ['coverage_runs']
    """
    charts: dict[str, pl.LazyFrame] = {}
    if (pairs := tables.get("encryption_status")) is not None:
        charts["encryption_by_hour"] = pl.defer(lambda: encryption_by_hour(scan), schema=_BY_HOUR)
        charts["encryption_turns"] = encryption_turns(pairs.lazy())
        charts["encryption_vnets"] = encryption_vnets(pairs.lazy())
        charts["encryption_matrix"] = encryption_matrix(pairs.lazy())
    if (egress := tables.get("denied_egress")) is not None:
        charts["egress_grid"] = egress_grid(egress.lazy())
    if (found := tables.get("unexpected_destinations")) is not None:
        charts["destination_groups"] = destination_groups(found.lazy())
        charts["destination_countries"] = destination_countries(found.lazy())
    if (hours := tables.get("coverage")) is not None:
        charts["coverage_runs"] = pl.defer(lambda: coverage_runs(hours), schema=_RUNS)
    return charts


def encryption_by_hour(scan: Scan) -> pl.DataFrame:
    """Bytes both ways between VMs that can encrypt, by full hour (UTC) and whether they were, and flows dropped for it.

    Bytes add up to those of the eligible pairs of encryption_status. An hour without such traffic has no row; bytes are
    null where nothing was counted.

    >>> import flowlens as fl
    >>> encryption_by_hour(fl.scan("sample_logs")).columns
    ['hour', 'bytes_encrypted', 'bytes_unencrypted', 'flows_dropped']
    """

    def eligible(part: pl.LazyFrame) -> pl.LazyFrame:
        return (
            judged(part)
            .filter(pl.col("peer") == "eligible", pl.col("counted"), pl.col("kind") != SAME_HOST)
            .with_columns(hour=pl.col("hour").dt.truncate("1h"))
        )

    rows = condensed(scan.evidence.parts, eligible, ["hour", "kind"]).with_columns(bytes=both_ways())
    dropped = pl.col("kind") == "Dropped"
    return (
        rows.group_by("hour")
        .agg(
            *(
                pl.when(pl.col("bytes").count() > 0)
                .then(pl.col("bytes").filter(pl.col("kind") == kind).sum())
                .alias(f"bytes_{kind.lower()}")
                for kind in ("Encrypted", "Unencrypted")
            ),
            flows_dropped=pl.max_horizontal(
                pl.col("flows_denied").filter(dropped).sum() + pl.col("flows_started").filter(dropped).sum(),
                dropped.any().cast(pl.Int64),
            ),
        )
        .sort("hour")
        .select(pl.col(name).cast(kind) for name, kind in _BY_HOUR.items())
        .collect()
    )


def encryption_turns(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """When pairs of encryption_status turned from clear to encrypted: full hour (UTC) of the first encrypted flow, pairs.

    >>> import flowlens as fl
    >>> table = fl.encryption_status(fl.scan("sample_logs"))
    >>> encryption_turns(table).collect()["pairs"].sum()
    4
    """
    turned = pairs.filter(pl.col("advice") == TURNED, pl.col("eligibility") == "eligible")
    return turned.group_by(hour=pl.col("first_encrypted").dt.truncate("1h")).agg(pairs=pl.len()).sort("hour")


def encryption_matrix(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """Pairs of encryption_status that can be encrypted, by the subnets of both ends, those that are worst first.

    Columns: source and target (what tells the subnets apart), encryption_status (that of all the cell's pairs, else Mixed),
    pairs, dropped (pairs of it), bytes_encrypted, bytes_unencrypted (null where there are no counters). Beyond MATRIX_DRAWN subnets are one row and
    one column of others, which hold what all of them add up to.

    >>> import flowlens as fl
    >>> encryption_matrix(fl.encryption_status(fl.scan("sample_logs"))).collect()["pairs"].sum()
    10
    """
    return pl.defer(lambda: _matrix(pairs.collect(), subnets=True), schema=_MATRIX)


def encryption_vnets(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """What encryption_matrix tells, by the VNets of both ends; no row where all are of one VNet.

    >>> import flowlens as fl
    >>> encryption_vnets(fl.encryption_status(fl.scan("sample_logs"))).collect()["source"].unique().sort().to_list()
    ['vnet-app', 'vnet-data']
    """
    return pl.defer(lambda: _matrix(pairs.collect(), subnets=False), schema=_MATRIX)


def _matrix(pairs: pl.DataFrame, *, subnets: bool) -> pl.DataFrame:
    found = pairs.filter(pl.col("eligibility") == "eligible")
    vnets = pl.concat([found["vnet"], found["dst_vnet"]]).unique()
    several = len(vnets) > 1
    if not (subnets or several):
        return pl.DataFrame(schema=_MATRIX)
    names = told_apart(vnets.drop_nulls())

    def end(vnet: str, subnet: str) -> pl.Expr:
        of = pl.col(vnet).replace_strict(names, default=None, return_dtype=pl.String).fill_null(_NOWHERE)
        place = pl.col(subnet).fill_null(_NOWHERE)
        return of if not subnets else pl.concat_str(of, place, separator="/") if several else place

    placed = found.with_columns(source=end("vnet", "src_subnet"), target=end("dst_vnet", "dst_subnet"))
    cells = _added_up(placed)
    sources = cells["source"].unique(maintain_order=True)
    drawn = cells.filter(pl.col("source").is_in(_first(sources, MATRIX_DRAWN[0])))
    targets = pl.concat([drawn["target"], cells["target"]]).unique(maintain_order=True)
    folded = {
        name: {label: f"{len(labels) - len(kept)} {OTHERS}" for label in set(labels) - set(kept)}
        for name, labels, limit in (("source", sources, MATRIX_DRAWN[0]), ("target", targets, MATRIX_DRAWN[1]))
        for kept in [_first(labels, limit)]
    }
    if not any(folded.values()):
        return cells
    return _added_up(placed.with_columns(pl.col(name).replace(labels) for name, labels in folded.items()))


def _first(labels: pl.Series, limit: int) -> list[str]:
    """Those that stand for themselves; one row for a single other would gain nothing."""
    return labels.to_list() if len(labels) <= limit else labels.head(limit - 1).to_list()


def _added_up(placed: pl.DataFrame) -> pl.DataFrame:
    """Pairs by source and target, the worst cells first and those of others last."""
    status = pl.col("encryption_status")
    worst = {word: n for n, word in enumerate(("Dropped", "Unencrypted", "Mixed", "Unknown", "Encrypted"))}
    rank = status.replace_strict(worst, return_dtype=pl.Int32)
    return (
        placed.group_by("source", "target")
        .agg(
            pl.when(status.n_unique() == 1).then(status.first()).otherwise(pl.lit("Mixed")),
            pairs=pl.len().cast(pl.Int64),
            dropped=(status == "Dropped").sum().cast(pl.Int64),
            bytes_encrypted=null_sum(pl.col("bytes_encrypted")),
            bytes_unencrypted=null_sum(pl.col("bytes_unencrypted")),
        )
        .sort(
            pl.col("source").str.ends_with(f" {OTHERS}"),
            pl.col("dropped") == 0,
            rank,
            -pl.col("pairs"),
            "source",
            "target",
        )
    )


def egress_grid(table: pl.LazyFrame) -> pl.LazyFrame:
    """The worst status of denied_egress by requirement and workload, requirements with most failures first.

    Columns: profile, endpoint, protocol, port, vnet, workload, status, failing (workloads for which the requirement fails).

    >>> import flowlens as fl
    >>> egress_grid(fl.denied_egress(fl.scan("sample_logs"), profiles=["windows-kms"])).collect()["failing"].max()
    2
    """
    rank = {status: n for n, status in enumerate(schema.EGRESS_STATUSES)}
    order = pl.col("status").replace_strict(rank, default=len(rank), return_dtype=pl.Int32)
    requirement = ["profile", "endpoint", "protocol", "port"]
    failing = pl.col("status").is_in(schema.EGRESS_PROBLEMS).sum().over(requirement)
    return (
        table.group_by(*requirement, "vnet", "workload")
        .agg(pl.col("status").sort_by(order).first())
        .with_columns(failing=failing, worst=order.min().over(requirement))
        .sort(["failing", "worst", *requirement, "workload", "vnet"], descending=[True] + [False] * 7, nulls_last=True)
        .drop("worst")
    )


def destination_groups(table: pl.LazyFrame) -> pl.LazyFrame:
    """Destinations of unexpected_destinations by owner, else service tag, else address, the largest first.

    Columns: named (TAGGED, UNTAGGED or OWNED), group, region, country, addresses (of rows of others as many as destinations),
    workloads, flows, bytes (both ways; null where there are no counters), new (destinations that the baseline did not know; null
    without one).

    >>> import flowlens as fl
    >>> "203.0.113.77" in destination_groups(fl.unexpected_destinations(fl.scan("sample_logs"))).collect()["group"]
    True
    """
    named = (
        pl.when(pl.col("owner").is_not_null())
        .then(pl.lit(OWNED))
        .when(pl.col("service_tag").is_not_null())
        .then(pl.lit(TAGGED))
        .otherwise(pl.lit(UNTAGGED))
    )
    placed = table.with_columns(named=named, group=pl.coalesce("owner", "service_tag", "dst_ip", pl.lit(OTHERS)))
    return _destinations_by(placed, ["named", "group", "region", "country"])


def destination_countries(table: pl.LazyFrame) -> pl.LazyFrame:
    """Destinations of unexpected_destinations by country, the largest first; null is what nobody tells the country of.

    No row where no country is told. Columns: country, addresses, workloads, flows, bytes, new, as destination_groups has them.

    >>> import flowlens as fl
    >>> destination_countries(fl.unexpected_destinations(fl.scan("sample_logs"))).collect().height
    0
    """
    return _destinations_by(table.filter(pl.col("country").is_not_null().any()), ["country"])


def _destinations_by(table: pl.LazyFrame, key: list[str]) -> pl.LazyFrame:
    return (
        table.with_columns(bytes=both_ways())
        .group_by(key)
        .agg(
            addresses=pl.col("dst_ip").drop_nulls().n_unique().cast(pl.Int64)
            + pl.col("destinations").filter(pl.col("dst_ip").is_null()).sum(),
            workloads=pl.struct("vnet", "workload").n_unique().cast(pl.Int64),
            flows=pl.col("flows").sum(),
            bytes=null_sum(pl.col("bytes")),
            new=null_sum(pl.col("is_new").cast(pl.Int64) * pl.col("destinations")),
        )
        .sort("bytes", "flows", *key, descending=[True, True, *(False for _ in key)], nulls_last=True)
    )


def coverage_runs(coverage: pl.DataFrame) -> pl.DataFrame:
    """Runs of hours in one state by NIC and flow log, those with most gaps first; at most NICS_DRAWN of them.

    Columns: nic, flow_log (last part of its id), state, start and end (UTC, half-open), gaps (hours of the row that were not
    read), step (hours that share a column, whose worst state is told).

    >>> import flowlens as fl
    >>> coverage_runs(fl.coverage(fl.scan("sample_logs")).collect()).filter(state="missing").height
    1
    """
    if coverage.is_empty():
        return pl.DataFrame(schema=_RUNS)
    row = ["flow_log_id", "target_resource_id", "mac_address", "workload"]
    ages = (pl.col("hour") - pl.col("hour").min()).dt.total_hours()
    hours = int(coverage.select(ages.max()).item()) + 1
    step = next((step for step in _STEPS if hours <= step * COLUMNS_DRAWN), -(-hours // COLUMNS_DRAWN))
    width = pl.duration(hours=step)
    order = pl.col("state").replace_strict({state: n for n, state in enumerate(_WORST_FIRST)}, return_dtype=pl.Int32)
    gap = ~pl.col("state").is_in(["read", "empty", "silent"])
    hourly = coverage.lazy().with_columns(
        # From the first hour on, so that the columns of every row begin at the same times.
        start=pl.col("hour").min() + ages // step * width,
        gaps=gap.sum().over(row).cast(pl.Int64),
        order=order,
    )
    drawn = (
        hourly.select(*row, "gaps")
        .unique()
        .sort("gaps", *row, descending=[True, *(False for _ in row)], nulls_last=True)
        .head(NICS_DRAWN)
        .with_row_index("row")
    )
    cells = (
        hourly.join(drawn.select(*row, "row"), on=row, nulls_equal=True)
        .group_by("row", *row, "gaps", "start")
        .agg(pl.col("state").sort_by("order").first())
        .sort("row", "start")
    )
    breaks = (pl.col("state") != pl.col("state").shift()) | (pl.col("start").diff() != width)
    return (
        cells.with_columns(run=breaks.fill_null(True).cum_sum().over("row"))
        .group_by("row", *row, "gaps", "run", "state")
        .agg(start=pl.col("start").min(), end=pl.col("start").max() + width)
        .sort("row", "start")
        .select(
            nic=pl.coalesce("workload", "mac_address", pl.lit("")),
            flow_log=pl.col("flow_log_id").str.split("/").list.last(),
            state="state",
            start="start",
            end="end",
            gaps="gaps",
            step=pl.lit(step, pl.Int64),
        )
        .collect()
    )
