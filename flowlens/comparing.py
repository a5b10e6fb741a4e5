"""Two accounts of the same traffic side by side: flow log blobs and the rows that Traffic Analytics made of them.

What is compared is what every analysis reads: conversations, as each NIC logged them, summed over the window. Whatever differs
is explained by something that Traffic Analytics does not keep (`flowlens.not_kept`), or it is a difference.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from flowlens.analyses.tables import rule_name
from flowlens.errors import ConfigError
from flowlens.evidence import Ledger, Scan, Window
from flowlens.not_kept import FACTS
from flowlens.schema import REPLY_DESTINATION_PORT_FROM

EDGE = "hour of a tuple"
LATE = "rows still to come"
NOT_COMPARED = (
    "source port",
    "time of a tuple",
    "state of a tuple",
    "size of a reply",
    "number of tuples",
    "spelling of names",
)
"""Facts of the closed list that are left out before comparing: ports from 32768 on are one, names are in lower case, ACLs, times
and numbers of tuples are not looked at. What is left, the hour of a tuple, explains differences."""
REASONS: Mapping[str, str] = {
    EDGE: next(fact.text for fact in FACTS if fact.name == EDGE),
    LATE: "Rows arrive up to an hour after their interval ends, and this is more recent.",
}
"""What can explain a difference, in words."""

DIFFERENCES = ("only in A", "only in B", "differs")
VERDICTS = ("agree", "differ", "not determined")
MARGIN = dt.timedelta(minutes=2)
"""How long before an edge a tuple may have happened that is written behind it; seen was a minute (formats of the logs)."""
LATEST = dt.timedelta(hours=2)
"""An interval of an hour and the hour that its rows may take to arrive."""

_HOUR = dt.timedelta(hours=1)
_KEY = ("mac_address", "direction", "src_ip", "dst_ip", "dst_port", "protocol", "flow_status", "acl_rule")
_OPTIONAL = ("encryption_code", "target_resource_id")
SUMS = ("flows_started", "flows_denied", "packets_sent", "bytes_sent", "packets_received", "bytes_received")


@dataclass(frozen=True, slots=True)
class Side:
    """One of two sources: what it is called, what was read, and its sums over the window."""

    name: str
    ledger: Ledger
    totals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two sources say of the same window.

    ``equal`` conversations are the same in both; ``explained`` counts those that a fact explains; ``differences`` has a row for
    each that differs, with the fact behind it in ``reason`` or null. ``verdict`` is one of VERDICTS, ``text`` says it in words.
    ``compared`` names the columns by which conversations were matched.
    """

    window: Window
    sides: tuple[Side, Side]
    compared: tuple[str, ...]
    equal: int
    explained: Mapping[str, int]
    differences: pl.DataFrame
    verdict: str
    text: str

    @property
    def complete(self) -> bool:
        """Whether both sides were read whole."""
        return all(side.ledger.blobs and side.ledger.complete for side in self.sides)


def widened(start: dt.datetime, end: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """The window up to the edges of intervals: full hours, which are edges of intervals of 10 and of 60 minutes.

    >>> start = dt.datetime(2026, 6, 15, 9, 5, tzinfo=dt.UTC)
    >>> [time.hour for time in widened(start, start + dt.timedelta(hours=1))]
    [9, 11]
    """
    first, last = (time.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0) for time in (start, end))
    return first, last if last == end else last + _HOUR


def compare(
    names: tuple[str, str],
    scan_of: Callable[[str, dt.datetime, dt.datetime, dt.datetime], Scan],
    start: dt.datetime,
    end: dt.datetime,
    now: dt.datetime,
) -> Comparison:
    """Both sources over the window, widened to full hours; ``scan_of`` makes a Scan of a name, a start, an end and a cut.

    Raises ConfigError where nothing is given to compare, and whatever reading raises.
    """
    if names[0] == names[1]:
        raise ConfigError("compare", "expected two sources, found one twice")
    start, end = widened(start, end)
    # A little more is read on the left, and cut on the right, so that what may have moved over an edge is known.
    scans = [scan_of(name, start - MARGIN, end, end - MARGIN) for name in names]
    columns = [_columns_of(scan) for scan in scans]
    key = (*_KEY, *(name for name in _OPTIONAL if _serves(name, columns)))
    first, second = (_summed(scan, key, start, end) for scan in scans)
    both = first.join(second, on=list(key), how="full", coalesce=True, nulls_equal=True, suffix="_b")
    both = _judged(both, any(map(_is_rows, columns)), now)
    # What is known of the margin alone was read to explain, not to compare.
    both = both.filter(pl.col("in_a") | pl.col("in_b"))
    differing = both.filter(pl.col("difference").is_not_null()).sort(*key, nulls_last=True)
    sides = tuple(
        Side(name, scan.ledger, _totals(frame)) for name, scan, frame in zip(names, scans, (first, second), strict=True)
    )
    assert len(sides) == 2
    explained = dict(differing["reason"].drop_nulls().value_counts().sort("reason").iter_rows())
    unexplained = differing["reason"].null_count()
    verdict, text = _verdict(sides, both.height, explained, unexplained)
    shown = differing.select(*key, "difference", "reason", *(f"{name}_{side}" for name in SUMS for side in "ab"))
    return Comparison(Window(start, end), sides, key, both.height - differing.height, explained, shown, verdict, text)


def _columns_of(scan: Scan) -> Mapping[str, set[object]]:
    """What stands in the columns that may serve as a key, in lower case."""
    frame = scan.conversations.select(
        *(pl.col(name).cast(pl.String).str.to_lowercase().alias(name) for name in _OPTIONAL),
        flow_tuples=pl.col("flow_tuples").is_not_null(),
    ).unique()
    found = frame.collect()
    return {name: set(found[name].drop_nulls().to_list()) for name in found.columns}


def _serves(name: str, columns: Sequence[Mapping[str, set[object]]]) -> bool:
    """Whether both sides write the column, in words that meet: the older logs know no encryption, and log other targets."""
    return bool(columns[0][name] & columns[1][name]) or not (columns[0][name] | columns[1][name])


def _is_rows(columns: Mapping[str, set[object]]) -> bool:
    return True not in columns["flow_tuples"]


def _summed(scan: Scan, key: Sequence[str], start: dt.datetime, end: dt.datetime) -> pl.DataFrame:
    """Sums by key: of what is surely inside (``least_``), of the window, and with what may have moved in (``most_``)."""
    inside = pl.col("hour") >= start
    sure = inside & (pl.col("hour") < end - MARGIN)
    # Of both kinds of logs; what is no service port stands for all of them.
    port = pl.when(pl.col("dst_port") < REPLY_DESTINATION_PORT_FROM).then("dst_port")
    rows = scan.conversations.with_columns(
        dst_port=port,
        acl_rule=rule_name().str.to_lowercase(),
        target_resource_id=pl.col("target_resource_id").str.to_lowercase(),
        **{name: pl.col(name).fill_null(0) for name in SUMS},
    )
    sums = [
        pl.col(name).filter(condition).sum().alias(f"{prefix}{name}")
        for prefix, condition in (("least_", sure), ("", inside), ("most_", pl.lit(True)))
        for name in SUMS
    ]
    return (
        rows.group_by(*key)
        .agg(*sums, there=inside.any(), surely=sure.any(), last_seen=pl.col("last_seen").max())
        .collect()
    )


def _judged(both: pl.DataFrame, has_rows: bool, now: dt.datetime) -> pl.DataFrame:
    """Adds whether each conversation differs and the fact that explains it, and suffixes ``_a`` and ``_b``."""
    both = both.rename({name: f"{name}_a" for name in SUMS})
    numbers = [name for name in both.columns if name.startswith(("least_", "most_", *SUMS))]
    both = both.with_columns(
        pl.col(numbers).fill_null(0), in_a=pl.col("there").fill_null(False), in_b=pl.col("there_b").fill_null(False)
    )
    same = pl.all_horizontal(pl.col(f"{name}_a") == pl.col(f"{name}_b") for name in SUMS) & (
        pl.col("in_a") == pl.col("in_b")
    )
    # What each side may hold at least and at most meets: the edge can be all there is between them.
    moved = pl.all_horizontal(
        (pl.col(f"least_{name}") <= pl.col(f"most_{name}_b")) & (pl.col(f"least_{name}_b") <= pl.col(f"most_{name}"))
        for name in SUMS
    ) & pl.any_horizontal(
        # A tuple may carry nothing, and then only its being there tells of it.
        *(pl.col(f"last_seen{side}").is_not_null() & ~pl.col(f"surely{side}").fill_null(False) for side in ("", "_b")),
        *(pl.col(f"least_{name}{side}") != pl.col(f"most_{name}{side}") for name in SUMS for side in ("", "_b")),
    )
    recent = pl.max_horizontal("last_seen", "last_seen_b") >= pl.lit(now - LATEST).cast(pl.Datetime("us", "UTC"))
    return both.with_columns(
        difference=pl.when(~same).then(
            pl.when(~pl.col("in_b"))
            .then(pl.lit(DIFFERENCES[0]))
            .when(~pl.col("in_a"))
            .then(pl.lit(DIFFERENCES[1]))
            .otherwise(pl.lit(DIFFERENCES[2]))
        ),
        reason=pl.when(~same & moved).then(pl.lit(EDGE)).when(~same & recent & pl.lit(has_rows)).then(pl.lit(LATE)),
    )


def _totals(frame: pl.DataFrame) -> dict[str, int]:
    sums = {name: int(frame[name].sum()) for name in SUMS}
    return {"conversations": int(frame["there"].sum()), **sums}


def _verdict(
    sides: Sequence[Side], conversations: int, explained: Mapping[str, int], unexplained: int
) -> tuple[str, str]:
    empty = [side.name for side in sides if not side.totals["conversations"]]
    partly = [side.name for side in sides if not side.ledger.complete]
    if empty:
        return VERDICTS[2], f"nothing was read of {' and '.join(empty)}"
    if unexplained and partly:
        return VERDICTS[
            2
        ], f"{unexplained} of {conversations} conversations differ, and not all was read of {' and '.join(partly)}"
    if unexplained:
        return VERDICTS[
            1
        ], f"{unexplained} of {conversations} conversations differ by more than Traffic Analytics leaves out"
    if explained:
        return VERDICTS[
            0
        ], f"{conversations} conversations, {sum(explained.values())} with differences that are explained"
    return VERDICTS[0], f"{conversations} conversations, all equal"
