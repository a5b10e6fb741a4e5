"""One flow logged several times counts once, and none is lost."""

import datetime as dt
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowlens as fl
from flowlens import schema
from flowlens.views import DESTINATION, HOP, SOURCE, SUBJECTS, is_egress
from tests.make_logs import LATER, MACS, NINE, TEN, at, flow, nic_log, subnet_log, vnet_log, write_blob, write_text
from tests.strategies import examples

A, B, HUB, OTHER = MACS[1:5]
WEB, APP = "10.0.1.4", "10.0.2.4"
OUTSIDE = "203.0.113.7"
ALL_A_SENDS = (4, 400, 3, 5_000)
# Each view of a flow counts a little more, so a total tells which one was taken.
ALL_B_SEES = (5, 500, 4, 6_000)


def scanned(folder, now=LATER, **options):
    return fl.scan(folder, threads=1, now=now, **options)


def views_of(folder, **options):
    return scanned(folder, **options).evidence.views.collect()


def counted(rows):
    """(NIC, view, bytes sent) of the rows that count, by hour."""
    rows = rows.filter("counted").sort("hour", "mac_address", "src_ip")
    return rows.select("mac_address", "view", "bytes_sent").rows()


def sends(minute=5, state="E", counters=ALL_A_SENDS, **more):
    return flow(WEB, APP, 443, "O", state, minute=minute, counters=counters, **more)


def receives(minute=5, state="E", counters=ALL_B_SEES, **more):
    return flow(WEB, APP, 443, "I", state, minute=minute, counters=counters, **more)


def test_a_flow_that_both_nics_log_counts_at_its_source(tmp_path):
    write_blob(tmp_path, A, [sends()])
    write_blob(tmp_path, B, [receives()])
    rows = views_of(tmp_path)
    assert rows.sort("mac_address").select("mac_address", "view", "counted").rows() == [
        (A, SOURCE, True),
        (B, DESTINATION, False),
    ]
    assert counted(rows) == [(A, SOURCE, 400)]


def test_views_know_both_ends(tmp_path):
    write_blob(tmp_path, A, [sends(), flow(WEB, OUTSIDE, 443), flow(WEB, "168.63.129.16", 53, protocol=17)])
    write_blob(tmp_path, B, [receives()])
    rows = views_of(tmp_path)
    added = {"vnet", "view", "counted", "logged_once", "decides", "is_reply"}
    added |= {f"{end}_{name}" for end in ("src", "dst") for name in (*SUBJECTS, "place", "ambiguous")}
    assert set(rows.columns) == added | set(schema.CONVERSATIONS.names)
    assert set(rows.select("src_nic", "src_workload", "src_vnet", "vnet").iter_rows()) == {
        (A, f"{WEB} ({A})", "s/rg/vnet-a", "s/rg/vnet-a")
    }
    ends = rows.select("dst_ip", "dst_nic", "dst_kind", "src_place", "dst_place").unique()
    assert set(ends.iter_rows()) == {
        (APP, B, "nic", "internal", "internal"),
        (OUTSIDE, None, None, "internal", "external"),
        ("168.63.129.16", None, None, "internal", "platform"),
    }
    egress = set(rows.filter(is_egress())["dst_ip"])
    assert egress == {OUTSIDE, "168.63.129.16"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_of_several_flow_logs_on_one_nic_the_vnets_counts(tmp_path, order):
    logs = (vnet_log("vnet-a", "zz"), subnet_log("vnet-a", "web"), nic_log("nic-web"))
    for number in order:
        write_blob(tmp_path, A, [sends(counters=(1, 100 + number, 1, 1))], log=logs[number])
    rows = views_of(tmp_path)
    assert rows.height == 3 and rows["logged_once"].sum() == 1
    assert counted(rows) == [(A, SOURCE, 100)]


def test_where_the_vnets_flow_log_lacks_the_hour_the_next_one_counts(tmp_path):
    vnet, subnet, nic = vnet_log(), subnet_log("vnet-a", "web"), nic_log("nic-web")
    for hour, logs in ((9, (vnet, subnet, nic)), (10, (subnet, nic)), (11, (nic,))):
        for log in logs:
            number = (vnet, subnet, nic).index(log)
            write_blob(
                tmp_path, A, [sends((hour - 9) * 60 + 5, counters=(1, hour * 10 + number, 1, 1))], log=log, hour=hour
            )
    rows = views_of(tmp_path)
    assert [sent for _, _, sent in counted(rows)] == [90, 101, 112]


def test_a_vnet_flow_log_read_for_the_hour_counts_even_where_it_holds_less(tmp_path):
    write_blob(tmp_path, A, [flow(WEB, OUTSIDE, 443)])
    write_blob(tmp_path, A, [sends(), flow(WEB, OUTSIDE, 443)], log=nic_log("nic-web"))
    # By coverage: what the VNet's log does not hold in an hour that was read did not pass the NIC in it.
    assert views_of(tmp_path).filter("counted").select("dst_ip", "target_resource_id").rows() == [
        (OUTSIDE, vnet_log().target)
    ]


def test_an_hour_that_the_source_misses_counts_at_the_destination(tmp_path):
    write_blob(tmp_path, A, [sends(5)])
    for hour in (9, 10, 11):
        write_blob(tmp_path, B, [receives((hour - 9) * 60 + 5)], hour=hour)
    write_blob(tmp_path, A, [sends(125)], hour=11)
    assert counted(views_of(tmp_path)) == [(A, SOURCE, 400), (B, DESTINATION, 500), (A, SOURCE, 400)]


def test_it_goes_by_coverage_and_not_by_whether_a_row_is_there(tmp_path):
    # The same flow, a moment before the hour at one NIC and after it at the other.
    write_blob(tmp_path, A, [sends(59.999)], hour=9)
    write_blob(tmp_path, A, [flow(WEB, OUTSIDE, 443, minute=70)], hour=10)
    write_blob(tmp_path, B, [flow(APP, OUTSIDE, 443, minute=10)], hour=9)
    write_blob(tmp_path, B, [receives(60.001)], hour=10)
    rows = views_of(tmp_path).filter(pl.col("dst_ip") == APP)
    assert counted(rows) == [(A, SOURCE, 400)]


def test_an_empty_blob_covers_its_hour(tmp_path):
    write_blob(tmp_path, A, [sends()])
    write_blob(tmp_path, A, hour=10)
    write_blob(tmp_path, B, [receives()])
    write_blob(tmp_path, B, [receives(65)], hour=10)
    assert counted(views_of(tmp_path)) == [(A, SOURCE, 400)]


@pytest.mark.parametrize("state", ["partly read", "failed"])
def test_a_blob_read_in_part_covers_its_hour_and_a_failed_one_does_not(tmp_path, state):
    write_blob(tmp_path, A, [sends()])
    if state == "partly read":
        write_blob(tmp_path, A, [sends(65), "not a tuple"], hour=10)
    else:
        write_text(tmp_path, A, "<html>", hour=10)
    write_blob(tmp_path, B, [receives(65)], hour=10)
    scan = scanned(tmp_path)
    assert scan.coverage.filter(pl.col("hour") == TEN, pl.col("mac_address") == A)["state"].to_list() == [state]
    at_ten = scan.evidence.views.filter(pl.col("hour") == TEN).collect()
    assert counted(at_ten) == ([(A, SOURCE, 400)] if state == "partly read" else [(B, DESTINATION, 500)])


def test_in_the_current_hour_the_best_that_is_there_already_counts(tmp_path):
    write_blob(tmp_path, A, [sends()])
    write_blob(tmp_path, B, [receives()])
    write_blob(tmp_path, B, [receives(65)], hour=10)
    assert counted(views_of(tmp_path, now=at(70))) == [(A, SOURCE, 400), (B, DESTINATION, 500)]
    write_blob(tmp_path, A, [sends(65)], hour=10)
    assert counted(views_of(tmp_path, now=at(70))) == [(A, SOURCE, 400), (A, SOURCE, 400)]


def test_a_source_without_a_log_counts_at_the_destination(tmp_path):
    write_blob(tmp_path, B, [receives(), flow("198.51.100.9", APP, 443, "I")])
    assert counted(views_of(tmp_path)) == [(B, DESTINATION, 500), (B, DESTINATION, 400)]


def forwarded(minute=5, counters=(6, 600, 0, 0), src=WEB, dst=APP):
    return [flow(src, dst, 443, way, minute=minute, counters=counters) for way in "IO"]


def test_a_flow_that_only_a_hop_logs_counts_once(tmp_path):
    write_blob(tmp_path, HUB, forwarded())
    rows = views_of(tmp_path)
    assert set(rows["view"]) == {HOP}
    assert rows.filter("counted").select("direction", "bytes_sent").rows() == [("Inbound", 600)]


def test_of_two_hops_one_counts(tmp_path):
    write_blob(tmp_path, HUB, forwarded())
    write_blob(tmp_path, OTHER, forwarded(counters=(7, 700, 0, 0)))
    assert counted(views_of(tmp_path)) == [(HUB, HOP, 600)]


def test_a_hop_does_not_count_where_an_end_does(tmp_path):
    write_blob(tmp_path, HUB, forwarded())
    write_blob(tmp_path, B, [receives()])
    assert counted(views_of(tmp_path)) == [(B, DESTINATION, 500)]
    write_blob(tmp_path, A, [sends()])
    assert counted(views_of(tmp_path)) == [(A, SOURCE, 400)]


def test_a_hop_counts_in_the_hour_that_both_ends_miss(tmp_path):
    for hour in (9, 11):
        write_blob(tmp_path, A, [sends((hour - 9) * 60 + 5)], hour=hour)
        write_blob(tmp_path, B, [receives((hour - 9) * 60 + 5)], hour=hour)
    for hour in (9, 10, 11):
        write_blob(tmp_path, HUB, forwarded((hour - 9) * 60 + 5), hour=hour)
    assert counted(views_of(tmp_path)) == [(A, SOURCE, 400), (HUB, HOP, 600), (A, SOURCE, 400)]


def test_a_flow_across_the_edge_of_an_hour_is_not_doubled(tmp_path):
    # Begun at 09:59:30; the record with it is flushed after ten and stands in the blob of the next hour.
    for mac, told in ((A, sends), (B, receives)):
        write_blob(tmp_path, mac, [flow(WEB if mac == A else APP, OUTSIDE, 443)], hour=9)
        write_blob(tmp_path, mac, [told(59.5, "B"), told(60.5, "C"), told(61, "E")], hour=10)
    rows = views_of(tmp_path).filter("counted", pl.col("dst_ip") == APP).sort("hour")
    assert rows.select("hour", "mac_address", "flows_started", "flows_ended", "bytes_sent").rows() == [
        (NINE, A, 1, 0, None),
        (TEN, A, 0, 1, 800),
    ]


def test_late_tuples_of_an_hour_without_a_blob_are_not_lost(tmp_path):
    # The log of A begins at ten; its first blob still tells of 09:59.
    write_blob(tmp_path, A, [sends(59.9), sends(65)], hour=10)
    assert counted(views_of(tmp_path)) == [(A, SOURCE, 400), (A, SOURCE, 400)]
    write_blob(tmp_path, B, [receives(59.9)], hour=9)
    write_blob(tmp_path, B, [receives(65)], hour=10)
    # Now the destination's log covers nine o'clock.
    assert counted(views_of(tmp_path)) == [(B, DESTINATION, 500), (A, SOURCE, 400)]


def test_the_edge_of_a_window_inside_an_hour_changes_nothing_but_the_bucket(tmp_path):
    write_blob(tmp_path, A, [sends(minute) for minute in (5, 20, 40)])
    write_blob(tmp_path, B, [receives(minute) for minute in (5, 20, 40)])
    rows = views_of(tmp_path, start=at(10), changed_at=at(30))
    assert rows.filter("counted").sort("hour").select("hour", "mac_address", "bytes_sent").rows() == [
        (at(10), A, 400),
        (at(30), A, 400),
    ]


def test_denied_flows_count_like_others(tmp_path):
    write_blob(tmp_path, A, [sends(state="D")])
    write_blob(tmp_path, B, [flow(OUTSIDE, APP, 3389, "I", "D")])
    rows = views_of(tmp_path).filter("counted")
    assert sorted(rows.select("mac_address", "flow_status", "flows_denied").rows()) == [
        (A, "Denied", 1),
        (B, "Denied", 1),
    ]


def test_an_attempt_that_is_denied_at_the_destination_counts_at_the_source_alone(tmp_path):
    write_blob(tmp_path, A, [sends(counters=(3, 198, 0, 0))])
    write_blob(tmp_path, B, [receives(state="D")], rule="UserRule_deny")
    rows = views_of(tmp_path)
    assert counted(rows) == [(A, SOURCE, 198)]
    assert rows.filter(pl.col("flow_status") == "Denied")["view"].to_list() == [DESTINATION]


def test_flows_of_peered_vnets_are_joined_and_those_of_strangers_are_not(tmp_path):
    write_blob(tmp_path, A, [sends()], log=vnet_log("vnet-a"))
    write_blob(tmp_path, B, [receives()], log=vnet_log("vnet-b"))
    # The same addresses in a third VNet, where only the destination is logged.
    write_blob(tmp_path, OTHER, [receives(counters=(7, 700, 6, 7_000))], log=vnet_log("vnet-c"))
    write_blob(tmp_path, HUB, [flow(WEB, OUTSIDE, 443)], log=vnet_log("vnet-c"))
    rows = views_of(tmp_path).filter(pl.col("dst_ip") == APP)
    found = {row["mac_address"]: row for row in rows.iter_rows(named=True)}
    assert found[A]["counted"] and found[A]["src_vnet"] == "s/rg/vnet-a"
    # In vnet-c the source is its own NIC HUB, whose log covers the hour and holds no such flow.
    assert found[OTHER]["src_nic"] == HUB and not found[OTHER]["counted"]


def test_the_same_flow_in_two_vnets_counts_twice(tmp_path):
    for number, vnet in enumerate(("vnet-a", "vnet-b")):
        write_blob(tmp_path, MACS[1 + number], [sends()], log=vnet_log(vnet))
    assert len(counted(views_of(tmp_path))) == 2


def answers(src=APP, dst=WEB, direction="I", **more):
    """The reply half of a flow, as a hop logs it."""
    return flow(src, dst, 50_000, direction, src_port=443, **more)


def test_replies_that_a_hop_logs_do_not_count(tmp_path):
    write_blob(tmp_path, HUB, [*forwarded(), *(answers(direction=way) for way in "IO")])
    rows = views_of(tmp_path)
    assert rows.filter("is_reply").select("src_ip", "reply_from_port").unique().rows() == [(APP, 443)]
    assert counted(rows) == [(HUB, HOP, 600)]


def test_a_reply_belongs_to_a_flow_of_its_own_vnet_and_protocol(tmp_path):
    write_blob(tmp_path, HUB, forwarded(), log=vnet_log("vnet-b"))
    write_blob(tmp_path, A, [answers(WEB, APP, "O"), answers(APP, WEB, "I", protocol=17)])
    assert not views_of(tmp_path)["is_reply"].any()


def test_a_low_source_port_cannot_hide_egress(tmp_path):
    write_blob(tmp_path, A, [flow(WEB, OUTSIDE, 50_000, src_port=443, counters=(9, 999_999, 8, 8_000))])
    scan = scanned(tmp_path)
    (row,) = scan.evidence.views.collect().iter_rows(named=True)
    assert (row["reply_from_port"], row["is_reply"], row["counted"]) == (443, False, True)
    found = fl.unexpected_destinations(scan).collect()
    assert found.select("dst_ip", "bytes_sent").rows() == [(OUTSIDE, 999_999)]


def test_a_denied_knock_makes_no_reply_of_egress(tmp_path):
    sent = flow(WEB, OUTSIDE, 50_000, src_port=443, counters=(9, 999_999, 8, 8_000))
    write_blob(tmp_path, A, [flow(OUTSIDE, WEB, 443, "I", "D"), sent])
    scan = scanned(tmp_path)
    assert not scan.evidence.views.collect()["is_reply"].any()
    assert fl.unexpected_destinations(scan).collect()["bytes_sent"].to_list() == [999_999]


def test_what_answers_an_inbound_flow_is_no_egress(tmp_path):
    write_blob(tmp_path, A, [flow(OUTSIDE, WEB, 443, "I"), answers(WEB, OUTSIDE, "O")])
    scan = scanned(tmp_path)
    assert scan.evidence.views.filter(is_egress()).collect().is_empty()
    assert fl.unexpected_destinations(scan).collect().is_empty()


# Whatever is written where: (who logs it, hour, number of flows) for one pair of addresses.
LOGGED = st.sets(st.tuples(st.sampled_from([A, B, HUB]), st.sampled_from([9, 10, 11])), min_size=1)


@examples(10)
@given(LOGGED)
def test_whatever_is_logged_where_each_hour_counts_once(tmp_path_factory, logged):
    """All three NICs see one flow of each hour in which they write a blob; the best that was written counts."""
    folder = tmp_path_factory.mktemp("logs")
    # Who owns what must be known: in another hour each NIC sends something of its own.
    for mac, own in ((A, WEB), (B, APP), (HUB, "10.0.9.4")):
        write_blob(folder, mac, [flow(own, OUTSIDE, 443, minute=-60)], hour=8)
    for mac, hour in logged:
        minute = (hour - 9) * 60 + 5
        tuples = {A: [sends(minute)], B: [receives(minute)], HUB: forwarded(minute)}[mac]
        write_blob(folder, mac, tuples, hour=hour)
    rows = views_of(folder).filter(pl.col("src_ip") == WEB, pl.col("dst_ip") == APP, pl.col("hour") >= NINE)
    best = {hour: min(mac for mac, h in logged if h == hour) for hour in {hour for _, hour in logged}}
    assert A < B < HUB
    taken = Counter((row["mac_address"], row["hour"].hour) for row in rows.filter("counted").iter_rows(named=True))
    assert taken == Counter((mac, hour) for hour, mac in best.items())
    assert rows["hour"].dt.truncate("1h").n_unique() == len(best)
    assert rows["last_seen"].max() - rows["first_seen"].min() < dt.timedelta(hours=3)


def test_late_tuples_of_two_flow_logs_without_the_hours_blob_all_count(tmp_path):
    # The two logs flush at other seconds, so that each one's blob of ten holds other late tuples of nine.
    early, last = flow("10.0.0.4", "203.0.113.1", 443, minute=59.8), flow("10.0.0.4", "203.0.113.2", 443, minute=59.9)
    write_blob(tmp_path, MACS[1], [last], hour=10)
    write_blob(tmp_path, MACS[1], [early, last], hour=10, log=nic_log("nic-a"))
    rows = fl.scan(tmp_path, threads=1, now=LATER).evidence.views.filter("counted").collect()
    assert sorted(rows["dst_ip"].to_list()) == ["203.0.113.1", "203.0.113.2"]
