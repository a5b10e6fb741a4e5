"""NSG flow logs of version 1 tell a decision for each flow, and neither states nor counters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import flowlens as fl
from tests.make_logs import DAY, LATER, MACS, NINE, flow, write_blob

GROUP = "/SUBSCRIPTIONS/S/RESOURCEGROUPS/RG/PROVIDERS/MICROSOFT.NETWORK/NETWORKSECURITYGROUPS/NSG"
KMS, OTHER = "20.118.99.224", "203.0.113.9"


def nsg_log(
    folder: Path,
    *versions: tuple[int, list[str]],
    hour: int = 9,
    group: str = GROUP,
    rule: str = "DefaultRule_AllowInternetOutBound",
) -> Path:
    """A blob with one record of each version; a tuple is given without the seconds before it."""
    path = folder.joinpath(
        "insights-logs-networksecuritygroupflowevent",
        f"resourceId={group}",
        f"{DAY:y=%Y/m=%m/d=%d}/h={hour:02}/m=00",
        f"macAddress={MACS[1]}",
        "PT1H.json",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = int(NINE.timestamp()) + (hour - 9) * 3600
    records = [
        {
            "time": f"{DAY:%Y-%m-%d}T{hour:02}:01:00.0000000Z",
            "macAddress": MACS[1],
            "category": "NetworkSecurityGroupFlowEvent",
            "resourceId": group,
            "operationName": "NetworkSecurityGroupFlowEvents",
            "properties": {
                "Version": version,
                "flows": [
                    {
                        "rule": rule,
                        "flows": [
                            {
                                "mac": MACS[1],
                                "flowTuples": [f"{seconds + n},10.0.0.4,{text}" for n, text in enumerate(tuples)],
                            }
                        ],
                    }
                ],
            },
        }
        for version, tuples in versions
    ]
    path.write_text(json.dumps({"records": records}), encoding="utf-8")
    return folder


ALLOWED = [f"{KMS},50000,1688,T,O,A", f"{OTHER},50001,8443,T,O,A", f"{OTHER},50002,8443,T,O,A"]
DENIED = [f"{OTHER},50003,8444,T,O,D"]


@pytest.fixture
def scan(tmp_path: Path) -> fl.Scan:
    return fl.scan(nsg_log(tmp_path, (1, ALLOWED + DENIED)), now=LATER, threads=1)


def test_each_allowed_tuple_is_a_flow_of_its_rule(scan: fl.Scan) -> None:
    (row,) = fl.rule_usage(scan).collect().to_dicts()
    assert (row["flows_allowed"], row["flows_denied"], row["bytes"]) == (3, 1, None)


def test_each_allowed_tuple_is_a_flow_that_depends_on_its_rule(scan: fl.Scan) -> None:
    table = fl.rule_dependencies(scan, "AllowInternetOutBound").collect()
    assert sorted((row["peer"], row["port"], row["flows"]) for row in table.to_dicts()) == [
        (KMS, 1688, 1),
        (OTHER, 8443, 2),
        (OTHER, 8444, 1),
    ]


def test_each_allowed_tuple_is_a_flow_to_its_destination(scan: fl.Scan) -> None:
    table = fl.unexpected_destinations(scan).collect()
    assert sorted((row["dst_ip"], row["flows"]) for row in table.to_dicts()) == [(KMS, 1), (OTHER, 2)]


def test_what_became_of_an_allowed_flow_is_not_told(scan: fl.Scan) -> None:
    table = fl.denied_egress(scan, profiles=["windows-kms"]).collect().to_dicts()
    (row,) = (row for row in table if row["dst_ip"] == KMS)
    assert (row["status"], row["attempts"], row["last_failure"]) == ("Cannot tell", 1, None)


def test_flows_of_both_versions_add_up(tmp_path: Path) -> None:
    # The NSG's flow log was upgraded between two hours: two tuples without state, then one flow begun and ended.
    states = [f"{OTHER},50009,8443,T,O,A,B,,,,", f"{OTHER},50009,8443,T,O,A,E,5,500,4,400"]
    nsg_log(tmp_path, (1, ALLOWED[1:]))
    folder = nsg_log(tmp_path, (2, [f"{KMS},50010,1688,T,O,A,B,,,,", *states]), hour=10)
    scan = fl.scan(folder, now=LATER, threads=1)
    (row,) = fl.rule_usage(scan).collect().to_dicts()
    assert (row["flows_allowed"], row["bytes"]) == (4, 900)
    kms = [row for row in fl.denied_egress(scan, profiles=["windows-kms"]).collect().to_dicts() if row["dst_ip"] == KMS]
    assert [row["status"] for row in kms] == ["Pending"]


@pytest.mark.parametrize("names", ["AB", "BA"])
@pytest.mark.parametrize("state", ["", ",B,,,,"])
def test_what_one_of_two_nsgs_denies_is_denied(tmp_path: Path, names: str, state: str) -> None:
    """The NSG of the NIC lets a flow through, that of the subnet denies it; each writes its own rule into its own log."""
    version = 2 if state else 1
    of_nic, of_subnet = (GROUP + name for name in names)
    allowed = [f"{KMS},50000,1688,T,O,A{state}", f"{OTHER},50001,8443,T,O,A{state}"]
    denied = [f"{KMS},50000,1688,T,O,D{state}"]
    nsg_log(tmp_path, (version, allowed), group=of_nic, rule="UserRule_AllowOut")
    nsg_log(tmp_path, (version, denied), group=of_subnet, rule="UserRule_DenyOut")
    scan = fl.scan(tmp_path, now=LATER, threads=1)
    tried = fl.denied_egress(scan, profiles=["windows-kms"]).collect().filter(dst_ip=KMS)
    assert tried.select("status", "acl_rule", "attempts").rows() == [("Denied", "DenyOut", 1)]
    # What only one of them holds is not lost either.
    assert fl.unexpected_destinations(scan).collect()["dst_ip"].to_list() == [OTHER]
    rules = fl.rule_usage(scan).collect().select("acl_rule", "flows_allowed", "flows_denied")
    assert sorted(rules.rows()) == [("AllowOut", 2, 0), ("DenyOut", 0, 1)]


def test_nsgs_decide_nothing_twice_where_the_vnet_logs_too(tmp_path: Path) -> None:
    nsg_log(tmp_path, (2, [f"{OTHER},50001,8443,T,O,A,B,,,,"]), group=f"{GROUP}A", rule="UserRule_A")
    nsg_log(tmp_path, (2, [f"{OTHER},50001,8443,T,O,A,B,,,,"]), group=f"{GROUP}B", rule="UserRule_B")
    write_blob(tmp_path, MACS[1], [flow("10.0.0.4", OTHER, 8443, state="B")], rule="UserRule_B")
    rules = fl.rule_usage(fl.scan(tmp_path, now=LATER, threads=1)).collect()
    assert rules.select("acl_rule", "flows_allowed").rows() == [("B", 1)]
