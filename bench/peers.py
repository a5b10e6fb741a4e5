"""What a user would pick instead, one way a process: ``python -m bench.peers NAME FOLDER WARM`` prints rows and sums as JSON.

With them go the CPU seconds of the work itself: each way first does the small folder WARM, so that starting Python and loading
libraries is left out. Each reads all blobs of the folder and gives the number of flow tuples and the bytes sent of Continuing and End tuples, so that
all can be checked against what the generator knows. ``*-decode`` makes a typed table of all tuples, ``*-rollup`` the
totals by hour, addresses, port, protocol, direction, denied or not, rule and code. BENCH_THREADS says how many threads may work.

Readers of other projects would stand here too; the package index has them for the flow logs of AWS and Google alone (2026-11-28).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flowlens.selecting import Plan

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
"""All hours of the data are over by then."""
THREADS = "BENCH_THREADS"
KEY = ["hour", "src", "dst", "dport", "proto", "dir", "denied", "rule", "code"]


class Shape(NamedTuple):
    """What a format calls its parts: the member of a record with its flows, their groups, and the fields of a tuple."""

    flows: str
    groups: str
    names: tuple[str, ...]
    denied: str
    hour: int


_ENDS = ("t", "src", "dst", "sport", "dport", "proto", "dir")
_COUNTERS = ("ps", "bs", "pr", "br")
VNET = Shape("flowRecords", "flowGroups", (*_ENDS, "state", "code", *_COUNTERS), "state", 3_600_000)
NSG = Shape("properties", "flows", (*_ENDS, "decision", "code", *_COUNTERS), "decision", 3_600)
_LETTERS = {"T": 6, "U": 17}


def _blobs(folder: str) -> Iterator[Path]:
    return iter(sorted(Path(folder).rglob("*.json")))


def _shape(folder: str) -> Shape:
    """The shape of the folder's blobs, which are all of one."""
    with next(_blobs(folder)).open("rb") as file:
        return VNET if b"flowRecords" in file.read(4096) else NSG


def _loops(loads: Callable[[bytes], dict[str, object]], folder: str) -> tuple[int, int]:
    rows, sent = 0, 0
    shape = _shape(folder)
    number = int if shape is VNET else _LETTERS.__getitem__
    for path in _blobs(folder):
        for record in loads(path.read_bytes())["records"]:  # type: ignore[attr-defined]
            table = [
                (
                    int(f[0]),
                    f[1],
                    f[2],
                    int(f[3] or 0),
                    int(f[4] or 0),
                    number(f[5]),
                    f[6],
                    f[7],
                    f[8],
                    *([int(c or 0) for c in f[9:13]] or (0, 0, 0, 0)),
                )
                for flow in record[shape.flows]["flows"]
                for group in flow[shape.groups]
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


def pandas_decode(folder: str) -> tuple[int, int]:
    """pandas json_normalize and str.split."""
    import pandas as pd  # type: ignore[import-untyped]

    rows, sent = 0, 0
    shape = _shape(folder)
    for path in _blobs(folder):
        records = json.loads(path.read_bytes())["records"]
        groups = pd.json_normalize(records, [shape.flows, "flows", shape.groups], ["macAddress"])
        tuples = groups.explode("flowTuples", ignore_index=True)
        fields = tuples["flowTuples"].str.split(",", expand=True).iloc[:, : len(shape.names)]
        fields.columns = pd.Index(shape.names)
        numeric = [name for name in shape.names if name in ("t", "sport", "dport", *_COUNTERS)]
        fields[numeric] = fields[numeric].apply(pd.to_numeric, errors="coerce")
        rows += len(fields)
        sent += int(fields["bs"].sum())
    return rows, sent


def _numbered(fields, names: tuple[str, ...]):  # type: ignore[no-untyped-def]
    """Text columns of a frame of polars as the numbers that they are."""
    import polars as pl

    numeric = [name for name in names if name in ("t", "sport", "dport", *_COUNTERS)]
    protocol = pl.col("proto").replace(_LETTERS).cast(pl.Int64, strict=False)
    return fields.with_columns(*(pl.col(name).cast(pl.Int64, strict=False) for name in numeric), protocol)


def _polars_table(path: Path, shape: Shape):  # type: ignore[no-untyped-def]
    import polars as pl

    groups = (
        pl.read_json(path)
        .lazy()
        .explode("records")
        .unnest("records")
        .select("macAddress", pl.col(shape.flows).struct.field("flows"))
        .explode("flows")
        .unnest("flows")
        .explode(shape.groups)
        .unnest(shape.groups)
        .explode("flowTuples")
    )
    fields = pl.col("flowTuples").str.split_exact(",", len(shape.names) - 1).struct.rename_fields(list(shape.names))
    return _numbered(groups.with_columns(f=fields).drop("flowTuples").unnest("f"), shape.names)


def polars_decode(folder: str) -> tuple[int, int]:
    """polars read_json, explode and split_exact."""
    rows, sent = 0, 0
    shape = _shape(folder)
    for path in _blobs(folder):
        table = _polars_table(path, shape).collect()
        rows += table.height
        sent += table["bs"].sum()
    return rows, sent


def _polars_totals(table, shape: Shape):  # type: ignore[no-untyped-def]
    import polars as pl

    keyed = table.with_columns(hour=pl.col("t") // shape.hour, denied=pl.col(shape.denied) == "D")
    sums = pl.col(_COUNTERS).sum()
    times = pl.col("t").min().alias("first"), pl.col("t").max().alias("last")
    return keyed.group_by(KEY).agg(pl.len(), sums, *times).collect()


def polars_rollup(folder: str) -> tuple[int, int]:
    """The same table, grouped."""
    rows, sent = 0, 0
    shape = _shape(folder)
    for path in _blobs(folder):
        totals = _polars_totals(_polars_table(path, shape), shape)
        rows += totals["len"].sum()
        sent += totals["bs"].sum()
    return rows, sent


def _jq_table(path: Path, shape: Shape, place: Path):  # type: ignore[no-untyped-def]
    import polars as pl

    query = (
        f'.records[] | .{shape.flows}.flows[] | .{shape.groups}[] as $g | $g.flowTuples[] | "\\($g.rule // ""),\\(.)"'
    )
    if shape is NSG:
        query = f'.records[] | .{shape.flows}.flows[] as $r | $r.{shape.groups}[] | .flowTuples[] | "\\($r.rule),\\(.)"'
    table = place / "tuples.csv"
    with table.open("wb") as file:
        subprocess.run(["jq", "-r", query, str(path)], check=True, stdout=file)  # noqa: S607 - the jq of the PATH
    names = ["rule", *shape.names]
    read = pl.scan_csv(
        table, has_header=False, schema=dict.fromkeys(names, pl.String), truncate_ragged_lines=True, quote_char=None
    )
    return _numbered(read, shape.names)


def jq_decode(folder: str) -> tuple[int, int]:
    """The jq of the PATH to CSV, which polars reads."""
    rows, sent = 0, 0
    shape = _shape(folder)
    with tempfile.TemporaryDirectory() as place:
        for path in _blobs(folder):
            table = _jq_table(path, shape, Path(place)).collect()
            rows += table.height
            sent += table["bs"].sum()
    return rows, sent


def jq_rollup(folder: str) -> tuple[int, int]:
    """The same, grouped by polars."""
    rows, sent = 0, 0
    shape = _shape(folder)
    with tempfile.TemporaryDirectory() as place:
        for path in _blobs(folder):
            totals = _polars_totals(_jq_table(path, shape, Path(place)), shape)
            rows += totals["len"].sum()
            sent += totals["bs"].sum()
    return rows, sent


_DUCKDB = """
with flows as (
  select unnest(r.{flows}.flows, recursive := false) as flow
  from (select unnest(records) as r from read_json('{path}', maximum_object_size=2000000000))
), tuples as (
  select {rule} as rule, string_split(unnest(g.flowTuples), ',') as f
  from (select flow, unnest(flow.{groups}) as g from flows)
)
select rule, f[1]::bigint as t, f[2] as src, f[3] as dst, try_cast(f[4] as integer) as sport, try_cast(f[5] as integer) as dport,
  {protocol} as proto, f[7] as dir, f[8] as {denied}, f[9] as code, try_cast(f[10] as bigint) as ps,
  try_cast(f[11] as bigint) as bs, try_cast(f[12] as bigint) as pr, try_cast(f[13] as bigint) as br
from tuples
"""


def _duckdb(folder: str, query: str) -> tuple[int, int]:
    import duckdb

    connection = duckdb.connect(config={"threads": os.environ.get(THREADS, "1")})
    rows, sent = 0, 0
    shape = _shape(folder)
    told = shape._asdict() | {
        "rule": "g.rule" if shape is VNET else "flow.rule",
        "protocol": "f[6]::integer" if shape is VNET else "case f[6] when 'T' then 6 else 17 end",
    }
    for path in _blobs(folder):
        inner = _DUCKDB.format(path=path, **told)
        connection.execute(f"create or replace temp table result as {query.format(inner=inner, **told)}")
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
    keys = "t // {hour} as hour, src, dst, dport, proto, dir, {denied} = 'D' as denied, rule, code"
    return _duckdb(
        folder,
        f"select {keys}, count(*) as n, sum(ps) as ps, sum(bs) as bs, sum(pr) as pr, sum(br) as br, min(t) as first, "  # noqa: S608 - the path is the bench's own
        "max(t) as last from ({inner}) group by all",
    )


def flowlens_decode(folder: str) -> tuple[int, int]:
    """flowlens to FLOWS, table by table."""
    import pyarrow.compute as pc

    from flowlens.flow_streams import flow_tables
    from flowlens.selecting import select

    rows, sent = 0, 0
    plan = _plan(folder)
    for flows in flow_tables(select(plan), plan):
        rows += flows.num_rows
        sent += pc.sum(flows["bytes_sent"]).as_py() or 0
    return rows, sent


def _plan(folder: str) -> Plan:
    """Everything in a folder, by one thread."""
    from flowlens import budget
    from flowlens.evidence import Window
    from flowlens.selecting import Plan
    from flowlens.sources.accounts import Access

    queries = budget.for_queries(None)
    return Plan((folder,), Window(), None, False, budget.shared(None, 1), None, queries, access=Access(), now=NOW)


def _portable(way: Callable[[str], tuple[int, int]]) -> Callable[[str], tuple[int, int]]:
    """The same without the compiled kernel."""

    def portable(folder: str) -> tuple[int, int]:
        os.environ["FLOWLENS_ENGINE"] = "portable"
        return way(folder)

    return portable


def flowlens_rollup(folder: str) -> tuple[int, int]:
    """flowlens to CONVERSATIONS, in pieces on disk where they are many."""
    import polars as pl

    from flowlens import conversations
    from flowlens.pieces import Pieces
    from flowlens.selecting import select
    from flowlens.units import Meter, read_flow_logs, units_of

    plan = _plan(folder)
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

    scan = fl.scan(folder, threads=int(os.environ.get(THREADS, "1")))
    sums = scan.conversations.select(pl.col("flow_tuples").sum(), pl.col("bytes_sent").sum()).collect()
    return int(sums["flow_tuples"].item()), int(sums["bytes_sent"].item())


PEERS: dict[str, Callable[[str], tuple[int, int]]] = {
    "flowlens-decode": flowlens_decode,
    "portable-decode": _portable(flowlens_decode),
    "polars-decode": polars_decode,
    **({"jq-decode": jq_decode} if shutil.which("jq") else {}),
    "duckdb-decode": duckdb_decode,
    "orjson-decode": orjson_decode,
    "stdlib-decode": stdlib_decode,
    "pandas-decode": pandas_decode,
    "flowlens-rollup": flowlens_rollup,
    "portable-rollup": _portable(flowlens_rollup),
    "flowlens-scan": flowlens_scan,
    "polars-rollup": polars_rollup,
    **({"jq-rollup": jq_rollup} if shutil.which("jq") else {}),
    "duckdb-rollup": duckdb_rollup,
}
THREADED = ("flowlens-scan", "polars-decode", "polars-rollup", "duckdb-decode", "duckdb-rollup")
"""What works with as many threads as it is given."""


def _cpu() -> float:
    """CPU seconds of this process and of those that it waited for."""
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + waited.ru_utime + waited.ru_stime


if __name__ == "__main__":
    name, where, warm = sys.argv[1:4]
    PEERS[name](warm)
    began, started = time.perf_counter(), _cpu()
    count, total = PEERS[name](where)
    work = {"work": _cpu() - started, "seconds": time.perf_counter() - began}
    sys.stdout.write(json.dumps({"rows": count, "bytes_sent": total, **work}) + "\n")
