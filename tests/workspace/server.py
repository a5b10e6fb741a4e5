"""A Logs query API on loopback: real answers to real KQL over rows that a test gives, and scripted faults.

The queries are executed by an interpreter of the language. It translates a text slowly, so values of ``let`` lines are taken
out before, and put into what it made; queries that differ in nothing else are translated once. Reading what it made takes the
database seconds, however few the rows are, so what was executed over the same rows before is not executed again.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import duckdb_kql
import polars as pl
from duckdb_kql import engine

from flowlens.query_check import tables
from flowlens.sources.slices import COUNT
from tests import kql_engine
from tests.faults.loopback import Handler, serving

WORKSPACE = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
RESOURCE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg-logs/providers/"
    "Microsoft.OperationalInsights/workspaces/law-1"
)
KQL_TYPE = {
    "VARCHAR": "string",
    "BIGINT": "long",
    "HUGEINT": "long",
    "INTEGER": "int",
    "SMALLINT": "int",
    "DOUBLE": "real",
    "BOOLEAN": "bool",
    "TIMESTAMP": "datetime",
    "TIMESTAMP WITH TIME ZONE": "datetime",
}
_VALUE = re.compile(r"^let (\w+) = (?:datetime\(([^)]+)\)|long\((\d+)\)|(\d+));$", re.MULTILINE)
_EMPTY_YEAR = 1901
_MOST_KEPT = 100
_EXECUTED: dict[tuple[object, ...], tuple[list[dict[str, str]], list[list[object]]]] = {}

Fault = Callable[["Asked"], "Told | None"]


@dataclass(frozen=True, slots=True)
class Told:
    """An answer: status, document and headers. ``silent`` keeps the connection open without one for so many seconds."""

    status: int
    document: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as it came: its number, what it is asked of, its text and time span, its header Prefer."""

    number: int
    target: str
    query: str
    span: tuple[dt.datetime, dt.datetime]
    prefer: str
    token: str

    @property
    def is_count(self) -> bool:
        """Whether it only counts."""
        return self.query.endswith(COUNT) or "\n| summarize answered = count()" in self.query


class Table:
    """A table of a workspace; rows can be added while it is asked."""

    def __init__(self, name: str, columns: Mapping[str, str]) -> None:
        self.name = name
        self.columns = dict(columns)
        self.waiting: list[Mapping[str, object]] = []
        self._hash = hashlib.sha256(name.encode())

    def add(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Append rows; columns that a row does not have are null."""
        self.waiting += rows
        self._hash.update(json.dumps(rows, default=str).encode())

    @property
    def digest(self) -> str:
        """What tells its rows from others."""
        return self._hash.hexdigest()

    def create(self, connection: duckdb.DuckDBPyConnection) -> None:
        """The table below a view of its own name, which holds the rows of a time span."""
        columns = ", ".join(f'"{name}" {kql_engine.DUCKDB_TYPE[kind]}' for name, kind in self.columns.items())
        connection.execute(f"CREATE TABLE all_{self.name} ({columns})")
        connection.execute(f"CREATE VIEW {self.name} AS SELECT * FROM all_{self.name}")

    def fill(self, connection: duckdb.DuckDBPyConnection, span: tuple[dt.datetime, dt.datetime]) -> None:
        """Take in what was added, and show the rows whose TimeGenerated lies in the span."""
        if self.waiting:
            rows, self.waiting = self.waiting, []
            given = pl.DataFrame(rows, infer_schema_length=None).cast(pl.String)
            connection.register("given", given)
            connection.execute(f"INSERT INTO all_{self.name} BY NAME SELECT * FROM given")
            connection.unregister("given")
        low, high = (f"TIMESTAMP '{time.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S.%f}'" for time in span)
        where = f"WHERE TimeGenerated >= {low} AND TimeGenerated < {high}"
        connection.execute(f"CREATE OR REPLACE VIEW {self.name} AS SELECT * FROM all_{self.name} {where}")


def newer_table() -> Table:
    """An empty NTANetAnalytics with the columns of the table reference."""
    return Table("NTANetAnalytics", tables()["NTANetAnalytics"])


def older_table() -> Table:
    """An empty AzureNetworkAnalytics_CL with the columns of the schema page."""
    return Table("AzureNetworkAnalytics_CL", {"TimeGenerated": "datetime", **tables()["AzureNetworkAnalytics_CL"]})


@dataclass(slots=True)
class Logs:
    """A running query API with one workspace. ``asked`` lists its queries; ``fault`` may answer in its place."""

    ca_file: Path
    port: int = 0
    tables: dict[str, Table] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    fault: Fault = lambda _asked: None
    after: Callable[[Asked, list[list[object]]], Told | list[list[object]]] = lambda _asked, rows: rows
    connection: duckdb.DuckDBPyConnection | None = None
    schema: str = ""
    closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"https://localhost:{self.port}"

    @property
    def options(self) -> tuple[str, ...]:
        """The options by which the command line asks it, who asks being named by the environment."""
        return "--auth", "environment", "--account-url", self.endpoint, "--ca-file", str(self.ca_file), "--timeout", "5"

    def close(self) -> None:
        """Let what runs end, and run nothing more: the interpreter of queries does not survive the end of the program."""
        with self._lock:
            self.closed = True
            if self.connection is not None:
                self.connection.close()

    def execute(
        self, query: str, span: tuple[dt.datetime, dt.datetime]
    ) -> tuple[list[dict[str, str]], list[list[object]]]:
        """Columns and rows of a query over what there is, TimeGenerated in ``span``. Raises LookupError for a missing table."""
        query = query.rstrip().removesuffix(";")
        if query.endswith(COUNT):
            # Its rows were mostly asked for just before, and counting them once more takes the database as long.
            _, counted = self.execute(query.removesuffix(COUNT), span)
            return [{"name": "Count", "type": "long"}], [[len(counted)]]
        with self._lock:
            if self.closed:
                raise LookupError("closed")
            key = (query, span, *(table.digest for table in self.tables.values()))
            if key in _EXECUTED:
                return _EXECUTED[key]
            if self.connection is None:
                # With the functions that the interpreter lacks, and an empty table in the place of which there will be others.
                self.connection = kql_engine.database()
                self.connection.execute("DROP TABLE NTANetAnalytics")
                for table in self.tables.values():
                    table.create(self.connection)
                self.schema = json.dumps(engine.schema(self.connection))
            for table in self.tables.values():
                table.fill(self.connection, span)
            sql, parameters = _translated(query, tuple(self.tables), self.schema)
            # Not as a relation, which is parsed and bound three times.
            result = self.connection.execute(sql, parameters)
            columns = [{"name": name, "type": KQL_TYPE[str(kind)]} for name, kind, *_ in result.description]
            rows = [[_cell(value) for value in row] for row in result.fetchall()]
            if len(_EXECUTED) >= _MOST_KEPT:
                del _EXECUTED[next(iter(_EXECUTED))]
            _EXECUTED[key] = columns, rows
        return columns, rows


@functools.cache
def _template(query: str, schema: str) -> tuple[str, Any]:
    translated = duckdb_kql.to_sql(query, schema=json.loads(schema), query_now=dt.datetime(2027, 1, 1, tzinfo=dt.UTC))
    return kql_engine.simplified(str(translated)), translated.parameters


def _translated(query: str, names: tuple[str, ...], schema: str) -> tuple[str, Any]:
    """The query in the interpreter's own language, with the values of its ``let`` lines put in last."""
    known = re.findall(r"^(?:\w+AnalyticsIPDetails_CL|\w+Analytics(?:_CL)?)$", query, re.MULTILINE)
    for name in known:
        if name not in names:
            raise LookupError(name)
    values: dict[str, str] = {}

    def away(found: re.Match[str]) -> str:
        number = len(values)
        if found[2]:
            mark = f"{_EMPTY_YEAR}-01-01T00:00:{number:02}.123457Z"
            values[mark] = found[2]
            return f"let {found[1]} = datetime({mark});"
        mark = f"98765432{number:02}"
        values[mark] = found[3] or found[4]
        return f"let {found[1]} = {mark};"

    sql, parameters = _template(_VALUE.sub(away, query), schema)
    for mark, value in values.items():
        sql = sql.replace(mark, value)
    return sql, parameters


def _cell(value: object) -> object:
    if isinstance(value, dt.datetime):
        utc = value.astimezone(dt.UTC) if value.tzinfo else value
        return f"{utc:%Y-%m-%dT%H:%M:%S.%f}0Z"
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def error(code: str, message: str, *inner: tuple[str, str]) -> dict[str, object]:
    """An error as the service words it, with those inside it."""
    document: dict[str, object] = {"code": code, "message": message}
    level = document
    for inner_code, inner_message in inner:
        level["innererror"] = {"code": inner_code, "message": inner_message}
        level = level["innererror"]  # type: ignore[assignment]
    return {"error": document | {"correlationId": "00000000-1111-2222-3333-444444444444"}}


# As the service words them: Azure/azure-sdk-for-java#29243, grafana/grafana#89818, microsoft/foundry-dev-tools#734,
# Azure/azure-sdk-for-python#45580 and the table of errors in the Azure Monitor documentation (logs/api/errors).
TOO_LARGE = error(
    "PartialError",
    "There were some errors when processing your query.",
    ("EngineError", "Something went wrong processing your query on the server."),
    (
        "-2133196797",
        "Query result set has exceeded the internal record count limit 500000 (E_QUERY_RESULT_SET_TOO_LARGE)",
    ),
)
THROTTLED = error("ThrottledError", "Rate limit is exceeded.")
TIMED_OUT = error("GatewayTimeout", "The service is unable to complete the request in time.")
NO_ROLE = error(
    "InsufficientAccessError", "The provided credentials have insufficient access to perform the requested operation"
)
NO_WORKSPACE = error("PathNotFoundError", "The requested path does not exist")
WRONG_TOKEN = error("InvalidTokenError", "The provided authentication is not valid for this resource")
BASIC_PLAN = error(
    "BadArgumentError",
    "The request had some invalid properties",
    (
        "UnsupportedApiQueryValidationError",
        "Query of Basic Logs table is not supported with the API '/v1/workspaces/{workspaceId}/query'.",
    ),
)


def no_table(name: str) -> dict[str, object]:
    """The answer to a query of a table that the workspace does not have."""
    return error(
        "BadArgumentError",
        "The request had some invalid properties",
        ("SemanticError", "A semantic error occurred."),
        ("SEM0100", f"'where' operator: Failed to resolve table or column expression named '{name}'"),
    )


@contextmanager
def logs_server(tls: tuple[Path, Path], held: Iterable[Table]) -> Iterator[Logs]:
    """A query API over TLS that knows `WORKSPACE` and `RESOURCE`."""
    logs = Logs(tls[0], tables={table.name: table for table in held})
    gone = threading.Event()

    class Answers(Handler):
        def respond(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            start, end = body["timespan"].split("/")
            asked = Asked(
                len(logs.asked),
                self.path.removeprefix("/v1").removesuffix("/query").removeprefix("/workspaces/"),
                body["query"],
                (dt.datetime.fromisoformat(start), dt.datetime.fromisoformat(end)),
                self.headers.get("Prefer", ""),
                self.headers.get("Authorization", ""),
            )
            logs.asked.append(asked)
            told = logs.fault(asked) or self._answered(asked)
            if told.silent:
                gone.wait(told.silent)
                self.close_connection = True
                return
            self.answer(told.status, json.dumps(told.document).encode(), **told.headers)

        def _answered(self, asked: Asked) -> Told:
            if asked.target not in (WORKSPACE, RESOURCE):
                return Told(404, NO_WORKSPACE)
            try:
                columns, rows = logs.execute(asked.query, asked.span)
            except LookupError as missing:
                return Told(400, no_table(str(missing.args[0])))
            kept = logs.after(asked, rows)
            if isinstance(kept, Told):
                return kept
            return Told(200, {"tables": [{"name": "PrimaryResult", "columns": columns, "rows": kept}]})

    with serving(Answers, tls) as port:
        logs.port = port
        try:
            yield logs
        finally:
            gone.set()
            logs.close()


def partial(columns: Sequence[str], rows: list[list[object]]) -> Told:
    """What the service says of an answer that is too large: status 200, some rows and an error."""
    table = {"name": "PrimaryResult", "columns": [{"name": n, "type": "string"} for n in columns], "rows": rows}
    return Told(200, {"tables": [table], **TOO_LARGE})
