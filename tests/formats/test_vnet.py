"""VNet flow logs: real files give the numbers their sources state, and each trap file what its name says."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens import schema
from flowlens.formats import fields
from flowlens.formats.fields import Malformed
from tests.formats.decoding import agreed

DATA = Path(__file__).parents[1] / "data"
TRAP_TIME = 1768467600000


def of(name: str) -> tuple[list[dict[str, Any]], Any]:
    return agreed((DATA / name).read_bytes())


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def total(rows: list[dict[str, Any]], name: str) -> int:
    return sum(row[name] or 0 for row in rows)


def reasons(ledger: Any) -> list[str]:
    return [reject.reason for reject in ledger.rejects]


# Real files; the numbers are those that their sources and counting by hand give, see data/real/NOTICE.md.


def test_a_real_vnet_flow_log() -> None:
    rows, ledger = of("real/sumologic_vnet_flow_log.json")
    assert (ledger.records, ledger.tuples, ledger.complete, ledger.strict_records) == (8, 166, True, 0)
    assert Counter(column(rows, "flow_state")) == {"Deny": 134, "Begin": 10, "End": 18, "Continuing": 4}
    assert Counter(column(rows, "flow_status")) == {"Denied": 134, "Allowed": 32}
    assert (total(rows, "bytes_sent"), total(rows, "bytes_received")) == (70_556, 82_064)
    assert all(row["bytes_sent"] is None for row in rows if row["flow_state"] in ("Begin", "Deny"))
    assert rows[0] == {
        "time": dt.datetime(2024, 12, 12, 3, 59, 22, 447_000, tzinfo=dt.UTC),
        "src_ip": "10.1.0.4",
        "dst_ip": "40.119.6.228",
        "src_port": 123,
        "dst_port": 123,
        "protocol": 17,
        "direction": "Outbound",
        "flow_state": "Continuing",
        "flow_status": "Allowed",
        "encryption_code": "NX",
        "packets_sent": 4,
        "bytes_sent": 360,
        "packets_received": 4,
        "bytes_received": 528,
        "restarted": False,
        "acl_rule": "DefaultRule_AllowInternetOutBound",
        "acl_id": "/subscriptions/c088dc46-d692-42ad-a4b6-9a542d28ad2a/resourceGroups/azure-labs-001/providers/"
        "Microsoft.Network/networkSecurityGroups/labsvm1-nsg",
        "mac_address": "000D3A359573",
        "target_resource_id": "/subscriptions/c088dc46-d692-42ad-a4b6-9a542d28ad2a/resourceGroups/azure-labs-001/providers/"
        "Microsoft.Network/virtualNetworks/labsvm1-vnet",
        "flow_log_id": "/SUBSCRIPTIONS/C088DC46-D692-42AD-A4B6-9A542D28AD2A/RESOURCEGROUPS/NETWORKWATCHERRG/PROVIDERS/"
        "MICROSOFT.NETWORK/NETWORKWATCHERS/NETWORKWATCHER_WESTUS/FLOWLOGS/LABSVM1-VNET-AZURE-LABS-001-FLOWLOG",
        "record_time": dt.datetime(2024, 12, 12, 4, 0, 24, 738_518, tzinfo=dt.UTC),
    }


def test_the_documentation_s_samples() -> None:
    rows, ledger = of("real/msdocs_vnet_overview.json")
    assert (ledger.tuples, ledger.complete) == (19, True)
    assert {row["acl_rule"] for row in rows if row["flow_status"] == "Denied"} == {
        "BlockHighRiskTCPPortsFromInternet",
        "Internet",
    }
    rows, ledger = of("real/msdocs_vnet_bare_record.json")
    assert (ledger.records, ledger.complete, column(rows, "flow_state")) == (1, True, ["Deny"] * 10)


def test_the_documentation_s_bandwidth_example() -> None:
    lines = (DATA / "real/msdocs_bandwidth_tuples.txt").read_text().split()
    record = {"flowRecords": {"flows": [{"flowGroups": [{"flowTuples": lines}]}]}}
    rows, ledger = agreed(json.dumps(record).encode())
    assert ledger.complete
    assert total(rows, "packets_sent") + total(rows, "packets_received") == 9_125
    assert total(rows, "bytes_sent") + total(rows, "bytes_received") == 5_256_000
    assert rows[0]["packets_sent"] is None
    assert {row["time"].year for row in rows} == {2024}


# Trap files: name, rows, flow tuples rejected, records (or parts of one) rejected.
TRAPS = {
    "bidi_and_control_in_names.json": (1, 0, 0),
    "byte_order_mark.json": (1, 0, 0),
    "counter_too_large.json": (1, 3, 0),
    "counters_in_begin.json": (1, 0, 0),
    "cut_between_records.json": (3, 0, 1),
    "cut_in_mid_record.json": (2, 0, 1),
    "duplicate_keys.json": (1, 0, 0),
    "empty.json": (0, 0, 1),
    "empty_counters.json": (2, 0, 0),
    "empty_object.json": (0, 0, 1),
    "escaped_keys_and_values.json": (1, 0, 0),
    "fourteen_fields.json": (1, 1, 0),
    "huge_number_in_record.json": (1, 0, 0),
    "icmp_without_ports.json": (3, 0, 0),
    "ipv6.json": (3, 2, 0),
    "keys_around_records.json": (1, 0, 0),
    "list_closed_too_early.json": (3, 0, 1),
    "list_of_records.json": (3, 0, 0),
    "lone_surrogate_in_name.json": (1, 0, 0),
    "mac_address_forms.json": (8, 0, 0),
    "malformed_containers.json": (3, 3, 8),
    "missing_bracket.json": (2, 0, 1),
    "missing_quote.json": (2, 0, 1),
    "names_that_are_not_text.json": (1, 0, 0),
    "nan_in_record.json": (2, 0, 1),
    "nested_too_deep.json": (2, 0, 1),
    "nine_fields.json": (2, 2, 0),
    "no_records.json": (0, 0, 0),
    "not_utf8_in_name.json": (1, 0, 0),
    "nsg_and_vnet_mixed.json": (4, 0, 0),
    "nsg_version_1.json": (2, 0, 0),
    "nsg_version_2.json": (4, 1, 0),
    "nsg_without_mac_address.json": (1, 0, 0),
    "numbers_of_other_forms.json": (1, 10, 0),
    "one_record_per_line.json": (3, 0, 0),
    "only_blanks.json": (0, 0, 1),
    "other_category.json": (1, 0, 2),
    "port_out_of_range.json": (1, 2, 0),
    "protocol_out_of_range.json": (1, 2, 0),
    "record_time_forms.json": (7, 0, 0),
    "resource_id_instead_of_flow_log_id.json": (1, 0, 0),
    "restarted.json": (13, 0, 0),
    "seconds_timestamp.json": (2, 0, 0),
    "start_is_missing.json": (2, 0, 2),
    "stray_quote_in_two_records.json": (1, 0, 2),
    "text_between_records.json": (3, 0, 1),
    "timestamp_out_of_range.json": (2, 4, 0),
    "twelve_fields.json": (1, 1, 0),
    "unknown_codes.json": (7, 1, 0),
    "unspecified_acl.json": (1, 0, 0),
    "web_page.html": (0, 0, 1),
    "wrong_separators.json": (2, 0, 0),
    "zero_counters.json": (4, 0, 0),
}


@pytest.mark.parametrize("name", TRAPS)
def test_what_is_used_and_what_is_rejected(name: str) -> None:
    rows, ledger = of(name)
    assert (len(rows), ledger.rejected, ledger.rejected_records) == TRAPS[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("twelve_fields.json", ["expected 13 fields, found 12"]),
        ("fourteen_fields.json", ["expected 13 fields, found 14"]),
        ("nine_fields.json", ["expected 13 fields, found 9"] * 2),
        ("empty.json", ["empty file"]),
        ("empty_object.json", ["expected flowRecords or properties.flows, found neither (no category)"]),
        ("cut_in_mid_record.json", ["cut off after 658 bytes"]),
        ("cut_between_records.json", ["cut off after 2105 bytes: the list of records has no end"]),
        ("nested_too_deep.json", ["nested deeper than 16"]),
        ("nan_in_record.json", ["not valid JSON: NaN is not JSON"]),
        ("missing_bracket.json", ["brackets do not balance"]),
        ("missing_quote.json", ["brackets or quotes do not balance"]),
        ("web_page.html", ["expected a record"]),
    ],
)
def test_reasons_say_what_was_expected_and_found(name: str, expected: list[str]) -> None:
    assert reasons(of(name)[1]) == expected


def test_rejects_name_the_blob_and_the_byte_where_the_record_starts() -> None:
    data = (DATA / "nan_in_record.json").read_bytes()
    (reject,) = agreed(data)[1].rejects
    second = data.index(b'{"time"', data.index(b'{"time"') + 1)
    assert (reject.blob, reject.offset) == ("PT1H.json", second)
    assert reject.sample.startswith('{"time":"2026-01-15')
    (reject,) = of("twelve_fields.json")[1].rejects
    assert reject.sample == "1768467600,10.0.0.4,192.0.2.10,50000,443,T,O,B,1,2,3,4"


def test_other_categories_are_named() -> None:
    assert "category AuditEvent" in reasons(of("other_category.json")[1])[0]


def test_every_malformed_container_is_one_reject_and_the_rest_is_used() -> None:
    rows, ledger = of("malformed_containers.json")
    assert column(rows, "time") == [rows[0]["time"]] * 3
    assert reasons(ledger) == [
        "flowRecords: expected an object, found a list",
        "flowRecords: expected an object, found nothing",
        "flowRecords.flows: expected a list, found an object",
        "flows: expected an object, found a number",
        "flows.flowGroups: expected a list, found nothing",
        "flowGroups: expected an object, found a number",
        "flowGroups.flowTuples: expected a list, found nothing",
        "flowGroups.flowTuples: expected a list, found text",
        "flow tuple: expected text, found nothing",
        "flow tuple: expected text, found a number",
        "flow tuple: expected text, found a list",
    ]


def test_seconds_and_milliseconds_are_told_apart() -> None:
    rows, _ = of("seconds_timestamp.json")
    assert column(rows, "time") == [dt.datetime(2026, 1, 15, 9, tzinfo=dt.UTC)] * 2


def test_time_stamps_reach_from_2015_to_2100() -> None:
    rows, _ = of("timestamp_out_of_range.json")
    assert column(rows, "time") == [
        dt.datetime(2015, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2100, 12, 31, 23, 59, 59, 999_000, tzinfo=dt.UTC),
    ]


def test_no_counter_is_null_and_a_counted_zero_is_zero() -> None:
    rows, _ = of("zero_counters.json")
    assert [(row["flow_state"], [row[name] for name in schema.COUNTERS]) for row in rows] == [
        ("Begin", [None] * 4),
        ("Continuing", [0] * 4),
        ("End", [0] * 4),
        ("Deny", [None] * 4),
    ]
    assert [[row[name] for name in schema.COUNTERS] for row in of("empty_counters.json")[0]] == [[None] * 4] * 2
    assert [row[name] for row in of("counters_in_begin.json")[0] for name in schema.COUNTERS] == [5, 1500, None, None]
    assert column(of("nine_fields.json")[0], "bytes_sent") == [None, None]
    assert column(of("counter_too_large.json")[0], "bytes_sent") == [schema.COUNTER_LIMIT - 1]


def test_addresses_are_canonical() -> None:
    rows, _ = of("ipv6.json")
    assert column(rows, "src_ip") == ["2001:db8::4", "10.0.0.4", "fe80::1"]
    assert column(rows, "dst_ip") == ["2001:db8::a", "192.0.2.10", "192.0.2.10"]


def test_missing_ports_are_null_and_port_zero_is_zero() -> None:
    rows, _ = of("icmp_without_ports.json")
    assert column(rows, "dst_port") == [None, None, 0]
    assert column(rows, "protocol") == [1, 58, 1]


def test_unknown_codes_are_kept_and_counted() -> None:
    rows, ledger = of("unknown_codes.json")
    assert column(rows, "encryption_code")[:3] == ["NX_FOO", "NX_FOO", "x"]
    assert column(rows, "direction")[3] == "unknown:Z"
    assert column(rows, "flow_state")[4:] == ["unknown:Q", "unknown:Q", "unknown:b"]
    assert set(column(rows, "flow_status")) == {"Allowed"}
    assert ledger.unknown_codes == {
        "encryption NX_FOO": 2,
        "encryption x": 1,
        "direction Z": 1,
        "state Q": 2,
        "state b": 1,
    }


def test_denied_because_of_encryption() -> None:
    (row,) = of("unspecified_acl.json")[0]
    assert (row["acl_id"], row["acl_rule"], row["flow_status"], row["encryption_code"]) == (
        schema.UNSPECIFIED,
        schema.UNSPECIFIED,
        "Denied",
        "NX_NOT_ACCEPTED",
    )


def test_mac_addresses() -> None:
    rows, ledger = of("mac_address_forms.json")
    assert column(rows, "mac_address") == ["000D3A1B2C3D"] * 3 + [None] * 5
    assert ledger.unknown_codes == {"mac_address nothing": 1, "mac_address not a mac": 1, "mac_address a number": 1}


def test_record_times_are_cut_to_microseconds() -> None:
    rows, ledger = of("record_time_forms.json")
    nine = dt.datetime(2026, 1, 15, 9, 0, 52, tzinfo=dt.UTC)
    assert column(rows, "record_time") == [
        nine.replace(microsecond=562_508),
        nine,
        nine.replace(microsecond=123_456),
        *[None] * 4,
    ]
    assert ledger.unknown_codes == {"record_time yesterday": 1, "record_time a number": 1}


def test_names_of_flow_log_and_target() -> None:
    (row,) = of("resource_id_instead_of_flow_log_id.json")[0]
    assert row["target_resource_id"] is None
    assert row["flow_log_id"].endswith("/FLOWLOGS/LOG")
    assert column(of("duplicate_keys.json")[0], "mac_address") == ["112233445566"]


def test_names_hold_any_text_and_samples_hold_none_of_it() -> None:
    (row,) = of("bidi_and_control_in_names.json")[0]
    assert (row["acl_rule"], row["acl_id"]) == ("UserRule_\u202egnp.exe", "a\0b\x1b[31m\x07")
    for name in ("lone_surrogate_in_name.json", "not_utf8_in_name.json"):
        assert column(of(name)[0], "acl_rule") == ["UserRule_\ufffd!"]
    (row,) = of("names_that_are_not_text.json")[0]
    assert (row["acl_rule"], row["acl_id"], row["target_resource_id"]) == (None, None, None)
    hostile = json.dumps({"flowRecords": {"flows": [{"flowGroups": [{"flowTuples": ["\0\x1b[31m\u202e,\ud800"]}]}]}})
    (reject,) = agreed(hostile.encode())[1].rejects
    assert reject.sample.isprintable()
    assert reject.reason.isprintable()


def test_a_restart_is_an_end_whose_begin_stands_later_in_the_same_array() -> None:
    rows, _ = of("restarted.json")
    # The Begin may be written with another spelling of the address, but not before, later in time, the other way
    # round, or in another record.
    assert [row["src_port"] for row in rows if row["restarted"]] == [50000, 50003]
    assert rows[0]["restarted"]
    assert not rows[2]["restarted"]


# Single fields against an oracle.


@given(st.ip_addresses())
def test_any_address_is_read_as_ipaddress_reads_it(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    assert fields.address(address.exploded.upper(), "src_ip") == str(mapped or address)


@given(st.text(alphabet="0123456789abcdef.:%/ ٣", max_size=20))
def test_what_ipaddress_refuses_is_malformed(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        with pytest.raises(Malformed):
            fields.address(text, "src_ip")
    else:
        ipaddress.ip_address(fields.address(text, "src_ip"))


@given(st.integers(-10, 2**70), st.integers(1, 2**64))
def test_whole_numbers(number: int, limit: int) -> None:
    if 0 <= number < limit and number < 10**19:
        assert fields.whole(f"00{number}", "x", limit) == number
    else:
        with pytest.raises(Malformed):
            fields.whole(str(number), "x", limit)


@given(st.datetimes(), st.integers(0, 9), st.integers(-720, 840))
def test_record_times_are_read_as_datetime_reads_them(moment: dt.datetime, digit: int, minutes: int) -> None:
    aware = moment.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    text = aware.isoformat(timespec="microseconds")
    text = f"{text[:26]}{digit}{text[26:]}"
    since = aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert fields.record_time(text, fields.Notes()) == since // dt.timedelta(microseconds=1)


def test_no_more_unknown_codes_are_listed_than_a_reader_can_take() -> None:
    notes = fields.Notes({f"state {number}": 1 for number in range(1000)} | {"encryption NX_FOO": 5})
    listed = fields.bounded(notes)
    assert len(listed) <= 110
    assert listed["encryption NX_FOO"] == 5
    assert sum(listed.values()) == 1005
