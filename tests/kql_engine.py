"""Runs queries as they are, over made rows of NTANetAnalytics: an interpreter of the language on DuckDB.

The functions on address ranges that it lacks are added here as macros; what else it lacks, it refuses.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Mapping, Sequence

import duckdb
import duckdb_kql
import polars as pl
from duckdb_kql import engine
from duckdb_kql.translate.functions import SCALAR_FUNCTIONS, FunctionSpec

from flowlens.query_check import tables

DUCKDB_TYPE = {
    "string": "VARCHAR",
    "long": "BIGINT",
    "int": "INTEGER",
    "real": "DOUBLE",
    "bool": "BOOLEAN",
    "datetime": "TIMESTAMP",
}
# Bits of an address as text; a prefix holds the addresses whose bits start with its own.
_MACROS = {
    "bits_of_4(a)": """list_reduce(
        list_transform(string_split(a, '.'), lambda o: lpad(bin(TRY_CAST(o AS INTEGER)), 8, '0')), lambda x, y: x || y)""",
    "written(a)": "list_filter(string_split(a, ':'), lambda g: g <> '')",
    "groups_of_6(a)": """CASE WHEN contains(a, '::') THEN list_concat(
        written(split_part(a, '::', 1)), list_transform(range(8 - len(written(a))), lambda n: '0'),
        written(split_part(a, '::', 2))) ELSE string_split(a, ':') END""",
    "bits_of_6(a)": """list_reduce(
        list_transform(groups_of_6(a), lambda g: lpad(bin(TRY_CAST('0x' || g AS INTEGER)), 16, '0')), lambda x, y: x || y)""",
    "length_of(p, whole)": "coalesce(TRY_CAST(split_part(p, '/', 2) AS INTEGER), whole)",
    "in_range_4(a, p)": """a <> '' AND NOT contains(a, ':') AND NOT contains(p, ':') AND coalesce(
        starts_with(bits_of_4(a), left(bits_of_4(split_part(p, '/', 1)), length_of(p, 32))), false)""",
    "in_range_6(a, p)": """contains(a, ':') AND contains(p, ':') AND coalesce(
        starts_with(bits_of_6(a), left(bits_of_6(split_part(p, '/', 1)), length_of(p, 128))), false)""",
    "in_any_4(a, ps)": "len(list_filter(CAST(ps AS VARCHAR[]), lambda p: in_range_4(a, p))) > 0",
    "in_any_6(a, ps)": "len(list_filter(CAST(ps AS VARCHAR[]), lambda p: in_range_6(a, p))) > 0",
}
_ADDED = {
    "ipv4_is_in_range": "in_range_4",
    "ipv6_is_in_range": "in_range_6",
    "ipv4_is_in_any_range": "in_any_4",
    "ipv6_is_in_any_range": "in_any_6",
}

# Written out for each text that is made of a value, since that could be a length of time; in these queries it never is.
_LENGTH_OF_TIME = re.compile(
    r"list_transform\(\[epoch_us\(CAST\((?:(?!list_transform).)*?\], lambda _us: CASE WHEN _us < 0 .*? \|\| '0' ELSE '' END\)\[1\]",
    re.DOTALL,
)

FEW_ROWS = 1000
"""Of fewer rows, optimizing a query takes longer than running it as it is written."""

Row = Mapping[str, object]


def database(table: str = "NTANetAnalytics") -> duckdb.DuckDBPyConnection:
    """A database with this table, empty."""
    for name, macro in _ADDED.items():
        SCALAR_FUNCTIONS[name] = FunctionSpec(name, "template", f"{macro}({{0}}, {{1}})", (2,))
    columns = ", ".join(f'"{name}" {DUCKDB_TYPE[kind]}' for name, kind in tables()[table].items())
    connection = duckdb_kql.connect()
    for name, body in _MACROS.items():
        connection.sql(f"CREATE MACRO {name} AS {body}")
    connection.sql(f"CREATE TABLE {table} ({columns})")
    return connection


def simplified(sql: str) -> str:
    """The same for the database, with a fraction of the planning."""
    found = 1
    # One stands within another.
    while found:
        sql, found = _LENGTH_OF_TIME.subn("error('a length of time as text')", sql)
    # Each step is a table expression that reads the one before; read through, their expressions would grow without bound.
    return re.sub(r"\b(_s\d+) AS \(", r"\1 AS MATERIALIZED (", sql)


@functools.cache
def translated(query: str, now: dt.datetime) -> tuple[str, dict[str, object]]:
    """The query in the interpreter's own language, and its parameters; translating takes longer than running."""
    with database() as connection:
        made = duckdb_kql.to_sql(query, schema=engine.schema(connection), query_now=now)
    return simplified(str(made)), made.parameters


def executed(query: str, rows: Sequence[Row], *, now: dt.datetime) -> pl.DataFrame:
    """The result of the query over ``rows`` of NTANetAnalytics, run at ``now``; times are in UTC."""
    sql, parameters = translated(query, now)
    with database() as connection:
        if len(rows) < FEW_ROWS:
            connection.sql("PRAGMA disable_optimizer")
        connection.register("given", pl.DataFrame(rows, infer_schema_length=None))
        connection.sql("INSERT INTO NTANetAnalytics BY NAME SELECT * FROM given")
        # Not as a relation, which is parsed and bound three times.
        result = connection.execute(sql, parameters)
        names = [name for name, *_ in result.description]
        found = pl.DataFrame(result.fetchall(), names, orient="row", infer_schema_length=None)
    return found.with_columns(pl.col(pl.Datetime).dt.replace_time_zone("UTC"))
