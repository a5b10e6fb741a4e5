"""CONVERSATIONS: the mergeable rollup of flow tuples that every analysis reads.

Every key column is a function of one tuple alone and every measure is a null-preserving sum, a minimum or a maximum,
so ``rollup(a + b) == merge(rollup(a), rollup(b))`` in any order and any split. That law carries threads, spilling and
incremental runs.

Inside, a rollup is kept *compact*: the two addresses as text, ports and protocol packed into one integer, and all
other keys as the number of a context. A NIC-hour has few contexts, so grouping costs two text and two integer keys
instead of fourteen columns of text.
"""

from __future__ import annotations

import datetime as dt
import math
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from flowlens import schema

SUMS = tuple(c.name for c in schema.CONVERSATION_SUMS)
MINS = tuple(c.name for c in schema.CONVERSATION_MINS)
MAXS = tuple(c.name for c in schema.CONVERSATION_MAXS)
KEYS = tuple(c.name for c in schema.CONVERSATION_KEYS)
COLUMNS = tuple(c.name for c in schema.CONVERSATION_COLUMNS)

_PORTS = ("dst_port", "reply_from_port", "protocol")
_ADDRESSES = ("src_ip", "dst_ip")
_CONTEXT = tuple(k for k in KEYS if k not in (*_PORTS, *_ADDRESSES))
_CONTEXT_TEXT = tuple(k for k in _CONTEXT if k != "hour")
_COMPACT_KEYS = (*_ADDRESSES, "ports", "context")

_HOUR_US = 3_600_000_000
_PORT_SPAN = 65_537  # 65,536 ports and one place for "none"
_PROTOCOL_SPAN = 256
_PACKED_BELOW = 2**62
"""Codes are packed into one signed integer as long as their product stays below this."""

MERGE_ROWS = 150_000
"""Rows that may pile up in a blob's rollup before they are merged."""
SPILL_ROWS = 200_000
"""Distinct keys of one blob held in memory; beyond, its rollup goes to disk, split by hash."""
KEEP_ROWS = 250_000
"""Finished rows of a whole scan held in memory; beyond, they go to temporary Parquet."""
_SPILL_PARTS = 16

SCHEMA = schema.polars_schema(schema.CONVERSATIONS)


def _null_sum(name: str) -> pl.Expr:
    """The sum, or null where every value is null: unknown is not zero."""
    return pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name)


def _merge_measures() -> list[pl.Expr]:
    return [
        *(_null_sum(name) for name in SUMS),
        *(pl.col(name).min() for name in MINS),
        *(pl.col(name).max() for name in MAXS),
    ]


def merge(*rollups: pl.DataFrame) -> pl.DataFrame:
    """One rollup of several: equal keys become one row, measures add up; sorted by key.

    >>> empty = pl.DataFrame(schema=SCHEMA)
    >>> merge(empty, empty).height
    0
    """
    rows = pl.concat(rollups)
    return rows.group_by(KEYS).agg(_merge_measures()).select(COLUMNS).sort(KEYS, nulls_last=True)


def rollup(flows: pa.Table, *, edges: Sequence[dt.datetime] = ()) -> pl.DataFrame:
    """CONVERSATIONS of ``flows`` (FLOWS or ENCODED_FLOWS), one row per key, sorted by key.

    Buckets start at full hours and at each of ``edges`` (aware datetimes), so that a window or a change in mid-hour cuts
    cleanly. Times are UTC; a measure is null where no tuple of the key has it.

    >>> rollup(schema.FLOWS.empty_table()).columns[:3]
    ['hour', 'flow_log_id', 'target_resource_id']
    """
    contexts = Contexts()
    return contexts.expand(compact(flows, contexts, edges)).collect().sort(KEYS, nulls_last=True)


class Contexts:
    """The numbered contexts (hour, flow log, NIC, direction, status, rule, code) of a scan; safe to share by threads."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._lock = threading.Lock()

    def numbers(self, contexts: Iterable[tuple[object, ...]]) -> list[int]:
        """The number of each context, new ones numbered in order of arrival."""
        with self._lock:
            return [self._numbers.setdefault(context, len(self._numbers)) for context in contexts]

    def frame(self) -> pl.DataFrame:
        """All contexts with their numbers."""
        with self._lock:
            rows = [(number, *context) for context, number in self._numbers.items()]
        return pl.DataFrame(rows, schema={"context": pl.Int32, **{k: SCHEMA[k] for k in _CONTEXT}}, orient="row")

    def expand(self, rows: pl.DataFrame | pl.LazyFrame) -> pl.LazyFrame:
        """Compact rows with the columns of CONVERSATIONS again."""
        ports = pl.col("ports")
        reply = ports // _PROTOCOL_SPAN % _PORT_SPAN
        port = ports // (_PROTOCOL_SPAN * _PORT_SPAN)
        none = _PORT_SPAN - 1
        return (
            rows.lazy()
            .join(self.frame().lazy(), on="context", how="left", maintain_order="left")
            .with_columns(
                protocol=(ports % _PROTOCOL_SPAN).cast(SCHEMA["protocol"]),
                reply_from_port=pl.when(reply != none).then(reply).cast(SCHEMA["reply_from_port"]),
                dst_port=pl.when(port != none).then(port).cast(SCHEMA["dst_port"]),
            )
            .select(COLUMNS)
        )


def _codes(column: pa.ChunkedArray) -> tuple[pl.Series, pl.Series]:
    """The dictionary indices (null as one past the end) and the dictionary of a text column."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries()
    words = column.chunk(0).dictionary if column.num_chunks else pa.array([], schema.TEXT)
    indices = pa.chunked_array([chunk.indices for chunk in column.chunks], pa.int32())
    texts = pl.Series(pl.from_arrow(words), dtype=pl.String)
    codes = pl.Series(pl.from_arrow(indices)).cast(pl.Int64)
    if texts.n_unique() < len(texts):
        # Arrow allows a dictionary to hold a word twice; a key must have one code.
        once = texts.unique(maintain_order=True)
        place = {word: number for number, word in enumerate(once)}
        codes = pl.Series([place[word] for word in texts], dtype=pl.Int64).gather(codes)
        texts = once
    return codes.fill_null(len(texts)), texts


def _hour(time: pl.Expr, edges: Sequence[dt.datetime]) -> pl.Expr:
    """The bucket of a time in microseconds: the last full hour or edge at or before it."""
    full = time - time % _HOUR_US
    bucket = full
    for edge in sorted(edges):
        micros = int(edge.timestamp()) * 1_000_000 + edge.microsecond
        inside = (full == micros - micros % _HOUR_US) & (time >= micros)
        bucket = pl.when(inside).then(pl.lit(micros)).otherwise(bucket)
    return bucket


def compact(flows: pa.Table, contexts: Contexts, edges: Sequence[dt.datetime] = ()) -> pl.DataFrame:
    """The compact rollup of one batch of flows: grouped on integers only, addresses as text at the end."""
    names = (*_CONTEXT_TEXT, *_ADDRESSES, "flow_state")
    codes: dict[str, pl.Series] = {}
    words: dict[str, pl.Series] = {}
    for name in names:
        codes[name], words[name] = _codes(flows.column(name))
    spans = {name: len(words[name]) + 1 for name in names}
    numbers = {
        name: pl.Series(pl.from_arrow(flows.column(name)))
        for name in ("time", "src_port", "dst_port", "protocol", "restarted", *schema.COUNTERS)
    }
    frame = pl.DataFrame({**{f"#{n}": s for n, s in codes.items()}, **numbers}).with_columns(
        pl.col("time").cast(pl.Int64)
    )

    frame, context_codes = _with_context(frame, spans)
    reply = (pl.col("src_port") < schema.REPLY_SOURCE_PORT_BELOW) & (
        pl.col("dst_port") >= schema.REPLY_DESTINATION_PORT_FROM
    )
    none = pl.lit(_PORT_SPAN - 1, pl.Int64)
    port = pl.when(reply).then(none).otherwise(pl.col("dst_port").cast(pl.Int64).fill_null(_PORT_SPAN - 1))
    reply_from = pl.when(reply).then(pl.col("src_port").cast(pl.Int64)).otherwise(none)
    ports = (port * _PORT_SPAN + reply_from) * _PROTOCOL_SPAN + pl.col("protocol").cast(pl.Int64)

    state = {word: number for number, word in enumerate(words["flow_state"].to_list())}
    is_state = {name: pl.col("#flow_state") == state.get(name, -1) for name in schema.STATE_NAME.values()}
    denied = pl.col("#flow_status") == _number(words["flow_status"], "Denied")
    traffic = is_state["Continuing"] | is_state["End"]
    answered = (pl.col("packets_received") > 0).fill_null(False)
    unanswered = ((pl.col("packets_sent") > 0) & (pl.col("packets_received") == 0)).fill_null(False)
    small = answered & (pl.col("bytes_received") < schema.SMALL_REPLY_BYTES).fill_null(False)
    time = pl.col("time")

    def flag(condition: pl.Expr, name: str) -> pl.Expr:
        return condition.cast(pl.Int64).sum().alias(name)

    grouped = (
        frame.lazy()
        .select(
            _hour(time, edges).alias("hour"),
            "context",
            (pl.col("#src_ip") * spans["dst_ip"] + pl.col("#dst_ip")).alias("pair"),
            ports.alias("ports"),
            time,
            *schema.COUNTERS,
            is_state["Begin"].alias("b"),
            is_state["End"].alias("e"),
            "restarted",
            denied.alias("d"),
            traffic.alias("t"),
            answered.alias("a"),
            unanswered.alias("u"),
            small.alias("s"),
        )
        .group_by("hour", "context", "pair", "ports")
        .agg(
            pl.len().cast(pl.Int64).alias("flow_tuples"),
            flag(pl.col("b"), "flows_started"),
            flag(pl.col("e"), "flows_ended"),
            flag(pl.col("restarted"), "flows_restarted"),
            flag(pl.col("d"), "flows_denied"),
            flag(pl.col("a"), "tuples_answered"),
            flag(pl.col("u"), "tuples_unanswered"),
            flag(pl.col("s"), "tuples_small_reply"),
            *(_null_sum(name) for name in schema.COUNTERS),
            time.min().alias("first_seen"),
            time.max().alias("last_seen"),
            time.filter(pl.col("t")).min().alias("first_traffic"),
            time.filter(pl.col("t")).max().alias("last_traffic"),
            time.filter(pl.col("a")).max().alias("last_answered"),
            time.filter(pl.col("u")).max().alias("last_unanswered"),
        )
        .collect()
    )
    return _with_text(grouped, context_codes, contexts, spans, words)


def _with_context(frame: pl.DataFrame, spans: Mapping[str, int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The frame with one integer ``context``, and for each context the codes that it stands for.

    The codes are packed into one integer. Whoever names resources could make their product overflow; then contexts are
    numbered instead, which costs more and is as exact.
    """
    names = [f"#{name}" for name in _CONTEXT_TEXT]
    if math.prod(spans[name] for name in _CONTEXT_TEXT) >= _PACKED_BELOW:
        numbered = frame.select(names).unique(maintain_order=True).with_row_index("context").cast(pl.Int64)
        return frame.join(numbered, on=names, how="left", maintain_order="left"), numbered
    context = pl.lit(0, pl.Int64)
    for name in _CONTEXT_TEXT:
        context = context * spans[name] + pl.col(f"#{name}")
    frame = frame.with_columns(context=context)
    left = pl.col("context")
    codes = []
    for name in reversed(_CONTEXT_TEXT):
        codes.append((left % spans[name]).alias(f"#{name}"))
        left = left // spans[name]
    return frame, frame.select(pl.col("context").unique()).with_columns(codes)


def _number(words: pl.Series, word: str) -> int:
    found = (words == word).arg_true()
    return int(found[0]) if len(found) else -1


def _with_text(
    grouped: pl.DataFrame,
    context_codes: pl.DataFrame,
    contexts: Contexts,
    spans: Mapping[str, int],
    words: Mapping[str, pl.Series],
) -> pl.DataFrame:
    """Grouped integer keys turned into address text and scan-wide context numbers."""
    distinct = grouped.select("hour", "context").unique()
    decoded = distinct.join(context_codes, on="context", how="left", maintain_order="left").select(
        pl.col("hour").cast(pl.Datetime("us", "UTC")),
        *(_gather(words[name], f"#{name}").alias(name) for name in _CONTEXT_TEXT),
    )
    ids = contexts.numbers(decoded.iter_rows())
    distinct = distinct.with_columns(pl.Series("number", ids, pl.Int32))
    times = (*MINS, *MAXS)
    return (
        grouped.join(distinct, on=["hour", "context"], how="left")
        .with_columns(
            src_ip=pl.col("pair") // spans["dst_ip"],
            dst_ip=pl.col("pair") % spans["dst_ip"],
            context=pl.col("number"),
        )
        .with_columns(
            _gather(words["src_ip"], "src_ip"),
            _gather(words["dst_ip"], "dst_ip"),
            *(pl.col(name).cast(pl.Datetime("us", "UTC")) for name in times),
        )
        .select(*_COMPACT_KEYS, *SUMS, *MINS, *MAXS)
    )


def _gather(words: pl.Series, name: str) -> pl.Expr:
    """The text of each code; the code one past the end is null."""
    lookup = pl.concat([words, pl.Series([None], dtype=pl.String)])
    return pl.col(name).map_batches(lookup.gather, return_dtype=pl.String).alias(name)


def _merge_compact(rows: pl.DataFrame | pl.LazyFrame) -> pl.LazyFrame:
    return rows.lazy().group_by(_COMPACT_KEYS).agg(_merge_measures())


class BlobRollup:
    """The rollup of one blob, merged as it grows and split by hash to disk when its keys are many."""

    def __init__(self, contexts: Contexts, edges: Sequence[dt.datetime], folder: Path) -> None:
        self._contexts = contexts
        self._edges = edges
        self._folder = folder
        self._pending: list[pl.DataFrame] = []
        self._rows = 0
        self._merged_rows = 0
        self._parts: list[list[Path]] = [[] for _ in range(_SPILL_PARTS)]

    def add(self, flows: pa.Table) -> None:
        """Take one batch of flows."""
        if flows.num_rows:
            piece = compact(flows, self._contexts, self._edges)
            self._pending.append(piece)
            self._rows += piece.height
            if self._rows > self._merged_rows + MERGE_ROWS:
                self._compact()

    def _compact(self) -> None:
        merged = _merge_compact(pl.concat(self._pending)).collect()
        if merged.height > SPILL_ROWS:
            self._to_disk(merged)
        else:
            self._pending = [merged]
            self._rows = self._merged_rows = merged.height

    def finish(self) -> Iterable[pl.DataFrame]:
        """Compact rows in pieces, each key once; the spilled parts are removed as they are read."""
        if any(self._parts) and self._pending:
            self._to_disk(pl.concat(self._pending))
        if not any(self._parts):
            if len(self._pending) > 1:
                yield _merge_compact(pl.concat(self._pending)).collect()
            else:
                yield from self._pending
            return
        for paths in self._parts:
            if paths:
                yield _merge_compact(pl.concat([pl.read_parquet(path) for path in paths])).collect()
                for path in paths:
                    path.unlink()

    def _to_disk(self, rows: pl.DataFrame) -> None:
        parts = rows.with_columns(part=pl.struct(_COMPACT_KEYS).hash(seed=0) % _SPILL_PARTS)
        for (number,), part in parts.partition_by("part", as_dict=True).items():
            path = temporary_file(self._folder)
            part.drop("part").write_parquet(path, compression="zstd", compression_level=1)
            self._parts[int(number)].append(path)
        self._pending = []
        self._rows = self._merged_rows = 0


class Store:
    """The finished compact rows of a scan: in memory while few, in temporary Parquet once many."""

    def __init__(self, contexts: Contexts, folder: Path) -> None:
        self._contexts = contexts
        self._folder = folder
        self._kept: list[pl.DataFrame] = []
        self._rows = 0
        self._files: list[Path] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Keep ``rows``; past KEEP_ROWS everything held goes to disk."""
        self._kept.append(rows)
        self._rows += rows.height
        if self._rows > KEEP_ROWS:
            path = temporary_file(self._folder)
            pl.concat(self._kept).write_parquet(path, compression="zstd", compression_level=1, row_group_size=65_536)
            self._files.append(path)
            self._kept = []
            self._rows = 0

    def conversations(self) -> pl.LazyFrame:
        """All rows with the columns of CONVERSATIONS; a key can recur between blobs, since nothing groups globally."""
        pieces: list[pl.LazyFrame] = [pl.scan_parquet(path) for path in self._files]
        if self._kept:
            pieces.append(pl.concat(self._kept).lazy())
        if not pieces:
            return pl.LazyFrame(schema=SCHEMA)
        return self._contexts.expand(pl.concat(pieces))


def temporary_file(folder: Path) -> Path:
    """A new empty file in ``folder`` that no other thread will get."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".parquet", delete=False) as handle:
        return Path(handle.name)
