"""Faces of a report: each output writes what the report says and computes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import BinaryIO

from flowlens.outputs import markdown, ocsf, tables
from flowlens.reporting import Report

OUTPUTS: dict[str, Callable[[Report, BinaryIO], None]] = {
    "json": tables.write_json,
    "markdown": markdown.write_markdown,
    "ocsf": ocsf.write_ocsf,
    **{face: functools.partial(tables.write_one_table, face) for face in tables.BY_TABLE},
}
"""Format -> what writes a report in it; ``table``, the terminal's own, needs a console and stands in terminal.py."""

SUFFIXES = {".json": "json", ".md": "markdown", ".jsonl": "ocsf", ".csv": "csv", ".parquet": "parquet", ".txt": "table"}
"""What format a file name asks for."""
