"""Evidence that stays on a Spark cluster: what the driver would do with its parts one after the other, executors do with all.

Inventory, preferred view and analyses are made of steps that see one part at a time: first the rows between two addresses together,
then those of a destination. On one machine a step runs here; on a cluster the very same step goes to the executors, each part
whole, and what it gives comes back as Arrow.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from flowlens import conversations, schema, views
from flowlens.evidence import Inventory, Parts, together
from flowlens.flow_streams import lazily
from flowlens.pieces import Pieces
from flowlens.spark_sessions import spark_errors

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

Step = Callable[[pl.LazyFrame], tuple[pl.DataFrame, ...]]

PART = "part"
_TOLD = pa.schema([pa.field("part", pa.int32()), pa.field("number", pa.int32()), pa.field("frame", pa.binary())])
_TOLD_DDL = "part int, number int, frame binary"
_SQL_TYPES = {
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.string(): "string",
    pa.timestamp("us", "UTC"): "timestamp",
}


def ddl(kind: pa.Schema) -> str:
    """A schema in Spark's words.

    >>> ddl(pa.schema([("hour", pa.timestamp("us", "UTC")), ("counted", pa.bool_())]))
    '`hour` timestamp, `counted` boolean'
    """
    return ", ".join(f"`{each.name}` {_SQL_TYPES[each.type]}" for each in kind)


def part_of_pair(parts: int) -> Column:
    """The part of a row, by its two addresses in whatever order."""
    from pyspark.sql import functions as sf

    return _part_by(sf.least("src_ip", "dst_ip"), sf.greatest("src_ip", "dst_ip"), parts=parts)


def _part_by(*columns: Column | str, parts: int) -> Column:
    from pyspark.sql import functions as sf

    return sf.pmod(sf.hash(*columns), sf.lit(parts))


class FarParts:
    """Rows of a DataFrame that executors work on, all with one value of the column `PART` together.

    ``kind`` are its other columns. ``owner`` is kept for as long as this is: it may have the files.
    """

    def __init__(self, rows: DataFrame, kind: pl.Schema, owner: object, filters: tuple[pl.Expr, ...] = ()) -> None:
        self._rows = rows
        self._kind = kind
        self._owner = owner
        self._filters = filters

    def each(self, step: Step) -> Iterator[tuple[pl.DataFrame, ...]]:
        """What ``step`` makes of each part, on the executors; it travels there, with all that it refers to."""
        kind, filters = self._kind, self._filters

        # Spark asks a function for its annotations.
        def work(table: pa.Table) -> pa.Table:
            return _step_on(step, kind, filters, table)

        with spark_errors("Spark"):
            told = self._rows.groupBy(PART).applyInArrow(work, _TOLD_DDL)
            found: dict[int, dict[int, pl.DataFrame]] = {}
            # All at once: an iterator would have executors work on one partition after the other.
            for row in told.collect():
                found.setdefault(row.part, {})[row.number] = pl.read_ipc_stream(io.BytesIO(row.frame))
        for _, frames in sorted(found.items()):
            yield tuple(frames[number] for number in range(len(frames)))

    def filter(self, inside: pl.Expr) -> FarParts:
        """The rows for which ``inside`` holds, in the same parts."""
        return FarParts(self._rows, self._kind, self._owner, (*self._filters, inside))

    def lazy(self) -> pl.LazyFrame:
        """The rows of all parts, which come here one part after the other when they are asked for."""
        from pyspark.sql import functions as sf

        def frames() -> Generator[pl.DataFrame, None, None]:
            with spark_errors("Spark"):
                numbers = sorted(row[PART] for row in self._rows.select(PART).distinct().collect())
                for number in numbers:
                    rows = _here(self._rows.filter(sf.col(PART) == number).drop(PART).toArrow(), self._kind)
                    yield rows.lazy().filter(*self._filters).collect()

        return lazily(frames, self._kind)


class FarRolled:
    """CONVERSATIONS as a DataFrame on a cluster, with `PART` by `part_of_pair`; what is made of them lies in ``folder``."""

    def __init__(self, rows: DataFrame, parts: int, folder: str, owner: object) -> None:
        self._rows = rows
        self._count = parts
        self._folder = folder
        self._owner = owner

    def parts(self) -> Parts:
        """All rows between two addresses are in one part."""
        return FarParts(self._rows, conversations.SCHEMA, self._owner)

    def mentions(self, inventory: Inventory) -> pl.DataFrame:
        """What `flowlens.views.mentions` finds in them."""
        (found,) = together(self.parts(), partial(_mentions, inventory))
        return found.unique()

    def viewed(self, inventory: Inventory, coverage: pl.DataFrame) -> Parts:
        """What `flowlens.views.annotate` makes of them, written once."""
        kind = _viewed_kind(inventory, coverage)
        ours = pl.DataFrame(schema=kind).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        wanted = pa.schema([pa.field(each.name, schema.TEXT if _is_text(each.type) else each.type) for each in ours])

        def work(table: pa.Table) -> pa.Table:
            return _viewed(inventory, coverage, wanted, table)

        with spark_errors("Spark"):
            judged = self._rows.groupBy(PART).applyInArrow(work, ddl(wanted))
            path = f"{self._folder}/views"
            judged.withColumn(PART, _part_by("dst_ip", parts=self._count)).write.parquet(path)
            rows = self._rows.sparkSession.read.schema(f"{ddl(wanted)}, {PART} int").parquet(path)
        return FarParts(rows, kind, self._owner)

    def lazy(self) -> pl.LazyFrame:
        """CONVERSATIONS, which come here part by part when they are asked for."""
        return self.parts().lazy()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _viewed_kind(inventory: Inventory, coverage: pl.DataFrame) -> pl.Schema:
    return _annotated(pl.DataFrame(schema=conversations.SCHEMA), inventory, coverage).schema


def _annotated(rows: pl.DataFrame, inventory: Inventory, coverage: pl.DataFrame) -> pl.DataFrame:
    """What is known of rows that hold every conversation between their addresses."""
    with tempfile.TemporaryDirectory(prefix="flowlens-") as folder:
        ends = views.with_ends(rows.lazy(), inventory).collect()
        store = Pieces(ends.schema, Path(folder))
        store.add(ends)
        return pl.concat([part.lazy().collect() for part in views.annotate(store, inventory, coverage)])


def _here(table: pa.Table, kind: pl.Schema) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.select(kind.names()).cast(kind)


# What executors do


def _step_on(step: Step, kind: pl.Schema, filters: tuple[pl.Expr, ...], table: pa.Table) -> pa.Table:
    rows = _here(table, kind).lazy()
    for inside in filters:
        rows = rows.filter(inside)
    part = table[PART][0].as_py()
    told = []
    for number, frame in enumerate(step(rows)):
        sink = io.BytesIO()
        frame.write_ipc_stream(sink)
        told.append({"part": part, "number": number, "frame": sink.getvalue()})
    return pa.Table.from_pylist(told, schema=_TOLD)


def _mentions(inventory: Inventory, rows: pl.LazyFrame) -> tuple[pl.DataFrame, ...]:
    return (views.mentions(views.with_ends(rows, inventory)),)


def _viewed(inventory: Inventory, coverage: pl.DataFrame, wanted: pa.Schema, table: pa.Table) -> pa.Table:
    rows = _annotated(_here(table, conversations.SCHEMA), inventory, coverage)
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(wanted)
