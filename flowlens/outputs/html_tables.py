"""What a page shows of result tables: columns, cells with the value to sort by, and what was cut off, counted."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import polars as pl

from flowlens.analyses.charts import OTHERS
from flowlens.findings import Finding
from flowlens.outputs.content import TITLES, acceptance_text, destination, ranked, share, with_bare_addresses
from flowlens.outputs.page import Row
from flowlens.outputs.terminal import COLOURS
from flowlens.outputs.text import counted, size, utc

ROWS = 500
"""Rows of a table on a page; what lies beyond is added up in one row."""
STATIC_ROWS = 100
PAPER = 40
"""Rows of a table on paper, which nobody reads for long: what matters most comes first."""
GRID = 40, 24
"""Rows and columns of a grid."""
TONES = {"green": "good", "red": "bad", "yellow": "warn"}
MARKS = {"good": "✓", "bad": "✕", "warn": "!", "": "·"}
"""What stands before a status word, so that it tells without colour."""

_STATUSES = ("status", "encryption_status", "state")
_FEW = 7
_SUMMED = ("bytes", "count")


class Column(NamedTuple):
    """One column of a page's table: of which column of the result, under which heading, shown how.

    ``kind`` is text, name (an identifier that may be folded anywhere), last (of a resource id its last part), status, time,
    bytes, count, flag, or one of the ways in _CELLS that look at the whole row.
    """

    name: str
    heading: str
    kind: str = "text"


class Cell(NamedTuple):
    """What a cell shows, what it is sorted and exported by where that is something else, and its tone."""

    text: str
    value: str | int | float | None = None
    tone: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table as a page shows it; ``others`` is what was cut off, a cell for each column, or None.

    A ``grid`` has its rows and columns named by what it shows; a ``folded`` table is closed until it is asked for.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    others: tuple[Cell, ...] | None = None
    note: str = ""
    total: int = 0
    grid: bool = False
    folded: bool = False

    @property
    def paper(self) -> int:
        """Rows that are printed."""
        return PAPER

    @property
    def few(self) -> bool:
        """Whether a grid has so few columns that their names have room."""
        return self.grid and len(self.columns) <= _FEW


COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "encryption_status": (
        Column("src_workload", "from", "name"),
        Column("dst_workload", "to", "name"),
        Column("encryption_status", "status", "pair"),
        Column("encryption_code", "worst code"),
        Column("eligibility", "eligibility"),
        Column("bytes_encrypted", "encrypted", "share"),
        Column("bytes_encrypted", "bytes encrypted", "bytes"),
        Column("bytes_unencrypted", "bytes in clear", "bytes"),
        Column("flows_dropped", "flows dropped", "count"),
        Column("last_unencrypted", "last clear", "time"),
        Column("first_encrypted", "first encrypted", "time"),
        Column("src_subnet", "from subnet", "name"),
        Column("dst_subnet", "to subnet", "name"),
        Column("advice", "advice", "sentence"),
    ),
    "denied_egress": (
        Column("workload", "workload", "name"),
        Column("endpoint", "endpoint", "name"),
        Column("port", "port", "port"),
        Column("status", "status", "status"),
        Column("dst_ip", "address"),
        Column("acl_rule", "by rule", "name"),
        Column("acl_id", "of", "last"),
        Column("profile", "needed by"),
        Column("requirement", "requirement"),
        Column("match", "match"),
        Column("attempts", "tries", "count"),
        Column("last_success", "last success", "time"),
        Column("last_failure", "last failure", "time"),
        Column("subnet", "subnet", "name"),
        Column("note", "note", "sentence"),
        Column("fix", "fix", "sentence"),
    ),
    "unexpected_destinations": (
        Column("is_new", "new", "flag"),
        Column("workload", "workload", "name"),
        Column("dst_ip", "destination", "destination"),
        Column("dst_port", "port", "service"),
        Column("service_tag", "service tag", "name"),
        Column("region", "region"),
        Column("owner", "owner", "name"),
        Column("country", "country"),
        Column("bytes_sent", "sent", "bytes"),
        Column("bytes_received", "received", "bytes"),
        Column("flows", "flows", "count"),
        Column("first_seen", "first seen", "time"),
        Column("last_seen", "last seen", "time"),
        Column("subnet", "subnet", "name"),
        Column("reason", "reason"),
    ),
    "rule_usage": (
        Column("acl_rule", "rule", "name"),
        Column("acl_id", "of", "last"),
        Column("rule_kind", "kind"),
        Column("direction", "direction"),
        Column("flows_allowed", "allowed", "count"),
        Column("flows_denied", "denied", "count"),
        Column("bytes", "bytes", "bytes"),
        Column("workloads", "workloads", "number"),
        Column("first_seen", "first seen", "time"),
        Column("last_seen", "last seen", "time"),
    ),
    "rule_dependencies": (
        Column("workload", "workload", "name"),
        Column("direction", "direction"),
        Column("peer", "peer"),
        Column("port", "port", "port"),
        Column("flow_status", "decided", "status"),
        Column("flows", "flows", "count"),
        Column("bytes", "bytes", "bytes"),
        Column("acl_rule", "rule", "name"),
        Column("acl_id", "of", "last"),
        Column("status", "status"),
        Column("last_seen", "last seen", "time"),
        Column("note", "note", "sentence"),
    ),
    "private_subnet_readiness": (
        Column("subnet", "subnet", "name"),
        Column("outbound", "out by"),
        Column("destination", "destination", "name"),
        Column("port", "port", "port"),
        Column("status", "status", "status"),
        Column("path", "path"),
        Column("profiles", "needed by", "name"),
        Column("workloads", "workloads", "number"),
        Column("flows_reached", "reached", "count"),
        Column("flows_unanswered", "unanswered", "count"),
        Column("flows_denied", "denied", "count"),
        Column("last_success", "last success", "time"),
        Column("note", "note", "sentence"),
    ),
    "coverage": (
        Column("flow_log_id", "flow log", "last"),
        Column("workload", "NIC", "nic"),
        Column("hour", "hour", "time"),
        Column("state", "state", "status"),
        Column("tuples", "tuples", "count"),
        Column("rejected", "rejected", "count"),
    ),
}
"""What a page shows of each result table; what is left out stands in JSON, CSV and Parquet."""

CAPTIONS = {
    "encryption_status": "All pairs, those to act on first",
    "denied_egress": "All requirements by workload, those that fail first",
    "unexpected_destinations": "All destinations, new ones first",
    "rule_usage": "All rules, those that denied most first",
    "rule_dependencies": "All flows that depend on the rule",
    "private_subnet_readiness": "All destinations by subnet, what would be lost first",
    "coverage": "All hours by NIC, gaps first",
}
"""What a table holds and in which order."""

_FINDING_COLUMNS = (
    Column("state", "state"),
    Column("severity", "severity"),
    Column("workload", "workload", "name"),
    Column("subject", "subject", "subject"),
    Column("rule", "rule"),
    Column("question", "question"),
    Column("first_seen", "first seen", "time"),
    Column("last_seen", "last seen", "time"),
    Column("accepted", "accepted"),
)
_HOUR_COLUMNS = (
    Column("hour", "hour", "time"),
    Column("bytes_encrypted", "encrypted", "share"),
    Column("bytes_encrypted", "bytes encrypted", "bytes"),
    Column("bytes_unencrypted", "bytes in clear", "bytes"),
    Column("flows_dropped", "flows dropped", "count"),
)
_AMOUNTS = (
    Column("new", "new", "count"),
    Column("addresses", "addresses", "number"),
    Column("workloads", "workloads", "number"),
    Column("flows", "flows", "count"),
    Column("bytes", "bytes", "bytes"),
)
_GROUP_COLUMNS = (
    Column("group", "destination", "name"),
    Column("named", "known as"),
    Column("region", "region"),
    Column("country", "country"),
    *_AMOUNTS,
)
_COUNTRY_COLUMNS = (Column("country", "country"), *_AMOUNTS)


def tone_of(word: object) -> str:
    """good, bad, warn or nothing: the colour that repeats a status word."""
    return TONES.get(COLOURS.get(str(word), ""), "")


def result_table(
    name: str, question: str, rows: pl.DataFrame, caption: str, clock: Callable[[object], str], *, limit: int
) -> Table:
    """A result table, the rows that matter most first, cut after ``limit`` rows; ``name`` is its id on the page."""
    ordered = with_bare_addresses(ranked(question, rows))
    if question == "unexpected_destinations":
        ordered = ordered.sort(pl.col("dst_ip").is_null(), ~pl.col("is_new").fill_null(False), maintain_order=True)
    columns = tuple(
        column for column in COLUMNS[question] if column.name != "is_new" or rows["is_new"].null_count() < rows.height
    )
    return _table(name, caption, columns, ordered, clock, limit=limit)


def finding_table(findings: Sequence[Finding], clock: Callable[[object], str], *, compared: bool, limit: int) -> Table:
    """The findings, new ones first, then those that go on, then what is over; behind each state what somebody accepted.

    Where they were not ``compared`` with an earlier report all are new, which goes without saying.
    """
    order = {state: place for place, state in enumerate(("new", "ongoing", "resolved"))}
    told = sorted(findings, key=lambda finding: (order.get(finding.state, len(order)), finding.accepted is not None))
    names = [column.name for column in _FINDING_COLUMNS]
    times = pl.Datetime("us", "UTC")
    schema = {name: times if name.endswith("_seen") else pl.String() for name in names}
    rows = pl.DataFrame(
        [
            {name: getattr(finding, name) for name in names}
            | {"accepted": acceptance_text(finding.accepted) if finding.accepted else None}
            for finding in told
        ],
        schema=schema,
        orient="row",
    ).with_columns(pl.col("question").replace(TITLES))
    columns = tuple(column for column in _FINDING_COLUMNS if compared or column.name != "state")
    caption = "All findings, new ones first" if compared else "All findings"
    return _table("findings", caption, columns, rows, clock, limit=limit)


def hour_table(hours: pl.DataFrame, clock: Callable[[object], str], *, limit: int) -> Table:
    """What the share of encrypted bytes was drawn of, for who wants the numbers or sees no picture."""
    table = _table("encryption_by_hour", "Encryption by hour, in numbers", _HOUR_COLUMNS, hours, clock, limit=limit)
    return replace(table, folded=True)


def group_table(groups: pl.DataFrame, *, limit: int) -> Table:
    """What the tiles were drawn of."""
    caption = "Destinations by owner, service tag or address, in numbers"
    return replace(_table("destination_groups", caption, _GROUP_COLUMNS, groups, str, limit=limit), folded=True)


def country_table(places: pl.DataFrame, *, limit: int) -> Table:
    """Destinations by country, as far as somebody tells it."""
    named = places.with_columns(pl.col("country").fill_null("not told"))
    return _table("destination_countries", "Destinations by country", _COUNTRY_COLUMNS, named, str, limit=limit)


def _table(
    name: str,
    caption: str,
    columns: tuple[Column, ...],
    rows: pl.DataFrame,
    clock: Callable[[object], str],
    *,
    limit: int,
) -> Table:
    head = rows.head(limit)
    filled = tuple(column for column in columns if head[column.name].null_count() < head.height or not head.height)
    cells = tuple(tuple(_cell(column, row, clock) for column in filled) for row in head.iter_rows(named=True))
    rest = rows.slice(limit)
    if rest.is_empty():
        return Table(name, caption, filled, cells, total=rows.height)
    kinds = next((column.name for column in columns if column.name in _STATUSES), None)
    by_kind = rest.group_by(kinds).len().sort("len", kinds, descending=[True, False]).iter_rows() if kinds else ()
    told = ", ".join(f"{n:,} {str(word).lower()}" for word, n in by_kind)
    sums = [_sum(column, rest[column.name]) for column in filled]
    beyond = int(rest["destinations"].sum()) if "destinations" in rest.columns else rest.height
    return Table(
        name,
        caption,
        filled,
        cells,
        others=(Cell(counted(beyond, "other")), *sums[1:]),
        note=f"{limit:,} of {rows.height:,} rows are shown{f'; the others are {told}' if told else ''}. "
        "All rows: --format csv -o FOLDER/.",
        total=rows.height,
    )


def _sum(column: Column, values: pl.Series) -> Cell:
    """What the values that were cut off add up to; empty where that means nothing."""
    if column.kind not in _SUMMED or not values.count():
        return Cell("")
    total = int(values.sum())
    return Cell(size(total) if column.kind == "bytes" else f"{total:,}", total)


def _cell(column: Column, row: Row, clock: Callable[[object], str]) -> Cell:
    value = row[column.name]
    if column.kind in _CELLS:
        return _CELLS[column.kind](row, value)
    if value is None:
        return Cell("")
    if column.kind == "time":
        assert isinstance(value, dt.datetime)
        return Cell(clock(value), utc(value))
    return _BY_KIND.get(column.kind, _plain)(value)


def _plain(value: object) -> Cell:
    return Cell(str(value))


_BY_KIND: Mapping[str, Callable[..., Cell]] = {
    "last": lambda value: Cell(str(value).rsplit("/", 1)[-1]),
    "status": lambda value: Cell(str(value), tone=tone_of(value)),
    "bytes": lambda value: Cell(size(value), value),
    "count": lambda value: Cell(f"{value:,}", value),
    "number": lambda value: Cell(f"{value:,}", value),
    "flag": lambda value: Cell("new" if value else ""),
}


def _share(row: Row, _: object) -> Cell:
    encrypted, clear = row["bytes_encrypted"], row["bytes_unencrypted"]
    if isinstance(encrypted, int) and isinstance(clear, int) and encrypted + clear:
        return Cell(share(row), round(encrypted / (encrypted + clear), 6))
    return Cell("-", "")


def _pair(row: Row, value: object) -> Cell:
    # Clear text where encryption can't be is nothing to be alarmed at.
    return Cell(str(value), tone=tone_of(value) if row["eligibility"] == "eligible" else "")


def _port(row: Row, value: object) -> Cell:
    return Cell(" ".join(str(part) for part in (row["protocol"], value) if part is not None))


_CELLS: Mapping[str, Callable[[Row, object], Cell]] = {
    "destination": lambda row, _: Cell(destination(row)),
    "share": _share,
    "pair": _pair,
    "port": _port,
    "service": _port,
    "nic": lambda row, value: Cell(str(value or row["mac_address"] or "")),
}
LOOKS: Mapping[str, str] = defaultdict(
    str,
    **dict.fromkeys(("bytes", "count", "number", "share"), "n"),
    name="w",
    subject="w long",
    sentence="t",
)
"""Classes of the columns by kind: numbers stand right and sort by value, names may be folded, sentences have room."""


def grid(
    name: str,
    caption: str,
    corner: str,
    rows: pl.DataFrame,
    row: Callable[[Row], str],
    column: Callable[[Row], str],
    cell: Callable[[Row], Cell],
) -> Table:
    """``rows`` laid out by what ``row`` and ``column`` call them, in the order of their first appearance, others last.

    What goes beyond GRID is counted in the note.
    """
    cells: dict[str, dict[str, Cell]] = {}
    columns: dict[str, None] = {}
    for each in rows.iter_rows(named=True):
        cells.setdefault(row(each), {})[column(each)] = cell(each)
        columns.setdefault(column(each))
    drawn = list(cells.items())[: GRID[0]]
    there = [head for head in columns if any(head in of_row for _, of_row in drawn)]
    heads = sorted(there, key=lambda head: head.endswith(f" {OTHERS}"))[: GRID[1]]
    left = [
        f"{total - shown:,} of {total:,} {what}"
        for total, shown, what in ((len(cells), len(drawn), "rows"), (len(columns), len(heads), "columns"))
        if total > shown
    ]
    return Table(
        name,
        caption,
        (Column("", corner), *(Column(head, head, "status") for head in heads)),
        tuple((Cell(label), *(of_row.get(head, Cell("")) for head in heads)) for label, of_row in drawn),
        note=f"Left out of this grid: {' and '.join(left)}, those with least to do; the table below goes on."
        if left
        else "",
        total=len(cells),
        grid=True,
    )
