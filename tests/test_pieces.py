"""Rows worked on piece by piece are the rows worked on as a whole, wherever they are held."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flowlens import pieces
from flowlens.pieces import Pieces

SCHEMA = pl.Schema({"number": pl.Int64, "text": pl.String})


def frame(start: int, stop: int) -> pl.DataFrame:
    return pl.DataFrame({"number": range(start, stop), "text": [f"row {n}" for n in range(start, stop)]}, schema=SCHEMA)


def in_pieces(folder: Path, keep_rows: int, sizes: list[int]) -> Pieces:
    held = Pieces(SCHEMA, folder, keep_rows)
    start = 0
    for size in sizes:
        held.add(frame(start, start + size))
        start += size
    return held


@pytest.mark.parametrize(
    ("keep_rows", "files"), [(1000, 0), (100, 1), (0, 3)], ids=["memory", "some on disk", "all on disk"]
)
@pytest.mark.parametrize("piece_rows", [7, 1000])
def test_rows_come_back_in_order_from_memory_and_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keep_rows: int, files: int, piece_rows: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", piece_rows)
    held = in_pieces(tmp_path, keep_rows, [40, 0, 70, 30])
    # An empty frame makes no file of its own.
    assert len(list(tmp_path.iterdir())) == files
    assert_frame_equal(held.lazy().collect(), frame(0, 140))
    seen: list[int] = []

    def step(rows: pl.LazyFrame) -> pl.LazyFrame:
        seen.append(rows.collect().height)
        return rows.filter(pl.col("number") % 3 == 0).select(third=pl.col("number") // 3)

    assert held.mapped(step).lazy().collect()["third"].to_list() == list(range(47))
    assert max(seen) <= piece_rows and sum(seen) == 140


def test_nothing_added_has_the_schema_and_so_has_what_is_made_of_it(tmp_path: Path) -> None:
    held = Pieces(SCHEMA, tmp_path)
    assert held.lazy().collect().schema == SCHEMA
    assert held.mapped(lambda rows: rows.select("text")).lazy().collect().schema == pl.Schema({"text": pl.String})


def test_discarding_removes_rows_and_files(tmp_path: Path) -> None:
    held = in_pieces(tmp_path, 0, [5, 5])
    assert list(tmp_path.iterdir())
    held.discard()
    assert list(tmp_path.iterdir()) == []
    assert held.lazy().collect().height == 0


def test_threads_may_add_at_the_same_time(tmp_path: Path) -> None:
    held = Pieces(SCHEMA, tmp_path, keep_rows=25)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: held.add(frame(n * 10, n * 10 + 10)), range(200)))
    assert sorted(held.lazy().collect()["number"]) == list(range(2000))


def test_rows_of_a_value_share_a_part_and_none_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pieces, "PART_ROWS", 50)
    monkeypatch.setattr(pieces, "LEAST_ROWS", 1)
    monkeypatch.setattr(pieces, "PIECE_ROWS", 30)
    held = in_pieces(tmp_path, 100, [90, 90, 20])
    parts = held.parted(lambda rows: rows.with_columns(value=pl.col("number") % 23), "value")
    assert len(parts) == 4
    rows = [part.lazy().collect() for part in parts]
    values = [set(part["value"]) for part in rows]
    assert sum(map(len, values)) == len(set().union(*values)) == 23
    assert sorted(pl.concat(rows)["number"]) == list(range(200))
