"""NTANetAnalytics rows in every shape they are exported in, against the csv module and hand-written expectations."""

from __future__ import annotations

import csv
import datetime as dt
import ipaddress
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from flowlens import schema
from flowlens.errors import SourceError
from flowlens.evidence import Ledger, total
from flowlens.formats.exports import BATCH_ROWS, ROW_LIMIT
from flowlens.formats.traffic_analytics import (
    ROWS,
    DecodedRows,
    convert_rows,
    decode_traffic_analytics,
    looks_like_traffic_analytics,
)
from tests.strategies import examples

REAL = Path(__file__).parents[1] / "data" / "real" / "sentinel_ntanetanalytics_25_rows.csv"
UTC = dt.UTC
SUB = "00000000-0000-0000-0000-000000000001"
TRAFFIC = {
    "packets_sent": "PacketsSrcToDest",
    "bytes_sent": "BytesSrcToDest",
    "packets_received": "PacketsDestToSrc",
    "bytes_received": "BytesDestToSrc",
}
TIMES = ("FlowIntervalStartTime", "FlowIntervalEndTime", "FlowStartTime", "FlowEndTime")
NUMBERS = (
    *("DestPort", "AllowedInFlows", "AllowedOutFlows", "DeniedInFlows", "DeniedOutFlows", "CompletedFlows"),
    *TRAFFIC.values(),
)


def real_rows() -> list[dict[str, str]]:
    with REAL.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def a_row(**changes: object) -> dict[str, object]:
    """An allowed outbound flow between two VMs of one VNet, as real rows write it."""
    row: dict[str, object] = {
        "SubType": "FlowLog",
        "FlowIntervalStartTime": "2026-01-15T09:00:00Z",
        "FlowIntervalEndTime": "2026-01-15T10:00:00Z",
        "FlowStartTime": "2026-01-15T08:59:45.033Z",
        "FlowEndTime": "2026-01-15T09:40:00Z",
        "FlowType": "IntraVNet",
        "SrcIp": "10.0.0.4",
        "DestIp": "10.0.0.5",
        "DestPort": 443,
        "L4Protocol": "TCP",
        "FlowDirection": "Outbound",
        "FlowStatus": "Allowed",
        "MacAddress": "00-0D-3A-00-00-01",
        "TargetResourceId": f"{SUB}/rg/vnet1",
        "TargetResourceType": "VirtualNetwork",
        "FlowLogResourceId": f"{SUB}/networkwatcherrg/watcher/log1",
        "SrcSubscription": SUB,
        "DestSubscription": SUB,
        "SrcVm": "rg/vm1",
        "DestVm": "rg/vm2",
        "SrcNic": "rg/nic1",
        "DestNic": "rg/nic2",
        "SrcSubnet": "rg/vnet1/apps",
        "DestSubnet": "rg/vnet1/data",
        "IsFlowCapturedAtUdrHop": False,
        "FlowEncryption": "Unencrypted",
        "AclGroup": f"/subscriptions/{SUB}/resourcegroups/rg/providers/microsoft.network/networksecuritygroups/nsg1",
        "AclRule": "allowvnetoutbound",
        "AllowedInFlows": 0,
        "AllowedOutFlows": 3,
        "DeniedInFlows": 0,
        "DeniedOutFlows": 0,
        "CompletedFlows": 2,
        "PacketsSrcToDest": 10,
        "BytesSrcToDest": 1000,
        "PacketsDestToSrc": 8,
        "BytesDestToSrc": 800,
        "SrcPublicIps": "",
        "DestPublicIps": "",
        "PrivateEndpointResourceId": "",
    }
    return row | changes


def to_csv(rows: list[dict[str, object]], newline: str = "\r\n", bom: bool = False) -> bytes:
    def cell(value: object) -> str:
        text = str(value).upper() if isinstance(value, bool) else str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text

    names = list(rows[0])
    lines = [",".join(names), *(",".join(cell(row[name]) for name in names) for row in rows)]
    return (("\ufeff" if bom else "") + newline.join(lines) + newline).encode()


def to_answer(rows: list[dict[str, object]], **more: object) -> bytes:
    columns = [{"name": name, "type": "string"} for name in rows[0]]
    table = {"name": "PrimaryResult", "columns": columns, "rows": [list(row.values()) for row in rows]}
    return json.dumps({"tables": [table], **more}).encode()


def to_array(rows: list[dict[str, object]], **options: object) -> bytes:
    return json.dumps(rows, **options).encode()  # type: ignore[arg-type]


def to_lines(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


SHAPES = {"csv": to_csv, "answer": to_answer, "array": to_array, "lines": to_lines}


class Decoded:
    def __init__(self, data: bytes, size: int = 1 << 16) -> None:
        chunks = (data[at : at + size] for at in range(0, len(data), size))
        self.batches = list(decode_traffic_analytics(chunks, where="file"))
        self.conversations = pl.concat([batch.conversations for batch in self.batches])
        self.inventory = pl.concat([batch.inventory for batch in self.batches]).unique().sort(pl.all())
        self.ledger = total(batch.ledger for batch in self.batches)
        assert all(batch.ledger.balanced for batch in self.batches)
        assert self.ledger.bytes == len(data)
        assert self.ledger.rows == self.conversations.height
        offsets = [reject.offset for reject in self.ledger.rejects]
        assert all(0 <= offset <= len(data) for offset in offsets)


def one(**changes: object) -> dict[str, object]:
    """The conversation that a row becomes."""
    (found,) = converted(a_row(**changes)).conversations.to_dicts()
    return found


def converted(*rows: dict[str, object]) -> Decoded:
    return Decoded(to_lines(list(rows)))


def reasons(ledger: Ledger) -> list[str]:
    return [reject.reason for reject in ledger.rejects]


# The real file.


def expected_of(rows: list[dict[str, str]]) -> Counter[tuple[object, ...]]:
    """One conversation per public address, else one per row, read with the csv module alone."""
    found: Counter[tuple[object, ...]] = Counter()
    for row in rows:
        denied = row["FlowStatus"] == "Denied"
        listed = row["SrcPublicIps"] or row["DestPublicIps"]
        for entry in listed.split(" ") if listed else [None]:
            src, dst = row["SrcIp"], row["DestIp"]
            started = int(row["AllowedInFlows"]) + int(row["AllowedOutFlows"])
            refused = int(row["DeniedInFlows"]) + int(row["DeniedOutFlows"])
            ended = int(row["CompletedFlows"])
            traffic: list[int | None] = [int(row[name]) for name in TRAFFIC.values()]
            if entry:
                address, begun, closed, packets_out, packets_in, bytes_out, bytes_in = entry.split("|")
                src, dst = (address, dst) if row["SrcPublicIps"] else (src, address)
                started, refused = (0, int(begun)) if denied else (int(begun), 0)
                ended = int(closed)
                traffic = [int(packets_out), int(bytes_out), int(packets_in), int(bytes_in)]
            if denied:
                traffic = [None] * 4
            found[(src, dst, int(row["DestPort"]), row["FlowStatus"], started, ended, refused, *traffic)] += 1
    return found


def test_real_rows_give_a_conversation_per_address() -> None:
    decoded = Decoded(REAL.read_bytes())
    assert decoded.ledger.records == 25
    assert decoded.ledger.complete
    assert not decoded.ledger.notes
    assert not decoded.ledger.unknown_codes
    columns = ("src_ip", "dst_ip", "dst_port", "flow_status", "flows_started", "flows_ended", "flows_denied", *TRAFFIC)
    assert Counter(decoded.conversations.select(columns).rows()) == expected_of(real_rows())


def test_real_entries_add_up_to_their_rows() -> None:
    conversations = Decoded(REAL.read_bytes()).conversations
    for name, column in TRAFFIC.items():
        assert conversations[name].sum() == sum(int(row[column]) for row in real_rows())
    assert conversations["flows_denied"].sum() == sum(int(row["DeniedInFlows"]) for row in real_rows())
    assert conversations.filter(pl.col("flow_status") == "Denied").select(*TRAFFIC).null_count().row(0) == (9,) * 4


def test_real_rows_have_the_words_of_blobs() -> None:
    conversations = Decoded(REAL.read_bytes()).conversations
    assert conversations.schema == ROWS
    assert set(conversations["direction"]) == {"Inbound", "Outbound"}
    assert set(conversations["encryption_code"]) == {"NX"}
    assert set(conversations["protocol"]) == {6}
    assert set(conversations["mac_address"]) == {"000D3A9882CE", "00224823C954"}
    assert Counter(conversations["acl_rule"]) == {
        "PlatformRule": 10,
        "DefaultRule_AllowInternetOutBound": 4,
        "DefaultRule_DenyAllInBound": 9,
        "DefaultRule_AllowVnetOutBound": 5,
    }
    platform = conversations.filter(pl.col("acl_rule") == "PlatformRule")
    assert set(platform["acl_id"]) == {schema.ZERO_GUID}
    sub = "/subscriptions/ebb79bc0-aa86-44a7-8111-cabbe0c43993/resourcegroups"
    network = "providers/microsoft.network"
    assert set(platform["target_resource_id"]) == {
        f"{sub}/ch1-contososh360clusterrg/{network}/virtualnetworks/ch1-vnetnonmon"
    }
    assert set(platform["flow_log_id"]) == {
        f"{sub}/networkwatcherrg/{network}/networkwatchers/networkwatcher_eastus/flowlogs/ch1-vnetnonmon-flowlog"
    }
    early = conversations.filter(pl.col("first_seen") < pl.col("interval_start"))
    assert early["first_seen"].min() == dt.datetime(2025, 8, 25, 18, 59, 45, 33_000, tzinfo=UTC)
    assert set(conversations["interval_end"]) == {dt.datetime(2025, 8, 25, 20, tzinfo=UTC)}


def test_real_rows_say_who_is_on_both_sides() -> None:
    group = "mc_ch1-contososh360clusterrg_ch1-contosononmonitoredcluster_eastus"
    sub = "ebb79bc0-aa86-44a7-8111-cabbe0c43993"
    pool, cluster = f"{group}/aks-linuxpool-34875040-vmss", f"{sub}/ch1-contososh360clusterrg/ch1-vnetnonmon"
    rest = ("nic", "traffic analytics")
    assert set(Decoded(REAL.read_bytes()).inventory.rows()) == {
        (cluster, "10.222.0.4", "000D3A9882CE", pool, "aks-nonmon-subnet", *rest),
        (cluster, "10.222.0.5", None, pool, "aks-nonmon-subnet", *rest),
        (
            f"{sub}/ch1-fabrikamrg/ch1-retailappvnet",
            *("172.18.0.4", "00224823C954", "ch1-fabrikamrg/ch1-retailvm01", "default", *rest),
        ),
    }


def typed(row: dict[str, str]) -> dict[str, object]:
    """A real row as the interfaces write it: ISO times, numbers, booleans."""
    values: dict[str, object] = dict(row)
    for name in TIMES:
        moment = dt.datetime.strptime(row[name], "%m/%d/%Y %I:%M:%S.%f %p").replace(tzinfo=UTC)
        values[name] = moment.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
    values |= {name: int(row[name]) for name in NUMBERS}
    values["IsFlowCapturedAtUdrHop"] = row["IsFlowCapturedAtUdrHop"] == "TRUE"
    return values


def lettered(row: dict[str, object]) -> dict[str, object]:
    """The same row in the letters of the documentation."""
    letters = {"TCP": "T", "UDP": "U", "Inbound": "I", "Outbound": "O", "Allowed": "A", "Denied": "D"}
    changed = {name: letters[str(row[name])] for name in ("L4Protocol", "FlowDirection", "FlowStatus")}
    return row | changed | {"MacAddress": str(row["MacAddress"]).replace("-", "").lower(), "TargetResourceType": "VNET"}


@pytest.mark.parametrize("change", [lambda row: row, lettered], ids=["words", "letters"])
@pytest.mark.parametrize(
    "write",
    [
        lambda rows: to_csv(rows, "\r\n", bom=True),
        lambda rows: to_csv(rows, "\n"),
        to_answer,
        to_array,
        lambda rows: to_array(rows, indent=4, sort_keys=True),
        lambda rows: b"\xef\xbb\xbf" + to_array(rows, separators=(",", ":")),
        to_lines,
    ],
    ids=["portal csv", "csv", "answer", "array", "indented array", "compact array", "lines"],
)
def test_every_shape_of_the_same_rows_is_equal(write: object, change: object) -> None:
    rows = [change(typed(row)) for row in real_rows()]  # type: ignore[operator]
    original, other = Decoded(REAL.read_bytes()), Decoded(write(rows))  # type: ignore[operator]
    assert_frame_equal(other.conversations, original.conversations)
    assert_frame_equal(other.inventory, original.inventory)
    assert other.ledger.records == 25
    assert other.ledger.complete


def test_rows_in_memory_are_equal_typed_or_as_text() -> None:
    original = Decoded(REAL.read_bytes())
    as_text = convert_rows(pl.DataFrame(real_rows()), where="rows")
    times = [pl.col(name).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_zone="UTC") for name in TIMES]
    as_typed = convert_rows(
        pl.DataFrame([typed(row) for row in real_rows()]).with_columns(times).to_arrow(), where="rows"
    )
    encoded = pa.table(
        {
            name: pa.array(values).dictionary_encode()
            for name, values in pl.DataFrame(real_rows()).to_dict(as_series=False).items()
        }
    )
    for decoded in (as_text, as_typed, convert_rows(encoded, where="rows")):
        assert_frame_equal(decoded.conversations, original.conversations)
        assert_frame_equal(decoded.inventory, original.inventory)
        assert decoded.ledger == Ledger(records=25, tuples=28, rows=28)


# What a row means.


def test_measures_that_are_not_kept_are_null_and_never_zero() -> None:
    row = one()
    for name in ("flow_tuples", "flows_restarted", "tuples_answered", "tuples_unanswered", "tuples_small_reply"):
        assert row[name] is None
    assert row["reply_from_port"] is None
    assert (row["flows_started"], row["flows_ended"], row["flows_denied"]) == (3, 2, 0)
    rows = convert_rows(
        pl.DataFrame([a_row()]).drop("AllowedInFlows", "AllowedOutFlows", "BytesSrcToDest"), where="rows"
    )
    assert rows.conversations.select("flows_started", "bytes_sent", "bytes_received").row(0) == (None, None, 800)


def test_times_of_traffic_follow_the_packets() -> None:
    start = dt.datetime(2026, 1, 15, 8, 59, 45, 33_000, tzinfo=UTC)
    end = dt.datetime(2026, 1, 15, 9, 40, tzinfo=UTC)
    names = ("first_seen", "last_seen", "first_traffic", "last_traffic", "last_answered", "last_unanswered")

    def times(**changes: object) -> tuple[object, ...]:
        row = one(**changes)
        return tuple(row[name] for name in names)

    assert times() == (start, end, start, end, end, None)
    assert times(PacketsDestToSrc=0) == (start, end, start, end, None, end)
    assert times(PacketsDestToSrc=0, PacketsSrcToDest=0) == (start, end, None, None, None, None)
    assert times(PacketsSrcToDest=0) == (start, end, start, end, end, None)
    assert times(FlowStatus="D", DeniedOutFlows=1) == (start, end, None, None, None, None)
    whole = times(FlowStartTime="", FlowEndTime="")
    assert whole[:2] == (dt.datetime(2026, 1, 15, 9, tzinfo=UTC), dt.datetime(2026, 1, 15, 10, tzinfo=UTC))


def test_denied_rows_count_attempts_and_no_traffic() -> None:
    row = one(FlowStatus="Denied", AllowedOutFlows=0, CompletedFlows=0, DeniedInFlows=2, DeniedOutFlows=5)
    assert (row["flow_status"], row["flows_started"], row["flows_ended"], row["flows_denied"]) == ("Denied", 0, 0, 7)
    assert [row[name] for name in schema.COUNTERS] == [None] * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/5/2026 12:00:00.000 AM", (2026, 1, 5)),
        ("1/5/2026, 12:30:00 PM", (2026, 1, 5, 12, 30)),
        ("01/05/2026 01:02:03.5\u202fpm", (2026, 1, 5, 13, 2, 3, 500_000)),
        ("2026-01-05T13:02:03.1234567Z", (2026, 1, 5, 13, 2, 3, 123_456)),
        ("2026-01-05 13:02:03", (2026, 1, 5, 13, 2, 3)),
        ("2026-01-05T13:02:03+02:00", (2026, 1, 5, 11, 2, 3)),
        ("2026-01-05 13:02:03.25 -0130", (2026, 1, 5, 14, 32, 3, 250_000)),
    ],
)
def test_every_way_to_write_a_time(text: str, expected: tuple[int, ...]) -> None:
    assert one(FlowIntervalStartTime=text)["interval_start"] == dt.datetime(*expected, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "25/8/2025 8:11:21 PM",
        "8/25/2025 20:11:21",
        "2026-02-30T00:00:00Z",
        "+99999-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "9999-01-01T00:00:00Z",
        "now",
        "1/5/2026 13:00:00 PM",
    ],
)
def test_what_is_no_time_is_a_reject(text: str) -> None:
    ledger = converted(a_row(FlowIntervalStartTime=text), a_row()).ledger
    assert (ledger.records, ledger.rows, ledger.rejected_records) == (2, 1, 1)
    assert reasons(ledger) == ["cannot read FlowIntervalStartTime"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [("t", 6), ("tcp", 6), ("UDP", 17), ("U", 17), ("ICMP", 1), ("icmpv6", 58), ("50", 50), (6, 6), (6.0, 6)],
)
def test_protocols(written: object, expected: int) -> None:
    assert one(L4Protocol=written)["protocol"] == expected


@pytest.mark.parametrize(
    ("protocol", "port", "expected"),
    [
        ("T", 0, 0),
        ("T", "", None),
        ("ICMP", 0, None),
        ("ICMP", "", None),
        ("58", 0, None),
        ("U", "53", 53),
        ("U", 65535, 65535),
    ],
)
def test_ports(protocol: str, port: object, expected: int | None) -> None:
    assert one(L4Protocol=protocol, DestPort=port)["dst_port"] == expected


@pytest.mark.parametrize("code", [code for code in schema.ENCRYPTION_STATUS if code != schema.UNSPECIFIED])
def test_encryption_words_become_codes(code: str) -> None:
    (wording,) = (wording for c, _, wording, _ in schema.ENCRYPTION_CODES if c == code)
    assert one(FlowEncryption=wording)["encryption_code"] == code
    assert one(FlowEncryption=wording.upper())["encryption_code"] == code
    assert one(FlowEncryption=code)["encryption_code"] == code


def test_unknown_words_are_kept_and_counted() -> None:
    decoded = converted(
        a_row(FlowEncryption="Quantum"),
        a_row(FlowEncryption="Quantum", FlowDirection="Sideways"),
        a_row(FlowStatus="Queried", MacAddress="zz"),
        a_row(FlowEncryption=""),
    )
    assert decoded.ledger.unknown_codes == {
        "encryption Quantum": 2,
        "direction Sideways": 1,
        "status Queried": 1,
        "mac_address zz": 1,
    }
    assert decoded.conversations["encryption_code"].to_list() == ["Quantum", "Quantum", "NX", None]
    assert decoded.conversations["direction"][1] == "unknown:Sideways"
    assert decoded.conversations["flow_status"][2] == "unknown:Queried"
    assert decoded.conversations["mac_address"].to_list() == ["000D3A000001"] * 2 + [None, "000D3A000001"]
    assert decoded.ledger.complete


NETWORK = "/subscriptions/s/resourcegroups/rg/providers/microsoft.network"


@pytest.mark.parametrize(
    ("kind", "written", "expected"),
    [
        ("VirtualNetwork", "s/rg/v", f"{NETWORK}/virtualnetworks/v"),
        ("VNET", "s/rg/v", f"{NETWORK}/virtualnetworks/v"),
        ("Subnet", "s/rg/v/n", f"{NETWORK}/virtualnetworks/v/subnets/n"),
        ("virtualNetworks/subnets", "s/rg/v/n", f"{NETWORK}/virtualnetworks/v/subnets/n"),
        ("NIC", "s/rg/n", f"{NETWORK}/networkinterfaces/n"),
        ("NetworkInterface", "s/rg/n", f"{NETWORK}/networkinterfaces/n"),
        ("VNET", "/subscriptions/S/x", "/subscriptions/S/x"),
        ("Moon", "s/rg/v", "s/rg/v"),
        ("", "s/rg/v", "s/rg/v"),
        ("VNET", "", None),
    ],
)
def test_targets_as_blobs_write_them(kind: str, written: str, expected: str | None) -> None:
    assert one(TargetResourceType=kind, TargetResourceId=written)["target_resource_id"] == expected


@pytest.mark.parametrize(
    ("group", "rule", "acl_id", "acl_rule"),
    [
        ("Unspecified", "platformrule", schema.ZERO_GUID, "PlatformRule"),
        ("unspecified", "unspecified", "unspecified", "unspecified"),
        ("Unspecified", "Unspecified", "unspecified", "unspecified"),
        (
            f"{NETWORK}/networksecuritygroups/n",
            "denyalloutbound",
            f"{NETWORK}/networksecuritygroups/n",
            "DefaultRule_DenyAllOutBound",
        ),
        ("s/rg/n", "allow-kms", f"{NETWORK}/networksecuritygroups/n", "allow-kms"),
        ("0f0f0f0f-0000-0000-0000-00000000000f", "Block_RDP", "0f0f0f0f-0000-0000-0000-00000000000f", "Block_RDP"),
        (
            "s/rg/n",
            "DefaultRule_AllowVnetInBound",
            f"{NETWORK}/networksecuritygroups/n",
            "DefaultRule_AllowVnetInBound",
        ),
        ("", "", None, None),
    ],
)
def test_who_decided(group: str, rule: str, acl_id: str | None, acl_rule: str | None) -> None:
    row = one(AclGroup=group, AclRule=rule)
    assert (row["acl_id"], row["acl_rule"]) == (acl_id, acl_rule)


def test_older_rows_name_the_rule_in_other_columns() -> None:
    row = one(AclGroup="", AclRule="", NsgList="s/rg/n", NsgRule="denyallinbound")
    assert (row["acl_id"], row["acl_rule"]) == (f"{NETWORK}/networksecuritygroups/n", "DefaultRule_DenyAllInBound")


@pytest.mark.parametrize("rule", schema.DEFAULT_RULES)
def test_default_rules_get_their_name_back(rule: str) -> None:
    assert one(AclRule=rule.lower())["acl_rule"] == f"DefaultRule_{rule}"


@pytest.mark.parametrize("name", ["IsFlowCapturedAtUdrHop", "IsFlowCapturedAtUDRHop"])
@pytest.mark.parametrize("write", SHAPES.values(), ids=SHAPES)
def test_hops_are_kept_and_marked(write: object, name: str) -> None:
    row = {key: value for key, value in a_row().items() if key != "IsFlowCapturedAtUdrHop"}
    decoded = Decoded(write([row | {name: True}, row | {name: False}]))  # type: ignore[operator]
    assert decoded.conversations["is_hop"].to_list() == [True, False]
    # At a hop the row's NIC owns neither side, so its MAC is nobody's.
    seen_at_hop = converted(row | {name: True}).inventory
    assert seen_at_hop["mac_address"].null_count() == seen_at_hop.height == 2


def test_other_subtypes_are_noted_and_no_rejects() -> None:
    status = {"SubType": "StatusMessage", "FlowIntervalStartTime": "", "SrcIp": ""}
    rows = [a_row(), *(a_row(**status, Status=word) for word in ("Completed", "Partial", "Failed", "Failed", ""))]
    rows.append(a_row(SubType="Topology"))
    ledger = converted(*rows).ledger
    assert (ledger.records, ledger.tuples, ledger.rows) == (7, 1, 1)
    assert ledger.complete
    assert ledger.notes == (
        "file: Traffic Analytics reports its processing as failed (2 row(s))",
        "file: Traffic Analytics reports its processing as partial (1 row(s))",
        "file: not flow rows (6 row(s))",
    )


# Public addresses.

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None))
COUNTS = st.integers(0, 2**48 - 1)
ENTRIES = st.lists(st.tuples(ADDRESSES, *[COUNTS] * 6), min_size=1, max_size=8)
BROKEN = st.sampled_from(
    [
        "1.2.3.4",
        "1.2.3.4|1|1|1|1|1",
        "1.2.3.4|1|1|1|1|1|1|1",
        "1.2.3|1|1|1|1|1|1",
        "1.2.3.4|1|1|1|1|1|-1",
        "|||||||",
        "1.2.3.4|1|1|1|x|1|1",
        f"1.2.3.4|1|1|1|1|1|{2**48}",
        f"1.2.3.4|{2**64}|1|1|1|1|1",
        "10.0.0.256|1|1|1|1|1|1",
        "1.2.3.4|1||1|1|1|1",
        "\x00|1|1|1|1|1|1",
    ]
)


@pytest.mark.slow
@examples(30)
@given(
    ENTRIES,
    st.lists(BROKEN, max_size=3),
    st.sampled_from(["Src", "Dest"]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_every_entry_is_a_conversation_or_a_reject(
    entries: list, broken: list, side: str, denied: bool, random: object
) -> None:
    texts = ["|".join(map(str, entry)) for entry in entries] + broken
    random.shuffle(texts)  # type: ignore[attr-defined]
    row = a_row(**{side + "Ip": "", side + "PublicIps": "  ".join(texts), "FlowStatus": "D" if denied else "A"})
    decoded = converted(row)
    here, there = ("src_ip", "dst_ip") if side == "Src" else ("dst_ip", "src_ip")
    expected = Counter()
    for address, started, ended, packets_out, packets_in, bytes_out, bytes_in in entries:
        traffic = (None,) * 4 if denied else (packets_out, bytes_out, packets_in, bytes_in)
        flows = (0, 0, started) if denied else (started, ended, 0)
        expected[(str(address), *flows, *traffic)] += 1
    columns = (here, "flows_started", "flows_ended", "flows_denied", *TRAFFIC)
    assert Counter(decoded.conversations.select(columns).rows()) == expected
    assert set(decoded.conversations[there]) == {str(a_row()[("Dest" if side == "Src" else "Src") + "Ip"])}
    ledger = decoded.ledger
    assert (ledger.tuples, ledger.rejected, ledger.rejected_records) == (len(texts), len(broken), 0)
    assert Counter(reject.sample for reject in ledger.rejects) == Counter(t.replace("\x00", "\\x00") for t in broken)


@pytest.mark.parametrize(
    ("column", "value"),
    [*((name, 7) for name in TRAFFIC.values()), ("AllowedOutFlows", 7), ("DeniedInFlows", 7)],
)
def test_sums_that_differ_from_the_row_are_noted(column: str, value: int) -> None:
    public = {"DestIp": "", "DestPublicIps": "203.0.113.7|1|1|6|4|600|400 203.0.113.8|2|1|4|4|400|400"}
    assert converted(a_row(**public)).ledger.notes == ()
    ledger = converted(a_row(**public | {column: value}), a_row(**public)).ledger
    assert ledger.notes == ("file: entry sums differ from row totals (1 row(s))",)
    assert ledger.complete


def test_an_address_in_the_row_takes_the_totals_of_the_row() -> None:
    malicious = one(SrcIp="203.0.113.7", FlowDirection="Inbound", FlowType="MaliciousFlow")
    assert (malicious["src_ip"], malicious["packets_sent"], malicious["flows_started"]) == ("203.0.113.7", 10, 3)
    beside = converted(a_row(DestPublicIps="10.0.0.5|9|9|9|9|9|9 203.0.113.9|1|1|1|1|1|1"))
    assert beside.conversations.select("dst_ip", "packets_sent").rows() == [("10.0.0.5", 10)]
    assert (beside.ledger.tuples, beside.ledger.rejected) == (2, 1)
    assert beside.ledger.rejects[0].sample == "203.0.113.9|1|1|1|1|1|1"


def test_public_addresses_on_both_sides() -> None:
    single, several = "203.0.113.1|1|1|1|1|1|1", "203.0.113.2|1|1|2|2|2|2 203.0.113.3|1|1|3|3|3|3"
    blank = {"SrcIp": "", "DestIp": ""}
    pairs = ["src_ip", "dst_ip", "packets_sent"]
    left = converted(a_row(**blank, SrcPublicIps=several, DestPublicIps=single)).conversations
    assert left.select(pairs).rows() == [("203.0.113.2", "203.0.113.1", 2), ("203.0.113.3", "203.0.113.1", 3)]
    right = converted(a_row(**blank, SrcPublicIps=single, DestPublicIps=several)).conversations
    assert right.select(pairs).rows() == [("203.0.113.1", "203.0.113.2", 2), ("203.0.113.1", "203.0.113.3", 3)]
    neither = converted(a_row(**blank, SrcPublicIps=several, DestPublicIps=several)).ledger
    assert (neither.tuples, neither.rejected_records) == (0, 1)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2001:0DB8:0000::0001", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        (" 40.80.44.0 ", "40.80.44.0"),
    ],
)
def test_addresses_are_canonical(written: str, expected: str) -> None:
    assert one(SrcIp=written)["src_ip"] == expected
    assert one(DestIp=written)["dst_ip"] == expected


# Who an address is.


def side_of(address: str, **changes: object) -> dict[str, object] | None:
    found = converted(a_row(**changes)).inventory.filter(pl.col("address") == address)
    return found.row(0, named=True) if found.height else None


def test_inventory_names_both_sides_and_the_nic_that_logged() -> None:
    assert set(converted(a_row(), a_row()).inventory.rows()) == {
        (f"{SUB}/rg/vnet1", "10.0.0.4", "000D3A000001", "rg/vm1", "apps", "nic", "traffic analytics"),
        (f"{SUB}/rg/vnet1", "10.0.0.5", None, "rg/vm2", "data", "nic", "traffic analytics"),
    }
    inbound = converted(a_row(FlowDirection="I")).inventory
    assert dict(inbound.select("address", "mac_address").rows()) == {"10.0.0.4": None, "10.0.0.5": "000D3A000001"}


@pytest.mark.parametrize(
    ("vm", "nic", "expected"),
    [
        ("rg/aks-linuxpool-34875040-vmss_88", "rg/other", "rg/aks-linuxpool-34875040-vmss"),
        ("rg/web_3", "rg/web", "rg/web"),
        ("rg/web_3", "rg/web3-nic", "rg/web_3"),
        ("rg/web_0a1b2c3d", "rg/x", "rg/web"),
        ("rg/web_20260115", "rg/x", "rg/web_20260115"),
        ("rg/aks-nodepool1-12345678-0", "rg/x", "rg/aks-nodepool1-12345678"),
        ("unknown-vm", "rg/nic9", "rg/nic9"),
        ("rg/unknown-vm", "rg/nic9", "rg/nic9"),
        ("", "RG/Nic9", "rg/nic9"),
        ("", "", None),
    ],
)
def test_workloads(vm: str, nic: str, expected: str | None) -> None:
    found = side_of("10.0.0.4", SrcVm=vm, SrcNic=nic)
    assert found is not None
    assert found["workload"] == expected


@pytest.mark.parametrize(
    ("changes", "kind", "workload"),
    [
        ({"PrivateEndpointResourceId": f"{NETWORK}/privateendpoints/pe1"}, "private endpoint", "rg/pe1"),
        ({"PrivateEndpointResourceId": "s/rg/PE1"}, "private endpoint", "rg/pe1"),
        ({"DestVm": "", "DestNic": "", "DestLoadBalancer": "s/rg/lb1"}, "load balancer", "s/rg/lb1"),
        ({"DestVm": "", "DestNic": "", "DestApplicationGateway": "s/rg/gw1"}, "gateway", "s/rg/gw1"),
        ({"DestVm": "", "DestNic": "", "DestSubnet": "", "DestLocalNetworkGateway": "s/rg/hq"}, "site", "s/rg/hq"),
        ({"DestLoadBalancer": "s/rg/lb1"}, "nic", "rg/vm2"),
    ],
)
def test_kinds(changes: dict[str, object], kind: str, workload: str) -> None:
    found = side_of("10.0.0.5", **changes)
    assert found is not None
    assert (found["kind"], found["workload"], found["vnet"]) == (kind, workload, f"{SUB}/rg/vnet1")
    assert side_of("10.0.0.4", **changes) == side_of("10.0.0.4")


def test_an_address_is_never_placed_by_guess() -> None:
    unplaced = {"DestSubnet": "", "FlowType": "InterVNet"}
    assert side_of("10.0.0.5", **unplaced) is None
    own = side_of("10.0.0.4", SrcSubnet="", TargetResourceType="NIC")
    assert own is not None
    assert (own["vnet"], own["subnet"]) == ("nic:000D3A000001", None)
    bare = dict.fromkeys(("DestVm", "DestNic", "DestSubnet"), "")
    assert side_of("10.0.0.5", **bare) is None
    public = {"DestIp": "", "DestPublicIps": "203.0.113.7|1|1|1|1|1|1"}
    assert converted(a_row(**public)).inventory["address"].to_list() == ["10.0.0.4"]


# Hostile input.


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in NUMBERS for value in (2**64, -1, "x", 1.5)),
        *({name: 2**48} for name in TRAFFIC.values()),
        {"DestPort": 65536},
        {"L4Protocol": "carrier pigeon"},
        {"L4Protocol": 256},
        {"L4Protocol": ""},
        {"FlowStatus": ""},
        {"FlowDirection": None},
        {"SrcIp": "10.0.0.999"},
        {"DestIp": "\x00"},
        {"SrcIp": ""},
        {"FlowEndTime": "2026-01-15T08:00:00Z"},
        {"FlowStartTime": "soon"},
        {"FlowIntervalEndTime": "2026-01-15T08:00:00Z"},
    ],
    ids=str,
)
def test_a_broken_row_is_one_counted_reject(changes: dict[str, object]) -> None:
    good = to_lines([a_row()])
    decoded = Decoded(good + to_lines([a_row(**changes)]) + good)
    ledger = decoded.ledger
    assert (ledger.records, ledger.rows, ledger.rejected, ledger.rejected_records) == (3, 2, 0, 1)
    assert [reject.offset for reject in ledger.rejects] == [len(good)]


def test_the_largest_counter_passes() -> None:
    assert one(BytesSrcToDest=2**48 - 1)["bytes_sent"] == 2**48 - 1


GOOD = to_lines([a_row()]).strip()
HOSTILE = {
    "empty": b"",
    "blank": b" \r\n\n",
    "bom": b"\xef\xbb\xbf",
    "html": b"<!DOCTYPE html>\n<html><body>\n<p>Sign in, please</p>\n</body></html>\n",
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 4,
    "nul": b"\x00" * 5000,
    "object": b"{}",
    "wrapped": b'{"records":[{"time":"2026-01-01T00:00:00Z"}]}',
    "error": b'{"error":{"code":"SemanticError","message":"rows"}}',
    "no tables": b'{"tables":[]}',
    "scalars": b"[1, 2, 3]",
    "nested row": b'[{"SrcIp": {"a": [1, {"b": 2}]}}]',
    "deep": b"[" * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "quotes": b'"' * 10_001,
    "escapes": b'{"' + b'\\"' * 200_000,
    "other table": b"TimeGenerated,Computer\r\n1,2\r\n",
    "unfinished header": b'FlowIntervalStartTime,"FlowInter',
    "other answer": b'{"tables":[{"name":"P","columns":[{"name":"a","type":"string"}],"rows":[["b"],["c"]]}]}',
    "rows without columns": b'{"tables":[{"rows":[["b"],["c"]]}]}',
    "bad columns": b'{"tables":[{"columns":[1,2],"rows":[["b"],["c"]]}]}',
    "surrogate": GOOD.replace(b"rg/vm1", b"\\ud800"),
    "not utf-8": GOOD.replace(b"rg/vm1", b"\xff\xfe"),
    "long number": GOOD.replace(b"443", b"4" * 5000),
    "infinite": GOOD.replace(b"443", b"1e999"),
    "not a number": GOOD.replace(b"443", b"NaN"),
    "list in a cell": GOOD.replace(b"443", b"[443]"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_a_counted_reject(data: bytes) -> None:
    decoded = Decoded(data)
    assert decoded.conversations.is_empty()
    assert decoded.conversations.schema == ROWS
    assert not decoded.ledger.complete
    assert decoded.ledger.rejected_records >= 1
    assert all(reject.sample.isprintable() and reject.reason.isprintable() for reject in decoded.ledger.rejects)


@pytest.mark.parametrize(
    "name", ["html", "png", "nul", "other table", "other answer", "rows without columns", "nested row"]
)
def test_a_file_that_is_no_export_is_one_reject(name: str) -> None:
    ledger = Decoded(HOSTILE[name]).ledger
    assert (ledger.records, ledger.rejected_records, len(ledger.rejects)) == (1, 1, 1)


@pytest.mark.parametrize(
    "name", ["surrogate", "not utf-8", "long number", "infinite", "not a number", "list in a cell"]
)
def test_rows_beside_an_unreadable_one_are_used(name: str) -> None:
    ledger = Decoded(b"\n".join([GOOD, HOSTILE[name], GOOD])).ledger
    assert (ledger.records, ledger.rows, ledger.rejected_records) == (3, 2, 1)
    assert ledger.rejects[0].offset == len(GOOD) + 1


@pytest.mark.parametrize(
    "line",
    [
        b"too,few,cells",
        b",".join([b"x"] * 200),
        b'"never closed',
        b'x,"closed" and more,x',
        b"a\rb",
        to_csv([a_row(SrcVm="@")], "\n").split(b"\n")[1].replace(b"@", b"\xff"),
    ],
    ids=["few", "many", "open quote", "closed quote", "lone carriage return", "not utf-8"],
)
def test_csv_rows_beside_a_broken_one_are_used(line: bytes) -> None:
    header, _, row = to_csv([a_row(SrcVm='two\nlines, "quoted"')]).partition(b"\r\n")
    decoded = Decoded(header + b"\r\n" + row + line + b"\r\n" + row)
    assert (decoded.ledger.records, decoded.ledger.rows, decoded.ledger.rejected_records) == (3, 2, 1)
    assert decoded.ledger.rejects[0].offset == len(header) + 2 + len(row)
    assert decoded.inventory.filter(pl.col("address") == "10.0.0.4")["workload"].to_list() == ['two\nlines, "quoted"']


@pytest.mark.parametrize("shape", SHAPES)
def test_of_a_truncated_file_every_complete_row_is_used(shape: str) -> None:
    ports = (50001, 50002, 50003)
    data = SHAPES[shape]([a_row(DestPort=port, SrcVm='a "quoted",\nvm') for port in ports])  # type: ignore[operator]
    close = {"csv": b"\r\n", "answer": b"]", "array": b"}", "lines": b"}"}[shape]
    starts = [data.index(str(port).encode()) for port in ports]
    # A CSV row is complete before its line feed; that it might go on can't be seen.
    ends = [data.index(close, data.index(b"vnet1/data", start)) + (shape != "csv") for start in starts]
    header = data.index(b"\r\n") if shape == "csv" else 0
    loses_nothing = {
        "csv": {end + more for end in (header, *ends) for more in (0, 1, 2)},
        "lines": {end + more for end in ends for more in (0, 1)},
        "array": {len(data)},
        "answer": set(range(ends[-1] + 1, len(data) + 1)),
    }[shape]
    near = {end + more for end in (header, *ends) for more in (-1, 0, 1, 2)}
    # Of a header, nothing says that it goes on.
    for cut in sorted({*range(1, len(data), 311), *near} & set(range(max(header, 1), len(data) + 1))):
        decoded = Decoded(data[:cut])
        assert decoded.conversations["dst_port"].to_list() == [
            port for port, end in zip(ports, ends, strict=True) if end <= cut
        ]
        assert decoded.ledger.complete == (cut in loses_nothing)
        # The two lines of a cell that is cut behind its line feed are two rejects, since a stray quote looks the same.
        assert decoded.ledger.rejected_records <= (2 if shape == "csv" else 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_where_reading_fails_every_row_before_is_used_and_the_failure_told(shape: str) -> None:
    ports = (50001, 50002, 50003)
    data = SHAPES[shape]([a_row(DestPort=port) for port in ports])  # type: ignore[operator]
    cut = data.index(b"50003")

    def failing(*chunks: bytes) -> Iterator[bytes]:
        yield from chunks
        raise SourceError("a.json", "the server is gone")

    found: list[DecodedRows] = []
    with pytest.raises(SourceError, match="the server is gone"):
        found.extend(decode_traffic_analytics(failing(data[:cut]), where="a.json"))
    assert pl.concat(each.conversations for each in found)["dst_port"].to_list() == [50001, 50002]
    assert total(each.ledger for each in found).balanced
    with pytest.raises(SourceError, match="the server is gone"):
        assert not list(decode_traffic_analytics(failing(), where="a.json"))


def test_a_row_beyond_the_limit_is_rejected_and_the_next_one_used() -> None:
    line = to_lines([a_row(SrcVm="v" * (ROW_LIMIT + 10))])
    for data in (GOOD + b"\n" + line + GOOD, GOOD + b"\n" + b"x" * (2 * ROW_LIMIT) + b"\n" + GOOD):
        ledger = Decoded(data, 1 << 20).ledger
        assert (ledger.records, ledger.rows, ledger.rejected_records) == (3, 2, 1)
    header, row = to_csv([a_row()]).split(b"\r\n")[:2]
    ledger = Decoded(b"\n".join([header, row, b'"' + b"y" * ROW_LIMIT, row]), 1 << 20).ledger
    assert (ledger.records, ledger.rows, ledger.rejected_records) == (3, 2, 1)


def test_times_in_another_zone_are_refused() -> None:
    def export(zone: str) -> Decoded:
        return Decoded(
            to_csv([{f"{name} [{zone}]" if name in TIMES else name: value for name, value in a_row().items()}])
        )

    assert export("UTC").ledger.rows == 1
    ledger = export("Local Time").ledger
    assert (ledger.rows, ledger.rejected_records) == (0, 1)
    assert "Local Time" in ledger.rejects[0].reason


def test_an_answer_that_holds_only_part_is_not_complete() -> None:
    decoded = Decoded(to_answer([a_row()], error={"code": "PartialError", "message": "too many"}))
    assert (decoded.ledger.rows, decoded.ledger.unread, decoded.ledger.rejected_records) == (1, 1, 0)
    assert "PartialError" in decoded.ledger.rejects[0].sample
    whole = Decoded(to_answer([a_row()], statistics={"query": {"time": 1}}))
    assert whole.ledger.complete


def test_needed_columns() -> None:
    for name in ("FlowIntervalStartTime", "FlowIntervalEndTime", "FlowDirection", "FlowStatus", "L4Protocol"):
        decoded = convert_rows(pl.DataFrame([a_row()] * 3).drop(name), where="rows")
        assert (decoded.ledger.records, decoded.ledger.rejected_records) == (3, 3)
        assert name in decoded.ledger.rejects[0].reason
    empty = convert_rows(pl.DataFrame([a_row()]).head(0), where="rows")
    assert empty.ledger == Ledger()
    assert empty.conversations.schema == ROWS
    for frame in (pl.DataFrame(), pl.DataFrame({"SrcIp": [["10.0.0.4"]]})):
        assert convert_rows(frame, where="rows").ledger.rejected_records == 1
    needed = pl.DataFrame([a_row()]).select(
        "FlowIntervalStartTime", "FlowIntervalEndTime", "FlowDirection", "FlowStatus", "L4Protocol", "SrcIp", "DestIp"
    )
    assert convert_rows(needed, where="rows").conversations.select("src_ip", "dst_port").row(0) == ("10.0.0.4", None)
    assert (
        convert_rows(needed.rename(str.lower).with_columns(offset=1, DestPort=[443.0]), where="rows").ledger.rows == 1
    )


def test_many_addresses_in_a_row_are_told_apart_in_parts() -> None:
    count = 15_000
    entries = " ".join(f"2001:db8::{n:x}|1|0|0|0|0|0" for n in range(count))
    decoded = converted(*[a_row(DestIp="", DestPublicIps=entries)] * 3, a_row())
    assert decoded.ledger.rows == 3 * count + 1
    assert decoded.conversations["dst_ip"].n_unique() == count + 1
    assert max(batch.conversations.height for batch in decoded.batches) <= 2 * count


def test_nothing_but_framing_is_complete() -> None:
    header = to_csv([a_row()]).partition(b"\n")[0]
    for data in (
        b"[]",
        b" [ ]\n",
        b"[]\n[]",
        to_answer([a_row()]).partition(b'"rows": [')[0] + b'"rows": []}]}',
        header,
    ):
        ledger = Decoded(data).ledger
        assert ledger.complete
        assert (ledger.records, ledger.framing_bytes) == (0, len(data))
    pages = to_array([a_row()]) + b"\n" + to_array([a_row()])
    assert Decoded(pages).ledger.rows == 2
    spaces = b" " * (2 * ROW_LIMIT)
    for data in (
        spaces + GOOD + spaces + GOOD + spaces,
        header + b"\n" * ROW_LIMIT + to_csv([a_row()] * 2).partition(b"\n")[2],
    ):
        ledger = Decoded(data, 1 << 18).ledger
        assert (ledger.records, ledger.rows, ledger.complete) == (2, 2, True)


# Bytes.


@pytest.mark.slow
@examples(20)
@given(
    st.sampled_from(list(SHAPES)),
    st.lists(st.sampled_from(["", "x", '"', "a,b", "é\n", "{", "]", "\\"]), min_size=1, max_size=4),
    st.integers(1, 200),
    st.integers(0, 5000),
    st.binary(max_size=4),
)
def test_chunks_decide_nothing(shape: str, names: list[str], size: int, at: int, junk: bytes) -> None:
    data = SHAPES[shape]([a_row(SrcVm=name) for name in names])  # type: ignore[operator]
    data = data[:at] + junk + data[at:]
    whole, pieces = Decoded(data, len(data)), Decoded(data, size)
    assert pieces.ledger == whole.ledger
    assert_frame_equal(pieces.conversations, whole.conversations)
    assert_frame_equal(pieces.inventory, whole.inventory)


@examples(40)
@given(st.binary(max_size=300), st.sampled_from([b"", b"{", b"[", GOOD, to_csv([a_row()])]))
def test_any_bytes_are_accounted_for(junk: bytes, head: bytes) -> None:
    Decoded(head + junk, 64)


@pytest.mark.parametrize("shape", SHAPES)
def test_batches(shape: str) -> None:
    needed = (
        "FlowIntervalStartTime",
        "FlowIntervalEndTime",
        "FlowDirection",
        "FlowStatus",
        "L4Protocol",
        "SrcIp",
        "DestIp",
    )
    row = {name: value for name, value in a_row().items() if name in needed}
    data = SHAPES[shape]([row] * (BATCH_ROWS + 1))  # type: ignore[operator]
    decoded = Decoded(data, 1 << 20)
    assert decoded.ledger.rows == decoded.ledger.records == BATCH_ROWS + 1
    assert [batch.conversations.height for batch in decoded.batches if batch.conversations.height] == [BATCH_ROWS, 1]


def test_what_looks_like_an_export() -> None:
    rows = [a_row()]
    assert looks_like_traffic_analytics(REAL.read_bytes()[:4096])
    for write in (*SHAPES.values(), lambda rows: to_csv(rows, bom=True), lambda rows: to_array(rows, indent=4)):
        assert looks_like_traffic_analytics(write(rows)[:4096])  # type: ignore[operator]
    blob = {"time": "2026-01-01T00:00:00Z", "macAddress": "000D3A", "flowLogResourceID": "/x", "targetResourceID": "/y"}
    for other in (
        b"",
        b"{}",
        b"<html>FlowDirection,FlowStatus,L4Protocol",
        json.dumps({"records": [blob]}).encode(),
        b"\x89PNG\r\n",
    ):
        assert not looks_like_traffic_analytics(other)
    assert looks_like_traffic_analytics(b"FlowDirection_s,FlowStatus_s,L4Protocol_s,SrcIP_s\r\n")
    assert not looks_like_traffic_analytics(b"FlowDirection_x,FlowStatus_x,L4Protocol_x,SrcIP_x\r\n")


def test_canonical_text_is_that_of_ipaddress() -> None:
    text = "2001:DB8::0:7"
    assert one(SrcIp=text)["src_ip"] == str(ipaddress.ip_address(text))
