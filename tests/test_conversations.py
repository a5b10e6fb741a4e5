"""The rollup against a plain Python one, the merge law, and what spilling to disk must not change."""

import datetime as dt
import random
from functools import reduce

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowlens import conversations, schema
from flowlens.conversations import COLUMNS, KEYS, MAXS, MINS, SCHEMA, SUMS, BlobRollup, Contexts, merge, rollup
from tests.strategies import examples

UTC = dt.UTC
NINE = dt.datetime(2026, 6, 15, 9, tzinfo=UTC)
HOUR = dt.timedelta(hours=1)
MICROSECOND = dt.timedelta(microseconds=1)
ROW = {
    "time": NINE + dt.timedelta(minutes=5),
    "src_ip": "10.0.0.4",
    "dst_ip": "10.0.0.5",
    "src_port": 50_000,
    "dst_port": 443,
    "protocol": 6,
    "direction": "Outbound",
    "flow_state": "End",
    "flow_status": "Allowed",
    "encryption_code": "X",
    "packets_sent": 4,
    "bytes_sent": 400,
    "packets_received": 3,
    "bytes_received": 5_000,
    "restarted": False,
    "acl_rule": "UserRule_a",
    "acl_id": "nsg",
    "mac_address": "00005E005301",
    "target_resource_id": "vnet",
    "flow_log_id": "log",
    "record_time": NINE + dt.timedelta(minutes=6),
}


def flows(*changes):
    return pa.Table.from_pylist([ROW | change for change in changes], schema=schema.FLOWS)


def only(frame):
    assert frame.height == 1
    return frame.row(0, named=True)


# Few values of each column, so that keys meet often; every column that may be null is null at times.
VALUES = {
    "time": [NINE + n * HOUR + us * MICROSECOND for n in (0, 1, 5) for us in (0, 1, 1_800_000_000, 3_599_999_999)],
    "src_ip": ["10.0.0.4", "10.0.0.5", "2001:db8::1"],
    "dst_ip": ["10.0.0.4", "203.0.113.7"],
    "src_port": [None, 0, 443, 1023, 1024, 50_000, 65_535],
    "dst_port": [None, 0, 443, 32_767, 32_768, 65_535],
    "protocol": [0, 6, 17, 255],
    "direction": ["Inbound", "Outbound"],
    "flow_state": [None, "Begin", "Continuing", "End", "Deny", "unknown:Q"],
    "flow_status": ["Allowed", "Denied"],
    "encryption_code": [None, "X", "NX", ""],
    "packets_sent": [None, 0, 1, 2**48 - 1],
    "bytes_sent": [None, 0, 66, 2**48 - 1],
    "packets_received": [None, 0, 2],
    "bytes_received": [None, 0, 499, 500],
    "restarted": [False, True],
    "acl_rule": [None, "UserRule_a"],
    "acl_id": [None, "nsg"],
    "mac_address": [None, "00005E005301"],
    "target_resource_id": [None, "vnet"],
    "flow_log_id": [None, "log"],
    "record_time": [None, NINE],
}
MEASURES = ("time", "flow_state", *schema.COUNTERS, "restarted", "record_time")
USUAL = st.fixed_dictionaries({}, optional={name: st.sampled_from(VALUES[name]) for name in MEASURES})
ANY = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})
# Most rows differ in their measures alone, or in one key beside, so that keys meet within a batch and between batches.
OTHER = st.sampled_from([{name: value} for name in VALUES if name not in MEASURES for value in VALUES[name]])
ROW_CHANGES = USUAL | USUAL | st.tuples(USUAL, OTHER).map(lambda both: both[0] | both[1]) | ANY
ROWS = st.lists(ROW_CHANGES.map(lambda change: ROW | change), max_size=12)
EDGES = st.lists(st.sampled_from([*VALUES["time"][:4], *VALUES["time"], NINE - HOUR / 2]), max_size=3)


def as_drawn(draw, rows):
    """The rows as FLOWS, or as ENCODED_FLOWS in chunks with dictionaries of their own, which turns the halves round."""
    table = pa.Table.from_pylist(rows, schema=schema.FLOWS)
    if draw(st.booleans()):
        return table
    cut = draw(st.integers(0, len(rows)))
    return pa.concat_tables(
        [table.slice(cut).cast(schema.ENCODED_FLOWS), table.slice(0, cut).cast(schema.ENCODED_FLOWS)]
    )


def null_sum(values):
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def bucket(time, edges):
    return max([time.replace(minute=0, second=0, microsecond=0), *(edge for edge in edges if edge <= time)])


def key_of(row, edges):
    ports = (row["src_port"], row["dst_port"])
    reply = None not in ports and ports[0] < 1024 and ports[1] >= 32_768
    derived = {
        "hour": bucket(row["time"], edges),
        "dst_port": None if reply else row["dst_port"],
        "reply_from_port": row["src_port"] if reply else None,
    }
    return tuple(derived.get(name, row.get(name)) for name in KEYS)


def oracle(rows, edges=()):
    """CONVERSATIONS as a dict of key to measures, the obvious way."""
    groups = {}
    for row in rows:
        groups.setdefault(key_of(row, edges), []).append(row)
    found = {}
    for key, members in groups.items():
        received, sent = "packets_received", "packets_sent"
        traffic = [r["time"] for r in members if r["flow_state"] in ("Continuing", "End")]
        answered = [r for r in members if (r[received] or 0) > 0]
        unanswered = [r for r in members if (r[sent] or 0) > 0 and r[received] == 0]
        times = [r["time"] for r in members]
        found[key] = {
            "flow_tuples": len(members),
            "flows_started": sum(r["flow_state"] == "Begin" for r in members),
            "flows_ended": sum(r["flow_state"] == "End" for r in members),
            "flows_restarted": sum(r["restarted"] for r in members),
            "flows_denied": sum(r["flow_status"] == "Denied" for r in members),
            "tuples_answered": len(answered),
            "tuples_unanswered": len(unanswered),
            "tuples_small_reply": sum(r["bytes_received"] is not None and r["bytes_received"] < 500 for r in answered),
            **{name: null_sum(r[name] for r in members) for name in schema.COUNTERS},
            "first_seen": min(times),
            "last_seen": max(times),
            "first_traffic": min(traffic, default=None),
            "last_traffic": max(traffic, default=None),
            "last_answered": max((r["time"] for r in answered), default=None),
            "last_unanswered": max((r["time"] for r in unanswered), default=None),
        }
    return found


def as_dict(frame):
    assert frame.columns == list(COLUMNS) and frame.schema == SCHEMA
    found = {tuple(row[k] for k in KEYS): {c: row[c] for c in COLUMNS if c not in KEYS} for row in frame.to_dicts()}
    assert len(found) == frame.height, "a key stands twice"
    return found


@pytest.mark.slow
@examples(40)
@given(rows=ROWS, edges=EDGES, data=st.data())
@example(rows=[], edges=[], data=None)
def test_a_rollup_is_what_a_plain_loop_gives(rows, edges, data):
    table = as_drawn(data.draw, rows) if data else pa.Table.from_pylist(rows, schema=schema.FLOWS)
    assert as_dict(rollup(table, edges=edges)) == oracle(rows, edges)


@pytest.mark.slow
@examples(20)
@given(parts=st.lists(ROWS, min_size=1, max_size=4), edges=EDGES, data=st.data())
def test_merging_rollups_is_rolling_up_together(parts, edges, data):
    whole = rollup(as_drawn(data.draw, [row for part in parts for row in part]), edges=edges)
    pieces = [rollup(as_drawn(data.draw, part), edges=edges) for part in parts]
    assert merge(*pieces).equals(whole)
    assert merge(*data.draw(st.permutations(pieces))).equals(whole)
    assert reduce(merge, pieces).equals(whole)
    assert reduce(lambda right, left: merge(left, right), reversed(pieces)).equals(whole)
    assert merge(whole).equals(whole)


@examples(20)
@given(rows=ROWS, edges=EDGES, data=st.data())
def test_the_order_of_tuples_does_not_matter(rows, edges, data):
    shuffled = data.draw(st.permutations(rows))
    one, other = (pa.Table.from_pylist(order, schema=schema.FLOWS) for order in (rows, shuffled))
    assert rollup(one, edges=edges).equals(rollup(other, edges=edges))


def test_keys_and_measures_are_all_columns():
    assert sorted((*KEYS, *SUMS, *MINS, *MAXS)) == sorted(COLUMNS)
    assert set(SCHEMA) == set(COLUMNS)


def test_unknown_is_not_zero():
    none = dict.fromkeys(schema.COUNTERS)
    begin = only(rollup(flows({"flow_state": "Begin", **none})))
    assert [begin[name] for name in schema.COUNTERS] == [None] * 4
    assert begin["flows_started"] == 1 and begin["first_traffic"] is None
    both = only(rollup(flows({"flow_state": "Begin", **none}, {}, {})))
    assert [both[name] for name in schema.COUNTERS] == [8, 800, 6, 10_000]
    zero = only(rollup(flows(dict.fromkeys(schema.COUNTERS, 0))))
    assert [zero[name] for name in schema.COUNTERS] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("src_port", "dst_port", "keys"),
    [
        (443, 50_000, (None, 443)),
        (1023, 32_768, (None, 1023)),
        (0, 65_535, (None, 0)),
        (1024, 32_768, (32_768, None)),
        (1023, 32_767, (32_767, None)),
        (None, 50_000, (50_000, None)),
        (443, None, (None, None)),
        (None, None, (None, None)),
        (50_000, 0, (0, None)),
        (65_535, 65_535, (65_535, None)),
    ],
)
def test_reply_candidates_are_told_by_one_tuple_alone(src_port, dst_port, keys):
    row = only(rollup(flows({"src_port": src_port, "dst_port": dst_port})))
    assert (row["dst_port"], row["reply_from_port"]) == keys


@pytest.mark.parametrize(
    ("offset", "edges", "start"),
    [
        (dt.timedelta(0), [], 0),
        (HOUR - MICROSECOND, [], 0),
        (HOUR, [], 60),
        (HOUR / 2, [30], 30),
        (HOUR / 2 - MICROSECOND, [30], 0),
        (HOUR - MICROSECOND, [30], 30),
        (HOUR, [30], 60),
        (HOUR / 2, [45, 20, 15], 20),
        (HOUR / 2, [-30, 0, 60, 90], 0),
    ],
)
def test_buckets_begin_at_full_hours_and_edges(offset, edges, start):
    minutes = [NINE + dt.timedelta(minutes=edge) for edge in edges]
    row = only(rollup(flows({"time": NINE + offset}), edges=minutes))
    assert row["hour"] == NINE + dt.timedelta(minutes=start)


def test_an_edge_counts_microseconds_and_has_any_zone():
    edge = (NINE + HOUR / 2 + MICROSECOND).astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))
    before, at = NINE + HOUR / 2, NINE + HOUR / 2 + MICROSECOND
    found = rollup(flows({"time": before}, {"time": at}), edges=[edge])
    assert found["hour"].to_list() == [NINE, at]


def test_a_dictionary_that_holds_a_word_twice_makes_one_key():
    table = flows({}, {"acl_rule": "UserRule_b"}, {}, {"acl_rule": None}).cast(schema.ENCODED_FLOWS)
    twice = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, None], pa.int32()), pa.array(["UserRule_a", "UserRule_b", "UserRule_a", "unused"])
    )
    table = table.set_column(table.schema.get_field_index("acl_rule"), "acl_rule", twice)
    found = rollup(table).select("acl_rule", "flow_tuples").rows()
    assert found == [("UserRule_a", 2), ("UserRule_b", 1), (None, 1)]


def test_many_names_of_everything_at_once_stay_apart():
    # 3,000 names in six columns make more combinations than a 64-bit number can tell apart.
    names = ("acl_rule", "acl_id", "mac_address", "target_resource_id", "flow_log_id", "encryption_code")
    changes = [{name: f"{name} {number}" for name in names} for number in range(3_000)]
    found = rollup(flows(*changes, *changes[:10]))
    assert set(found.select(names).iter_rows()) == {tuple(change.values()) for change in changes}
    assert found["flow_tuples"].sum() == 3_010 and found.height == 3_000


def test_a_million_tuples_of_one_key_are_all_counted():
    # Tallies share integers while a batch is grouped; none may grow into its neighbour.
    count = 2**20 + 5
    one = flows({"restarted": True, "flow_status": "Denied", "bytes_received": 60}).cast(schema.ENCODED_FLOWS)
    row = only(rollup(one.take(pa.repeat(0, count))))
    expected = dict.fromkeys(SUMS[: SUMS.index("packets_sent")], count)
    expected |= {"flows_started": 0, "tuples_unanswered": 0, "packets_sent": 4 * count, "bytes_sent": 400 * count}
    expected |= {"packets_received": 3 * count, "bytes_received": 60 * count}
    assert {name: row[name] for name in SUMS} == expected


def test_a_batch_that_is_rolled_up_in_parts_gives_the_same_rows(monkeypatch):
    table = pa.Table.from_pylist(many(200), schema=schema.FLOWS)
    whole = rollup(table)
    monkeypatch.setattr(conversations, "_BATCH_ROWS", 30)
    assert rollup(table).equals(whole)


def test_the_same_context_keeps_its_number():
    contexts = Contexts()
    assert contexts.numbers([("a",), ("b",), ("a",)]) == [0, 1, 0]
    assert contexts.numbers([("c",), ("b",)]) == [2, 1]


def many(count, seed=7):
    """Rows of about a hundred keys, each several times; every tenth row is like no other."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        names = VALUES if number % 10 == 0 else MEASURES
        rows.append(ROW | {name: chance.choice(VALUES[name]) for name in names} | {"dst_port": chance.randrange(20)})
    return rows


@pytest.mark.parametrize(
    ("merge_rows", "spill_rows"),
    [(10**6, 10**6), (100, 10**6), (100, 50), (1, 1)],
    ids=["rest", "merged", "disk", "each"],
)
def test_a_blob_that_spills_gives_the_same_rows(monkeypatch, tmp_path, merge_rows, spill_rows):
    monkeypatch.setattr(conversations, "MERGE_ROWS", merge_rows)
    monkeypatch.setattr(conversations, "SPILL_ROWS", spill_rows)
    table = pa.Table.from_pylist(many(400), schema=schema.FLOWS)
    blob = BlobRollup((), tmp_path)
    for start in range(0, 400, 40):
        blob.add(table.slice(start, 40))
    written = len(list(tmp_path.iterdir()))
    assert (written > 16) == (spill_rows < 100)
    pieces = list(blob.finish())
    assert list(tmp_path.iterdir()) == []
    assert len(pieces) > 1 or spill_rows > 100
    rows = pl.concat(pieces)
    # Each key stands once, whichever piece it is in.
    assert rows.sort(KEYS, nulls_last=True).equals(rollup(table))


def test_a_blob_without_tuples_gives_nothing(tmp_path):
    blob = BlobRollup((), tmp_path)
    blob.add(schema.ENCODED_FLOWS.empty_table())
    assert list(blob.finish()) == []
