"""A workspace whose answers are made of the bytes given: they become conversations with a ledger that adds up."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.monitor.query import LogsQueryClient

from flowlens.budget import Queries
from flowlens.evidence import Window, total
from flowlens.formats.conversation_rows import COLUMNS
from flowlens.formats.traffic_analytics import ROWS
from flowlens.sources import slices
from flowlens.sources.workspace import TABLES, Connection, Workspace, quiet_loggers
from flowlens.workspace_rows import read_workspace
from tests.fuzz.answering import PARTED, address, answer_with, response

_HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
_END = _HOUR + dt.timedelta(hours=1)
_COUNTS = ("flows", "lines", "unplaced", "messages", "finished", "all")
_Column = tuple[str, str]


class _Credential:
    """Never asked, since requests to this server carry no token."""

    def get_token(self, *_scopes: str, **_more: Any) -> AccessToken:
        raise AssertionError("a token was asked for")


@cache
def _connection() -> Connection:
    quiet_loggers()
    for name in ("_FIRST_WAIT", "_LONGEST_WAIT", "_LONGEST_RETRY_AFTER"):
        setattr(slices, name, 0.0)
    endpoint = address()
    client = LogsQueryClient(
        _Credential(),
        endpoint=endpoint,
        authentication_policy=SansIOHTTPPolicy(),
        retry_total=0,
        permit_redirects=False,
    )
    place = Workspace("11111111-2222-3333-4444-555555555555", TABLES[0], "global", endpoint)
    return Connection(place, client, "me", 5)


def workspace(data: bytes) -> None:
    """An hour of a workspace is read: counted, asked for with its proof, counted again."""
    answer_with(data)
    parts = list(
        read_workspace(
            _connection(), Window(_HOUR, _END), edges=(), now=_END, queries=Queries(concurrent=1, rows=1_000_000)
        )
    )
    for part in parts:
        rows = part.decoded.conversations
        assert part.decoded.ledger.balanced
        assert part.decoded.ledger.rows == rows["lines"].sum()
    assert total(part.decoded.ledger for part in parts).balanced


def workspace_seeds() -> list[bytes]:
    """Inputs to begin with: two rows of the hour, none, an answer of which the service says that it is a part, and errors."""
    counts = _json(
        [("mark", "datetime"), *((name, "long") for name in _COUNTS)], [["2026-06-15T09:00:00Z", 2, 2, 0, 1, 1, 3]]
    )
    proof = _json([("answered", "long"), ("made_of", "long"), ("there", "long")], [[2, 2, 2]])
    rows = _json(*_rows())
    cut = rows.replace(b'{"tables"', b'{"error": {"code": "PartialError", "message": "too much"}, "tables"')
    whole = [_ok(each) for each in (counts, rows, proof, counts)]
    refused = response(
        400, b'{"error": {"code": "BadArgumentError", "message": "x"}}', "Content-Type: application/json"
    )
    busy = response(429, b"<html>", "Retry-After: 0")
    return [
        PARTED.join(whole),
        PARTED.join([_ok(counts.replace(b"2, 2, 0, 1, 1, 3", b"0, 0, 0, 0, 0, 0"))]),
        PARTED.join([whole[0], busy, _ok(cut), *whole[1:]]),
        PARTED.join([whole[0], whole[1], refused]),
        PARTED.join([refused]),
    ]


def _rows() -> tuple[list[_Column], list[list[Any]]]:
    """Two rows as conversations.kql answers, in the types in which the service would."""
    told = {
        "hour": "2026-06-15T09:00:00Z",
        "interval_start": "2026-06-15T09:00:00Z",
        "interval_end": "2026-06-15T09:10:00Z",
        "is_hop": False,
        "lines": 1,
        "table_rows": 1,
        "src_ip": "10.0.0.4",
        "dst_ip": "192.0.2.1",
        "FlowType": "ExternalPublic",
    }
    columns = [(name, _type_of(name)) for name in COLUMNS]
    row = [told.get(name, 1 if kind == "long" else None) for name, kind in columns]
    return columns, [row, [*row]]


def _type_of(name: str) -> str:
    dtype = ROWS.get(name)
    if name == "hour" or (dtype is not None and dtype.is_temporal()):
        return "datetime"
    if name == "table_rows" or (dtype is not None and dtype.is_integer()):
        return "long"
    return "bool" if dtype is not None and dtype.base_type().__name__ == "Boolean" else "string"


def _json(columns: Sequence[_Column], rows: Sequence[Sequence[Any]]) -> bytes:
    named = [{"name": name, "type": kind} for name, kind in columns]
    return json.dumps({"tables": [{"name": "PrimaryResult", "columns": named, "rows": rows}]}).encode()


def _ok(body: bytes) -> bytes:
    return response(200, body, "Content-Type: application/json")
