"""Rows of any number, held in memory while they are few and in temporary Arrow files once they are many.

They are worked on piece by piece, so that memory follows the size of a piece and not the number of rows. Polars' own
streaming engine was measured beside this: where several joins follow each other it holds most of the rows at once.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

PIECE_ROWS = 2**14
"""Rows worked on at a time."""
KEEP_ROWS = 2**15
"""Rows held in memory before they go to a file."""
PART_ROWS = 2**15
"""Rows of a part, as far as the values that it is made by are spread evenly."""
LEAST_ROWS = 2**10
"""Rows of a file at least, since each costs time of its own."""

Step = Callable[[pl.LazyFrame], pl.LazyFrame]
"""What is done to some rows, whichever rows they are."""


class Pieces:
    """Frames of one schema in the order in which they were added; many rows go to files in ``folder``.

    How many stay in memory is ``keep_rows``, or `KEEP_ROWS` where that is None.

    >>> pieces = Pieces(pl.Schema({"n": pl.Int64}), Path("unused"))
    >>> pieces.add(pl.DataFrame({"n": [1, 2]}))
    >>> pieces.mapped(lambda rows: rows.select(twice=pl.col("n") * 2)).lazy().collect()["twice"].to_list()
    [2, 4]
    """

    def __init__(self, schema: pl.Schema, folder: Path, keep_rows: int | None = None) -> None:
        self._schema = schema
        self._folder = folder
        self._keep_rows = KEEP_ROWS if keep_rows is None else keep_rows
        self._kept: list[pl.DataFrame] = []
        self._rows = 0
        self._total = 0
        self._files: list[Path] = []
        self._lock = threading.Lock()

    def add(self, rows: pl.DataFrame) -> None:
        """Take ``rows``; threads may do so at the same time."""
        with self._lock:
            self._kept.append(rows)
            self._rows += rows.height
            self._total += rows.height
            if self._rows > self._keep_rows:
                path = temporary_file(self._folder)
                write_temporary(pl.concat(self._kept), path)
                self._files.append(path)
                self._kept, self._rows = [], 0

    def lazy(self) -> pl.LazyFrame:
        """All rows."""
        frames = [pl.scan_ipc(self._files)] if self._files else []
        if self._kept or not frames:
            frames.append(pl.concat([pl.DataFrame(schema=self._schema), *self._kept]).lazy())
        return pl.concat(frames)

    def mapped(self, step: Step) -> Pieces:
        """What ``step`` makes of each piece; it must not depend on where the pieces are cut."""
        done = Pieces(step(pl.LazyFrame(schema=self._schema)).collect_schema(), self._folder, self._keep_rows)
        for piece in self.pieces():
            done.add(step(piece.lazy()).collect(engine="in-memory"))
        return done

    def parted(self, step: Step, by: str) -> tuple[Pieces, ...]:
        """What ``step`` makes of each piece, in parts that fit memory; rows with the same value of ``by`` share a part."""
        columns = step(pl.LazyFrame(schema=self._schema)).collect_schema()
        # Each part holds some rows of its own in memory, so that with more parts than the root of this not less is held but more.
        count = max(1, min(-(-self._total // PART_ROWS), math.isqrt(2 * self._total // LEAST_ROWS)))
        parts = tuple(Pieces(columns, self._folder, max(2 * PART_ROWS // count, LEAST_ROWS)) for _ in range(count))
        for piece in self.pieces():
            rows = step(piece.lazy()).collect(engine="in-memory")
            rows = rows.with_columns(part=pl.col(by).hash() % count)
            for (number,), part in rows.partition_by("part", as_dict=True, include_key=False).items():
                parts[int(number)].add(part)
        return parts

    def pieces(self) -> Iterator[pl.DataFrame]:
        """All rows, at most `PIECE_ROWS` at a time."""
        for path in self._files:
            rows = pl.scan_ipc(path)
            for start in range(0, int(rows.select(pl.len()).collect().item()), PIECE_ROWS):
                yield rows.slice(start, PIECE_ROWS).collect()
        if self._rows:
            yield from pl.concat(self._kept).iter_slices(PIECE_ROWS)

    def discard(self) -> None:
        """Give memory and disk back; the rows are gone."""
        for path in self._files:
            path.unlink()
        self._kept, self._files, self._rows, self._total = [], [], 0, 0


def temporary_file(folder: Path) -> Path:
    """A new empty file in ``folder`` that no other thread will get."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".arrow", delete=False) as handle:
        return Path(handle.name)


def write_temporary(rows: pl.DataFrame, path: Path) -> None:
    """Write rows to a file that only this run reads: as Arrow, since Parquet takes more than twice the time."""
    rows.write_ipc(path, compression="lz4", compat_level=pl.CompatLevel.newest(), record_batch_size=PIECE_ROWS)
