"""Rows of Traffic Analytics in a workspace as conversations: planned by a count, asked in slices, counted in a ledger."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from flowlens.errors import ConfigError, FlowlensError
from flowlens.evidence import Ledger, Reject, Window
from flowlens.formats.conversation_rows import convert_conversations
from flowlens.formats.older_rows import older_source
from flowlens.formats.traffic_analytics import DecodedRows
from flowlens.queries import bind, encode, find_query
from flowlens.sources.slices import Asker, Reading, Slice, read_slices
from flowlens.sources.workspace import TABLES, Connection, Cut, Span

LATE = dt.timedelta(days=1)
"""How much later than its interval a row may arrive and still be found; documented is an hour."""
ROWS_AT_ONCE = 40_000
"""Rows that a part is planned for: a row of the answer takes some 1,200 bytes of the 64 MB that an answer may have."""

_HOUR = dt.timedelta(hours=1)
_ROW_BYTES = 1200
_QUERY = "conversations"
_COUNT = """\
let start = {start};
let end = {end};
let late = {late};
{table}
| where TimeGenerated >= start and TimeGenerated < end + late
| where FlowIntervalStartTime >= start and FlowIntervalStartTime < end
| summarize flows = countif(isempty(SubType) or SubType =~ "FlowLog"), messages = countif(SubType =~ "StatusMessage"), finished = countif(SubType =~ "StatusMessage" and Status =~ "Completed"), all = count() by hour = bin(FlowIntervalStartTime, 1h)
| project hour, flows, messages, finished, all
"""

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Part:
    """What one slice gave; ``unread`` is the slice itself where it gave nothing."""

    decoded: DecodedRows
    unread: Slice | None = None


def read_workspace(
    connection: Connection,
    window: Window,
    *,
    edges: Sequence[dt.datetime],
    now: dt.datetime,
    progress: Progress | None = None,
) -> Iterator[Part]:
    """Every row of ``window`` as conversations, slice by slice as they come, and what could not be read.

    The window is that of the intervals' starts. No conversation goes across one of ``edges``. Raises SourceError where the
    workspace can't be asked at all and ConfigError for a window without a start.
    """
    if window.start is None:
        raise ConfigError("--start", "is needed for a workspace", hint="write --start 24h, or --window yesterday")
    where = str(connection.workspace)
    start, end = window.start, window.end or now
    asker = Asker(connection)
    counts = count_rows(asker, start, end)
    parts = _plan(start, end, edges, counts)
    rows = int(counts["flows"].sum()) if counts is not None else 0
    lines = done = failed = 0
    if parts:
        for reading in read_slices(asker, parts, text_of(connection.workspace.table), _span):
            part = _decoded(reading, where)
            lines += part.decoded.ledger.records
            failed += part.unread is not None
            done += 1
            if progress is not None:
                # Rows of the table and of the answers differ in number, so the end is known only when it is reached.
                progress(done, max(0, min(lines, rows - 1)) * _ROW_BYTES, rows * _ROW_BYTES)
            yield part
    if progress is not None:
        progress(done, rows, rows)
    yield Part(_nothing(_last(counts, rows, lines, failed, asker, where)))


def text_of(table: str) -> Callable[[Slice], str]:
    """The text of conversations.kql over a slice, for rows of ``table``."""
    query = find_query(_QUERY)
    query = replace(query, text=_over(query.text, table))

    def text(part: Slice) -> str:
        return bind(query, start=part.start, end=part.end, late=LATE, slices=part.slices, slice=part.slice)

    return text


def _over(text: str, table: str) -> str:
    """The query with what stands for ``table`` in the place of the line that names the newer one."""
    return text.replace(f"\n{TABLES[0]}\n", f"\n{_SOURCES[table]}\n", 1)


def _span(part: Slice) -> Span:
    return part.start, part.end + LATE


def count_rows(asker: Asker, start: dt.datetime, end: dt.datetime) -> pl.DataFrame | None:
    """Rows of the workspace's table by hour: flows, messages, finished, all; None where counting them takes too long."""
    query = _COUNT.format(
        start=encode(start, "datetime"),
        end=encode(end, "datetime"),
        late=encode(LATE, "timespan"),
        table=_SOURCES[asker.connection.workspace.table],
    )
    try:
        return asker.ask(query, (start, end + LATE)).frame().sort("hour")
    except Cut:
        return None


def _plan(
    start: dt.datetime, end: dt.datetime, edges: Sequence[dt.datetime], counts: pl.DataFrame | None
) -> list[Slice]:
    """Parts of the window that hold some `ROWS_AT_ONCE` rows each, cut at full hours and at ``edges``; empty hours in none."""
    known = dict(counts.select("hour", "flows").iter_rows()) if counts is not None else None
    cuts = {start, end, *(edge for edge in edges if start < edge < end)}
    first = start.replace(minute=0, second=0, microsecond=0)
    hours = range(int((end - first) / _HOUR) + 1)
    marks = sorted(cuts | {mark for n in hours if start < (mark := first + n * _HOUR) < end})
    parts: list[Slice] = []
    held = 0
    for low, high in itertools.pairwise(marks):
        rows = ROWS_AT_ONCE if known is None else known.get(low.replace(minute=0, second=0, microsecond=0), 0)
        if not rows:
            continue
        if parts and parts[-1].end == low and low not in cuts and held + rows <= ROWS_AT_ONCE:
            parts[-1] = replace(parts[-1], end=high)
            held += rows
        else:
            parts.append(Slice(low, high))
            held = rows
    return parts


def _decoded(reading: Reading, where: str) -> Part:
    error = reading.error
    if error is None:
        try:
            decoded = convert_conversations(reading.rows, where=where)
        except (ValueError, pl.exceptions.PolarsError) as problem:
            error = FlowlensError(where, f"the answer can't be read: {problem}")
    if error is not None:
        reject = Reject(where, 0, f"{reading.part}: {error.problem}", "")
        return Part(_nothing(Ledger(unread=1, rejects=(reject,))), reading.part)
    size = Ledger(bytes=reading.bytes, record_bytes=reading.bytes)
    return Part(replace(decoded, ledger=decoded.ledger + size))


def _last(counts: pl.DataFrame | None, rows: int, lines: int, failed: int, asker: Asker, where: str) -> Ledger:
    """What the whole says: whether there was anything, whether all of it came, and what else stands in the table."""
    notes = [f"{where}: {asker.requests} queries"]
    if counts is None:
        return Ledger(blobs=1, notes=(*notes, f"{where}: the rows could not be counted beforehand"))
    all_rows, messages, finished = (int(counts[name].sum()) for name in ("all", "messages", "finished"))
    if not rows:
        notes.append(f"{where}: no flow rows of {asker.connection.workspace.table} in this window")
    if all_rows > rows:
        notes.append(f"{where}: not flow rows ({all_rows - rows} row(s))")
    if messages > finished:
        notes.append(
            f"{where}: Traffic Analytics reports its processing as not completed ({messages - finished} row(s))"
        )
    ledger = Ledger(blobs=min(rows, 1), notes=tuple(notes))
    if lines < rows and not failed:
        # Each row gives one line at least.
        lost = Reject(where, 0, f"{rows} rows were counted first, {lines} lines came: rows were removed meanwhile", "")
        ledger += Ledger(unread=1, rejects=(lost,))
    return ledger


def _nothing(ledger: Ledger) -> DecodedRows:
    empty = convert_conversations(pl.DataFrame(schema=dict.fromkeys(find_query(_QUERY).columns, pl.String)), where="")
    return replace(empty, ledger=ledger)


# What stands in the place of the newer table, line by line.
_SOURCES = {TABLES[0]: TABLES[0], TABLES[1]: older_source()}
