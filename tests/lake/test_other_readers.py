"""A lake without flowlens: what polars, DuckDB and any program that knows JSON, Parquet and Delta's log find in it."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from flowlens import schema
from flowlens.sources.delta import LakePlace, open_lake
from tests.lake.test_reading import SAMPLES, synced

COUNTS = ["acl_rule", "rows", "bytes"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that was compacted, so that its log says of some files that they are gone."""
    folder = synced(SAMPLES, tmp_path_factory.mktemp("samples") / "lake")
    open_lake(LakePlace(str(folder), folder)).compact()
    return folder


def by_rule(flows: pl.DataFrame) -> pl.DataFrame:
    sums = flows.group_by("acl_rule").agg(rows=pl.len(), bytes=pl.sum("bytes_sent"))
    return sums.select(pl.col("acl_rule").cast(pl.String), pl.col("rows", "bytes").cast(pl.Int64)).sort("acl_rule")


def actions(lake: Path) -> list[dict[str, object]]:
    logs = sorted((lake / "_delta_log").glob("*.json"))
    return [json.loads(line) for log in logs for line in log.read_text("utf-8").splitlines()]


def test_duckdb_counts_what_polars_counts(lake: Path) -> None:
    found = by_rule(pl.scan_delta(str(lake)).collect())
    assert found.height > 5
    with duckdb.connect() as connection:
        connection.register("flows", DeltaTable(str(lake)).to_pyarrow_dataset())
        asked = connection.sql(
            "SELECT acl_rule, count(*), coalesce(sum(bytes_sent), 0)::BIGINT FROM flows GROUP BY ALL ORDER BY 1"
        ).fetchall()
    assert [tuple(row) for row in found.rows()] == asked


def test_the_log_alone_leads_to_the_rows(lake: Path) -> None:
    """Delta's protocol by hand: the files that were added and not removed, their partition in their name."""
    told = actions(lake)
    removed = {each["remove"]["path"] for each in told if "remove" in each}  # type: ignore[index]
    added = {each["add"]["path"] for each in told if "add" in each}  # type: ignore[index]
    assert removed < added
    files = [str(lake / unquote(path)) for path in sorted(added - removed)]
    read = ds.dataset(files, partitioning="hive", partition_base_dir=str(lake))
    assert read.count_rows() == DeltaTable(str(lake)).count()
    assert_frame_equal(by_rule(pl.DataFrame(read.to_table())), by_rule(pl.scan_delta(str(lake)).collect()))


def test_no_feature_is_asked_of_a_reader_that_old_ones_lack(lake: Path) -> None:
    """Fabric, Synapse and older Spark read version 1 of the protocol; features would name what else they must know."""
    protocol = DeltaTable(str(lake)).protocol()
    assert (protocol.min_reader_version, protocol.reader_features) == (1, None)
    for path in lake.rglob("date=*/*.parquet"):
        types = {field.name: str(field.type) for field in pq.read_schema(path)}
        assert not any(
            "dictionary" in each or (each.startswith(("uint", "large", "time")) and "UTC" not in each)
            for each in types.values()
        )
    assert set(schema.FLOWS.names) < set(DeltaTable(str(lake)).schema().to_arrow().names)
