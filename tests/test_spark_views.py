"""Evidence in parts, without Spark: each step sees one part alone, and all together give what the whole gives."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pyspark import cloudpickle

import flowlens as fl
from flowlens import inventory, schema
from flowlens.evidence import Evidence, Inventory, Scan
from flowlens.scanning import scan
from flowlens.spark_views import PART, Step, _annotated, _mentions, _step_on
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER, SAMPLE

CHANGE = dt.datetime(2026, 6, 15, 11, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Travelling:
    """Parts whose steps go to another process and back, as far as pickling tells, and whose frames come as Arrow does."""

    parts: tuple[pl.DataFrame, ...]
    filters: tuple[pl.Expr, ...] = ()

    def each(self, step: Step) -> Iterator[tuple[pl.DataFrame, ...]]:
        for number, rows in enumerate(self.parts):
            work = cloudpickle.loads(cloudpickle.dumps(partial(_step_on, step, rows.schema, self.filters)))
            table = rows.with_columns(pl.lit(number, pl.Int32).alias(PART)).to_arrow()
            told = work(table.cast(pa.schema([_plain(field) for field in table.schema])))
            yield tuple(pl.read_ipc_stream(io.BytesIO(row["frame"])) for row in told.to_pylist())

    def filter(self, inside: pl.Expr) -> Travelling:
        return replace(self, filters=(*self.filters, inside))

    def lazy(self) -> pl.LazyFrame:
        return pl.concat(self.parts).lazy().filter(*self.filters)


def _plain(field: pa.Field) -> pa.Field:
    return (
        field.with_type(schema.TEXT)
        if pa.types.is_large_string(field.type) or str(field.type) == "string_view"
        else field
    )


def split(rows: pl.DataFrame, by: pl.Expr, count: int) -> Travelling:
    """The rows in ``count`` parts; those with the same value of ``by`` share one."""
    return Travelling(tuple(rows.filter(by.hash(7) % count == number) for number in range(count)))


def spread(whole: Scan, count: int = 3) -> Scan:
    """The scan with all of its evidence made of parts anew."""
    evidence = whole.evidence
    rows = evidence.conversations.collect()
    pair = pl.concat_list(pl.min_horizontal("src_ip", "dst_ip"), pl.max_horizontal("src_ip", "dst_ip")).list.join(" ")
    pairs = split(rows, pair, count)
    assert all(part.height for part in pairs.parts)
    logged = evidence.coverage.filter(pl.col("state").is_in(["read", "partly read"]))
    learned = inventory.learn(pairs, logged=logged.select("mac_address", "target_resource_id"))
    assert_same_inventory(learned, evidence.inventory)
    annotated = [_annotated(part, learned, evidence.coverage) for part in pairs.parts]
    (mentioned,) = zip(*pairs.each(partial(_mentions, learned)), strict=True)
    assert pl.concat(mentioned).height
    parts = split(pl.concat(annotated), pl.col("dst_ip"), count)
    made = Evidence(evidence.conversations, parts, learned, evidence.coverage, evidence.ledger)
    return Scan(read=lambda: made, flows=lambda: whole.flows, window=whole.window, settings=whole.settings)


def assert_same_inventory(one: Inventory, other: Inventory) -> None:
    for name in ("table", "places", "peers"):
        assert getattr(one, name).equals(getattr(other, name)), name
    assert one.nics.sort("mac_address").equals(other.nics.sort("mac_address"))
    assert one.forwarders == other.forwarders


def assert_same_answers(one: Scan, other: Scan) -> None:
    there, here = fl.report(one, profiles=["auto", "aks-core"]), fl.report(other, profiles=["auto", "aks-core"])
    assert there.findings == here.findings
    assert there.verdicts == here.verdicts and there.coverage == here.coverage
    for name, table in here.tables.items():
        assert there.tables[name].rows() == table.rows(), name
    assert {name: chart.collect().rows() for name, chart in there.charts.items()} == {
        name: chart.collect().rows() for name, chart in here.charts.items()
    }


@pytest.mark.slow
def test_parts_of_the_sample_logs_give_what_the_whole_gives() -> None:
    whole = scan(SAMPLE)
    assert_same_answers(spread(whole), whole)


@pytest.mark.slow
def test_parts_of_a_day_give_what_the_whole_gives(tmp_path: Path) -> None:
    write_day(tmp_path, 5, nics=6, hours=4)
    whole = scan(tmp_path / CONTAINER)
    assert_same_answers(spread(whole, 5), whole)


def test_before_and_after_a_change_are_parts_too() -> None:
    whole = scan(SAMPLE, changed_at=CHANGE)
    parts = spread(whole)
    half = parts.evidence.parts.filter(pl.col("hour") < CHANGE)
    there, here = (
        fl.encryption_status(Scan(read=lambda e=evidence: e, flows=lambda: whole.flows, window=whole.window)).collect()
        for evidence in (replace(parts.evidence, parts=half), whole.before_change().evidence)
    )
    assert there.equals(here)


@pytest.mark.slow
def test_rules_and_private_subnets() -> None:
    whole = scan(SAMPLE)
    parts = spread(whole)
    for ask in (
        lambda scan: fl.private_subnet_readiness(scan, outbound={"10.10.1.0/24": "default"}),
        lambda scan: fl.rule_dependencies(scan, "no such rule"),
        fl.rule_usage,
    ):
        assert ask(parts).collect().equals(ask(whole).collect())


@pytest.mark.parametrize("count", [1, 7])
def test_a_baseline_in_parts(count: int) -> None:
    whole = scan(SAMPLE)
    before = spread(whole, count)
    there = fl.unexpected_destinations(whole, baseline=before).collect()
    assert there.equals(fl.unexpected_destinations(whole, baseline=whole).collect())
