"""A first list of expected destinations, drafted from what was seen, for a person to read and cut down."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from flowlens.errors import ConfigError
from flowlens.outputs.saying import say
from flowlens.outputs.tables import atomic
from flowlens.outputs.text import clean, counted, listed, size, utc
from flowlens.prefixes import subnet_of
from flowlens.reporting import Report

_ANYBODY = "AzureCloud"
"""The tag that says no more than that an address is Azure's: whoever rents a VM there has one, so it is no destination."""
_CROWD = 3
"""So many addresses of one /24 or /64 with the same ports are drafted as that prefix."""


def learner(path: Path) -> Callable[[Report], None]:
    """What drafts the list into a file that is not there yet.

    Raises ConfigError where it is.
    """
    _refuse_to_replace(path)

    def learn(report: Report) -> None:
        text = draft(report)
        _refuse_to_replace(path)
        with atomic(path) as file:
            file.write(text.encode())
        say(f"wrote {path}: {counted(text.count('[[expected]]'), 'destination')} to read before they are used")

    return learn


def _refuse_to_replace(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ConfigError(f"--learn {path}", "is there already", hint="name another file, or move this one away first")


def draft(report: Report) -> str:
    """A TOML list, for ``--expect``, of all destinations of the report that nobody expected yet; most bytes first.

    What is in a service tag is drafted as that tag. What is only known to be Azure's, or is in no tag, is drafted as its
    address, and as its /24 or /64 where several addresses there have the same ports. Nothing is drafted for rows of others
    without a tag, which have no address left.

    >>> import flowlens as fl
    >>> report = fl.report(fl.scan("sample_logs"), questions=["unexpected_destinations"])
    >>> 'service_tag = "Storage.JapanEast"' in draft(report)
    True
    """
    table = report.tables["unexpected_destinations"]
    start, end = utc(report.window.start), utc(report.window.end)
    seen = f"from {start} to {end}" if start and end else "in no flow log"
    entries = ["\n".join(_lines(row)) for row in _rows(table)]
    head = [
        f"# Drafted by flowlens from what was seen {seen}: {counted(table.height, 'row')} of destinations.",
        "# What stands here is expected from now on, so take out what nobody needs. What the profiles of required endpoints",
        f"# explain is expected in any case. Service tags of {clean(report.catalogue['tags_date'])}.",
    ]
    return "\n\n".join(["\n".join(head), *(entries or ["expected = []"])]) + "\n"


def _rows(table: pl.DataFrame) -> list[Mapping[str, object]]:
    """What to expect: a tag or prefix, its protocol and ports, and what it carried."""
    if table.is_empty():
        return []
    in_service = ~pl.col("service_tag").str.starts_with(_ANYBODY)
    by_target = (
        table.with_columns(
            tag=pl.when(in_service).then("service_tag"),
            address=pl.when(in_service).then(None).otherwise("dst_ip"),
        )
        .filter(pl.col("tag").is_not_null() | pl.col("address").is_not_null())
        .group_by("tag", "address", "protocol")
        .agg(
            pl.col("dst_port").drop_nulls().unique().sort().alias("ports"),
            pl.col("bytes_sent", "bytes_received").sum(),
            pl.col("bytes_sent").count().alias("measured"),
            pl.col("workload").drop_nulls().unique().sort().alias("workloads"),
            pl.col("service_tag", "owner").first(),
        )
        .sort("tag", "address", "protocol")
    )
    by_target = by_target.with_columns(around=subnet_of(by_target["address"]))
    return sorted(_gathered(by_target), key=lambda row: -int(str(row["bytes_sent"])))


def _gathered(by_target: pl.DataFrame) -> Iterator[Mapping[str, object]]:
    tagged = by_target.filter(pl.col("tag").is_not_null())
    yield from tagged.with_columns(key=pl.lit("service_tag"), value="tag").iter_rows(named=True)
    alike = ("around", "protocol", "ports", "service_tag", "owner")
    rows = by_target.filter(pl.col("tag").is_null()).sort(alike, maintain_order=True).iter_rows(named=True)
    for _, group in itertools.groupby(rows, key=lambda row: [row[name] for name in alike]):
        several = list(group)
        if len(several) < _CROWD:
            yield from ({**row, "key": "prefix", "value": row["address"]} for row in several)
            continue
        yield {
            **several[0],
            "key": "prefix",
            "value": several[0]["around"],
            "seen": len(several),
            **{name: sum(row[name] for row in several) for name in ("bytes_sent", "bytes_received", "measured")},
            "workloads": sorted({name for row in several for name in row["workloads"]}),
        }


def _lines(row: Mapping[str, object]) -> Iterator[str]:
    workloads, ports = row["workloads"], row["ports"]
    assert isinstance(workloads, Sequence) and isinstance(ports, Sequence)
    carried = (
        f"{size(int(str(row['bytes_sent'])))} sent, {size(int(str(row['bytes_received'])))} received"
        if row["measured"]
        else "bytes are not told"
    )
    yield f"# {carried}, by {clean(listed(workloads)) or 'an unknown workload'}."
    if "seen" in row:
        yield f"# {row['seen']} addresses of it were seen."
    if row["key"] == "prefix" and row["service_tag"]:
        yield f"# It is Azure's ({clean(row['service_tag'])}), which anybody can rent: find out whose it is."
    yield "[[expected]]"
    yield f"{row['key']} = {_quoted(row['value'])}"
    if ports:
        yield f"ports = [{', '.join(map(str, ports))}]"
    protocol = str(row["protocol"])
    yield f"protocol = {protocol if protocol.isdecimal() else _quoted(protocol)}"
    if row["owner"]:
        yield f"name = {_quoted(row['owner'])}"


def _quoted(text: object) -> str:
    """The text as a basic string of TOML."""
    shown = clean(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{shown}"'
