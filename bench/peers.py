"""What a user would pick instead, one way a process: ``python -m bench.peers NAME FOLDER WARM`` prints rows and sums as JSON.

With them go the CPU seconds of the work itself: each way first does the small folder WARM, so that starting Python and loading
libraries is left out. Each reads all blobs of the folder and gives the number of flow tuples and the bytes sent of Continuing and End tuples, so that
all can be checked against what the generator knows. ``*-decode`` makes a typed table of all tuples, ``*-rollup`` the
totals by hour, addresses, port, protocol, direction, state D or not, rule and code.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
"""All hours of the data are over by then."""
KEY = ["hour", "src", "dst", "dport", "proto", "dir", "denied", "rule", "code"]
NAMES = ["t", "src", "dst", "sport", "dport", "proto", "dir", "state", "code", "ps", "bs", "pr", "br"]


def _blobs(folder: str) -> Iterator[Path]:
    return iter(sorted(Path(folder).rglob("*.json")))


def _loops(loads: Callable[[bytes], dict[str, object]], folder: str) -> tuple[int, int]:
    rows, sent = 0, 0
    for path in _blobs(folder):
        for record in loads(path.read_bytes())["records"]:  # type: ignore[attr-defined]
            table = [
                (
                    int(f[0]),
                    f[1],
                    f[2],
                    int(f[3] or 0),
                    int(f[4] or 0),
                    int(f[5]),
                    f[6],
                    f[7],
                    f[8],
                    *(int(c or 0) for c in f[9:13]),
                )
                for flow in record["flowRecords"]["flows"]
                for group in flow["flowGroups"]
                for f in (text.split(",") for text in group["flowTuples"])
            ]
            rows += len(table)
            sent += sum(row[10] for row in table)
    return rows, sent


def stdlib_decode(folder: str) -> tuple[int, int]:
    """json and loops."""
    return _loops(json.loads, folder)


def orjson_decode(folder: str) -> tuple[int, int]:
    """orjson and loops."""
    import orjson

    return _loops(orjson.loads, folder)


def _polars_table(path: Path):  # type: ignore[no-untyped-def]
    import polars as pl

    groups = (
        pl.read_json(path)
        .lazy()
        .explode("records")
        .unnest("records")
        .select("macAddress", pl.col("flowRecords").struct.field("flows"))
        .explode("flows")
        .unnest("flows")
        .explode("flowGroups")
        .unnest("flowGroups")
        .explode("flowTuples")
    )
    fields = pl.col("flowTuples").str.split_exact(",", len(NAMES) - 1).struct.rename_fields(NAMES)
    numbers = [pl.col(n).cast(pl.Int64, strict=False) for n in ("t", "sport", "dport", "proto", "ps", "bs", "pr", "br")]
    return groups.with_columns(f=fields).drop("flowTuples").unnest("f").with_columns(numbers)


def polars_decode(folder: str) -> tuple[int, int]:
    """polars read_json, explode and split_exact."""
    rows, sent = 0, 0
    for path in _blobs(folder):
        table = _polars_table(path).collect()
        rows += table.height
        sent += table["bs"].sum()
    return rows, sent


def polars_rollup(folder: str) -> tuple[int, int]:
    """The same table, grouped."""
    import polars as pl

    rows, sent = 0, 0
    for path in _blobs(folder):
        keyed = _polars_table(path).with_columns(hour=pl.col("t") // 3_600_000, denied=pl.col("state") == "D")
        totals = (
            keyed.group_by(KEY)
            .agg(
                pl.len(),
                pl.col("ps", "bs", "pr", "br").sum(),
                pl.col("t").min().alias("first"),
                pl.col("t").max().alias("last"),
            )
            .collect()
        )
        rows += totals["len"].sum()
        sent += totals["bs"].sum()
    return rows, sent


_DUCKDB = """
with groups as (
  select unnest(r.flowRecords.flows, recursive := false) as flow
  from (select unnest(records) as r from read_json('{path}', maximum_object_size=2000000000))
), tuples as (
  select g.rule as rule, string_split(unnest(g.flowTuples), ',') as f
  from (select unnest(flow.flowGroups) as g from groups)
)
select rule, f[1]::bigint as t, f[2] as src, f[3] as dst, try_cast(f[4] as integer) as sport, try_cast(f[5] as integer) as dport,
  f[6]::integer as proto, f[7] as dir, f[8] as state, f[9] as code, try_cast(f[10] as bigint) as ps,
  try_cast(f[11] as bigint) as bs, try_cast(f[12] as bigint) as pr, try_cast(f[13] as bigint) as br
from tuples
"""


def _duckdb(folder: str, query: str) -> tuple[int, int]:
    import duckdb

    connection = duckdb.connect()
    rows, sent = 0, 0
    for path in _blobs(folder):
        connection.execute(f"create or replace temp table result as {query.format(inner=_DUCKDB.format(path=path))}")
        found = connection.execute("select sum(n), sum(bs) from result").fetchone()
        assert found is not None
        rows += int(found[0])
        sent += int(found[1] or 0)
    return rows, sent


def duckdb_decode(folder: str) -> tuple[int, int]:
    """DuckDB read_json, unnest and string_split."""
    return _duckdb(folder, "select *, 1 as n from ({inner})")


def duckdb_rollup(folder: str) -> tuple[int, int]:
    """The same, grouped in SQL."""
    keys = "t // 3600000 as hour, src, dst, dport, proto, dir, state = 'D' as denied, rule, code"
    return _duckdb(
        folder,
        f"select {keys}, count(*) as n, sum(ps) as ps, sum(bs) as bs, sum(pr) as pr, sum(br) as br, min(t) as first, "  # noqa: S608 - the path is the bench's own
        "max(t) as last from ({inner}) group by all",
    )


def flowlens_decode(folder: str) -> tuple[int, int]:
    """flowlens to FLOWS, batch by batch."""
    import pyarrow.compute as pc

    from flowlens.formats import decode_flow_log
    from flowlens.formats.compiled import new_reader
    from flowlens.sources.files import find_blobs, read_chunks

    rows, sent = 0, 0
    reader = new_reader()
    for blob in find_blobs([folder]).blobs:
        for decoded in decode_flow_log(read_chunks(blob), where=blob.name, reader=reader):
            rows += decoded.flows.num_rows
            sent += pc.sum(decoded.flows["bytes_sent"]).as_py() or 0
    return rows, sent


def _portable(way: Callable[[str], tuple[int, int]]) -> Callable[[str], tuple[int, int]]:
    """The same without the compiled kernel."""

    def portable(folder: str) -> tuple[int, int]:
        os.environ["FLOWLENS_ENGINE"] = "portable"
        return way(folder)

    return portable


def flowlens_rollup(folder: str) -> tuple[int, int]:
    """flowlens to CONVERSATIONS, in pieces on disk where they are many."""
    import polars as pl

    from flowlens import budget, conversations
    from flowlens.evidence import Window
    from flowlens.pieces import Pieces
    from flowlens.selecting import Plan, select
    from flowlens.sources.accounts import Access
    from flowlens.units import Meter, read_flow_logs, units_of

    queries = budget.for_queries(None)
    plan = Plan((folder,), Window(), None, False, budget.shared(None, 1), None, queries, access=Access(), now=NOW)
    selected = select(plan)
    items = selected.items
    meter = Meter(selected, None)
    with tempfile.TemporaryDirectory() as place:
        store = Pieces(conversations.SCHEMA, Path(place))
        for unit in units_of(items):
            read_flow_logs([items[at] for at in unit], plan, meter, store, Path(place))
        sums = store.lazy().select(pl.col("flow_tuples").sum(), pl.col("bytes_sent").sum()).collect()
    return int(sums["flow_tuples"].item()), int(sums["bytes_sent"].item())


def flowlens_scan(folder: str) -> tuple[int, int]:
    """All that a scan does: CONVERSATIONS with inventory, coverage and views."""
    import polars as pl

    import flowlens as fl

    scan = fl.scan(folder, threads=1)
    sums = scan.conversations.select(pl.col("flow_tuples").sum(), pl.col("bytes_sent").sum()).collect()
    return int(sums["flow_tuples"].item()), int(sums["bytes_sent"].item())


PEERS: dict[str, Callable[[str], tuple[int, int]]] = {
    "flowlens-decode": flowlens_decode,
    "portable-decode": _portable(flowlens_decode),
    "polars-decode": polars_decode,
    "duckdb-decode": duckdb_decode,
    "orjson-decode": orjson_decode,
    "stdlib-decode": stdlib_decode,
    "flowlens-rollup": flowlens_rollup,
    "portable-rollup": _portable(flowlens_rollup),
    "flowlens-scan": flowlens_scan,
    "polars-rollup": polars_rollup,
    "duckdb-rollup": duckdb_rollup,
}


if __name__ == "__main__":
    name, where, warm = sys.argv[1:4]
    PEERS[name](warm)
    started = time.process_time()
    count, total = PEERS[name](where)
    sys.stdout.write(json.dumps({"rows": count, "bytes_sent": total, "work": time.process_time() - started}) + "\n")
