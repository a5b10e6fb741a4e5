"""CONVERSATIONS: the mergeable rollup of flow tuples that every analysis reads.

Every key column is a function of one tuple alone and every measure is a null-preserving sum, a minimum or a maximum,
so ``rollup(a + b) == merge(rollup(a), rollup(b))`` in any order and any split. That law carries threads, spilling and
incremental runs.

Inside, a rollup is kept *compact*: the two addresses as text, ports and protocol packed into one integer, and all
other keys as the number of a context. A NIC-hour has few contexts, so grouping costs two text and two integer keys
instead of fourteen columns of text.
"""

from __future__ import annotations

import array
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from flowlens import kernel, schema
from flowlens.pieces import temporary_file, write_temporary

if TYPE_CHECKING:
    from flowlens.kernel.reader import Reader
    from flowlens.kernel.rollup import Rollup

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
_PORTS_SPAN = _PORT_SPAN * _PORT_SPAN * _PROTOCOL_SPAN
_PACKED_BELOW = 2**62
"""Codes are packed into one signed integer as long as their product stays below this."""

_TALLIES = tuple(name for name in SUMS if name not in schema.COUNTERS)
_PACKED = (*_TALLIES, *(f"#{name}" for name in schema.COUNTERS))
"""Flags that are summed in groups of _PACK: the tallies, and whether a counter is there at all."""
_PACK = 3
_PACKS = -(-len(_PACKED) // _PACK)
_BATCH_SPAN = 2**20
_BATCH_ROWS = _BATCH_SPAN - 1
"""Rows that one batch may have, so that no sum of a flag grows into the next one's bits."""

MERGE_ROWS = 80_000
"""Rows that may pile up in a blob's rollup before they are merged."""
SPILL_ROWS = 120_000
"""Distinct keys of one blob held in memory; beyond, its rollup goes to disk, split by hash."""
_SPILL_PARTS = 32
_MERGE_PARTS = 4
"""Grouping holds a part of the rows a second time; it is done for so many parts in turn."""

SCHEMA = schema.polars_schema(schema.CONVERSATIONS)
_TEXT = pl.String()


def _null_sum(name: str) -> pl.Expr:
    """The sum, or null where every value is null: unknown is not zero."""
    return pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name)


def merged_measures() -> list[pl.Expr]:
    """All measures of rows that become one: null-preserving sums, minima, maxima.

    >>> [str(measure.meta.output_name()) for measure in merged_measures()][:2]
    ['flow_tuples', 'flows_started']
    """
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
    return rows.group_by(KEYS).agg(merged_measures()).select(COLUMNS).sort(KEYS, nulls_last=True)


def rollup(flows: pa.Table, *, edges: Sequence[dt.datetime] = ()) -> pl.DataFrame:
    """CONVERSATIONS of ``flows`` (FLOWS or ENCODED_FLOWS), one row per key, sorted by key.

    Buckets start at full hours and at each of ``edges`` (aware datetimes), so that a window or a change in mid-hour cuts
    cleanly. Times are UTC; a measure is null where no tuple of the key has it.

    >>> rollup(schema.FLOWS.empty_table()).columns[:3]
    ['hour', 'flow_log_id', 'target_resource_id']
    """
    contexts = Contexts()
    return contexts.expand(compact(flows, contexts, edges)).sort(KEYS, nulls_last=True)


def new_sums() -> Rollup:
    """An empty rollup of the compiled kernel, which must be there."""
    module = kernel.compiled()
    assert module is not None, "only what the kernel has read comes here"
    return module.Rollup(
        _PORT_SPAN - 1, schema.REPLY_SOURCE_PORT_BELOW, schema.REPLY_DESTINATION_PORT_FROM, schema.SMALL_REPLY_BYTES
    )


def summed(sums: Rollup) -> pl.DataFrame:
    """The compact rollup that the kernel has, one row per key, addresses as text."""
    offsets, data = sums.address_texts(pa.allocate_buffer)
    texts = pl.Series(pl.from_arrow(pa.Array.from_buffers(schema.TEXT, len(offsets) // 4 - 1, [None, offsets, data])))
    columns = sums.columns(pa.allocate_buffer)

    def column(name: str) -> pa.Array:
        kind = pa.int32() if name in (*_ADDRESSES, "context") else pa.int64()
        kind = schema.TIMESTAMP if name in (*MINS, *MAXS) else kind
        return pa.Array.from_buffers(kind, sums.count, columns[name])

    rows = pl.DataFrame(pl.from_arrow(pa.table({name: column(name) for name in (*_COMPACT_KEYS, *SUMS, *MINS, *MAXS)})))
    return rows.with_columns(_at(texts, name).alias(name) for name in _ADDRESSES)


def _at(values: pl.Series, places: str) -> pl.Expr:
    """The values at the places that a column holds."""
    return pl.lit(values).gather(pl.col(places))


class Contexts:
    """The numbered contexts (hour, flow log, NIC, direction, status, rule, code) of a rollup."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}

    def numbers(self, contexts: Iterable[tuple[object, ...]]) -> list[int]:
        """The number of each context, new ones numbered in order of arrival."""
        return [self._numbers.setdefault(context, len(self._numbers)) for context in contexts]

    def frame(self) -> pl.DataFrame:
        """All contexts with their numbers."""
        rows = [(number, *context) for context, number in self._numbers.items()]
        return pl.DataFrame(rows, schema={"context": pl.Int32, **{k: SCHEMA[k] for k in _CONTEXT}}, orient="row")

    def expand(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Compact rows with the columns of CONVERSATIONS again."""
        contexts = self.frame()
        ports = pl.col("ports")
        reply = ports // _PROTOCOL_SPAN % _PORT_SPAN
        port = ports // (_PROTOCOL_SPAN * _PORT_SPAN)
        none = _PORT_SPAN - 1
        return rows.with_columns(
            # Contexts stand in the order of their numbers.
            *(_at(contexts[name], "context").alias(name) for name in _CONTEXT),
            protocol=(ports % _PROTOCOL_SPAN).cast(SCHEMA["protocol"]),
            reply_from_port=pl.when(reply != none).then(reply).cast(SCHEMA["reply_from_port"]),
            dst_port=pl.when(port != none).then(port).cast(SCHEMA["dst_port"]),
        ).select(COLUMNS)


class _Coded(NamedTuple):
    """A text column as numbers below ``span``, and the word that each stands for; the last one is null."""

    codes: pl.Series
    words: pl.Series

    @property
    def span(self) -> int:
        return len(self.words)


def _coded(column: pa.ChunkedArray) -> _Coded:
    """A text column by the places in its dictionary; null has a place of its own, behind the words."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries()
    words = column.chunk(0).dictionary if column.num_chunks else pa.array([], schema.TEXT)
    codes = pa.chunked_array([chunk.indices for chunk in column.chunks], pa.int32())
    once = words.unique()
    if len(once) < len(words):
        # Arrow allows a dictionary to hold a word twice; a key must have one code.
        codes = pc.index_in(words, value_set=once).take(codes)
        words = once
    codes = pc.fill_null(codes, len(words)).cast(pa.int64())
    texts = pl.Series(pl.from_arrow(words), dtype=pl.String)
    return _Coded(pl.Series(pl.from_arrow(codes)), texts.extend_constant(None, 1))


def _bucket(time: pl.Series, edges: Sequence[dt.datetime]) -> pl.Series:
    """The bucket of each time in microseconds: the last full hour or edge at or before it."""
    full = time - time % _HOUR_US
    bucket = full
    for edge in sorted(edges):
        micros = int(edge.timestamp()) * 1_000_000 + edge.microsecond
        inside = (full == micros - micros % _HOUR_US) & (time >= micros)
        bucket = bucket.zip_with(~inside, pl.Series([micros], dtype=pl.Int64))
    return bucket


def _numbered(numbers: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Each value as its place in the order of arrival, and the row where each place was first met."""
    codes = pl.Series(pl.from_arrow(numbers.to_arrow().dictionary_encode().indices)).cast(pl.Int64)
    return codes, numbers.arg_unique()


def _context(columns: Sequence[_Coded], hours: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The context of each row as a number from 0 on, and the row where each number was first met."""
    together, _ = _numbered(hours)
    span = int(cast(int, together.max() or 0)) + 1
    for column in columns:
        if span * column.span > _PACKED_BELOW:
            # Only a hostile log has so many names of everything at once: what is there is numbered, and has room again.
            together, first = _numbered(together)
            span = len(first)
        together = together * column.span + column.codes
        span *= column.span
    return _numbered(together)


def compact(
    flows: pa.Table,
    contexts: Contexts,
    edges: Sequence[dt.datetime] = (),
    addresses: pl.DataType = _TEXT,
) -> pl.DataFrame:
    """The compact rollup of one batch of flows, one row per key; the two addresses have the type ``addresses``.

    Grouping sees two integers: the pair of addresses, and the ports with the context. The tallies are summed three to an
    integer, as many fields as a batch of _BATCH_ROWS leaves room for.
    """
    if flows.num_rows > _BATCH_ROWS:
        starts = range(0, flows.num_rows, _BATCH_ROWS)
        parts = [compact(flows.slice(start, _BATCH_ROWS), contexts, edges, addresses) for start in starts]
        return _merge_compact(pl.concat(parts))
    coded = {name: _coded(flows.column(name)) for name in (*_CONTEXT_TEXT, *_ADDRESSES, "flow_state")}
    plain = {
        name: pl.Series(pl.from_arrow(flows.column(name)))
        for name in ("time", "src_port", "dst_port", "protocol", "restarted", *schema.COUNTERS)
    }
    hours = _bucket(plain["time"].cast(pl.Int64), edges)
    context, first = _context([coded[name] for name in _CONTEXT_TEXT], hours)
    met = pl.DataFrame([coded[name].words.gather(coded[name].codes.gather(first)) for name in _CONTEXT_TEXT])
    numbers = contexts.numbers(
        zip(hours.gather(first).cast(SCHEMA["hour"]).to_list(), *met.iter_columns(), strict=True)
    )
    source, destination = coded["src_ip"], coded["dst_ip"]
    rows = pl.DataFrame(
        {
            **plain,
            "state": coded["flow_state"].codes,
            "status": coded["flow_status"].codes,
            "pair": source.codes * destination.span + destination.codes,
            "#context": context,
        }
    )
    grouped = _grouped(rows.lazy(), coded).collect()
    pair, ports = grouped["pair"], grouped["#ports"]
    return grouped.select(
        source.words.cast(addresses).gather(pair // destination.span).alias("src_ip"),
        destination.words.cast(addresses).gather(pair % destination.span).alias("dst_ip"),
        (pl.col("#ports") % _PORTS_SPAN).alias("ports"),
        pl.Series("context", numbers, pl.Int32).gather(ports // _PORTS_SPAN),
        *(_unpacked(name) for name in _TALLIES),
        *(pl.when(_unpacked(f"#{name}") > 0).then(name) for name in schema.COUNTERS),
        *(pl.col(name).cast(SCHEMA[name]) for name in (*MINS, *MAXS)),
    ).select(*_COMPACT_KEYS, *SUMS, *MINS, *MAXS)


def _grouped(rows: pl.LazyFrame, coded: Mapping[str, _Coded]) -> pl.LazyFrame:
    """One row per ``pair`` and ``#ports`` (ports and context) with the packed tallies and all other measures."""
    reply = (pl.col("src_port") < schema.REPLY_SOURCE_PORT_BELOW) & (
        pl.col("dst_port") >= schema.REPLY_DESTINATION_PORT_FROM
    )
    none = pl.lit(_PORT_SPAN - 1, pl.Int64)
    port = pl.when(reply).then(none).otherwise(pl.col("dst_port").cast(pl.Int64).fill_null(_PORT_SPAN - 1))
    reply_from = pl.when(reply).then(pl.col("src_port").cast(pl.Int64)).otherwise(none)
    ports = (port * _PORT_SPAN + reply_from) * _PROTOCOL_SPAN + pl.col("protocol").cast(pl.Int64)

    codes = {
        name: {word: code for code, word in enumerate(coded[name].words)} for name in ("flow_state", "flow_status")
    }
    state = {name: pl.col("state") == codes["flow_state"].get(name, -1) for name in schema.STATE_NAME.values()}
    traffic = state["Continuing"] | state["End"]
    answered = (pl.col("packets_received") > 0).fill_null(False)
    unanswered = ((pl.col("packets_sent") > 0) & (pl.col("packets_received") == 0)).fill_null(False)
    flags = {
        "flow_tuples": pl.lit(True),
        "flows_started": state["Begin"],
        "flows_ended": state["End"],
        "flows_restarted": pl.col("restarted"),
        "flows_denied": pl.col("status") == codes["flow_status"].get("Denied", -1),
        "tuples_answered": answered,
        "tuples_unanswered": unanswered,
        "tuples_small_reply": answered & (pl.col("bytes_received") < schema.SMALL_REPLY_BYTES).fill_null(False),
        **{f"#{name}": pl.col(name).is_not_null() for name in schema.COUNTERS},
    }
    time = pl.col("time").cast(pl.Int64)
    times = {
        "first_seen": time,
        "last_seen": time,
        "first_traffic": pl.when(traffic).then(time),
        "last_traffic": pl.when(traffic).then(time),
        "last_answered": pl.when(answered).then(time),
        "last_unanswered": pl.when(unanswered).then(time),
    }
    return (
        rows.select(
            "pair",
            (pl.col("#context") * _PORTS_SPAN + ports).alias("#ports"),
            *(_packed(flags, number).alias(f"#{number}") for number in range(_PACKS)),
            *schema.COUNTERS,
            **times,
        )
        .group_by("pair", "#ports")
        .agg(
            *(pl.col(f"#{number}").sum() for number in range(_PACKS)),
            *(pl.col(name).sum() for name in schema.COUNTERS),
            *(pl.col(name).min() for name in MINS),
            *(pl.col(name).max() for name in MAXS),
        )
    )


def _packed(flags: Mapping[str, pl.Expr], number: int) -> pl.Expr:
    """The flags that share the integer ``number``, each in bits of its own."""
    shared = _PACKED[number * _PACK : (number + 1) * _PACK]
    return pl.sum_horizontal([flags[name].cast(pl.Int64) * _BATCH_SPAN**place for place, name in enumerate(shared)])


def _unpacked(name: str) -> pl.Expr:
    """The sum of one flag."""
    number, place = divmod(_PACKED.index(name), _PACK)
    field: pl.Expr = pl.col(f"#{number}") // _BATCH_SPAN**place % _BATCH_SPAN
    return field.alias(name)


def _merge_compact(rows: pl.DataFrame) -> pl.DataFrame:
    """Compact rows with each key once; their tallies are never null."""
    part = pl.col("dst_ip").hash() % _MERGE_PARTS
    measures = [pl.col(_TALLIES).sum(), *merged_measures()[len(_TALLIES) :]]
    parts = [rows.lazy().filter(part == number) for number in range(_MERGE_PARTS)]
    return pl.concat([part.group_by(_COMPACT_KEYS).agg(measures).collect(engine="streaming") for part in parts])


def _united(pieces: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Compact rows with each key once, merged as they come: a part on disk holds a busy key many times."""
    held: list[pl.DataFrame] = []
    once = 0
    for piece in pieces:
        held.append(piece)
        if sum(rows.height for rows in held) > once + MERGE_ROWS:
            held = [_merge_compact(pl.concat(held))]
            once = held[0].height
    return _merge_compact(pl.concat(held))


def _taken(path: Path) -> pl.DataFrame:
    """The rows of a file, which is gone after it."""
    rows = pl.read_ipc(path.read_bytes())
    path.unlink()
    return rows


class BlobRollup:
    """The rollup of one piece of work, merged as it grows and split by hash to disk when its keys are many.

    While it grows, an address is a number in a dictionary that goes with the rollup.
    """

    def __init__(self, edges: Sequence[dt.datetime], folder: Path) -> None:
        self._contexts = Contexts()
        self._edges = edges
        self._folder = folder
        self._addresses = pl.Categorical(pl.Categories.random())
        self._pending: list[pl.DataFrame] = []
        self._rows = 0
        self._merged_rows = 0
        self._sums: Rollup | None = None
        self._parts: list[list[Path]] = [[] for _ in range(_SPILL_PARTS)]

    def add(self, flows: pa.Table) -> None:
        """Take one batch of flows."""
        if flows.num_rows:
            piece = compact(flows, self._contexts, self._edges, self._addresses)
            self._pending.append(piece)
            self._rows += piece.height
            if self._rows > self._merged_rows + MERGE_ROWS:
                self._merge()

    def add_compiled(self, reader: Reader, contexts: Sequence[tuple[object, ...]], start: int, end: int) -> None:
        """Take what the kernel's ``reader`` holds from ``start`` to before ``end`` in microseconds.

        ``contexts`` has the context columns of each of its contexts.
        """
        if self._sums is None:
            self._sums = new_sums()
        numbers = array.array("i", self._contexts.numbers(contexts))
        self._sums.add(reader, numbers, start, end)
        if self._sums.count > SPILL_ROWS:
            self._to_disk(self._summed())

    def _summed(self) -> pl.DataFrame:
        """What the kernel has summed up, with text addresses; it starts anew after it."""
        assert self._sums is not None
        rows = summed(self._sums)
        self._sums.clear()
        return rows

    def _merge(self) -> None:
        merged = self._merged()
        if merged.height > SPILL_ROWS:
            self._to_disk(_with_text(merged))
            self._addresses = pl.Categorical(pl.Categories.random())
            self._rows = self._merged_rows = 0
        else:
            self._pending = [merged]
            self._rows = self._merged_rows = merged.height

    def _merged(self) -> pl.DataFrame:
        """All that is pending with each key once; nothing is pending after it."""
        rows = pl.concat(self._pending)
        self._pending = []
        return _merge_compact(rows)

    def _held(self) -> pl.DataFrame | None:
        """Everything held in memory with each key once and text addresses; nothing is held after it."""
        held = [_with_text(self._merged())] if self._pending else []
        if self._sums is not None and self._sums.count:
            held.append(self._summed())
        if len(held) > 1:
            return _merge_compact(pl.concat(held))
        return held[0] if held else None

    def finish(self) -> Iterable[pl.DataFrame]:
        """CONVERSATIONS in pieces, each key once; the spilled parts are removed as they are read."""
        held = self._held()
        self._sums = None
        if not any(self._parts):
            if held is not None:
                yield self._contexts.expand(held)
            return
        if held is not None:
            self._to_disk(held)
            held = None
        for paths in self._parts:
            if paths:
                yield self._contexts.expand(_united(map(_taken, paths)))

    def _to_disk(self, rows: pl.DataFrame) -> None:
        parts = rows.with_columns(part=pl.struct(_COMPACT_KEYS).hash(seed=0) % _SPILL_PARTS)
        for (number,), part in parts.partition_by("part", as_dict=True, include_key=False).items():
            path = temporary_file(self._folder)
            write_temporary(part, path)
            self._parts[int(number)].append(path)


def _with_text(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col(_ADDRESSES).cast(pl.String))
