"""A query of kql/ asked of workspaces: its result whole, or the reason why it is not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from flowlens import budget, schema
from flowlens.budget import Queries
from flowlens.errors import LedgerError, SourceError
from flowlens.evidence import Ledger, Reject, Window, total
from flowlens.queries import Query, Value, bind, find_query, part_of
from flowlens.sources.accounts import Access
from flowlens.sources.refusals import declared
from flowlens.sources.slices import COUNT, MOST_SLICES, Asker, Slice, ask_whole, numbers_in, read_slices
from flowlens.sources.workspace import (
    LONGEST_QUERY,
    SCHEME,
    Connection,
    Cut,
    Span,
    connect,
    default_window,
    parse_workspace,
)
from flowlens.verdicts import table_metrics
from flowlens.workspace_rows import LATE, PROOF, Tally


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What workspaces answered to one query: its rows, with who asked whom, over which window.

    ``metrics`` are what ``--fail-on`` can ask for: rows, incomplete, and those of the result table of the query's name.
    """

    query: str
    window: Window
    rows: pl.DataFrame
    ledger: Ledger
    settings: Mapping[str, object]
    metrics: Mapping[str, int]


def run_query(
    name: str,
    *,
    workspace: str | Sequence[str],
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    access: Access | None = None,
    memory_limit: int | None = None,
    now: dt.datetime | None = None,
    **values: Value,
) -> QueryResult:
    """The result of the query ``name`` over one or several workspaces, by id or by ARM resource id.

    Without start and end the window is the 24 hours up to the last that Traffic Analytics has surely written; both are aware and
    half-open, and hold whole intervals. ``values`` are further parameters of the query. A query with parameters for slices is asked
    in slices; any other over the whole window, which its rows are about, and where these are more than one answer holds, they are
    asked for in parts. What is cut is never taken: it is an error, or of a query in slices a part that the ledger counts as unread.
    ``memory_limit`` is in bytes: less is asked for at a time, so that what is held beside the result itself stays below it.

    Raises ConfigError for a wrong name or value or a limit too low to work with, and SourceError where no workspace answers whole.

    >>> run_query("rule_usages", workspace="11111111-2222-3333-4444-555555555555")
    Traceback (most recent call last):
    flowlens.errors.ConfigError: query rule_usages: is not a query
      hint: did you mean rule_usage?
    """
    moment = now or dt.datetime.now(dt.UTC)
    access = access or Access()
    query = find_query(name)
    # Nothing is decoded, but what is too low for that is too low for the libraries alone.
    budget.shared(memory_limit, 1)
    queries = budget.for_queries(memory_limit)
    usual = default_window(moment)
    window = Window(start, end or moment) if start is not None else Window(*usual)
    if start is None and end is not None:
        window = Window(end - (usual[1] - usual[0]), end)
    given = [workspace] if isinstance(workspace, str) else list(workspace)
    places = [parse_workspace(text if text.startswith(SCHEME) else SCHEME + text, access) for text in given]
    bind(query, **values)
    frames: list[pl.DataFrame] = []
    ledgers: list[Ledger] = []
    identities: list[str] = []
    failures: list[SourceError] = []
    for place in dict.fromkeys(places):
        try:
            connection = connect(place, access)
            identities.append(f"{place}: {connection.identity}")
            found, ledger = _ask(connection, query, window, values, queries)
            frames.append(found)
            ledgers.append(ledger)
        except SourceError as error:
            failures.append(error)
            ledgers.append(Ledger(unread=1, notes=(f"not read: {error.where}: {error.problem} ({error.hint})",)))
    if not frames:
        raise failures[0]
    rows = pl.concat(frames, how="vertical_relaxed")
    told = replace(total(ledgers), sources=len(places), blobs=len(frames), rows=rows.height, tuples=rows.height)
    tables = {query.name: rows} if query.name in schema.RESULTS else {}
    metrics = {"rows": rows.height, "incomplete": int(not told.complete), **table_metrics(tables)}
    settings = {"workspaces": [str(place) for place in places], "identities": identities, "parameters": dict(values)}
    return QueryResult(query.name, window, rows, told, settings, metrics)


def _ask(
    connection: Connection, query: Query, window: Window, values: Mapping[str, Value], queries: Queries
) -> tuple[pl.DataFrame, Ledger]:
    assert window.start is not None and window.end is not None
    names = {parameter.name for parameter in query.parameters}
    late = values.get("late", LATE)
    assert isinstance(late, dt.timedelta)
    fixed: dict[str, Value] = {**values, **({"late": late} if "late" in names else {})}
    asker = Asker(connection)
    if {"slices", "slice"} <= names - set(values):
        return _in_slices(asker, query, Slice(window.start, window.end), fixed, late, queries)
    text = bind(query, start=window.start, end=window.end, **fixed)
    span = (window.start, window.end + late)
    try:
        rows, size = _whole(asker, query, text, span, queries)
    except Cut as cut:
        place = connection.workspace
        raise declared("FL-W16", str(place), str(cut), workspace=str(place)) from None
    return rows, Ledger(bytes=size, record_bytes=size)


def _whole(asker: Asker, query: Query, text: str, span: Span, queries: Queries) -> tuple[pl.DataFrame, int]:
    """All rows over the whole window and the bytes on the way; raises Cut where reading the window is too much for one query."""
    try:
        answer, _, size = ask_whole(asker, text, span, seconds=LONGEST_QUERY, at_most=queries.bytes)
        return answer.frame(), size
    except Cut as cut:
        if cut.is_heavy or not query.order:
            raise
        return _in_parts(asker, query, text, span, queries)


def _in_parts(asker: Asker, query: Query, text: str, span: Span, queries: Queries) -> tuple[pl.DataFrame, int]:
    """The same in parts of the result, each asked over the whole window: what a row says rests on all rows of the table.

    One after another, since each is as much work for the service as the whole.
    """

    def count() -> int:
        return numbers_in(asker.ask(f"{text.rstrip().removesuffix(';')}{COUNT}", span, seconds=LONGEST_QUERY))[0]

    before = count()
    parts = 2
    while before > parts * queries.rows:
        parts *= 2
    todo = [(parts, part) for part in reversed(range(parts))]
    frames: list[pl.DataFrame] = []
    size = 0
    while todo:
        parts, part = todo.pop()
        try:
            asked = part_of(query, text, parts, part)
            answer, _, more = ask_whole(asker, asked, span, seconds=LONGEST_QUERY, at_most=queries.bytes)
        except Cut as cut:
            if cut.is_heavy or parts >= MOST_SLICES:
                raise
            # As in Slice.halves.
            todo += [(2 * parts, part + parts), (2 * parts, part)]
            continue
        frames.append(answer.frame())
        size += more
    rows = pl.concat(frames, how="vertical_relaxed").sort(query.order, maintain_order=True)
    after = count()
    if after != before:
        raise declared("FL-W12", str(asker.connection.workspace), f"{before}, then {after}")
    if rows.height != after:
        raise LedgerError(
            str(asker.connection.workspace),
            f"{query.name}: expected {after} rows, as the workspace counts them, found {rows.height} in {len(frames)} parts",
            hint="this is an error of flowlens; please report it with the window",
        )
    return rows, size


def _in_slices(
    asker: Asker, query: Query, whole: Slice, values: Mapping[str, Value], late: dt.timedelta, queries: Queries
) -> tuple[pl.DataFrame, Ledger]:
    def text_of(part: Slice) -> str:
        return bind(query, start=part.start, end=part.end, slices=part.slices, slice=part.slice, **values)

    frames: list[tuple[Slice, pl.DataFrame]] = []
    ledger = Ledger()
    where = str(asker.connection.workspace)
    tally = Tally(where)
    readings = read_slices(
        asker,
        [whole],
        text_of,
        lambda part: (part.start, part.end + late),
        proof=PROOF,
        concurrent=queries.concurrent,
        at_most=queries.bytes,
    )
    for reading in readings:
        if reading.error is None:
            tally.take(reading, int(reading.rows["table_rows"].sum()))
            frames.append((reading.part, reading.rows))
            ledger += Ledger(bytes=reading.bytes, record_bytes=reading.bytes)
        else:
            reject = Reject(where, 0, f"{reading.part}: {reading.error.problem}", "")
            ledger += Ledger(unread=1, rejects=(reject,))
            failed = reading.error
    if not frames:
        raise failed
    frames.sort(key=lambda each: (each[0].start, each[0].slices, each[0].slice))
    return pl.concat([frame for _, frame in frames], how="vertical_relaxed"), ledger
