"""A lake as a source: the same answers, ledger and coverage as from the blobs it was made from."""

from __future__ import annotations

import datetime as dt
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

import flowlens as fl
from flowlens.errors import ConfigError, LedgerError, SourceError
from flowlens.evidence import Ledger, Window
from flowlens.lake.ledger import blob_ledgers
from flowlens.lake.reading import lake_parts, parquet_part
from flowlens.lake.syncing import Sync
from flowlens.sources.accounts import Access
from flowlens.sources.delta import Lake, open_lake
from flowlens.sources.lake_places import LakePlace
from flowlens.sources.stores import stores
from tests.flow_logs import blob_path

SAMPLES = Path(__file__).parents[2] / "sample_logs" / "insights-logs-flowlogflowevent"
TRAPS = Path(__file__).parents[1] / "data"
DAY = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
LATER = DAY + dt.timedelta(days=2)
Question = Callable[[fl.Scan], pl.LazyFrame]
QUESTIONS: tuple[Question, ...] = (
    fl.encryption_status,
    fl.denied_egress,
    fl.unexpected_destinations,
    fl.rule_usage,
    fl.coverage,
)


def synced(source: Path, folder: Path, now: dt.datetime = LATER) -> Path:
    """A lake of everything in ``source``."""
    sync = Sync(stores([str(source)], Access()), lambda: opened(folder, create=True), clock=lambda: now)
    sync.poll()
    sync.close()
    return folder


def opened(folder: Path, *, create: bool = False) -> Lake:
    return open_lake(LakePlace(str(folder), folder), create=create)


def counts(ledger: Ledger) -> Ledger:
    """A ledger without what a lake was not asked about: files beside the blobs; nor which decoder served, as the kernel does no syncing."""
    return replace(ledger, notes=(), sources=1, strict_records=0)


def assert_same(blobs: Path, lake: Path, window: Window, questions: Sequence[Question] = QUESTIONS) -> None:
    scans = [fl.scan(str(each), start=window.start, end=window.end, now=LATER) for each in (blobs, lake)]
    assert counts(scans[0].ledger) == counts(scans[1].ledger)
    for question in questions:
        assert_frame_equal(question(scans[0]).collect(), question(scans[1]).collect())
    columns = scans[0].flows.collect_schema().names()
    assert_frame_equal(*(scan.flows.collect().sort(columns, nulls_last=True) for scan in scans))
    files = [io.BytesIO(), io.BytesIO()]
    written = [scan.write_flows(file) for scan, file in zip(scans, files, strict=True)]
    assert counts(written[0]) == counts(written[1])
    for file in files:
        file.seek(0)
    assert_frame_equal(*(pl.read_parquet(file).sort(columns, nulls_last=True) for file in files))


@pytest.fixture(scope="module")
def sample_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synced(SAMPLES, tmp_path_factory.mktemp("samples") / "lake")


WINDOWS = [
    Window(),
    Window(DAY + dt.timedelta(hours=9, minutes=30), DAY + dt.timedelta(hours=11)),
    Window(DAY - dt.timedelta(days=3), DAY - dt.timedelta(days=2)),
]


@pytest.mark.parametrize("window", WINDOWS, ids=["all", "in mid-hour", "nothing"])
def test_a_lake_gives_the_answers_of_its_blobs(sample_lake: Path, window: Window) -> None:
    assert_same(SAMPLES, sample_lake, window)


@pytest.mark.slow
def test_what_was_odd_rejected_or_empty_is_told_as_from_the_blobs(tmp_path: Path) -> None:
    """Every trap as a blob: tuples with times far from their hour, broken records, unknown codes, no records at all."""
    traps = sorted(path for path in TRAPS.glob("*.json") if "huge" not in path.name)
    assert len(traps) > 40
    for number, trap in enumerate(traps):
        hour = DAY + dt.timedelta(hours=number % 24)
        path = blob_path(tmp_path / "blobs", mac=f"{number:012X}", hour=hour)
        path.parent.mkdir(parents=True)
        path.write_bytes(trap.read_bytes())
    lake = synced(tmp_path / "blobs", tmp_path / "lake")
    for window in (Window(), Window(DAY + dt.timedelta(hours=2), DAY + dt.timedelta(hours=20))):
        assert_same(tmp_path / "blobs", lake, window, (fl.coverage, fl.rule_usage))
    ledger = fl.scan(str(lake), now=LATER).ledger
    assert ledger.rejected and ledger.rejected_records and ledger.unknown_codes


@pytest.mark.parametrize("window", WINDOWS, ids=["all", "in mid-hour", "nothing"])
def test_hour_by_hour_the_ledger_is_that_of_all_at_once(sample_lake: Path, window: Window) -> None:
    lake = opened(sample_lake)
    within = {"after": window.start, "before": window.end}
    by_hour = list(blob_ledgers(lake, **within, at_once=1))
    assert all(rows["hour"].n_unique() <= 1 for rows in by_hour)
    found = list(blob_ledgers(lake, **within))
    assert bool(by_hour) == bool(found)
    if found:
        whole = pl.concat(found)
        assert_frame_equal(pl.concat(by_hour).sort("name"), whole.sort("name"))
        assert whole.height and whole["blob_id"].is_unique().all() and len(by_hour) > len(found)
        start, end = window.start or DAY, window.end or DAY + dt.timedelta(days=1)
        assert start < min(whole["hour"]) and max(whole["hour"]) < end


def test_blobs_of_a_date_come_by_name_however_many_facts_there_are(tmp_path: Path) -> None:
    """So that of very many rejects the same are kept as of the blobs themselves."""
    for number in range(48):
        path = blob_path(tmp_path / "blobs", hour=DAY + dt.timedelta(hours=number // 2), vnet="AB"[number % 2])
        path.parent.mkdir(parents=True)
        path.write_bytes((TRAPS / "fourteen_fields.json").read_bytes())
    lake = opened(synced(tmp_path / "blobs", tmp_path / "lake"))
    (part,) = lake_parts(lake, Window(), at_once=1)
    assert [part.blobs] == [each.blobs for each in lake_parts(lake, Window())]
    names = [blob.name for blob in part.blobs]
    assert len(names) == 48 and names == sorted(names)


def test_a_reader_stays_at_the_version_that_it_opened(sample_lake: Path, tmp_path: Path) -> None:
    folder = synced(SAMPLES, tmp_path / "lake")
    scan = fl.scan(str(folder), now=LATER)
    reader = opened(folder)
    before = reader.scan_flows().collect().height
    opened(folder).compact()
    assert reader.scan_flows().collect().height == before
    assert scan.ledger.rows == before


def test_rows_that_another_program_removed_are_an_error_and_no_smaller_answer(tmp_path: Path) -> None:
    folder = synced(SAMPLES, tmp_path / "lake")
    opened(folder).flows.delete("dst_port = 443")
    with pytest.raises(LedgerError, match=r"expected .* rows of .*, found"):
        _ = fl.scan(str(folder), now=LATER).evidence


@pytest.mark.parametrize(
    ("column", "damage"),
    [
        ("rejects", None),
        ("rejects", {"offset": 3, "reason": None, "sample": "x"}),
        ("unknown_codes", None),
        ("unknown_codes", {"note": None, "count": 1}),
    ],
)
def test_a_fact_that_lacks_part_of_what_it_tells_is_an_error(tmp_path: Path, column: str, damage: object) -> None:
    folder = synced(SAMPLES, tmp_path / "lake")
    rows = deltalake.DeltaTable(folder / "_ledger").to_pyarrow_table()
    facts = rows.to_pylist()
    facts[0][column] = [damage]
    damaged = pa.Table.from_pylist(facts, schema=rows.schema)
    deltalake.write_deltalake(folder / "_ledger", damaged, mode="overwrite")
    with pytest.raises(LedgerError, match="lacks part of a reject or of an unknown code"):
        _ = fl.scan(str(folder), now=LATER).evidence


@pytest.mark.slow
def test_a_byte_of_a_page_that_changed_on_disk_is_an_error_or_nothing(tmp_path: Path) -> None:
    folder = synced(SAMPLES, tmp_path / "lake")
    kept = tmp_path / "flows.parquet"
    with kept.open("wb") as file:
        fl.scan(str(SAMPLES), now=LATER).write_flows(file)
    chance = random.Random(seed := random.randrange(1 << 30))
    print(f"seed {seed}")
    for source, files in ((folder, sorted(folder.rglob("*.parquet"))), (kept, [kept])):
        expected = fl.rule_usage(fl.scan(str(source), now=LATER)).collect()
        told = 0
        for path in files:
            whole = path.read_bytes()
            # Behind the pages stand the footer, its length and a mark of four bytes.
            pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
            for _ in range(12):
                changed = bytearray(whole)
                changed[chance.randrange(pages)] ^= 1 << chance.randrange(8)
                path.write_bytes(changed)
                try:
                    found = fl.rule_usage(fl.scan(str(source), now=LATER)).collect()
                except fl.FlowlensError:
                    told += 1
                else:
                    assert_frame_equal(expected, found)
            path.write_bytes(whole)
        assert told


@pytest.mark.parametrize("beside", [str(SAMPLES), "workspace:00000000-0000-0000-0000-000000000000"])
def test_a_lake_is_not_added_to_what_may_be_the_same_traffic(sample_lake: Path, beside: str) -> None:
    with pytest.raises(SourceError, match="both may describe the same traffic"):
        _ = fl.scan(str(sample_lake), beside, now=LATER).evidence


def test_parquet_that_convert_wrote_gives_the_same_flows_and_findings(tmp_path: Path) -> None:
    path = tmp_path / "flows.parquet"
    blobs = fl.scan(str(SAMPLES), now=LATER)
    with path.open("wb") as file:
        written = blobs.write_flows(file)
    kept = fl.scan(str(path), now=LATER)
    assert kept.ledger.rows == written.rows and kept.ledger.complete
    for question in (fl.encryption_status, fl.rule_usage):
        assert_frame_equal(question(blobs).collect(), question(kept).collect())


def test_parquet_that_gives_fewer_rows_than_it_says_is_an_error(tmp_path: Path) -> None:
    # In the header of a page stands how many values it has, under no checksum: of one row such a change leaves none.
    path = tmp_path / "flows.parquet"
    with path.open("wb") as file:
        fl.scan(str(SAMPLES), now=LATER).write_flows(file)
    pq.write_table(pq.read_table(path).slice(0, 1), path, compression="zstd", write_page_checksum=True)
    whole, told = path.read_bytes(), 0
    for at in range(4, 40):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                rows = sum(table.num_rows for table in parquet_part(str(path)).tables())
            except fl.FlowlensError as error:
                told += "expected 1 rows, found 0" in str(error)
            else:
                assert rows == 1
    assert told


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("time", None, "a row has no time"),
        ("src_ip", None, "a row has no src_ip"),
        ("flow_status", None, "a row has no flow_status"),
        ("time", 2**62, "a row has a time that there is not"),
        ("record_time", -(2**62), "a row has a record_time that there is not"),
        ("dst_port", 2**31 - 1, "a row has a dst_port that there is not"),
        ("protocol", -1, "a row has a protocol that there is not"),
    ],
)
def test_values_that_no_flow_tuple_has_are_refused(tmp_path: Path, name: str, value: int | None, problem: str) -> None:
    path = tmp_path / "flows.parquet"
    with path.open("wb") as file:
        fl.scan(str(SAMPLES), now=LATER).write_flows(file)
    rows = pq.read_table(path)
    kind = rows.schema.field(name).type
    whole = pa.array([value] * rows.num_rows, pa.int64() if value is not None else kind).cast(kind)
    pq.write_table(rows.set_column(rows.schema.get_field_index(name), name, whole), path)
    with pytest.raises(SourceError, match=problem):
        _ = fl.scan(str(path), now=LATER).evidence


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flows.parquet"
    with path.open("wb") as file:
        fl.scan(str(SAMPLES), now=LATER).write_flows(file)
    rows = pq.read_table(path)
    pq.write_table(rows.append_column("time", rows["time"]), path)
    with pytest.raises(SourceError, match="it has the column time twice"):
        _ = fl.scan(str(path), now=LATER).evidence


def test_other_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(SourceError, match="is not Parquet that flowlens wrote: it lacks the column time"):
        _ = fl.scan(str(path)).evidence
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(SourceError, match="is no readable Parquet file"):
        _ = fl.scan(str(path)).evidence


def test_a_delta_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_delta(tmp_path / "other")
    with pytest.raises(SourceError, match="is a Delta table that flowlens sync did not write"):
        _ = fl.scan(str(tmp_path / "other")).evidence


def test_az_stays_an_address_that_tools_read_differently() -> None:
    with pytest.raises(ConfigError, match="read differently"):
        fl.scan("az://container/lake")
