"""What do my workloads talk to that nobody expected?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flowlens import schema
from flowlens.analyses.others import largest_and_others
from flowlens.analyses.tables import each_of, flows_of, null_sum, protocol_name, result, slim
from flowlens.catalog import Owners, ServiceTags, load_tags, read_owners
from flowlens.config import SECTIONS
from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import Scan
from flowlens.prefixes import PrefixTable, normal
from flowlens.toml_files import read_toml
from flowlens.views import is_egress

_FIELDS = {"prefix", "service_tag", "port", "ports", "protocol", "name"}
_TALK = ["vnet", "workload", "dst_ip", "dst_port", "protocol"]
_KEY = ["vnet", "subnet", "workload", "dst_ip", "dst_port", "protocol"]
"""What a row is of."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One destination that is expected: a prefix or a service tag, on some ports or any."""

    prefix: str | None
    service_tag: str | None
    ports: tuple[int, ...]
    protocol: int | None
    name: str


def read_expected(path: str | Path) -> tuple[Expected, ...]:
    """The expected destinations of a TOML file with ``[[expected]]`` entries.

    An entry has ``prefix`` or ``service_tag``, and may have ``port`` or ``ports``, ``protocol`` (a name, or its IANA number) and
    ``name``. The other sections of flowlens.toml may stand beside them.

    Raises ConfigError naming the entry that is wrong, or the word that is none.
    """
    path = Path(path)
    content = read_toml(path, " as a list of expected destinations")
    for word in content.keys() - SECTIONS:
        raise ConfigError(str(path), f"unknown section {word!r:.40}", hint=near_matches(word, SECTIONS))
    entries = content.get("expected")
    if not isinstance(entries, list):
        raise ConfigError(str(path), "expected [[expected]] entries, found none")
    return tuple(_expected(f"{path}: entry {n}", entry) for n, entry in enumerate(entries, 1))


def _expected(where: str, entry: object) -> Expected:
    if not isinstance(entry, dict) or not set(entry) <= _FIELDS:
        raise ConfigError(where, f"unknown fields, found {entry!r:.80}", hint=f"known: {', '.join(sorted(_FIELDS))}")
    prefix, tag = entry.get("prefix"), entry.get("service_tag")
    if bool(prefix) == bool(tag):
        raise ConfigError(where, "expected either a prefix or a service_tag")
    if prefix:
        normal(str(prefix), where=where)
    ports = entry.get("ports", [entry["port"]] if "port" in entry else [])
    if not isinstance(ports, list) or not all(isinstance(p, int) and 0 <= p <= 65535 for p in ports):
        raise ConfigError(where, f"expected ports from 0 to 65535, found {ports!r:.80}")
    protocol = entry.get("protocol")
    number = protocol if type(protocol) is int else schema.PROTOCOL_NUMBER.get(str(protocol).lower())
    if protocol is not None and (number is None or not 0 <= number <= 255):
        raise ConfigError(
            where, f"unknown protocol {protocol!r:.40}", hint=f"known: {', '.join(schema.PROTOCOL_NUMBER)}, or a number"
        )
    return Expected(prefix, tag, tuple(ports), number, str(entry.get("name", prefix or tag)))


def unexpected_destinations(
    scan: Scan,
    *,
    expected: str | Path | Sequence[Expected] | None = None,
    baseline: Scan | Sequence[Mapping[str, object]] | None = None,
    required: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    tags: ServiceTags | None = None,
    owners: Owners | Iterable[str | Path] | None = None,
    cloud: str = "global",
) -> pl.LazyFrame:
    """Allowed egress to addresses that are not internal, not the platform's, not expected and not required.

    ``expected`` is a TOML file or its entries; ``baseline`` an earlier scan, or the rows of an earlier table; ``required``
    picks of destinations, by workload, those that active profiles explain; ``owners`` are files that name whose an address
    is (see flowlens.catalog.owners). Without expected list and baseline the table is an
    inventory of destinations and says so in ``reason``. Of more than 100,000 destinations the smallest share rows of others, where
    the address is null and ``destinations`` says how many they are. Bytes are null where the source has no counters; times are UTC.

    >>> import flowlens as fl
    >>> table = fl.unexpected_destinations(fl.scan("sample_logs")).collect()
    >>> "203.0.113.77" in table["dst_ip"].to_list()
    True
    """
    entries = read_expected(expected) if isinstance(expected, (str, Path)) else expected
    named = owners if isinstance(owners, Owners) else read_owners(owners or ())
    return result(
        "unexpected_destinations",
        lambda: _destinations(scan, entries, baseline, required, tags or load_tags(cloud), named).lazy(),
    )


def _destinations(
    scan: Scan,
    expected: Sequence[Expected] | None,
    baseline: Scan | Sequence[Mapping[str, object]] | None,
    required: Callable[[pl.DataFrame], pl.DataFrame] | None,
    tags: ServiceTags,
    owners: Owners,
) -> pl.DataFrame:
    known = _known(baseline)
    is_expected = _expectation(expected or (), tags)
    reason = pl.lit("not in the expected list" if expected is not None else "no expected list: inventory only")
    if known is not None:
        reason = pl.when(pl.col("is_new")).then(pl.lit("new since the baseline")).otherwise(reason)

    def unnamed(views: pl.LazyFrame) -> pl.DataFrame:
        found = destinations(views)
        found = found.filter(~is_expected(found))
        if required is not None:
            found = found.join(required(found.select(_KEY)), on=_KEY, how="anti", nulls_equal=True)
        return _with_new(found, known)

    def named(found: pl.DataFrame) -> pl.DataFrame:
        names = tags.identify(found["dst_ip"].unique()).select("service_tag", "region", dst_ip="address")
        whose = owners.identify(names["dst_ip"], azure=names["service_tag"].is_not_null())
        names = names.hstack(whose)
        if (told := scan.evidence.countries) is not None:
            names = names.join(told.rename({"country": "told"}), left_on="dst_ip", right_on="address", how="left")
            names = names.with_columns(country=pl.coalesce("country", "told")).drop("told")
        found = found.join(names, on="dst_ip", how="left").with_columns(
            protocol=protocol_name(), reason=reason, destinations=pl.lit(1, pl.Int64)
        )
        return slim(
            found, ["vnet", "subnet", "workload", "protocol", "service_tag", "region", "owner", "country", "reason"]
        )

    # Files with names of owners are here.
    return largest_and_others(map(named, each_of(scan.evidence.parts, unnamed)))


def destinations(views: pl.LazyFrame) -> pl.DataFrame:
    """Allowed egress to external addresses, one row per workload and destination."""
    allowed = pl.col("flow_status") == "Allowed"
    return (
        views.filter(is_egress(), allowed, pl.col("counted"), pl.col("dst_place") == "external")
        .with_columns(
            vnet=pl.coalesce("src_vnet", "vnet"),
            workload=pl.coalesce("src_workload", "src_ip"),
            subnet="src_subnet",
        )
        .group_by(_KEY)
        .agg(
            flows_of(pl.lit(True)).alias("flows"),
            null_sum(pl.col("bytes_sent")).alias("bytes_sent"),
            null_sum(pl.col("bytes_received")).alias("bytes_received"),
            pl.col("first_seen").min(),
            pl.col("last_seen").max(),
        )
        .collect(engine="streaming")
    )


def _expectation(expected: Sequence[Expected], tags: ServiceTags) -> Callable[[pl.DataFrame], pl.Series]:
    """What tells whether an entry holds each destination's address, port and protocol."""
    pairs = [
        (prefix, number)
        for number, entry in enumerate(expected)
        for prefix in ((entry.prefix,) if entry.prefix else tags.prefixes(str(entry.service_tag)))
    ]
    table = PrefixTable.build(pairs) if pairs else None

    def is_expected(found: pl.DataFrame) -> pl.Series:
        held = pl.repeat(False, found.height, dtype=pl.Boolean, eager=True)
        if table is None:
            return held
        sets = table.sets(found["dst_ip"])
        for number, members in enumerate(table.members):
            for label in members:
                entry = expected[int(label)]
                fits = (sets == number).fill_null(False)
                if entry.ports:
                    fits &= found["dst_port"].is_in(list(entry.ports)).fill_null(False)
                if entry.protocol is not None:
                    fits &= found["protocol"] == entry.protocol
                held |= fits
        return held

    return is_expected


def _known(baseline: Scan | Sequence[Mapping[str, object]] | None) -> pl.DataFrame | None:
    """The destinations of an earlier scan or table, each once; None without one."""
    if baseline is None:
        return None
    if isinstance(baseline, Scan):
        return pl.concat(each_of(baseline.evidence.parts, lambda part: destinations(part).select(_TALK).unique()))
    number = pl.col("protocol").str.to_lowercase().replace_strict(schema.PROTOCOL_NUMBER, default=None)
    kinds = schema.polars_schema(schema.RESULTS["unexpected_destinations"])
    rows = [{name: row.get(name) for name in _TALK} for row in baseline]
    # Which destinations a row of others is of, nobody knows any more.
    before = pl.DataFrame(rows, schema={name: kinds[name] for name in _TALK}).filter(pl.col("dst_ip").is_not_null())
    return before.with_columns(protocol=number.cast(pl.Int16)).unique()


def _with_new(found: pl.DataFrame, known: pl.DataFrame | None) -> pl.DataFrame:
    """``is_new``: the workload did not talk to the destination before; null without a baseline."""
    if known is None:
        return found.with_columns(is_new=pl.lit(None, pl.Boolean))
    known = known.with_columns(is_new=pl.lit(False))
    return found.join(known, on=_TALK, how="left", nulls_equal=True).with_columns(pl.col("is_new").fill_null(True))
