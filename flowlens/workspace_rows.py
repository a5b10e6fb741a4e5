"""Rows of Traffic Analytics in a workspace as conversations: planned by a count, asked in slices, counted in a ledger.

Each part says of how many rows of the table it was made, and the workspace how many there are in that part of the window; the two
are compared, part by part and in all.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import polars as pl

from flowlens.budget import PER_ROW, Queries
from flowlens.errors import ConfigError, FlowlensError, LedgerError
from flowlens.evidence import Ledger, Reject, Window
from flowlens.formats.conversation_rows import convert_conversations
from flowlens.formats.older_rows import older_source
from flowlens.formats.traffic_analytics import DecodedRows
from flowlens.queries import bind, encode, find_query
from flowlens.sources.refusals import declared
from flowlens.sources.slices import STEP, Asker, Reading, Slice, read_slices
from flowlens.sources.workspace import TABLES, Connection, Cut, Span

LATE = dt.timedelta(days=1)
"""How much later than its interval a row may arrive and still be found; documented is an hour."""
PROOF = """
| summarize answered = count(), made_of = sum(table_rows)
| extend made_of = coalesce(made_of, 0), there = toscalar(in_window | count)"""
"""What makes of conversations.kql three numbers: its rows, the table's rows they are made of, and the table's rows in the window,
of which a slice by hash holds a part."""
_PROOF_NUMBERS = 3

_HOUR = dt.timedelta(hours=1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_QUERY = "conversations"
# An entry of public addresses has six bars.
_COUNT = """\
let start = {start};
let end = {end};
let late = {late};
{table}
| where TimeGenerated >= start and TimeGenerated < end + late
| extend placed = coalesce(FlowIntervalStartTime, TimeGenerated)
| where placed >= start and placed < end
| extend flow = isempty(SubType) or SubType =~ "FlowLog", message = SubType =~ "StatusMessage", bars = coalesce(countof(SrcPublicIps, "|"), 0) + coalesce(countof(DestPublicIps, "|"), 0)
| summarize flows = countif(flow and isnotnull(FlowIntervalStartTime)), lines = sumif(1 + bars / 6, flow), unplaced = countif(flow and isnull(FlowIntervalStartTime)), messages = countif(message), finished = countif(message and Status =~ "Completed"), all = count() by mark = bin(placed, 10m)
| project mark, flows, lines, unplaced, messages, finished, all
"""
_COUNTED = {
    "mark": pl.Datetime("us", "UTC"),
    **dict.fromkeys(("flows", "lines", "unplaced", "messages", "finished", "all"), pl.Int64()),
}

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Part:
    """What one slice gave; ``unread`` is the slice itself where it gave nothing."""

    decoded: DecodedRows
    unread: Slice | None = None


@dataclass(slots=True)
class Tally:
    """Whether parts hold all rows of the table in the window, each once; ``rows`` are those that came."""

    where: str
    rows: int = 0
    _by_hash: dict[Span, tuple[Fraction, int, int, int]] = field(default_factory=dict)

    def take(self, reading: Reading, received: int) -> None:
        """Count a part that came whole, ``received`` rows of the table being in it.

        Raises LedgerError, which names the part, where these are not what the workspace counted, and SourceError where it did
        not count.
        """
        if len(reading.counted) != _PROOF_NUMBERS:
            raise declared("FL-W14", self.where, f"expected {_PROOF_NUMBERS} numbers, found {len(reading.counted)}")
        part, (_, made_of, there) = reading.part, reading.counted
        self.rows += received
        if received != made_of:
            raise _differs(self.where, part, received, made_of, made_of)
        if part.slices == 1:
            # Rows may have arrived between the two counts; the part was asked again where they differed.
            if made_of != there:
                raise _differs(self.where, part, received, there, there)
            return
        span = part.start, part.end
        share, rows, least, most = self._by_hash.pop(span, (Fraction(0), 0, there, there))
        share, rows, least, most = (
            share + Fraction(1, part.slices),
            rows + received,
            min(least, there),
            max(most, there),
        )
        if share < 1:
            self._by_hash[span] = share, rows, least, most
        elif not least <= rows <= most:
            raise _differs(self.where, Slice(*span), rows, least, most)


def _differs(where: str, part: object, found: int, least: int, most: int) -> LedgerError:
    expected = f"{least}" if least == most else f"{least} to {most}"
    return LedgerError(
        where,
        f"{part}: expected {expected} rows of the table, as the workspace counts them, found {found}",
        hint="this is an error of flowlens; please report it with the window and the number of rows",
    )


def read_workspace(
    connection: Connection,
    window: Window,
    *,
    edges: Sequence[dt.datetime],
    now: dt.datetime,
    queries: Queries,
    progress: Progress | None = None,
) -> Iterator[Part]:
    """Every row of ``window`` as conversations, slice by slice as they come, and what could not be read.

    The window is that of the intervals' starts. No conversation goes across one of ``edges``. Raises SourceError where the
    workspace can't be asked at all, ConfigError for a window without a start, and LedgerError where a slice holds other rows than
    the workspace counts in it.
    """
    if window.start is None:
        raise ConfigError("--start", "is needed for a workspace", hint="write --start 24h, or --window yesterday")
    where = str(connection.workspace)
    start, end = window.start, window.end or now
    asker = Asker(connection)
    counts = count_rows(asker, start, end)
    parts = plan(start, end, edges, counts, queries.rows)
    expected = int(counts["flows"].sum()) if counts is not None else 0
    tally = Tally(where)
    done = failed = 0
    if parts:
        readings = read_slices(
            asker,
            parts,
            text_of(connection.workspace.table),
            _span,
            proof=PROOF,
            concurrent=queries.concurrent,
            at_most=queries.bytes,
        )
        for reading in readings:
            part = _decoded(reading, where)
            if part.unread is None:
                tally.take(reading, part.decoded.ledger.records)
            failed += part.unread is not None
            done += 1
            if progress is not None:
                # Late rows may be more than were counted, so the end is known only when it is reached.
                progress(done, max(0, min(tally.rows, expected - 1)) * PER_ROW, expected * PER_ROW)
            del reading
            yield part
            del part
    if progress is not None:
        progress(done, expected * PER_ROW, expected * PER_ROW)
    later = None
    if counts is not None and not failed:
        later = count_rows(asker, start, end)
    yield Part(_nothing(_last(counts, later, tally, bool(failed), asker)))


def text_of(table: str) -> Callable[[Slice], str]:
    """The text of conversations.kql over a slice, for rows of ``table``."""
    query = find_query(_QUERY)
    query = replace(query, text=_over(query.text, table))

    def text(part: Slice) -> str:
        return bind(query, start=part.start, end=part.end, late=LATE, slices=part.slices, slice=part.slice)

    return text


def _over(text: str, table: str) -> str:
    """The query with what stands for ``table`` in the place of the line that names the newer one."""
    # By a function, since what stands for it must not be read as a pattern.
    written, found = re.subn(rf"^ *{TABLES[0]}$", lambda _: _SOURCES[table], text, count=1, flags=re.MULTILINE)
    if not found:
        raise ValueError(f"no line of the query names {TABLES[0]}")
    return written


def _span(part: Slice) -> Span:
    return part.start, part.end + LATE


def count_rows(asker: Asker, start: dt.datetime, end: dt.datetime) -> pl.DataFrame | None:
    """Rows of the workspace's table by ten minutes from ``mark`` on; None where counting them takes too long.

    ``flows`` are rows of flows and ``lines`` about what they hold, ``unplaced`` flows without an interval, ``messages`` those of
    Traffic Analytics on its own processing and ``finished`` the good ones of them, ``all`` all of these.
    """
    query = _COUNT.format(
        start=encode(start, "datetime"),
        end=encode(end, "datetime"),
        late=encode(LATE, "timespan"),
        table=_SOURCES[asker.connection.workspace.table],
    )
    try:
        return asker.ask(query, (start, end + LATE)).frame(_COUNTED).sort("mark")
    except Cut:
        return None


def plan(
    start: dt.datetime, end: dt.datetime, edges: Sequence[dt.datetime], counts: pl.DataFrame | None, most: int
) -> list[Slice]:
    """Parts of the window that hold some ``most`` lines each, cut at full hours and at ``edges``; empty hours in none.

    An hour with more is cut as `Slice.halves` does.
    """
    known = dict(counts.select("mark", "lines").iter_rows()) if counts is not None else None

    def lines(part: Slice) -> int:
        if known is None:
            return most
        first = part.start - (part.start - _EPOCH) % STEP
        marks = (first + n * STEP for n in range(-((first - part.end) // STEP)))
        return sum(known.get(mark, 0) for mark in marks)

    def fitting(part: Slice) -> list[Slice]:
        held, halves = lines(part), part.halves()
        if held <= most * part.slices or halves is None:
            return [part] if held else []
        return [each for half in halves for each in fitting(half)]

    cuts = {start, end, *(edge for edge in edges if start < edge < end)}
    first = start.replace(minute=0, second=0, microsecond=0)
    hours = range(int((end - first) / _HOUR) + 1)
    marks = sorted(cuts | {mark for n in hours if start < (mark := first + n * _HOUR) < end})
    parts: list[Slice] = []
    held = 0
    for low, high in itertools.pairwise(marks):
        hour = Slice(low, high)
        found = lines(hour)
        if found and parts and parts[-1].end == low and low not in cuts and held + found <= most:
            parts[-1] = replace(parts[-1], end=high)
            held += found
        elif found:
            parts += fitting(hour)
            held = found
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


def _last(
    counts: pl.DataFrame | None, later: pl.DataFrame | None, tally: Tally, is_partial: bool, asker: Asker
) -> Ledger:
    """What the whole says: whether there was anything, whether all of it came, and what else stands in the table.

    ``later`` are counts made after the parts: rows may have arrived even in hours that nobody asked for, since they were empty.
    """
    where, table = tally.where, asker.connection.workspace.table
    notes = [f"{where}: {asker.requests} queries", *asker.again.told(f"queries of {where}")]
    if counts is None:
        return Ledger(blobs=1, notes=(*notes, f"{where}: the rows could not be counted beforehand"))
    rows, unplaced, everything, messages, finished = (
        int(counts[name].sum()) for name in ("flows", "unplaced", "all", "messages", "finished")
    )
    if not rows:
        notes.append(f"{where}: no flow rows of {table} in this window")
    if others := everything - rows - unplaced:
        notes.append(f"{where}: not flow rows ({others} row(s))")
    if messages > finished:
        notes.append(
            f"{where}: Traffic Analytics reports its processing as not completed ({messages - finished} row(s))"
        )
    ledger = Ledger(blobs=min(rows, 1))
    if unplaced:
        reject = Reject(where, 0, f"cannot read FlowIntervalStartTime ({unplaced} row(s))", "")
        ledger += Ledger(records=unplaced, rejected_records=unplaced, rejects=(reject,))
    if is_partial or (later is None and tally.rows == rows):
        return replace(ledger, notes=tuple(notes))
    if later is None:
        reject = Reject(where, 0, f"{rows} rows were counted first, {tally.rows} came, and counting again failed", "")
        return replace(ledger + Ledger(unread=1, rejects=(reject,)), notes=tuple(notes))
    now = int(later["flows"].sum())
    if not min(rows, now) <= tally.rows <= max(rows, now):
        raise _differs(where, "the window", tally.rows, min(rows, now), max(rows, now))
    if now > rows:
        # Those that came into parts not yet read then are there.
        if now > tally.rows:
            notes.append(f"{where}: {now - tally.rows} row(s) arrived while it was read; run again for them")
    elif tally.rows < rows:
        lost = Reject(where, 0, f"{rows} rows were counted first, {tally.rows} came: rows were removed meanwhile", "")
        ledger += Ledger(unread=1, rejects=(lost,))
    return replace(ledger, notes=tuple(notes))


def _nothing(ledger: Ledger) -> DecodedRows:
    empty = convert_conversations(pl.DataFrame(schema=dict.fromkeys(find_query(_QUERY).columns, pl.String)), where="")
    return replace(empty, ledger=ledger)


# What stands in the place of the newer table, line by line.
_SOURCES = {TABLES[0]: TABLES[0], TABLES[1]: older_source()}
