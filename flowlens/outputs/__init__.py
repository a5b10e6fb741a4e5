"""Faces of a report: each output writes what the report says and computes nothing."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any


def _writer(module: str, name: str) -> Callable[..., None]:
    """The writer ``name`` of a module, which is loaded when something is written: nobody pays for a format not asked for."""

    def write(*given: Any, **how: Any) -> None:
        getattr(importlib.import_module(f"{__name__}.{module}"), name)(*given, **how)

    return write


OUTPUTS: dict[str, Callable[..., None]] = {
    "json": _writer("tables", "write_json"),
    "html": _writer("html", "write_html"),
    "markdown": _writer("markdown", "write_markdown"),
    "ocsf": _writer("ocsf", "write_ocsf"),
    **{face: functools.partial(_writer("tables", "write_one_table"), face) for face in ("csv", "parquet")},
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
