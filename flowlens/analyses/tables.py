"""What every analysis shares: the shape of a result table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import polars as pl

from flowlens import conversations, schema
from flowlens.evidence import Parts

_NO_MORE: Mapping[str, pl.DataType] = MappingProxyType({})


def result(
    name: str,
    compute: Callable[[], pl.LazyFrame],
    *,
    key: int | None = None,
    more: Mapping[str, pl.DataType] = _NO_MORE,
) -> pl.LazyFrame:
    """The result table ``name`` as a LazyFrame that computes when collected, in the contract's columns, types and order.

    Rows are sorted by all columns, or by the first ``key`` columns where no two rows agree in these. Columns that the contract
    does not have stand behind its own, as ``more`` names them.

    >>> result("rule_usage", lambda: pl.LazyFrame(schema=schema.polars_schema(schema.RESULTS["rule_usage"]))).collect().height
    0
    """
    columns = {**schema.polars_schema(schema.RESULTS[name]), **more}

    def collect() -> pl.DataFrame:
        rows = compute().select(pl.col(column).cast(kind) for column, kind in columns.items()).collect()
        order = _order(rows.select(list(columns)[:key]))
        # Column by column, so that a long table is not held twice.
        return pl.DataFrame([rows.drop_in_place(name).gather(order) for name in columns], schema=columns)

    return pl.defer(collect, schema=columns)


def _order(keys: pl.DataFrame) -> pl.Series:
    """The rows' numbers in the order of the keys, nulls last; a text that repeats is compared by its rank."""
    ranks = []
    for column in keys.iter_columns():
        words = column.unique().drop_nulls() if column.dtype == pl.String else column
        repeats = column.dtype == pl.String and len(words) < len(column) // 2
        ranks.append(column.cast(pl.Enum(words.sort())).to_physical() if repeats else column)
    return pl.DataFrame(ranks).select(pl.arg_sort_by(keys.columns, nulls_last=True)).to_series()


def each_of(parts: Parts, step: Callable[[pl.LazyFrame], pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """What ``step`` makes of each part.

    >>> from flowlens.evidence import LocalParts
    >>> [found.height for found in each_of(LocalParts((pl.LazyFrame({"n": [1, 2]}),)), lambda part: part.head(1).collect())]
    [1]
    """
    for (found,) in parts.each(lambda part: (step(part),)):
        yield found


def condensed(parts: Parts, of: Callable[[pl.LazyFrame], pl.LazyFrame], by: Sequence[str]) -> pl.LazyFrame:
    """The measures of CONVERSATIONS by the columns ``by``, of what ``of`` makes of each part: few rows that add up to the same.

    >>> from flowlens.evidence import LocalParts
    >>> parts = LocalParts((pl.LazyFrame(schema={"view": pl.String, **conversations.SCHEMA}),))
    >>> condensed(parts, lambda part: part, ["view"]).collect().columns[:2]
    ['view', 'flow_tuples']
    """

    def grouped(part: pl.LazyFrame) -> pl.DataFrame:
        return of(part).group_by(by).agg(conversations.merged_measures()).collect(engine="streaming")

    return pl.concat(each_of(parts, grouped)).lazy()


def slim(part: pl.DataFrame, repeated: Sequence[str] | None = None) -> pl.DataFrame:
    """``part`` with each text of the ``repeated`` columns, or of all, held once.

    Polars holds a text again in every row that it groups, and those of all rows for as long as one row is left.

    >>> slim(pl.DataFrame({"vnet": ["a", "a"]}), ["vnet"])["vnet"].to_list()
    ['a', 'a']
    """
    texts = []
    for name in part.select(pl.col(pl.String)).columns if repeated is None else repeated:
        words = part[name].unique().drop_nulls()
        texts.append(words.gather(part[name].cast(pl.Enum(words)).to_physical()).alias(name))
    return part.with_columns(texts).shrink_to_fit()


def null_sum(value: pl.Expr) -> pl.Expr:
    """The sum, or null where nothing was measured."""
    return pl.when(value.count() > 0).then(value.sum())


def both_ways() -> pl.Expr:
    """Bytes in both directions; null where the row has no counters."""
    counted = pl.sum_horizontal("bytes_sent", "bytes_received")
    return pl.when(pl.col("bytes_sent").is_not_null() | pl.col("bytes_received").is_not_null()).then(counted)


def stateless() -> pl.Expr:
    """Whether a row's tuples are allowed and have no state, as in NSG flow logs of version 1: each is a flow of its own.

    What became of such a flow is not told. Rows that were added up over other rows may have lost it.
    """
    told = pl.any_horizontal(pl.col("flows_started", "flows_ended", "flows_denied") > 0)
    # Traffic Analytics keeps no tuples, so there it is never so.
    return (pl.col("flow_tuples") > 0).fill_null(False) & ~told & pl.col("first_traffic").is_null()


def flows_of(rows: pl.Expr) -> pl.Expr:
    """Flows in the rows where ``rows`` holds: begun or ended, whichever is more, and one where there is only traffic.

    A long-lived flow may have neither its Begin nor its End in the window. Tuples without a state are flows besides.
    """
    begun = pl.max_horizontal(
        pl.col("flows_started").filter(rows).sum(), pl.col("flows_ended").filter(rows).sum()
    ).fill_null(0)
    traffic = (pl.col("first_traffic").filter(rows).count() > 0).cast(pl.Int64)
    return pl.max_horizontal(begun, traffic) + pl.col("flow_tuples").filter(rows & stateless()).sum()


def protocol_name() -> pl.Expr:
    """The protocol's name, or its number as text where it has none here."""
    number = pl.col("protocol")
    return number.replace_strict(schema.PROTOCOL_NAME, default=None, return_dtype=pl.String).fill_null(
        number.cast(pl.String)
    )


def rule_name() -> pl.Expr:
    """The rule without the prefix that flow logs put before it, as its owner knows it."""
    name = pl.col("acl_rule")
    for prefix in schema.RULE_PREFIX.values():
        name = name.str.strip_prefix(prefix)
    return name


def told_apart(paths: Iterable[str]) -> dict[str, str]:
    """Each path with as few of its last parts as tell it from the others.

    >>> told_apart(["sub-1/rg/vnet-a", "sub-2/rg/vnet-a", "sub-1/rg/vnet-b"])
    {'sub-1/rg/vnet-a': 'sub-1/rg/vnet-a', 'sub-1/rg/vnet-b': 'vnet-b', 'sub-2/rg/vnet-a': 'sub-2/rg/vnet-a'}
    """
    parts = {path: path.split("/") for path in sorted(set(paths))}
    found: dict[str, str] = {}
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        ends = {path: "/".join(words[-count:]) for path, words in parts.items()}
        taken = Counter(ends.values())
        found |= {path: end for path, end in ends.items() if path not in found and taken[end] == 1}
    return {path: found.get(path, path) for path in parts}
