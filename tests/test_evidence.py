"""Ledgers add up, windows are half-open, samples are harmless, a scan reads once."""

import datetime as dt
import gzip
import io
import unicodedata
from dataclasses import fields, replace
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowlens as fl
from bench.generate import BLOBS, Order, generate
from flowlens import conversations, flow_streams, nic_hours, units
from flowlens.evidence import (
    REJECTS_KEPT,
    SAMPLE_LENGTH,
    Evidence,
    Inventory,
    Ledger,
    LocalParts,
    Reject,
    Scan,
    Window,
    sample,
    total,
)
from flowlens.formats import flow_log_documents
from flowlens.formats.flow_log import Document
from flowlens.kernel import ENGINES, VARIABLE
from tests.make_logs import MACS, NINE, TEN, at, flow, nic_log, vnet_log, write_blob

DATA = Path(__file__).parent / "data"
UTC = dt.UTC
BERLIN = ZoneInfo("Europe/Berlin")
COUNTS = [field.name for field in fields(Ledger) if field.type == "int"]

rejects = st.builds(Reject, st.sampled_from("ab"), st.integers(0, 9), st.just("reason"), st.just("sample"))
ledgers = st.builds(
    Ledger,
    **{name: st.integers(0, 2**40) for name in COUNTS},
    unknown_codes=st.dictionaries(st.sampled_from(["state Q", "direction Z", "encryption NX_NEW"]), st.integers(1, 9)),
    rejects=st.lists(rejects, max_size=REJECTS_KEPT).map(tuple),
    notes=st.lists(st.sampled_from(["one", "two", "three"]), max_size=3, unique=True).map(tuple),
)


@st.composite
def balanced_ledgers(draw):
    ledger = draw(ledgers)
    return replace(
        ledger,
        tuples=ledger.rows + ledger.rejected + ledger.outside_window,
        bytes=ledger.record_bytes + ledger.framing_bytes,
    )


def many_rejects(count, blob="a"):
    return tuple(Reject(blob, offset, "reason", "") for offset in range(count))


def test_the_counts_are_those_of_the_contract():
    named = {"sources", "blobs", "records", "tuples", "rejected", "outside_window", "bytes"}
    assert named <= set(COUNTS)


@given(ledgers, ledgers, ledgers)
def test_addition_is_associative_and_has_a_zero(a, b, c):
    assert (a + b) + c == a + (b + c) == total([a, b, c])
    assert a + Ledger() == a == Ledger() + a


@given(ledgers, ledgers)
def test_counts_add_up_in_any_order(a, b):
    for name in COUNTS:
        assert getattr(a + b, name) == getattr(a, name) + getattr(b, name) == getattr(b + a, name)
    for code in {*a.unknown_codes, *b.unknown_codes}:
        assert (a + b).unknown_codes[code] == a.unknown_codes.get(code, 0) + b.unknown_codes.get(code, 0)
    assert set((a + b).notes) == {*a.notes, *b.notes}
    assert len((a + b).notes) == len(set((a + b).notes))


@given(st.lists(balanced_ledgers(), max_size=4))
def test_balanced_ledgers_stay_balanced(parts):
    assert total(parts).balanced


def test_a_tuple_or_byte_that_went_missing_shows():
    whole = Ledger(tuples=6, rows=3, rejected=2, outside_window=1, bytes=10, record_bytes=7, framing_bytes=3)
    assert whole.balanced
    for name in ("tuples", "rows", "rejected", "outside_window", "bytes", "record_bytes", "framing_bytes"):
        assert not replace(whole, **{name: getattr(whole, name) + 1}).balanced, name


@pytest.mark.parametrize("name", ["rejected", "rejected_records", "unread"])
def test_a_ledger_is_complete_until_something_was_not_read(name):
    assert Ledger(blobs=1, tuples=5, rows=4, outside_window=1).complete
    assert not Ledger(**{name: 1}).complete


def test_the_first_rejects_are_listed_and_all_are_counted():
    first = Ledger(rejected=REJECTS_KEPT - 1, rejects=many_rejects(REJECTS_KEPT - 1))
    second = Ledger(rejected=5, rejects=many_rejects(5, "b"))
    both = first + second
    assert both.rejected == REJECTS_KEPT + 4
    assert both.rejects == (*first.rejects, second.rejects[0])
    assert (both + second).rejects == both.rejects


def test_a_window_is_half_open():
    window = Window(NINE, TEN)
    moment = dt.timedelta(microseconds=1)
    inside = [window.contains(time) for time in (NINE - moment, NINE, TEN - moment, TEN)]
    assert inside == [False, True, True, False]
    assert Window().contains(NINE) and Window(NINE).contains(TEN) and not Window(end=NINE).contains(NINE)


@pytest.mark.parametrize(("start", "end"), [(TEN, NINE), (NINE, NINE)])
def test_a_window_starts_before_it_ends(start, end):
    with pytest.raises(ValueError, match="starts before it ends"):
        Window(start, end)


@pytest.mark.parametrize("edges", [{"start": NINE.replace(tzinfo=None)}, {"end": NINE.replace(tzinfo=None)}])
def test_a_window_needs_a_zone(edges):
    with pytest.raises(ValueError, match="zone"):
        Window(**edges)


def test_a_window_is_in_utc_also_in_the_hour_that_comes_twice():
    first, second = (
        dt.datetime(2026, 10, 25, 2, minute, tzinfo=BERLIN, fold=fold) for minute, fold in ((30, 0), (10, 1))
    )
    window = Window(first, second)
    assert (window.start, window.end) == (
        dt.datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        dt.datetime(2026, 10, 25, 1, 10, tzinfo=UTC),
    )
    assert window.start.tzinfo is UTC
    assert window.contains(dt.datetime(2026, 10, 25, 2, 5, tzinfo=BERLIN, fold=1))
    assert not window.contains(dt.datetime(2026, 10, 25, 2, 5, tzinfo=BERLIN, fold=0))


def test_a_scan_takes_times_of_any_zone(tmp_path):
    write_blob(tmp_path, MACS[1], [flow("10.0.0.4", "10.0.0.5", 443, minute=minute) for minute in (5, 20, 40, 55)])
    start, change, end = (at(minute).astimezone(BERLIN) for minute in (10, 30, 50))
    scan = fl.scan(tmp_path, start=start, end=end, changed_at=change, threads=1)
    assert (scan.ledger.rows, scan.ledger.outside_window) == (2, 2)
    assert scan.conversations.collect()["hour"].sort().to_list() == [at(10), at(30)]
    assert scan.flows.collect()["time"].sort().to_list() == [at(20), at(40)]
    for part, minute in ((scan.before_change(), 10), (scan.after_change(), 30)):
        assert part.evidence.views.collect()["hour"].to_list() == [at(minute)]
    assert (scan.before_change().window, scan.after_change().window) == (Window(start, change), Window(change, end))


@given(st.text(st.characters(codec=None), max_size=300) | st.binary(max_size=1000))
def test_a_sample_is_short_and_printable(raw):
    shown = sample(raw)
    assert len(shown) <= SAMPLE_LENGTH == 200
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("", ""),
        (b"\x1b[31m\x00\r\n", r"\x1b[31m\x00\r\n"),
        ("a\u202eb\u2066\ufeff", r"a\u202eb\u2066\ufeff"),
        (b"caf\xc3\xa9 \xff\xfe", r"café \xff\xfe"),
        ("\ud800", r"\ud800"),
        ("日本", "日本"),
        ("x" * 500, "x" * 200),
        (b"\xe6\x97\xa5" * 300, "日" * 200),
    ],
)
def test_a_sample_escapes_what_a_terminal_would_obey(raw, shown):
    assert sample(raw) == shown
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in sample(raw))


def evidence_of(hours):
    rows = pl.DataFrame({"hour": hours}, schema={"hour": pl.Datetime("us", "UTC")})
    empty = pl.DataFrame()
    coverage = rows.with_columns(mac_address=pl.lit("00005E005301"))
    assert set(coverage.columns) <= set(nic_hours.SCHEMA)
    inventory = Inventory(empty, empty, empty, empty, frozenset())
    return Evidence(rows.lazy(), LocalParts((rows.lazy(),)), inventory, coverage, Ledger(rows=rows.height))


def scan_of(hours, **settings):
    reads = []

    def read():
        reads.append(1)
        return evidence_of(hours)

    return Scan(read=read, flows=lambda: pl.LazyFrame(schema=conversations.SCHEMA), **settings), reads


def test_a_scan_reads_once_and_only_when_asked():
    scan, reads = scan_of([NINE, TEN], window=Window())
    assert repr(scan).startswith("<flowlens.Scan") and not reads
    scan.flows.collect()
    assert not reads
    assert scan.ledger.rows == scan.conversations.collect().height == scan.coverage.height == 2
    assert scan.inventory.is_empty()
    assert len(reads) == 1


def test_before_and_after_share_the_pass_and_the_hour_of_the_change():
    scan, reads = scan_of([NINE, at(30), TEN], window=Window(NINE, at(120)), changed_at=at(30))
    before, after = scan.before_change(), scan.after_change()
    assert not reads
    assert before.conversations.collect()["hour"].to_list() == [NINE]
    assert after.conversations.collect()["hour"].to_list() == [at(30), TEN]
    # The full hour of the change was read for both.
    assert NINE in before.coverage["hour"].to_list() and NINE in after.coverage["hour"].to_list()
    assert TEN not in before.coverage["hour"].to_list()
    assert before.ledger == after.ledger == scan.ledger
    assert before.evidence.logged_nics.to_list() == after.evidence.logged_nics.to_list() == ["00005E005301"]
    assert len(reads) == 1


def test_before_and_after_need_a_change():
    scan, _ = scan_of([NINE], window=Window())
    for part in (scan.before_change, scan.after_change):
        with pytest.raises(ValueError, match="changed_at"):
            part()


@pytest.mark.parametrize("lost", [{"rows": 1}, {"record_bytes": 7}])
def test_a_blob_that_does_not_add_up_ends_the_run(tmp_path, monkeypatch, lost):
    log = tmp_path / "log.json"
    log.write_bytes((DATA / "zero_counters.json").read_bytes())

    def fewer(ledger):
        return replace(ledger, **{name: getattr(ledger, name) - n for name, n in lost.items() if name != "rows"})

    def losing_documents(*chunks, **options):
        for document in flow_log_documents(*chunks, **options):
            rest = document.flows().slice(lost.get("rows", 0))
            yield Document(fewer(document.ledger), None, rest)

    monkeypatch.setattr(flow_streams, "flow_log_documents", losing_documents)
    monkeypatch.setattr(units, "flow_log_documents", losing_documents)
    scan = fl.scan(log, threads=1)
    with pytest.raises(fl.LedgerError, match=r"log\.json: expected \d+ tuples"):
        _ = scan.ledger
    with pytest.raises(fl.LedgerError, match="please report it"):
        scan.write_flows(io.BytesIO())


def test_bytes_in_doubt_are_told_once_for_a_nic_with_several_flow_logs(tmp_path):
    restarted = [
        flow("10.0.0.4", "203.0.113.5", 443, minute=1, counters=(8, 5183, 9, 6707)),
        flow("10.0.0.4", "203.0.113.5", 443, state="B", minute=1),
        flow("10.0.0.4", "203.0.113.5", 443, minute=2, counters=(10, 5291, 10, 6809)),
    ]
    write_blob(tmp_path, MACS[1], restarted)
    assert fl.scan(tmp_path, threads=1).ledger.restarted_bytes_in_doubt == 5183 + 6707
    write_blob(tmp_path, MACS[1], restarted, log=nic_log("nic-a"))
    assert fl.scan(tmp_path, threads=1).ledger.restarted_bytes_in_doubt == 5183 + 6707
    # Another NIC that logs the same addresses and ports has a flow of its own.
    write_blob(tmp_path, MACS[2], restarted, log=vnet_log("vnet-b"))
    assert fl.scan(tmp_path, threads=1).ledger.restarted_bytes_in_doubt == 2 * (5183 + 6707)


@pytest.mark.parametrize("engine", ENGINES)
def test_bytes_in_doubt_of_a_flow_that_ends_in_a_later_blob(tmp_path, monkeypatch, engine):
    monkeypatch.setenv(VARIABLE, engine)
    ends = {"minute": 59, "counters": (8, 5183, 9, 6707)}, {"minute": 62, "counters": (10, 5291, 10, 6809)}
    one = flow("10.0.0.4", "203.0.113.5", 443, **ends[0]), flow("10.0.0.4", "203.0.113.5", 443, state="B", minute=59)
    write_blob(tmp_path, MACS[1], one)
    write_blob(tmp_path, MACS[1], [flow("10.0.0.4", "203.0.113.5", 443, **ends[1])], hour=10)
    assert fl.scan(tmp_path, threads=1).ledger.restarted_bytes_in_doubt == 5183 + 6707
    # Outside the window nothing follows.
    assert fl.scan(tmp_path, threads=1, end=TEN).ledger.restarted_bytes_in_doubt == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_blob_that_breaks_off_in_mid_run_gives_its_whole_records_and_no_other_suffers(tmp_path, monkeypatch, engine):
    monkeypatch.setenv(VARIABLE, engine)
    # Several documents long.
    generate(tmp_path, Order(kind="small", megabytes=14, blobs=2, keys=500))
    first, second = sorted((tmp_path / BLOBS).rglob("*.json"))
    whole = fl.scan(second).ledger
    data = first.read_bytes()
    packed = gzip.compress(data)
    first.write_bytes(packed[: len(packed) * 9 // 10])
    ledger = fl.scan(tmp_path / BLOBS, threads=1).ledger
    assert (ledger.unread, ledger.rejected_records, ledger.balanced) == (1, 0, True)
    read = ledger.bytes - whole.bytes
    assert 0.5 * len(data) < read < len(data)
    assert ledger.records - whole.records == data[:read].count(b'"flowRecords"')
    (reject,) = ledger.rejects
    assert "cut off" in reject.reason and reject.offset == read
