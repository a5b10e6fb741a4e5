"""Tables, code tables and status words: what other programs rely on, and that Delta and DuckDB keep it."""

import datetime as dt
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import flowlens as fl
from flowlens import schema

UTC = dt.UTC
SAMPLES = Path(__file__).parents[1] / "sample_logs"
CODE_TABLES = ("FLOW_STATES", "DIRECTIONS", "FLOW_STATUSES", "PROTOCOLS", "ENCRYPTION_CODES")
STATUS_WORDS = (
    "PAIR_STATUSES",
    "ELIGIBILITIES",
    "EGRESS_STATUSES",
    "EGRESS_PROBLEMS",
    "MATCHES",
    "RULE_KINDS",
    "DEPENDENCY_STATUSES",
    "FIX_WAYS",
    "OUTBOUND_METHODS",
    "PATHS",
    "READINESS_STATUSES",
    "COVERAGE_STATES",
    "VERDICTS",
    "ADDRESS_KINDS",
    "DEFAULT_RULES",
)
CONSTANTS = (
    "FIVE_TUPLE",
    "COUNTERS",
    "COUNTER_LIMIT",
    "SMALL_REPLY_BYTES",
    "REPLY_SOURCE_PORT_BELOW",
    "REPLY_DESTINATION_PORT_FROM",
    "ZERO_GUID",
    "PLATFORM_RULE",
    "UNSPECIFIED",
    "UNKNOWN_PREFIX",
    "RULE_PREFIX",
)
TYPES = {pa.timestamp("us", tz="UTC"), pa.string(), pa.int16(), pa.int32(), pa.int64(), pa.bool_()}


def dump():
    lines = []
    for name, table in schema.TABLES.items():
        lines.append(name)
        for field in table:
            null = "null" if field.metadata[b"null"] == b"True" else "not null"
            lines.append(f"  {field.name:<22} {field.type!s:<22} {null:<9} {field.metadata[b'description'].decode()}")
        lines.append("")
    for name in CODE_TABLES:
        lines += [name, *("  " + " | ".join(map(str, row)) for row in getattr(schema, name)), ""]
    for name in STATUS_WORDS:
        lines += [name, *(f"  {word}" for word in getattr(schema, name)), ""]
    lines += [f"{name} = {getattr(schema, name)!r}" for name in CONSTANTS]
    return "\n".join(lines) + "\n"


def test_the_contract_is_the_reviewed_one(golden):
    golden("schema.txt", dump())


@pytest.mark.parametrize("name", schema.TABLES)
def test_every_column_is_described_in_a_sentence_and_named_once(name):
    fields = list(schema.TABLES[name])
    assert len({field.name for field in fields}) == len(fields) > 0
    for field in fields:
        assert field.type in TYPES, f"{field.name}: Delta, Spark and DuckDB do not all keep {field.type}"
        text = field.metadata[b"description"].decode()
        assert len(text) > 3 and text.endswith("."), f"{field.name}: {text!r}"
        assert field.name == field.name.lower()


@pytest.mark.parametrize("name", CODE_TABLES)
def test_codes_are_unique(name):
    codes = [row[0] for row in getattr(schema, name)]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("name", [*(name for name in CODE_TABLES if name != "ENCRYPTION_CODES"), *STATUS_WORDS])
def test_words_are_unique_whatever_their_case(name):
    words = [row if isinstance(row, str) else row[1] for row in getattr(schema, name)]
    assert len({word.lower() for word in words}) == len(words)


def test_inverse_maps_hold_every_row():
    assert schema.STATE_NAME == {"B": "Begin", "C": "Continuing", "E": "End", "D": "Deny"}
    assert schema.DIRECTION_NAME == {"I": "Inbound", "O": "Outbound"}
    assert schema.STATUS_NAME == {"A": "Allowed", "D": "Denied"}
    assert schema.PROTOCOL_OF_LETTER == {"T": 6, "U": 17}
    assert (schema.TCP, schema.UDP) == (6, 17)
    for number, name, _ in schema.PROTOCOLS:
        assert (
            schema.PROTOCOL_NUMBER[schema.PROTOCOL_NAME[number].lower()]
            == number
            == schema.PROTOCOL_NUMBER[name.lower()]
        )
    maps = (schema.ENCRYPTION_STATUS, schema.ENCRYPTION_ADVICE, schema.ENCRYPTION_SEVERITY)
    for code, status, wording, advice in schema.ENCRYPTION_CODES:
        assert schema.ENCRYPTION_STATUS[code] == status
        assert schema.ENCRYPTION_CODE_OF_WORDING[wording.lower()] == code
        assert schema.ENCRYPTION_ADVICE[code] == advice
    assert {len(found) for found in (*maps, schema.ENCRYPTION_CODE_OF_WORDING)} == {len(schema.ENCRYPTION_CODES)}


def test_encryption_codes_mean_what_the_documentation_says():
    by_status = {}
    for code, status in schema.ENCRYPTION_STATUS.items():
        by_status.setdefault(status, set()).add(code)
    assert by_status == {
        "Encrypted": {"X"},
        "Unencrypted": {"NX", "NX_LOCAL_DST", "NX_FALLBACK", "NX_HW_NOT_SUPPORTED"},
        "Dropped": {"NX_SW_NOT_READY", "NX_NOT_ACCEPTED", "NX_NOT_SUPPORTED", "unspecified"},
    }
    assert set(by_status) <= set(schema.PAIR_STATUSES)
    ranks = schema.ENCRYPTION_SEVERITY
    worst = {status: [ranks[code] for code in codes] for status, codes in by_status.items()}
    assert max(worst["Encrypted"]) < min(worst["Unencrypted"])
    assert max(worst["Unencrypted"]) < min(worst["Dropped"])


def test_problems_are_the_first_statuses_and_all_of_them_failures():
    assert set(schema.EGRESS_PROBLEMS) == {
        "Denied",
        "Denied at destination",
        "Unanswered",
        "Answered without data",
        "Partly denied",
    }
    assert schema.EGRESS_STATUSES[-1] == "Reached"


def test_conversations_have_one_measure_or_key_per_column():
    keys = [c.name for c in schema.CONVERSATION_KEYS]
    measures = [c.name for c in (*schema.CONVERSATION_SUMS, *schema.CONVERSATION_MINS, *schema.CONVERSATION_MAXS)]
    assert sorted(keys + measures) == sorted(schema.CONVERSATIONS.names)
    assert schema.CONVERSATIONS.names[: len(keys)] == keys


def test_polars_types_are_those_of_arrow():
    for table in schema.TABLES.values():
        frame = pl.DataFrame(schema=schema.polars_schema(table))
        assert frame.columns == table.names
        assert frame.to_arrow().cast(table).schema.equals(table)


def test_plain_decodes_dictionaries_of_any_chunks():
    rows = [edge_row(schema.FLOWS, n) for n in range(3)]
    table = pa.Table.from_pylist(rows, schema=schema.FLOWS)
    encoded = pa.concat_tables([table.slice(n, 1).cast(schema.ENCODED_FLOWS) for n in (2, 0, 1)])
    assert schema.plain(encoded).schema.equals(schema.FLOWS)
    assert schema.plain(encoded).to_pylist() == [rows[2], rows[0], rows[1]]


EDGES = {
    pa.timestamp("us", tz="UTC"): (
        dt.datetime(1970, 1, 1, tzinfo=UTC),
        dt.datetime(2100, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        dt.datetime(2026, 10, 25, 1, 30, 0, 1, tzinfo=UTC),
    ),
    pa.string(): ("", "null", "\u202e\x1b[31m\x00 é 日本 \U0001f600", "a\n,\"'\\" + "x" * 70_000),
    pa.int16(): (-(2**15), 2**15 - 1, 0, 58),
    pa.int32(): (-(2**31), 2**31 - 1, 0, 65_535),
    pa.int64(): (-(2**63), 2**63 - 1, 0, schema.COUNTER_LIMIT - 1),
    pa.bool_(): (False, True, False, True),
}


def edge_row(table, number):
    return {field.name: EDGES[field.type][number] for field in table}


def edge_rows(table):
    rows = [edge_row(table, number) for number in range(4)]
    # Every column null once while the others are not, and all of them null together.
    rows += [edge_row(table, 3) | {name: None} for name in table.names]
    return pa.Table.from_pylist([*rows, dict.fromkeys(table.names)], schema=table)


def through_delta(table, folder):
    write_deltalake(folder, table)
    return DeltaTable(folder).to_pyarrow_table()


def through_duckdb(table, _folder):
    with duckdb.connect() as connection:
        # The zone is only how DuckDB labels what it hands out.
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", table)
        return connection.sql("SELECT * FROM given").to_arrow_table()


@pytest.fixture(scope="module")
def sample_scan():
    return fl.scan(SAMPLES, threads=1)


def sample_rows(scan, name):
    frame = (scan.flows if name == "flows" else scan.conversations).collect()
    assert frame.height > 500
    return frame.to_arrow().cast(schema.TABLES[name])


@pytest.mark.parametrize("through", [through_delta, through_duckdb])
@pytest.mark.parametrize("name", ["flows", "conversations"])
@pytest.mark.parametrize("rows", ["edges", "sample_logs"])
def test_delta_and_duckdb_give_back_the_same_rows_and_types(through, name, rows, sample_scan, tmp_path):
    contract = schema.TABLES[name]
    table = edge_rows(contract) if rows == "edges" else sample_rows(sample_scan, name)
    back = through(table, tmp_path)
    assert back.schema.equals(contract)
    assert sorted(map(repr, back.to_pylist())) == sorted(map(repr, table.to_pylist()))


@pytest.mark.parametrize("name", ["inventory", *schema.RESULTS])
def test_the_other_tables_survive_too(name, tmp_path):
    table = edge_rows(schema.TABLES[name])
    for through in (through_delta, through_duckdb):
        back = through(table, tmp_path)
        assert back.schema.equals(table.schema)
        assert sorted(map(repr, back.to_pylist())) == sorted(map(repr, table.to_pylist()))
