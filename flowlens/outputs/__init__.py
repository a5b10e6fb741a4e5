"""Faces of a report: each output writes what the report says and computes nothing."""

from __future__ import annotations

from collections.abc import Callable

from flowlens.outputs import tables
from flowlens.reporting import Report

OUTPUTS: dict[str, Callable[[Report], bytes]] = {
    "json": tables.json_document,
    "csv": tables.csv_table,
    "parquet": tables.parquet_table,
}
"""Format -> the bytes of a report in it; ``table``, the terminal's own, needs a console and stands in terminal.py."""

SUFFIXES = {".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "table"}
"""What format a file name asks for."""
