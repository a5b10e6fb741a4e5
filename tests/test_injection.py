"""Payloads in every text of a report: no face lets one act, and no number moves. Markdown, OCSF and messages have their own tests."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import cache

import polars as pl
import pytest

import flowlens as fl
from flowlens.outputs.page import Page
from flowlens.outputs.tables import write_csv, write_json, write_parquet
from flowlens.outputs.terminal import COLOURS, render
from flowlens.outputs.text import clean, is_formula
from tests.hostile_report import CLOSED, hostile_report
from tests.payloads import PAYLOADS

# Control, bidi and other hidden characters, but the line ends of the page itself.
HIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)


@cache
def report() -> fl.Report:
    return hostile_report(PAYLOADS)


def test_there_are_payloads_of_every_kind() -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 500
    every = "\0\n".join(PAYLOADS)
    for part in (
        "<script>",
        "onerror=",
        "</script>",
        "{{",
        "${",
        "=HYPERLINK",
        "](javascript:",
        "\x1b[",
        "\u202e",
        "@org",
    ):
        assert part in every


@pytest.mark.slow
@pytest.mark.parametrize(("width", "encoding"), [(120, "utf-8"), (40, "cp1252")])
def test_the_terminal_shows_no_control_and_no_hidden_character(width: int, encoding: str) -> None:
    stream = io.BytesIO()
    out = io.TextIOWrapper(stream, encoding=encoding, errors="strict", newline="\n")
    render(report(), Page(out, width=width, colours=COLOURS), limit=None)
    out.flush()
    text = stream.getvalue().decode(encoding)
    assert not HIDDEN.search(text)
    assert text.count("pwned(") > 1000


@pytest.mark.parametrize("name", report().tables)
def test_csv_keeps_cells_apart_and_runs_no_formula(name: str) -> None:
    table = report().tables[name]
    file = io.BytesIO()
    write_csv(table, file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode(), newline="")))
    assert len(rows) == table.height
    for column, kind in table.schema.items():
        cells = [row[column] for row in rows]
        if kind == pl.String and column not in CLOSED:
            assert not any(is_formula(cell) for cell in cells)
            assert [cell.removeprefix("'") for cell in cells] == [
                clean(text).removeprefix("'") for text in table[column]
            ]
        elif kind.is_integer():
            assert cells == ["" if value is None else str(value) for value in table[column]]


def test_json_and_parquet_give_every_text_back_and_json_is_ascii() -> None:
    file = io.BytesIO()
    write_json(report(), file)
    assert file.getvalue().isascii()
    document = json.loads(file.getvalue())
    assert document["notes"] == list(PAYLOADS)
    for name, table in report().tables.items():
        parquet = io.BytesIO()
        write_parquet(table, parquet)
        assert pl.read_parquet(io.BytesIO(parquet.getvalue())).equals(table)
        texts = [column for column, kind in table.schema.items() if kind == pl.String]
        assert [[row[column] for column in texts] for row in document["tables"][name]] == [
            list(row) for row in table.select(texts).iter_rows()
        ]
