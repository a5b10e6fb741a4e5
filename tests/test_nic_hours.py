"""Coverage: what became of each hour of each NIC."""

import datetime as dt

import polars as pl
import pytest

import flowlens as fl
from flowlens import nic_hours, schema
from flowlens.errors import SourceError
from flowlens.nic_hours import COVERED, SCHEMA
from tests.make_logs import (
    DAY,
    LATER,
    MACS,
    at,
    blob_path,
    flow,
    nic_log,
    subnet_log,
    vnet_log,
    write_blob,
    write_text,
)

A, B, C = MACS[1:4]
OUTSIDE = "203.0.113.7"
HOUR = dt.timedelta(hours=1)
OWN = {A: "10.0.0.4", B: "10.0.0.5", C: "10.0.0.6"}


def lives(folder, mac, *hours, **more):
    """The NIC sends something outside in each of the hours."""
    for hour in hours:
        write_blob(folder, mac, [flow(OWN[mac], OUTSIDE, 443, minute=(hour - 9) * 60 + 5)], hour=hour, **more)


def scanned(folder, now=LATER, **options):
    return fl.scan(folder, threads=1, now=now, **options)


def states(scan, mac, log=None):
    rows = scan.coverage.filter(pl.col("mac_address") == mac)
    if log is not None:
        rows = rows.filter(pl.col("target_resource_id") == log.target)
    assert rows.height == rows["hour"].n_unique() or log is None
    return {row["hour"].hour: row["state"] for row in rows.iter_rows(named=True)}


def test_the_table_is_that_of_the_contract(tmp_path):
    lives(tmp_path, A, 9)
    scan = scanned(tmp_path)
    assert scan.coverage.schema == SCHEMA
    assert scan.coverage.rows() == [
        (vnet_log().id, vnet_log().target, A, f"10.0.0.4 ({A})", DAY + 9 * HOUR, "read", 1, 0)
    ]
    assert fl.coverage(scan).collect().equals(scan.coverage)
    assert set(COVERED) < set(schema.COVERAGE_STATES)


def test_a_blob_that_was_read_is_read_whatever_it_holds(tmp_path):
    lives(tmp_path, A, 9, 11)
    write_blob(tmp_path, A, hour=10)
    assert states(scanned(tmp_path), A) == {9: "read", 10: "empty", 11: "read"}


@pytest.mark.parametrize("text", ['{"records":[]}', '{"records": [  ]}\n', "[]"])
def test_a_blob_without_records_is_empty(tmp_path, text):
    lives(tmp_path, A, 9)
    write_text(tmp_path, A, text, hour=10)
    assert states(scanned(tmp_path), A) == {9: "read", 10: "empty"}


def test_a_blob_with_a_reject_is_partly_read(tmp_path):
    lives(tmp_path, A, 9)
    write_blob(tmp_path, A, [flow(OWN[A], OUTSIDE, 443, minute=65), "1,2,3", "x"], hour=10)
    scan = scanned(tmp_path)
    assert states(scan, A) == {9: "read", 10: "partly read"}
    assert scan.coverage.select("tuples", "rejected").rows() == [(1, 0), (1, 2)]
    assert scan.coverage["tuples"].sum() == scan.ledger.rows
    assert scan.coverage["rejected"].sum() == scan.ledger.rejected == 2


def test_a_blob_cut_in_mid_record_is_partly_read(tmp_path):
    lives(tmp_path, A, 9, 10)
    path = blob_path(tmp_path, vnet_log(), A, 10)
    whole = path.read_text()
    record = whole.removeprefix('{"records": [').removesuffix("]}")
    path.write_text(f'{{"records": [{record},{record[:-40]}')
    assert states(scanned(tmp_path), A) == {9: "read", 10: "partly read"}


@pytest.mark.parametrize("text", ["", "{}", "<html><body>sign in</body></html>", '{"records":[{"time":"2026'])
def test_a_blob_of_which_nothing_could_be_used_has_failed(tmp_path, text):
    lives(tmp_path, A, 9)
    write_text(tmp_path, A, text, hour=10)
    scan = scanned(tmp_path)
    assert states(scan, A) == {9: "read", 10: "failed"}
    assert not scan.ledger.complete


def test_a_nic_hour_without_a_blob_is_silent(tmp_path):
    lives(tmp_path, A, 9, 10, 11)
    lives(tmp_path, B, 9, 11)
    scan = scanned(tmp_path)
    assert states(scan, A) == {9: "read", 10: "read", 11: "read"}
    assert states(scan, B) == {9: "read", 10: "silent", 11: "read"}
    (row,) = scan.coverage.filter(pl.col("state") == "silent").iter_rows(named=True)
    assert (row["workload"], row["tuples"], row["rejected"]) == (f"10.0.0.5 ({B})", 0, 0)


@pytest.mark.parametrize(
    "told",
    [
        flow(OWN[A], OWN[B], 443, minute=65),
        flow(OWN[B], OWN[A], 443, "I", minute=65),
        flow(OWN[B], OWN[A], 443, "I", "D", minute=65),
    ],
)
def test_it_is_missing_if_another_nic_logged_a_flow_with_it(tmp_path, told):
    lives(tmp_path, A, 9, 11)
    write_blob(tmp_path, A, [told], hour=10)
    lives(tmp_path, B, 9, 11)
    lives(tmp_path, C, 9, 10, 11)
    scan = scanned(tmp_path)
    assert states(scan, B) == {9: "read", 10: "missing", 11: "read"}
    assert states(scan, C)[10] == "read"


def test_a_flow_that_was_logged_in_another_hour_or_by_itself_tells_nothing(tmp_path):
    lives(tmp_path, A, 9, 10, 11)
    write_blob(tmp_path, A, [flow(OWN[A], OWN[B], 443, minute=125)], hour=11)
    lives(tmp_path, B, 9)
    # B's own late tuple of ten o'clock, in the blob of eleven, is a row of that hour and no mention.
    write_blob(tmp_path, B, [flow(OWN[B], OUTSIDE, 443, minute=119.9)], hour=11)
    assert states(scanned(tmp_path), B) == {9: "read", 10: "silent", 11: "read"}


def test_the_same_address_in_another_vnet_is_no_mention(tmp_path):
    lives(tmp_path, A, 9, 10, 11)
    lives(tmp_path, B, 9, 11)
    other = vnet_log("vnet-b")
    write_blob(tmp_path, C, [flow("10.0.0.4", OWN[B], 443, minute=65)], hour=10, log=other)
    assert states(scanned(tmp_path), B)[10] == "silent"


def test_a_gap_of_the_whole_flow_log_is_missing(tmp_path):
    lives(tmp_path, A, 9, 11)
    lives(tmp_path, B, 9, 11)
    # Another flow log had no gap.
    lives(tmp_path, C, 9, 10, 11, log=vnet_log("vnet-b"))
    scan = scanned(tmp_path)
    assert states(scan, A) == states(scan, B) == {9: "read", 10: "missing", 11: "read"}
    assert states(scan, C)[10] == "read"


def test_each_flow_log_of_a_nic_is_judged_on_its_own(tmp_path):
    lives(tmp_path, A, 9, 10, 11)
    lives(tmp_path, B, 9, 10, 11)
    lives(tmp_path, B, 9, 11, log=nic_log("nic-b"))
    scan = scanned(tmp_path)
    assert states(scan, B, vnet_log())[10] == "read"
    assert states(scan, B, nic_log("nic-b"))[10] == "missing"


def test_without_a_window_a_flow_log_is_judged_from_its_first_to_its_last_hour(tmp_path):
    lives(tmp_path, A, 8, 12)
    lives(tmp_path, B, 10, log=vnet_log("vnet-b"))
    scan = scanned(tmp_path)
    assert sorted(states(scan, A)) == [8, 9, 10, 11, 12]
    assert states(scan, B) == {10: "read"}


def test_with_a_window_every_hour_that_it_touches_is_judged(tmp_path):
    lives(tmp_path, A, 9, 10)
    lives(tmp_path, B, 10)
    found = scanned(tmp_path, start=at(-90), end=at(121))
    assert states(found, A) == {7: "missing", 8: "missing", 9: "read", 10: "read", 11: "missing"}
    assert states(found, B) == {7: "missing", 8: "missing", 9: "silent", 10: "read", 11: "missing"}
    assert sorted(states(scanned(tmp_path, start=at(0), end=at(120)), A)) == [9, 10]
    assert sorted(states(scanned(tmp_path, start=at(30), end=at(61)), A)) == [9, 10]


def test_tuples_outside_the_window_do_not_count_and_the_hour_is_read_all_the_same(tmp_path):
    write_blob(tmp_path, A, [flow(OWN[A], OUTSIDE, 443, minute=minute) for minute in (5, 20)])
    scan = scanned(tmp_path, start=at(10), end=at(60))
    assert scan.coverage.select("state", "tuples").rows() == [("read", 1)]
    scan = scanned(tmp_path, start=at(30), end=at(60))
    assert scan.coverage.select("state", "tuples").rows() == [("read", 0)]
    assert (scan.ledger.tuples, scan.ledger.outside_window) == (2, 2)


def test_late_tuples_do_not_cover_the_hour_that_they_tell_of(tmp_path):
    write_blob(tmp_path, A, [flow(OWN[A], OUTSIDE, 443, minute=59.9)], hour=10)
    scan = scanned(tmp_path, start=at(0), end=at(120))
    assert states(scan, A) == {9: "missing", 10: "read"}


@pytest.mark.parametrize(("now", "expected"), [(at(119), "open"), (at(120), "read"), (at(61), "open")])
def test_the_current_hour_is_open_although_its_blob_was_read(tmp_path, now, expected):
    lives(tmp_path, A, 9, 10)
    assert states(scanned(tmp_path, now), A) == {9: "read", 10: expected}


def test_which_hour_is_the_current_one_does_not_depend_on_the_zone_of_now(tmp_path):
    lives(tmp_path, A, 9, 10)
    # 15:45 in a zone of half hours, where the hour of the clock began at 09:30 UTC.
    now = at(75).astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))
    assert states(scanned(tmp_path, now), A) == {9: "read", 10: "open"}


def test_the_current_and_coming_hours_are_open_and_never_missing(tmp_path):
    lives(tmp_path, A, 9)
    lives(tmp_path, B, 10)
    found = scanned(tmp_path, at(70), start=at(0), end=at(240))
    assert states(found, A) == {9: "read", **dict.fromkeys((10, 11, 12), "open")}
    assert states(found, B) == {9: "silent", **dict.fromkeys((10, 11, 12), "open")}


def test_the_current_hour_can_fail(tmp_path):
    lives(tmp_path, A, 9)
    write_text(tmp_path, A, "<html>", hour=10)
    assert states(scanned(tmp_path, at(70)), A) == {9: "read", 10: "failed"}


def test_removing_a_nic_hour_takes_its_totals_and_its_coverage_and_nothing_else(tmp_path):
    for mac in (A, B):
        lives(tmp_path, mac, 9, 10, 11)
    before = scanned(tmp_path)
    everything = before.conversations.collect()
    blob_path(tmp_path, vnet_log(), B, 10).unlink()
    after = scanned(tmp_path)
    gone = (pl.col("mac_address") == B) & (pl.col("hour") == DAY + 10 * HOUR)
    assert after.conversations.collect().equals(everything.filter(~gone))
    assert everything.filter(gone).height == 1
    assert after.coverage.filter(~gone).equals(before.coverage.filter(~gone))
    assert after.coverage.filter(gone)["state"].to_list() == ["silent"]


def test_an_hour_behind_a_flow_logs_last_is_missing_if_another_nic_logged_a_flow_with_it(tmp_path):
    lives(tmp_path, A, 9, 10)
    lives(tmp_path, B, 9, 10, log=subnet_log("vnet-a", "b"))
    write_blob(tmp_path, A, [flow(OWN[A], OWN[B], 443, minute=125)], hour=11)
    scan = scanned(tmp_path)
    assert states(scan, A) == {9: "read", 10: "read", 11: "read"}
    assert states(scan, B) == {9: "read", 10: "read", 11: "missing"}


def test_an_hour_that_another_flow_log_of_the_nic_holds_is_not_missed(tmp_path):
    lives(tmp_path, A, 9)
    lives(tmp_path, B, 9, 10)
    lives(tmp_path, B, 10, log=nic_log("nic-b"))
    write_blob(tmp_path, A, [flow(OWN[A], OWN[B], 443, minute=10)], hour=9, log=subnet_log("vnet-a", "a"))
    assert states(scanned(tmp_path), B, nic_log("nic-b")) == {10: "read"}


def test_late_tuples_in_the_first_blobs_ask_for_no_hour_before_them(tmp_path):
    # Every archive begins like this: the blob of ten holds what was flushed just after the hour.
    late = flow(OWN[A], OWN[B], 443, minute=59.9)
    write_blob(tmp_path, A, [late, flow(OWN[A], OWN[B], 443, minute=65)], hour=10)
    write_blob(tmp_path, B, [flow(OWN[A], OWN[B], 443, "I", minute=65)], hour=10)
    scan = scanned(tmp_path)
    assert states(scan, A) == states(scan, B) == {10: "read"}


def test_hours_of_which_only_late_tuples_are_left_are_missing(tmp_path):
    write_blob(tmp_path, A, [flow(OWN[A], OWN[B], 443, minute=59.9, code="X")], hour=10)
    write_blob(tmp_path, B, [flow(OWN[A], OWN[B], 443, "I", minute=59.9, code="X")], hour=10)
    scan = scanned(tmp_path, start=at(0), end=at(60))
    assert states(scan, A) == states(scan, B) == {9: "missing"}
    report = fl.report(scan, questions=["encryption_status"])
    assert report.verdicts["encryption_status"].status == "not_determined"
    assert report.metrics["incomplete"] == 1


def test_no_verdict_is_ok_where_no_nic_hour_was_read(tmp_path):
    # One NIC alone, so that nobody else's log asks for the hour, and no start that would.
    write_blob(tmp_path, A, [flow(OWN[A], OUTSIDE, 443, minute=59.9)], hour=10)
    expected = [fl.analyses.destinations.Expected("203.0.113.0/24", None, (), None, "partner")]
    scan = scanned(tmp_path, end=at(60))
    report = fl.report(scan, questions=["unexpected_destinations"], expected=expected)
    assert (scan.coverage.height, scan.ledger.rows) == (0, 1)
    assert report.verdicts["unexpected_destinations"].status == "not_determined"
    assert "no NIC-hour was read" in report.verdicts["unexpected_destinations"].text
    assert report.metrics["incomplete"] == 1


def test_a_nic_that_only_the_blob_behind_the_window_tells_of_is_judged_too(tmp_path):
    lives(tmp_path, A, 9, 10)
    late = flow(OWN[A], OWN[B], 443, "I", minute=59.9)
    write_blob(tmp_path, B, [late, flow(OWN[B], OUTSIDE, 443, minute=65)], hour=10)
    write_blob(tmp_path, A, [flow(OWN[A], OWN[B], 443, minute=7)], hour=9, log=subnet_log("vnet-a", "a"))
    found = scanned(tmp_path, start=at(0), end=at(60))
    assert states(found, A, vnet_log()) == {9: "read"}
    assert states(found, B) == {9: "missing"}


def test_with_a_start_in_the_present_an_open_end_is_now(tmp_path):
    lives(tmp_path, A, 9, 10)
    lives(tmp_path, B, 9)
    found = scanned(tmp_path, at(250), start=at(0))
    assert states(found, A) == {9: "read", 10: "read", 11: "missing", 12: "missing"}
    assert states(found, B) == {9: "read", 10: "silent", 11: "missing", 12: "missing"}


@pytest.mark.parametrize(("days", "last"), [(31, 31 * 24 - 1), (32, 2)])
def test_with_an_older_start_an_open_end_is_the_last_hour_of_any_flow_log(tmp_path, days, last):
    lives(tmp_path, A, 9, 10, 11)
    lives(tmp_path, B, 9, log=vnet_log("vnet-b"))
    found = scanned(tmp_path, at(0) + dt.timedelta(days=days), start=at(0))
    for mac in (A, B):
        assert found.coverage.filter(pl.col("mac_address") == mac)["hour"].max() == at(60 * last)
    assert found.coverage.filter(pl.col("mac_address") == B)["state"].to_list() == ["read", *["missing"] * last]


def test_hours_beyond_counting_are_told_before_they_are_made(tmp_path):
    for mac in (A, B, C):
        lives(tmp_path, mac, 9)
    # Two centuries of three NICs would take 2.5 GB.
    start, end = dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(2170, 1, 1, tzinfo=dt.UTC)
    hours = 3 * ((end - start) // HOUR)
    assert hours < nic_hours.MOST < 2 * hours
    for mac in MACS[4:7]:
        write_blob(tmp_path, mac, [flow("10.0.0.9", OUTSIDE, 443, minute=5)], hour=9)
    with pytest.raises(SourceError, match=rf"from 1970-01-01T00:00Z to 2169-12-31T23:00Z are {2 * hours:,} NIC-hours"):
        _ = scanned(tmp_path, start=start, end=end).coverage
