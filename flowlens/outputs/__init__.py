"""Faces of a report: each output writes what the report says and computes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable

from flowlens.outputs import html, tables

OUTPUTS: dict[str, Callable[..., None]] = {
    "json": tables.write_json,
    "html": html.write_html,
    **{face: functools.partial(tables.write_one_table, face) for face in tables.BY_TABLE},
}
"""Format -> what writes a report to a binary file in it; ``table``, the terminal's own, needs a console and stands in terminal.py."""

REPORT_ONLY = ("html",)
"""Formats that say more than a table, so that only a report has them."""

SUFFIXES = {".json": "json", ".html": "html", ".csv": "csv", ".parquet": "parquet", ".txt": "table"}
"""What format a file name asks for."""
