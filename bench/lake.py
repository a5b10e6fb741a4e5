"""``python -m bench.lake``: what a lake costs to open, to ask for cursors and to commit to, once it holds a month of many NICs.

The lake is made up, a day at a time, as a sync that was compacted daily leaves it; the last day is made of a commit a minute, as
``--follow`` leaves it before compaction. Nothing is decoded: this is about Delta tables alone.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa

from flowlens import schema
from flowlens.lake.care import status
from flowlens.lake.ledger import blob_id, known
from flowlens.sources.delta import Lake, open_lake
from flowlens.sources.lake_places import LakePlace
from flowlens.sources.stores import Listed

FIRST = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
RECORD_BYTES = 3000
_Result = TypeVar("_Result")


def blobs_of(day: dt.datetime, nics: int, hours: int = 24) -> list[Listed]:
    """The finished blobs of a day as a listing gives them."""
    return [
        Listed(
            "contoso",
            f"logs/flowLogResourceID=/S_NW/NW_LOG/{hour:y=%Y/m=%m/d=%d/h=%H/m=00}/macAddress={nic:012X}/PT1H.json",
            "S_NW/NW_LOG",
            hour,
            f"{nic:012X}",
            60 * RECORD_BYTES + 14,
            "0x1",
            "2026-06-01",
            False,
            None,
        )
        for hour in (day + dt.timedelta(hours=n) for n in range(hours))
        for nic in range(nics)
    ]


def made_up(seed: int, below: int) -> pl.Expr:
    """Numbers without any order, the same each time."""
    return (pl.int_range(pl.len()).hash(seed) % below).cast(pl.Int64)


def facts(blobs: list[Listed], minutes: range, *, closed: bool) -> pa.Table:
    """The rows of the ledger that some minutes of some blobs leave."""
    count = len(minutes)
    ends = [12 + RECORD_BYTES * (minute + 1) for minute in minutes]
    base = pl.DataFrame(
        {
            "blob_id": [blob_id(*each.key, each.created) for each in blobs],
            "date": [each.hour.date() for each in blobs],
            "source": [each.source for each in blobs],
            "name": [each.name for each in blobs],
            "created": [each.created for each in blobs],
            "flow_log": [each.flow_log for each in blobs],
            "hour": [each.hour for each in blobs],
            "mac_address": [each.mac_address for each in blobs],
        }
    )
    records = base.select(pl.all().repeat_by(count).explode()).with_columns(
        block=pl.Series(ends * len(blobs), dtype=pl.Int64),
        kind=pl.lit("record"),
        closed=pl.lit(False),
        etag=pl.lit("0x1"),
    )
    rows = [records]
    if closed:
        rows.append(
            base.with_columns(
                block=pl.lit(ends[-1] + 2, pl.Int64), kind=pl.lit("end"), closed=pl.lit(True), etag=pl.lit("0x1")
            ).select(records.columns)
        )
    whole = pl.concat(rows)
    whole = whole.with_columns(
        after=pl.when(kind="end").then(pl.col("block") - 2).otherwise(pl.col("block") - RECORD_BYTES),
        start=pl.col("block") - RECORD_BYTES + 1,
        place=pl.lit('list+{"time":'),
        prefix=made_up(1, 1 << 62).cast(pl.String),
        provisional=pl.lit(False),
        **{
            name: pl.lit(0, pl.Int64)
            for name in ("generation", "rejected", "rejected_records", "strict_records", "unread")
        },
        **{name: pl.when(kind="end").then(0).otherwise(1).cast(pl.Int64) for name in ("records", "tuples", "rows")},
        record_bytes=pl.when(kind="end").then(0).otherwise(RECORD_BYTES - 1).cast(pl.Int64),
        # A comma, what stands before the first record, or behind the last.
        framing_bytes=pl.when(kind="end").then(2).when(block=12 + RECORD_BYTES).then(13).otherwise(1).cast(pl.Int64),
    )
    table = whole.to_arrow()
    nothing = {f.name: pa.nulls(table.num_rows, f.type) for f in schema.LAKE_LEDGER if f.name not in table.column_names}
    for name, column in nothing.items():
        table = table.append_column(name, column)
    return table.select(schema.LAKE_LEDGER.names).cast(schema.LAKE_LEDGER)


def flows(ledger: pa.Table, rows: int) -> pa.Table:
    """So many rows of flows for each record of the ledger."""
    records = pl.DataFrame(pl.from_arrow(ledger.select(["blob_id", "block", "date", "hour", "mac_address", "kind"])))
    records = records.filter(kind="record").drop("kind")
    whole = records.select(pl.all().repeat_by(rows).explode())
    whole = whole.with_columns(
        time=pl.col("hour"),
        record_time=pl.col("hour"),
        src_ip=pl.lit("10.1.0.4"),
        dst_ip=pl.lit("198.18.") + made_up(2, 65536).cast(pl.String),
        src_port=(made_up(3, 64000) + 1024).cast(pl.Int32),
        dst_port=pl.lit(443, pl.Int32),
        protocol=pl.lit(6, pl.Int16),
        direction=pl.lit("Outbound"),
        flow_state=pl.lit("End"),
        flow_status=pl.lit("Allowed"),
        encryption_code=pl.lit("NX"),
        restarted=pl.lit(False),
        acl_rule=pl.lit("DefaultRule_AllowInternetOutBound"),
        acl_id=pl.lit("/NSG"),
        target_resource_id=pl.lit("/VNET"),
        flow_log_id=pl.lit("/LOG"),
        **{name: made_up(4, 1 << 20) for name in schema.COUNTERS},
    )
    return whole.to_arrow().select(schema.LAKE_FLOWS.names).cast(schema.LAKE_FLOWS)


def timed(name: str, told: dict[str, float], run: Callable[[], _Result]) -> _Result:
    """What ``run`` gives; ``told`` gets the seconds of CPU and of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    result = run()
    told[name] = round(time.perf_counter() - clock, 2)
    told[f"{name} cpu"] = round(time.process_time() - cpu, 2)
    return result


def main() -> None:
    """Make the lake, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nics", type=int, default=1000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rows", type=int, default=4, help="rows of flows for each record")
    parser.add_argument("--minutes", type=int, default=60, help="commits of the hour that is open")
    given = parser.parse_args()
    told: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = LakePlace("lake", Path(folder) / "lake")
        lake = open_lake(place, create=True)
        blobs: list[Listed] = []
        for number in range(given.days):
            day = blobs_of(FIRST + dt.timedelta(days=number), given.nics)
            for first in range(0, len(day), 24 * 100):
                some = day[first : first + 24 * 100]
                ledger = facts(some, range(60), closed=True)
                lake.append_ledger(ledger)
                lake.append_flows(flows(ledger, given.rows))
            blobs += day
        today = blobs_of(FIRST + dt.timedelta(days=given.days), given.nics, hours=1)
        last = list(range(given.minutes))
        for minute in last:
            ledger = facts(today, range(minute, minute + 1), closed=False)
            rows = flows(ledger, given.rows)
            commit: dict[str, float] = {}
            timed("commit of a minute: facts", commit, functools.partial(lake.append_ledger, ledger))
            timed("commit of a minute: rows", commit, functools.partial(lake.append_flows, rows))
            told |= commit
        opened: Lake = timed("open", told, lambda: open_lake(place))
        timed("finished blobs of all days", told, lambda: known(opened, blobs))
        timed("cursors of the open hour", told, lambda: known(opened, today))
        # A month of many NICs takes status minutes: what is known by then is told.
        sys.stderr.write(f"{told}\n")
        timed("status", told, lambda: status(opened))
        files, size = opened.files()
        json.dump(
            {
                "nics": given.nics,
                "days": given.days,
                "blobs": len(blobs) + len(today),
                "records": 60 * len(blobs) + len(last) * len(today),
                "files": files,
                "megabytes of flows": round(size / 1e6),
                "seconds": told,
            },
            sys.stdout,
            indent=1,
        )
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
