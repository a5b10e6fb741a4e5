"""NSG flow logs, versions 1 and 2, and their flow tuples inside VNet-shaped records."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given

from flowlens import schema
from flowlens.formats import nsg
from tests import strategies
from tests.formats.decoding import agreed

DATA = Path(__file__).parents[1] / "data"
NSG = "/SUBSCRIPTIONS/00000000-0000-0000-0000-000000000000/RESOURCEGROUPS/RG/PROVIDERS/MICROSOFT.NETWORK/NETWORKSECURITYGROUPS/NSG"


def of(name: str) -> tuple[list[dict[str, Any]], Any]:
    return agreed((DATA / name).read_bytes())


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def test_a_real_nsg_flow_log() -> None:
    rows, ledger = of("real/sumologic_nsg_flow_log_v2.json")
    assert (ledger.tuples, ledger.complete) == (153, True)
    assert Counter(column(rows, "flow_status")) == {"Allowed": 78, "Denied": 75}
    # 111 tuples say B, but 75 of them are D,B.
    assert Counter(column(rows, "flow_state")) == {"Deny": 75, "Begin": 111 - 75, "End": 39, "Continuing": 3}
    assert set(column(rows, "encryption_code")) == {None}
    assert set(column(rows, "protocol")) <= {schema.TCP, schema.UDP}
    assert column(rows, "flow_log_id") == column(rows, "target_resource_id") == column(rows, "acl_id")
    assert rows[0]["flow_log_id"].endswith("/NETWORKSECURITYGROUPS/TEST-NSG")
    assert (rows[0]["time"], rows[0]["mac_address"], rows[0]["acl_rule"]) == (
        dt.datetime(2024, 8, 19, 17, 59, 6, tzinfo=dt.UTC),
        "6045BDEC2532",
        "DefaultRule_AllowInternetOutBound",
    )


def test_version_1_has_no_state_and_no_counters() -> None:
    rows, ledger = of("nsg_version_1.json")
    assert ledger.complete
    assert [(row["flow_state"], row["flow_status"], row["protocol"]) for row in rows] == [
        (None, "Allowed", schema.TCP),
        ("Deny", "Denied", schema.UDP),
    ]
    assert {row[name] for row in rows for name in schema.COUNTERS} == {None}
    assert column(rows, "acl_id") == [NSG] * 2


def test_version_2_has_a_decision_and_a_state() -> None:
    rows, ledger = of("nsg_version_2.json")
    assert column(rows, "flow_state") == ["Begin", "Continuing", "End", "Deny"]
    assert column(rows, "bytes_sent") == [None, 74, 0, None]
    assert [reject.reason for reject in ledger.rejects] == ["decision: expected A or D, found X"]


def test_the_mac_address_may_be_absent() -> None:
    rows, ledger = of("nsg_without_mac_address.json")
    assert (column(rows, "mac_address"), ledger.unknown_codes) == ([None], {})


def test_flow_tuples_are_told_apart_one_by_one() -> None:
    rows, _ = of("nsg_and_vnet_mixed.json")
    assert column(rows, "encryption_code") == [None, "NX", "NX", None]
    assert column(rows, "flow_state") == ["Deny", "End", "End", "Deny"]
    assert column(rows, "protocol") == [17, 6, 6, 17]


def test_nsg_flow_tuples_in_vnet_shaped_records() -> None:
    rows, ledger = of("real/paloalto_nsg_tuples_in_vnet_wrapper.json")
    assert (len(rows), ledger.complete) == (4, True)
    assert column(rows, "mac_address") == ["000D3A1B2C3D"] * 3 + ["000D3A4E5F6A"]
    # The third has 14 fields.
    assert column(rows, "flow_state") == ["Continuing", "Continuing", "Deny", "Continuing"]
    assert sum(row["bytes_sent"] or 0 for row in rows) == 1500 + 3000 + 10000


def test_records_between_the_two_shapes() -> None:
    rows, ledger = of("real/jusso_hybrid_wrapper.json")
    assert (len(rows), ledger.complete) == (6, True)
    assert column(rows, "acl_rule") == [
        *["DefaultRule_AllowInternetOutBound"] * 4,
        "UserRule_DenySSH",
        "DefaultRule_AllowVnetInBound",
    ]
    assert column(rows, "mac_address") == ["00155D123456"] * 5 + ["00155D789ABC"]
    # A Deny whose counters are 1,60,0,0: what was counted stays.
    assert [rows[4][name] for name in schema.COUNTERS] == [1, 60, None, None]


@given(strategies.vnet_tuples)
def test_no_vnet_flow_tuple_passes_for_one_of_an_nsg(text: str) -> None:
    assert not nsg.is_nsg_tuple(text.split(","))


@given(strategies.nsg_tuples)
def test_every_nsg_flow_tuple_is_known_as_one(text: str) -> None:
    assert nsg.is_nsg_tuple(text.split(","))
