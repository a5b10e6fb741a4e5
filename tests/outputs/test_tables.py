"""JSON, CSV and Parquet: read back by other readers than those that wrote them, and files that are whole or not there."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowlens as fl
from flowlens import schema
from flowlens.errors import ConfigError, SourceError
from flowlens.outputs import OUTPUTS, SUFFIXES
from flowlens.outputs.tables import (
    BY_TABLE,
    atomic,
    ledger_document,
    read_baseline,
    write_csv,
    write_flows_json,
    write_json,
    write_parquet,
    write_tables,
)
from flowlens.outputs.text import clean, is_formula
from tests.flow_logs import CONTAINER, SAMPLE, run
from tests.make_logs import LATER

TEXT = (
    st.none()
    | st.text(max_size=8)
    | st.sampled_from(["=1+1", "-", "\x7f", "\x1b[31m", 'a"b,c', "a\nb", "＝1", "\u202e"])
)
TIMES = st.none() | st.integers(0, 7 * 10**15).map(
    lambda us: dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)
)
COUNTS = st.none() | st.integers(-(2**63), 2**63 - 1)
rows = st.lists(
    st.fixed_dictionaries({"text": TEXT, "time": TIMES, "count": COUNTS, "flag": st.none() | st.booleans()})
)
SCHEMA = {"text": pl.String, "time": pl.Datetime("us", "UTC"), "count": pl.Int64, "flag": pl.Boolean}


def written(write: Callable[..., None], *what: Any) -> bytes:
    file = io.BytesIO()
    write(*what, file)
    return file.getvalue()


def as_json(table: pl.DataFrame, ledger: fl.Ledger | None = None, **settings: object) -> bytes:
    return written(write_flows_json, table, ledger or fl.Ledger(), settings)


@pytest.fixture(scope="module")
def report() -> fl.Report:
    return fl.report(fl.scan(SAMPLE / CONTAINER, now=LATER))


@pytest.fixture(scope="module")
def asides() -> dict[str, pl.DataFrame]:
    """The tables that are no part of a report on all questions."""
    scan = fl.scan(SAMPLE / CONTAINER, now=LATER)
    return {
        "rule_dependencies": fl.rule_dependencies(scan, "DenyKms").collect(),
        "private_subnet_readiness": fl.private_subnet_readiness(scan).collect(),
    }


# ---- JSON


@given(rows)
def test_json_is_ascii_without_control_bytes_and_reads_back(given_rows: list[dict[str, Any]]) -> None:
    text = as_json(pl.DataFrame(given_rows, schema=SCHEMA))
    # DEL is the one control character that JSON leaves as it is.
    assert all(byte == 10 or 32 <= byte < 127 for byte in text.replace(b"\x7f", b""))
    for before, after in zip(given_rows, json.loads(text)["tables"]["flows"], strict=True):
        time = after.pop("time")
        assert (time and dt.datetime.fromisoformat(time)) == before["time"]
        assert time is None or time.endswith("Z")
        assert after == {name: before[name] for name in ("text", "count", "flag")}


@given(st.integers(2**53, 2**63 - 1))
def test_large_integers_are_written_as_they_are(number: int) -> None:
    assert f'"n":{number}}}'.encode() in as_json(pl.DataFrame({"n": [number]}))


def test_json_refuses_what_it_has_no_form_for() -> None:
    with pytest.raises(TypeError, match="no JSON for object"):
        as_json(pl.DataFrame(), odd=object())


@pytest.mark.parametrize("name", ["né", "a\ud800b", '"[{,\\'])
def test_what_stands_before_the_tables_is_indented_whatever_a_file_is_called(name: str) -> None:
    told = as_json(pl.DataFrame(), sources=[name, []], odd={}).decode("ascii")
    assert told.endswith("\n") and told.partition(',\n "tables"')[0] + "\n}" == json.dumps(
        {key: value for key, value in json.loads(told).items() if key != "tables"}, indent=1
    )
    assert json.loads(told)["settings"]["sources"] == [name, []]


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 10_001, 20_001])
def test_tables_of_any_length_are_whole(count: int) -> None:
    table = pl.DataFrame({"n": range(count)}, schema={"n": pl.Int64})
    assert json.loads(as_json(table))["tables"] == {"flows": [{"n": n} for n in range(count)]}
    assert list(csv.reader(io.StringIO(written(write_csv, table).decode()))) == [
        ["n"],
        *([str(n)] for n in range(count)),
    ]


def test_the_document_holds_everything_the_report_holds(report: fl.Report) -> None:
    told = json.loads(written(write_json, report))
    assert told["schema_version"] == 1
    assert {name: len(rows) for name, rows in told["tables"].items()} == {n: t.height for n, t in report.tables.items()}
    assert [finding["id"] for finding in told["findings"]] == [finding.id for finding in report.findings]
    assert {name: verdict["text"] for name, verdict in told["verdicts"].items()} == {
        name: verdict.text for name, verdict in report.verdicts.items()
    }
    assert told["coverage"] == dict(report.coverage)
    for name, kind in report.tables["encryption_status"].schema.items():
        if isinstance(kind, pl.Datetime):
            times = [row[name] for row in told["tables"]["encryption_status"]]
            assert [t and dt.datetime.fromisoformat(t) for t in times] == report.tables["encryption_status"][
                name
            ].to_list()


def test_the_ledger_stands_in_full(report: fl.Report) -> None:
    told = ledger_document(report.ledger)
    assert set(fl.Ledger.__slots__) | {"complete"} == set(told)
    reject = fl.Reject("a.json", 7, "why", "sample")
    (shown,) = json.loads(as_json(pl.DataFrame(), fl.Ledger(rejected=1, rejects=(reject,))))["ledger"]["rejects"]
    assert shown == {"blob": "a.json", "offset": 7, "reason": "why", "sample": "sample"}


# ---- CSV


@given(rows)
def test_csv_reads_back_with_its_guards(given_rows: list[dict[str, Any]]) -> None:
    text = written(write_csv, pl.DataFrame(given_rows, schema=SCHEMA)).decode("utf-8")
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.splitlines()[0] == "text,time,count,flag"
    for before, after in zip(given_rows, read, strict=True):
        text = before["text"] or ""
        assert after["text"] == ("'" if is_formula(text) else "") + clean(text)
        assert (after["time"] or None) == (before["time"] and f"{before['time']:%Y-%m-%dT%H:%M:%S.%fZ}")
        assert after["count"] == ("" if before["count"] is None else str(before["count"]))
        assert after["flag"] == ("" if before["flag"] is None else str(before["flag"]).lower())


# ---- Parquet


@given(rows)
def test_parquet_keeps_everything_as_it_is(given_rows: list[dict[str, Any]]) -> None:
    table = pl.DataFrame(given_rows, schema=SCHEMA)
    assert pq.read_table(io.BytesIO(written(write_parquet, table))).to_pylist() == given_rows


@pytest.mark.parametrize("name", schema.RESULTS)
def test_parquet_has_the_contracts_types(
    report: fl.Report, asides: dict[str, pl.DataFrame], name: str, tmp_path: Path
) -> None:
    write_tables({**report.tables, **asides}, tmp_path, "parquet")
    found = pq.read_schema(tmp_path / f"{name}.parquet")
    contract = schema.RESULTS[name]
    assert found.names == contract.names
    # polars writes text as large text, which is the same column to every reader.
    kinds = [str(kind).removeprefix("large_") for kind in found.types]
    assert kinds == [str(kind) for kind in contract.types]


def test_one_table_a_file(report: fl.Report, tmp_path: Path) -> None:
    for face in BY_TABLE:
        with pytest.raises(ConfigError, match="5 tables do not fit one file"):
            OUTPUTS[face](report, io.BytesIO())
        paths = write_tables(report.tables, tmp_path / face, face)
        assert [path.name for path in paths] == [f"{name}.{face}" for name in report.tables]
        assert sorted(path.name for path in (tmp_path / face).iterdir()) == sorted(path.name for path in paths)


@pytest.mark.parametrize("face", sorted({*OUTPUTS} - {"json", *BY_TABLE}))
@pytest.mark.parametrize("command", ["flows", "query", "compare"])
def test_a_format_of_reports_is_refused_where_there_is_none(command: str, face: str) -> None:
    sources = {"query": ["rule_usage", "--workspace", "11111111-2222-3333-4444-555555555555"], "compare": ["a", "b"]}
    ran = run(command, *sources.get(command, ["no-such-logs"]), "--start", "24h", "--format", face)
    assert ran.code == 2
    assert f"--format {face}: shows a report, which this is none of" in ran.err


def test_every_suffix_names_a_format() -> None:
    assert set(SUFFIXES.values()) == {*OUTPUTS, "table"}


# ---- an earlier report


def test_a_report_reads_back_as_a_baseline(report: fl.Report, tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    path.write_bytes(written(write_json, report))
    baseline = read_baseline(path)
    assert baseline is not None
    assert [finding["id"] for finding in baseline.findings] == [finding.id for finding in report.findings]
    assert len(baseline.destinations) == report.tables["unexpected_destinations"].height
    only_rules = {**json.loads(path.read_bytes()), "findings": [], "tables": {}}
    path.write_text(json.dumps(only_rules))
    # No destinations is not the same as destinations that nobody asked for.
    assert read_baseline(path) == fl.Baseline((), None, only_rules["settings"], report.window)


@pytest.mark.parametrize(
    "window", [None, [], {}, {"start": None, "end": None}, {"start": "x", "end": "y"}, {"start": 1}]
)
def test_a_baseline_without_a_whole_window_has_none(report: fl.Report, tmp_path: Path, window: object) -> None:
    path = tmp_path / "last.json"
    path.write_text(json.dumps({"schema_version": 1, "findings": [], "window": window}))
    found = read_baseline(path)
    assert found is not None and found.window is None


@pytest.mark.parametrize(
    "row", [{"vnet": "\ud800"}, {"dst_port": 10**12}, {"dst_port": -1}, {"dst_port": True}, {"dst_ip": 7}]
)
def test_a_baseline_with_what_no_table_holds_is_refused(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "last.json"
    tables = {"unexpected_destinations": [row]}
    path.write_text(json.dumps({"schema_version": 1, "findings": [], "tables": tables}))
    with pytest.raises(fl.ConfigError, match="is not a whole report"):
        read_baseline(path)


def test_a_flow_log_or_folder_is_no_earlier_report(tmp_path: Path) -> None:
    path = tmp_path / "PT1H.json"
    path.write_text('{"records": []}', encoding="utf-8")
    assert read_baseline(path) is None
    assert read_baseline(tmp_path) is None
    assert read_baseline(tmp_path / "gone.json") is None


# ---- files


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_stops_leaves_what_was_there(tmp_path: Path, stop: type[BaseException], existing: bool) -> None:
    path = tmp_path / "out.json"
    if existing:
        path.write_bytes(b"old")

    def write_half() -> None:
        with atomic(path) as file:
            file.write(b"half")
            raise stop

    with pytest.raises(stop):
        write_half()
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([b"old"] if existing else [])


def test_the_file_is_there_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.json"
    with atomic(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert [each.name for each in path.parent.iterdir()] == ["out.json"]


def test_a_new_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "out.json") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == 0o640


def test_an_existing_file_keeps_its_permissions_and_a_link_its_place(tmp_path: Path) -> None:
    real = tmp_path / "real" / "out.json"
    real.parent.mkdir()
    real.write_bytes(b"old")
    real.chmod(0o604)
    (tmp_path / "link.json").symlink_to(real)
    with atomic(tmp_path / "link.json") as file:
        file.write(b"new")
    assert (tmp_path / "link.json").is_symlink()
    assert (real.read_bytes(), stat.S_IMODE(real.stat().st_mode)) == (b"new", 0o604)
    assert [each.name for each in real.parent.iterdir()] == ["out.json"]


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with atomic(path) as file:
            file.write(b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.parametrize("place", ["file/out.json", "folder", "x" * 300])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match="cannot be written"), atomic(tmp_path / place):
        pass
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]
