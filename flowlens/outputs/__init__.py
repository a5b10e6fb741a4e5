"""Faces of a report: each output writes what the report says and computes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable

from flowlens.outputs import html, markdown, ocsf, tables

OUTPUTS: dict[str, Callable[..., None]] = {
    "json": tables.write_json,
    "html": html.write_html,
    "markdown": markdown.write_markdown,
    "ocsf": ocsf.write_ocsf,
    **{face: functools.partial(tables.write_one_table, face) for face in tables.BY_TABLE},
}
"""Format -> what writes a report to a binary file in it; ``table``, the terminal's own, needs a console and stands in terminal.py."""

SUFFIXES = {
    ".json": "json",
    ".html": "html",
    ".md": "markdown",
    ".jsonl": "ocsf",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "table",
}
"""What format a file name asks for."""
