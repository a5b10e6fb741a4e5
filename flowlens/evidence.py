"""What was read and what became of it: rejects, the ledger, decoded batches, the scan that analyses take.

Records only, no I/O. The promise they keep: *tuples seen = rows + rejected + outside the window*, and the bytes of
each blob = record spans + framing spans, each measured on its own.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import add, attrgetter
from typing import BinaryIO, Protocol

import polars as pl
import pyarrow as pa

from flowlens.errors import LedgerError

REJECTS_KEPT = 100
"""How many rejects a ledger lists; all are counted."""
SAMPLE_LENGTH = 200
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


YEARS = range(1970, 2200)
"""What a year of a flow log, or of a window of some, can be; arithmetic with times near the ends of the calendar fails."""


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open ``[start, end)`` in UTC, whatever zone the times given have; None is unbounded.

    Raises ValueError for a time without zone and for a window that ends before it starts.

    >>> utc = dt.timezone.utc
    >>> Window(dt.datetime(2026, 1, 1, tzinfo=utc), None).contains(dt.datetime(2026, 1, 2, tzinfo=utc))
    True
    """

    start: dt.datetime | None = None
    end: dt.datetime | None = None

    def __post_init__(self) -> None:
        for name, edge in (("start", self.start), ("end", self.end)):
            if edge is not None and edge.tzinfo is None:
                raise ValueError(f"a window needs times with a zone, found {edge.isoformat()}")
            # Two times of one zone are compared by their clocks, which is wrong where clocks are put back.
            object.__setattr__(self, name, edge and edge.astimezone(dt.UTC))
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(
                f"a window starts before it ends, found {self.start.isoformat()} .. {self.end.isoformat()}"
            )

    def contains(self, time: dt.datetime) -> bool:
        """Whether ``time`` lies in the window."""
        return (self.start is None or time >= self.start) and (self.end is None or time < self.end)

    @property
    def microseconds(self) -> tuple[int, int]:
        """Start and end in microseconds since 1970; the least and the largest integer of 64 bits where it is unbounded.

        >>> Window(None, dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.timezone.utc)).microseconds
        (-9223372036854775808, 1000000)
        """
        start = -(2**63) if self.start is None else microseconds(self.start)
        return start, 2**63 - 1 if self.end is None else microseconds(self.end)


def microseconds(moment: dt.datetime) -> int:
    """Microseconds since 1970.

    >>> microseconds(dt.datetime(1970, 1, 1, 0, 1, tzinfo=dt.timezone.utc))
    60000000
    """
    return (moment - _EPOCH) // _MICROSECOND


@dataclass(frozen=True, slots=True)
class Reject:
    """A flow tuple, record or row that could not be decoded, with its place and why.

    ``offset`` counts bytes from the start of the decompressed blob to the record that holds it.

    >>> Reject("PT1H.json", 12, "expected 13 fields, found 12", "1733975962447,...").offset
    12
    """

    blob: str
    offset: int
    reason: str
    sample: str


def sample(raw: bytes | str) -> str:
    """At most 200 characters of ``raw`` with everything unprintable escaped.

    >>> sample(b"a\\x1b[31m")
    'a\\\\x1b[31m'
    """
    text = raw if isinstance(raw, str) else raw[: SAMPLE_LENGTH * 4].decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:SAMPLE_LENGTH])
    return shown[:SAMPLE_LENGTH]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was there to read and what became of it; ledgers add up.

    ``tuples`` counts flow tuples seen, whether they became rows, were rejected or lie outside the window. A record that
    could not be decoded at all counts in ``rejected_records``, since how many tuples it held is not known.
    ``strict_records`` were served by the strict decoder because the fast one met a deviation.

    >>> Ledger(tuples=3, rows=2, rejected=1).balanced, Ledger(tuples=3, rows=2).balanced
    (True, False)
    """

    sources: int = 0
    blobs: int = 0
    records: int = 0
    tuples: int = 0
    rows: int = 0
    rejected: int = 0
    rejected_records: int = 0
    outside_window: int = 0
    bytes: int = 0
    record_bytes: int = 0
    framing_bytes: int = 0
    strict_records: int = 0
    unread: int = 0
    restarted_bytes_in_doubt: int = 0
    unknown_codes: Mapping[str, int] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything selected was read and nothing was rejected."""
        return not (self.rejected or self.rejected_records or self.unread)

    @property
    def balanced(self) -> bool:
        """Whether tuples and bytes both add up, as every run must."""
        return (
            self.tuples == self.rows + self.rejected + self.outside_window
            and self.bytes == self.record_bytes + self.framing_bytes
        )

    def __add__(self, other: Ledger) -> Ledger:
        """Both ledgers as one; counts add up, rejects are listed up to the cap.

        >>> (Ledger(blobs=1, tuples=2) + Ledger(blobs=1, tuples=3)).tuples
        5
        """
        return replace(
            self,
            **dict(zip(COUNTS, map(add, _counts(self), _counts(other)), strict=True)),
            unknown_codes=dict(Counter(self.unknown_codes) + Counter(other.unknown_codes))
            if other.unknown_codes
            else self.unknown_codes,
            rejects=(*self.rejects, *other.rejects)[:REJECTS_KEPT],
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))) if other.notes else self.notes,
        )


COUNTS = tuple(name for name in Ledger.__slots__ if isinstance(getattr(Ledger(), name), int))
"""The counts of a ledger, which add up."""
_counts = attrgetter(*COUNTS)


def checked(ledger: Ledger, where: str) -> Ledger:
    """The ledger of the blob ``where``, if it adds up.

    Raises LedgerError where it does not: nothing may be lost unseen.

    >>> checked(Ledger(tuples=1, rows=1), "PT1H.json").rows
    1
    """
    if not ledger.balanced:
        raise LedgerError(
            where,
            f"expected {ledger.tuples} tuples and {ledger.bytes} bytes, found {ledger.rows} rows + {ledger.rejected} rejected + "
            f"{ledger.outside_window} outside the window, and {ledger.record_bytes} bytes of records + "
            f"{ledger.framing_bytes} of framing",
            hint="this is an error of flowlens; please report it with the blob, or with its size and region",
        )
    return ledger


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """The sum of ledgers."""
    return reduce(Ledger.__add__, ledgers, Ledger())


@dataclass(frozen=True, slots=True)
class Decoded:
    """A batch of decoded rows with its own small ledger.

    ``flows`` has the schema ``schema.ENCODED_FLOWS``. A decoder yields one per document (about 2 MB) and fills these
    fields of ``ledger``: records, tuples, rows, rejected, rejected_records, record_bytes, framing_bytes, strict_records,
    unknown_codes, rejects; ``bytes`` is what the decoder took from the chunks for this batch, counted as it took them.
    ``record_rows`` says how many rows each record gave, in order; empty where the source has no records.
    """

    flows: pa.Table
    ledger: Ledger
    record_rows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is known of addresses and NICs; small frames, ready to join.

    ``table`` has the columns of INVENTORY. ``nics`` has one row per NIC: mac_address, vnet, workload, subnet, kind.
    ``places`` has one row per internal or platform address seen: address, place.
    ``peers`` has vnet, address, owner_vnet, ambiguous: addresses seen in a VNet that another VNet owns.
    """

    table: pl.DataFrame
    nics: pl.DataFrame
    places: pl.DataFrame
    peers: pl.DataFrame
    forwarders: frozenset[str]


class Parts(Protocol):
    """Conversations with what is known of both ends and which rows count (see flowlens.views), in parts.

    All rows of a destination are in one part, and each part fits memory. Where they lie and who works on them is not told.
    """

    def each(self, step: Callable[[pl.LazyFrame], tuple[pl.DataFrame, ...]]) -> Iterator[tuple[pl.DataFrame, ...]]:
        """What ``step`` makes of each part; it must not change anything but what it gives back, and may run elsewhere."""
        ...

    def filter(self, inside: pl.Expr) -> Parts:
        """The rows for which ``inside`` holds, in the same parts."""
        ...

    def lazy(self) -> pl.LazyFrame:
        """The rows of all parts."""
        ...


@dataclass(frozen=True, slots=True)
class LocalParts:
    """Parts that this process works on, one after the other.

    >>> parts = LocalParts((pl.LazyFrame({"n": [1, 2]}), pl.LazyFrame({"n": [3]})))
    >>> [frame.height for (frame,) in parts.filter(pl.col("n") > 1).each(lambda part: (part.collect(),))]
    [1, 1]
    """

    frames: tuple[pl.LazyFrame, ...]

    def each(self, step: Callable[[pl.LazyFrame], tuple[pl.DataFrame, ...]]) -> Iterator[tuple[pl.DataFrame, ...]]:
        """What ``step`` makes of each part, as it is asked for."""
        return map(step, self.frames)

    def filter(self, inside: pl.Expr) -> LocalParts:
        """The rows for which ``inside`` holds."""
        return LocalParts(tuple(frame.filter(inside) for frame in self.frames))

    def lazy(self) -> pl.LazyFrame:
        """The rows of all parts."""
        return pl.concat(self.frames)


def together(parts: Parts, step: Callable[[pl.LazyFrame], tuple[pl.DataFrame, ...]]) -> tuple[pl.DataFrame, ...]:
    """What ``step`` makes of all parts, put together.

    >>> parts = LocalParts((pl.LazyFrame({"n": [1, 2]}), pl.LazyFrame({"n": [3]})))
    >>> [frame["n"].to_list() for frame in together(parts, lambda part: (part.collect(), part.head(1).collect()))]
    [[1, 2, 3], [1, 3]]
    """
    return tuple(map(pl.concat, zip(*parts.each(step), strict=True)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one pass over a source gave; all answers of a scan are about these same bytes.

    ``coverage`` has the columns of the coverage table. ``logged`` are, in a part of a scan, the NICs that the whole has logs of.
    ``countries`` has address and country of public addresses, where rows of Traffic Analytics tell them.
    """

    conversations: pl.LazyFrame
    parts: Parts
    inventory: Inventory
    coverage: pl.DataFrame
    ledger: Ledger
    logged: pl.Series | None = None
    countries: pl.DataFrame | None = None

    @property
    def logged_nics(self) -> pl.Series:
        """The MAC addresses that some flow log covers, in ``mac_address``; the inventory knows others too."""
        return self.coverage["mac_address"].drop_nulls().unique() if self.logged is None else self.logged

    @property
    def views(self) -> pl.LazyFrame:
        """The rows of all parts."""
        return self.parts.lazy()


class Scan:
    """Evidence of one or several sources, read in one pass when a result is first asked for.

    >>> import flowlens as fl
    >>> fl.scan("sample_logs").ledger.tuples
    1752

    ``flows`` alone streams the source anew at each collect: sink it to Parquet first where several questions follow.
    """

    def __init__(
        self,
        *,
        read: Callable[[], Evidence],
        flows: Callable[[], pl.LazyFrame],
        window: Window,
        changed_at: dt.datetime | None = None,
        settings: Mapping[str, object] | None = None,
        write_flows: Callable[[BinaryIO], Ledger] | None = None,
    ) -> None:
        self._read = read
        self._flows = flows
        self.window = window
        self.changed_at = changed_at
        self.settings = dict(settings or {})
        self._write_flows = write_flows

    @cached_property
    def evidence(self) -> Evidence:
        """What the one pass gave; the first access reads the source."""
        return self._read()

    @property
    def flows(self) -> pl.LazyFrame:
        """FLOWS, one row per flow tuple, decoded anew at each collect."""
        return self._flows()

    def write_flows(self, file: BinaryIO) -> Ledger:
        """The ledger of writing all FLOWS to ``file`` as Parquet; raises ValueError where the source keeps no flows."""
        if self._write_flows is None:
            raise ValueError("this scan is a part of another: write that one's flows")
        return self._write_flows(file)

    @property
    def conversations(self) -> pl.LazyFrame:
        """CONVERSATIONS, the rollup by hour that every analysis reads."""
        return self.evidence.conversations

    @property
    def inventory(self) -> pl.DataFrame:
        """INVENTORY: who an address is."""
        return self.evidence.inventory.table

    @property
    def coverage(self) -> pl.DataFrame:
        """One row per flow log, NIC and hour: read, empty, silent, missing …"""
        return self.evidence.coverage

    @property
    def ledger(self) -> Ledger:
        """What was there to read and what became of it."""
        return self.evidence.ledger

    def before_change(self) -> Scan:
        """The part of this scan before ``changed_at``, from the same pass."""
        return self._part(pl.col("hour") < self._change(), Window(self.window.start, self._change()))

    def after_change(self) -> Scan:
        """The part of this scan from ``changed_at`` on, from the same pass."""
        return self._part(pl.col("hour") >= self._change(), Window(self._change(), self.window.end))

    def _change(self) -> dt.datetime:
        if self.changed_at is None:
            raise ValueError("before and after need a scan with changed_at")
        return self.changed_at

    def _part(self, inside: pl.Expr, window: Window) -> Scan:
        def read() -> Evidence:
            whole = self.evidence
            hours = whole.coverage.filter(
                (pl.col("hour") + pl.duration(hours=1) > window.start if window.start else pl.lit(True))
                & (pl.col("hour") < window.end if window.end else pl.lit(True))
            )
            return replace(
                whole,
                conversations=whole.conversations.filter(inside),
                parts=whole.parts.filter(inside),
                coverage=hours,
                # A change outside the hours that were read takes no NIC's flow log away.
                logged=whole.logged_nics,
            )

        return Scan(read=read, flows=self._flows, window=window, settings=self.settings)

    def __repr__(self) -> str:
        start, end = (edge.isoformat() if edge else "…" for edge in (self.window.start, self.window.end))
        return f"<flowlens.Scan of {self.settings.get('sources', '?')} [{start}, {end})>"
