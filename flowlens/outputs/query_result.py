"""The result of a query: on the terminal and as a JSON document."""

from __future__ import annotations

from typing import BinaryIO

import polars as pl

from flowlens.outputs.content import evidence_lines
from flowlens.outputs.page import Clock, Page, Shown
from flowlens.outputs.tables import ledger_document, write_document
from flowlens.outputs.text import counted
from flowlens.query_running import QueryResult
from flowlens.reporting import SCHEMA_VERSION


def render_query(result: QueryResult, page: Page, *, limit: int | None = None) -> None:
    """Write the rows under their columns, then how complete they are."""
    page.line(f"From {page.clock(result.window.start)} to {page.clock(result.window.end)}, by whole intervals.")
    page.line()
    if result.rows.is_empty():
        page.line(result.query, "bold")
        page.line("no rows", "dim", indent=2)
    else:
        page.table(
            counted(result.rows.height, "row"), result.rows, lambda clock: _columns(result.rows, clock), limit=limit
        )
    page.line()
    page.line("Evidence", "bold")
    for line in evidence_lines(result.ledger):
        page.line(line, indent=2)


def _columns(rows: pl.DataFrame, clock: Clock) -> list[Shown]:
    def shown(place: int, name: str, kind: pl.DataType) -> Shown:
        def cell(row: object) -> str:
            value = row[name]  # type: ignore[index]
            if isinstance(kind, pl.Datetime):
                return clock(value)
            return "" if value is None else str(value)

        return Shown(name.replace("_", " "), cell, right=kind.is_numeric(), minor=max(0, place - 5))

    return [shown(place, name, kind) for place, (name, kind) in enumerate(rows.schema.items())]


def write_query(result: QueryResult, file: BinaryIO) -> None:
    """Write the result as a JSON document."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "query": result.query,
        "window": {"start": result.window.start, "end": result.window.end},
        "settings": dict(result.settings),
        "ledger": ledger_document(result.ledger),
        "metrics": dict(result.metrics),
    }
    write_document(head, {result.query: result.rows}, file)
