"""The queries in kql/: their form, and that they give what flowlens gives from the same rows.

A query is executed as it is by an interpreter of the language over made rows; the columns and types of NTANetAnalytics
in data/ are those of the Azure Monitor table reference, 2026-07.
"""

from __future__ import annotations

import csv
import datetime as dt
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import duckdb_kql
import polars as pl
import pytest
from duckdb_kql import engine

import flowlens as fl
from flowlens import schema
from tests import truth

TOP = Path(__file__).resolve().parents[1]
QUERIES = sorted((TOP / "kql").glob("*.kql"))
EXPORT = TOP / "sample_logs" / "traffic_analytics" / "ntanetanalytics.json"
HEADINGS = ("Title", "Purpose", "Table", "Parameters", "Columns")
# What a query leaves out of its result table, and why.
LEFT_OUT = {"encryption_status": {"advice": "its sentences stand in the package and nowhere else"}}
DUCKDB_TYPE = {
    "string": "VARCHAR",
    "long": "BIGINT",
    "int": "INTEGER",
    "real": "DOUBLE",
    "bool": "BOOLEAN",
    "datetime": "TIMESTAMP",
}
DAY_AFTER = dt.datetime(2026, 6, 16, 6, tzinfo=dt.UTC)
SWITCH = dt.datetime(2026, 6, 15, 11, tzinfo=dt.UTC)
SEEDS = (5, 17)
"""Networks of several VNets with flows seen at hops, the second with some that only hops saw."""


Row = Mapping[str, object]


def header(text: str) -> dict[str, str]:
    """Heading -> its text, of the comment lines at the top."""
    return dict(re.findall(r"^// (\w+): (.+)$", text, re.MULTILINE)[: len(HEADINGS)])


def export() -> list[dict[str, object]]:
    return json.loads(EXPORT.read_bytes())


def database() -> duckdb.DuckDBPyConnection:
    """A database with an empty table NTANetAnalytics."""
    with (TOP / "tests" / "data" / "ntanetanalytics_columns.csv").open(encoding="utf-8", newline="") as file:
        columns = ", ".join(f'"{row["column"]}" {DUCKDB_TYPE[row["type"]]}' for row in csv.DictReader(file))
    connection = duckdb_kql.connect()
    connection.sql(f"CREATE TABLE NTANetAnalytics ({columns})")
    return connection


@functools.cache
def translated(query: str, now: dt.datetime) -> duckdb_kql.TranslationResult:
    """The query in the interpreter's own language; translating takes longer than running."""
    with database() as connection:
        return duckdb_kql.to_sql(query, schema=engine.schema(connection), query_now=now)


def executed(query: str, rows: Sequence[Row], *, now: dt.datetime = DAY_AFTER) -> list[dict[str, Any]]:
    """The result of the query over ``rows`` of NTANetAnalytics, run at ``now``."""
    sql = translated(query, now)
    with database() as connection:
        connection.register("given", pl.DataFrame(rows, infer_schema_length=None))
        connection.sql("INSERT INTO NTANetAnalytics BY NAME SELECT * FROM given")
        return connection.sql(str(sql), params=sql.parameters).pl().to_dicts()


def bound(query: str, start: dt.datetime, end: dt.datetime) -> str:
    """The query with its two ``let`` lines set to a window."""
    lines = {"ago(1d)": start, "now()": end}
    for name, (default, time) in zip(("start", "end"), lines.items(), strict=True):
        query = query.replace(f"let {name} = {default};", f"let {name} = datetime({time.isoformat()});")
    return query


def encryption_query() -> str:
    return (TOP / "kql" / "encryption_status.kql").read_text(encoding="utf-8")


def comparable(rows: Iterable[Row]) -> list[list[object]]:
    """Pairs in order, with the columns that both ways give; a subnet that only a prefix names is left out."""
    columns = [c.name for c in schema.ENCRYPTION_STATUS_COLUMNS if c.name != "advice"]

    def cell(row: Row, name: str) -> object:
        value = row[name]
        if isinstance(value, dt.datetime):
            return value.replace(tzinfo=None)
        if name.endswith("_subnet") and "/" in str(value):
            return None
        return int(value) if name.startswith(("bytes_", "flows_")) and value is not None else value or None

    found = [[cell(row, name) for name in columns] for row in rows]
    return sorted(found, key=str)


def analysed(path: Path, **window: dt.datetime) -> list[dict[str, object]]:
    """What flowlens gives from the rows, without the pairs that the query leaves out."""
    pairs = fl.encryption_status(fl.scan(path, **window)).collect()
    return pairs.filter(~pl.col("eligibility").is_in(["public peer", "platform"])).to_dicts()


def test_there_is_a_query() -> None:
    assert [path.stem for path in QUERIES] == ["encryption_status"]


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_header_and_parameters(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert tuple(header(text)) == HEADINGS
    assert header(text)["Table"] == "NTANetAnalytics"
    for name, kind in re.findall(r"(\w+) \((\w+)\)", header(text)["Parameters"]):
        assert kind in ("datetime", "timespan", "dynamic", "string")
        assert len(re.findall(rf"^let {name} = [^\n]+;$", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_columns_are_those_of_the_result_table(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    listed = header(text)["Columns"].split(", ")
    last = text.rstrip().splitlines()[-1]
    assert last == f"| project {', '.join(listed)}"
    assert listed == [name for name in schema.RESULTS[path.stem].names if name not in LEFT_OUT[path.stem]]


def test_codes_are_those_of_the_schema() -> None:
    (table,) = re.findall(r"let codes = datatable\([^)]+\) \[(.*?)\];", encryption_query(), re.DOTALL)
    found = {
        (word, code, status, int(rank))
        for word, code, status, rank in re.findall(r'"([^"]+)", "([^"]+)", "([^"]+)", (\d+)', table)
    }
    expected = {
        (word.lower(), code, status, rank)
        for rank, (code, status, wording, _) in enumerate(schema.ENCRYPTION_CODES)
        for word in (code, wording)
    }
    assert found == expected


def test_pairs_are_those_of_the_analysis() -> None:
    found = executed(encryption_query(), export())
    assert len(found) == 14
    assert comparable(found) == comparable(analysed(EXPORT))


def test_window_is_half_open_by_interval(tmp_path: Path) -> None:
    # The first interval inside begins at the switch, the first one behind at the end.
    start, end = SWITCH, SWITCH + dt.timedelta(hours=3)
    found = executed(bound(encryption_query(), start, end), export())
    inside = [row for row in export() if start <= dt.datetime.fromisoformat(row["FlowIntervalStartTime"]) < end]
    path = tmp_path / "inside.json"
    path.write_text(json.dumps(inside), encoding="utf-8")
    assert comparable(found) == comparable(analysed(path))
    assert comparable(found) != comparable(analysed(EXPORT))


def test_letters_and_codes_are_read_as_words() -> None:
    letters = {"Inbound": "I", "Outbound": "O", "Allowed": "A", "Denied": "D", "TCP": "T", "UDP": "U", "ICMP": "1"}
    codes = {wording: code.lower() for code, _, wording, _ in schema.ENCRYPTION_CODES}
    written = [
        row
        | {name: letters[row[name]] for name in ("FlowDirection", "FlowStatus", "L4Protocol")}
        | {"FlowEncryption": codes[row["FlowEncryption"]], "MacAddress": row["MacAddress"].replace("-", "").lower()}
        for row in export()
    ]
    assert comparable(executed(encryption_query(), written)) == comparable(analysed(EXPORT))


def test_rows_that_are_no_flows_of_a_pair_change_nothing() -> None:
    (flow, *_) = (row for row in export() if row["FlowEncryption"] == "Encrypted")
    clear = flow | {"FlowEncryption": "Unencrypted"}
    inside = dt.datetime.fromisoformat(flow["FlowIntervalStartTime"])
    others = [
        clear | {"SubType": "StatusMessage"},
        clear | {"IsFlowCapturedAtUdrHop": True, "AclRule": "platformrule", "AclGroup": "Unspecified"},
        clear | {"FlowStatus": "Denied", "PacketsSrcToDest": 0, "PacketsDestToSrc": 0},
        clear | {"SrcIp": "", "FlowType": "ExternalPublic", "SrcPublicIps": "203.0.113.9|1|1|1|1|60|60"},
        clear | {"SrcIp": "203.0.113.9", "FlowType": "MaliciousFlow"},
        clear | {"DestIp": "168.63.129.16"},
        clear | {"FlowIntervalStartTime": (inside - dt.timedelta(days=2)).isoformat()},
    ]
    found = executed(encryption_query(), [*export(), *others])
    assert comparable(found) == comparable(analysed(EXPORT))


def test_a_row_at_a_hop_speaks_for_the_pair_but_does_not_count() -> None:
    pair = {"src_workload": "rg-app/vm-app1", "dst_workload": "rg-data/vm-sql1"}
    (flow, *_) = (
        row for row in export() if (row["SrcVm"], row["DestVm"]) == (pair["src_workload"], pair["dst_workload"])
    )
    hop = flow | {
        "IsFlowCapturedAtUdrHop": True,
        "MacAddress": "00-00-5E-00-53-FF",
        "FlowEncryption": "Software not ready",
    }
    before, after = (
        next(row for row in executed(encryption_query(), rows) if pair.items() <= row.items())
        for rows in (export(), [*export(), hop | {"FlowDirection": "Inbound"}])
    )
    assert (before["encryption_code"], after["encryption_code"]) == ("NX", "NX_SW_NOT_READY")
    assert after["bytes_unencrypted"] == before["bytes_unencrypted"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (None, ("Unencrypted", "by design", "NX_LOCAL_DST")),
        ("Unencrypted", ("Unencrypted", "eligible", "NX")),
        ("Encrypted", ("Encrypted", "eligible", "NX_LOCAL_DST")),
    ],
)
def test_what_stays_on_a_host_says_nothing_beside_anything_else(
    other: str | None, expected: tuple[str, str, str]
) -> None:
    pair = {"src_workload": "rg-app/vm-app1", "dst_workload": "rg-app/vm-rhel1"}
    (flow, *_) = (row for row in export() if row["FlowEncryption"] == "Destination on same host")
    rows = export() if other is None else [*export(), flow | {"FlowEncryption": other, "BytesSrcToDest": 1_000_000}]
    (found,) = (row for row in executed(encryption_query(), rows) if pair.items() <= row.items())
    assert (found["encryption_status"], found["eligibility"], found["encryption_code"]) == expected
    assert (found["bytes_unencrypted"] > 1_000_000) == (other == "Unencrypted")
    assert (found["bytes_unencrypted"] == 0) == (other == "Encrypted")


@pytest.mark.parametrize("seed", SEEDS)
def test_invented_networks_give_the_same_pairs(seed: int, tmp_path: Path) -> None:
    network = truth.generate(seed, window=False)
    path = tmp_path / "rows.json"
    network.write_traffic_analytics(path)
    rows = json.loads(path.read_bytes())
    year = (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2027, 1, 1, tzinfo=dt.UTC))

    # Peers without a log of their own are named by the row alone; the analysis goes by who is known in the VNet.
    def judged(pairs: Iterable[Row]) -> list[list[object]]:
        return comparable(pair for pair in pairs if pair["eligibility"] != "unknown peer")

    found = judged(executed(bound(encryption_query(), *year), rows))
    assert len(found) > 10
    assert found == judged(analysed(path))
