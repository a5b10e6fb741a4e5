"""The same findings from the blobs, from their Traffic Analytics rows and from each query run over these rows.

The traffic is invented (tests/truth). What may differ stands in flowlens.not_kept and nowhere else. AGREEMENT_LONG=1 takes
50 networks.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import flowlens as fl
from flowlens import conversations, not_kept, schema
from flowlens.formats.conversation_rows import convert_conversations
from flowlens.formats.traffic_analytics import DecodedRows, convert_rows
from flowlens.queries import bind, find_query, query_names
from flowlens.query_values import required_endpoints
from tests import truth
from tests.kql_engine import executed

pytestmark = pytest.mark.slow

TOP = Path(__file__).resolve().parents[1]
SEEDS = range(50 if os.environ.get("AGREEMENT_LONG") else 10)
NOW = dt.datetime(2027, 1, 2, tzinfo=dt.UTC)
YEAR = {"start": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "end": dt.datetime(2027, 1, 1, tzinfo=dt.UTC)}
CHECKED_NOT_EXECUTED: tuple[str, ...] = ()
"""Queries with an operator that the interpreter lacks: none."""
# What identifies a row, and what is found about it; all other cells tell how much and when.
KEYS = {
    "encryption_status": ("vnet", "src_workload", "dst_vnet", "dst_workload", "eligibility"),
    "denied_egress": ("vnet", "workload", "endpoint"),
    "unexpected_destinations": ("vnet", "workload", "dst_ip", "dst_port", "protocol"),
    "rule_usage": ("acl_id", "acl_rule", "rule_kind", "direction"),
    "coverage": ("flow_log_id", "target_resource_id", "mac_address", "hour"),
}
FOUND = {
    "encryption_status": ("encryption_status", "encryption_code"),
    "denied_egress": ("status", "match", "dst_ip"),
}
# Cells that a query fills from its rows and flowlens from elsewhere.
OWN = {"unexpected_destinations": {"region", "country"}}
# Cells that rows fill and blobs leave open.
ROWS_TELL = {"unexpected_destinations": {"country"}}
INTERVAL = dt.timedelta(hours=1)
KMS = ("20.118.99.224", "40.83.235.53")
WEB = ("20.225.226.182", "52.136.197.163", "52.142.4.99", "20.24.186.80", "20.248.180.252")
ENDPOINTS = (("kms", 1688, KMS), ("either", 443, WEB[:2]), *((f"web-{address}", 443, (address,)) for address in WEB))

Rows = list[dict[str, object]]
Tables = dict[str, Rows]


@dataclass(frozen=True)
class World:
    """What each way answers about all networks together: their names, NICs and subscriptions are never the same."""

    raw: Rows
    blobs: Tables
    rows: Tables
    rows_alone: Tables
    logged: frozenset[str]
    queries: dict[str, pl.DataFrame]


def write_profile(path: Path) -> None:
    """Everything that the invented workloads try, and one group of alternatives."""
    lines = ['title = "Invented"', 'as_of = "2026-01-01"', 'sources = ["none"]']
    for name, port, addresses in ENDPOINTS:
        listed = ", ".join(f'{{ kind = "ip", value = "{address}" }}' for address in addresses)
        words = {"name": name, "cloud": "global", "need": "required", "protocol": "tcp", "ports": str(port)}
        words |= {"purpose": "test", "as_of": "2026-01-01"}
        lines += ["[[requirement]]", *(f'{key} = "{value}"' for key, value in words.items())]
        lines += ["telling = true", f"endpoints = [{listed}]"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_inventory(network: truth.Truth, path: Path) -> None:
    """The names that Traffic Analytics rows have and blobs lack."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["vnet", "address", "mac_address", "workload", "subnet"])
        for nic in network.topology.nics:
            name = f"{nic.vnet.resource_group}/{nic.vm}".lower()
            writer.writerows([nic.vnet.id, address, nic.mac, name, nic.subnet.lower()] for address in nic.addresses)


def answers(source: Path, profile: Path, inventory: Path | None = None) -> Tables:
    scan = fl.scan(source, threads=1, now=NOW, inventory_file=inventory)
    tables = {
        "encryption_status": fl.encryption_status(scan),
        "denied_egress": fl.denied_egress(scan, profiles=[str(profile)]),
        "unexpected_destinations": fl.unexpected_destinations(scan),
        "rule_usage": fl.rule_usage(scan),
        "coverage": fl.coverage(scan),
    }
    return {name: table.collect().to_dicts() for name, table in tables.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("networks")
    profile = folder / "invented.toml"
    write_profile(profile)
    raw: Rows = []
    logged: set[str] = set()
    sides: list[Tables] = [{name: [] for name in KEYS} for _ in range(3)]
    for seed in SEEDS:
        network = truth.generate(seed, window=False)
        blobs, rows, names = (folder / f"{seed}{end}" for end in ("", ".json", ".csv"))
        network.write_blobs(blobs)
        network.write_traffic_analytics(rows)
        write_inventory(network, names)
        logged |= {f"{nic.vnet.id}/{nic.vm}".lower() for nic in network.topology.nics if nic.logged}
        raw += json.loads(rows.read_bytes())
        for side, (source, inventory) in zip(sides, ((blobs, names), (rows, names), (rows, None)), strict=True):
            for name, table in answers(source, profile, inventory).items():
                side[name] += table
    values: dict[str, dict[str, object]] = {name: dict(YEAR) for name in query_names()}
    values["denied_egress"]["endpoints"] = required_endpoints([str(profile)])
    del values["coverage"]
    found = {name: executed(bind(find_query(name), **given), raw, now=NOW) for name, given in values.items()}  # type: ignore[arg-type]
    return World(raw, *sides, frozenset(logged), found)


def plain(column: str, value: object) -> object:
    """A cell as both ways write it: a subnet that only a prefix names is none, and so is an empty text."""
    if value == "" or (column.endswith("subnet") and "/" in str(value)):
        return None
    return int(value) if type(value).__name__ == "Decimal" else value  # type: ignore[call-overload]


def comparable(rows: Iterable[Mapping[str, object]], columns: Iterable[str]) -> list[tuple[object, ...]]:
    return sorted((tuple(plain(c, row[c]) for c in columns) for row in rows), key=str)


def judged(world: World, name: str, rows: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The rows that a query and the package have in common."""
    if name == "encryption_status":
        # Public and platform peers are left out by the query; peers without a log of their own are named by the row alone.
        return [row for row in rows if row["eligibility"] in ("eligible", "by design")]
    if name == "denied_egress":
        # So are workloads without one, of which others saw something.
        return [row for row in rows if f"{row['vnet']}/{str(row['workload']).partition('/')[2]}" in world.logged]
    return list(rows)


def united(rows: Rows) -> Rows:
    """The platform's and the admins' rules, which all networks share, in one row."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    counts = [pl.col(name).sum() for name in ("flows_allowed", "flows_denied", "workloads")]
    total = pl.when(pl.col("bytes").count() > 0).then(pl.col("bytes").sum())
    times = [pl.col("first_seen").min(), pl.col("last_seen").max()]
    return frame.group_by(KEYS["rule_usage"]).agg(*counts, total.alias("bytes"), *times).to_dicts()


def executed_columns(name: str) -> list[str]:
    """The columns that a query shares with its result table."""
    return [c for c in find_query(name).columns if c in schema.RESULTS[name].names and c not in OWN.get(name, ())]


@pytest.mark.parametrize("name", [name for name in KEYS if name != "coverage"])
def test_a_query_gives_what_the_rows_give(world: World, name: str) -> None:
    columns = executed_columns(name)
    found = comparable(judged(world, name, world.queries[name].to_dicts()), columns)
    rows = united(world.rows_alone[name]) if name == "rule_usage" else world.rows_alone[name]
    expected = comparable(judged(world, name, rows), columns)
    assert len(found) > 100
    if name in ("encryption_status", "rule_usage"):
        assert found == expected
        return
    # A source that nothing but a hop of another VNet saw has the name of its row in the query; the package, which goes by what
    # is known in the hop's VNet, has its address where that is owned twice.
    more, less = set(found) - set(expected), set(expected) - set(found)
    assert len(less) <= len(expected) // 50
    who = [columns.index(c) for c in ("vnet", "subnet", "workload")]
    if name == "unexpected_destinations":
        assert all(re.fullmatch(r"[0-9a-f.:]+", str(row[who[-1]])) for row in less)
        anonymous = [sorted((row[len(who) :] for row in side), key=str) for side in (more, less)]
        assert anonymous[0] == anonymous[1]
        return
    status = columns.index("status")
    assert {row[status] for row in more} <= {"Not seen", "Cannot tell"}
    assert {row[status] for row in less} <= {"Not seen", "Not observable"}


def test_no_query_is_beyond_the_interpreter(world: World) -> None:
    assert set(world.queries) | {"coverage", *CHECKED_NOT_EXECUTED} == set(query_names())


def test_conversations_are_those_of_the_rows(world: World) -> None:
    answer = convert_conversations(world.queries["conversations"], where="answer")
    export = convert_rows(pl.DataFrame(world.raw, infer_schema_length=None), where="rows")
    assert_frame_equal(by_hour(answer), by_hour(export))
    assert sorted(answer.countries.rows()) == sorted(export.countries.rows()) != []
    assert_frame_equal(*(side.inventory.sort(pl.all(), nulls_last=True) for side in (answer, export)))
    assert answer.ledger == export.ledger


def by_hour(side: DecodedRows) -> pl.DataFrame:
    """Intervals of an hour in one row, as the rollup has them."""
    keys = ["hour", "is_hop", *(name for name in conversations.KEYS if name != "hour")]
    hour = pl.col("interval_start").dt.truncate("1h")
    measures = [pl.col("interval_start").min(), pl.col("interval_end").max(), *conversations.merged_measures()]
    return side.conversations.with_columns(hour=hour).group_by(keys).agg(measures).sort(keys, nulls_last=True)


@pytest.mark.parametrize("slices", [3])
def test_slices_are_the_whole_and_share_nothing(world: World, slices: int) -> None:
    query = find_query("conversations")
    parts = [executed(bind(query, **YEAR, slices=slices, slice=n), world.raw, now=NOW) for n in range(slices)]
    whole = world.queries["conversations"]
    assert all(0 < part.height < whole.height // 2 for part in parts)
    assert_frame_equal(pl.concat(parts), whole, check_row_order=False)


def test_coverage_is_that_of_the_rows(world: World) -> None:
    # A grid of the hours of a year is large, so a few networks of one day are asked about.
    days: dict[dt.date, list[dict[str, object]]] = {}
    for row in world.rows_alone["coverage"]:
        days.setdefault(row["hour"].date(), []).append(row)  # type: ignore[attr-defined]
    day = max(days, key=lambda one: len(days[one]))
    start = dt.datetime.combine(day, dt.time(), dt.UTC)
    asked = find_query("coverage")
    text = bind(asked, start=start, end=start + dt.timedelta(days=1))
    found = executed(text, world.raw, now=NOW).to_dicts()
    # The query's window is the day, the package's the hours from a flow log's first to its last, and what others tell of.
    hours: dict[object, set[object]] = {}
    for row in days[day]:
        hours.setdefault((row["flow_log_id"], row["mac_address"]), set()).add(row["hour"])
    inside = [row for row in found if row["hour"] in hours.get((row["flow_log_id"], row["mac_address"]), ())]
    assert {row["state"] for row in inside} >= {"read", "missing"}
    assert comparable(inside, asked.columns) == comparable(days[day], asked.columns)
    assert {row["state"] for row in found if row not in inside} <= {"missing"}


@pytest.mark.parametrize("name", KEYS)
def test_rows_find_what_blobs_find(world: World, name: str) -> None:
    blobs, rows = ({key_of(name, row): row for row in side[name]} for side in (world.blobs, world.rows))
    assert len(blobs) > 200
    alone = [key for key in blobs.keys() ^ rows.keys() if not has_other_port(name, key, blobs.keys() | rows.keys())]
    assert not alone or any(name in fact.rows for fact in not_kept.FACTS)
    for key in alone:
        # What ended without a packet is no traffic to Traffic Analytics.
        if name == "encryption_status":
            assert not blobs[key]["bytes_unencrypted"]
        else:
            assert (name, (blobs.get(key) or rows[key])["state"]) == ("coverage", "missing")
    assert len(alone) <= len(blobs) // 100
    for key in blobs.keys() & rows.keys():
        for column in blobs[key]:
            values = [folded(side[key][column]) for side in (blobs, rows)]
            if values[0] is None and column in ROWS_TELL.get(name, ()):
                continue
            if values[0] != values[1]:
                assert column not in FOUND.get(name, ())
                assert column != "state" or values == ["silent", "missing"]
                facts = [fact.name for fact in not_kept.explaining(name, column)]
                assert facts, (key, column, *values)
                assert facts != ["time of a tuple"] or column == "advice" or abs(values[0] - values[1]) <= INTERVAL  # type: ignore[operator]


def folded(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def key_of(name: str, row: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(folded(row[column]) for column in KEYS[name])


def has_other_port(name: str, key: tuple[object, ...], keys: Iterable[tuple[object, ...]]) -> bool:
    """Whether a destination differs by its port only: with the source port, it may be a reply and so have none."""
    if name != "unexpected_destinations":
        return False
    *before, port, protocol = key
    none = (*before, None, protocol)
    return port is None or (isinstance(port, int) and port >= schema.REPLY_DESTINATION_PORT_FROM and none in keys)


def test_the_docs_list_what_is_not_kept() -> None:
    text = " ".join((TOP / "docs" / "traffic-analytics.md").read_text(encoding="utf-8").split())
    for fact in not_kept.FACTS:
        assert f"**{fact.name}**" in text and fact.text in text
        assert {table for table, _ in fact.cells} | fact.rows <= set(schema.RESULTS)
        assert all(column in schema.RESULTS[table].names for table, column in fact.cells)
